"""The operating system's randomness as the core's source of tokens."""

from __future__ import annotations

import secrets


class SystemTokens:
    """Give unguessable tokens (R20)."""

    def token(self, bits: int) -> str:
        return secrets.token_hex((bits + 7) // 8)
