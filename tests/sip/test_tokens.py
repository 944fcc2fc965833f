"""Identifiers that nobody can guess (R20)."""

from __future__ import annotations

from bridge.net.tokens import SystemTokens
from bridge.sip.message import Request, parse
from bridge.sip.tokens import MAGIC_COOKIE
from tests.harness.world import PLATFORM, World
from tests.sip.bench import CountingTokens


def test_r20_10_000_calls_draw_identifiers_of_64_bits_and_more_without_a_repeat():
    tokens = SystemTokens()
    drawn = [tokens.token(bits) for _ in range(10_000) for bits in (128, 64, 96, 64)]
    assert len(set(drawn)) == len(drawn)
    assert {len(token) * 4 for token in drawn} == {64, 96, 128}
    ones = sum(int(token, 16).bit_count() for token in drawn)
    bits = sum(4 * len(token) for token in drawn)
    assert abs(ones / bits - 0.5) < 6 * 0.5 / bits**0.5  # six standard deviations of fair coins


def test_r20_each_call_has_its_own_call_id_tags_and_branches_on_the_other_leg():
    world = World()
    for _ in range(50):
        world.carrier.invite()
    world.run(0.1)
    sent = [parse(transmit.data) for _, transmit in world.network.sent]
    legs = [each for each in sent if isinstance(each, Request)]
    assert len(legs) == 50
    for leg in legs:
        world.network.send(_refusal(leg), PLATFORM)
    world.run(0.1)
    answers = [parse(transmit.data) for _, transmit in world.network.sent if transmit.status >= 300]
    identifiers = [leg.call_id for leg in legs]
    identifiers += [leg.from_.tag or "" for leg in legs]
    identifiers += [(leg.via.branch or "").removeprefix(MAGIC_COOKIE) for leg in legs]
    identifiers += list({each.to.tag or "" for each in answers})
    assert len(set(identifiers)) == len(identifiers) == 200
    assert all(len(each) >= 16 and set(each) <= set("0123456789abcdef") for each in identifiers)  # 64 bits in hex
    theirs = {request.call_id for request in legs} & {each.call_id for each in answers}
    assert not theirs  # the caller's Call-ID stays on its own leg


def _refusal(invite: Request) -> bytes:
    lines = ["SIP/2.0 486 Busy Here"]
    lines += [f"{name}: {invite.headers.get(name)}" for name in ("Via", "From", "To", "Call-ID", "CSeq")]
    lines[3] += ";tag=callee"
    return "\r\n".join([*lines, "Content-Length: 0", "", ""]).encode()


def test_tokens_are_asked_for_by_their_bits():
    tokens = CountingTokens()
    assert [len(tokens.token(bits)) * 4 for bits in (32, 64, 96, 128)] == tokens.asked
