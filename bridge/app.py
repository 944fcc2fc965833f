"""The composition root: Config → running service. The only file that constructs across layers and names the reactor.

Start: logging → SIP listeners → advertised addresses → relay → core → driver → records → admin → the ready line.
Stop: the first signal drains, the second hangs up, the third leaves at once.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, globalLogBeginner

from bridge import __version__
from bridge.admin.api import Api
from bridge.admin.http import AdminSite
from bridge.admin.log import CallLog, log_observer
from bridge.admin.view import RecentCalls
from bridge.b2bua.actions import Drain, HangUp, Record, Trace
from bridge.b2bua.core import Core
from bridge.b2bua.listeners import Listener
from bridge.b2bua.self_test import self_test
from bridge.config import Config
from bridge.errors import RelayError
from bridge.media.native_relay import NativeRelay
from bridge.media.relay import Relay
from bridge.metrics import Metrics
from bridge.net.addresses import STUN_SERVERS, advertised, host_port, is_loopback, is_name, is_wildcard
from bridge.net.dns import Resolver
from bridge.net.driver import Driver
from bridge.net.garbage import Collector
from bridge.net.load import Load
from bridge.net.name_servers import NameServers
from bridge.net.stream import Census, StreamListener
from bridge.net.tls import Credentials, problem_of
from bridge.net.tokens import SystemTokens
from bridge.net.udp import UdpListener
from bridge.net.wakeup import Wakeup
from bridge.sip.events import Address
from bridge.sip.locate import Kind
from bridge.store.records import Records

QUARANTINE = 5.0
"""Seconds for which media ports rest after a call, so that its late packets can't reach the next one."""
DRAIN_LOOK = 0.2
LINGER = 1.0
"""Seconds to stay after the last drained call, for the retransmissions around its BYE."""
HANG_UP_DEADLINE = 5.0

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class StartError(Exception):
    """Say in one sentence why the bridge can't start, and what to do."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to the configuration."""

    log_format: str = "text"
    log_level: str = "info"
    stun_servers: tuple[Address, ...] = STUN_SERVERS


def run(config: Config, options: RunOptions) -> int:
    """Run the bridge in the foreground until it is told to stop; return the exit status. Raises StartError."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    # Twisted counts in wall-clock time by default: a step of the clock would fire or stall every timer (F17). The
    # core and the relay count in monotonic seconds anyway.
    reactor.seconds = time.monotonic
    observer = log_observer(sys.stderr, options.log_format, options.log_level)
    globalLogBeginner.beginLoggingTo([observer], discardBuffer=True, redirectStandardIO=False)
    _raise_descriptor_limit()
    service = Service(config, reactor, options)
    try:
        service.start()
        reactor.callWhenRunning(service.serve)
        Collector(reactor).start()
        reactor.run(installSignalHandlers=False)
    finally:
        service.stop()
    return 0


def plan(config: Config, source: str, number: str, caller: str | None) -> dict[str, Any]:
    """Say where a call would go and what would be sent, binding and sending nothing. Raises KeyError, StartError."""
    address_of = _advertiser(())
    listeners = [
        _listener(listen.transport, (listen.host, listen.port), config.sip.advertise, address_of)
        for listen in config.sip.listen
    ]
    media = address_of(config.media.advertise, config.media.address)
    return Core(config, SystemTokens(), listeners, media, 0.0).route(source, number, caller)


class Service:
    """One running bridge."""

    log = Logger()

    def __init__(self, config: Config, reactor: Any, options: RunOptions) -> None:
        self._config = config
        self._reactor = reactor
        self._options = options
        self._cleanups: list[Callable[[], object]] = []
        self._credentials: Credentials | None = None
        self._ready_line = ""
        self._stop_signals = 0
        self._stopping = False

    def start(self) -> None:
        """Bring up everything. Raises StartError; `stop` undoes what was done."""
        config, reactor = self._config, self._reactor
        wall_offset = time.time() - time.monotonic()
        _make_state_dir(config)
        sockets = self._bind_listeners()
        address_of = _advertiser(self._options.stun_servers)
        listeners = [_listener(transport, bound, config.sip.advertise, address_of) for transport, bound in sockets]
        media_address = address_of(config.media.advertise, config.media.address)
        wakeup = Wakeup()
        self._cleanups.append(wakeup.stop)
        relay = self._start_relay(wakeup)
        records = self._start_records()
        self._core = Core(config, SystemTokens(), listeners, media_address, wall_offset)
        for place in listeners:
            if problem := self_test(self._core, config, place.transport, place.bound, time.monotonic()):
                raise StartError(f"the self-test failed: {problem}; do not run this build, and please report it")
        recent = RecentCalls(wall_offset)
        metrics = Metrics(relay, self._core.live, self._core.counts, self._core.registrations)
        resolver = Resolver(
            NameServers(reactor, reactor, config.sip.resolver),
            reactor,
            _families(listeners),
            lambda most: random.SystemRandom().randint(0, most),
        )
        self._cleanups.append(resolver.stop)
        self._driver = Driver(
            self._core,
            reactor,
            relay,
            resolver.resolve,
            sockets,
            [metrics, recent, CallLog(reactor, self._options.log_level == "debug"), _recorder(records)],
        )
        self._cleanups.append(self._driver.stop)
        in_thread = functools.partial(deferToThreadPool, reactor, reactor.getThreadPool())
        captures = config.node.state_dir / "captures"
        api = Api(
            config.node.name, self._core, self._driver.command, recent, records, metrics, relay, captures, in_thread
        )
        admin = self._serve_admin(api)
        wakeup.start(reactor, self._driver.relay_woke)
        driver = self._driver
        datagrams = [listener for listener in sockets.values() if isinstance(listener, UdpListener)]
        load = Load(reactor, lambda: max((one.waited for one in datagrams), default=0.0), driver.behind)
        load.start()
        self._cleanups.append(load.stop)
        for listener in sockets.values():
            if isinstance(listener, UdpListener):
                listener.start(reactor, reactor, driver.receive, driver.transport_failed)
            else:
                listener.start(reactor, reactor, driver, self._core.peers_at)
        self._ready_line = _ready_line(config, listeners, media_address, admin)

    def serve(self) -> None:
        """Take signals and tell whoever started us that calls may come."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self._reactor.callFromThread(self._stop_signal, number))
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self._reload_signal))
        self.log.info("trunkbridge {version} serves: {line}", version=__version__, line=self._ready_line)
        print(self._ready_line, flush=True)  # noqa: T201 (the contract's ready line)
        self._driver.start()

    def stop(self) -> None:
        """Let go of everything, last things first."""
        while self._cleanups:
            try:
                self._cleanups.pop()()
            except Exception:
                self.log.failure("Stopping failed in part")

    def _bind_listeners(self) -> Mapping[tuple[str, Address], UdpListener | StreamListener]:
        sockets: dict[tuple[str, Address], UdpListener | StreamListener] = {}
        census, uniform = Census(), random.SystemRandom().uniform
        for listen in self._config.sip.listen:
            credentials = self._tls_credentials() if listen.transport == "tls" else None
            listener: UdpListener | StreamListener
            try:
                if listen.transport == "udp":
                    listener = UdpListener(listen.host, listen.port)
                else:
                    listener = StreamListener(listen.host, listen.port, census, uniform, credentials)
            except OSError as error:
                where = f"{listen.transport}:{host_port(listen.host, listen.port)}"
                raise _cannot_listen(where, error, "[sip] listen", self._config) from error
            self._cleanups.append(listener.stop)
            sockets[listen.transport, listener.bound] = listener
        return sockets

    def _tls_credentials(self) -> Credentials:
        if self._credentials is None:
            try:
                self._credentials = Credentials(self._config.sip.tls, self._reactor)
            except (OSError, SSL.Error) as error:
                raise StartError(f"{problem_of(error)}; see [sip.tls] in {self._config.path}") from error
        return self._credentials

    def _start_relay(self, wakeup: Wakeup) -> Relay:
        media = self._config.media
        # One core is left to signalling where there is more than one.
        workers = max(1, len(os.sched_getaffinity(0)) - 1)
        try:
            relay: Relay = NativeRelay(media.address, media.ports, workers, wakeup.fileno(), QUARANTINE)
        except RelayError as error:
            raise StartError(f"{error}; see [media] in {self._config.path}") from error
        self._cleanups.append(relay.stop)
        return relay

    def _start_records(self) -> Records:
        def told(problem: str) -> None:
            self._reactor.callFromThread(self._disk_told, problem)

        records = Records(self._config.node.state_dir, told)
        records.start()

        def stop() -> None:
            if left := records.stop():
                self.log.error("{left} call records could not be written and are lost", left=left)

        self._cleanups.append(stop)
        return records

    def _serve_admin(self, api: Api) -> Address:
        host, port = self._config.admin.listen
        site = AdminSite(api.operations(), self._config.admin.token, is_loopback(host), self._reactor)
        try:
            listening: IListeningPort = self._reactor.listenTCP(port, site, interface=host)
        except CannotListenError as error:
            where = f"admin http://{host_port(host, port)}"
            raise _cannot_listen(where, error.socketError, "[admin] listen", self._config) from error
        self._cleanups.append(listening.stopListening)
        bound: Any = listening.getHost()
        return bound.host, bound.port

    def _disk_told(self, problem: str) -> None:
        if problem:
            self.log.error(
                "call records can't be written in {where} ({problem}); they wait in memory and calls go on",
                where=self._config.node.state_dir,
                problem=problem,
            )
        else:
            self.log.info("call records are written again; none was lost")

    def _reload_signal(self) -> None:
        if self._credentials is not None:
            self._credentials.reload()
        self.log.warn(
            "SIGHUP: this version reloads certificates only; the configuration it started with stays in force"
        )

    def _stop_signal(self, number: int) -> None:
        """The first signal drains, the second hangs up, the third leaves at once."""
        self._stop_signals += 1
        name = signal.Signals(number).name
        if self._stop_signals == 1:
            self.log.info("{name}: draining, {calls} calls in progress", name=name, calls=self._core.active)
            self._driver.command(Drain())
            self._stop_when_idle(lingers=self._core.active > 0)
        elif self._stop_signals == 2:
            self.log.warn("{name} again: hanging up {calls} calls", name=name, calls=self._core.active)
            self._driver.command(HangUp(None))
            self._reactor.callLater(HANG_UP_DEADLINE, self._leave)
        else:
            self._leave()

    def _stop_when_idle(self, lingers: bool) -> None:
        if self._core.active or self._core.leaving:
            self._reactor.callLater(DRAIN_LOOK, self._stop_when_idle, lingers)
        elif lingers:
            self._reactor.callLater(LINGER, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._core.active:
            self.log.warn("leaving with {calls} calls in progress", calls=self._core.active)
        self._reactor.stop()


def _recorder(records: Records) -> Callable[[Trace | Record], None]:
    def observe(fact: Trace | Record) -> None:
        if isinstance(fact, Record):
            records.append(fact.record)

    return observe


def _advertiser(stun_servers: Sequence[Address]) -> Callable[[str, str], str]:
    """Return `advertised` with a memory, so that one STUN lookup serves signalling and media."""

    @functools.cache
    def address_of(setting: str, bound: str) -> str:
        try:
            return advertised(setting, bound, stun_servers)
        except OSError as error:
            raise StartError(f'can\'t advertise "{setting}": {error}; write an IP address') from error

    return address_of


def _listener(transport: str, bound: Address, setting: str, address_of: Callable[[str, str], str]) -> Listener:
    """Say how peers are told of a listener: by the operator's name as it is (D15), else by an address."""
    told = setting if is_name(setting) else address_of(setting, bound[0])
    return Listener(transport, bound, (told, bound[1]))


def _families(listeners: Sequence[Listener]) -> dict[str, tuple[Kind, ...]]:
    """Return for each transport the kinds of address that some listener of it can send to, IPv4 first."""
    kinds = {(listener.transport, Kind.AAAA if ":" in listener.bound[0] else Kind.A) for listener in listeners}
    transports = dict.fromkeys(listener.transport for listener in listeners)
    return {one: tuple(kind for kind in (Kind.A, Kind.AAAA) if (one, kind) in kinds) for one in transports}


def _ready_line(config: Config, listeners: Sequence[Listener], media_address: str, admin: Address) -> str:
    """Write the contract's ready line; a wildcard address is shown as the one that peers are told."""
    sip = ",".join(f"{listener.transport}:{_place(listener, media_address)}" for listener in listeners)
    media = _shown(config.media.address, media_address)
    low, high = config.media.ports
    shown = f"[{media}]" if ":" in media else media
    return f"ready node={config.node.name} sip={sip} media={shown}:{low}-{high} admin=http://{host_port(*admin)}"


def _place(listener: Listener, media_address: str) -> str:
    (host, port), told = listener.bound, listener.advertised[0]
    if is_name(told):
        told = media_address if (":" in media_address) == (":" in host) else host
    return host_port(_shown(host, told), port)


def _shown(bound: str, told: str) -> str:
    return told if is_wildcard(bound) else bound


def _cannot_listen(where: str, error: OSError, key: str, config: Config) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"{where} is in use by another process, perhaps another trunkbridge: stop that one, or set another port"
            f" in {key} of {config.path}"
        )
    return StartError(f"can't listen on {where}: {error.strerror or error}; change {key} in {config.path}")


def _make_state_dir(config: Config) -> None:
    state_dir = config.node.state_dir
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(state_dir, os.W_OK | os.X_OK) else "no permission to write"
    except OSError as error:
        # A disk that is full or read-only now may heal; calls are taken meanwhile (F16).
        problem = None if error.errno in _DISK_TROUBLE else error.strerror
    if problem is not None:
        raise StartError(
            f"can't use the state directory {state_dir}: {problem}; change [node] state_dir in {config.path}"
        )


def _raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets us: a call takes four sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
