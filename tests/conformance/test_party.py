"""The carrier and the platform as processes, without a bridge between them: what they measure must be their own."""

import json

import pytest

from conformance.listening import heard, stream_report
from conformance.party import load_calls
from conformance.stage import Stage

pytestmark = pytest.mark.sockets


def test_a_carrier_and_a_platform_hear_each_other_directly():
    with Stage() as stage:
        address = [stage.host(21), 5060]
        platform = stage.party(
            "platform",
            {"role": "platform", "behaviour": "retell", "user": "agent", "address": address, "seconds": 4},
        )
        calls = [{"number": "agent", "caller": "+12025550001", "quiet": True}, {"number": "nobody", "caller": "+1202"}]
        carrier = stage.party(
            "carrier",
            {"role": "carrier", "address": [stage.host(11), 5060], "bridge": address, "seconds": 4, "calls": calls},
        )
        carrier.wait_for('"event": "saved"', 20.0)
        platform.tell("stop")
        found = json.loads(platform.wait_for('{"event": "saved".*}', 10.0).group(0))
        assert found["calls"] == 1
        told, refused = load_calls(stage.directory, "carrier")
        (answered,) = load_calls(stage.directory, "platform")
        assert refused.facts["status"] == 404  # numbers are compared as text
        assert heard(answered.spurts, told.arrivals).correlation > 0.99
        # Nobody fills here: the platform's silence is a gap, which is what a bridge must not let through.
        facts = told.facts
        assert stream_report(told.arrivals, facts["answered_at"], facts["ended_at"]).longest_gap_ms > 500
    assert not stage.directory.exists()
    assert not platform.alive
    assert not carrier.alive
