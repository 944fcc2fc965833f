"""The suite: cases register themselves by decorator, the runner plays them one after the other on one ground."""

from __future__ import annotations

import contextlib
import enum
import fnmatch
import importlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from conformance.ground import Ground, NotApplicable
from conformance.peer import Unmet
from conformance.stage import StageError

MODULES = (
    "signalling", "strangers", "torture", "traffic", "scenarios", "media", "transfers", "clients", "edges", "names",
    "faults", "attacks", "limits", "loads",
)  # fmt: skip
"""The modules of `conformance.cases` in the order in which they are played."""

Play = Callable[[Ground], str | None]


class Result(enum.Enum):
    """What came of a case."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True, slots=True)
class Case:
    """One behaviour that a bridge must show. ``limit`` in seconds ends a case that hangs."""

    id: str
    title: str
    play: Play
    limit: float
    load: bool  # long or heavy: part of a conformance run, not of a test run


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one case, with the reason where it did not pass, or what was measured where it did."""

    case: Case
    result: Result
    reason: str
    seconds: float


_CASES: dict[str, Case] = {}


def case(id: str, title: str, limit: float = 90.0, load: bool = False) -> Callable[[Play], Play]:
    """Register the function as the case ``id``; it raises Unmet or NotApplicable, or returns what it measured."""

    def register(play: Play) -> Play:
        if id in _CASES:
            raise ValueError(f"there are two cases {id}")
        _CASES[id] = Case(id, title, play, limit, load)
        return play

    return register


def cases(pattern: str = "*") -> list[Case]:
    """Return the cases whose id matches a shell pattern, or contains it."""
    for name in MODULES:
        importlib.import_module(f"conformance.cases.{name}")
    return [
        one for one in _CASES.values() if fnmatch.fnmatch(one.id, pattern) or (pattern != "*" and pattern in one.id)
    ]


def play(one: Case, ground: Ground) -> Verdict:
    """Play one case. Whatever it opened is closed; a bridge that died in it fails it."""
    begun = time.monotonic()
    try:
        with _limit(one.limit):
            reason = one.play(ground) or ""
        result = Result.PASSED
    except NotApplicable as error:
        result, reason = Result.NOT_APPLICABLE, str(error)
    except (Unmet, StageError) as error:
        result, reason = Result.FAILED, str(error)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # A peer that wrote something no case foresaw fails the case, not the suite.
        result, reason = Result.FAILED, f"{type(error).__name__}: {error}"
    ground.end_case()
    died = ground.bridge_died()
    if died:
        result, reason = Result.FAILED, f"the bridge died: {died}"
    return Verdict(one, result, reason, time.monotonic() - begun)


def run(chosen: Sequence[Case], ground: Ground) -> Iterator[Verdict]:
    """Play the cases in order."""
    for one in chosen:
        yield play(one, ground)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise Unmet in the main thread when the time is up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise Unmet(f"the case did not end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
