"""What a node should have, from its configuration, the server's networks and its records. Pure.

The networks name the links that pods' interfaces lie on, and so do the records of pods that are
there, so that a node which cannot ask its server keeps what its pods need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

import msgspec

from cni_plugins.node_config import BondSection, NodeConfig
from cni_plugins.records import Key, Record
from cni_plugins.results import gateway_of
from cni_plugins.wiring import Plan
from hostnet import Bond, vlan_name
from netspace.messages import Network

PARENT_SETTINGS: Final = (
    (("ipv4", "conf"), "arp_ignore", "1", "else it answers for addresses of other links"),
    (("ipv4", "conf"), "arp_announce", "2", "else it asks with addresses of other links"),
)
"""What every link wants on which pods' interfaces lie: (family, setting, value, why)."""
OWN_VLAN_SETTINGS: Final = (
    (("ipv6", "conf"), "accept_ra", "0", "else a router on the pods' VLAN configures the node"),
)
"""What the VLAN interfaces that we make want besides."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A link that pods' interfaces lie on: VLAN `vlan` on `master`, or with None `master` itself.
    `mtu`: what the pods on it need, in bytes, 0 where there are none. `networks` and `pods`: who
    wants it."""

    master: str
    vlan: int | None
    mtu: int
    networks: tuple[str, ...]
    pods: int

    @property
    def name(self) -> str:
        return self.master if self.vlan is None else vlan_name(self.master, self.vlan)


@dataclass(frozen=True, slots=True)
class Setting:
    """A sysctl below net/ by its path segments, its value, and what happens with another one."""

    segments: tuple[str, ...]
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class PodLink:
    """A pod's interface: all that is needed to build it again. `parent`: the name of the link it
    lies on. `fenced`: why it must stay down, or empty."""

    key: Key
    plan: Plan
    sandbox: str
    parent: str
    fenced: str


@dataclass(frozen=True, slots=True)
class WantedBond:
    """A bond, and within how many seconds the gateway must answer when the node's own addresses
    move into it with a card; None: they may not."""

    bond: Bond
    take: float | None


@dataclass(frozen=True, slots=True)
class Desired:
    """What the node should have. `complete`: the networks are known, so that what nobody wants
    is known too; `busy`: an ADD is under way, whose links are not known yet."""

    bonds: tuple[WantedBond, ...]
    parents: tuple[Parent, ...]
    pods: tuple[PodLink, ...]
    complete: bool
    busy: bool


def desired(
    config: NodeConfig, networks: Sequence[Network] | None, records: Sequence[Record]
) -> Desired:
    """What the node should have; `networks` None: the server was not reached yet."""
    pods = tuple(
        sorted(
            (pod for record in records if (pod := pod_link(record)) is not None),
            key=lambda pod: str(pod.key),
        )
    )
    return Desired(
        bonds=tuple(
            WantedBond(bond_of(each), each.gateway_timeout if each.take_addresses else None)
            for each in config.bonds
        ),
        parents=_parents(config, networks or (), records),
        pods=pods,
        complete=networks is not None,
        busy=any(record.state == "adding" for record in records),
    )


def bond_of(section: BondSection) -> Bond:
    """The bond as its section of the configuration has it."""
    values: dict[str, Any] = msgspec.structs.asdict(section)
    targets = section.arp_ip_target
    values["arp_ip_target"] = None if targets is None else tuple(map(IPv4Address, targets))
    fields = Bond.__dataclass_fields__
    return Bond(**{name: value for name, value in values.items() if name in fields})


def pod_link(record: Record) -> PodLink | None:
    """The interface that the record says is there; None where it has none to be kept."""
    result = record.result
    if record.state != "held" or record.plugin != "netspace" or result is None:
        return None
    plan = Plan(
        netns=record.netns,
        ifname=record.ifname,
        master=record.master,
        vlan=record.vlan,
        mode=record.mode,
        mac=record.mac,
        mtu=record.mtu,
        in_container=record.in_container,
        guard=record.guard,
        ips=tuple(result.ips),
        routes=tuple(
            msgspec.structs.replace(route, gw=gateway_of(result, route)) for route in result.routes
        ),
    )
    parent = record.master if record.vlan is None else vlan_name(record.master, record.vlan)
    return PodLink(record.key, plan, record.sandbox, parent, record.fenced)


def settings(parent: Parent, *, own: bool) -> tuple[Setting, ...]:
    """The settings of the parent; `own`: it is a VLAN interface that we made."""
    table = (*PARENT_SETTINGS, *OWN_VLAN_SETTINGS) if own else PARENT_SETTINGS
    return tuple(
        Setting((*family, parent.name, setting), value, why)
        for family, setting, value, why in table
    )


def _parents(
    config: NodeConfig, networks: Iterable[Network], records: Iterable[Record]
) -> tuple[Parent, ...]:
    limits = {bond.name: bond.mtu for bond in config.bonds if bond.mtu}
    wanted: dict[tuple[str, int | None], tuple[list[str], list[int]]] = {}
    for network in networks:
        wanted.setdefault((network.parent, network.vlan or None), ([], []))[0].append(network.name)
    for record in records:
        if record.plugin == "netspace" and record.master and not record.in_container:
            place = (record.master, record.vlan or None)
            pods = wanted.setdefault(place, ([], []))[1]
            if record.state == "held":
                pods.append(record.mtu)
    return tuple(
        Parent(
            master,
            vlan,
            # What the configuration gives the bond counts more than what pods once got.
            min(max(mtus, default=0), limits.get(master, 1 << 16)),
            tuple(sorted(names)),
            len(mtus),
        )
        for (master, vlan), (names, mtus) in sorted(
            wanted.items(), key=lambda item: (item[0][0], item[0][1] or 0)
        )
    )
