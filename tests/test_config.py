"""trunkbridge.toml: what a right one means, and what a wrong one is told."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.config import PREMIUM, QUEUE_FOR, Admin, Config, Host, Listen, Media, NodeLimits, Route, Tls, check, load
from bridge.errors import ConfigError
from tests.net.certificates import authority

EXAMPLE = Path(__file__).resolve().parent.parent / "deploy" / "trunkbridge.toml"
CANARY = "s3cret-canary"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a configuration, readable by its owner alone, and returns its path."""

    def write(text: str) -> Path:
        path: Path = tmp_path / "trunkbridge.toml"
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def problems(write):
    """Return a function that checks a text and returns its errors as ``LINE: key: problem; remedy``."""

    def problems(text: str) -> list[str]:
        path = write(text)
        config, errors = check(path)
        assert (config is None) == bool(errors)
        return [str(error).removeprefix(f"{path}:") for error in errors]

    return problems


def loaded(write, text: str) -> Config:
    config, errors = check(write(text))
    assert errors == []
    assert config is not None
    return config


# -- what a right one means ------------------------------------------------------------------------------------------


def test_an_empty_file_is_a_bridge_with_sensible_defaults(write, tmp_path):
    config = loaded(write, "")
    assert config.node.name == "trunkbridge"
    assert config.node.state_dir == tmp_path / ".trunkbridge"
    assert config.sip.listen == (Listen("udp", "0.0.0.0", 5060),)
    assert (config.sip.advertise, config.media) == ("auto", Media("0.0.0.0", "auto", (10000, 19999), "native"))
    assert config.admin == Admin(("127.0.0.1", 9060), "")
    assert config.routes == ()
    assert [warning.problem for warning in config.warnings] == ["there are no routes: every call is refused"]


def test_a_full_file_is_read_as_it_is_written(write, tmp_path):
    config = loaded(
        write,
        """
        [node]
        name = "edge-1"
        state_dir = "/var/lib/trunkbridge"
        [sip]
        listen = ["udp:127.0.0.1:0", "udp:[::1]:5070"]
        advertise = "sip.example.com"
        [media]
        address = "127.0.0.1"
        advertise = "2001:db8::5"
        ports = "20000-20099"
        [admin]
        listen = "[::1]:9061"
        [carriers.main]
        profile = "twilio"
        hosts = ["example.pstn.twilio.com", "192.0.2.9:5062;transport=UDP", "[2001:db8::9]:5064"]
        sources = ["198.51.100.0/24", "2001:db8:1::/48"]
        username = "user"
        password = "with $ and } but no reference"
        max_calls = 100
        cps = 1.5
        [platforms.support]
        profile = "vapi"
        user = "support-agent"
        [[routes]]
        name = "support line"
        from = "main"
        number = "+1 (415) 555-01*"
        to = ["support"]
        [[routes]]
        from = "support"
        to = ["main"]
        """,
    )
    assert (config.node.name, config.node.state_dir) == ("edge-1", Path("/var/lib/trunkbridge"))
    assert config.sip.listen == (Listen("udp", "127.0.0.1", 0), Listen("udp", "::1", 5070))
    assert config.media.ports == (20000, 20099)
    assert config.admin.listen == ("::1", 9061)
    main, support = config.peer("main"), config.peer("support")
    assert (main.kind, main.max_calls, main.cps) == ("carrier", 100, 1.5)
    assert main.password == "with $ and } but no reference"
    assert main.hosts == (
        Host("example.pstn.twilio.com", 0, ""),
        Host("192.0.2.9", 5062, "udp"),
        Host("2001:db8::9", 5064, ""),
    )
    assert main.sources[:2] == ("198.51.100.0/24", "2001:db8:1::/48")
    assert main.sources[2:10] == main.profile.signalling_sources
    assert main.sources[10:] == ("192.0.2.9/32", "2001:db8::9/128")
    assert (support.kind, support.user, support.hosts) == (
        "platform",
        "support-agent",
        (Host("sip.vapi.ai", 0, ""),),
    )
    assert config.routes == (
        Route("support line", "main", "+1 (415) 555-01*", ("support",)),
        Route("route 2", "support", "*", ("main",)),
    )
    assert config.warnings == ()


def test_the_example_in_deploy_is_right(monkeypatch):
    monkeypatch.setenv("CARRIER_PASSWORD", CANARY)
    config, errors = check(EXAMPLE)
    assert errors == []
    assert config is not None
    assert config.peer("main").password == CANARY
    assert config.peer("own").variables == {"extension": "1000"}


def test_a_profile_key_may_be_overridden_in_the_accounts_own_table(write):
    config = loaded(
        write, '[carriers.c]\nhosts = ["192.0.2.1"]\nresponses = {404 = 503}\nfill = "off"\nlatch_for = 2\n'
    )
    profile = config.peer("c").profile
    assert (profile.fill, profile.latch_for, profile.responses[404], profile.responses[401]) == ("off", 2.0, 503, 503)


def test_the_keys_a_template_names_come_from_the_accounts_table(write):
    config = loaded(
        write, '[platforms.p]\nprofile = "vapi"\nmode = "own-trunk"\nregion = "eu"\ncredential_id = "ab-1"\n'
    )
    peer = config.peer("p")
    assert peer.hosts == (Host("ab-1.sip.eu.vapi.ai", 0, ""),)
    assert peer.variables == {"credential_id": "ab-1"}


def test_a_private_edge_needs_none_of_the_keys_of_the_host_it_stands_for(write):
    config = loaded(write, '[platforms.p]\nprofile = "vapi"\nmode = "own-trunk"\nhosts = ["127.0.0.1:5080"]\n')
    peer = config.peer("p")
    assert peer.hosts == (Host("127.0.0.1", 5080, ""),)
    assert "127.0.0.1/32" in peer.sources


def test_a_header_whose_placeholder_is_not_set_is_left_out(write):
    """D4."""
    text = '[carriers.a]\nprofile = "telnyx"\n[carriers.b]\nprofile = "telnyx"\nusername = "bob"\npassword = "x"\n'
    config = loaded(write, text)
    assert dict(config.peer("a").profile.headers) == {}
    assert dict(config.peer("b").profile.headers) == {"X-Telnyx-Username": "bob"}


def test_a_profile_file_is_found_beside_the_configuration(write, tmp_path):
    (tmp_path / "pbx.toml").write_text('extends = "generic-platform"\nhosts = ["192.0.2.3:5080"]\n', "utf-8")
    assert loaded(write, '[platforms.p]\nprofile = "pbx.toml"\n').peer("p").profile.name == "pbx"


def test_a_peer_is_only_called_over_what_a_listener_speaks(write):
    """A transport that nobody wrote is DNS's or the profile's to say, but never one without a listener (D15)."""
    retell = loaded(write, '[platforms.r]\nprofile = "retell"\n').peer("r")
    assert retell.hosts == (Host("sip.retellai.com", 0, ""),)
    assert retell.profile.transports == ("udp",)


# -- references and secrets ------------------------------------------------------------------------------------------


def test_references_are_filled_from_the_environment_and_from_files(write, tmp_path, monkeypatch):
    monkeypatch.setenv("USER_NAME", "bob")
    (tmp_path / "secret").write_text(f"{CANARY}\n", "utf-8")
    (tmp_path / "secret").chmod(0o640)
    text = '[carriers.c]\nhosts = ["192.0.2.1"]\nusername = "${env:USER_NAME}@x"\npassword = "${file:secret}"\n'
    peer = loaded(write, text).peer("c")
    assert (peer.username, peer.password) == ("bob@x", CANARY)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${env:NOT_SET_ANYWHERE}", "the environment has no NOT_SET_ANYWHERE; export NOT_SET_ANYWHERE before starting"),
        ("${file:missing}", "missing cannot be read (No such file or directory); name a readable text file"),
        ("${vault:x}", '"${vault:x}" is no reference; write ${env:NAME} or ${file:PATH}'),
        ("${env:}", '"${env:}" is no reference'),
        ("${env:X", '"${env:X" is no reference'),
    ],
)
def test_a_reference_that_leads_nowhere_says_so(problems, value, said):
    text = f'[carriers.c]\nhosts = ["192.0.2.1"]\nusername = "u"\npassword = "{value}"\n'
    (problem,) = problems(text)
    assert problem.startswith("4: carriers.c.password: ")
    assert said in problem


def test_a_secret_that_everyone_can_read_is_refused(problems, tmp_path):
    """T17."""
    (tmp_path / "token").write_text(CANARY, "utf-8")
    (tmp_path / "token").chmod(0o644)
    (problem,) = problems('[admin]\ntoken = "${file:token}"\n')
    assert problem == f"2: admin.token: {tmp_path}/token can be read by everyone; chmod 600 {tmp_path}/token"


def test_a_secret_written_into_a_file_that_everyone_can_read_is_pointed_out(write):
    """T17."""
    path = write(f'[admin]\ntoken = "{CANARY}"\n')
    path.chmod(0o644)
    config = load(path)
    (warning,) = [warning for warning in config.warnings if warning.line == 2]
    assert (warning.key, warning.problem) == ("admin.token", "stands in a file that everyone can read")
    assert CANARY not in str(warning)


def test_no_secret_is_in_a_representation_or_in_an_error(write, monkeypatch):
    """T17: also where a reference stands in the wrong place."""
    monkeypatch.setenv("CANARY", CANARY)
    good = (
        f'[admin]\ntoken = "{CANARY}"\n[platforms.p]\nhosts = ["192.0.2.1"]\nusername = "u"\npassword = "{CANARY}"\n'
        f'request_uri = "sip:{{pin}}@{{host}}"\npin = "{CANARY}"\n'
    )
    config = loaded(write, good)
    assert config.peer("p").variables == {"pin": CANARY}
    assert CANARY not in repr(config)
    bad = """
        [node]
        name = "${env:CANARY} !"
        [sip]
        listen = ["udp:${env:CANARY}:5060", "${env:CANARY}"]
        advertise = "${env:CANARY} !"
        [media]
        address = "${env:CANARY}"
        advertise = "${env:CANARY}"
        ports = "${env:CANARY}"
        relay = "${env:CANARY}"
        [admin]
        listen = "${env:CANARY}"
        token = 7
        [carriers.c]
        profile = "${env:CANARY}"
        [carriers.d]
        hosts = ["${env:CANARY} !"]
        sources = ["${env:CANARY}"]
        password = "${env:CANARY}"
        fill = "${env:CANARY}"
        transports = "${env:CANARY}"
        [platforms.p]
        profile = "vapi"
        mode = "${env:CANARY}"
        [platforms.q]
        hosts = ["192.0.2.1"]
        request_uri = "sip:{pin}@{host}"
        pin = "${env:CANARY} !"
        [[routes]]
        from = "${env:CANARY}"
        number = "${env:CANARY}!"
        to = ["${env:CANARY}"]
        """
    config_of_bad, errors = check(write(bad))
    assert config_of_bad is None
    assert len(errors) >= 18
    assert CANARY not in " ".join(map(str, errors))


def test_a_control_character_in_an_account_is_refused(problems):
    """T13: it would become a header line."""
    (problem,) = problems('[carriers.c]\nhosts = ["192.0.2.1"]\nusername = "u\\r\\nVia: x"\npassword = "p"\n')
    assert problem == "3: carriers.c.username: holds a control character; write one line of text"


def test_a_control_character_in_what_fills_a_header_is_refused(problems, tmp_path, monkeypatch):
    """T13: an account's own keys stand in the headers of its profile; a file may hold more lines than one thinks."""
    (tmp_path / "mine.toml").write_text('extends = "generic-platform"\nvariables = ["pin"]\nheaders.X-Pin = "{pin}"\n')
    monkeypatch.setenv("PIN", "1\r\nX-Evil: 1")
    (problem,) = problems('[platforms.p]\nprofile = "./mine.toml"\nhosts = ["192.0.2.1"]\npin = "${env:PIN}"\n')
    assert problem == "4: platforms.p.pin: holds a control character; write one line of text"
    (problem,) = problems(P + 'headers.X-Pin = "a\\u0007b"\n')
    assert problem.startswith("3: platforms.p.headers.X-Pin: ")


@pytest.mark.parametrize("template", ["sip:@{host}", "sip:<{number}>@{host}", "sip:{user}@{host}:{number}"])
def test_a_template_that_makes_no_uri_is_refused(problems, template):
    """Else every call would fail, one after the other."""
    (problem,) = problems(P + f'request_uri = "{template}"\n')
    remedy = 'write a SIP URI with placeholders: "sip:{number}@{host}"'
    said = f'3: platforms.p.request_uri: "{template}" makes no URI when its placeholders are filled; {remedy}'
    assert problem == said


def test_parties_that_register_from_anywhere_have_names_of_their_own(problems):
    """D24: else the second could never register, and its tries would get it banned."""
    account = 'registers = true\ninbound_username = "agent"\ninbound_password = "{}"\n'
    text = f"[platforms.a]\n{account.format(1)}[platforms.b]\n{account.format(2)}"
    (problem,) = problems(text)
    said = "is that of a, which may register from anywhere too; give each a name of its own"
    assert problem == f"7: platforms.b.inbound_username: {said}"
    assert problems(text + 'sources = ["192.0.2.0/24"]\n') == []


def test_a_port_is_written_once(problems):
    text = '[platforms.p]\nhosts = ["192.0.2.2:5070"]\nrequest_uri = "sip:{number}@{host}:5060"\n'
    remedy = "write it in one of the two"
    assert problems(text) == [
        f"2: platforms.p.hosts: has a port, for which sip:{{number}}@{{host}}:5060 has no room; {remedy}"
    ]
    assert problems(text.replace(":5070", "")) == []


def test_a_value_that_makes_no_uri_of_its_template_is_refused(problems):
    (problem,) = problems(P + 'request_uri = "sip:{number}@{account}.{host}"\naccount = "a,b"\n')
    assert problem.startswith("4: platforms.p.account: makes no URI of sip:{number}@{account}.{host}; ")


# -- what a wrong one is told ----------------------------------------------------------------------------------------

C = '[carriers.c]\nhosts = ["192.0.2.1"]\n'
P = '[platforms.p]\nhosts = ["192.0.2.2"]\n'
BAD = {
    '[nod]\nname = "x"\n': ['1: nod: is no key here; did you mean "node"?'],
    "[node]\nnaem = 'x'\n": ['2: node.naem: is no key here; did you mean "name"?'],
    "[node]\nname = 7\n": ["2: node.name: 7 is not text; put it in quotes"],
    "[node]\nname = 'a b'\n": ['2: node.name: "a b" does not fit here; use letters, digits, - _ and .'],
    "node = 3\n": ["1: node: is not a table; write [node]"],
    '[sip]\nlisten = "udp:0.0.0.0:5060"\n': [
        '2: sip.listen: "udp:0.0.0.0:5060" is not a list; write ["udp:0.0.0.0:5060"]'
    ],
    "[sip]\nlisten = []\n": ['2: sip.listen: names no listener; write ["udp:0.0.0.0:5060"]'],
    '[sip]\nlisten = [\n  "udp:0.0.0.0:5060",\n  "tls:0.0.0.0:5061",\n]\n': [
        '2: sip.listen: has a tls listener and there is no certificate; write certificate = "fullchain.pem" and '
        'private_key = "privkey.pem" under [sip.tls]'
    ],
    '[sip]\nresolver = ["dns.example.com"]\n': [
        '2: sip.resolver[0]: "dns.example.com" is no address with a port; write ["192.0.2.53:53"]'
    ],
    '[sip]\nlisten = ["0.0.0.0:5060"]\n': [
        '2: sip.listen[0]: "0.0.0.0:5060" is no listener; write TRANSPORT:ADDRESS:PORT as "udp:0.0.0.0:5060"'
    ],
    '[sip]\nlisten = ["udp:example.com:5060"]\n': [
        '2: sip.listen[0]: "udp:example.com:5060" is no address with a port; write "udp:0.0.0.0:5060"'
    ],
    '[sip]\nlisten = ["udp:::1:5060"]\n': [
        '2: sip.listen[0]: "udp:::1:5060" is no address with a port; write "udp:0.0.0.0:5060"'
    ],
    '[sip]\nlisten = ["udp:0.0.0.0:65536"]\n': [
        '2: sip.listen[0]: "udp:0.0.0.0:65536" has no port up to 65535; write "udp:0.0.0.0:5060"'
    ],
    '[sip]\nlisten = ["udp:0.0.0.0:5060", "udp:0.0.0.0"]\n': [
        '2: sip.listen[1]: "udp:0.0.0.0" is there twice; leave one of them out'
    ],
    "[sip.tls]\ncertificate = '/nowhere/x.pem'\nprivate_key = '/dev/null'\n": [
        "2: sip.tls.certificate: /nowhere/x.pem cannot be read (No such file or directory); name a readable PEM file",
        "3: sip.tls.private_key: /dev/null is no PEM file; convert it: openssl x509 -inform der -in FILE -out FILE.pem",
    ],
    "[sip.tls]\nverify_clients = true\n": [
        '2: sip.tls.verify_clients: does not say who signs clients\' certificates; write client_ca = "….pem"'
    ],
    "[sip.tls]\nverify_clients = 'yes'\n": [
        '2: sip.tls.verify_clients: "yes" is neither true nor false; write true or false, without quotes'
    ],
    "[sip]\nadvertise = 'my host'\n": [
        '2: sip.advertise: "my host" does not fit here; write "auto", an address or a name'
    ],
    "[media]\nports = '10000'\n": ['2: media.ports: "10000" is no port range; write FIRST-LAST as "10000-19999"'],
    "[media]\nports = '20000-10000'\n": [
        '2: media.ports: "20000-10000" does not run upward from 1024 to 65535; write FIRST-LAST as "10000-19999"'
    ],
    "[media]\nports = '10001-10004'\n": [
        '2: media.ports: "10001-10004" has no room for a call; a call takes two even ports and the odd ones above'
    ],
    "[media]\nports = '5000-6000'\n": ["2: media.ports: 5060 in it is a SIP listener's; keep the range clear of it"],
    "[media]\nadvertise = 'example.com'\n": [
        '2: media.advertise: "example.com" is no address; write "auto" or an address'
    ],
    "[media]\nrelay = 'rtpengine'\n": ['2: media.relay: this version has no rtpengine backend yet; write "native"'],
    "[admin]\nlisten = '0.0.0.0:9060'\n": [
        '2: admin.listen: is not loopback and there is no token; write token = "${file:admin.token}"'
    ],
    "[admin]\ntoken = ''\n": ["2: admin.token: is empty; put a long random text in it, or leave it out on loopback"],
    "[carriers.c]\n": [
        '1: carriers.c.hosts: is missing: generic-carrier knows none; write hosts = ["sip.example.com"]'
    ],
    '[carriers."a b"]\nhosts = ["192.0.2.1"]\n': [
        '1: carriers."a b": "a b" is no name; use letters, digits, - _ and .'
    ],
    C + "[platforms.c]\nhosts = ['192.0.2.2']\n": [
        "3: platforms.c: a carrier has this name already; give one of the two another name"
    ],
    '[carriers.c]\nprofile = "twilo"\n': ['2: carriers.c.profile: there is no profile "twilo"; did you mean "twilio"?'],
    '[carriers.c]\nprofile = "vapi"\n': ["2: carriers.c.profile: vapi is a platform; move it to [platforms.c]"],
    C + 'pasword = "x"\n': ['3: carriers.c.pasword: is no key here; did you mean "password"?'],
    C + "ring_deadlin = 3\n": ['3: carriers.c.ring_deadlin: is no key here; did you mean "ring_deadline"?'],
    C + "ring_deadline = 3000\n": [
        "3: carriers.c.ring_deadline: 3000 is not in its range; write seconds from 1 to 300"
    ],
    C + "[carriers.c.plus]\nto = 'ad'\n": [
        '4: carriers.c.plus.to: "ad" is not one of its values; write "add", "strip" or "keep"'
    ],
    C + 'title = "x"\n': ["3: carriers.c.title: belongs to the profile alone; leave it out, or write a profile file"],
    C + 'mode = "x"\n': ['3: carriers.c.mode: "x" is no mode of generic-carrier; leave mode out'],
    C + 'username = "u"\n': ['3: carriers.c.username: has no password; write password = "${env:NAME}"'],
    C + 'password = "p"\n': ["3: carriers.c.password: has no username; write username beside it"],
    C + "max_calls = -1\n": ["3: carriers.c.max_calls: -1 does not fit here; write a whole number, 0 for no limit"],
    C + "max_calls = 1.5\n": ["3: carriers.c.max_calls: 1.5 does not fit here; write a whole number, 0 for no limit"],
    C + 'cps = "1"\n': ['3: carriers.c.cps: "1" does not fit here; write a number, 0 for no limit'],
    C + "cps = nan\n": ["3: carriers.c.cps: nan does not fit here; write a number, 0 for no limit"],
    C + 'sources = ["192.0.2.1/24"]\n': [
        '3: carriers.c.sources[0]: "192.0.2.1/24" is not a network; write "192.0.2.0/24"'
    ],
    C + 'sources = ["example.com"]\n': [
        '3: carriers.c.sources[0]: "example.com" is not a network; write a network as "192.0.2.0/24"'
    ],
    '[carriers.c]\nhosts = ["a b"]\n': [
        '2: carriers.c.hosts[0]: "a b" is not a host; write HOST[:PORT][;transport=udp|tcp|tls], an IPv6 address in '
        'brackets: "[2001:db8::1]:5060"'
    ],
    '[carriers.c]\nhosts = ["192.0.2.1;transport=tcp"]\n': [
        '2: carriers.c.hosts[0]: no listener speaks tcp; add "tcp:0.0.0.0:5060" to [sip] listen'
    ],
    '[platforms.p]\nprofile = "vapi"\n': [
        '1: platforms.p.user: is missing: vapi dials sip:{user}@{host}; write user = "…"'
    ],
    '[platforms.p]\nprofile = "vapi"\nuser = "a b"\n': [
        "3: platforms.p.user: has characters that a URI cannot hold; use letters, digits and - _ . + %"
    ],
    '[platforms.p]\nprofile = "vapi"\nmode = "own-trunk"\n': [
        "1: platforms.p.credential_id: is missing: vapi is reached at {credential_id}.sip.vapi.ai; "
        'write credential_id = "…"'
    ],
    '[platforms.p]\nprofile = "bland"\n': [
        "2: platforms.p.profile: bland needs SRTP, which this version does not have yet; "
        "use another platform until it has"
    ],
    '[platforms.p]\nprofile = "retell"\nmode = "register-call"\nagent_id = "agent_1"\napi_key = "k"\n': [
        "3: platforms.p.mode: retell's register-call mode needs an HTTP request before dialling, which this version "
        'does not have yet; write mode = "imported-number"'
    ],
    '[carriers.c]\nhosts = ["192.0.2.1"]\nsrtp = "require"\n': [
        "1: carriers.c.profile: generic-carrier needs SRTP, which this version does not have yet; "
        "use another carrier until it has"
    ],
    C + P + '[[routes]]\nfrom = "cc"\nto = ["p"]\n': [
        '6: routes[0].from: there is no carrier or platform "cc"; did you mean "c"?'
    ],
    C + P + '[[routes]]\nfrom = "c"\nto = ["p", "c"]\n': [
        "7: routes[0].to[1]: c is a carrier, and this route leads to platforms; name a platform, or write a route of "
        "its own"
    ],
    C + P + '[[routes]]\nfrom = "*"\nto = ["p", "c"]\n': [
        "7: routes[0].to[1]: c is a carrier, and this route leads to platforms; name a platform, or write a route of "
        "its own"
    ],
    C + P + '[[routes]]\nfrom = "p"\nto = ["p"]\n': [
        "7: routes[0].to[0]: p is a platform, and this route leads to carriers; name a carrier, or write a route of "
        "its own"
    ],
    C + P + '[[routes]]\nfrom = "c"\nnumber = "+1*5"\nto = ["p"]\n': [
        '7: routes[0].number: "+1*5" is no number; write a number, a prefix with * at its end as "+1415*", or "*"'
    ],
    C + P + '[[routes]]\nto = ["p"]\n': [
        '5: routes[0].from: is missing; write from = "NAME" of a carrier or platform, or "*"'
    ],
    C + P + '[[routes]]\nfrom = "c"\n': ['5: routes[0].to: names no target; write to = ["NAME"]'],
    C + P + '[[routes]]\nfrom = "c"\nto = ["p"]\nnumer = "*"\n': [
        '8: routes[0].numer: is no key here; did you mean "number"?'
    ],
    C + P + '[[routes]]\nname = "a"\nfrom = "c"\nto = ["p"]\n[[routes]]\nname = "a"\nfrom = "c"\nto = ["p"]\n': [
        '10: routes[1].name: "a" is there twice; give each route its own name'
    ],
    C + P + '[routes]\nfrom = "c"\n': ["5: routes: is not a list of tables; write [[routes]]"],
    '[node]\nname = "a\n': ["2: TOML: "],
}


@pytest.mark.parametrize(("text", "expected"), BAD.items(), ids=[line[0].split(";")[0] for line in BAD.values()])
def test_a_mistake_names_its_line_its_key_and_the_remedy(problems, text, expected):
    said = problems(text)
    assert len(said) == len(expected)
    for line, wanted in zip(said, expected, strict=True):
        assert line == wanted or (wanted.endswith(": ") and line.startswith(wanted))


def test_sockets_take_addresses_without_brackets(problems):
    (problem,) = problems('[media]\naddress = "[::1]"\n')
    assert problem == '2: media.address: "[::1]" is no address; write "0.0.0.0" or one of this machine'


def test_every_problem_is_listed_in_the_order_of_the_lines(problems):
    text = "".join(
        ("[node]\nx = 1\n[sip]\ny = 2\n", C, "z = 3\n", P, "fill = 4\n", '[[routes]]\nfrom = "q"\nto = ["p"]\n')
    )
    assert [int(line.split(":")[0]) for line in problems(text)] == [2, 4, 7, 10, 12]


def test_a_route_to_a_wrong_account_is_not_reported_a_second_time(problems):
    text = '[carriers.c]\nprofile = "twilo"\n' + P + '[[routes]]\nfrom = "c"\nto = ["p"]\n'
    assert [line.split(":")[1] for line in problems(text)] == [" carriers.c.profile"]


def test_load_raises_the_first_problem_with_file_and_line(write):
    path = write("[node]\nx = 1\ny = 2\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: node.x: ")):
        load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path.parent / "missing.toml")


def test_a_mistake_inside_a_profile_file_names_that_file(write, tmp_path):
    (tmp_path / "pbx.toml").write_text('extends = "generic-platform"\n\nfill = "x"\n', "utf-8")
    _, errors = check(write('[platforms.p]\nprofile = "pbx.toml"\n'))
    assert [(error.file, error.line, error.key) for error in errors] == [(str(tmp_path / "pbx.toml"), 3, "fill")]


def test_what_works_but_should_not_stay_is_a_warning(write):
    text = (
        '[carriers.c]\nhosts = ["sip.example.com"]\n'
        + P
        + 'sources = ["0.0.0.0/0"]\n[[routes]]\nfrom = "c"\nto = ["p"]\n'
    )
    warnings = loaded(write, text).warnings
    assert [(warning.line, warning.key) for warning in warnings] == [
        (5, "platforms.p.sources[0]"),
        (7, "routes[0].from"),
    ]


LITERALS = st.sampled_from(
    (
        *("3", "-1", "true", "nan", "[]", "[1]", '[""]', "{}", "{ a = 1 }", '""', '"x"', '"~nobody"', '"a\\u0000b"'),
        *('"${file:/}"', '"${env:"', '"{"', '"0.0.0.0/0"', "2026-11-22", "[[1]]", '"' + "x" * 300 + '"'),
    )
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_in_any_place_is_accepted_or_reported(data):
    """A mistake of the operator's is never an exception other than ConfigError, whatever stands where."""
    lines = EXAMPLE.read_text("utf-8").splitlines()
    places = [index for index, line in enumerate(lines) if re.match("[a-z_]+ = ", line)]
    for index in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        lines[index] = lines[index].split("=")[0] + "= " + data.draw(LITERALS)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trunkbridge.toml"
        path.write_text("\n".join(lines), "utf-8")
        config, errors = check(path)
    assert (config is None) == bool(errors)
    assert all(error.line > 0 and error.remedy for error in errors)


# -- who a peer is and what it may carry -----------------------------------------------------------------------------

LAB = '[carriers.c]\nhosts = ["192.0.2.1"]\n'


def test_an_account_says_what_it_may_carry(write):
    """F18, D13, T09."""
    config = loaded(
        write,
        """
        [limits]
        max_calls = 1000
        cps = 50
        reserve = { inbound = 300 }
        [carriers.c]
        hosts = ["192.0.2.1"]
        max_calls = 100
        reserve = { inbound = 20, outbound = 10 }
        cps = 2
        cps_from = 20
        queue_for = 1.5
        max_minutes_a_day = 3000
        allow = ["+1", "+44*"]
        deny = ["+1 (900)"]
        [platforms.p]
        hosts = ["192.0.2.2"]
        """,
    )
    assert config.limits == NodeLimits(1000, 50.0, {"inbound": 300})
    carrier, platform = config.peer("c"), config.peer("p")
    assert (carrier.max_calls, carrier.reserve) == (100, {"inbound": 20, "outbound": 10})
    assert (carrier.cps, carrier.cps_from, carrier.queue_for, carrier.max_minutes_a_day) == (2.0, 20.0, 1.5, 3000)
    assert (carrier.allow, carrier.deny) == (("+1", "+44"), ("+1 (900)",))
    assert (platform.cps, platform.queue_for, platform.allow, platform.deny) == (0.0, QUEUE_FOR, (), ())
    assert platform.reserve == {}


def test_a_carrier_is_not_dialled_for_premium_rate_unless_somebody_says_so(write):
    """T09: satellite and premium rate numbers are what toll fraud dials."""
    assert loaded(write, LAB).peer("c").deny == PREMIUM
    assert {"+881", "+1900", "+979"} <= set(PREMIUM)
    assert loaded(write, f"{LAB}deny = []\n").peer("c").deny == ()


def test_a_profile_says_how_many_calls_a_second_until_the_account_does(write):
    """D13: Twilio begins with one."""
    twilio = '[carriers.c]\nprofile = "twilio"\nhosts = ["x.pstn.twilio.com"]\n'
    assert loaded(write, twilio).peer("c").cps == 1.0
    assert loaded(write, f"{twilio}cps = 15\n").peer("c").cps == 15.0
    assert loaded(write, f"{twilio}cps = 0\n").peer("c").cps == 0.0


def test_an_account_says_how_it_proves_itself_and_where_we_register(write):
    """D9, D24."""
    config = loaded(
        write,
        f'{LAB}username = "u"\npassword = "p"\nregister = true\nregistrar = "reg.example.com:5070"\n'
        'inbound_username = "them"\ninbound_password = "secret"\n',
    )
    carrier = config.peer("c")
    assert (carrier.inbound_username, carrier.inbound_password) == ("them", "secret")
    assert carrier.registrar == Host("reg.example.com", 5070, "")
    assert CANARY not in repr(carrier)
    assert "secret" not in repr(carrier)


LIMIT_MISTAKES = {
    'inbound_username = "x"\n': "3: carriers.c.inbound_username: has no inbound_password; "
    'write inbound_password = "${env:NAME}"',
    'inbound_password = "x"\n': "3: carriers.c.inbound_password: has no inbound_username; "
    "write inbound_username beside it",
    'inbound_username = "a\\u0001"\ninbound_password = "x"\n': "3: carriers.c.inbound_username: holds a control "
    "character; write one line of text",
    "reserve = { inbound = 3 }\n": "3: carriers.c.reserve: is a share of max_calls, which is not set; "
    "write max_calls beside it",
    "max_calls = 4\nreserve = { inbound = 3, outbound = 2 }\n": "4: carriers.c.reserve: keeps more than the 4 of "
    "max_calls; write smaller numbers",
    "max_calls = 4\nreserve = { inboud = 3 }\n": "4: carriers.c.reserve.inboud: is no key here; "
    'did you mean "inbound"?',
    "reserve = 3\n": "3: carriers.c.reserve: is not a table; write [carriers.c.reserve]",
    'deny = ["+1900", "a;b"]\n': '3: carriers.c.deny[1]: "a;b" is no prefix of a number; write it as "+1900"',
    'allow = "+1"\n': '3: carriers.c.allow: "+1" is not a list; write ["+1"]',
    "queue_for = -1\n": "3: carriers.c.queue_for: -1 does not fit here; write a number, 0 for no limit",
    'registrar = "reg.example.com"\n': "3: carriers.c.registrar: names where to register, but this account does not "
    "register; write register = true beside it, or leave it out",
}


@pytest.mark.parametrize(("text", "expected"), LIMIT_MISTAKES.items())
def test_a_mistake_in_what_an_account_may_do_is_told(problems, text, expected):
    assert problems(LAB + text) == [expected]


def test_who_cannot_answer_a_challenge_is_not_given_one(problems):
    """D9: Twilio's calls would all be refused."""
    text = (
        '[carriers.c]\nprofile = "twilio"\nhosts = ["x.pstn.twilio.com"]\n'
        'inbound_username = "x"\ninbound_password = "y"\n'
    )
    assert problems(text) == [
        "4: carriers.c.inbound_username: twilio cannot answer a challenge: none of its calls would come through; "
        "leave it out: its addresses identify it"
    ]


def test_the_nodes_limits_are_checked_like_an_accounts(problems):
    assert problems("[limits]\nmax_cals = 3\n") == [
        '2: limits.max_cals: is no key here; did you mean "max_calls"?',
    ]
    assert problems("[limits]\nmax_calls = 1\nreserve = { outbound = 2 }\n") == [
        "3: limits.reserve: keeps more than the 1 of max_calls; write smaller numbers"
    ]


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_a_tls_listener_reads_its_files_beside_the_configuration(write, tmp_path):
    issuer = authority(tmp_path)
    certificate, key = issuer.issue("own", names=("sip.example.com",))
    config = loaded(
        write,
        '[sip]\nlisten = ["tls:0.0.0.0", "tcp:[::]:5070"]\nresolver = ["192.0.2.53"]\n'
        '[sip.tls]\ncertificate = "own.pem"\nprivate_key = "own.key"\nverify_clients = true\nclient_ca = "ca.pem"\n',
    )
    assert config.sip.listen == (Listen("tls", "0.0.0.0", 5061), Listen("tcp", "::", 5070))
    assert config.sip.tls == Tls(certificate, key, None, True, issuer.path)
    assert config.sip.resolver == (("192.0.2.53", 53),)
    assert [warning.key for warning in config.warnings] == ["file"], "no route yet"


def test_a_certificate_that_can_not_serve_is_found_by_check(write, tmp_path):
    issuer = authority(tmp_path)
    issuer.issue("own", names=("sip.example.com",))
    issuer.issue("ended", names=("sip.example.com",), ended=True)
    text = '[sip.tls]\ncertificate = "%s.pem"\nprivate_key = "%s.key"\n'
    _, errors = check(write(text % ("own", "ended")))
    assert [(error.line, error.key) for error in errors] == [(3, "sip.tls.private_key")]
    assert "does not fit the certificate" in errors[0].problem
    _, errors = check(write(text % ("ca", "own")))
    assert len(errors) == 1
    (tmp_path / "ended.key").chmod(0o644)
    config = loaded(write, text % ("ended", "ended"))
    told = {warning.key: warning.problem for warning in config.warnings}
    assert "expired on" in told["sip.tls.certificate"]
    assert "can be read by everyone" in told["sip.tls.private_key"]
