"""The runner: every outcome of a case is told, and none of them ends the suite."""

import json

import pytest
from click.testing import CliRunner

from bridge.cli.conformance import conformance
from conformance.ground import Ground, NotApplicable, config_for_others, tool
from conformance.peer import Unmet
from conformance.runner import Case, Result, cases, play


class NoGround(Ground):
    """A ground on which nothing is started."""

    def __init__(self):
        pass

    def end_case(self):
        pass

    def bridge_died(self):
        return ""


def outcome(action, limit=5.0):
    return play(Case("id", "title", action, limit, False), NoGround())


def fail(error):
    raise error


def test_a_case_that_returns_has_passed_with_what_it_measured():
    verdict = outcome(lambda ground: "3 calls")
    assert (verdict.result, verdict.reason) == (Result.PASSED, "3 calls")


def test_a_missing_party_is_not_applicable_with_the_remedy():
    verdict = outcome(lambda ground: fail(NotApplicable("install it")))
    assert (verdict.result, verdict.reason) == (Result.NOT_APPLICABLE, "install it")


@pytest.mark.parametrize("error", [Unmet("no BYE"), KeyError("legs"), OSError("gone")])
def test_whatever_goes_wrong_in_a_case_fails_it_alone(error):
    assert outcome(lambda ground: fail(error)).result is Result.FAILED


def test_a_case_that_hangs_is_ended():
    import time

    verdict = outcome(lambda ground: time.sleep(10), limit=0.2)
    assert verdict.result is Result.FAILED
    assert "0.2 s" in verdict.reason


def test_a_tool_that_is_not_there_names_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotApplicable, match="apt-get install sip-tester"):
        tool("sipp")


def test_list_names_every_case_once():
    listed = json.loads(CliRunner().invoke(conformance, ["--list", "--json"]).output)
    assert [one["id"] for one in listed] == [one.id for one in cases()]
    assert len({one["title"] for one in listed}) == len(listed)


def test_a_pattern_that_matches_nothing_says_so():
    result = CliRunner().invoke(conformance, ["--only", "no-such-case"])
    assert result.exit_code == 1
    assert "--list" in result.output


def test_the_configuration_for_other_bridges_passes_our_own_check(tmp_path):
    from bridge.cli import main

    path = tmp_path / "against.toml"
    path.write_text(config_for_others())
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0, result.output
