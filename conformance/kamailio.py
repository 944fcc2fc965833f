"""Kamailio (Debian's) as a carrier's edge in front of the bridge, and as a carrier's registrar."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from conformance.ground import NotApplicable
from conformance.stage import Process, Stage

_TABLES = Path("/usr/share/kamailio/dbtext/kamailio")
_MODULES = (Path("/usr/lib/x86_64-linux-gnu/kamailio/modules"), Path("/usr/lib/kamailio/modules"))

_HEAD = """\
#!KAMAILIO
debug=1
log_stderror=yes
fork=yes
children=2
tcp_children=2
auto_aliases=no
server_signature=no
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "xlog.so"
loadmodule "maxfwd.so"
loadmodule "siputils.so"
loadmodule "textops.so"
"""

_TOPOS = """\
loadmodule "db_text.so"
loadmodule "topos.so"
modparam("topos", "db_url", "text://{tables}")
"""

_TLS = """\
enable_tls=yes
tcp_source_ipv4={host}
loadmodule "tls.so"
modparam("tls", "config", "{config}")
"""

_TLS_DOMAINS = """\
[server:default]
method = TLSv1.2+
verify_certificate = no
require_certificate = no
private_key = {key}
certificate = {certificate}
[client:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
ca_list = {authority}
private_key = {key}
certificate = {certificate}
"""

# What is in no route set is refused aloud: the bridge's ACK, BYE and CANCEL must find their way by the Record-Routes.
_EDGE = """\
request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ xlog("L_ERR", "ROUTED $rm from $si\\n"); t_relay(); exit; }}
        if (is_method("ACK") && t_check_trans()) {{ t_relay(); exit; }}
        xlog("L_ERR", "ASTRAY $rm to $ru from $si\\n");
        if (!is_method("ACK")) {{ sl_send_reply("404", "Not Here"); }}
        exit;
    }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }}
    if (is_method("OPTIONS") && uri == myself && $rU == $null) {{ sl_send_reply("200", "OK"); exit; }}
    record_route();
    if ($si == "{bridge}") {{ $du = "sip:{party}:5060"; }} else {{ $du = "{next}"; }}
    t_relay();
}}
"""

_REGISTRAR = """\
loadmodule "auth.so"
loadmodule "htable.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("htable", "htable", "subscribers=>size=4;")
modparam("usrloc", "db_mode", 0)
modparam("usrloc", "timer_interval", 1)
modparam("registrar", "min_expires", {shortest})
modparam("registrar", "max_expires", {longest})
modparam("registrar", "default_expires", {longest})
modparam("auth", "nonce_expire", {nonce})
event_route[htable:mod-init] {{ $sht(subscribers=>{user}) = "{password}"; }}
request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (has_totag()) {{
        if (loose_route()) {{ xlog("L_ERR", "ROUTED $rm from $si\\n"); t_relay(); exit; }}
        if (is_method("ACK") && t_check_trans()) {{ t_relay(); exit; }}
        xlog("L_ERR", "ASTRAY $rm to $ru from $si\\n");
        if (!is_method("ACK")) {{ sl_send_reply("404", "Not Here"); }}
        exit;
    }}
    if (is_method("CANCEL")) {{ if (t_check_trans()) {{ t_relay(); }} exit; }}
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("{realm}", "$sht(subscribers=>$au)", "0")) {{
            auth_challenge("{realm}", "1");
            exit;
        }}
        if ($au != $tU) {{ sl_send_reply("403", "Forbidden"); exit; }}
        if (!save("location")) {{ sl_reply_error(); exit; }}
        xlog("L_ERR", "SAVED $tU $hdr(Contact) $hdr(CSeq)\\n");
        exit;
    }}
    if (is_method("OPTIONS") && uri == myself && $rU == $null) {{ sl_send_reply("200", "OK"); exit; }}
    record_route();
    $rU = "{user}";  # the number that was dialled stays in To
    if (!lookup("location")) {{ sl_send_reply("480", "Not Registered"); exit; }}
    t_relay();
}}
"""


def program() -> str:
    """Return the path of Kamailio. Raises NotApplicable with how to get it."""
    path = shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin")
    if path is None:
        raise NotApplicable("kamailio is not installed: apt-get install kamailio")
    return path


def has_module(name: str) -> bool:
    """Tell whether a module is installed."""
    return any((directory / f"{name}.so").exists() for directory in _MODULES)


class Kamailio:
    """One Kamailio on an address of the stage, over UDP and, with certificates, over TLS."""

    def __init__(self, stage: Stage, host: str, body: str, *listen: str) -> None:
        """Start it and wait until it listens. Raises NotApplicable where it is not installed or does not start."""
        self.stage, self.host = stage, host
        self._directory = stage.directory / f"kamailio-{len(stage.processes)}"
        self._directory.mkdir()
        path = self._directory / "kamailio.cfg"
        listeners = "".join(f"listen={one}\n" for one in (f"udp:{host}:5060", *listen))
        path.write_text(_HEAD + listeners + body.replace("{directory}", str(self._directory)))
        self._command = [program(), "-f", str(path), "-DD", "-E", "-P", str(self._directory / "pid")]
        self._command += ["-Y", str(self._directory), "-m", "64", "-M", "8"]
        self.process = self.start()

    def start(self) -> Process:
        """Start it, again after `kill` with nothing remembered."""
        name = f"kamailio-{len(self.stage.processes)}"
        self.process = self.stage.start(name, self._command)
        deadline = time.monotonic() + 10.0
        while not _listens(self.host):
            if not self.process.alive or time.monotonic() > deadline:
                said = " ".join(self.process.complaints()[:3])
                raise NotApplicable(f"kamailio does not start: {said}")
            time.sleep(0.05)
        return self.process

    def stop(self) -> None:
        """End it with all its children."""
        self.process.stop(5.0)

    def said(self, word: str) -> list[str]:
        """Return the lines of its log that hold a word."""
        return [line for line in self.process.complaints() if word in line]


def _listens(host: str) -> bool:
    """Tell whether somebody has UDP port 5060 of an address (/proc/net/udp: address in host order, hexadecimal)."""
    wanted = "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + ":13C4"
    return any(wanted in line.split()[1] for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def edge(stage: Stage, host: str, bridge: str, party: str, topos: bool = False, tls: Path | None = None) -> Kamailio:
    """Start a carrier's edge between a party and the bridge.

    ``tls`` is a directory with ``authority.pem``, ``kamailio.pem`` and ``kamailio.key``: then the bridge is spoken to
    over TLS, at port 5061, and may come in over TLS at port 5061.
    """
    body, listen, onward = "", [], f"sip:{bridge}:5060"
    if topos:
        if not _TABLES.is_dir():
            raise NotApplicable(f"kamailio's text tables are not at {_TABLES}")
        tables = stage.directory / f"tables-{len(stage.processes)}"
        tables.mkdir()
        for name in ("version", "topos_d", "topos_t"):
            shutil.copy(_TABLES / name, tables / name)
        body += _TOPOS.format(tables=tables)
    if tls is not None:
        if not has_module("tls"):
            raise NotApplicable("kamailio's tls module is not installed: apt-get install kamailio-tls-modules")
        config = stage.directory / f"tls-{len(stage.processes)}.cfg"
        own = {"key": tls / "kamailio.key", "certificate": tls / "kamailio.pem", "authority": tls / "authority.pem"}
        config.write_text(_TLS_DOMAINS.format(**own))
        body += _TLS.format(host=host, config=config)
        listen, onward = [f"tls:{host}:5061"], f"sip:{bridge}:5061;transport=tls"
    body += _EDGE.format(bridge=bridge, party=party, next=onward)
    return Kamailio(stage, host, body, *listen)


def registrar(
    stage: Stage, host: str, user: str, password: str, realm: str, shortest: int = 5, longest: int = 8, nonce: int = 4
) -> Kamailio:
    """Start a carrier's registrar with one subscriber; bindings last from ``shortest`` to ``longest`` seconds."""
    body = _REGISTRAR.format(user=user, password=password, realm=realm, shortest=shortest, longest=longest, nonce=nonce)
    return Kamailio(stage, host, body)


def certificates(directory: Path, **names: str) -> Path:
    """Make an authority and one certificate a keyword: ``kamailio="edge.test"`` becomes kamailio.pem and .key."""
    directory.mkdir(exist_ok=True)
    openssl = shutil.which("openssl")
    if openssl is None:
        raise NotApplicable("openssl is not installed: apt-get install openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True, timeout=30)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    authority = ("-subj", "/CN=Test Authority", "-keyout", "authority.key", "-out", "authority.pem")
    run("req", "-x509", *curve, *authority)
    for name, host in names.items():
        run("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        kind = "IP" if host.replace(".", "").isdigit() else "DNS"
        (directory / f"{name}.ext").write_text(f"subjectAltName={kind}:{host}\n")
        signed = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    return directory
