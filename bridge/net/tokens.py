"""The operating system's randomness as the core's source of tokens."""

from __future__ import annotations

import secrets

POOL = 512
"""Octets drawn from the system at once: asking for each token's few costs more than making the token."""


class SystemTokens:
    """Give unguessable tokens (R20)."""

    def __init__(self) -> None:
        self._pool = ""

    def token(self, bits: int) -> str:
        digits = 2 * ((bits + 7) // 8)
        if len(self._pool) < digits:
            self._pool = secrets.token_hex(max(POOL, digits))
        token, self._pool = self._pool[:digits], self._pool[digits:]
        return token
