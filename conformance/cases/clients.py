"""A softphone that knows nothing of the bridge calls through it, and both sides hear."""

from __future__ import annotations

import time
import wave
from pathlib import Path

import numpy as np

from conformance import speech
from conformance.g711 import FRAME, RATE, SILENCE, Samples, encode
from conformance.ground import NUMBER, Ground, tool
from conformance.listening import Match, arrivals, find, heard_signal
from conformance.peer import Peer, require, wait_until
from conformance.rtp import rtp_packet
from conformance.runner import case

_CONFIG = """\
poll_method epoll
sip_listen {host}:5060
call_local_timeout 30
call_max_calls 1
snd_path {directory}
audio_source aufile,{directory}/said.wav
audio_alert aufile,{directory}/alert.wav
audio_level no
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_ports {rtp}-{rtp_last}
net_interface {host}
module_path {modules}
module stdio.so
module g711.so
module aufile.so
module sndfile.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
module_app auloop.so
"""

_MODULES = ("/usr/lib/baresip/modules", "/usr/local/lib/baresip/modules")


@case("baresip-calls-through", "baresip calls through the bridge; both sides hear what the other said")
def baresip(ground: Ground) -> str:
    program = tool("baresip")
    platform = ground.platform()
    directory = ground.stage.directory / "baresip"
    directory.mkdir(exist_ok=True)
    said = _said(directory)
    host = ground.stage.host(11)
    modules = next((path for path in _MODULES if Path(path).is_dir()), _MODULES[0])
    config = _CONFIG.format(host=host, directory=directory, modules=modules, rtp=30000, rtp_last=30100)
    (directory / "config").write_text(config)
    account = f"<sip:+12025550147@{host}:5060>;regint=0;audio_codecs=PCMU/8000/1"
    (directory / "accounts").write_text(account + "\n")
    (directory / "contacts").write_text("")
    target = f"sip:{NUMBER}@{ground.address[0]}:{ground.address[1]}"
    client = ground.stage.start("baresip", [program, "-f", str(directory), "-t", "20", "-e", f"/dial {target}"])
    callee = platform.take(platform.expect("INVITE", 8.0))
    callee.respond(180, "Ringing")
    callee.answer()
    platform.expect("ACK", 3.0)
    assert callee.invitation is not None
    assert callee.invitation.audio is not None
    line = speech.utterance(speech.AGENT, speech.AGENT_LINES[0])
    packets = _talk(platform, callee.invitation.audio.address, line, 6.0)
    callee.request("BYE")
    platform.expect("200 BYE", 3.0)
    client.stop(5.0)  # it writes its files when it is told to end
    by_platform = _found(said, packets)
    played = sorted(directory.glob("dump-*dec.wav"))
    require(bool(played), f"baresip wrote no file of what it heard: {sorted(one.name for one in directory.iterdir())}")
    by_client = find(line, _read_wave(played[-1]), 0, 20 * RATE)
    require(
        by_platform.correlation > 0.9, f"the platform heard the client with correlation {by_platform.correlation:.2f}"
    )
    require(by_client.correlation > 0.8, f"the client heard the platform with correlation {by_client.correlation:.2f}")
    return f"correlation at the platform {by_platform.correlation:.3f}, at the client {by_client.correlation:.3f}"


def _said(directory: Path) -> Samples:
    """Write the file that the client plays: a second of silence, one line, and silence after it."""
    said = speech.utterance(speech.CALLER, speech.CALLER_LINES[0])
    quiet = np.zeros(RATE, dtype=np.int16)
    samples = np.concatenate((quiet, said, np.zeros(20 * RATE, dtype=np.int16)))
    for name, content in (("said", samples), ("alert", quiet)):
        with wave.open(str(directory / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(content.tobytes())
    return said


def _talk(peer: Peer, to: tuple[str, int], line: Samples, seconds: float) -> list[tuple[float, bytes]]:
    """Send one line after half a second, silence otherwise; return what arrived meanwhile."""
    octets = SILENCE[0] * 25 + encode(line)
    frames = [octets[place : place + FRAME] for place in range(0, len(octets) - FRAME, FRAME)]
    packets: list[tuple[float, bytes]] = []
    begun = time.monotonic()
    for index in range(int(seconds * 50)):
        wait_until(begun + 0.02 * index)
        payload = frames[index] if index < len(frames) else SILENCE[0]
        peer.rtp.sendto(rtp_packet(0, index, FRAME * index, 0xBA5E51B, payload), to)
        while True:
            try:
                packets.append((time.monotonic(), peer.rtp.recv(2048)))
            except OSError:
                break
    return packets


def _found(said: Samples, packets: list[tuple[float, bytes]]) -> Match:
    signal, _ = heard_signal(arrivals(packets))
    return find(said, signal, 0, 20 * RATE)


def _read_wave(path: Path) -> Samples:
    # The client may be ended before it fills in the sizes of the header: take what is there.
    raw = path.read_bytes()
    start = raw.find(b"data") + 8
    rate = int.from_bytes(raw[24:28], "little")
    samples = np.frombuffer(raw[start : start + (len(raw) - start) // 2 * 2], dtype="<i2")
    if rate != RATE and samples.size:
        samples = speech.resampled(samples.astype(np.float64), rate).astype(np.int16)
    return samples.astype(np.int16)
