"""The federation server's configuration: every key, its default and its bounds.
conf/federation-server.yaml explains.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from federation.server.checks import services_fault
from netspace import names
from netspace.config import Settings
from netspace.endpoints import Endpoint
from netspace.server_config import (
    HttpLimitsConfig,
    Seconds,
    ServerSettings,
    ServerTls,
    an_endpoint,
)
from netspace.tls import Tls

DEFAULT_PATH = Path("/etc/netspace/federation-server.yaml")
NETSPACE = "netspace"
"""The CNI whose pods' ranges and addresses the IPAM server knows."""

Cni = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}\z")]


class DoorConfig(Settings):
    """Where other clusters come in: `listen` here, `endpoints` as they reach all servers of the
    cluster. Both are https; the certificates are the federation's own."""

    listen: tuple[str, ...] = ("https://0.0.0.0:8475",)
    endpoints: tuple[str, ...] = ()

    @field_validator("listen", "endpoints")
    @classmethod
    def _secure(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not Endpoint.parse(an_endpoint(url)).tls:
                raise ValueError(f"{url!r}: clusters speak https to one another")
        return urls

    @property
    def listeners(self) -> list[Endpoint]:
        return [Endpoint.parse(url) for url in self.listen]

    @property
    def reached_at(self) -> list[str]:
        """Where other clusters reach this one's servers."""
        if self.endpoints:
            return list(self.endpoints)
        return [each.url for each in self.listeners if not each.everywhere]


class IpamConfig(Settings):
    """The IPAM server of a Netspace cluster; `tls` as of a controller of the cluster. `interval`:
    seconds between two questions."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "unix:///run/netspace/server.sock",
    )
    tls: ServerTls | None = None
    interval: Seconds = 5.0

    @field_validator("endpoints")
    @classmethod
    def _addresses(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(an_endpoint(url) for url in endpoints)


class TimesConfig(Settings):
    """Seconds. `refresh`: between two full readings of a peer; `silent`: until a node that says
    nothing is down, `forget`: until it is no node any more; `pause`: between two informations at
    least; `backoff`: between two questions to a silent peer at most; `certificate`: the life of
    servers' and nodes' certificates."""

    refresh: Seconds = 300.0
    silent: Seconds = 15.0
    forget: Annotated[float, Field(ge=1, le=366 * 86_400)] = 86_400.0
    pause: Annotated[float, Field(ge=0.01, le=60)] = 0.5
    backoff: Seconds = 10.0
    certificate: Annotated[float, Field(ge=60, le=398 * 86_400)] = 30 * 86_400.0


class LimitsConfig(HttpLimitsConfig):
    """Nodes may tell of many pods at once."""

    body: Annotated[int, Field(ge=4096, le=64 * 2**20)] = 4 * 2**20


class FederationConfig(ServerSettings):
    """conf/federation-server.yaml. `grouped`: whether each pod lies in a range of its node; by
    default, unless the IPAM server hands the addresses out."""

    cluster: str
    cni: Cni = NETSPACE
    services: tuple[str, ...] = ()
    grouped: bool | None = None
    listen: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "unix:///run/netspace/federation.sock",
    )
    federation: DoorConfig = DoorConfig()
    state_dir: Path = Path("/var/lib/netspace/federation")
    ipam: IpamConfig | None = None
    times: TimesConfig = TimesConfig()
    limits: LimitsConfig = LimitsConfig()

    @field_validator("cluster")
    @classmethod
    def _cluster(cls, cluster: str) -> str:
        if not names.matches(names.NAME, cluster):
            raise ValueError(f"{cluster[:80]!r} is no cluster's name")
        return cluster

    @field_validator("services")
    @classmethod
    def _subnets(cls, services: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(str(ip_network(each)) for each in services)
        if fault := services_fault(found):
            raise ValueError(fault)
        return found

    @property
    def own_tls(self) -> Tls | None:
        """The server's own files, with which it also asks other servers of the cluster."""
        return None if self.tls is None else Tls(self.tls.ca, self.tls.cert, self.tls.key)

    @property
    def pods_grouped(self) -> bool:
        return self.ipam is None if self.grouped is None else self.grouped
