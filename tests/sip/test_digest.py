from __future__ import annotations

import hashlib
import re

import pytest

from bridge.sip.digest import Challenge, DigestClient, digest_response, put_credentials
from bridge.sip.message import Header, Headers, Request, Response
from tests.sip.bench import CountingTokens, answer, outgoing

RFC_2617 = (
    "Mufasa",
    "Circle Of Life",
    "testrealm@host.com",
    "GET",
    "/dir/index.html",
    "dcd98b7102dd2f0e8b11d0f600bfb0c093",
)
RFC_7616 = (
    "Mufasa",
    "Circle of Life",
    "http-auth@example.org",
    "GET",
    "/dir/index.html",
    "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
)
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("algorithm", "vector", "rest", "expected"),
    [
        (None, RFC_2617, ("auth", "00000001", "0a4f113b"), "6629fae49393a05397450978507c4ef1"),
        (None, RFC_2617, (), "670fd8c2df070c60b045671b8b24ff02"),
        ("MD5", RFC_7616, ("auth", "00000001", CNONCE), "8ca523f5e9506fed4657c9700eebdbec"),
        (
            "SHA-256",
            RFC_7616,
            ("auth", "00000001", CNONCE),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ],
)
def test_the_vectors_of_rfc_2617_and_rfc_7616(algorithm, vector, rest, expected):
    assert digest_response(algorithm, *vector, *rest) == expected


def test_sha_512_256_is_that_of_fips_180_4():
    """RFC 8760 §2.2. The figures of RFC 7616 §3.9.2 come from a truncated SHA-512, so this goes step by step."""

    def hashed(text: str) -> str:
        return hashlib.new("sha512_256", text.encode()).hexdigest()

    assert hashed("abc") == "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"  # NIST's example
    secret, action = hashed("Jäsøn Doe:api@example.org:Secret, or not?"), hashed("GET:/doe.json")
    args = ("Jäsøn Doe", "Secret, or not?", "api@example.org", "GET", "/doe.json", "5TsQ", "auth", "00000001", "NTg6")
    assert digest_response("SHA-512-256", *args) == hashed(f"{secret}:5TsQ:00000001:NTg6:auth:{action}")


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match="unknown digest algorithm"):
        digest_response("SHA-1", *RFC_2617)


def challenge(*values: str, status: int = 401, realm: str = "asterisk") -> Response:
    response = answer(outgoing(), status)
    name = "Proxy-Authenticate" if status == 407 else "WWW-Authenticate"
    for value in values:
        response.headers.add(name, f'Digest realm="{realm}", {value}')
    return response


def client() -> DigestClient:
    return DigestClient("user", "secret", CountingTokens())


def fields(value: str) -> dict[str, str]:
    assert value.startswith("Digest ")
    return dict(re.findall(r'(\w+)=("[^"]*"|[^,]+)', value))


def test_r26_a_challenge_is_answered():
    header = client().authorize(outgoing(), challenge('nonce="abc", qop="auth-int,auth", opaque="op", algorithm=MD5'))
    assert header is not None
    assert header.name == "Authorization"
    found = fields(header.value)
    cnonce = found.pop("cnonce").strip('"')
    expected = digest_response(
        "MD5", "user", "secret", "asterisk", "INVITE", outgoing().uri, "abc", "auth", "00000001", cnonce
    )
    assert found == {
        "username": '"user"',
        "realm": '"asterisk"',
        "nonce": '"abc"',
        "uri": f'"{outgoing().uri}"',
        "response": f'"{expected}"',
        "algorithm": "MD5",
        "qop": "auth",
        "nc": "00000001",
        "opaque": '"op"',
    }
    assert len(cnonce) == 16


def test_r26_a_proxys_challenge_is_answered_to_the_proxy():
    header = client().authorize(outgoing(), challenge('nonce="abc"', status=407))
    assert header is not None
    assert header.name == "Proxy-Authorization"


def test_r26_without_qop_there_is_neither_count_nor_cnonce():
    header = client().authorize(outgoing(), challenge('nonce="abc"'))
    assert header is not None
    found = fields(header.value)
    assert found.keys() == {"username", "realm", "nonce", "uri", "response"}
    expected = digest_response(None, "user", "secret", "asterisk", "INVITE", outgoing().uri, "abc")
    assert found["response"] == f'"{expected}"'


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["SHA-512-256", "SHA-256", "MD5"], "SHA-512-256"),
        (["SHA-256", "MD5"], "SHA-256"),
        (["MD5", "SHA-256"], "MD5"),  # RFC 8760 §2.4: the topmost that is supported
        (["SHA-1024", "sha-256", "MD5"], "sha-256"),
        (["MD5-sess"], "MD5-sess"),
        (["SHA-256-sess"], "SHA-256-sess"),
    ],
)
@pytest.mark.parametrize("qop", ["", ', qop="auth"'])
@pytest.mark.parametrize("status", [401, 407])
def test_r26_the_topmost_algorithm_that_we_know_is_taken(offered, chosen, qop, status):
    values = [f'nonce="n{number}", algorithm={name}{qop}' for number, name in enumerate(offered)]
    header = client().authorize(outgoing(), challenge(*values, status=status))
    assert header is not None
    found = fields(header.value)
    assert found["algorithm"] == chosen
    expected = digest_response(
        chosen,
        "user",
        "secret",
        "asterisk",
        "INVITE",
        outgoing().uri,
        found["nonce"].strip('"'),
        "auth" if qop else None,
        "00000001",
        found.get("cnonce", "").strip('"'),
    )
    assert found["response"] == f'"{expected}"'


@pytest.mark.parametrize(
    "value",
    [
        'Basic realm="asterisk"',
        'Digest nonce="abc"',
        'Digest realm="asterisk"',
        'Digest realm="asterisk", nonce=""',
        'Digest realm="asterisk", nonce="abc", algorithm=SHA-1',
        'Digest realm="asterisk", nonce="abc", qop="auth-int"',
        'Digest realm="asterisk, nonce="abc"',
        "Digest",
        "",
    ],
)
def test_r26_what_can_not_be_answered_is_left(value):
    assert Challenge.parse(value) is None
    response = answer(outgoing(), 401)
    response.headers.add("WWW-Authenticate", value)
    assert client().authorize(outgoing(), response) is None


def test_r26_counts_go_up_over_requests_with_the_same_nonce():
    digest = client()
    counts = []
    for number in range(1, 21):
        request = outgoing(number=number)
        header = digest.authorize(request, challenge('nonce="abc", qop="auth"'))
        assert header is not None
        counts.append(fields(header.value)["nc"])
    assert counts == [f"{number:08x}" for number in range(1, 21)]


def test_r26_a_wrong_password_is_offered_once():
    digest = client()
    request = outgoing()
    header = digest.authorize(request, challenge('nonce="abc"'))
    assert header is not None
    assert digest.authorize(request, challenge('nonce="abc"')) is None  # the same request again
    again = outgoing(number=2)
    again.headers.append(header)
    assert digest.authorize(again, challenge('nonce="abc"')) is None
    assert digest.authorize(again, challenge('nonce="another"')) is None  # a fresh nonce each time is no way round


def test_r26_a_stale_nonce_is_replaced_once():
    digest = client()
    first = digest.authorize(outgoing(), challenge('nonce="a", qop="auth"'))
    assert first is not None
    again = outgoing(number=2)
    again.headers.append(first)
    assert digest.authorize(again, challenge('nonce="a", stale=true')) is None
    second = digest.authorize(again, challenge('nonce="b", stale=TRUE, qop="auth"'))
    assert second is not None
    assert fields(second.value)["nonce"] == '"b"'
    last = outgoing(number=3)
    last.headers.append(second)
    assert digest.authorize(last, challenge('nonce="c", stale=true')) is None


def test_r26_a_second_realm_is_answered_beside_the_first():
    digest = client()
    first = digest.authorize(outgoing(), challenge('nonce="a"', status=407, realm="one"))
    assert first is not None
    again = outgoing(number=2)
    again.headers.append(first)
    response = challenge('nonce="a2"', status=407, realm="one")
    response.headers.add("Proxy-Authenticate", 'Digest realm="two", nonce="b"')
    second = digest.authorize(again, response)
    assert second is not None
    assert fields(second.value)["realm"] == '"two"'


def test_r26_two_realms_that_challenge_in_turn_are_both_satisfied():
    """Each of two proxies lets pass what bears an answer for its realm, and asks for one where it is missing."""
    digest, asked = client(), []
    request = outgoing()
    for number in range(2, 9):
        carried = [fields(value)["realm"].strip('"') for value in request.headers.get_all("Proxy-Authorization")]
        missing = next((realm for realm in ("one", "two") if realm not in carried), None)
        if missing is None:
            break
        asked.append(missing)
        header = digest.authorize(request, challenge(f'nonce="{missing}", qop="auth"', status=407, realm=missing))
        assert header is not None
        request = Request(request.method, request.uri, request.headers.copy())
        request.headers.set("CSeq", f"{number} INVITE")
        put_credentials(request.headers, header)
    assert asked == ["one", "two"]
    assert sorted(carried) == ["one", "two"]


def test_a_peer_that_names_another_realm_each_time_is_not_followed_for_ever():
    digest, request, rounds = client(), outgoing(), 0
    while (header := digest.authorize(request, challenge('nonce="n"', realm=f"realm {rounds}"))) is not None:
        rounds += 1
        request = Request(request.method, request.uri, request.headers.copy())
        request.headers.set("CSeq", f"{rounds + 1} INVITE")
        put_credentials(request.headers, header)
    assert rounds == 4


def test_credentials_for_a_realm_take_the_place_of_older_ones():
    headers = Headers()
    for realm, nonce in (("one", "a"), ("two", "b"), ("one", "c")):
        put_credentials(headers, Header("Authorization", f'Digest realm="{realm}", nonce="{nonce}"'))
    assert [fields(value)["nonce"] for value in headers.get_all("Authorization")] == ['"b"', '"c"']


def test_names_with_quotes_stay_within_their_quotes():
    header = DigestClient('u"s\\er', "p", CountingTokens()).authorize(outgoing(), challenge(r'nonce="a\"b"'))
    assert header is not None
    assert r'username="u\"s\\er"' in header.value
    assert r'nonce="a\"b"' in header.value


def test_a_flood_of_nonces_is_forgotten():
    digest = client()
    for number in range(1000):
        assert digest.authorize(outgoing(number=number), challenge(f'nonce="{number}"')) is not None
    assert len(digest._nonces) <= 64


def test_a_401_without_a_challenge_is_not_answered():
    assert client().authorize(outgoing(), Response(401, "Unauthorized", Headers())) is None
