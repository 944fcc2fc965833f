"""Accounts that register, either way: what `check` asks of them (D24)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import Host, check

ROUTES = '[[routes]]\nfrom = "agents"\nto = ["main"]\n'


def checked(tmp_path: Path, carrier: str, platform: str) -> list[str]:
    path = tmp_path / "trunkbridge.toml"
    path.write_text(f"[carriers.main]\n{carrier}\n[platforms.agents]\n{platform}\n{ROUTES}")
    path.chmod(0o600)
    config, errors = check(path)
    if config is not None:
        errors = [*errors, *config.warnings]
    return [f"{error.key}: {error.problem}" for error in errors]


HOSTS = 'hosts = ["192.0.2.1"]'
OURS = f'{HOSTS}\nregister = true\nusername = "trunk"\npassword = "p"'
THEIRS = 'registers = true\ninbound_username = "agent"\ninbound_password = "p"'


@pytest.mark.parametrize(
    ("carrier", "platform", "problems"),
    [
        (OURS, THEIRS, []),
        (OURS, 'registers = true\nsources = ["192.0.2.0/24"]', []),
        (
            f"{HOSTS}\nregister = true",
            THEIRS,
            ["carriers.main.register: needs the name that the carrier knows us by"],
        ),
        (
            OURS,
            "registers = true",
            ["platforms.agents.registers: lets nobody register: no address of the account is known, and no password"],
        ),
        (
            f'{HOSTS}\nregistrar = "sip.example.com"',
            THEIRS,
            ["carriers.main.registrar: names where to register, but this account does not register"],
        ),
    ],
)
def test_an_account_that_registers_needs_a_name_and_one_that_is_registered_a_way_to_tell_it(
    tmp_path: Path, carrier: str, platform: str, problems: list[str]
) -> None:
    assert checked(tmp_path, carrier, platform) == problems


def test_the_registrar_may_stand_elsewhere_than_the_hosts(tmp_path: Path) -> None:
    path = tmp_path / "trunkbridge.toml"
    path.write_text(f'[carriers.main]\n{OURS}\nregistrar = "reg.example.com:5070"\n')
    path.chmod(0o600)
    config, errors = check(path)
    assert errors == []
    assert config is not None
    assert config.carriers["main"].registrar == Host("reg.example.com", 5070, "")
