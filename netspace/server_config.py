"""What the configurations of all servers have in common: etcd, TLS, limits, where they listen."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from netspace import names
from netspace.config import Settings
from netspace.endpoints import Endpoint
from netspace.http_work import Limits
from netspace.logs import Level
from netspace.problems import Problem

Seconds = Annotated[float, Field(ge=0.1, le=3600)]


class ServerTls(Settings):
    """PEM files: the authority that callers' certificates must come from, and the server's own
    certificate and key."""

    ca: Path
    cert: Path
    key: Path


class EtcdTls(Settings):
    """PEM files: the authority of etcd's certificate; our own certificate and key, if it asks."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _together(self) -> EtcdTls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: name both or neither")
        return self


class EtcdConfig(Settings):
    """`quota`: bytes that etcd may store, for the metrics; etcd itself tells from 3.6 on."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = ("http://127.0.0.1:2379",)
    tls: EtcdTls | None = None
    timeout: Seconds = 5.0
    max_operations: Annotated[int, Field(ge=16, le=100_000)] = 128
    quota: Annotated[int, Field(ge=2**20)] = 2 * 2**30

    @field_validator("endpoints")
    @classmethod
    def _addresses(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise ValueError(f"{endpoint!r} is no etcd endpoint: write http://HOST:PORT")
        return endpoints

    @model_validator(mode="after")
    def _encrypted(self) -> EtcdConfig:
        if self.tls is None and any(url.startswith("https://") for url in self.endpoints):
            raise ValueError("an https endpoint needs tls.ca")
        return self


class HttpLimitsConfig(Settings):
    """`body` and `header` in bytes; the others in seconds but for `concurrent` requests and
    `connections`."""

    body: Annotated[int, Field(ge=4096, le=64 * 2**20)] = 2**20
    header: Annotated[int, Field(ge=1024, le=65536)] = 8190
    concurrent: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    timeout: Seconds = 30.0
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    arrival: Seconds = 10.0
    idle: Seconds = 300.0

    def http(self) -> Limits:
        """What of it the HTTP server watches over."""
        return Limits(
            body=self.body,
            header=self.header,
            concurrent=self.concurrent,
            timeout=self.timeout,
            connections=self.connections,
            arrival=self.arrival,
            idle=self.idle,
        )


def safe_listen(listen: tuple[str, ...]) -> tuple[str, ...]:
    """Where a server may listen that lets everybody do everything who comes without TLS."""
    for url in listen:
        endpoint = Endpoint.parse(an_endpoint(url))
        if not endpoint.local and not endpoint.tls:
            raise ValueError(
                f"{url!r} could be reached from other machines, and without TLS every caller"
                " may do everything: write https, or listen on a Unix socket, 127.0.0.1 or ::1"
            )
    if len(set(listen)) != len(listen):
        raise ValueError("an address stands twice")
    return listen


def an_endpoint(url: str) -> str:
    try:
        Endpoint.parse(url)
    except Problem as problem:
        raise ValueError(str(problem)) from None
    return url


def mode_text(mode: object) -> object:
    if isinstance(mode, int):
        raise ValueError('write the mode as text, in quotes: "0600"')
    return mode


def host_name() -> str:
    return socket.gethostname().lower()


def server_name(name: str) -> str:
    if not names.matches(names.NODE, name):
        raise ValueError(f"{name!r} is no name: use lower-case letters, digits, '-' and '.'")
    return name


def certified(listeners: Sequence[Endpoint], tls: ServerTls | None) -> None:
    """`ValueError` where https is to be spoken without certificates."""
    for endpoint in listeners:
        if endpoint.tls and tls is None:
            raise ValueError(
                f"listen: endpoint {endpoint.url!r} needs certificates: name tls.ca, tls.cert"
                " and tls.key"
            )


def reached_at(listeners: Sequence[Endpoint]) -> str:
    """Where other servers reach one that listens there: by the first https address that names a
    host, else by the first of all."""
    https = (each.url for each in listeners if each.tls and not each.everywhere)
    return next(https, listeners[0].url)


class ServerSettings(Settings):
    """What every server's configuration has; each says by itself where it listens by default."""

    listen: Annotated[tuple[str, ...], Field(min_length=1)]
    tls: ServerTls | None = None
    socket_mode: Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}\z")] = "0600"
    name: str = Field(default_factory=host_name)
    advertise: str | None = None
    etcd: EtcdConfig = EtcdConfig()
    leader_ttl: Annotated[int, Field(ge=1, le=600)] = 2
    log_level: Level = "info"

    @field_validator("listen")
    @classmethod
    def _local(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        return safe_listen(listen)

    @field_validator("advertise")
    @classmethod
    def _reachable(cls, advertise: str | None) -> str | None:
        return None if advertise is None else an_endpoint(advertise)

    @field_validator("socket_mode", mode="before")
    @classmethod
    def _text(cls, mode: object) -> object:
        return mode_text(mode)

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        return server_name(name)

    @model_validator(mode="after")
    def _certified(self) -> Self:
        certified(self.listeners, self.tls)
        return self

    @property
    def listeners(self) -> list[Endpoint]:
        return [Endpoint.parse(url) for url in self.listen]

    @property
    def reached_at(self) -> str:
        """Where other servers of the cluster reach this one."""
        return self.advertise or reached_at(self.listeners)
