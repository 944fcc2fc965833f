"""A network namespace of one's own in which datagrams get lost; it is gone with the last thread and process in it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading

from conformance.stage import StageError

_CLONE_NEWNET = 0x40000000  # unshare(2)
# At the input hook: a packet dropped on its way out would be an error to its sender.
_RULES = """\
table inet loss {{
    chain input {{
        type filter hook input priority 0;
        meta l4proto udp numgen random mod 100 < {per_cent} drop
    }}
}}
"""


class LossyNetwork:
    """Loopback on which ``per_cent`` of all UDP datagrams are lost at random."""

    def __init__(self, per_cent: int) -> None:
        self._per_cent = per_cent
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)

    @staticmethod
    def allowed() -> bool:
        """Tell whether this user may make one."""
        return os.geteuid() == 0

    def enter(self) -> None:
        """Bring the calling thread, and what it starts from now on, into the namespace. Raises StageError."""
        with self._lock:
            if self._handle is None:
                self._create()
            elif self._libc.setns(self._handle, _CLONE_NEWNET):
                raise StageError(f"the lossy network cannot be entered: {os.strerror(ctypes.get_errno())}")

    def _create(self) -> None:
        if self._libc.unshare(_CLONE_NEWNET):
            raise StageError(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
        rules = _RULES.format(per_cent=self._per_cent)
        for command, text in ((["ip", "link", "set", "lo", "up"], ""), (["nft", "-f", "-"], rules)):
            try:
                done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
            except OSError as error:
                raise StageError(f"{command[0]} cannot be run: {error.strerror}") from None
            if done.returncode:
                raise StageError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        self._handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
