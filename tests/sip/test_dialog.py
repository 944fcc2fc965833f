from __future__ import annotations

import pytest

from bridge.errors import PeerError
from bridge.sip.dialog import Dialog
from bridge.sip.message import Header, Request, Response, parse, response_to
from bridge.sip.uri import Uri
from tests.sip.bench import answer, incoming, outgoing

CONTACT = "<sip:trunkbridge@192.0.2.1:5060>"


def response(status=200, routes=(), contact="<sip:callee@10.0.0.9:5062;transport=udp>", to_tag="callee") -> Response:
    made = answer(outgoing(), status, to_tag=to_tag)
    made.headers.remove("Contact")
    if contact:
        made.headers.add("Contact", contact)
    for route in routes:
        made.headers.add("Record-Route", route)
    return made


def invite(extra="", **rest) -> Request:
    request = parse(incoming(extra=extra, **rest))
    assert isinstance(request, Request)
    return request


def in_dialog(method="BYE", number=8) -> Request:
    return invite(method=method, number=number, to_tag="ours")


def test_the_callers_dialog_is_read_from_request_and_response():
    dialog = Dialog.uac(outgoing(), response())
    assert (dialog.call_id, dialog.local_tag, dialog.remote_tag) == ("c1", "ours", "callee")
    assert (dialog.local_cseq, dialog.remote_cseq, dialog.confirmed) == (1, None, True)
    assert str(dialog.remote_target) == "sip:callee@10.0.0.9:5062;transport=udp"
    assert dialog.local_contact == CONTACT
    assert dialog.route_set == ()
    assert dialog.next_hop() == dialog.remote_target


def test_the_callees_dialog_is_read_from_the_request():
    request = invite("Record-Route: <sip:p2;lr>, <sip:p1;lr>\n")
    dialog = Dialog.uas(request, "ours", CONTACT)
    assert (dialog.call_id, dialog.local_tag, dialog.remote_tag) == ("p1", "ours", "theirs")
    assert (dialog.local_cseq, dialog.remote_cseq, dialog.confirmed) == (0, 7, False)
    assert str(dialog.remote_target) == "sip:caller@198.51.100.7:5070"
    assert [str(route) for route in dialog.route_set] == ["<sip:p2;lr>", "<sip:p1;lr>"]
    assert str(dialog.next_hop()) == "sip:p2;lr"


def test_an_invite_without_contact_makes_no_dialog():
    request = invite()
    request.headers.remove("Contact")
    with pytest.raises(PeerError) as caught:
        Dialog.uas(request, "ours", CONTACT)
    assert caught.value.status == 400


def test_a_response_without_contact_leaves_the_target_of_the_invite():
    dialog = Dialog.uac(outgoing(), response(180, contact=""))
    assert str(dialog.remote_target) == "sip:agent@198.51.100.7:5070"
    assert not dialog.confirmed


def test_a_peer_without_a_from_tag_has_none():
    """RFC 3261 §12.1.1: RFC 2543 callers."""
    request = invite()
    request.headers.set("From", "<sip:a@b>")
    dialog = Dialog.uas(request, "ours", CONTACT)
    assert dialog.remote_tag is None
    assert dialog.request("BYE").to.tag is None


def test_r09_each_request_has_the_next_cseq():
    dialog = Dialog.uac(outgoing(number=41), response())
    assert [dialog.request(method).cseq.number for method in ("INVITE", "INFO", "BYE")] == [42, 43, 44]
    assert Dialog.uas(invite(), "ours", CONTACT).request("BYE").cseq.number == 1


def test_a_request_within_the_dialog_says_what_rfc_3261_12_2_1_1_asks_for():
    dialog = Dialog.uac(outgoing(), response())
    request = dialog.request("INVITE")
    assert request.uri == "sip:callee@10.0.0.9:5062;transport=udp"
    assert request.headers.get("From") == "<sip:+14155550199@192.0.2.1>;tag=ours"
    assert request.headers.get("To") == "<sip:agent@198.51.100.7>;tag=callee"
    assert request.headers.get("Max-Forwards") == "70"
    assert request.headers.get("Contact") == CONTACT
    assert str(request.cseq) == "2 INVITE"
    assert "Via" not in request.headers
    assert "Route" not in request.headers
    assert "Contact" not in dialog.request("BYE").headers


def test_the_callee_swaps_from_and_to():
    dialog = Dialog.uas(invite(), "ours", CONTACT)
    bye = dialog.request("BYE")
    assert bye.from_.tag == "ours"
    assert bye.to.tag == "theirs"
    assert str(bye.to.uri) == "sip:+14155550199@198.51.100.7"
    assert bye.uri == "sip:caller@198.51.100.7:5070"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_r18_loose_routes_are_followed_in_reverse_order_of_the_response(count):
    routes = [f"<sip:p{number}.example.com;lr>" for number in range(count)]
    for spelled in (routes, [", ".join(routes)]):
        dialog = Dialog.uac(outgoing(), response(routes=spelled))
        for request in (dialog.request("BYE"), dialog.request("INVITE"), dialog.ack(1)):
            assert request.uri == "sip:callee@10.0.0.9:5062;transport=udp"
            assert request.headers.get_all("Route") == routes[::-1]
        assert str(dialog.next_hop()) == routes[-1].strip("<>")


def test_r18_a_strict_route_takes_the_place_of_the_request_uri():
    dialog = Dialog.uac(outgoing(), response(routes=["<sip:p1;lr>", "<sip:strict.example.com;method=INVITE?X=y>"]))
    for request in (dialog.request("BYE"), dialog.ack(1)):
        assert request.uri == "sip:strict.example.com"
        assert request.headers.get_all("Route") == ["<sip:p1;lr>", "<sip:callee@10.0.0.9:5062;transport=udp>"]
    assert dialog.next_hop().host == "strict.example.com"


def test_a_request_uri_loses_what_it_may_not_have():
    dialog = Dialog.uac(outgoing(), response(contact="<sip:callee@10.0.0.9;method=BYE;x=1?Subject=s>"))
    assert dialog.request("BYE").uri == "sip:callee@10.0.0.9;x=1"


def test_r06_the_ack_has_the_cseq_of_its_invite_and_follows_the_route_set():
    dialog = Dialog.uac(outgoing(), response(routes=["<sip:p1;lr>"]))
    dialog.request("INFO")
    ack = dialog.ack(1, (Header("Proxy-Authorization", "Digest x"),))
    assert (ack.method, str(ack.cseq), dialog.local_cseq) == ("ACK", "1 ACK", 2)
    assert ack.headers.get("Route") == "<sip:p1;lr>"
    assert ack.headers.get("Proxy-Authorization") == "Digest x"
    assert ack.to.tag == "callee"


def test_r06_the_2xx_says_the_route_set_anew():
    dialog = Dialog.uac(outgoing(), response(180, ["<sip:early;lr>"], contact="<sip:early@10.0.0.1>"))
    assert str(dialog.next_hop()) == "sip:early;lr"
    dialog.confirm(response(200, ["<sip:p1;lr>", "<sip:p2;lr>"], contact="<sip:late@10.0.0.2>"))
    assert dialog.confirmed
    assert dialog.request("BYE").headers.get_all("Route") == ["<sip:p2;lr>", "<sip:p1;lr>"]
    assert str(dialog.remote_target) == "sip:late@10.0.0.2"
    dialog.confirm(response(200, ["<sip:other;lr>"], contact="<sip:later@10.0.0.3>"))
    assert len(dialog.route_set) == 2  # RFC 3261 §12.2: a confirmed route set never changes
    assert str(dialog.remote_target) == "sip:later@10.0.0.3"


@pytest.mark.parametrize(("number", "status"), [(6, 500), (7, None), (8, None), (12, None), (2**31 - 1, None)])
def test_r09_a_cseq_that_runs_backwards_is_500(number, status):
    dialog = Dialog.uas(invite(), "ours", CONTACT)
    if status is None:
        dialog.receive(in_dialog(number=number))
        assert dialog.remote_cseq == number
    else:
        with pytest.raises(PeerError) as caught:
            dialog.receive(in_dialog(number=number))
        assert caught.value.status == status
        assert dialog.remote_cseq == 7


def test_r09_a_cseq_of_2_to_the_31_is_400():
    dialog = Dialog.uas(invite(), "ours", CONTACT)
    request = in_dialog()
    request.headers.set("CSeq", "2147483648 BYE")
    with pytest.raises(PeerError) as caught:
        dialog.receive(request)
    assert caught.value.status == 400


def test_r09_the_first_request_of_a_called_peer_may_have_any_cseq():
    dialog = Dialog.uac(outgoing(), response())
    dialog.receive(in_dialog(number=5000))
    assert dialog.remote_cseq == 5000


@pytest.mark.parametrize("method", ["ACK", "CANCEL"])
def test_ack_and_cancel_repeat_an_older_cseq(method):
    dialog = Dialog.uas(invite(), "ours", CONTACT)
    dialog.receive(in_dialog(number=9))
    dialog.receive(in_dialog(method, 7))
    assert dialog.remote_cseq == 9


def test_a_target_refresh_moves_the_remote_target():
    dialog = Dialog.uas(invite(), "ours", CONTACT)
    for method, moved in (("INFO", False), ("INVITE", True)):
        request = in_dialog(method)
        request.headers.set("Contact", f"<sip:{method}@10.9.9.9>")
        dialog.refresh_target(request)
        assert (dialog.remote_target.user == method) is moved
    request.headers.remove("Contact")
    dialog.refresh_target(request)
    assert dialog.remote_target == Uri.parse("sip:INVITE@10.9.9.9")
    dialog.refresh_target(response_to(request, 200))
    assert dialog.remote_target.user == "INVITE"


def test_a_malformed_record_route_is_a_peer_error():
    with pytest.raises(PeerError):
        Dialog.uas(invite("Record-Route: <sip:p1;lr\n"), "ours", CONTACT)
    with pytest.raises(PeerError):
        Dialog.uac(outgoing(), response(routes=["<tel:+1>"]))


# -- early dialogs (RFC 3261 §12.1.2, RFC 3262, RFC 3311) --------------------------------------------------------------


def test_r18_each_fork_of_an_invite_has_an_early_dialog_with_a_route_set_of_its_own():
    request = outgoing()
    forks = [
        Dialog.uac(request, response(183, ["<sip:p1;lr>", "<sip:p2;lr>"], to_tag="one")),
        Dialog.uac(request, response(180, ["<sip:p3;lr>"], to_tag="two")),
    ]
    assert [dialog.confirmed for dialog in forks] == [False, False]
    assert [dialog.remote_tag for dialog in forks] == ["one", "two"]
    assert [[str(route) for route in dialog.route_set] for dialog in forks] == [
        ["<sip:p2;lr>", "<sip:p1;lr>"],
        ["<sip:p3;lr>"],
    ]
    pracks = [dialog.request("PRACK") for dialog in forks]
    assert [prack.headers.get("Route") for prack in pracks] == ["<sip:p2;lr>", "<sip:p3;lr>"]
    assert [prack.to.tag for prack in pracks] == ["one", "two"]


def test_r09_prack_and_update_count_on_from_the_invite_and_its_ack_does_not():
    """RFC 3262 §7.2: the RAck names the INVITE by its CSeq, so the PRACK has the next one."""
    dialog = Dialog.uac(outgoing(), response(183))
    assert [dialog.request(method).cseq.number for method in ("PRACK", "UPDATE", "PRACK")] == [2, 3, 4]
    dialog.confirm(response(200))
    assert dialog.ack(1).cseq.number == 1
    assert dialog.request("BYE").cseq.number == 5


def test_r35_an_update_in_an_early_dialog_moves_the_target_and_the_2xx_may_move_it_again():
    dialog = Dialog.uac(outgoing(), response(183))
    update = invite(method="UPDATE", number=1, to_tag="ours")
    update.headers.set("Contact", "<sip:moved@10.0.0.10>")
    dialog.receive(update)
    dialog.refresh_target(update)
    assert str(dialog.remote_target) == "sip:moved@10.0.0.10"
    assert not dialog.confirmed
    ok = response(200, contact="<sip:answered@10.0.0.11>")
    dialog.confirm(ok)
    assert str(dialog.remote_target) == "sip:answered@10.0.0.11"
    assert dialog.request("UPDATE").headers.get("Contact") == CONTACT


def test_a_prack_or_info_moves_no_target():
    dialog = Dialog.uac(outgoing(), response(183))
    for number, method in enumerate(("PRACK", "INFO", "OPTIONS", "BYE"), start=1):
        request = invite(method=method, number=number, to_tag="ours")
        dialog.receive(request)
        dialog.refresh_target(request)
    assert str(dialog.remote_target) == "sip:callee@10.0.0.9:5062;transport=udp"
