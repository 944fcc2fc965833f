"""Commands that need no running bridge, and what clients say where none runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import COMMANDS, main
from bridge.cli.ladder import WIDTH, ladder
from tests.cli.process import CANARY, invoke, write_config


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_help_names_every_command_without_importing_any() -> None:
    code = (
        "import sys; from bridge.cli import main; main(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    )
    import subprocess
    import sys

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout
    listing, _, modules = out.rpartition("\n[")
    for name in COMMANDS:
        assert f"\n  {name} " in listing
    for heavy in ("'twisted", "'rich", "'prometheus_client", "'bridge.app'"):
        assert heavy not in modules


def test_what_the_system_refuses_is_one_sentence() -> None:
    status, out, err = run("records", "--state-dir", "x" * 300)
    assert (status, out) == (1, "")
    assert err.startswith("Error: ")
    assert "File name too long" in err


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    status, out, err = run(name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith("Usage: ")


def test_the_version_is_printed() -> None:
    result = invoke("--version")
    assert (result.returncode, result.stdout) == (0, "trunkbridge 0.1.0\n")


def test_check_sums_up_a_good_configuration_and_shows_no_secret(tmp_path: Path) -> None:
    status, out, err = run("check", str(write_config(tmp_path, admin="0.0.0.0:9060", token="s3cret")))
    assert (status, err) == (0, "")
    assert "is fine" in out
    assert "main: generic-carrier, 127.0.0.91:5091 (udp)" in out
    assert "support line: from main, number +1415* → support" in out
    assert CANARY not in out
    assert "s3cret" not in out


def test_check_names_every_problem_with_file_line_key_and_remedy_and_exits_2(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace('ports = "34000-34099"', 'ports = "34099-34000"\nspeed = 9'))
    status, out, err = run("check", str(config))
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 2
    for line, key in zip(lines, ("ports", "speed"), strict=True):
        assert line.startswith(f"{config}:")
        assert key in line
        assert "; " in line, "what to write instead"


def test_check_of_a_file_that_is_not_there_exits_2(tmp_path: Path) -> None:
    status, out, err = run("check", str(tmp_path / "none.toml"))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_route_shows_what_would_be_sent(tmp_path: Path) -> None:
    config = str(write_config(tmp_path))
    status, out, err = run("route", config, "--from", "main", "--to", "+14155550100", "--caller", "+14155550199")
    assert (status, err) == (0, "")
    assert out.startswith("route support line\n→ support at 127.0.0.92:5092;transport=udp\n")
    assert "INVITE sip:+14155550100@127.0.0.92:5092" in out
    assert "+14155550199" in out
    assert "m=audio 0 RTP/AVP 0 8 101" in out


def test_route_as_json_has_the_route_and_its_targets(tmp_path: Path) -> None:
    status, out, _ = run("route", str(write_config(tmp_path)), "--from", "main", "--to", "+14155550100", "--json")
    plan = json.loads(out)
    assert status == 0
    assert plan["route"] == "support line"
    assert plan["targets"][0]["request_uri"] == "sip:+14155550100@127.0.0.92:5092"


def test_route_without_a_match_says_so_and_exits_1(tmp_path: Path) -> None:
    status, _, err = run("route", str(write_config(tmp_path)), "--from", "main", "--to", "+49301234")
    assert (status, err) == (1, "Error: no route takes +49301234 from main\n")


@pytest.mark.parametrize(("number", "caller"), [("+14155550100", "a b"), ("+14155550100", "a\r\nb")])
def test_route_says_what_can_stand_in_no_uri_and_exits_1(tmp_path: Path, number: str, caller: str) -> None:
    config = str(write_config(tmp_path))
    status, _, err = run("route", config, "--from", "main", "--to", number, "--caller", caller)
    assert status == 1
    assert err == f"Error: --to {number!r} or --caller {caller!r} can't stand in a URI (400 Malformed URI)\n"


def test_route_from_an_unknown_party_names_the_known_ones_and_exits_1(tmp_path: Path) -> None:
    status, _, err = run("route", str(write_config(tmp_path)), "--from", "nobody", "--to", "+1")
    assert status == 1
    assert "it has main, support" in err


def test_profiles_are_listed_shown_and_checked(tmp_path: Path) -> None:
    status, out, _ = run("profiles", "list")
    assert status == 0
    for name in ("vapi", "retell", "bland", "twilio", "telnyx", "generic-carrier", "generic-platform"):
        assert f"\n{name} " in out
    names = [one["name"] for one in json.loads(run("profiles", "list", "--json")[1])["profiles"]]
    assert "vapi" in names
    status, out, _ = run("profiles", "show", "vapi")
    assert status == 0
    assert "checked on 20" in out
    assert json.loads(run("profiles", "show", "vapi", "--json")[1])["name"] == "vapi"


def test_an_unknown_profile_is_one_sentence_and_exit_2() -> None:
    status, out, err = run("profiles", "show", "vappi")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "vapi" in err, "what was meant"


def test_a_profile_of_ones_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "generic-platform"\nnonsense = 1\n')
    status, out, err = run("profiles", "check", str(path))
    assert (status, out) == (2, "")
    assert f"{path}:2: nonsense" in err


@pytest.mark.parametrize(
    "arguments", [["calls"], ["trunks"], ["records"], ["drain"], ["calls", "show", "x"], ["calls", "hangup", "x"]]
)
def test_without_a_bridge_a_client_says_one_sentence_and_exits_1(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKBRIDGE_ADMIN", "http://127.0.0.1:1")
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert line.startswith("Error: no bridge answers at http://127.0.0.1:1 (Connection refused)")


def test_a_time_that_is_none_is_one_sentence_and_exit_2() -> None:
    status, _, err = run("records", "--since", "yesterday")
    assert status == 2
    assert len(err.splitlines()) == 1


def test_records_of_a_directory_without_any_are_one_sentence_and_exit_1(tmp_path: Path) -> None:
    status, _, err = run("records", "--state-dir", str(tmp_path))
    assert status == 1
    assert "records.db" in err


def test_a_bug_is_one_sentence_without_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.profile.builtin_profiles", lambda: 1 / 0)
    status, out, err = run("profiles", "list")
    assert (status, out) == (1, "")
    assert err == "Error: a bug of ours: ZeroDivisionError: division by zero; TRUNKBRIDGE_TRACEBACK=1 shows where\n"


def test_the_ladder_points_each_message_the_way_it_went() -> None:
    def step(kind: str, leg: str, method: str, status: int | None, summary: str) -> dict[str, object]:
        return {
            "at": "2026-01-01T10:00:00.123Z", "kind": kind, "leg": leg, "peer": "127.0.0.9:5060", "method": method,
            "status": status, "retransmission": False, "summary": summary, "text": summary,
        }  # fmt: skip

    lines = ladder(
        {
            "carrier": "main",
            "platform": "support",
            "messages": [
                step("received", "carrier", "INVITE", None, "INVITE sip:a@b SIP/2.0"),
                {"at": "2026-01-01T10:00:00.124Z", "kind": "state", "text": "dialling"},
                step("sent", "platform", "INVITE", None, "INVITE sip:a@b SIP/2.0"),
                step("received", "platform", "INVITE", 200, "SIP/2.0 200 OK"),
                step("sent", "carrier", "INVITE", 200, "SIP/2.0 200 OK\x1b[2J"),
            ],
        }
    )
    blank = " " * WIDTH
    assert lines[2].startswith("10:00:00.123  |---")
    assert lines[2].endswith(f">|{blank}|")
    assert "* dialling" in lines[3]
    assert lines[4].startswith(f"10:00:00.123  |{blank}|---")
    assert f"|{blank}|<---" in lines[5]
    assert lines[6].startswith("10:00:00.123  |<---")
    assert "\x1b" not in "".join(lines)
    assert len({len(line) for line in lines[1:]}) == 1, "the rails are straight"
