"""Scenario files in short hand, written out in full for SIPp.

A file of this directory shows what its party does and nothing else. What every message needs besides (Via, From, To,
Call-ID, CSeq, Contact, Content-Length, the ACK's branch, the description) is put in here, so that the twenty lines of a
scenario are its behaviour. In a ``<send>`` stands either

- a method, by itself or with a Request-URI: ``BYE``, ``REFER``, ``INVITE sip:nobody@example.com``, or
- a status with its phrase: ``180 Ringing``; it answers the last request received, or the one that ``to=`` names;

then further headers, one a line, in place of those that would be put in (``Content-Type: -`` leaves one out); then,
after an empty line, a body. ``SDP`` as the body is a description of G.711 audio with the next version, ``SDP same`` the
last one again; further words are its attributes (``SDP sendonly``), or replace its connection address (``SDP
c=0.0.0.0``). A message that has a Via header of its own is sent as it stands.

In a ``<recv>``, ``<check header="Reason" has="cause=16" />`` fails the call unless the header is so; ``body=`` instead
of ``header=`` looks there, ``start=""`` at the whole message; ``lacks=`` in place of ``has=`` wants the opposite.
``<note as="rseq" header="RSeq" has="[0-9]+" />`` keeps what fits for a later ``[$rseq]`` or ``test="rseq"``.
``as="first"`` on the ``<recv>`` remembers a request, so that a later ``<send to="first">`` answers it.

``[status]`` and the like stand for a scenario's ``keys``.

``python -m conformance.sipp NAME`` prints a scenario as SIPp gets it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

SCENARIOS = Path(__file__).resolve().parent
_COUNTED = ("send", "recv", "nop", "pause", "timewait")  # what SIPp gives an index
_WITHOUT_CONTACT = ("ACK", "BYE", "CANCEL", "PRACK", "INFO", "MESSAGE")
_REMEMBERED = {"via": "Via:", "cseq": "CSeq:", "from": "From:", "to": "To:"}


def written_out(name: str, keys: Mapping[str, str], timewait_ms: int = 1000, lossy: bool = False) -> str:
    """Return the scenario of that name as SIPp takes it.

    A party stays for ``timewait_ms`` to repeat its last answer. ``lossy``: a provisional response need not arrive.
    """
    text = (SCENARIOS / f"{name}.xml").read_text("utf-8")
    text = re.sub(r"\[([a-z_]+)\]", lambda found: keys.get(found[1], found[0]), text)
    root = ElementTree.fromstring(text)
    if lossy:
        _allow_loss(root)
    _Writer(root, timewait_ms).expand()
    whole = '<?xml version="1.0" encoding="UTF-8" ?>\n' + _serialised(root)
    return re.sub(r"\[([a-z_]+)\]", lambda found: keys.get(found[1], found[0]), whole)


class _Writer:
    """Go through one scenario in order, keeping count of what its dialog has seen."""

    def __init__(self, root: ElementTree.Element, timewait_ms: int) -> None:
        self._root = root
        self._timewait_ms = timewait_ms
        self._caller = root.attrib.pop("role", "caller") == "caller"
        self._index = -1
        self._cseq = 0
        self._version = 0
        self._invite_index = 0  # of our last INVITE
        self._invite_cseq = 1
        self._confirmed = False  # there is a remote target
        self._last_final = 0  # the last final response to an INVITE of ours
        self._answering = ""  # the method of the last request received
        self._invited = 0  # INVITEs received
        self._asked = ""  # the method of our last request
        self._variables: list[str] = []

    def expand(self) -> None:
        for element in list(self._root):
            if element.tag in _COUNTED:
                self._index += 1
            if element.tag == "recv":
                self._received(element)
            elif element.tag == "send":
                element.text = self._message(element)
            elif element.tag == "timewait":
                element.set("milliseconds", str(self._timewait_ms))
        if self._variables:  # SIPp refuses a variable that nobody reads
            names = ",".join(dict.fromkeys(self._variables))
            ElementTree.SubElement(self._root, "Reference", {"variables": names})

    # What is received.

    def _received(self, element: ElementTree.Element) -> None:
        method, status = element.get("request"), int(element.get("response", "0"))
        name = element.attrib.pop("as", "INVITE" if method == "INVITE" else "")
        if method == "INVITE":
            self._invited += 1
            if self._invited == 1:
                self._capture(element, "From:", "caller")
                self._capture(element, "To:", "called")
            element.set("rrs", "true")
            self._confirmed = True
        elif status and 180 <= status < 300 and self._asked == "INVITE" and not element.get("optional"):
            element.set("rrs", "true")
            self._confirmed = True
        if name:  # what an answer needs even after other messages have come
            for part, header in _REMEMBERED.items():
                self._capture(element, header, f"{name}_{part}")
        for check in element.findall("check"):
            element.remove(check)
            self._match(element, check, f"check{len(self._variables)}", must=True)
        for note in element.findall("note"):
            element.remove(note)
            self._match(element, note, note.attrib.pop("as"), must=False)
        if method and method != "ACK":
            self._answering = method
        if status >= 200 and (self._asked == "INVITE" or status == 487):
            self._last_final = status

    def _capture(self, element: ElementTree.Element, header: str, variable: str) -> None:
        where = {"regexp": ".*", "search_in": "hdr", "header": header}
        ElementTree.SubElement(_action(element), "ereg", {**where, "assign_to": variable})
        self._variables.append(variable)

    def _match(self, element: ElementTree.Element, wanted: ElementTree.Element, variable: str, must: bool) -> None:
        """Look for a pattern; keep what fits under a name, and fail the call where it ``must`` fit and does not."""
        header, has, lacks = wanted.get("header"), wanted.get("has"), wanted.get("lacks")
        where = {"search_in": "hdr", "header": f"{header}:"} if header else {"search_in": "msg"}
        if wanted.get("body") is not None:
            where = {"search_in": "body"}
        attributes = {**where, "regexp": has or lacks or "", "assign_to": variable}
        if must:
            attributes["check_it" if has is not None else "check_it_inverse"] = "true"
        ElementTree.SubElement(_action(element), "ereg", attributes)
        self._variables.append(variable)

    # What is sent.

    def _message(self, element: ElementTree.Element) -> str:
        lines = [line.strip() for line in (element.text or "").strip().splitlines()]
        target, cseq = element.attrib.pop("to", ""), element.attrib.pop("cseq", "")
        head, body = _parted(lines)
        start, own = head[0], head[1:]
        if any(line.lower().startswith(("via:", "v:")) for line in own):
            self._request(start.removesuffix(" SIP/2.0"), cseq)
            element.attrib.setdefault("retrans", "500")
            return _joined(head, self._body(body))
        answer = start[:3].isdigit()
        if answer:
            target = target or self._answering
            headers = self._answer_headers(start, target)
            repeated = target == "INVITE" and start[0] != "1"
        else:
            start, headers = self._request(start, cseq)
            repeated = not start.startswith("ACK ")
        if repeated and "retrans" not in element.attrib:
            element.set("retrans", "500")
        if element.get("retrans") == "0":
            del element.attrib["retrans"]
        taken = {line.partition(":")[0].lower() for line in own}
        headers = [line for line in headers if line.partition(":")[0].lower() not in taken]
        if body and "content-type" not in taken:
            own = [*own, "Content-Type: application/sdp"]
        first = f"SIP/2.0 {start}" if answer else f"{start} SIP/2.0"
        return _joined([first, *headers, *(line for line in own if not line.endswith(": -")), "Content-Length: [len]"],
                       self._body(body))  # fmt: skip

    def _request(self, start: str, cseq: str) -> tuple[str, list[str]]:
        method, _, uri = start.partition(" ")
        if method == "INVITE":
            self._invite_index, self._last_final = self._index, 0
        if method not in ("ACK", "CANCEL"):
            self._cseq += 1
        number = self._cseq
        if method == "INVITE":
            self._invite_cseq = number
        elif method in ("ACK", "CANCEL"):
            number = self._invite_cseq
        if method != "ACK":
            self._asked = method
        branch, in_dialog = "[branch]", self._confirmed
        if method == "CANCEL" or (method == "ACK" and self._last_final >= 300):  # RFC 3261 §9.1, §17.1.1.3
            branch = f"[branch-{self._index - self._invite_index}]"
            in_dialog = self._confirmed and (not self._caller or self._invite_cseq > 1)
        uri = uri or ("[next_url]" if in_dialog else "sip:[service]@[remote_ip]:[remote_port]")
        headers = [
            f"Via: SIP/2.0/[via] [local_ip]:[local_port];branch={branch}",
            *(["[routes]"] if in_dialog else []),
            *self._parties(method),
            "Call-ID: [call_id]",
            f"CSeq: {cseq or number} {method}",
            "Max-Forwards: 70",
        ]
        if method not in _WITHOUT_CONTACT:
            headers.append("Contact: <sip:sipp@[local_ip]:[contact_port];transport=[tp]>")
        return f"{method} {uri}", headers

    def _parties(self, method: str) -> list[str]:
        if not self._caller:
            return ["From: [$called];tag=[pid]e[call_number]", "To: [$caller]"]
        tag = "" if method == "CANCEL" else "[peer_tag_param]"
        return [
            "From: <sip:[caller]@[local_ip]:[local_port]>;tag=[pid]c[call_number]",
            f"To: <sip:[service]@[remote_ip]:[remote_port]>{tag}",
        ]

    def _answer_headers(self, start: str, target: str) -> list[str]:
        if f"{target}_via" not in self._variables:
            headers = ["[last_Via:]", "[last_From:]", "[last_To:]", "[last_Call-ID:]", "[last_CSeq:]"]
        else:
            tag = ";tag=[pid]e[call_number]" if not self._caller and self._invited == 1 and target == "INVITE" else ""
            via, cseq, sender, to = (f"[${target}_{part}]" for part in _REMEMBERED)
            headers = [f"Via: {via}", f"From: {sender}", f"To: {to}{tag}", "Call-ID: [call_id]", f"CSeq: {cseq}"]
        if target in ("INVITE", "UPDATE", "REFER") and start[0] in "12" and start[:3] != "100":
            headers.append("Contact: <sip:sipp@[local_ip]:[contact_port];transport=[tp]>")
        return headers

    def _body(self, lines: list[str]) -> list[str]:
        if not lines or not lines[0].startswith("SDP"):
            return lines
        words = lines[0].split()[1:]
        self._version += "same" not in words
        address = next((word[2:] for word in words if word.startswith("c=")), "[media_ip]")
        attributes = [word for word in words if word != "same" and not word.startswith("c=")]
        return [
            "v=0",
            f"o=sipp 1 {self._version} IN IP[local_ip_type] [local_ip]",
            "s=-",
            f"c=IN IP[media_ip_type] {address}",
            "t=0 0",
            "m=audio [media_port] RTP/AVP 0 101",
            "a=rtpmap:0 PCMU/8000",
            "a=rtpmap:101 telephone-event/8000",
            "a=fmtp:101 0-15",
            "a=ptime:20",
            *(f"a={attribute}" for attribute in attributes),
            *lines[1:],
        ]


def _allow_loss(root: ElementTree.Element) -> None:
    """Let go of provisional responses: nobody repeats them (RFC 3261 §17.2.1), and SIPp must wait for what follows."""
    for element, following in zip(list(root), list(root)[1:], strict=False):
        if element.tag == following.tag == "recv" and element.get("response", "").startswith("1"):
            element.set("optional", "true")


def _action(element: ElementTree.Element) -> ElementTree.Element:
    found = element.find("action")
    return ElementTree.SubElement(element, "action") if found is None else found


def _parted(lines: list[str]) -> tuple[list[str], list[str]]:
    """Part head and body at the first empty line."""
    if "" in lines:
        at = lines.index("")
        return lines[:at], lines[at + 1 :]
    return lines, []


def _joined(head: list[str], body: list[str]) -> str:
    return "\n" + "\n".join(f"      {line}" if line else "" for line in [*head, "", *body]) + "\n"


def _serialised(element: ElementTree.Element, depth: int = 0) -> str:
    """Write the element with its text as CDATA, which is where SIPp looks for messages."""
    indent = "  " * depth
    attributes = "".join(f" {name}={quoteattr(value)}" for name, value in element.items())
    text = (element.text or "").strip()
    inner = f"{indent}  <![CDATA[\n{element.text}]]>\n" if text else ""
    inner += "".join(_serialised(child, depth + 1) for child in element)
    if not inner:
        return f"{indent}<{element.tag}{attributes} />\n"
    return f"{indent}<{element.tag}{attributes}>\n{inner}{indent}</{element.tag}>\n"
