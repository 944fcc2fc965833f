"""The injected source of randomness, and the identifiers made from it (R20). A Call-ID has 128 bits and no host."""

from __future__ import annotations

from typing import Protocol

MAGIC_COOKIE = "z9hG4bK"  # RFC 3261 §8.1.1.7: marks a branch that is unique by itself


class Tokens(Protocol):
    """Give random tokens: ``bits`` of entropy in lower-case hexadecimal digits."""

    def token(self, bits: int) -> str: ...


def new_branch(tokens: Tokens) -> str:
    """Make a Via branch of 96 random bits (RFC 3261 §8.1.1.7)."""
    return MAGIC_COOKIE + tokens.token(96)


def new_tag(tokens: Tokens) -> str:
    """Make a From or To tag of 64 random bits (RFC 3261 §19.3 asks for 32 at least)."""
    return tokens.token(64)
