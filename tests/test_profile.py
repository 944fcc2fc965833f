"""Profiles: the built-in ones are complete, sourced and true to their facts; a wrong one says where and why."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError
from bridge.profile import BUILTIN, SCHEMA, Profile, builtin_profiles, check_profile, load_profile

GENERIC = ("generic-carrier", "generic-platform")
SPECIAL = tuple(name for name in builtin_profiles() if name not in GENERIC)
PACKAGE = Path(__file__).resolve().parent.parent / "bridge"


def raw(name: str) -> dict[str, Any]:
    return tomllib.loads((BUILTIN / f"{name}.toml").read_text("utf-8"))


def behaviour_keys(name: str) -> set[str]:
    """Return the keys a profile sets anywhere: at its top, in its modes, in its regions."""
    values = raw(name)
    tables = [values, *values.get("modes", {}).values(), *values.get("regions", {}).values()]
    return {key for table in tables for key in table if key in SCHEMA} - {"kind", "title", "notes", "checked_on"}


def test_the_promised_profiles_are_there():
    assert builtin_profiles() == ["bland", "generic-carrier", "generic-platform", "retell", "telnyx", "twilio", "vapi"]


@pytest.mark.parametrize("name", builtin_profiles())
def test_every_profile_loads_in_every_mode_and_region(name):
    profile, errors = check_profile(name)
    assert errors == []
    assert profile is not None
    for mode in profile.modes or ("",):
        for region in profile.regions or ("",):
            overrides = {key: value for key, value in (("mode", mode), ("region", region)) if value}
            loaded = load_profile(name, overrides)
            assert (loaded.mode, loaded.region) == (mode, region)
            assert "{domain}" not in " ".join((loaded.request_uri, *loaded.hosts))


def test_every_field_is_a_key_of_the_schema():
    """The dataclass and the schema are one list; the rest is what the loader itself fills in."""
    names = {item.name for item in dataclasses.fields(Profile)}
    assert names - SCHEMA.keys() == {"name", "mode", "modes", "region", "regions", "facts"}
    assert SCHEMA.keys() <= names


def test_the_readme_explains_every_key_and_tells_which_may_be_overridden():
    rows = re.findall(r"^\| `([a-z_]+)` \| (✎?) ?\|.*\|$", (BUILTIN / "README.md").read_text("utf-8"), re.M)
    assert [key for key, _ in rows] == list(dict(rows))
    assert {key: bool(mark) for key, mark in rows} == {key: SCHEMA[key].overridable for key in SCHEMA}


@pytest.mark.parametrize("name", SPECIAL)
def test_every_key_that_a_profile_sets_has_its_fact(name):
    assert behaviour_keys(name) == set(raw(name)["facts"])


@pytest.mark.parametrize("name", SPECIAL)
def test_every_fact_has_a_source_that_resolves_and_a_date(name):
    values = raw(name)
    sources, today = values["sources"], datetime.datetime.now(datetime.UTC).date()
    for key, fact in values["facts"].items():
        assert fact["source"], key
        assert set(fact["source"]) <= set(sources), key
        assert datetime.date(2026, 1, 1) <= fact["checked_on"] <= max(today, datetime.date(2026, 11, 22)), key
        assert fact["note"], key
    for text in sources.values():
        assert re.fullmatch(r"https://[!-~]+|field note: .+", text)
    cited = {name for note in values.get("notes", ()) for group in re.findall(r"\[([^]]+)\]", note)
             for name in group.split(", ")}  # fmt: skip
    used = cited | {name for fact in values["facts"].values() for name in fact["source"]}
    assert used == set(sources)


@pytest.mark.parametrize("name", SPECIAL)
def test_a_profile_is_as_old_as_its_oldest_fact(name):
    profile = load_profile(name)
    own = [profile.facts[key].checked_on for key in raw(name)["facts"]]
    assert profile.facts
    assert profile.checked_on in (min(own), load_profile(f"generic-{profile.kind}").checked_on)


def strings_of(path: Path) -> list[str]:
    """Return the string literals of a module that are not docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_no_code_knows_a_party_by_its_name():
    """A party is one file of data. The CLI alone may name one: what it writes is a configuration."""
    named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in SPECIAL), re.I)
    compared = re.compile(r"profile\.name\s*(==|!=|in\b|not\b)")
    for path in PACKAGE.rglob("*.py"):
        if path.parent != PACKAGE / "cli":
            assert [text for text in strings_of(path) if named.search(text)] == [], path
        assert not compared.search(path.read_text("utf-8")), path


# -- what the facts say ----------------------------------------------------------------------------------------------


def test_a_vapi_sip_number_is_dialled_by_its_name_and_answers_any_credentials():
    """D1, D9."""
    profile = load_profile("vapi")
    assert (profile.hosts, profile.request_uri) == (("sip.vapi.ai",), "sip:{user}@{host}")
    assert profile.authentication == "any"
    assert profile.placeholders == ("user",)
    assert profile.signalling_sources == ("44.229.228.186/32", "44.238.177.138/32")


def test_a_vapi_trunk_is_dialled_by_number_at_its_own_host():
    """D1, D2."""
    profile = load_profile("vapi", {"mode": "own-trunk", "region": "eu"})
    assert profile.hosts == ("{credential_id}.sip.eu.vapi.ai",)
    assert profile.request_uri == "sip:{number}@{host}"
    assert profile.plus == {"request_uri": "strip", "to": "strip", "from": "keep"}
    assert profile.placeholders == ("credential_id",)
    assert profile.authentication == "none"


def test_a_region_brings_all_that_belongs_together():
    """D5, D18."""
    for name in ("vapi", "bland", "telnyx"):
        seen: set[str] = set()
        for region in load_profile(name).regions:
            profile = load_profile(name, {"region": region})
            assert profile.signalling_sources
            assert not seen & {profile.domain, *profile.signalling_sources}
            seen |= {profile.domain, *profile.signalling_sources}


def test_retell_compares_numbers_as_text_and_needs_the_http_step_only_in_register_call():
    """D1, D2, D6."""
    imported, registered = load_profile("retell"), load_profile("retell", {"mode": "register-call"})
    assert imported.plus["request_uri"] == "add"
    assert imported.requires == ()
    assert registered.request_uri == "sip:{call_id}@{host}"
    assert registered.requires == ("http-step",)
    assert set(registered.variables) >= {"agent_id", "api_key"}


def test_bland_calls_from_its_media_addresses_and_takes_nothing_but_tls_and_srtp():
    """D18, D20, D25."""
    profile = load_profile("bland")
    assert (profile.transports, profile.port, profile.srtp) == (("tls",), 5061, "require")
    assert set(profile.requires) == {"tls", "srtp"}
    assert set(profile.media_sources) < set(profile.signalling_sources)
    assert len(profile.signalling_sources) == 6


def test_twilio_wants_e164_and_never_a_bare_address():
    """D2, D18."""
    profile = load_profile("twilio")
    assert set(profile.plus.values()) == {"add"}
    assert profile.hosts == ()  # the trunk's own name, which only the account knows
    assert len(profile.signalling_sources) == 8
    assert not set(profile.signalling_sources) & set(profile.media_sources)


def test_a_failed_platform_makes_telnyx_try_elsewhere_and_a_refusal_stops_it():
    """D12."""
    profile = load_profile("telnyx")
    elsewhere = {408, 480, 503, 504}
    for status in (401, 403, 407, 408, 480, 500, 501, 502, 503, 504, 505, 513, 580):
        assert profile.responses.get(status, status) in elsewhere, status
    for status in (404, 486, 603):
        assert profile.responses.get(status, status) == status


@pytest.mark.parametrize("name", builtin_profiles())
def test_every_party_hears_ringing_within_a_second_and_final_refusals_stay_final(name):
    """D7, D12, D8."""
    profile = load_profile(name)
    assert profile.ringing_after < 1.0
    assert not {486, 600, 603, 404} & set(profile.retry)
    assert {503, 408} <= set(profile.retry)
    assert profile.response_deadline <= 4.0
    assert profile.ring_deadline < 300
    assert not {401, 407} & set(profile.responses.values())
    assert {401, 407} <= profile.responses.keys()


# -- profiles of one's own -------------------------------------------------------------------------------------------


def write(directory: Path, text: str, name: str = "mine.toml") -> str:
    (directory / name).write_text(text, "utf-8")
    return f"./{name}"


def test_a_profile_of_ones_own_extends_a_generic_one(tmp_path):
    path = write(
        tmp_path,
        'extends = "generic-platform"\ntitle = "Mine"\nhosts = ["pbx.example.com:5080"]\n'
        "[plus]\nto = 'add'\n[responses]\n486 = 480\n",
    )
    profile = load_profile(path, base=tmp_path)
    assert (profile.name, profile.kind, profile.title) == ("mine", "platform", "Mine")
    assert profile.plus == {"request_uri": "keep", "to": "add", "from": "keep"}
    assert profile.responses == {**load_profile("generic-platform").responses, 486: 480}
    assert profile.codecs == ("PCMU", "PCMA")


def test_profiles_extend_each_other_from_beside_each_other(tmp_path):
    write(tmp_path, 'extends = "generic-platform"\nfill_after_ms = 300\nnotes = ["a"]\n', "house.toml")
    path = write(tmp_path, 'extends = "house"\nnotes = ["b"]\n')
    profile = load_profile(path, base=tmp_path)
    assert (profile.fill_after_ms, profile.notes) == (300, ("a", "b"))


def test_the_accounts_own_keys_come_last():
    profile = load_profile("vapi", {"region": "eu", "signalling_sources": ["192.0.2.0/24"], "plus": {"to": "add"}})
    assert profile.signalling_sources == ("192.0.2.0/24",)
    assert profile.plus["to"] == "add"
    assert profile.domain == "sip.eu.vapi.ai"


BAD = {
    'extends = "generic-platform"\nfil = "off"\n': (2, "fil", 'did you mean "fill"?'),
    'extends = "generic-platform"\nfill = "music"\n': (2, "fill", 'write "silence" or "off"'),
    'extends = "generic-platform"\nptime_ms = "20"\n': (2, "ptime_ms", "write a whole number from 10 to 60"),
    'extends = "generic-platform"\nptime_ms = true\n': (2, "ptime_ms", "write a whole number from 10 to 60"),
    'extends = "generic-platform"\ntelephone_event = 1\n': (
        2,
        "telephone_event",
        "write true or false, without quotes",
    ),
    'extends = "generic-platform"\nring_deadline = 301\n': (2, "ring_deadline", "write seconds from 1 to 300"),
    'extends = "generic-platform"\ncodecs = [\n"PCMU",\n"G729"]\n': (4, "codecs[1]", 'write "PCMU" or "PCMA"'),
    'extends = "generic-platform"\ncodecs = []\n': (2, "codecs", "name at least one"),
    'extends = "generic-platform"\ncodecs = "PCMU"\n': (2, "codecs", 'write ["PCMU"]'),
    'extends = "generic-platform"\n[plus]\nto = "plus"\n': (3, "plus.to", 'write "add", "strip" or "keep"'),
    'extends = "generic-platform"\nsignalling_sources = ["192.0.2.7/24"]\n': (
        2,
        "signalling_sources[0]",
        'write "192.0.2.0/24"',
    ),
    'extends = "generic-platform"\nmedia_sources = ["example.com"]\n': (
        2,
        "media_sources[0]",
        'write a network as "192.0.2.0/24"',
    ),
    'extends = "generic-platform"\nretry = [200]\n': (2, "retry[0]", "write a whole number from 300 to 699"),
    'extends = "generic-platform"\n[responses]\n486 = 200\n': (
        3,
        "responses.486",
        "write a whole number from 400 to 699",
    ),
    'extends = "generic-platform"\n[headers]\nVia = "x"\n': (3, "headers.Via", "leave it out"),
    'extends = "generic-platform"\n[headers]\nX-A = "a\\r\\nVia: b"\n': (3, "headers.X-A", "write one line of text"),
    'extends = "generic-platform"\nrequest_uri = "{number}"\n': (
        2,
        "request_uri",
        'write a SIP URI with placeholders: "sip:{number}@{host}"',
    ),
    'extends = "generic-platform"\nrequest_uri = "sip:{Number}@{host}"\n': (
        2,
        "request_uri",
        'write a SIP URI with placeholders: "sip:{number}@{host}"',
    ),
    'extends = "generic-platform"\n[modes.a]\nfil = 1\n': (3, "modes.a.fil", 'did you mean "fill"?'),
    'extends = "generic-platform"\nmodes = 3\n': (2, "modes", "write [modes.NAME]"),
    'extends = "generic-platform"\ndefault_mode = "b"\n[modes.a]\n': (2, "default_mode", 'write "a"'),
    'extends = "generic-platform"\n[facts.fil]\nsource = []\n': (2, "facts.fil", 'did you mean "fill"?'),
    'extends = "generic-platform"\n[facts.fill]\nsource = ["V1"]\n[sources]\nV2 = "https://x"\n': (
        3,
        "facts.fill.source[0]",
        "write the page's address there",
    ),
    'extends = "generic-platform"\n[facts.fill]\nchecked_on = "soon"\n': (
        3,
        "facts.fill.checked_on",
        "write it as 2026-11-22",
    ),
    'extends = "generic-plattform"\n': (1, "extends", 'did you mean "generic-platform"?'),
    'extends = "generic-platform"\nsources = 3\n[facts.fill]\n': (2, "sources", "write [sources]"),
    "extends = 3\n": (1, "extends", 'write extends = "generic-platform"'),
    'extends = "./mine.toml"\n': (1, "extends", "extend a generic profile"),
    'kind = "platform"\n': (0, "file", 'write it, or extends = "generic-platform"'),
    'kind = "phone"\n': (1, "kind", 'write "carrier" or "platform"'),
    "fill = \n": (1, "TOML", 'write it as TOML: key = "value", [table]'),
}


@pytest.mark.parametrize(("text", "expected"), BAD.items(), ids=[f"{line}-{key}" for line, key, _ in BAD.values()])
def test_a_mistake_names_file_line_key_and_remedy(tmp_path, text, expected):
    path = write(tmp_path, text)
    profile, errors = check_profile(path, base=tmp_path)
    assert profile is None
    assert (errors[0].line, errors[0].key, errors[0].remedy) == expected
    assert errors[0].file == str(tmp_path / "mine.toml")
    with pytest.raises(ConfigError):
        load_profile(path, base=tmp_path)


def test_every_mistake_of_a_file_is_listed_in_the_order_of_its_lines(tmp_path):
    path = write(
        tmp_path, 'extends = "generic-platform"\nport = 0\n[modes.a]\nport = 1\n[regions.b]\nsrtp = 1\nx = 2\n'
    )
    _, errors = check_profile(path, base=tmp_path)
    assert [error.line for error in errors] == [2, 6, 7]


def test_an_unknown_profile_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match='did you mean "telnyx"'):
        load_profile("telnx")
    with pytest.raises(ConfigError, match=r'"bland", .* or "vapi", or the path of a \.toml file'):
        load_profile("zzz")
    with pytest.raises(ConfigError, match='write "imported-number" or "register-call"'):
        load_profile("retell", {"mode": "import"})
    with pytest.raises(ConfigError, match="leave mode out"):
        load_profile("telnyx", {"mode": "x"})
