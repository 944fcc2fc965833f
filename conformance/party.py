"""A carrier or an AI platform as a process of its own: ``python -m conformance.party SETTINGS.json``.

It says what happens as JSON lines on stdout (``ready``, ``placed``, ``answered``, ``ended``, ``saved``), keeps every
packet that arrives in memory, and writes one file a call into the ``out`` directory when its calls are over or it is
told to stop: by a line on stdin, or its end. So a party never outlives the one who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance import speech
from conformance.behaviour import BEHAVIOURS, Behaviour
from conformance.g711 import Samples, decode, encode
from conformance.listening import Arrivals, arrivals
from conformance.rtp import Endpoint
from conformance.user_agent import Call, State, UserAgent

Address = tuple[str, int]


def say(event: str, **facts: Any) -> None:
    """Tell the one who started this process what happened."""
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n")
    sys.stdout.flush()


def codec_of(call: Call, offered: tuple[int, ...]) -> int:
    """Return the G.711 payload type that both descriptions name first."""
    theirs = call.audio.payload_types if call.audio else ()
    return next((number for number in theirs if number in (0, 8) and number in offered), 0)


class Party:
    """What carrier and platform have in common: a user agent, its calls with their endpoints, the files at the end."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.out = Path(settings["out"])
        self.name: str = settings["name"]
        self.seconds = float(settings["seconds"])
        host, port = settings["address"]
        self.agent = UserAgent((host, port))
        self.host: str = host
        self.kept: list[tuple[Call, Endpoint]] = []

    async def run(self) -> None:
        raise NotImplementedError

    def endpoint(self, call: Call, payload_type: int) -> Endpoint:
        endpoint = Endpoint(self.host, payload_type)
        self.kept.append((call, endpoint))
        return endpoint

    def ended(self, call: Call, endpoint: Endpoint) -> None:
        endpoint.close()
        say("ended", call=call.call_id, caller=call.caller, status=call.status, by=call.ended_by)

    def save(self) -> None:
        """Write one file for each call, and how exactly this party itself kept time."""
        late = np.array([one for _, endpoint in self.kept for one in endpoint.sent_late] or [0.0]) * 1000
        for index, (call, endpoint) in enumerate(self.kept):
            save_call(self.out / f"{self.name}-{index}", call, endpoint)
        say("saved", calls=len(self.kept), late_ms_p99=float(np.percentile(late, 99)), late_ms_max=float(late.max()))


class Carrier(Party):
    """Place calls, a moment apart; each caller listens, speaks in turn and hangs up when the time is over."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.bridge: Address = (settings["bridge"][0], settings["bridge"][1])
        self.calls: list[dict[str, Any]] = settings["calls"]
        self.interval = float(settings.get("interval", 0.1))

    async def run(self) -> None:
        callers = []
        for wanted in self.calls:
            callers.append(asyncio.ensure_future(self.place(wanted)))
            await asyncio.sleep(self.interval)
        await asyncio.gather(*callers)

    async def place(self, wanted: dict[str, Any]) -> None:
        offered = tuple(wanted.get("payload_types", (0, 8, 101)))
        endpoint = Endpoint(self.host)
        call = self.agent.call(self.bridge, wanted["number"], wanted["caller"], endpoint.address, offered)
        self.kept.append((call, endpoint))
        say("placed", call=call.call_id, caller=call.caller, number=wanted["number"])
        await call.until(State.ANSWERED, State.ENDED, within=40)
        if call.state is State.ANSWERED and call.audio is not None:
            endpoint.payload_type = codec_of(call, offered)
            endpoint.quiet = bool(wanted.get("quiet"))
            endpoint.start(call.audio.address)
            say("answered", call=call.call_id, caller=call.caller)
            talk = asyncio.ensure_future(caller_talks(endpoint, int(wanted.get("line", 0))))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call.ended.wait(), self.seconds)
            talk.cancel()
            await call.hang_up()
        self.ended(call, endpoint)


async def caller_talks(endpoint: Endpoint, turn: int) -> None:
    """Wait for the agent's turn to end, say the next line, and so on; ask again where nothing is heard."""
    lines = [spoken(speech.CALLER, text, endpoint.payload_type) for text in speech.CALLER_LINES]
    while True:
        await endpoint.heard_out(0.5, within=9.0)
        await endpoint.say(lines[turn % len(lines)])
        turn += 1


class Platform(Party):
    """Ring, answer and talk like an AI agent: greet, listen, think without a packet, reply."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.behaviour: Behaviour = BEHAVIOURS[settings["behaviour"]](settings["user"])
        if "answers_after" in settings:
            self.behaviour = replace(self.behaviour, answers_after=float(settings["answers_after"]))
        # Short calls get a short thought: they would be over before the reply otherwise.
        self.haste = min(1.0, self.seconds / 18)
        self.agent.incoming = self.invited
        self.agent.challenge = self.behaviour.challenge
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        await self.stopped.wait()

    async def invited(self, call: Call) -> None:
        behaviour = self.behaviour
        call.respond(100, "Trying")
        if behaviour.numbers is not None and call_user(call) not in behaviour.numbers:
            call.respond(404, "Not Found")
            return
        await asyncio.sleep(behaviour.rings_after)
        call.respond(180, "Ringing")
        await asyncio.sleep(behaviour.answers_after)
        if call.state is State.ENDED or call.audio is None:
            return
        endpoint = self.endpoint(call, codec_of(call, behaviour.payload_types))
        call.answer(endpoint.address, behaviour.payload_types)
        endpoint.quiet = True
        endpoint.start(call.audio.address)
        say("answered", call=call.call_id, caller=call.caller)
        # Agents of different calls say different things: audio of another call would be noticed.
        talk = asyncio.ensure_future(self.talks(endpoint, len(self.kept) - 1))
        await call.ended.wait()
        talk.cancel()
        self.ended(call, endpoint)

    async def talks(self, endpoint: Endpoint, line: int) -> None:
        behaviour = self.behaviour
        lines = [spoken(speech.AGENT, text, endpoint.payload_type) for text in speech.AGENT_LINES]
        await asyncio.sleep(behaviour.greets_after)
        turn = 0
        while True:
            endpoint.quiet = False
            await endpoint.say(lines[(line + turn) % len(lines)])
            endpoint.quiet = behaviour.listens_quiet
            await endpoint.heard_out(behaviour.patience, within=60.0)
            endpoint.quiet = True
            await asyncio.sleep(behaviour.thinks[min(turn, len(behaviour.thinks) - 1)] * self.haste)
            turn += 1


def call_user(call: Call) -> str:
    """Return the user part of the Request-URI as it came."""
    return call.request_uri.removeprefix("sip:").partition("@")[0].partition(";")[0]


def spoken(voice: speech.Voice, text: str, payload_type: int) -> bytes:
    """Return one line as G.711 octets."""
    return encode(speech.utterance(voice, text), payload_type)


def save_call(stem: Path, call: Call, endpoint: Endpoint) -> None:
    """Write what one party knows of one call: ``stem.json`` and the packets and utterances in ``stem.npz``."""
    np.savez(
        stem.with_suffix(".npz"),
        at=np.array([at for at, _ in endpoint.arrived]),
        length=np.array([len(data) for _, data in endpoint.arrived], dtype=np.int64),
        packets=np.frombuffer(b"".join(data for _, data in endpoint.arrived), dtype=np.uint8),
        spurt_at=np.array([spurt.at for spurt in endpoint.spurts]),
        spurt_length=np.array([len(spurt.octets) for spurt in endpoint.spurts], dtype=np.int64),
        spurts=np.frombuffer(b"".join(bytes(spurt.octets) for spurt in endpoint.spurts), dtype=np.uint8),
    )
    facts = {
        "call_id": call.call_id,
        "caller": call.caller,
        "request_uri": call.request_uri,
        "state": call.state.value,
        "status": call.status,
        "ended_by": call.ended_by,
        "payload_type": endpoint.payload_type,
        "placed_at": call.placed_at,
        "trying_at": call.trying_at,
        "ringing_at": call.ringing_at,
        "answered_at": call.answered_at,
        "ended_at": call.ended_at,
        "sent": endpoint.sent,
        "longest_pause": endpoint.longest_pause,
        "rtcp": len(endpoint.arrived_rtcp),
        "retransmissions": call.retransmissions,
        "late_ms_max": max(endpoint.sent_late, default=0.0) * 1000,
    }
    stem.with_suffix(".json").write_text(json.dumps(facts))


@dataclass(frozen=True, slots=True)
class Kept:
    """One party's side of one call, read back: its facts, what arrived, and what it said and when."""

    facts: dict[str, Any]
    arrivals: Arrivals
    spurts: tuple[tuple[float, Samples], ...]


def load_calls(out: Path, name: str) -> list[Kept]:
    """Read every call that the party of that name wrote."""
    kept = []
    for path in sorted(out.glob(f"{name}-*.json"), key=lambda path: int(path.stem.rpartition("-")[2])):
        facts = json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as stored:
            ends = np.cumsum(stored["length"])
            packets = stored["packets"].tobytes()
            starts = ends - stored["length"]
            got = [(float(at), packets[a:b]) for at, a, b in zip(stored["at"], starts, ends, strict=True)]
            octets, spurts, place = stored["spurts"].tobytes(), [], 0
            for at, length in zip(stored["spurt_at"], stored["spurt_length"], strict=True):
                spurts.append((float(at), decode(octets[place : place + length], facts["payload_type"])))
                place += int(length)
        kept.append(Kept(facts, arrivals(got), tuple(spurts)))
    return kept


async def main(settings: dict[str, Any]) -> None:
    """Run one party until it is done (carrier) or told to stop (platform)."""
    party: Party = Carrier(settings) if settings["role"] == "carrier" else Platform(settings)
    voice, lines = (
        (speech.CALLER, speech.CALLER_LINES) if settings["role"] == "carrier" else (speech.AGENT, speech.AGENT_LINES)
    )
    for text in lines:  # made before the first call, so that nothing is made during one
        for payload_type in (0, 8):
            spoken(voice, text, payload_type)
    await party.agent.open()
    # A collection in the middle of 20 calls would be measured as the bridge's jitter.
    gc.collect()
    gc.freeze()
    gc.disable()
    say("ready", address=list(party.agent.address))
    loop = asyncio.get_running_loop()
    told = loop.run_in_executor(None, sys.stdin.readline)
    work = asyncio.ensure_future(party.run())
    await asyncio.wait([work, told], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    else:
        work.cancel()
    if isinstance(party, Platform):
        await asyncio.gather(*(call.hang_up(2.0) for call, _ in party.kept if call.state is State.ANSWERED))
    for call, endpoint in party.kept:
        endpoint.close()
        call.close()
    party.save()
    party.agent.close()
    await asyncio.wait([told], timeout=30)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
