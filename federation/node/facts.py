"""What a node is for federations, found out: its underlay addresses, its pod ranges, its cluster's
CNI, whether it is a gateway.

What a file or Kubernetes' object means is a pure function; the rest asks them.
"""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from federation.node.config import CniSection, FederationAgentConfig, KubernetesSection
from hostnet import Kernel, KernelError, Net, list_addresses, list_links
from netspace.kube_access import Access, from_kubeconfig, from_service_account
from netspace.kube_api import ApiError, KubeApi
from netspace.messages.federation import View

_ELSEWHERE: Final = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9, 0, 0)),
)
"""Addresses that only default routes lead to (RFC 5737, RFC 3849); nothing is sent there."""
ASKED: Final = 90.0
"""Seconds between two looks at Kubernetes' object."""
_MOST: Final = 1 << 20
_NOT_OURS: Final = re.compile(r"[^a-z0-9.-]+")


class Facts(msgspec.Struct, frozen=True):
    """`cni` empty where it is not known; `mtu` of the underlay's link, bytes."""

    addresses: tuple[str, ...] = ()
    mtu: int = 1500
    ranges: tuple[str, ...] = ()
    gateway: bool = True
    cni: str = ""


class _Meta(msgspec.Struct):
    labels: dict[str, str] = {}


class _Spec(msgspec.Struct, rename="camel"):
    pod_cidr: str = msgspec.field(name="podCIDR", default="")
    pod_cidrs: list[str] = msgspec.field(name="podCIDRs", default_factory=list)


class KubeNode(msgspec.Struct):
    """Of core/v1 Node what is needed here."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


def remembered(view: View | None, node: str) -> Facts | None:
    """What the view says of this node, which is what the node last said; None where that is
    nothing. Each federation is told the ranges that are in it alone."""
    federations = () if view is None else view.federations
    told = [each for one in federations for each in one.own.nodes if each.name == node]
    if not told:
        return None
    ranges = dict.fromkeys(text for each in told for text in each.ranges)
    return Facts(tuple(told[0].addresses), ranges=tuple(ranges), gateway=told[0].gateway)


def own_addresses() -> tuple[str, ...]:
    """The addresses that the default routes send from, IPv4 first."""
    found = []
    for family, elsewhere in _ELSEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect(elsewhere)
                found.append(asking.getsockname()[0])
        except OSError:
            continue  # No default route of this family.
    return tuple(found)


def pod_ranges(node: KubeNode) -> tuple[str, ...]:
    """The pod ranges of a Kubernetes node."""
    spec = node.spec
    texts = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    return tuple(str(ip_network(text)) for text in texts)


def labelled(labels: Mapping[str, str], label: str) -> bool:
    """Whether the labels have it, which is KEY or KEY=VALUE."""
    key, equals, value = label.partition("=")
    return key in labels and (not equals or labels[key] == value)


def cni_in(data: bytes) -> str:
    """The type of the first plugin of a CNI configuration; empty where it names none."""
    try:
        content = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return ""
    plugins = content.get("plugins", [content]) if isinstance(content, dict) else []
    first = plugins[0] if isinstance(plugins, list) and plugins else {}
    kind = first.get("type") if isinstance(first, dict) else None
    if not isinstance(kind, str):
        return ""
    return _NOT_OURS.sub("-", kind.lower()).strip("-.")[:63]


def cni_of(section: CniSection) -> str:
    """The name of the cluster's CNI, as runtimes choose the configuration: the first by name."""
    if section.name != "auto":
        return section.name
    try:
        files = sorted(
            file
            for file in section.folder.iterdir()
            if file.suffix in (".conf", ".conflist", ".json")
        )
        for file in files:
            if (found := cni_in(_read(file))) != "":
                return found
    except OSError:
        pass
    return ""


class Finder:
    """Finds the facts again and again. `faults`: what could not be found out, in words. `complete`:
    whether what Kubernetes says is known, if only from before."""

    def __init__(
        self, config: FederationAgentConfig, environ: Mapping[str, str], kernel: Kernel
    ) -> None:
        self._config, self._kernel = config, kernel
        self._api: KubeApi | None = None
        self._node: KubeNode | None = None
        if (section := config.kubernetes) is not None:
            self._api = KubeApi(lambda: _access(section, environ), section.timeout)
        self._due, self._silent = 0.0, ""
        labels = config.kubernetes is not None and config.kubernetes.label is not None
        self.complete = config.pods.ranges != "kubernetes" and (
            config.gateway is not None or not labels
        )
        self.faults: Sequence[str] = ()

    async def find(self, known: Facts | None) -> Facts:
        """The facts as of now; of what cannot be asked what was known stays."""
        config, faults = self._config, []
        if self._api is not None and monotonic() >= self._due:
            try:
                name = config.node
                self._node = await self._api.get(f"/api/v1/nodes/{name}", KubeNode)
                self._silent = ""
                # Not all nodes of a cluster at once, and each of them seldom.
                self._due = monotonic() + ASKED * random.uniform(0.7, 1.0)
            except ApiError as error:
                self._silent = f"Kubernetes' node {config.node} cannot be read: {error.why}"
        if self._silent:
            faults.append(self._silent)
        self.complete |= known is not None or self._node is not None
        ranges: tuple[str, ...] = known.ranges if known else ()
        if isinstance(config.pods.ranges, tuple):
            ranges = config.pods.ranges
        elif config.pods.ranges == "none":
            ranges = ()
        elif self._node is not None:
            try:
                ranges = pod_ranges(self._node)
            except ValueError as error:
                faults.append(f"Kubernetes' node {config.node} has a pod range of no use: {error}")
        label = config.kubernetes.label if config.kubernetes else None
        gateway = True
        if config.gateway is not None:
            gateway = config.gateway
        elif label is not None and self._node is not None:
            gateway = labelled(self._node.metadata.labels, label)
        elif label is not None:
            gateway = known is not None and known.gateway
        addresses = config.underlay.addresses
        own = own_addresses() if isinstance(addresses, str) else addresses
        if not own:
            own = known.addresses if known else ()
            faults.append("no default route says which address this node's tunnels end at")
        mtu = known.mtu if known else 1500
        try:
            mtu = await self._kernel.run(None, lambda net: _mtu(net, own)) or mtu
        except KernelError as error:
            faults.append(str(error))
        self.faults = faults
        return Facts(own, mtu, ranges, gateway, cni_of(config.cni))

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()


def _mtu(net: Net, own: Sequence[str]) -> int:
    """Of the links that have the addresses the least; 0 where there is none."""
    links = {address.link for address in list_addresses(net) if str(address.interface.ip) in own}
    return min((link.mtu for link in list_links(net) if link.index in links), default=0)


def _access(section: KubernetesSection, environ: Mapping[str, str]) -> Access:
    if section.kubeconfig is not None:
        return from_kubeconfig(section.kubeconfig)
    return from_service_account(section.service_account, section.server, environ)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST)
