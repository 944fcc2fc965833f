"""What a SIP message may show of itself to people: everything but credentials and keys (T17)."""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?im)^((?:proxy-)?authorization)([ \t]*):[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*")
_KEYS = re.compile(r"(?i)\b(inline:)[^\s|;]*")  # RFC 4568 §6.1: an a=crypto line may hold several


def redacted(data: bytes) -> str:
    """Return a SIP message as text, without credentials (folded lines too) and SRTP master keys."""
    text = data.decode("utf-8", "backslashreplace")
    text = _CREDENTIALS.sub(r"\1\2: [redacted]", text)
    return _KEYS.sub(r"\1[redacted]", text)
