"""`NodeServices`: the node's way to Services kept as it should be, a look at a time.

It asks the server for what addresses the node lacks, writes the book before it changes the kernel,
and then brings vmacs, firewall and the routes of pods in line, those to other clusters that the
federation agent hands over among them. `differ` says cheaply whether somebody changed what the
kernel tells nobody of, rules and settings, or handed over something else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import hostnet
from cni_plugins.node_config import NodeConfig
from cni_plugins.records import Key, Record
from cni_plugins.results import Route
from cni_plugins.services import guard, vmac
from cni_plugins.services.book import Book, for_families, read_book, write_book
from cni_plugins.services.faults import services_faults
from cni_plugins.services.handed import Stamp, federated, read_handed, stamp_of
from cni_plugins.services.wanted import (
    STATIC,
    Wanted,
    lacks_address,
    parent_of,
    remembered,
    wanted_of,
)
from cni_plugins.steps import in_thread
from cni_plugins.wiring import kernel_route
from hostnet import Kernel, KernelError, Net
from netspace.messages import Network, Vmac
from netspace.problems import Problem

logger = logging.getLogger(__name__)

AGAIN: Final = 600.0
"""Seconds after which the server is asked again for an address that it gave already."""
RETRY: Final = 10.0
"""Seconds after which it is asked again where it gave none."""
READINGS: Final = 3
"""How often the firewall is read and written in one look, while there is something to write."""


class VmacClient(Protocol):
    """What is asked of the server; both raise `Problem`."""

    async def vmac(self, cluster: str, node: str, network: str) -> Vmac: ...

    async def free_vmac(self, cluster: str, node: str, network: str) -> None: ...


class NodeServices:
    """Call it with the networks and records to bring the node in line; what it changed, in words.
    None for the networks means that the server was not reached: what the book says stays. Raises
    the first `KernelError` once all that can be done is done."""

    def __init__(
        self, config: NodeConfig, kernel: Kernel, client: VmacClient, state_dir: Path
    ) -> None:
        self._config = config
        self._kernel = kernel
        self._client = client
        self._state_dir = state_dir
        self._ability: guard.Ability | None = None
        self._marks: tuple[bytes | int, ...] = ()
        self._asked: dict[str, float] = {}
        self._given: dict[str, tuple[str | None, str | None]] = {}
        self._routed: dict[tuple[Key, str], tuple[Route, ...]] = {}
        self._wanted = Wanted()
        self._handover = Path(config.handover)
        self._stamp: Stamp | None = None
        self.failures: list[KernelError] = []

    async def __call__(
        self, networks: Sequence[Network] | None, records: Sequence[Record]
    ) -> list[str]:
        book = await in_thread(lambda: read_book(self._state_dir))
        if self._config.services is None and not book.places:
            return []
        self.failures = []
        # First the stamp, then the look: a file that comes in between is seen as another one.
        self._stamp = stamp_of(self._handover)
        handed = await in_thread(lambda: read_handed(self._handover))
        decided = await self._decide(networks, records, book)
        wanted = self._wanted = replace(decided, handed=handed)
        if wanted.book != book and wanted.places:
            await in_thread(lambda: write_book(self._state_dir, wanted.book))
        done = await self._tried(lambda net: vmac.ensure_vmacs(net, wanted, book.places))
        done += await self._firewall(wanted)
        for record in records:
            done += await self._pod(record, wanted)
        self._routed = {
            place: routes
            for place, routes in self._routed.items()
            if place[0] in {record.key for record in records}
        }
        if not wanted.places and not self.failures:
            await in_thread(lambda: write_book(self._state_dir, Book()))
        if self.failures:
            for line in done:
                logger.warning("put right", extra={"subject": "services", "done": line})
            raise self.failures[0]
        return done

    def rebuilt(self, key: Key) -> None:
        """The interface of this attachment was built again: its routes are looked at anew."""
        for place in [place for place in self._routed if place[0] == key]:
            del self._routed[place]

    def links(self) -> frozenset[str]:
        """The vmacs' names."""
        return frozenset(place.name for place in self._wanted.places)

    async def differ(self) -> bool:
        """Whether rules, sets or settings are others than they were left."""
        ability, wanted = self._ability, self._wanted
        if ability is None or not wanted.places:
            return False

        if stamp_of(self._handover) != self._stamp:
            return True

        def job(net: Net) -> bool:
            changed = guard.marks(net, ability) != self._marks
            return changed or vmac.settings_differ(net, wanted.places)

        return await self._kernel.run(None, job)

    async def missing(self) -> tuple[str, ...]:
        """What this kernel lacks for it, in words; for `netspace-agent diagnose`."""
        return (await self._able()).missing

    async def faults(self, records: Sequence[Record]) -> list[str]:
        """What is not as the agent left it, in words; for the same."""
        book = await in_thread(lambda: read_book(self._state_dir))
        handed = await in_thread(lambda: read_handed(self._handover))
        wanted, ability = replace(remembered(book, records), handed=handed), await self._able()
        return await self._kernel.run(None, lambda net: services_faults(net, wanted, ability))

    async def _decide(
        self, networks: Sequence[Network] | None, records: Sequence[Record], book: Book
    ) -> Wanted:
        section = self._config.services
        if section is None:
            await self._give_back(book)
            return Wanted()
        if networks is None:
            return remembered(book, records)
        seen = await self._kernel.run(None, vmac.look)
        for network in networks:
            if parent_of(network) in seen.kinds and lacks_address(network, seen, book):
                await self._ask(network, book)
        identity = self._config.cluster, self._config.node_name
        return wanted_of(section, identity, networks, self._given, records, seen, book)

    async def _ask(self, network: Network, book: Book) -> None:
        """The server's address for the network, where it was not asked lately."""
        name = network.name
        known = book.segment(name)
        if name not in self._given and known is not None:
            self._given[name] = (known.address4, known.address6)
        if monotonic() < self._asked.get(name, 0.0):
            return
        try:
            vmac_ = await self._client.vmac(self._config.cluster, self._config.node_name, name)
        except Problem as problem:
            self._asked[name] = monotonic() + RETRY
            self.failures.append(
                KernelError("give the node a vmac on", name, problem.detail, problem.do)
            )
            if problem.code == "not-found":
                self._given.pop(name, None)
        else:
            self._asked[name] = monotonic() + AGAIN
            self._given[name] = (vmac_.ipv4, vmac_.ipv6)

    async def _give_back(self, book: Book) -> None:
        for place in book.places:
            for segment in place.segments:
                try:
                    await self._client.free_vmac(
                        self._config.cluster, self._config.node_name, segment.network
                    )
                except Problem as problem:
                    if problem.code != "not-found":
                        # The book is kept, so that it is tried again.
                        self.failures.append(
                            KernelError(
                                "give back the vmac on", segment.network, problem.detail, problem.do
                            )
                        )

    async def _firewall(self, wanted: Wanted) -> list[str]:
        ability = await self._able()
        done: list[str] = []

        def job(net: Net) -> list[str]:
            before: list[str] = []
            for _ in range(READINGS):
                # Taken before the reading: what another program writes after it is seen as news.
                self._marks = guard.marks(net, ability)
                step = guard.ensure_firewall(net, wanted, ability)
                done.extend(step)
                if not step:
                    break
                if step == before:
                    # Written again though it does not stay: no news by itself.
                    self._marks = guard.marks(net, ability)
                    break
                before = step
            return done

        await self._tried(job)
        return done

    async def _able(self) -> guard.Ability:
        if self._ability is None:
            self._ability = await self._kernel.run(None, guard.probe)
            for line in self._ability.missing:
                logger.warning("this kernel lacks something", extra={"missing": line})
        return self._ability

    async def _pod(self, record: Record, wanted: Wanted) -> list[str]:
        """The routes of a pod that was made before they were wanted; looked at once, and again
        when others are wanted or its sandbox is another one."""
        result, given = record.result, record.allocation
        if record.state != "held" or record.plugin != "netspace" or not (result and given):
            return []
        addresses = [ip.address for ip in result.ips]
        routes = for_families(wanted.routes.get(given.network.name, ()), addresses)
        segment = wanted.book.segment(given.network.name)
        routes += federated(wanted.handed, segment, addresses)
        place = record.key, record.sandbox
        before = self._routed.get(place)
        if before == routes or (before is None and segment is None):
            return []
        by = set() if segment is None else {segment.address4, segment.address6} - {None}
        own = {route.dst for route in result.routes}

        def job(pod: Net) -> list[str]:
            return _route_pod(pod, record.ifname, routes, before or (), by, own)

        try:
            with hostnet.open_netns(record.netns) as netns:
                changed = await self._kernel.run(netns, job)
        except (hostnet.NetnsMissing, hostnet.NotANetns, hostnet.OwnNetns, hostnet.LinkMissing):
            return []
        except KernelError as error:
            self.failures.append(error)
            return []
        self._routed[place] = routes
        return [f"{record.pod.namespace}/{record.pod.name}: {line}" for line in changed]

    async def _tried(self, job: Callable[[Net], list[str]]) -> list[str]:
        try:
            return await self._kernel.run(None, job)
        except KernelError as error:
            self.failures.append(error)
            return []


def _route_pod(
    pod: Net,
    ifname: str,
    routes: Sequence[Route],
    before: Sequence[Route],
    by: Collection[str | None],
    own: Collection[str],
) -> list[str]:
    """`before`: what the pod was given last, as far as that is known; `by`: the vmac's addresses,
    by which the pod has nothing but what it was given; `own`: where its own routes lead."""
    link = hostnet.get_link(pod, ifname)
    wanted = {route.dst for route in routes}
    gone = {route.dst: kernel_route(route) for route in before if route.dst not in wanted}
    present = set()
    for found in hostnet.list_routes(pod, link):
        route, gateway = found.route, str(found.route.gateway or "")
        destination = str(route.destination)
        present.add((destination, gateway, route.mtu, route.advmss))
        if found.protocol == STATIC and gateway in by and destination not in {*wanted, *own}:
            gone[destination] = route
    changed = 0
    for each in routes:
        if (each.dst, each.gw, each.mtu, each.advmss) not in present:
            hostnet.replace_route(pod, link, kernel_route(each))
            changed += 1
    for route in gone.values():
        changed += hostnet.delete_route(pod, link, route)
    return [f"{changed} routes to Services, the node and other clusters"] if changed else []
