"""The server's configuration: every key, its default and its bounds. conf/server.yaml explains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from netspace.config import Settings
from netspace.server_config import (
    HttpLimitsConfig,
    Seconds,
    ServerSettings,
)
from netspace.tls import Tls

DEFAULT_PATH = Path("/etc/netspace/server.yaml")


class LimitsConfig(HttpLimitsConfig):
    """Also changes `waiting`, and `commit`, seconds that a change may wait until it is sent to
    etcd."""

    waiting: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    commit: Seconds = 8.0

    @model_validator(mode="after")
    def _ordered(self) -> LimitsConfig:
        if self.commit >= self.timeout:
            raise ValueError("commit must be shorter than timeout, or no caller hears the reason")
        return self


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


class ServerConfig(ServerSettings):
    """conf/server.yaml. `controller_networks`: whether the controller of a cluster may make and
    change the cluster's networks, or its pools alone."""

    listen: Annotated[tuple[str, ...], Field(min_length=1)] = ("unix:///run/netspace/server.sock",)
    clock_interval: Seconds = 5.0
    limits: LimitsConfig = LimitsConfig()
    audit: AuditConfig = AuditConfig()
    reclaim: ReclaimConfig = ReclaimConfig()
    history: HistoryConfig = HistoryConfig()
    controller_networks: bool = True


def own_tls(config: ServerConfig) -> Tls | None:
    """The server's own files, with which it also asks other servers."""
    return None if config.tls is None else Tls(config.tls.ca, config.tls.cert, config.tls.key)
