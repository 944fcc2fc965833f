"""Overload is told when it lasts and when it is over, and not for one stall."""

from __future__ import annotations

import socket

import pytest
from twisted.internet.task import Clock

from bridge.net.load import CALM_FOR, LATE, LOOK_EVERY, QUEUED, Load
from bridge.net.udp import UdpListener
from bridge.sip.events import Flow
from bridge.sip.overload import Pressure
from tests.net.test_udp import FakeReadiness
from tests.net.watching import logged_warnings


class Scale:
    def __init__(self) -> None:
        self.clock = Clock()
        self.queued = 0
        self.told: list[Pressure] = []
        self.load = Load(self.clock, lambda: self.queued, self.told.append)
        self.load.start()

    def look(self, times: int = 1, late: float = 0.0) -> None:
        for _ in range(times):
            self.clock.advance(LOOK_EVERY + late)


@pytest.fixture
def scale() -> Scale:
    return Scale()


def test_a_full_queue_that_lasts_is_overload_and_an_empty_one_ends_it(scale: Scale) -> None:
    scale.queued = QUEUED[Pressure.HIGH]
    with logged_warnings() as warnings:
        scale.look(5)
        assert scale.told == [Pressure.HIGH]
        scale.queued = QUEUED[Pressure.EXTREME]
        scale.look(2)
        assert scale.told == [Pressure.HIGH, Pressure.EXTREME]
    scale.queued = 0
    scale.look(int(CALM_FOR / LOOK_EVERY) - 2)
    assert len(scale.told) == 2
    scale.look(4)
    assert scale.told[2:] == [Pressure.NONE]
    assert len(warnings) == 2


def test_a_reactor_that_stays_late_is_overload_and_one_that_was_late_once_is_not(scale: Scale) -> None:
    scale.look(1, late=LATE[Pressure.HIGH])
    scale.look(20)
    assert scale.told == []
    with logged_warnings():
        scale.look(2, late=LATE[Pressure.HIGH])
    assert scale.told == [Pressure.HIGH]


def test_a_stopped_load_leaves_no_timer(scale: Scale) -> None:
    scale.load.stop()
    assert not scale.clock.getDelayedCalls()


@pytest.mark.sockets
def test_the_kernel_says_how_much_waits_in_a_socket() -> None:
    received: list[bytes] = []
    readiness, listener = FakeReadiness(), UdpListener("127.1.0.3", 0)
    assert listener.queued() == 0

    def take(data: bytes, flow: Flow) -> None:
        received.append(data)

    listener.start(readiness, Clock(), take, lambda flow: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for _ in range(50):
            peer.sendto(b"x" * 1000, listener.bound)
    assert listener.queued() >= 50_000
    readiness.turn()
    assert len(received) == 50
    assert listener.queued() == 0
    listener.stop()
