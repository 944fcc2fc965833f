"""``python -m conformance.sipp NAME [KEY=VALUE …]``: print a scenario as SIPp gets it, for a run by hand."""

from __future__ import annotations

import sys

from conformance.sipp.script import written_out

name, *pairs = sys.argv[1:] or ["caller-hangs-up"]
keys = {"via": "UDP", "tp": "udp", "contact_port": "[local_port]", "caller": "+12025550147"}
print(written_out(name, keys | dict(pair.split("=", 1) for pair in pairs)), end="")
