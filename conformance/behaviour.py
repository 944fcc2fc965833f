"""How the parties behave on the wire and in conversation: data, one entry a party (platforms.md's facts)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What an AI platform's edge does with a call; times in seconds.

    ``challenge``: the first INVITE is answered 401 and any credentials pass (D9). ``numbers``: the user parts that are
    known, compared character by character, others get 404; None takes every one. ``thinks`` are the pauses before each
    reply, in true RTP silence, the last one again and again; ``listens_quiet``: no packets while listening either.
    """

    name: str
    challenge: bool = False
    numbers: tuple[str, ...] | None = None
    rings_after: float = 0.05
    answers_after: float = 0.4
    greets_after: float = 0.3
    patience: float = 0.8  # the caller's silence that ends his turn
    thinks: tuple[float, ...] = (4.5, 1.0)
    listens_quiet: bool = False
    payload_types: tuple[int, ...] = (0, 8, 101)


def vapi(user: str) -> Behaviour:
    """Return a Vapi SIP number: challenged although open, free user part, comfort silence while it listens."""
    return Behaviour("vapi", challenge=True, numbers=(user,))


def retell(number: str) -> Behaviour:
    """Return a number imported at Retell: matched exactly as stored; packets flow only while the agent speaks."""
    return Behaviour("retell", numbers=(number,), listens_quiet=True, answers_after=0.6, thinks=(4.2, 1.4))


def generic(user: str) -> Behaviour:
    """Return a platform that answers every call."""
    return Behaviour("generic")


BEHAVIOURS = {"generic": generic, "vapi": vapi, "retell": retell}
