"""The node agent's configuration: every key, its default and its bounds.
conf/federation-agent.yaml explains."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from netspace import names
from netspace.client_config import AskedServer, Seconds, endpoint
from netspace.config import Settings
from netspace.logs import Level

DEFAULT_PATH = Path("/etc/netspace/federation-agent.yaml")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ServerSection(AskedServer):
    """Where this cluster's own federation server is asked. The certificate's role is node."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "unix:///run/netspace/federation.sock",
    )


class KubernetesSection(Settings):
    """How Kubernetes' API is asked for this node's object: by a kubeconfig, or by the service
    account that Kubernetes gives a pod, with `server` where the environment does not name the
    API. `label`: nodes that have it (`KEY` or `KEY=VALUE`) are gateways."""

    kubeconfig: Path | None = None
    service_account: Path = ACCOUNT
    server: str | None = None
    timeout: Seconds = 5.0
    label: Annotated[str, Field(max_length=317)] | None = None

    @model_validator(mode="after")
    def _once(self) -> KubernetesSection:
        if self.kubeconfig is not None and self.server is not None:
            raise ValueError("the kubeconfig names the server: leave server out")
        return self


class UnderlaySection(Settings):
    """The addresses that tunnels of this node end at, one of each family; auto: those that the
    default routes send from."""

    addresses: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1, max_length=16)] = (
        "auto"
    )

    @field_validator("addresses")
    @classmethod
    def _known(cls, addresses: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(addresses, str):
            return addresses
        return tuple(str(ip_address(text)) for text in addresses)


class PodsSection(Settings):
    """The pod ranges that lie on this node as a whole: `ranges`, what Kubernetes' Node object says
    (kubernetes), or none, as on Netspace, whose addresses are not grouped by node."""

    ranges: Literal["kubernetes", "none"] | Annotated[tuple[str, ...], Field(max_length=256)] = (
        "none"
    )

    @field_validator("ranges")
    @classmethod
    def _subnets(cls, ranges: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(ranges, str):
            return ranges
        return tuple(str(ip_network(text)) for text in ranges)


class CniSection(Settings):
    """The name of the cluster's CNI plugin, auto: the type of the first plugin in the first
    configuration in `folder`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = "auto"
    folder: Path = Path("/etc/cni/net.d")


class ProbesSection(Settings):
    """`window`: of so many probes loss and round trip are told. `mtu`: seconds between two
    measurements of a path's MTU. `vxlan`: probes a second over all VXLAN paths together."""

    window: Annotated[int, Field(ge=5, le=10_000)] = 100
    mtu: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    vxlan: Annotated[float, Field(ge=1, le=5000)] = 200.0


class FederationAgentConfig(Settings):
    """`state_dir` outlives a reboot: keys, certificates, the last view. `run_dir` has the agent's
    socket. `gateway`: whether the cluster's other members' nodes may bring tunnels up to this one;
    None: as the label of the Kubernetes node says, else yes. `vici`: charon's socket. `handover`:
    the file by which the node agent learns of routes for pods. `listen`: where metrics are asked,
    None for nowhere."""

    cluster: str
    node: str = Field(default_factory=lambda: socket.gethostname().lower())
    server: ServerSection = ServerSection()
    state_dir: Path = Path("/var/lib/netspace/federation-agent")
    run_dir: Path = Path("/run/netspace")
    underlay: UnderlaySection = UnderlaySection()
    pods: PodsSection = PodsSection()
    gateway: bool | None = None
    cni: CniSection = CniSection()
    kubernetes: KubernetesSection | None = None
    vici: Path = Path("/run/netspace/charon.vici")
    handover: Path = Path("/run/netspace/federation.json")
    probes: ProbesSection = ProbesSection()
    report: Annotated[float, Field(ge=1, le=10)] = 5.0
    refresh: Annotated[float, Field(ge=1, le=3600)] = 30.0
    listen: str | None = None
    log_level: Level = "info"

    @property
    def socket(self) -> Path:
        """Where the agent is asked about itself, by root alone."""
        return self.run_dir / "federation-agent.sock"

    @field_validator("cluster")
    @classmethod
    def _named(cls, cluster: str) -> str:
        if not names.matches(names.NAME, cluster):
            raise ValueError(f"{cluster[:80]!r} is no cluster's name")
        return cluster

    @field_validator("node")
    @classmethod
    def _node_named(cls, node: str) -> str:
        if not names.matches(names.NODE, node):
            raise ValueError(f"{node[:80]!r} is no node's name, name the node")
        return node

    @field_validator("listen")
    @classmethod
    def _plain(cls, listen: str | None) -> str | None:
        if listen is not None and not listen.startswith(("http://", "unix://")):
            raise ValueError(f"{listen[:80]!r}: write http://ADDRESS:PORT or unix://PATH")
        return None if listen is None else endpoint(listen)

    @model_validator(mode="after")
    def _reachable(self) -> FederationAgentConfig:
        if self.kubernetes is None and self.pods.ranges == "kubernetes":
            raise ValueError("pods.ranges: kubernetes needs the section kubernetes")
        return self
