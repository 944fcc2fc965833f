"""`trunkbridge demo` as a user runs it: the real command, real processes, real audio."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.cli.demo import _show, _summary
from conformance.demonstration import Outcome

pytestmark = [pytest.mark.sockets, pytest.mark.slow]

ROOT = str(Path(__file__).resolve().parents[2])


def start(arguments, directory):
    return subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, as a CI runner may be, hands down an interrupt that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the demo; once more where a second came short of packets: the machine may stand still once, not twice."""
    for attempt in ("demo", "once-more"):
        directory = tmp_path_factory.mktemp(attempt)
        with start(["--calls", "4", "--seconds", "12", "--json"], directory) as process:
            out, err = process.communicate(timeout=60)
        told = json.loads(out)
        arrived = [stream for call in told["calls"] for stream in call["arrived"].values()]
        if all(stream["rate_low"] >= 49 and stream["rate_high"] <= 51 for stream in arrived):
            break
    return process.returncode, told, err, list(directory.iterdir())


def test_every_call_has_audio_both_ways(shown):
    status, told, err, left = shown
    assert status == 0, err
    assert told["ok"] is True
    assert len(told["calls"]) == 4
    for call in told["calls"]:
        assert call["result"] == "completed"
        for side in ("platform", "caller"):
            assert call["heard"][side]["correlation"] > 0.95
            assert -30 < call["heard"][side]["level_dbov"] < -18
    assert not left  # nothing stays in the directory it was run in
    assert "answered" in err  # progress


def test_no_stream_has_a_hole_though_the_agents_send_nothing(shown):
    for call in shown[1]["calls"]:
        assert call["platform_silence_ms"] >= 2000
        assert call["longest_gap_ms"]["toward_carrier"] <= 60
        assert call["longest_gap_ms"]["toward_platform"] <= 60
        for arrived in call["arrived"].values():
            assert (arrived["sequence_gaps"], arrived["ssrcs"], arrived["duplicates"]) == (0, 1, 0)
            assert 49 <= arrived["rate_low"] <= arrived["rate_high"] <= 51


def test_both_platforms_are_called_as_they_want_to_be(shown):
    uris = {call["platform"]: call["request_uri"] for call in shown[1]["calls"]}
    assert uris["vapi"].startswith("sip:support-agent@")
    assert uris["retell"].startswith("sip:+14155550200@")


def test_the_table_shows_every_call_whole_on_a_narrow_terminal(shown, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    calls = tuple(shown[1]["calls"])
    _show(Outcome(calls, 1.0, 2.0))
    lines = capsys.readouterr().out.splitlines()
    for title in ("filled", "lost", "jitter", "MOS", "longest", "heard", "level"):
        assert any(title in line for line in lines[:3])
    ways = [line.split() for line in lines if line.startswith(("caller → AI", "AI → caller"))]
    assert len(ways) == 2 * len(calls)
    for call, way in zip(calls, ways[::2], strict=True):
        ear = call["heard"]["platform"]
        assert way[3] == str(call["legs"]["carrier"]["rtp"]["received"])
        assert way[-2:] == [f"{100 * ear['correlation']:.0f}", f"{ear['level_dbov']:.0f}"]
        assert any(f"INVITE {call['request_uri']}" in line for line in lines)
    assert "All 4 calls had audio both ways" in _summary(Outcome(calls, 1.0, 2.0))
    deaf = {**calls[0], "heard": {**calls[0]["heard"], "caller": {**calls[0]["heard"]["caller"], "correlation": 0.1}}}
    outcome = Outcome((deaf, *calls[1:]), 1.0, 2.0)
    assert not outcome.ok
    assert "call 1" in _summary(outcome)


def test_an_interrupt_leaves_no_process_behind(tmp_path):
    with start(["--calls", "2", "--seconds", "30"], tmp_path) as process:
        children: list[str] = []
        deadline = time.monotonic() + 30
        while len(children) < 4 and time.monotonic() < deadline:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            time.sleep(0.1)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert len(children) == 4  # the bridge, two platforms, the carrier
    assert not any(Path(f"/proc/{child}").exists() for child in children)
