"""Telephone numbers as the user parts of URIs write them: with and without plus, escaped, with separators."""

from __future__ import annotations

from bridge.config import Peer
from bridge.sip.uri import unescape

_SEPARATORS = str.maketrans("", "", "-.() ")


def telephone_number(user: str) -> str:
    """Return the telephone number that a user part writes: without escapes, visual separators and, where it is a
    global one, parameters (``+14155550100;npdi``, RFC 3966 §5.1). Anything else is returned as it stands.
    """
    written, _, params = user.partition(";")
    number = unescape(written).translate(_SEPARATORS)
    if not (number.isascii() and number.removeprefix("+").isdigit()):
        return user
    return user if params and not number.startswith("+") else number


def number_matches(pattern: str, number: str) -> bool:
    """Tell whether a dialled number fits ``"+1415…"``, ``"+1415*"`` or ``"*"``.

    Carriers differ in whether they write the leading plus (D2), so it is ignored on both sides, as are visual
    separators; anything that is not a telephone number is compared as it stands.
    """
    if pattern == "*":
        return True
    wanted, given = (
        pattern.translate(_SEPARATORS).removeprefix("+"),
        number.translate(_SEPARATORS).removeprefix("+"),
    )
    if wanted.endswith("*"):
        return given.startswith(wanted[:-1])
    return given == wanted


def permitted(peer: Peer, number: str) -> bool:
    """Tell whether a number may be dialled by way of a peer: by a prefix of ``allow``, if any, by none of ``deny``.

    ``deny`` holds however the number is written: with +, without, or behind 00 and 011 (T09).
    """
    plain = plain_number(number)
    if peer.allow and not any(plain.startswith(plain_number(prefix)) for prefix in peer.allow):
        return False
    readings = {plain, *(plain.removeprefix(prefix) for prefix in ("00", "011"))}
    return not any(reading.startswith(plain_number(prefix)) for prefix in peer.deny for reading in readings)


def plain_number(number: str) -> str:
    """Return what a user part dials: escapes resolved, without parameters, +, and visual separators, in lower case."""
    return unescape(number).partition(";")[0].translate(_SEPARATORS).lstrip("+").lower()


def with_plus(user: str, policy: str) -> str:
    """Apply a profile's plus policy (``add``, ``strip``, ``keep``) to the user part of a URI (D2)."""
    digits = user.removeprefix("+")
    if policy == "keep" or not digits.isdigit():
        return user
    return f"+{digits}" if policy == "add" else digits
