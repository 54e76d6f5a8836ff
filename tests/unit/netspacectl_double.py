"""The server's client with its answers in memory, for the tests of the command line.

Every request goes through the wire's own encoding and rules. It is no second server: pools have the
space they are given, and nothing is checked that the command line should have refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ipam_server.client import Client
from netspace.kubernetes import NamespaceDefault
from netspace.messages import (
    AddressEntry,
    AddressHistory,
    AddressPage,
    ChangeNetwork,
    ChangePool,
    Cluster,
    Fabric,
    Network,
    NewCluster,
    NewFabric,
    NewNetwork,
    NewPool,
    Node,
    OperatorRelease,
    Owner,
    Pool,
    Released,
    Reserve,
    ResizePool,
    Status,
    Tenancy,
)
from netspace.problems import Problem
from netspace.tls import Tls
from netspacectl.app import App
from netspacectl.main import run

T = TypeVar("T")


class MemoryClient(Client):
    """What a server knows, and in `asked` every question it was put."""

    def __init__(self, *clusters: str) -> None:
        super().__init__(["unix:///nowhere"])
        self.asked: list[tuple[Any, ...]] = []
        self.problem: BaseException | None = None
        self.fabric_table: dict[str, Fabric] = {}
        self.cluster_names = list(clusters)
        self.network_table: dict[str, Network] = {}
        self.pool_table: dict[str, Pool] = {}
        self.node_table: dict[str, Node] = {}
        self.entries: list[AddressEntry] = []
        self.tenancies: list[Tenancy] = []
        self.defaults: list[NamespaceDefault] = []
        self.state: Status | None = None

    def _note(self, *asked: Any) -> None:
        self.asked.append(asked)
        if self.problem is not None:
            raise self.problem

    async def status(self) -> Status:
        self._note("status")
        assert self.state is not None
        return self.state

    async def fabrics(self) -> list[Fabric]:
        self._note("fabrics")
        return list(self.fabric_table.values())

    async def fabric(self, name: str) -> Fabric:
        self._note("fabric", name)
        return found(self.fabric_table, "fabric", name)

    async def create_fabric(self, new: NewFabric) -> Fabric:
        self._note("create_fabric", wired(new))
        self.fabric_table[new.name] = Fabric(name=new.name, members=[])
        return self.fabric_table[new.name]

    async def delete_fabric(self, name: str) -> None:
        self._note("delete_fabric", name)
        found(self.fabric_table, "fabric", name)
        del self.fabric_table[name]

    async def clusters(self) -> list[Cluster]:
        self._note("clusters")
        return [self._cluster(name) for name in self.cluster_names]

    async def cluster(self, name: str) -> Cluster:
        self._note("cluster", name)
        return self._cluster(name)

    def _cluster(self, name: str) -> Cluster:
        return Cluster(name=name, leader="server-1", networks=1, pools=2, used=3)

    async def create_cluster(self, new: NewCluster) -> Cluster:
        self._note("create_cluster", wired(new))
        self.cluster_names.append(new.name)
        return self._cluster(new.name)

    async def delete_cluster(self, name: str) -> None:
        self._note("delete_cluster", name)
        self.cluster_names.remove(name)

    async def nodes(self, cluster: str) -> list[Node]:
        self._note("nodes", cluster)
        return list(self.node_table.values())

    async def node(self, cluster: str, name: str) -> Node:
        self._note("node", cluster, name)
        return found(self.node_table, "node", name)

    async def networks(self, cluster: str) -> list[Network]:
        self._note("networks", cluster)
        return list(self.network_table.values())

    async def network(self, cluster: str, name: str) -> Network:
        self._note("network", cluster, name)
        return found(self.network_table, "network", name)

    async def create_network(self, cluster: str, new: NewNetwork) -> Network:
        self._note("create_network", cluster, wired(new))
        self.network_table[new.name] = network(**msgspec.structs.asdict(new))
        return self.network_table[new.name]

    async def change_network(self, cluster: str, name: str, change: ChangeNetwork) -> Network:
        self._note("change_network", cluster, name, wired(change))
        self.network_table[name] = msgspec.structs.replace(
            found(self.network_table, "network", name), **given(change)
        )
        return self.network_table[name]

    async def delete_network(self, cluster: str, name: str, owner: Owner | None = None) -> None:
        assert owner is None
        self._note("delete_network", cluster, name)
        found(self.network_table, "network", name)
        del self.network_table[name]

    async def hand_over_network(self, cluster: str, name: str, owner: Owner | None) -> Network:
        self._note("hand_over_network", cluster, name, owner)
        self.network_table[name] = msgspec.structs.replace(
            found(self.network_table, "network", name), owner=owner
        )
        return self.network_table[name]

    async def hand_over_pool(self, cluster: str, name: str, owner: Owner | None) -> Pool:
        self._note("hand_over_pool", cluster, name, owner)
        self.pool_table[name] = msgspec.structs.replace(
            found(self.pool_table, "pool", name), owner=owner
        )
        return self.pool_table[name]

    async def namespaces(self, cluster: str) -> list[NamespaceDefault]:
        self._note("namespaces", cluster)
        return self.defaults

    async def unfence(self, cluster: str, node: str) -> None:
        self._note("unfence", cluster, node)

    async def pools(self, cluster: str) -> list[Pool]:
        self._note("pools", cluster)
        return list(self.pool_table.values())

    async def pool(self, cluster: str, name: str) -> Pool:
        self._note("pool", cluster, name)
        return found(self.pool_table, "pool", name)

    async def create_pool(self, cluster: str, new: NewPool) -> Pool:
        self._note("create_pool", cluster, wired(new))
        fields = msgspec.structs.asdict(new) | {"size": new.size or "16"}
        self.pool_table[new.name] = pool(**fields)
        return self.pool_table[new.name]

    async def change_pool(self, cluster: str, name: str, change: ChangePool) -> Pool:
        self._note("change_pool", cluster, name, wired(change))
        self.pool_table[name] = msgspec.structs.replace(
            found(self.pool_table, "pool", name), **given(change)
        )
        return self.pool_table[name]

    async def grow_pool(self, cluster: str, name: str, resize: ResizePool) -> Pool:
        self._note("grow_pool", cluster, name, wired(resize))
        return found(self.pool_table, "pool", name)

    async def shrink_pool(self, cluster: str, name: str, resize: ResizePool) -> Pool:
        self._note("shrink_pool", cluster, name, wired(resize))
        return found(self.pool_table, "pool", name)

    async def delete_pool(self, cluster: str, name: str, owner: Owner | None = None) -> None:
        assert owner is None
        self._note("delete_pool", cluster, name)
        found(self.pool_table, "pool", name)
        del self.pool_table[name]

    async def addresses(
        self,
        cluster: str,
        *,
        network: str | None = None,
        pool: str | None = None,
        namespace: str | None = None,
        pod: str | None = None,
        node: str | None = None,
        state: str | None = None,
        limit: int = 500,
        after: str | None = None,
    ) -> AddressPage:
        filters = {
            "network": network,
            "pool": pool,
            "namespace": namespace,
            "pod": pod,
            "node": node,
            "state": state,
        }
        wanted = {field: value for field, value in filters.items() if value is not None}
        self._note("addresses", cluster, wanted, after)
        entries = [
            entry
            for entry in self.entries
            if all(getattr(entry, field) == value for field, value in wanted.items())
        ]
        start = int(after or 0)
        end = start + limit
        return AddressPage(items=entries[start:end], next=str(end) if end < len(entries) else None)

    async def address(self, cluster: str, address: str, network: str | None = None) -> AddressEntry:
        self._note("address", cluster, address, network)
        for entry in self.entries:
            if address in (entry.ipv4, entry.ipv6) and network in (None, entry.network):
                return entry
        raise Problem("not-found", f"address {address} is in no network of cluster {cluster}")

    async def address_history(
        self, cluster: str, address: str, network: str | None = None
    ) -> AddressHistory:
        now = await self.address(cluster, address, network)
        self._note("address_history", cluster, address, network)
        return AddressHistory(
            network=now.network, slot=now.slot, ipv4=now.ipv4, ipv6=now.ipv6, items=self.tenancies
        )

    async def reserve(self, cluster: str, request: Reserve) -> AddressEntry:
        self._note("reserve", cluster, wired(request))
        return entry(ipv4=request.address, state="reserved", note=request.note)

    async def unreserve(self, cluster: str, address: str, network: str | None = None) -> None:
        self._note("unreserve", cluster, address, network)

    async def operator_release(self, cluster: str, request: OperatorRelease) -> Released:
        self._note("operator_release", cluster, wired(request))
        holder = await self.address(cluster, request.address, request.network)
        if holder.generation != request.generation:
            return Released(released=False, why=f"it has generation {holder.generation}")
        return Released(released=True, why="")


def wired(request: T) -> T:
    """The request as a server gets it; fails where the wire's rules would refuse it."""
    return msgspec.json.decode(msgspec.json.encode(request), type=type(request))


def given(change: msgspec.Struct) -> dict[str, Any]:
    """The fields a change names."""
    fields = msgspec.structs.asdict(change)
    return {field: value for field, value in fields.items() if value is not msgspec.UNSET}


def found(table: dict[str, T], what: str, name: str) -> T:
    if name not in table:
        raise Problem("not-found", f"there is no {what} {name}", do=f"see '{what} list'")
    return table[name]


def network(**fields: Any) -> Network:
    """A network with these fields."""
    known: dict[str, Any] = {
        "name": "vlan910",
        "revision": 12,
        "uid": "9b2f",
        "fabric": "default",
        "parent": "bond0",
        "vlan": 910,
        "ipv4": "10.91.0.0/24",
        "ipv6": "fd00:91::/64",
        "gateway4": "10.91.0.1",
        "gateway6": "fd00:91::1",
        "mapping": "offset",
        "mtu": 0,
        "range": [],
        "exclude": [],
        "total": "254",
        "carved": "64",
        "used": 3,
        "reserved": 0,
    }
    return Network(**(known | fields))


def pool(**fields: Any) -> Pool:
    """A pool with these fields."""
    known: dict[str, Any] = {
        "name": "tenant-a",
        "revision": 13,
        "kind": "netspace",
        "network": "vlan910",
        "parent": None,
        "ranges": ["10.91.0.2-10.91.0.65"],
        "namespaces": ["team-a"],
        "cooldown": 30.0,
        "retention": 0.0,
        "elastic": None,
        "replicas": None,
        "surplus": 0,
        "size": "64",
        "used": 3,
        "cooling": 1,
        "retained": 0,
        "free": "60",
        "never": "58",
    }
    return Pool(**(known | fields))


def entry(**fields: Any) -> AddressEntry:
    """An address that pod team-a/web-0 holds."""
    known: dict[str, Any] = {
        "network": "vlan910",
        "slot": "16",
        "ipv4": "10.91.0.16",
        "ipv6": "fd00:91::10",
        "state": "used",
        "pool": "tenant-a",
        "generation": 7,
        "node": "node-1",
        "namespace": "team-a",
        "pod": "web-0",
        "uid": "u-1",
        "container": "c0ffee",
        "ifname": "eth0",
    }
    return AddressEntry(**(known | fields))


class Terminal:
    """Runs command lines against one client, which is there whatever server is named."""

    def __init__(self, client: MemoryClient) -> None:
        self.client = client
        self.servers: list[tuple[str, ...]] = []
        self.tls: Tls | None = None

    def app(self) -> App:
        """Fresh options, as every call of the program has."""

        def connect(
            servers: Sequence[str], _: float, tls: Tls | None
        ) -> contextlib.AbstractAsyncContextManager[Any]:
            self.servers.append(tuple(servers))
            self.tls = tls
            return contextlib.nullcontext(self.client)

        return App(connect=connect)

    def run(self, *arguments: str) -> int:
        """The exit status of `netspacectl ARGUMENTS`."""
        return run(arguments, self.app())
