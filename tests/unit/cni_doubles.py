"""A server's client and a kernel in memory, for operations of the CNI plugins.

Both do what the real ones promise in their interfaces and no more; the real ones are used by the
tests in `tests/kernel` and `tests/lab`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from cni_plugins.wiring import Live, Plan, Wired
from hostnet import NameTaken, NetnsMissing, vlan_name
from netspace.messages import (
    AllocateRequest,
    Allocation,
    AttachmentId,
    NetworkView,
    Released,
    ReleaseRequest,
)
from netspace.problems import Problem
from netspace.slots import SlotMap

CONTAINER = "0123456789abcdef"
NETNS = "/var/run/netns/pod"


class InjectedError(Exception):
    """What a test makes a step fail with."""


def network_view(**changes: Any) -> NetworkView:
    values: dict[str, Any] = {
        "name": "net",
        "uid": "uid-1",
        "parent": "bond0",
        "vlan": 910,
        "ipv4": "10.9.0.0/24",
        "ipv6": "fd00:9::/64",
        "gateway4": "10.9.0.1",
        "gateway6": "fd00:9::1",
        "mapping": "offset",
        "mtu": 0,
    }
    return NetworkView(**{**values, **changes})


class MemoryIpam:
    """The server's rules for claims, generations and take-over, on a plain dict.

    `trouble` is raised by the calls it names, before (`refuse`) or after (`lose`) they are done.
    """

    def __init__(self, size: int = 8, network: NetworkView | None = None) -> None:
        self.network = network or network_view()
        self.free = [str(index) for index in range(2, 2 + size)]
        self.holders: dict[str, tuple[AllocateRequest, int]] = {}
        self.dead: set[str] = set()
        self.calls: list[str] = []
        self.refuse: dict[str, Problem] = {}
        self.lose: dict[str, Problem] = {}
        self._generations = itertools.count(1)

    async def allocate(self, cluster: str, request: AllocateRequest) -> Allocation:
        self._begin("allocate")
        if request.claim in self.dead:
            raise Problem("claim-released", "the claim has been released")
        slot, how = self._slot_of(request.attachment), "repeated"
        if slot is None:
            slot, how = self._of_removed(request), "taken-over"
        if slot is None:
            if not self.free:
                raise Problem("pool-exhausted", f"pool default: all {len(self.holders)} are used")
            slot, how = self.free.pop(0), "never"
        held = self.holders.get(slot)
        if held is None or held[0].claim != request.claim:
            self.holders[slot] = (request, next(self._generations))
        self._end("allocate")
        return self._answer(slot, how)

    async def release(self, cluster: str, request: ReleaseRequest) -> Released:
        self._begin("release")
        self.dead.add(request.claim)
        slot = self._slot_of(request.attachment)
        if slot is None:
            return Released(released=False, why="the attachment holds nothing")
        holder, generation = self.holders[slot]
        if request.generation not in (None, generation):
            return Released(released=False, why="another generation holds it")
        if request.generation is None and holder.claim != request.claim:
            return Released(released=False, why="another claim holds it")
        del self.holders[slot]
        self.free.append(slot)
        self._end("release")
        return Released(released=True, why="")

    async def held(self, cluster: str, attachment: AttachmentId) -> Allocation:
        self._begin("held")
        slot = self._slot_of(attachment)
        if slot is None:
            raise Problem("not-found", f"{attachment} holds nothing")
        return self._answer(slot, "repeated")

    def _begin(self, call: str) -> None:
        self.calls.append(call)
        if call in self.refuse:
            raise self.refuse[call]

    def _end(self, call: str) -> None:
        if call in self.lose:
            raise self.lose[call]

    def _slot_of(self, attachment: AttachmentId) -> str | None:
        for slot, (request, _) in self.holders.items():
            if request.attachment == attachment:
                return slot
        return None

    def _of_removed(self, request: AllocateRequest) -> str | None:
        for slot, (holder, _) in self.holders.items():
            same = (holder.pod.namespace, holder.pod.name) == (
                request.pod.namespace,
                request.pod.name,
            )
            if same and request.pod.name and holder.attachment.container in request.removed:
                return slot
        return None

    def _answer(self, slot: str, how: str) -> Allocation:
        network = self.network
        mapping = SlotMap(IPv4Network(str(network.ipv4)), IPv6Network(str(network.ipv6)))
        addresses = [mapping.ipv4_of(int(slot)), mapping.ipv6_of(int(slot))]
        return Allocation(
            cluster="c1",
            pool="default",
            slot=slot,
            generation=self.holders[slot][1],
            ipv4=str(addresses[0]) if addresses[0] else None,
            ipv6=str(addresses[1]) if addresses[1] else None,
            network=network,
            how=how,
        )


class MemoryWiring:
    """Pods' links and the host's VLANs as values. `before` and `after` are told every change and
    may raise; `gone` are namespaces that do not exist."""

    def __init__(self) -> None:
        self.links: dict[tuple[str, str], Live] = {}
        self.vlans: set[str] = set()
        self.announced: list[str] = []
        self.gone: set[str] = set()
        self.before: Callable[[str], None] = lambda step: None
        self.after: Callable[[str], None] = lambda step: None

    def check_pod(self, netns: str) -> None:
        if netns in self.gone:
            raise NetnsMissing("open", netns, "it is gone", "give another")

    def sandbox(self, netns: str) -> str | None:
        return None if not netns or netns in self.gone else f"sandbox of {netns}"

    async def attach(self, plan: Plan) -> Wired:
        self.before("attach")
        await asyncio.sleep(0)
        if (plan.netns, plan.ifname) in self.links:
            raise NameTaken("make", plan.ifname, "the name is taken", "choose another")
        made = plan.vlan is not None and vlan_name(plan.master, plan.vlan) not in self.vlans
        if plan.vlan is not None:
            self.vlans.add(vlan_name(plan.master, plan.vlan))
        self.links[plan.netns, plan.ifname] = Live(
            kind="macvlan",
            mac=plan.mac,
            mode=plan.mode,
            mtu=plan.mtu or 1500,
            up=True,
            parent=7,
            parent_here=False,
            addresses=frozenset(ip.address for ip in plan.ips),
            routes=frozenset((route.dst, route.gw) for route in plan.routes),
        )
        self.announced += [ip.address for ip in plan.ips]
        self.after("attach")
        return Wired(plan.mac, plan.mtu or 1500, made, f"sandbox of {plan.netns}")

    async def detach(
        self, netns: str, ifname: str, mac: str, gone: Callable[[], None] = lambda: None
    ) -> bool:
        self.before("detach")
        live = self.links.get((netns, ifname))
        if live is None or live.kind != "macvlan" or mac not in ("", live.mac):
            return False
        del self.links[netns, ifname]
        return True

    async def drop_vlan(self, plan: Plan) -> None:
        assert plan.vlan is not None
        self.vlans.discard(vlan_name(plan.master, plan.vlan))

    async def present(self, netns: str, ifname: str, mac: str) -> bool:
        live = await self.inspect(netns, ifname)
        return live is not None and mac in ("", live.mac)

    async def inspect(self, netns: str, ifname: str) -> Live | None:
        return None if netns in self.gone else self.links.get((netns, ifname))

    async def link_index(self, name: str) -> int | None:
        return 7 if name in self.vlans or name == "bond0" else None

    async def default_master(self, netns: str) -> str:
        return "bond0"
