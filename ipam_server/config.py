"""The server's configuration: every key, its default and its bounds. conf/server.yaml explains."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator, model_validator

from netspace import names
from netspace.config import Settings
from netspace.endpoints import Endpoint
from netspace.http_server import Limits
from netspace.logs import Level
from netspace.problems import Problem
from netspace.tls import Tls

DEFAULT_PATH = Path("/etc/netspace/server.yaml")

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


class LimitsConfig(Settings):
    """`body` and `header` in bytes; the others in seconds but for `concurrent` requests, changes
    `waiting` and `connections`. `commit` is the time a change may wait until it is sent to etcd."""

    body: Annotated[int, Field(ge=4096, le=64 * 2**20)] = 2**20
    header: Annotated[int, Field(ge=1024, le=65536)] = 8190
    concurrent: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    waiting: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    timeout: Seconds = 30.0
    commit: Seconds = 8.0
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    arrival: Seconds = 10.0
    idle: Seconds = 300.0

    @model_validator(mode="after")
    def _ordered(self) -> LimitsConfig:
        if self.commit >= self.timeout:
            raise ValueError("commit must be shorter than timeout, or no caller hears the reason")
        return self

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


class AuditConfig(Settings):
    """How many changes of a cluster are remembered, and for how many days at most: of people's and
    controllers', and of the leader's own as many again."""

    entries: Annotated[int, Field(ge=10, le=100_000)] = 10_000
    days: Annotated[float, Field(gt=0, le=36_500)] = 365


class HistoryConfig(Settings):
    """How many past holders of each address are remembered, and for how many days at most."""

    entries: Annotated[int, Field(ge=0, le=100)] = 8
    days: Annotated[float, Field(gt=0, le=36_500)] = 90


class ReclaimConfig(Settings):
    """Seconds: between two reports of a node that prove a pod gone, and between two rounds."""

    grace: Annotated[float, Field(ge=1, le=7 * 86400)] = 300
    interval: Seconds = 30


class ServerConfig(Settings):
    """conf/server.yaml. `controller_networks`: whether the controller of a cluster may make and
    change the cluster's networks, or its pools alone."""

    listen: Annotated[tuple[str, ...], Field(min_length=1)] = ("unix:///run/netspace/server.sock",)
    tls: ServerTls | None = None
    socket_mode: Annotated[str, StringConstraints(pattern=r"^0[0-7]{3}\z")] = "0600"
    name: str = Field(default_factory=lambda: socket.gethostname().lower())
    advertise: str | None = None
    etcd: EtcdConfig = EtcdConfig()
    leader_ttl: Annotated[int, Field(ge=1, le=600)] = 2
    clock_interval: Seconds = 5.0
    limits: LimitsConfig = LimitsConfig()
    audit: AuditConfig = AuditConfig()
    reclaim: ReclaimConfig = ReclaimConfig()
    history: HistoryConfig = HistoryConfig()
    controller_networks: bool = True
    log_level: Level = "info"

    @field_validator("listen")
    @classmethod
    def _local(cls, listen: tuple[str, ...]) -> tuple[str, ...]:
        for url in listen:
            try:
                endpoint = Endpoint.parse(url)
            except Problem as problem:
                raise ValueError(str(problem)) from None
            if not endpoint.local and not endpoint.tls:
                raise ValueError(
                    f"{url!r} could be reached from other machines, and without TLS every caller"
                    " may do everything: write https, or listen on a Unix socket, 127.0.0.1 or ::1"
                )
        if len(set(listen)) != len(listen):
            raise ValueError("an address stands twice")
        return listen

    @field_validator("advertise")
    @classmethod
    def _reachable(cls, advertise: str | None) -> str | None:
        if advertise is not None:
            try:
                Endpoint.parse(advertise)
            except Problem as problem:
                raise ValueError(str(problem)) from None
        return advertise

    @field_validator("socket_mode", mode="before")
    @classmethod
    def _text(cls, mode: object) -> object:
        if isinstance(mode, int):
            raise ValueError('write the mode as text, in quotes: "0600"')
        return mode

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not names.matches(names.NODE, name):
            raise ValueError(f"{name!r} is no name: use lower-case letters, digits, '-' and '.'")
        return name

    @model_validator(mode="after")
    def _certified(self) -> ServerConfig:
        for endpoint in self.listeners:
            if endpoint.tls and self.tls is None:
                raise ValueError(
                    f"listen: endpoint {endpoint.url!r} needs certificates: name tls.ca, tls.cert"
                    " and tls.key"
                )
        return self

    @property
    def reached_at(self) -> str:
        """Where other servers reach this one."""
        https = (each.url for each in self.listeners if each.tls and not each.everywhere)
        return self.advertise or next(https, self.listen[0])

    @property
    def listeners(self) -> list[Endpoint]:
        return [Endpoint.parse(url) for url in self.listen]


def own_tls(config: ServerConfig) -> Tls | None:
    """The server's own files, with which it also asks other servers."""
    return None if config.tls is None else Tls(config.tls.ca, config.tls.cert, config.tls.key)
