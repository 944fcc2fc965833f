"""The bridge as a process: its ready line, its ports, its signals, its admin server."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import CANARY, READY, Bridge, invoke, running, write_config
from tests.net.test_addresses import PUBLIC, stun_server

pytestmark = pytest.mark.sockets

CARRIER, PLATFORM = ("127.0.0.91", 5091), ("127.0.0.92", 5092)


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Bridge]:
    with running(write_config(tmp_path)) as started:
        yield started


def get(url: str, token: str | None = None, method: str = "GET") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def get_json(url: str) -> Any:
    return json.loads(get(url)[1])


class Peer:
    """A SIP peer of few words on a real socket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(10)
        self.address = address

    def receive(self, wanted: str) -> tuple[str, tuple[str, int]]:
        """Return the next message that begins with ``wanted``."""
        while True:
            data, source = self.socket.recvfrom(65535)
            text = data.decode()
            if text.startswith(wanted):
                return text, source

    def send(self, text: str, to: tuple[str, int]) -> None:
        self.socket.sendto(text.encode(), to)

    def invite(self, to: tuple[str, int], call_id: str, number: str = "+14155550100") -> None:
        host, _ = self.address
        body = f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n"
        self.send(self.request("INVITE", call_id, number, 1, "", body), to)

    def request(self, method: str, call_id: str, number: str, cseq: int, to_tag: str, body: str = "") -> str:
        host, port = self.address
        return (
            f"{method} sip:{number}@127.0.0.1 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{call_id}{method}\r\n"
            f"From: <sip:+14155550199@{host}>;tag=f{call_id}\r\nTo: <sip:{number}@127.0.0.1>{to_tag}\r\n"
            f"Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\nContact: <sip:c@{host}:{port}>\r\n"
            + ("Content-Type: application/sdp\r\n" if body else "")
            + f"Content-Length: {len(body)}\r\n\r\n{body}"
        )

    def answer(self, request: str, source: tuple[str, int], status: str, body: str = "") -> None:
        kept = [
            line
            for line in request.split("\r\n\r\n")[0].split("\r\n")[1:]
            if line.split(":")[0].lower() in ("via", "from", "to", "call-id", "cseq")
        ]
        kept = [line + ";tag=platform" if line.startswith("To:") and "tag=" not in line else line for line in kept]
        host, port = self.address
        extra = [f"Contact: <sip:p@{host}:{port}>", f"Content-Length: {len(body)}"]
        extra += ["Content-Type: application/sdp"] if body else []
        self.send("\r\n".join([f"SIP/2.0 {status}", *kept, *extra, "", body]), source)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    carrier, platform = Peer(CARRIER), Peer(PLATFORM)
    yield carrier, platform
    carrier.close()
    platform.close()


def set_up(bridge: Bridge, carrier: Peer, platform: Peer, call_id: str = "call1") -> str:
    """Bring one call up; return its To tag toward the carrier."""
    carrier.invite(bridge.sip, call_id)
    invite, source = platform.receive("INVITE")
    body = "v=0\r\no=- 1 1 IN IP4 127.0.0.92\r\ns=-\r\nc=IN IP4 127.0.0.92\r\nt=0 0\r\nm=audio 7100 RTP/AVP 0\r\n"
    platform.answer(invite, source, "200 OK", body)
    answer, source = carrier.receive("SIP/2.0 200")
    to_line = next(line for line in answer.split("\r\n") if line.lower().startswith("to:"))
    tag = ";tag=" + to_line.partition("tag=")[2]
    carrier.send(carrier.request("ACK", call_id, "+14155550100", 1, tag), source)
    platform.receive("ACK")
    return tag


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


# -- starting --------------------------------------------------------------------------------------------------------


def test_the_ready_line_is_the_only_line_on_stdout_and_names_the_real_ports(bridge: Bridge) -> None:
    match = READY.fullmatch(bridge.ready)
    assert match is not None
    assert match["node"] == "lab"
    assert match["media"] == "127.0.0.1:34000-34099"
    assert bridge.sip[1] > 0
    assert get(f"{bridge.admin}/healthz")[0] == 200
    status, out, _ = bridge.stop()
    assert (status, out) == (0, "")


def test_two_bridges_on_one_sip_port_are_a_clear_sentence_and_exit_2(bridge: Bridge, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    taken = f"udp:127.0.0.1:{bridge.sip[1]}"
    result = invoke("run", str(write_config(other, listen=taken)))
    assert result.returncode == 2
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if "in use" in line]
    assert line.startswith(f"Error: {taken} is in use by another process, perhaps another trunkbridge")
    assert "[sip] listen" in line
    assert "Traceback" not in result.stderr


def test_two_bridges_on_one_admin_port_are_a_clear_sentence_and_exit_2(bridge: Bridge, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = invoke("run", str(write_config(other, admin=bridge.admin.removeprefix("http://"))))
    assert result.returncode == 2
    assert f"admin {bridge.admin} is in use by another process" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_address_that_is_not_ours_is_a_clear_sentence_and_exit_2(tmp_path: Path) -> None:
    result = invoke("run", str(write_config(tmp_path, listen="udp:192.0.2.1:5060")))
    assert result.returncode == 2
    assert "can't listen on udp:192.0.2.1:5060" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_state_directory_that_can_not_be_made_is_a_clear_sentence_and_exit_2(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "state").write_text("a file is in the way")
    result = invoke("run", str(config))
    assert result.returncode == 2
    assert "[node] state_dir" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_configuration_names_file_line_and_key_and_exits_2(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("[media]", "[media]\nportz = 1"))
    result = invoke("run", str(config))
    assert result.returncode == 2
    assert result.stderr.startswith(f"{config}:")
    assert "portz" in result.stderr


def test_auto_advertises_what_stun_sees_of_a_private_interface(tmp_path: Path) -> None:
    """A wildcard listener on a private network tells peers the public address; the ready line shows it."""
    from bridge.net.addresses import interface_address, is_loopback

    own = interface_address(socket.AF_INET)
    if own is None or is_loopback(own):
        pytest.skip("this machine has loopback only")
    import ipaddress

    if ipaddress.ip_address(own).is_global:
        pytest.skip(f"this machine's interface has a public address, {own}")
    with (
        stun_server(socket.inet_aton(PUBLIC)) as server,
        running(write_config(tmp_path, listen="udp:0.0.0.0:0"), ["--stun-server", f"127.0.0.1:{server[1]}"]) as bridge,
    ):
        assert f"sip=udp:{PUBLIC}:" in bridge.ready
        bridge.stop()


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_bridge_at_once_with_exit_0(bridge: Bridge, number: signal.Signals) -> None:
    began = time.monotonic()
    bridge.process.send_signal(number)
    status, _, err = bridge.wait()
    assert status == 0
    assert time.monotonic() - began < 5
    assert "draining, 0 calls in progress" in err


def test_f04_sigterm_lets_the_call_end_refuses_new_ones_and_exits_0(
    bridge: Bridge, peers: tuple[Peer, Peer], tmp_path: Path
) -> None:
    """F04: new INVITE 503 + Retry-After; readiness off; in-dialog works; exit 0 after the last call."""
    carrier, platform = peers
    tag = set_up(bridge, carrier, platform)
    bridge.process.send_signal(signal.SIGTERM)
    until(lambda: get(f"{bridge.admin}/readyz")[0] == 503)
    carrier.invite(bridge.sip, "call2")
    refusal, _ = carrier.receive("SIP/2.0 503")
    assert "\r\nRetry-After:" in refusal
    assert len(get_json(f"{bridge.admin}/api/v1/calls?state=active")["calls"]) == 1
    assert bridge.process.poll() is None
    carrier.send(carrier.request("BYE", "call1", "+14155550100", 2, tag), bridge.sip)
    bye, source = platform.receive("BYE")
    platform.answer(bye, source, "200 OK")
    status, _, err = bridge.wait()
    assert status == 0
    assert "Traceback" not in err
    with sqlite3.connect(tmp_path / "state" / "records.db") as database:
        reasons = [row[0] for row in database.execute("SELECT reason FROM records ORDER BY number")]
    database.close()
    assert reasons == ["draining", "hangup"]


def test_f04_a_second_sigterm_hangs_up_both_legs(bridge: Bridge, peers: tuple[Peer, Peer]) -> None:
    carrier, platform = peers
    set_up(bridge, carrier, platform)
    bridge.process.send_signal(signal.SIGTERM)
    until(lambda: get(f"{bridge.admin}/readyz")[0] == 503)
    bridge.process.send_signal(signal.SIGTERM)
    for peer in (carrier, platform):
        bye, source = peer.receive("BYE")
        peer.answer(bye, source, "200 OK")
    assert bridge.wait()[0] == 0


def test_sighup_does_not_end_the_bridge(bridge: Bridge) -> None:
    bridge.process.send_signal(signal.SIGHUP)
    until(lambda: get(f"{bridge.admin}/healthz")[0] == 200)
    assert bridge.process.poll() is None
    status, _, err = bridge.stop()
    assert status == 0
    assert "SIGHUP" in err


# -- around a call ---------------------------------------------------------------------------------------------------


def test_a_call_is_seen_in_api_cli_metrics_records_and_log(
    bridge: Bridge, peers: tuple[Peer, Peer], tmp_path: Path
) -> None:
    carrier, platform = peers
    tag = set_up(bridge, carrier, platform)
    [live] = get_json(f"{bridge.admin}/api/v1/calls?state=active")["calls"]
    call = live["id"]
    assert (live["route"], live["carrier"], live["platform"]) == ("support line", "main", "support")
    admin = {"TRUNKBRIDGE_ADMIN": bridge.admin}

    shown = json.loads(invoke("calls", "show", call[:8], "--json", environment=admin).stdout)
    assert shown["id"] == call
    assert {"received", "sent", "filled", "lost"} <= set(shown["media"]["platform"])
    methods = [(step["method"], step["status"]) for step in shown["messages"] if step["kind"] in ("sent", "received")]
    assert methods[0] == ("INVITE", None), "the INVITE that began the call comes first"
    assert ("ACK", None) in methods
    drawn = invoke("calls", "ladder", call, environment=admin).stdout
    assert "- INVITE SDP -" in drawn
    assert "200 OK (INVITE)" in drawn
    listing = invoke("calls", environment=admin).stdout
    assert call in listing
    assert "main → support" in listing
    [main, support] = json.loads(invoke("trunks", "--json", environment=admin).stdout)["trunks"]
    assert (main["active_calls"], support["active_calls"]) == (1, 1)
    labels = '{carrier="main",direction="inbound",platform="support"}'
    assert f"trunkbridge_calls_active{labels} 1.0" in get(f"{bridge.admin}/metrics")[1]

    assert invoke("calls", "hangup", call, environment=admin).returncode == 0
    for peer in (carrier, platform):
        bye, source = peer.receive("BYE")
        peer.answer(bye, source, "200 OK")
    assert tag
    until(lambda: len(get_json(f"{bridge.admin}/api/v1/records")["records"]) == 1)
    [record] = json.loads(invoke("records", "--since", "1h", "--json", environment=admin).stdout)["records"]
    assert (record["id"], record["ended_by"], record["reason"]) == (call, "operator", "operator")
    status, _, err = bridge.stop()
    assert status == 0
    assert f"call {call} dialling" in err
    assert f"call {call} up" in err
    assert f"call {call} completed reason=operator" in err
    offline = json.loads(invoke("records", "--state-dir", str(tmp_path / "state"), "--json").stdout)["records"]
    jsonl = [json.loads(line) for line in (tmp_path / "state" / "records.jsonl").read_text().splitlines()]
    assert offline == jsonl == [record]
    assert CANARY not in err + json.dumps(shown) + drawn


def test_a_live_call_is_transferred_from_the_command_line(bridge: Bridge, peers: tuple[Peer, Peer]) -> None:
    """D36, T09: what the rules forbid is refused in one sentence; else the target is dialled."""
    carrier, platform = peers
    set_up(bridge, carrier, platform)
    [live] = get_json(f"{bridge.admin}/api/v1/calls?state=active")["calls"]
    command = ("calls", "--admin", bridge.admin, "transfer", live["id"])
    forbidden = invoke(*command, "sip:900@elsewhere.example")
    assert (forbidden.returncode, forbidden.stdout) == (1, "")
    assert "the rules forbid this target" in forbidden.stderr
    accepted = invoke(*command, "+14155550777")
    assert (accepted.returncode, accepted.stdout) == (0, "transferring to +14155550777\n")
    invite, source = carrier.receive("INVITE")
    assert "sip:+14155550777@" in invite.splitlines()[0]
    carrier.answer(invite, source, "486 Busy Here")
    until(lambda: get_json(f"{bridge.admin}/api/v1/calls/{live['id']}")["transfer"]["status"] == 486)
    bridge.process.send_signal(signal.SIGTERM)
    bridge.process.send_signal(signal.SIGTERM)


def test_a_capture_of_a_live_call_lands_where_it_was_asked(
    bridge: Bridge, peers: tuple[Peer, Peer], tmp_path: Path
) -> None:
    carrier, platform = peers
    set_up(bridge, carrier, platform)
    [live] = get_json(f"{bridge.admin}/api/v1/calls?state=active")["calls"]
    target = tmp_path / "call.pcap"
    result = invoke("calls", "--admin", bridge.admin, "capture", live["id"], "-o", str(target), "--seconds", "1")
    assert (result.returncode, result.stderr) == (0, "")
    magic = target.read_bytes()[:4]
    assert magic in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\xc3\xd4"), "pcap, micro- or nanoseconds"
    assert target.stat().st_size > 24 + 20 * 172, "a second of fill in each direction"
    bridge.process.send_signal(signal.SIGTERM)
    bridge.process.send_signal(signal.SIGTERM)


def test_f16_calls_go_on_while_the_disk_fails_and_their_records_come_after(
    bridge: Bridge, peers: tuple[Peer, Peer], tmp_path: Path
) -> None:
    """F16: the state directory vanishes during a call; the call is served, its record is written when it is back."""
    carrier, platform = peers
    state, away = tmp_path / "state", tmp_path / "away"
    state.rename(away)
    tag = set_up(bridge, carrier, platform)
    carrier.send(carrier.request("BYE", "call1", "+14155550100", 2, tag), bridge.sip)
    bye, source = platform.receive("BYE")
    platform.answer(bye, source, "200 OK")
    until(lambda: len(get_json(f"{bridge.admin}/api/v1/calls?state=ended")["calls"]) == 1)
    assert len(get_json(f"{bridge.admin}/api/v1/records")["records"]) == 1, "what waits can be asked for"
    bridge.log_until("call records can't be written")
    away.rename(state)
    bridge.log_until("call records are written again")
    assert len((state / "records.jsonl").read_text().splitlines()) == 1
    assert bridge.stop()[0] == 0


def test_the_json_log_is_json_to_the_last_line(tmp_path: Path) -> None:
    with running(write_config(tmp_path), ["--log-format", "json"]) as bridge:
        status, _, err = bridge.stop()
    lines = [json.loads(line) for line in err.splitlines()]
    assert status == 0
    assert {"time", "level", "message", "source"} <= set(lines[0])


# -- the admin server ------------------------------------------------------------------------------------------------


def test_t05_a_stranger_hears_nothing_and_is_counted(bridge: Bridge) -> None:
    stranger = Peer(("127.0.0.93", 5093))
    stranger.socket.settimeout(0.3)
    for number in range(5):
        stranger.invite(bridge.sip, f"stranger{number}")
    with pytest.raises(TimeoutError):
        stranger.socket.recv(100)
    stranger.close()
    assert 'trunkbridge_sip_rejected_total{reason="unknown-source"} 5.0' in get(f"{bridge.admin}/metrics")[1]
    assert bridge.stop()[0] == 0


def test_t18_beyond_loopback_the_token_is_needed(tmp_path: Path) -> None:
    with running(write_config(tmp_path, admin="0.0.0.0:0", token="s3cret-canary")) as bridge:
        admin = bridge.admin.replace("0.0.0.0", "127.0.0.1")
        for path in ("/metrics", "/healthz", "/api/v1/calls", "/api/v1/openapi.json"):
            assert get(admin + path)[0] == 401
            assert get(admin + path, "wrong")[0] == 401
            assert get(admin + path, "s3cret-canary")[0] == 200
        assert get(f"{admin}/api/v1/drain", method="POST")[0] == 401
        environment = {"TRUNKBRIDGE_ADMIN": admin}
        refused = invoke("calls", environment=environment)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "TRUNKBRIDGE_TOKEN" in refused.stderr
        with_token = {**environment, "TRUNKBRIDGE_TOKEN": "s3cret-canary"}
        assert invoke("calls", "--json", environment=with_token).stdout == '{\n  "calls": []\n}\n'
        assert invoke("drain", environment=with_token).stdout == "draining, 0 calls in progress\n"
        assert get(f"{admin}/readyz", "s3cret-canary")[0] == 503
        status, _, err = bridge.stop()
    assert status == 0
    assert "s3cret-canary" not in err
