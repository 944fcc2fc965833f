from __future__ import annotations

import pytest

from bridge.sip.events import (
    AckReceived,
    CancelReceived,
    Flow,
    RequestReceived,
    ResponseReceived,
    TransactionFailed,
    TransactionTimedOut,
)
from bridge.sip.message import Request, Response, parse, response_to
from bridge.sip.transaction import State
from tests.sip.bench import OURS, PEER, UDP, Bench, answer, incoming, outgoing, wire


def calling(*, owner=None):
    bench = Bench()
    transaction = bench.endpoint.send_request(outgoing(), UDP, 0.0, owner)
    bench.drain()
    return bench, transaction


def invited(data=None):
    bench = Bench()
    bench.receive(data or incoming())
    return bench, bench.one(RequestReceived).transaction


def respond(bench, transaction, status):
    bench.endpoint.respond(transaction, response_to(transaction.request, status, to_tag="ours"), bench.now)
    bench.drain()


def only_response(bench) -> Response:
    ((_, sent),) = bench.sent
    response = parse(sent.data)
    assert isinstance(response, Response)
    assert sent.status == response.status
    return response


# -- requests of ours ------------------------------------------------------------------------------------------------


def test_a_request_leaves_under_a_fresh_via_and_the_given_one_stays_as_it_is():
    bench = Bench()
    request = outgoing()
    request.headers.prepend("Via", "SIP/2.0/UDP stale;branch=z9hG4bKold")
    before = request.copy()
    first = bench.endpoint.send_request(request, UDP, 0.0)
    second = bench.endpoint.send_request(first.request, UDP, 0.0)
    bench.drain()
    assert request == before
    vias = [message.headers.get_all("Via") for message in bench.messages("INVITE")]
    assert [len(via) for via in vias] == [1, 1]
    assert vias[0][0].startswith("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK")
    assert first.request.via.wants_rport
    assert first.request.via.branch != second.request.via.branch
    assert next(iter(first.request.headers)).name == "Via"
    (_, sent), _ = bench.sent
    assert (sent.flow, sent.method, sent.status, sent.call_id) == (UDP, "INVITE", 0, "c1")


def test_r20_a_branch_has_96_random_bits():
    bench, transaction = calling()
    assert bench.tokens.asked == [96]
    assert (transaction.request.via.branch or "").startswith("z9hG4bK")


def test_an_ipv6_listener_is_named_in_brackets():
    flow = Flow("tcp", ("2001:db8::1", 5060), ("2001:db8::2", 5060), 3)
    bench = Bench(flow)
    transaction = bench.endpoint.send_request(outgoing("OPTIONS"), flow, 0.0)
    via = transaction.request.via
    assert (via.transport, via.host, via.port) == ("TCP", "[2001:db8::1]", 5060)


def test_t13_a_request_that_can_not_be_printed_leaves_nothing_behind():
    bench = Bench()
    request = outgoing()
    request.headers.add("X-Name", "a\r\nX-Evil: b")
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        bench.endpoint.send_request(request, UDP, 0.0)
    assert bench.idle()
    assert bench.endpoint.poll_transmit() is None


def test_t13_a_response_that_can_not_be_printed_leaves_the_transaction_as_it_was():
    bench, transaction = invited()
    response = response_to(transaction.request, 486, "Busy\r\nX-Evil: b", to_tag="ours")
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        bench.endpoint.respond(transaction, response, 0.0)
    assert transaction.final is None
    respond(bench, transaction, 500)
    assert transaction.final == 500


@pytest.mark.parametrize("ringing", [False, True])
def test_t13_a_cancel_whose_reason_can_not_be_printed_is_refused_at_once(ringing):
    bench, transaction = calling()
    if ringing:
        bench.receive(answer(transaction.request, 180))
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        bench.endpoint.cancel(transaction, 0.0, ("SIP;cause=200\r\nX-Evil: b",))
    bench.receive(answer(transaction.request, 183))
    assert bench.times("CANCEL") == []
    bench.endpoint.cancel(transaction, 0.0)
    bench.drain()
    assert bench.times("CANCEL") == [0.0]


def test_the_owner_finds_itself_in_the_event():
    bench, transaction = calling(owner="leg")
    bench.receive(answer(transaction.request, 180))
    event = bench.one(ResponseReceived)
    assert event.transaction is transaction
    assert event.transaction.owner == "leg"
    assert event.flow == UDP


def test_r06_the_ack_for_a_2xx_has_a_branch_of_its_own_and_is_the_same_for_each_repeat():
    bench, transaction = calling()
    ok = answer(transaction.request, 200)
    acknowledgement = outgoing("ACK", to_tag="callee")
    for at in (1.0, 1.5, 2.5):
        bench.run(at)
        bench.receive(ok)
        bench.endpoint.send_ack(acknowledgement, UDP)
        bench.drain()
    bench.endpoint.send_ack(outgoing("ACK", to_tag="fork"), UDP)
    bench.drain()
    acks = [sent for _, sent in bench.sent if sent.method == "ACK"]
    assert [ack.retransmission for ack in acks] == [False, True, True, False]
    assert acks[0].data == acks[1].data == acks[2].data
    branches = {message.via.branch for message in bench.messages("ACK")}
    assert len(branches) == 2
    assert transaction.request.via.branch not in branches
    bench.run(60.0)
    assert bench.idle()


def test_an_ack_without_a_known_invite_goes_out_all_the_same():
    bench = Bench()
    bench.endpoint.send_ack(outgoing("ACK", call_id="gone", to_tag="x"), UDP)
    bench.drain()
    assert bench.times("ACK") == [0.0]
    assert bench.idle()


# -- CANCEL, as client (RFC 3261 §9.1) ---------------------------------------------------------------------------------


def test_r07_a_cancel_waits_for_a_provisional_response():
    bench, transaction = calling()
    bench.run(0.05)
    bench.endpoint.cancel(transaction, 0.05, ('SIP ;cause=200 ;text="Call completed elsewhere"', "Q.850;cause=26"))
    bench.run(3.0)
    assert bench.times("CANCEL") == []
    bench.receive(answer(transaction.request, 100))
    assert bench.times("CANCEL") == [3.0]
    (cancel,) = bench.messages("CANCEL")
    invite = transaction.request
    assert isinstance(cancel, Request)
    assert cancel.uri == invite.uri
    for name in ("Via", "Route", "From", "To", "Call-ID"):
        assert cancel.headers.get_all(name) == invite.headers.get_all(name)
    assert str(cancel.cseq) == "1 CANCEL"
    assert cancel.headers.get_all("Reason") == ['SIP ;cause=200 ;text="Call completed elsewhere"', "Q.850;cause=26"]
    assert next(sent.flow for _, sent in bench.sent if sent.method == "CANCEL") == transaction.flow


def test_r07_after_a_provisional_response_a_cancel_goes_out_at_once_and_only_once():
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 180))
    bench.endpoint.cancel(transaction, 0.0)
    bench.endpoint.cancel(transaction, 0.0)
    bench.drain()
    assert bench.times("CANCEL") == [0.0]
    bench.receive(answer(transaction.request, 183))
    assert bench.times("CANCEL") == [0.0]
    (cancel,) = bench.messages("CANCEL")
    assert "Reason" not in cancel.headers


def test_r07_a_cancelled_invite_ends_with_its_487():
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 180))
    bench.endpoint.cancel(transaction, 0.0)
    bench.drain()
    (cancel,) = bench.messages("CANCEL")
    assert isinstance(cancel, Request)
    bench.receive(answer(cancel, 200))
    bench.receive(answer(transaction.request, 487))
    bench.run(100.0)
    assert [event.response.status for event in bench.of(ResponseReceived)] == [180, 487]
    assert len(bench.times("ACK")) == 1
    assert bench.times("CANCEL") == [0.0]
    assert list(bench.of(TransactionTimedOut)) == []
    assert bench.idle()


@pytest.mark.parametrize("final", [200, 486])
def test_r07_a_cancel_is_dropped_once_a_final_response_is_there(final):
    bench, transaction = calling()
    bench.endpoint.cancel(transaction, 0.0)  # still waiting when the final response comes
    bench.receive(answer(transaction.request, final))
    bench.endpoint.cancel(transaction, 0.0)
    bench.run(100.0)
    assert bench.times("CANCEL") == []
    assert [event.response.status for event in bench.of(ResponseReceived)] == [final]
    assert bench.idle()


@pytest.mark.parametrize("cancel_answered", [False, True])
def test_a_cancelled_invite_without_a_final_response_is_given_up_after_64_t1(cancel_answered):
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 180))
    bench.run(2.0)
    bench.endpoint.cancel(transaction, 2.0)
    bench.drain()
    if cancel_answered:
        (cancel,) = bench.messages("CANCEL")
        assert isinstance(cancel, Request)
        bench.receive(answer(cancel, 200))
    bench.run(100.0)
    assert bench.when(TransactionTimedOut) == [34.0]
    assert bench.one(TransactionTimedOut).transaction is transaction
    assert len(bench.times("CANCEL")) == (1 if cancel_answered else 11)
    assert transaction.state is State.TERMINATED
    assert bench.idle()


def test_a_cancel_that_waits_in_vain_ends_with_timer_b():
    bench, transaction = calling()
    bench.endpoint.cancel(transaction, 0.0)
    bench.run(100.0)
    assert bench.when(TransactionTimedOut) == [32.0]
    assert bench.times("CANCEL") == []
    assert bench.idle()


def test_r08_a_200_that_crosses_the_cancel_reaches_the_user():
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 180))
    bench.endpoint.cancel(transaction, 0.0)
    bench.receive(answer(transaction.request, 200))
    (cancel,) = bench.messages("CANCEL")
    assert isinstance(cancel, Request)
    bench.receive(answer(cancel, 481))
    bench.run(100.0)
    assert [event.response.status for event in bench.of(ResponseReceived)] == [180, 200]
    assert list(bench.of(TransactionTimedOut)) == []
    assert bench.idle()


def test_a_cancelled_invite_whose_peer_is_gone_fails_at_once():
    bench, transaction = calling()
    bench.receive(answer(transaction.request, 180))
    bench.endpoint.cancel(transaction, 0.0)
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.drain()
    assert bench.one(TransactionFailed).transaction is transaction
    assert bench.idle()


def test_what_has_its_final_response_is_not_looked_at_when_a_place_can_not_be_reached():
    """T10: a target that is gone costs each call its own, not the thousands before it that wait for timers K and M."""
    bench, transaction = calling()
    assert bench.endpoint.counts()["unanswered_clients"] == 1
    bench.receive(answer(transaction.request, 180))
    assert bench.endpoint.counts()["unanswered_clients"] == 1
    bench.receive(answer(transaction.request, 200))
    assert bench.endpoint.counts()["unanswered_clients"] == 0
    assert bench.endpoint.counts()["invite_clients"] == 1
    bench.endpoint.transport_failed(UDP, 0.0)
    bench.drain()
    assert list(bench.of(TransactionFailed)) == []


# -- CANCEL, as server (RFC 3261 §9.2) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [(), (100,), (100, 180)])
def test_r07_a_cancel_that_matches_is_answered_200_and_told(early):
    bench, transaction = invited()
    for status in early:
        respond(bench, transaction, status)
    bench.receive(incoming("CANCEL", extra="Reason: Q.850;cause=16\n"))
    event = bench.one(CancelReceived)
    assert event.transaction is transaction
    assert event.request.headers.get("Reason") == "Q.850;cause=16"
    (ok,) = bench.messages("CANCEL", 200)
    assert ok.to.tag is not None
    if 180 in early:
        assert ok.to.tag == "ours"  # the same as in the response to the INVITE
    respond(bench, transaction, 487)
    bench.receive(incoming("ACK", to_tag="ours"))
    bench.run(100.0)
    assert bench.times("INVITE", 487) == [0.0]
    assert bench.idle()


def test_a_repeated_cancel_gets_its_200_again_and_is_told_once():
    bench, _ = invited()
    bench.receive(incoming("CANCEL"))
    bench.run(0.5)
    bench.receive(incoming("CANCEL"))
    assert bench.times("CANCEL", 200) == [0.0, 0.5]
    assert len(list(bench.of(CancelReceived))) == 1


@pytest.mark.parametrize("final", [200, 486])
def test_r08_a_cancel_after_the_final_response_is_answered_and_has_no_effect(final):
    bench, transaction = invited()
    respond(bench, transaction, final)
    bench.receive(incoming("CANCEL"))
    assert bench.times("CANCEL", 200) == [0.0]
    assert list(bench.of(CancelReceived)) == []
    assert transaction.final == final


def test_a_cancel_that_matches_nothing_is_481():
    bench, _ = invited()
    for number in range(3):
        bench.receive(incoming("CANCEL", branch=f"z9hG4bKother{number}"))
    bench.receive(incoming("CANCEL", via="SIP/2.0/UDP 203.0.113.9:5070;branch=z9hG4bKpeer;rport"))
    assert len(bench.times("CANCEL", 481)) == 4
    assert bench.endpoint.rejected["bad-cancel"] == 4
    assert list(bench.of(CancelReceived)) == []
    assert bench.endpoint.counts()["non_invite_servers"] == 0


# -- which transaction a message belongs to (RFC 3261 §17.1.3, §17.2.3) ------------------------------------------------


def test_r19_the_same_request_over_another_path_is_482():
    bench, _ = invited()
    assert bench.receive(incoming(branch="z9hG4bKother")) is None
    assert len(list(bench.of(RequestReceived))) == 1
    assert only_response(bench).status == 482
    assert bench.endpoint.rejected["merged"] == 1


@pytest.mark.parametrize("other", [{"from_tag": "b"}, {"call_id": "b"}, {"number": 8}, {"to_tag": "b"}])
def test_r19_a_request_that_differs_in_tag_call_id_or_cseq_is_another_one(other):
    bench, _ = invited()
    bench.receive(incoming(**{"branch": "z9hG4bKother", **other}))
    assert len(list(bench.of(RequestReceived))) == 2


def test_r19_is_over_when_the_transaction_is():
    bench, transaction = invited(incoming("OPTIONS"))
    respond(bench, transaction, 200)
    bench.run(32.0)
    assert bench.idle()
    bench.receive(incoming("OPTIONS", branch="z9hG4bKother"))
    assert len(list(bench.of(RequestReceived))) == 2


def test_requests_of_two_hosts_with_the_same_branch_are_two():
    bench, _ = invited()
    bench.receive(incoming(call_id="p2", via="SIP/2.0/UDP 203.0.113.9:5070;branch=z9hG4bKpeer;rport"))
    assert len(list(bench.of(RequestReceived))) == 2


@pytest.mark.parametrize("via", ["SIP/2.0/UDP 198.51.100.7", "SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK"])
def test_requests_without_a_unique_branch_are_matched_as_rfc_2543_did(via):
    bench, transaction = invited(incoming(via=via))
    bench.receive(incoming(via=via))
    assert len(list(bench.of(RequestReceived))) == 1
    bench.receive(incoming(via=via, call_id="p2"))
    bench.receive(incoming(via=via, number=8))
    assert len(list(bench.of(RequestReceived))) == 3
    respond(bench, transaction, 486)
    bench.receive(incoming("ACK", via=via, to_tag="ours"))
    assert transaction.state is State.CONFIRMED
    assert bench.times("INVITE", 486) == [0.0]


@pytest.mark.parametrize("change", [{"branch": "z9hG4bKwrong"}, {"method": "BYE"}])
def test_a_response_to_nothing_of_ours_is_dropped_and_counted(change):
    bench, transaction = calling()
    response = answer(transaction.request, 200)
    if "branch" in change:
        response.headers.set("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKwrong")
    else:
        response.headers.set("CSeq", "1 BYE")
    assert bench.receive(response) is None
    assert bench.endpoint.rejected["no-transaction"] == 1
    assert list(bench.of(ResponseReceived)) == []


@pytest.mark.parametrize("how", ["repeated", "list"])
def test_a_response_with_a_second_via_was_meant_for_somebody_else(how):
    bench, transaction = calling()
    response = answer(transaction.request, 200)
    if how == "repeated":
        response.headers.add("Via", "SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKx")
    else:
        response.headers.set("Via", f"{response.headers.get('Via')}, SIP/2.0/UDP 203.0.113.1")
    assert bench.receive(response) is None
    assert bench.endpoint.rejected["surplus-via"] == 1


# -- where responses go (RFC 3261 §18.2.2, RFC 3581 §4) ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("via", "remote"),
    [
        ("SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bKx;rport", PEER),
        ("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx;rport", PEER),
        ("SIP/2.0/UDP pbx.example.com;rport;branch=z9hG4bKx", PEER),
        ("SIP/2.0/UDP 10.0.0.1:5099;branch=z9hG4bKx", (PEER[0], 5099)),
        ("SIP/2.0/UDP pbx.example.com;branch=z9hG4bKx", (PEER[0], 5060)),
        ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;received=203.0.113.66", (PEER[0], 5060)),
        ("SIP/2.0/UDP 10.0.0.1:5099;branch=z9hG4bKx;maddr=203.0.113.5;rport", ("203.0.113.5", 5099)),
        ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;maddr=[2001:db8::5]", ("2001:db8::5", 5060)),
    ],
)
def test_r14_a_response_goes_back_where_its_request_came_from(via, remote):
    bench, transaction = invited(incoming(via=via))
    respond(bench, transaction, 486)
    (_, sent) = bench.sent[0]
    assert sent.flow == Flow("udp", OURS, remote)


def test_r14_received_and_rport_are_filled_in():
    bench, transaction = invited(incoming(via="SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKx"))
    respond(bench, transaction, 486)
    via = only_response(bench).via
    assert (via.received, via.rport, via.branch) == ("198.51.100.7", 5070, "z9hG4bKx")


def test_r14_the_listener_that_was_asked_is_the_one_that_answers():
    other = Flow("udp", ("203.0.113.200", 5080), ("198.51.100.99", 61000))
    bench = Bench()
    bench.receive(incoming(via="SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKx"), other)
    respond(bench, bench.one(RequestReceived).transaction, 200)
    assert [sent.flow for _, sent in bench.sent] == [other]


@pytest.mark.parametrize(
    ("via", "port"),
    [
        ("SIP/2.0/TCP 10.0.0.1:5099;branch=z9hG4bKx;maddr=203.0.113.5", 5099),
        ("SIP/2.0/TCP pbx.example.com;branch=z9hG4bKx;rport", 5060),
        ("SIP/2.0/TLS pbx.example.com;branch=z9hG4bKx;rport", 5061),
    ],
)
def test_r14_over_a_stream_a_response_goes_back_over_it_or_to_where_the_client_listens(via, port):
    flow = Flow("tls" if "TLS" in via else "tcp", OURS, (PEER[0], 49152), 7)
    bench = Bench(flow)
    bench.receive(incoming(via=via))
    respond(bench, bench.one(RequestReceived).transaction, 200)
    assert [sent.flow for _, sent in bench.sent] == [Flow(flow.transport, OURS, (PEER[0], port), 7)]
    assert only_response(bench).via.received == PEER[0]


def test_only_the_topmost_via_is_written_into():
    below = "SIP/2.0/UDP  b.example.com ;branch=z9hG4bKb"
    for via in (
        f"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;rport, {below}",
        f"SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx;rport\nVia: {below}",
    ):
        bench, transaction = invited(incoming(via=via))
        respond(bench, transaction, 200)
        response = only_response(bench)
        assert response.via.received == "198.51.100.7"
        assert ", ".join(response.headers.get_all("Via")).endswith(f", {below}")


# -- what needs no transaction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\r\n", b"\0", b"\0\0\0\0"])
def test_keepalives_are_no_messages(data):
    bench = Bench()
    assert bench.receive(data) is None
    assert not bench.endpoint.rejected
    assert bench.sent == []


def test_a_malformed_request_is_answered_once_without_state():
    bench = Bench()
    data = incoming().replace(b"Content-Length: 0", b"Content-Length: -999")
    assert bench.receive(data) is None
    response = only_response(bench)
    assert (response.status, response.reason) == (400, "Malformed Content-Length")
    assert response.to.tag is not None
    assert response.via.received == PEER[0]
    bench.run(60.0)
    assert len(bench.sent) == 1
    assert bench.endpoint.rejected["malformed"] == 1
    assert bench.idle()


def test_a_via_that_can_not_be_read_goes_back_as_it_came():
    bench = Bench()
    bench.receive(incoming(via="SIP/2.0/UDP 192.0.2.15;;,;,,"))
    ((_, sent),) = bench.sent
    assert sent.status == 400
    assert sent.flow == UDP
    assert b"\r\nVia: SIP/2.0/UDP 192.0.2.15;;,;,,\r\n" in b"\r\n" + sent.data


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("INVITE sip:+14155550100@192.0.2.1 SIP/2.0", "INVITE sip:+14155550100@192.0.2.1 SIP/7.0", 505),
        ("INVITE sip:+14155550100@192.0.2.1", "INVITE isbn:2983792873", 416),
        ("To: <sip:+14155550100@192.0.2.1>", 'To: "unbalanced <sip:a@b>', 400),
    ],
)
def test_what_is_wrong_decides_the_answer(old, new, status):
    bench = Bench()
    bench.receive(incoming().decode().replace(old, new).encode())
    assert only_response(bench).status == status


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\x16\x03\x01\x02\x00",
        incoming().replace(b"Call-ID: p1\r\n", b""),
        incoming("ACK", to_tag="x").replace(b"7 ACK", b"seven ACK"),
        incoming("ACK", to_tag="x").replace(b"To: <", b'To: "<'),
        wire("SIP/2.0 4294967301 better not break the receiver\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx"),
    ],
)
def test_what_can_not_be_answered_is_dropped_and_counted(data):
    bench = Bench()
    assert bench.receive(data) is None
    assert bench.sent == []
    assert bench.endpoint.rejected["malformed"] == 1


def test_t13_control_characters_of_a_peer_never_become_lines_of_ours():
    bench = Bench()
    bench.receive(incoming(extra='Reason: SIP;text="a\\\0b"\n'))
    transaction = bench.one(RequestReceived).transaction
    response = response_to(transaction.request, 486, to_tag="ours")
    response.headers.add("Reason", transaction.request.headers.get("Reason") or "")
    bench.endpoint.respond(transaction, response, 0.0)
    bench.drain()
    assert b"\0" not in bench.sent[0][1].data


def test_the_returned_message_is_sound_in_every_typed_value():
    bench = Bench()
    message = bench.receive(incoming())
    assert isinstance(message, Request)
    assert message.call_id == "p1"
    assert message.cseq.method == "INVITE"
    message.validate()


def test_a_contact_that_nobody_needs_does_not_lose_the_message():
    bench, transaction = invited()
    respond(bench, transaction, 200)
    for method in ("ACK", "BYE"):
        data = incoming(method, branch=f"z9hG4bK{method}", to_tag="ours", number=7 if method == "ACK" else 8)
        bench.receive(data.replace(b"<sip:caller@198.51.100.7:5070>", b"<sip:caller@>"))
    assert transaction.acknowledged
    assert [event.request.method for event in bench.of(RequestReceived)] == ["INVITE", "BYE"]


def test_a_redirection_may_name_any_scheme():
    bench, transaction = calling()
    moved = answer(transaction.request, 302)
    moved.headers.add("Contact", "<mailto:agent@example.com>")
    bench.receive(moved)
    assert bench.one(ResponseReceived).response.status == 302


def test_a_2xx_whose_contact_can_not_be_read_is_dropped():
    bench, transaction = calling()
    ok = answer(transaction.request, 200)
    ok.headers.set("Contact", "<sip:agent@>")
    assert bench.receive(ok) is None
    assert bench.endpoint.rejected["malformed"] == 1


def test_in_dialog_requests_and_their_acks_are_told_apart_by_cseq():
    bench, transaction = invited(incoming(to_tag="ours"))
    respond(bench, transaction, 200)
    bench.receive(incoming(number=8, branch="z9hG4bKsecond", to_tag="ours"))
    second = list(bench.of(RequestReceived))[1].transaction
    respond(bench, second, 200)
    bench.receive(incoming("ACK", number=8, branch="z9hG4bKack", to_tag="ours"))
    assert second.acknowledged
    assert not transaction.acknowledged
    assert bench.one(AckReceived).request.cseq.number == 8


def test_counts_name_what_is_held():
    bench, _ = calling()
    bench.endpoint.send_request(outgoing("OPTIONS", call_id="c2"), UDP, 0.0)
    bench.receive(incoming())
    bench.receive(incoming("OPTIONS", call_id="p2", branch="z9hG4bKo"))
    assert bench.endpoint.counts() == {
        "invite_clients": 1,
        "non_invite_clients": 1,
        "unanswered_clients": 2,
        "invite_servers": 1,
        "non_invite_servers": 1,
        "pending_2xx": 0,
        "timers": 5,
    }
