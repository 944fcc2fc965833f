"""Challenging a peer, and judging what it answers (RFC 7616, RFC 8760)."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from bridge.errors import PeerError
from bridge.sip import digest
from bridge.sip.digest import NONCE_LIFE, DigestClient, DigestServer, Verdict, digest_response
from bridge.sip.message import Request, parse, response_to
from tests.sip.bench import CountingTokens, incoming

REALM = "bridge.example.com"
URI = "sip:+14155550100@192.0.2.1"
PASSWORDS = {"alice": "secret", 'b"ob\\': "other"}


def server(secret: bytes = b"s" * 32) -> DigestServer:
    return DigestServer(REALM, CountingTokens(), secret)


def request(*authorizations: str, method: str = "INVITE") -> Request:
    extra = "".join(f"Authorization: {value}\n" for value in authorizations)
    message = parse(incoming(method, extra=extra))
    assert isinstance(message, Request)
    return message


def nonce_of(challenge: str) -> str:
    return challenge.partition('nonce="')[2].partition('"')[0]


def credentials(
    nonce: str,
    *,
    username: str = "alice",
    password: str = "secret",
    algorithm: str = "SHA-256",
    count: int = 1,
    uri: str = URI,
    method: str = "INVITE",
    realm: str = REALM,
    changed: tuple[tuple[str, str], ...] = (),
) -> str:
    """Write what a client that knows the password answers; ``changed`` replaces parts of the text."""
    response = digest_response(
        algorithm, username, password, realm, method, uri, nonce, "auth", f"{count:08x}", "0a4f113b"
    )
    text = (
        f'Digest username="{username}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}", '
        f'algorithm={algorithm}, cnonce="0a4f113b", qop=auth, nc={count:08x}'
    )
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return text


def judged(judge: DigestServer, *authorizations: str, now: float = 0.0) -> Verdict:
    return judge.verify(request(*authorizations), PASSWORDS.get, now)


def test_r26_the_challenges_offer_sha_256_first_then_md5_with_qop():
    first, second = server().challenges(7.0)
    assert first.startswith(f'Digest realm="{REALM}", nonce="')
    assert first.endswith('algorithm=SHA-256, qop="auth"')
    assert second.endswith('algorithm=MD5, qop="auth"')
    assert all(challenge.endswith(", stale=true") for challenge in server().challenges(7.0, stale=True))


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
@pytest.mark.parametrize(("username", "password"), PASSWORDS.items())
def test_r26_our_own_client_is_accepted_with_either_algorithm(algorithm, username, password):
    judge, client = server(), DigestClient(username, password, CountingTokens())
    (challenge,) = (each for each in judge.challenges(0.0) if f"algorithm={algorithm}" in each)
    response = response_to(request(), 401, to_tag="x")
    response.headers.add("WWW-Authenticate", challenge)
    for number in range(20):  # the count rises with each
        asked = request()
        asked.headers.set("CSeq", f"{number + 1} INVITE")
        header = client.authorize(asked, response)
        assert header is not None
        assert f"nc={number + 1:08x}" in header.value
        assert judged(judge, header.value) is Verdict.ACCEPTED


def test_without_credentials_for_our_realm_they_are_absent():
    judge = server()
    nonce = nonce_of(judge.challenges(0.0)[0])
    assert judged(judge) is Verdict.ABSENT
    assert judged(judge, "Basic YWxpY2U6c2VjcmV0") is Verdict.ABSENT
    assert judged(judge, "Digest") is Verdict.ABSENT
    assert judged(judge, 'Digest username="alice') is Verdict.ABSENT
    # CVE-2025-57767: credentials for a realm that nobody challenged
    assert judged(judge, credentials(nonce, realm="elsewhere.example.com")) is Verdict.ABSENT


def test_credentials_for_several_realms_are_told_apart():
    judge = server()
    other = credentials("n", realm="elsewhere.example.com", password="wrong")
    assert judged(judge, other, credentials(nonce_of(judge.challenges(0.0)[0]))) is Verdict.ACCEPTED


def test_t06_only_the_first_of_several_guesses_counts():
    judge = server()
    nonce = nonce_of(judge.challenges(0.0)[0])
    guess = credentials(nonce, password="wrong")
    assert judged(judge, guess, credentials(nonce)) is Verdict.REFUSED


def test_t06_a_user_who_is_not_there_costs_the_same_steps_as_a_wrong_password(monkeypatch):
    calls: list[str] = []

    def watched(*arguments):
        calls.append("digest")
        return digest_response(*arguments)

    def compare(one, other):
        calls.append("compare")
        return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()

    monkeypatch.setattr(digest, "digest_response", watched)
    judge = server()
    nonce = nonce_of(judge.challenges(0.0)[0])
    monkeypatch.setattr(hmac, "compare_digest", compare)
    steps = []
    for username, password in (("alice", "wrong"), ("mallory", "wrong"), ("mallory", "secret"), ("mallory", "")):
        calls.clear()
        assert judged(judge, credentials(nonce, username=username, password=password)) is Verdict.REFUSED
        steps.append(list(calls))
    assert steps == [["compare", "digest", "compare"]] * 4  # the first is the nonce's


def test_t06_the_stand_in_for_a_missing_password_opens_nothing():
    judge = server()
    nonce = nonce_of(judge.challenges(0.0)[0])
    forged = credentials(nonce, username="mallory", password=judge._nobody)
    assert judged(judge, forged) is Verdict.REFUSED


@pytest.mark.parametrize(
    "changed",
    [
        (("qop=auth, ", ""),),
        (("qop=auth", "qop=auth-int"),),
        (("algorithm=SHA-256", "algorithm=SHA-512-256"),),
        (("algorithm=SHA-256", "algorithm=SHA-256-sess"),),
        (("algorithm=SHA-256", "algorithm=none"),),
        (('cnonce="0a4f113b", ', ""),),
        (('cnonce="0a4f113b"', 'cnonce=""'),),
        (("nc=00000001", "nc=1"),),
        (("nc=00000001", "nc=+0000001"),),
        (("nc=00000001", "nc=0000000g"),),
        (('username="alice", ', ""),),
        (('response="', 'response="\u0661'),),
        (('response="', 'response="0'),),
    ],
)
def test_what_does_not_follow_the_challenge_is_refused(changed):
    judge = server()
    assert judged(judge, credentials(nonce_of(judge.challenges(0.0)[0]), changed=changed)) is Verdict.REFUSED


def test_credentials_for_another_request_uri_are_400():
    judge = server()
    text = credentials(nonce_of(judge.challenges(0.0)[0]), uri="sip:+14155550101@192.0.2.1")
    with pytest.raises(PeerError) as caught:
        judged(judge, text)
    assert caught.value.status == 400


def test_credentials_for_another_method_are_refused():
    judge = server()
    text = credentials(nonce_of(judge.challenges(0.0)[0]), method="REGISTER")
    assert judged(judge, text) is Verdict.REFUSED


def test_a_nonce_lives_five_minutes_and_is_stale_then():
    judge = server()
    nonce = nonce_of(judge.challenges(1000.0)[0])
    assert judged(judge, credentials(nonce), now=1000.0 + NONCE_LIFE) is Verdict.ACCEPTED
    assert judged(judge, credentials(nonce, count=2), now=1000.1 + NONCE_LIFE) is Verdict.STALE
    assert judged(judge, credentials(nonce, count=2, password="wrong"), now=1301.0) is Verdict.REFUSED


def test_a_nonce_that_is_not_ours_is_stale_however_right_the_password():
    judge, stranger = server(), server(b"t" * 32)
    ours = nonce_of(judge.challenges(0.0)[0])
    issued_later = f"{int(ours[:12], 16) + 100000:012x}{ours[12:]}"
    for nonce in (nonce_of(stranger.challenges(0.0)[0]), issued_later, "", "x", ours[:-1], ours + "0", "\u0661" * 60):
        assert judged(judge, credentials(nonce), now=1.0) is Verdict.STALE
        assert judged(judge, credentials(nonce, password="wrong"), now=1.0) is Verdict.STALE  # T06: it tells nothing
    other_realm = DigestServer("other", CountingTokens(), b"s" * 32)
    assert judged(judge, credentials(nonce_of(other_realm.challenges(0.0)[0]))) is Verdict.STALE


def test_a_count_is_good_once_and_may_come_out_of_order():
    judge = server()
    nonce = nonce_of(judge.challenges(0.0)[0])

    def use(count: int) -> Verdict:
        return judged(judge, credentials(nonce, count=count))

    assert [use(count) for count in (1, 3, 2)] == [Verdict.ACCEPTED] * 3
    assert [use(count) for count in (1, 2, 3, 0)] == [Verdict.STALE] * 4
    assert use(200) is Verdict.ACCEPTED
    assert use(100) is Verdict.STALE  # too late to tell
    assert use(150) is Verdict.ACCEPTED
    assert [use(150), use(200)] == [Verdict.STALE] * 2
    assert use(2**32 - 1) is Verdict.ACCEPTED
    assert use(2**32 - 1) is Verdict.STALE


def test_replays_stay_refused_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(digest, "_USED_NONCES", 8)
    judge = server()
    texts = [credentials(nonce_of(judge.challenges(number / 10)[0])) for number in range(50)]
    assert [judged(judge, text, now=5.0) for text in texts] == [Verdict.ACCEPTED] * 50
    assert [judged(judge, text, now=6.0) for text in texts] == [Verdict.STALE] * 50
    assert len(judge._used) == 8
    fresh = credentials(nonce_of(judge.challenges(400.0)[0]))
    assert judged(judge, fresh, now=400.0) is Verdict.ACCEPTED
    assert len(judge._used) == 1  # what is too old anyway needs no memory


def test_a_challenge_is_new_each_time():
    judge = server()
    assert len({nonce_of(judge.challenges(0.0)[0]) for _ in range(1000)}) == 1000
