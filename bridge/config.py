"""trunkbridge.toml → frozen `Config`; an error names file, line, key and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge.profile import Profile


@dataclass(frozen=True, slots=True)
class Listen:
    """One SIP listener: ``udp:0.0.0.0:5060``."""

    transport: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Host:
    """One next hop: HOST[:PORT][;transport=…]. Port 0: not given, ask DNS or the profile."""

    host: str
    port: int
    transport: str


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Sip:
    listen: tuple[Listen, ...]
    advertise: str


@dataclass(frozen=True, slots=True)
class Media:
    address: str
    advertise: str
    ports: tuple[int, int]  # first and last port of the range, inclusive
    relay: str


@dataclass(frozen=True, slots=True)
class Admin:
    listen: tuple[str, int]
    token: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Peer:
    """One account with a carrier or a platform: its profile with the account's own overrides merged in."""

    name: str
    kind: str  # "carrier" | "platform"
    profile: Profile
    hosts: tuple[Host, ...]
    sources: tuple[str, ...]  # CIDR: the account's own and the profile's signalling sources, and literal hosts
    user: str = ""
    username: str = ""
    password: str = field(repr=False, default="")
    max_calls: int = 0  # 0: no limit
    cps: float = 0.0  # 0: no limit
    variables: Mapping[str, str] = field(default_factory=dict)  # other keys that fill URI templates


@dataclass(frozen=True, slots=True)
class Route:
    """``from`` (a peer's name or "*") and ``number`` (exact, prefix with "*", or "*") → peers to try in order."""

    name: str
    source: str
    number: str
    to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    path: str
    node: Node
    sip: Sip
    media: Media
    admin: Admin
    carriers: Mapping[str, Peer]
    platforms: Mapping[str, Peer]
    routes: tuple[Route, ...]

    def peer(self, name: str) -> Peer:
        """Return the carrier or platform of that name; the loader has seen that routes name only known ones."""
        return self.carriers.get(name) or self.platforms[name]
