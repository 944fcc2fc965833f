"""The benchmarks: processor time per relayed packet and per call, of the bridge and of its peers in the same run."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conformance import rivals
from conformance.ground import NUMBER, Ground
from conformance.rivals import Absent, session_cpu
from conformance.rtp_load import Carried, RtpLoad
from conformance.sipp import Sipp
from conformance.stage import Address, Process, StageError
from conformance.user_agent import Call, State, UserAgent

Tell = Callable[[str], None]

MEDIA_CALLS = (100, 500)
MEDIA_SECONDS = 8.0
RATES = (20, 50, 100, 200, 400, 600, 800)
"""Calls a second; one SIPp saturates above 1,000."""
RATE_SECONDS = 6
SIGNALLING_PORTS = "20000-59999"
"""Media ports of the bridge under calls without length: each takes four, which then rest for five seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One subject measured: ``value`` in ``unit``, ``ratio`` to the named peer at the same load."""

    bench: str
    subject: str
    load: str
    value: float | None
    unit: str
    ratio: float | None = None
    note: str = ""


def machine() -> dict[str, str | int | float]:
    """Describe where the figures come from."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpus": os.cpu_count() or 0,
        "model": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of the bridge, of its peers and of what loads them."""
    from bridge import __version__

    asked = {"sipp": "-v", "rtpengine": "--version", "kamailio": "-v"}
    found = {name: rivals.version([name, option]) if shutil.which(name) else "absent" for name, option in asked.items()}
    return {"trunkbridge": __version__, **found}


def softirq_seconds() -> float:
    """Return the time that all processors spent in software interrupts so far (proc(5): /proc/stat)."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[7]) / os.sysconf("SC_CLK_TCK")


# Media.


def media(tell: Tell) -> Iterator[Row]:
    """Measure µs of processor time for each relayed packet, at 100 and 500 calls with audio both ways."""
    for calls in MEDIA_CALLS:
        load = f"{calls} calls, {100 * calls} packets/s"
        measured: list[Row] = []
        for subject, measure in (("trunkbridge", _bridge_media), ("rtpengine (userspace)", _rtpengine_media)):
            tell(f"media: {subject}, {load}")
            try:
                measured.append(_media_row(subject, load, *measure(calls)))
            except (Absent, StageError) as error:
                measured.append(Row("media", subject, load, None, "µs/packet", note=str(error)))
        yield from _with_ratio(measured)


def _with_ratio(rows: list[Row]) -> Iterator[Row]:
    """Relate the first row to each of the others."""
    first = rows[0].value
    for row in rows:
        ratio = row.value / first if row is not rows[0] and row.value and first else None
        yield Row(row.bench, row.subject, row.load, row.value, row.unit, ratio, row.note)


def _media_row(subject: str, load: str, cpu: float, softirq: float, got: Carried) -> Row:
    delivered = 100.0 * got.received / max(1, got.sent)
    busy = 100.0 * got.generator_cpu / got.seconds
    note = (
        f"{cpu / got.seconds * 100:.0f} % of a core; {delivered:.1f} % delivered; softirq {softirq:.2f} s in all; "
        f"generator {busy:.0f} % of a core, {got.late_ms_max:.0f} ms late at most"
    )
    if delivered < 99.5 or busy > 90:
        note = f"NOT A FAIR FIGURE (generator or subject saturated). {note}"
    return Row("media", subject, load, round(cpu / max(1, got.received) * 1e6, 2), "µs/packet", note=note)


def _bridge_media(calls: int) -> tuple[float, float, Carried]:
    with Ground() as ground:
        ground.another_bridge(ports="20000-23999")
        load = RtpLoad((ground.stage.host(11), ground.stage.host(21)))
        try:
            return asyncio.run(_calls_with_media(ground, load, calls))
        finally:
            load.close()


async def _calls_with_media(ground: Ground, load: RtpLoad, calls: int) -> tuple[float, float, Carried]:
    """Set the calls up through the bridge as SIP user agents do, then load their media."""
    carrier_media, platform_media = load.addresses
    toward_carrier: list[Address] = []
    toward_platform: list[Address] = []

    async def answer(call: Call) -> None:
        if call.audio is not None:
            toward_platform.append(call.audio.address)
        call.answer(platform_media, (0,))

    callers = UserAgent((ground.stage.host(11), 5060))
    answerer = UserAgent((ground.stage.host(21), 5060), answer)
    await callers.open()
    await answerer.open()
    try:
        placed = []
        for index in range(calls):
            placed.append(callers.call(ground.address, NUMBER, f"+1202{index:07}", carrier_media, (0,)))
            await asyncio.sleep(0.01)
        for call in placed:
            if not await call.until(State.ANSWERED, within=10.0) or call.audio is None:
                raise StageError(f"a call was not set up: {call.status}")
            toward_carrier.append(call.audio.address)
        await asyncio.sleep(0.5)
        ends = (toward_carrier, toward_platform)
        await asyncio.to_thread(load.run, ends, 2.0)  # latches, caches and buffers are warm after it
        found = await asyncio.to_thread(_measured, ground.bridge, load, ends)
        await asyncio.gather(*(call.hang_up(20.0) for call in placed))
        return found
    finally:
        callers.close()
        answerer.close()


def _measured(
    process: Process, load: RtpLoad, ends: tuple[list[Address], list[Address]]
) -> tuple[float, float, Carried]:
    cpu, softirq = session_cpu(process), softirq_seconds()
    got = load.run(ends, MEDIA_SECONDS)
    return session_cpu(process) - cpu, softirq_seconds() - softirq, got


def _rtpengine_media(calls: int) -> tuple[float, float, Carried]:
    with Ground() as ground:
        load = RtpLoad((ground.stage.host(11), ground.stage.host(21)))
        try:
            engine = rivals.Rtpengine(ground.stage, ground.stage.host(31))
            sessions = [engine.session(*load.addresses) for _ in range(calls)]
            ends = ([one[0] for one in sessions], [one[1] for one in sessions])
            load.run(ends, 4.0)  # it takes a few packets of each stream to settle on addresses
            return _measured(engine.process, load, ends)
        finally:
            load.close()


# Signalling.


@dataclass(frozen=True, slots=True)
class Measured:
    """What one subject did at one rate; ``clean``: every call ended well and nothing had to be sent again.

    ``drowned``: a twentieth of the calls failed or had to be helped by retransmission; nothing faster need be tried.
    """

    row: Row
    clean: bool
    drowned: bool


def signalling(tell: Tell) -> Iterator[Row]:
    """Measure ms of processor time for each call, from SIPp's stock UAC to its stock UAS, at rising rates.

    Each subject goes on until it drowns; a rate that is not clean gets a second try.
    """
    program = shutil.which("sipp")
    if program is None:
        yield Row("signalling", "trunkbridge", "", None, "ms/call", note="sipp is missing: apt-get install sip-tester")
        return
    loads = [*(f"{rate} calls/s" for rate in RATES), "highest clean"]
    rows: dict[str, list[Row]] = {load: [] for load in loads}
    for subject, start in (
        ("trunkbridge", _bridge_signalling),
        ("sippy B2BUA (no media)", _sippy),
        ("Kamailio with rtpengine", _kamailio_with_rtpengine),
        ("Kamailio (stateful proxy, no media)", _kamailio),
    ):
        with Ground() as ground:
            highest, problem = 0, ""
            try:
                processes, note = start(ground)
                for rate in RATES:
                    tell(f"signalling: {subject}, {rate} calls/s")
                    measured = _rate(ground, program, processes, subject, rate, note)
                    if not measured.clean:
                        time.sleep(5.0)  # what the first try has left behind is over
                        measured = _rate(ground, program, processes, subject, rate, note)
                    rows[measured.row.load].append(measured.row)
                    if measured.drowned:
                        break
                    highest = rate if measured.clean else highest
            except (Absent, StageError) as error:
                problem = str(error)
            value = None if problem and not highest else float(highest)
            rows["highest clean"].append(Row("signalling", subject, "highest clean", value, "calls/s", note=problem))
    for found in rows.values():
        ours = bool(found) and found[0].subject == "trunkbridge"  # else it has drowned before
        yield from _with_ratio(found) if ours else found


def _bridge_signalling(ground: Ground) -> tuple[list[Process], str]:
    return [ground.another_bridge(ports=SIGNALLING_PORTS)], "with a relay session for each call and its record"


def _sippy(ground: Ground) -> tuple[list[Process], str]:
    process, found = rivals.sippy(ground.stage, ground.stage.host(2), ground.stage.host(21))
    time.sleep(2.0)
    return [process], f"version {found}"


def _kamailio(ground: Ground) -> tuple[list[Process], str]:
    process, found = rivals.kamailio(ground.stage, ground.stage.host(2), ground.stage.host(21))
    time.sleep(2.0)
    return [process], f"version {found}"


def _kamailio_with_rtpengine(ground: Ground) -> tuple[list[Process], str]:
    host = ground.stage.host
    engine = rivals.Rtpengine(ground.stage, host(31))
    process, found = rivals.kamailio(ground.stage, host(2), host(21), engine.control)
    time.sleep(2.0)
    return [process, engine.process], f"version {found}, a media session for each call, both processes"


def _rate(ground: Ground, program: str, processes: list[Process], subject: str, rate: int, note: str) -> Measured:
    for process in processes:
        if not process.alive:
            raise StageError(f"{process.name} ended: {' '.join(process.complaints()[-1:])}")
    calls = rate * RATE_SECONDS
    host = ground.stage.host
    answerer = Sipp(ground.stage, program, "uas", (host(21), 5060))
    time.sleep(0.5)
    begun = sum(map(session_cpu, processes))
    try:
        more = ("-r", str(rate), "-m", str(calls), "-s", NUMBER, "-timeout", "60")
        got = Sipp(ground.stage, program, "uac", (host(11), 5060), (host(2), 5060), more).finish(80.0)
        time.sleep(1.0)  # records are written and sessions closed after the BYE
        spent = sum(map(session_cpu, processes)) - begun
    finally:
        answerer.process.stop(1.0)
    ended = got.get("SuccessfulCall", 0)
    failed, resent = got.get("FailedCall", 0), got.get("Retransmissions", 0)
    clean = ended == calls and not failed and not resent
    note = f"{'' if clean else 'NOT CLEAN: '}{ended} calls, {failed} failed, {resent} retransmitted; {note}"
    value = round(spent / max(1, ended) * 1e3, 2)
    row = Row("signalling", subject, f"{rate} calls/s", value, "ms/call", note=note)
    return Measured(row, clean, failed + resent > calls / 20)


BENCHES = {"media": media, "signalling": signalling}
