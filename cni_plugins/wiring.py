"""A pod's interface in the kernel: made, announced, looked at, removed.

`Wiring` is what the operations need; `HostWiring` does it with hostnet, one job in one thread for
each method. What fails in a job is undone in that job, so a method leaves all or nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, Protocol

import msgspec

import hostnet
from cni_plugins import parsed
from cni_plugins.made import boot_id
from cni_plugins.results import Ip, Route
from hostnet import Kernel, KernelError, Link, Net, Netns
from netspace.handover import ROUTE_PROTOCOL

MAKING: Final = 4
"""Interfaces that are made at once: all take the kernel's one lock for links, and more would only
spin on it."""
_MAIN_TABLE: Final = 254
_MOST_GUARDED: Final = 16
"""Addresses of an interface that a filter is made for."""
_PROBE: Final = 0.5
"""Seconds that another owner of an address has for its answer."""
_NO_SANDBOX: Final = (hostnet.NetnsMissing, hostnet.NotANetns, hostnet.OwnNetns)
"""A path may be another file's by now, or of a process that has the pod's namespace no more."""
_SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host"}


def _nobody() -> None:
    pass


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An interface to be. `master` is the link on which the VLAN lies, or with `vlan` None the
    macvlan itself; it is looked for in the pod with `in_container`. `mac` empty lets the kernel
    choose; `mtu` 0 inherits. `probe`: the link is asked whether somebody else has an address before
    it is used; `guard`: what it sends under other addresses than its own is dropped, where the
    kernel can (`guarded`). `vmac`: the host's link by which the node reaches it, empty where there
    is none; `sources`: the node's addresses that it speaks from. Every route has its gateway, or
    none because it is on the link."""

    netns: str
    ifname: str
    master: str
    vlan: int | None
    mode: str
    mac: str
    mtu: int
    in_container: bool
    ips: tuple[Ip, ...]
    routes: tuple[Route, ...]
    probe: bool = False
    guard: bool = True
    vmac: str = ""
    sources: tuple[str, ...] = ()


class Wired(msgspec.Struct, frozen=True):
    """The interface as made; `made_vlan`: the VLAN interface below it was not there before;
    `sandbox`: the namespace it is in (`sandbox_of`)."""

    mac: str
    mtu: int
    made_vlan: bool
    sandbox: str = ""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's link as it is now. `parent` is the index of the link below it, counted in the other
    namespace unless `parent_here`. Addresses are those of global scope, with prefix length; routes
    (destination, gateway or nothing) are those of the whole namespace; `elsewhere`: the
    destinations of those by other links."""

    kind: str
    mac: str
    mode: str | None
    mtu: int
    up: bool
    parent: int | None
    parent_here: bool
    addresses: frozenset[str]
    routes: frozenset[tuple[str, str]]
    elsewhere: frozenset[str] = frozenset()


class Wiring(Protocol):
    """What ADD, DEL and CHECK need of the kernel. All raise `hostnet.KernelError`s."""

    def check_pod(self, netns: str) -> None:
        """Refuses a path at which there is no namespace of a pod, before an address is taken."""

    def sandbox(self, netns: str) -> str | None:
        """What tells the namespace at this path from all others; None where there is none."""

    async def attach(self, plan: Plan) -> Wired:
        """Makes the interface and tells the neighbours of its addresses; leaves nothing where it
        fails."""

    async def detach(
        self, netns: str, ifname: str, mac: str, gone: Callable[[], None] = _nobody
    ) -> bool:
        """Removes our interface, and what a killed call left of it; True where there was one.
        `gone` may be told of its end earlier: nothing leaves or enters by it any more, while the
        kernel still takes its time.

        Only a macvlan with this MAC (or with any, where none is given) is ours. Nothing happens
        where the namespace is gone."""

    async def drop_vlan(self, plan: Plan) -> None:
        """Removes the plan's VLAN interface, unless something else lies on it."""

    async def present(self, netns: str, ifname: str, mac: str) -> bool:
        """Whether our interface is there still; without a MAC any interface of the name counts."""

    async def inspect(self, netns: str, ifname: str) -> Live | None:
        """The link of this name in the pod; None where there is none."""

    async def link_index(self, name: str) -> int | None:
        """The index of the host's link; None where there is none."""

    async def default_master(self, netns: str) -> str:
        """The link with the default route, in the pod, or with an empty path on the host."""


class HostWiring:
    """`Wiring` in the kernel this process runs on."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or Kernel()
        self.making = asyncio.Semaphore(MAKING)

    def check_pod(self, netns: str) -> None:
        hostnet.open_netns(netns).close()

    def sandbox(self, netns: str) -> str | None:
        try:
            with hostnet.open_netns(netns) as opened:
                return sandbox_of(opened)
        except _NO_SANDBOX:
            return None

    async def attach(self, plan: Plan) -> Wired:
        made: list[Wired] = []
        with hostnet.open_netns(plan.netns) as netns:

            def job(host: Net, pod: Net) -> Wired:
                made.append(attach_between(host, pod, netns, plan))
                return made[0]

            try:
                # One that asks its VLAN first mostly waits.
                async with nullcontext() if plan.probe else self.making:
                    return await self._kernel.run_between(netns, job)
            except asyncio.CancelledError:
                # The job ran to its end all the same, and nobody else knows what it made.
                if made:
                    await self.undo(plan, made[0])
                raise

    async def undo(self, plan: Plan, made: Wired) -> None:
        """Takes away what was made of the plan."""

        def job(host: Net, pod: Net) -> None:
            hostnet.delete_link(pod, plan.ifname)
            hostnet.forget_filter(pod, plan.ifname)
            if made.made_vlan:
                _drop_vlan(pod if plan.in_container else host, plan)

        with hostnet.open_netns(plan.netns) as netns:
            await self._kernel.run_between(netns, job)

    async def detach(
        self, netns: str, ifname: str, mac: str, gone: Callable[[], None] = _nobody
    ) -> bool:
        loop = asyncio.get_running_loop()
        watched: list[hostnet.Departure] = []

        def look() -> None:
            if watched[0].seen():
                loop.remove_reader(watched[0])
                gone()

        def watch(news: hostnet.Departure) -> None:
            watched.append(news)
            loop.add_reader(news, look)

        def job(pod: Net) -> bool:
            temporary = hostnet.temporary_name(ifname)
            # In the pod, as this thread is: mostly there is none, and no lock is waited for.
            left = hostnet.link_index(temporary) is not None
            left = left and hostnet.delete_link(pod, temporary)
            link = hostnet.find_link(pod, ifname)
            if link is None or link.kind != "macvlan" or mac not in ("", link.mac):
                return left
            if gone is not _nobody:
                # Without the news the address goes back a moment later.
                with suppress(OSError, KernelError):
                    loop.call_soon_threadsafe(watch, hostnet.Departure(link.index))
            done = hostnet.delete_found(pod, link)
            hostnet.forget_filter(pod, ifname)
            return done or left

        try:
            with hostnet.open_netns(netns) as opened:
                return await self._kernel.run(opened, job)
        except (*_NO_SANDBOX, hostnet.InvalidName):
            return False
        finally:
            for news in watched:
                loop.remove_reader(news)
                news.close()

    async def drop_vlan(self, plan: Plan) -> None:
        if plan.in_container:
            with hostnet.open_netns(plan.netns) as netns:
                await self._kernel.run(netns, lambda pod: _drop_vlan(pod, plan))
        else:
            await self._kernel.run(None, lambda host: _drop_vlan(host, plan))

    async def present(self, netns: str, ifname: str, mac: str) -> bool:
        live = await self.inspect(netns, ifname)
        return live is not None and mac in ("", live.mac)

    async def inspect(self, netns: str, ifname: str) -> Live | None:
        def job(pod: Net) -> Live | None:
            link = hostnet.find_link(pod, ifname)
            return None if link is None else _live(pod, link)

        try:
            with hostnet.open_netns(netns) as opened:
                return await self._kernel.run(opened, job)
        except _NO_SANDBOX:
            return None

    async def link_index(self, name: str) -> int | None:
        return hostnet.link_index(name)

    async def default_master(self, netns: str) -> str:
        if not netns:
            return await self._kernel.run(None, _default_master)
        with hostnet.open_netns(netns) as opened:
            return await self._kernel.run(opened, _default_master)


def sandbox_of(netns: Netns) -> str:
    """What tells the namespace from every other one, on this machine and since it started."""
    device, inode = netns.identity
    return f"{boot_id()}:{device}:{inode}"


def guarded(plan: Plan) -> bool:
    """Whether the interface is to have a filter: not where nobody knows its addresses, or the pod
    has the link below it too."""
    known = 0 < len(plan.ips) <= _MOST_GUARDED
    return plan.guard and known and plan.mode != "passthru" and not plan.in_container


def has_guard(pod: Net, link: Link, plan: Plan) -> bool:
    """Whether the interface has the filter that the plan wants."""
    return hostnet.filters_egress(pod, link, _sources(link, plan))


def make_guard(pod: Net, link: Link, plan: Plan) -> bool:
    """Gives the interface the filter that the plan wants; False where the kernel has none."""
    return hostnet.filter_egress(pod, link, _sources(link, plan)) is not None


def _sources(link: Link, plan: Plan) -> hostnet.Sources:
    mac = bytes.fromhex(link.mac.replace(":", ""))
    return hostnet.Sources(mac, tuple(parsed.interface(ip.address).ip for ip in plan.ips))


def attach_between(host: Net, pod: Net, netns: Netns, plan: Plan) -> Wired:
    """Makes the plan's interface, all or nothing; `pod` is in `netns`."""
    home = pod if plan.in_container else host
    made_vlan = plan.vlan is not None and not _vlan(home, plan)
    try:
        parent = hostnet.ensure_vlan(home, plan.master, plan.vlan)
        wanted = hostnet.Macvlan(plan.ifname, parent.name, plan.mode, plan.mac or None, plan.mtu)
        made = hostnet.add_macvlan(home, pod, netns, wanted, parent)
        try:
            _configure(pod, made, plan)
            _reach(home, plan)
        except BaseException:
            # The error that began it is what matters; ADD takes away what is left.
            with suppress(KernelError):
                hostnet.delete_link(pod, made.index)
            with suppress(KernelError):
                hostnet.forget_filter(pod, plan.ifname)
            raise
    except BaseException:
        if made_vlan:
            with suppress(KernelError):
                _drop_vlan(home, plan)
        raise
    return Wired(made.mac, made.mtu, made_vlan, sandbox_of(netns))


def _configure(pod: Net, link: Link, plan: Plan) -> None:
    interfaces = [parsed.interface(ip.address) for ip in plan.ips]
    ipv6 = any(interface.version == 6 for interface in interfaces)
    hostnet.prepare_pod_link(pod, link, ipv6=ipv6)
    if guarded(plan):
        make_guard(pod, link, plan)
    if plan.probe:
        _probe(pod, link, [interface.ip for interface in interfaces])
    # A pod with several interfaces: the first one that brings a route keeps it, as with the
    # reference plugins.
    hostnet.bring_up(pod, link, interfaces, [kernel_route(route) for route in plan.routes])
    hostnet.prepare_pod_link(pod, link, ipv6=ipv6, up=True)
    if interfaces:
        hostnet.announce(pod, link, [interface.ip for interface in interfaces])


def _reach(host: Net, plan: Plan) -> None:
    """The node's routes to the pod. What fails here the agent makes with its next look, which is
    soon; it also takes them away."""
    link = hostnet.find_link(host, plan.vmac) if plan.vmac else None
    if link is None:
        return
    speaking = {known.version: known for known in map(parsed.address, plan.sources)}
    for ip in plan.ips:
        address = parsed.interface(ip.address).ip
        route = hostnet.Route(ip_network(address), source=speaking.get(address.version))
        with suppress(KernelError):
            hostnet.replace_route(host, link, route)


def _probe(pod: Net, link: Link, addresses: Sequence[IPv4Address | IPv6Address]) -> None:
    """Asks for each address from none, so that nobody learns anything and no gateway is asked."""
    hostnet.set_up(pod, link)
    for address in addresses:
        mac = hostnet.who_has(pod, link, address, wait=_PROBE)
        if mac is not None:
            raise hostnet.AddressConflict(
                "use the address",
                str(address),
                f"{mac} answers for it on the VLAN already",
                "find that machine and give it another address, or exclude this one from the"
                " network (netspacectl network change --exclude)",
            )


def kernel_route(route: Route) -> hostnet.Route:
    """A result's route as the kernel takes it."""
    destination = parsed.network(route.dst)
    return hostnet.Route(
        destination,
        parsed.address(route.gw) if route.gw else None,
        scope=None if route.scope is None else _SCOPES.get(route.scope, str(route.scope)),
        mtu=route.mtu,
        advmss=route.advmss,
        priority=route.priority,
        table=_MAIN_TABLE if route.table is None else route.table,
    )


def _vlan(home: Net, plan: Plan) -> Link | None:
    assert plan.vlan is not None
    return hostnet.find_link(home, hostnet.vlan_name(plan.master, plan.vlan))


def _drop_vlan(home: Net, plan: Plan) -> None:
    link = _vlan(home, plan)
    if link is None or link.kind != "vlan":
        return
    if not any(other.parent == link.index for other in hostnet.list_links(home)):
        hostnet.delete_link(home, link.index)


def _live(pod: Net, link: Link) -> Live:
    routes = hostnet.list_routes(pod)
    return Live(
        kind=link.kind,
        mac=link.mac,
        mode=link.macvlan_mode,
        mtu=link.mtu,
        up=link.up,
        parent=link.parent,
        parent_here=link.parent_netns is None,
        addresses=frozenset(
            str(address.interface)
            for address in hostnet.list_addresses(pod, link)
            if address.scope == "global" and not address.failed
        ),
        routes=frozenset(
            (str(found.route.destination), str(found.route.gateway or "")) for found in routes
        ),
        elsewhere=frozenset(
            str(found.route.destination) for found in routes if found.link != link.index
        ),
    )


def _default_master(net: Net) -> str:
    for found in hostnet.list_routes(net, but=ROUTE_PROTOCOL):
        if found.route.destination.prefixlen == 0:
            return hostnet.get_link(net, found.link).name
    raise hostnet.ParentMissing(
        "choose the master of", "the interface", "there is no default route", "name it in `master`"
    )
