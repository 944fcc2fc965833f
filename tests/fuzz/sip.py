"""Feed hostile octets to the SIP and SDP code, by atheris or by mutations of our own.

    python tests/fuzz/sip.py [--target NAME] [--mutate] [-runs=1000000] [corpus folders and other libFuzzer options]

atheris (`pip install atheris`) follows coverage into one target (without --target: all of them in turn, by the first
octet). ``--mutate``, or a machine without atheris, does the runs with seeded mutations and says after each tenth
how far it is. The first input that breaks a rule of tests/fuzz/targets.py ends the run, and is printed.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_PIECES: tuple[bytes, ...] = (
    b"",
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n ",
    b'"',
    b"<",
    b">",
    b";",
    b",",
    b":",
    b"\\",
    b"%0D%0A",
    b"\xff",
)
_PIECES += (b" ", b"=", b"@", b"\r\n\r\n", b"\n%%\n", b"Content-Length: 0", b"l:1", b"2147483648", b"%00", b"\xd9\xa1")


def mutated(seed: bytes, generator: random.Random) -> bytes:
    """Return the seed with up to six places changed."""
    for _ in range(generator.randrange(1, 7)):
        place = generator.randrange(len(seed) + 1)
        match generator.randrange(5):
            case 0:
                seed = seed[:place] + generator.choice(_PIECES) + seed[place + generator.randrange(12) :]
            case 1:
                seed = seed[:place] + generator.randbytes(generator.randrange(5)) + seed[place:]
            case 2:
                seed = seed[:place] + seed[place + generator.randrange(40) :]
            case 3:
                end = place + generator.randrange(60)
                seed = seed[:end] + seed[place:end] + seed[end:]
            case 4:
                seed = seed[:place] + generator.choice(_PIECES) + seed[place:]
    return seed


def mutate(names: list[str], runs: int) -> None:
    """Run every target on mutations of its seeds, the same ones each time."""
    from tests.fuzz.targets import SEEDS, TARGETS

    generator = random.Random(4475)
    started = time.monotonic()
    for run in range(runs):
        name = names[run % len(names)]
        data = mutated(generator.choice(SEEDS[name]), generator)
        try:
            TARGETS[name](data)
        except BaseException:
            print(f"{name} broke on {data!r}", file=sys.stderr)
            raise
        if (run + 1) % max(1, runs // 10) == 0:
            print(f"{run + 1} inputs to {', '.join(names)} in {time.monotonic() - started:.0f} s, none broke a rule")


def follow_coverage(names: list[str], arguments: list[str]) -> None:
    """Let atheris choose the inputs; it ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["bridge"]):
        from tests.fuzz.targets import SEEDS, TARGETS

    def one(data: bytes) -> None:
        if len(names) == 1:
            TARGETS[names[0]](data)
        elif data:
            TARGETS[names[data[0] % len(names)]](data[1:])

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        """Now and then begin anew from a seed: hostile octets seldom find the way to a whole message by themselves."""
        generator = random.Random(seed)
        if generator.random() < 0.2 or len(data) < 2:
            number = generator.randrange(len(names))
            lead = bytes([number]) if len(names) > 1 else b""
            return (lead + mutated(generator.choice(SEEDS[names[number]]), generator))[:most]
        changed: bytes = mutated(data, generator)[:most] if generator.random() < 0.5 else atheris.Mutate(data, most)
        return changed

    options = ["-max_len=4096", "-timeout=20", *arguments]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutator)
    atheris.Fuzz()


def main(arguments: list[str]) -> None:
    names = ["message", "value", "stream", "endpoint", "injection", "description"]
    if "--target" in arguments:
        place = arguments.index("--target")
        names = [arguments[place + 1]]
        del arguments[place : place + 2]
    run: Callable[[], None] = lambda: follow_coverage(names, arguments)  # noqa: E731
    if "--mutate" in arguments or importlib.util.find_spec("atheris") is None:
        runs = next((int(one.removeprefix("-runs=")) for one in arguments if one.startswith("-runs=")), 1_000_000)
        run = lambda: mutate(names, runs)  # noqa: E731
    run()


if __name__ == "__main__":
    main(sys.argv[1:])
