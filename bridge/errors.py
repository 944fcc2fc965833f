"""The three kinds of fault that are not bugs: the operator's, the peer's and the relay's."""

from __future__ import annotations


class ConfigError(Exception):
    """Report one mistake of the operator's, with its place and its remedy.

    Printed as ``FILE:LINE: key: what is wrong; what to write instead`` (shared contract).
    ``line`` is 1-based; 0 means the file as a whole.
    """

    def __init__(self, file: str, line: int, key: str, problem: str, remedy: str) -> None:
        super().__init__(file, line, key, problem, remedy)
        self.file = file
        self.line = line
        self.key = key
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.problem}; {self.remedy}"


class PeerError(Exception):
    """Report a fault of the peer's, which becomes the SIP response ``status reason``.

    ``headers`` are (name, value) pairs that the response must carry (Allow with 405, Unsupported with 420 …).
    """

    def __init__(self, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, reason, headers)
        self.status = status
        self.reason = reason
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status} {self.reason}"


class RelayError(Exception):
    """Report that the media relay could not do what was asked, with a reason in plain words."""
