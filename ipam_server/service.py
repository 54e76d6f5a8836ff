"""What admins and nodes ask of one cluster besides allocations: networks, pools, addresses, nodes.

Networks and pools are reshaped on a state that stands still: decided by the pure rules of
`networks` and `pools`, then committed by the term.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from itertools import islice

import msgspec

from ipam_server import networks as network_rules
from ipam_server import pools as pool_rules
from ipam_server import views
from ipam_server.allocator import whose
from ipam_server.changes import Change, resizing
from ipam_server.elastic import sized
from ipam_server.history import history
from ipam_server.inventory import NetworkState, PoolState
from ipam_server.keys import catalogue
from ipam_server.keys import fabric as fabric_key
from ipam_server.namespaces import Namespaces
from ipam_server.owners import check_acting, check_new
from ipam_server.records import FabricRecord, Holder, NodeRecord
from ipam_server.state import ClusterState
from ipam_server.term import Term
from ipam_server.views import AddressFilter
from netspace import messages as m
from netspace.callers import current
from netspace.problems import Problem
from statestore import Compare, Delete, KeyValue, Put, StoreError

CHUNK, ROOM = 100, 4
"""How many keys one transaction deletes at most, and how many operations it has besides."""

SHOWN, STEPS = 100, 50
"""Addresses of a page that are put together in one step, and how many steps a page may take."""

encode = msgspec.json.encode


class ClusterService(Namespaces):
    """One cluster, as seen by this server."""

    # Networks

    async def networks(self) -> list[m.Network]:
        state = self.state
        return [views.network(state, name) for name in sorted(state.networks)]

    async def network(self, name: str) -> m.Network:
        state = self.state
        pool_rules.network_of(state, name)
        return views.network(state, name)

    async def create_network(self, new: m.NewNetwork) -> m.Network:
        self._check_network_caller(new.owner)
        record = network_rules.declare(new, str(uuid.uuid4()))

        async def create(term: Term) -> Change:
            if new.name in term.state.networks:
                known = term.state.networks[new.name]
                check_new("network", new.name, known.record.owner, new.owner)
            fabric, stored = await self._fabric(new.fabric)
            fabric = network_rules.joined(fabric, self.name, new.name, record)
            put = Put(term.state.keys.network(new.name), encode(record))
            return self._with_fabric(put, (Compare.absent(put.key),), fabric, stored)

        await self._reshape(create)
        return await self.network(new.name)

    async def change_network(self, name: str, asked: m.ChangeNetwork) -> m.Network:
        self._check_network_caller(asked.owner)

        async def change(term: Term) -> Change:
            known = pool_rules.network_of(term.state, name)
            record = network_rules.change(known, name, asked)
            fabric, stored = await self._fabric(record.fabric)
            fabric = network_rules.joined(fabric, self.name, name, record)
            put = Put(term.state.keys.network(name), encode(record))
            compares = (Compare.modified_at(put.key, known.revision),)
            return self._with_fabric(put, compares, fabric, stored)

        await self._reshape(change)
        return await self.network(name)

    async def delete_network(self, name: str, acting: m.Owner | None = None) -> None:
        """Its releases and the nodes' vmacs go first, a few at a time, then the network itself."""
        self._check_network_caller(acting)

        def known_of(term: Term) -> NetworkState:
            known = pool_rules.network_of(term.state, name)
            pools = [p for p in term.state.pools.values() if p.record.network == name]
            network_rules.check_delete(name, known, pools, acting)
            return known

        async def forget(term: Term) -> None:
            keys = term.state.keys
            # Looked at each time: a pool may be made meanwhile, and its slots rest.
            while some := list(islice(known_of(term).released, CHUNK)):
                await self._delete(term, [keys.released((name, i)) for i in some])

        async def delete(term: Term) -> Change:
            known = known_of(term)
            fabric, stored = await self._fabric(known.record.fabric)
            fabric = network_rules.left(fabric, self.name, name)
            keys = term.state.keys
            vmacs = [i for (network, _), i in term.state.vmacs.items() if network == name]
            await self._delete(term, [keys.slot((name, i)) for i in sorted(vmacs)])
            await forget(term)
            key = keys.network(name)
            compares = (
                Compare.modified_at(key, known.revision),
                Compare.modified_at(fabric_key(fabric.name), stored.mod_revision if stored else 0),
            )
            put = Put(fabric_key(fabric.name), encode(fabric))
            return Change(compares, (Delete(key), put), key, None, shared=True)

        # There may be very many. Without a pool nobody can get these slots, so all others go on.
        term = await self._open()
        await self._finish(forget(term))
        await self._reshape(delete)

    async def hand_over_network(self, name: str, owner: m.Owner | None) -> m.Network:
        """The network is this owner's from now on."""

        async def hand_over(term: Term) -> Change:
            known = pool_rules.network_of(term.state, name)
            record = msgspec.structs.replace(known.record, owner=owner)
            put = Put(term.state.keys.network(name), encode(record))
            return Change(
                (Compare.modified_at(put.key, known.revision),), (put,), put.key, put.value
            )

        await self._reshape(hand_over)
        return await self.network(name)

    def _check_network_caller(self, acting: m.Owner | None) -> None:
        """Networks lie in fabrics that clusters share: not every installation lets controllers make
        them."""
        caller = current()
        check_acting(caller, acting, "change networks")
        if caller.role == "controller" and not self._limits.controller_networks:
            raise Problem(
                "forbidden",
                f"{caller} may not change networks: this server leaves them to admins",
                do="have an admin do it, or set controller_networks in the servers' configuration",
            )

    async def _fabric(self, name: str) -> tuple[FabricRecord, KeyValue | None]:
        """A fabric as etcd has it now; the default one need not have been made."""
        try:
            stored = await self._store.get(fabric_key(name))
        except StoreError as error:
            raise Problem("state-unavailable", str(error), retry_after=1) from None
        if stored is None:
            if name != "default":
                raise Problem("not-found", f"there is no fabric {name}", do="create it first")
            return FabricRecord(name=name), None
        return msgspec.json.decode(stored.value, type=FabricRecord), stored

    def _with_fabric(
        self,
        put: Put,
        compares: tuple[Compare, ...],
        fabric: FabricRecord,
        stored: KeyValue | None,
    ) -> Change:
        """Every cluster has a leader of its own, so the fabric's revision is compared as well."""
        key = fabric_key(fabric.name)
        compares = (*compares, Compare.modified_at(key, stored.mod_revision if stored else 0))
        return Change(compares, (put, Put(key, encode(fabric))), put.key, put.value, shared=True)

    async def dissolve(self) -> None:
        """Deletes all that is stored of a cluster without networks, its place in the catalogue
        last; from then on nothing more is written here but the clock."""

        async def delete(term: Term) -> Change:
            if term.state.networks:
                shown = ", ".join(sorted(term.state.networks)[:5])
                raise Problem(
                    "in-use",
                    f"cluster {self.name} has networks: {shown}",
                    do="delete them first",
                )
            keys = term.state.keys
            state = term.state
            stored = [*state.strays, *state.audit, *map(keys.node, state.nodes)]
            stored += map(keys.absences, state.absences)
            stored += map(keys.fenced, state.fenced)
            stored += map(keys.namespace, state.namespaces)
            stored += [keys.buried(at, claimed) for claimed, at in state.buried.items()]
            await self._delete(term, stored)
            entry = catalogue(self.name)
            return Change((), (Delete(entry),), entry, None)

        await self._reshape(delete, last=True)

    async def _delete(self, term: Term, keys: list[bytes]) -> None:
        """Deletes keys a few at a time: one very large delete keeps etcd slow for minutes."""
        chunk = min(CHUNK, self._limits.max_operations - ROOM)
        for at in range(0, len(keys), chunk):
            gone = tuple(map(Delete, keys[at : at + chunk]))
            await self._commit(term, Change((), gone, gone[0].key, None))

    async def pools(self) -> list[m.Pool]:
        state = self.state
        known = sorted(state.pools.values(), key=lambda pool: pool.name)
        return [views.pool(state, pool, self.now()) for pool in known]

    async def pool(self, name: str) -> m.Pool:
        return views.pool(self.state, self._pool(self.state, name), self.now())

    async def create_pool(self, new: m.NewPool) -> m.Pool:
        check_acting(current(), new.owner, "make pools")

        async def create(term: Term) -> Change:
            record = pool_rules.carve(term.state, new, term.clock.now())
            put = Put(term.state.keys.pool(new.name), encode(record))
            return Change((Compare.absent(put.key),), (put,), put.key, put.value)

        await self._reshape(create)
        return await self.pool(new.name)

    async def change_pool(self, name: str, asked: m.ChangePool) -> m.Pool:
        check_acting(current(), asked.owner, "change pools")

        async def change(term: Term) -> Change:
            pool = self._pool(term.state, name)
            record = pool_rules.change(term.state, pool, asked)
            return resizing(term.state.keys, sized(term.state, pool, record, term.clock.now()))

        await self._reshape(change)
        return await self.pool(name)

    async def grow_pool(self, name: str, asked: m.ResizePool) -> m.Pool:
        check_acting(current(), asked.owner, "change pools")
        return await self._rewrite_pool(
            name,
            lambda term, pool: encode(pool_rules.grow(term.state, pool, asked, term.clock.now())),
        )

    async def shrink_pool(self, name: str, asked: m.ResizePool) -> m.Pool:
        check_acting(current(), asked.owner, "change pools")
        return await self._rewrite_pool(
            name,
            lambda term, pool: encode(pool_rules.shrink(term.state, pool, asked, term.clock.now())),
        )

    async def hand_over_pool(self, name: str, owner: m.Owner | None) -> m.Pool:
        """The pool is this owner's from now on."""
        return await self._rewrite_pool(
            name, lambda _, pool: encode(msgspec.structs.replace(pool.record, owner=owner))
        )

    async def delete_pool(self, name: str, acting: m.Owner | None = None) -> None:
        check_acting(current(), acting, "delete pools")

        async def delete(term: Term) -> Change:
            pool = self._pool(term.state, name)
            pool_rules.check_delete(term.state, pool, acting)
            key = term.state.keys.pool(name)
            compares = (Compare.modified_at(key, pool.revision),)
            return Change(compares, (Delete(key),), key, None)

        await self._reshape(delete)

    async def _rewrite_pool(self, name: str, value: Callable[[Term, PoolState], bytes]) -> m.Pool:
        async def rewrite(term: Term) -> Change:
            pool = self._pool(term.state, name)
            put = Put(term.state.keys.pool(name), value(term, pool))
            compares = (Compare.modified_at(put.key, pool.revision),)
            return Change(compares, (put,), put.key, put.value)

        await self._reshape(rewrite)
        return await self.pool(name)

    def _pool(self, state: ClusterState, name: str) -> PoolState:
        if name not in state.pools:
            raise Problem("not-found", f"cluster {self.name} has no pool {name}")
        return state.pools[name]

    # Addresses

    async def addresses(
        self, wanted: AddressFilter, limit: int, after: str | None
    ) -> m.AddressPage:
        """A page; while it is put together others have their turn."""
        items: list[m.AddressEntry] = []
        for _ in range(STEPS):
            rest = min(limit - len(items), SHOWN)
            page = views.address_page(self.state, wanted, rest, after, self.now())
            items += page.items
            after = page.next
            if after is None or len(items) == limit:
                break
            await asyncio.sleep(0)
        return m.AddressPage(items=items, next=after)

    async def address(self, address: str, network: str | None) -> m.AddressEntry:
        slot = views.find_slot(self.state, address, network)
        return views.address(self.state, slot, self.now())

    async def address_history(self, address: str, network: str | None) -> m.AddressHistory:
        state = self.state
        slot = views.find_slot(state, address, network)
        return await history(self._store, state, slot, self._limits.history_entries)

    async def reserve(self, request: m.Reserve) -> m.AddressEntry:
        slot = views.find_slot(self.state, request.address, request.network)

        async def reserve(term: Term) -> Change:
            if slot[1] not in pool_rules.network_of(term.state, slot[0]).total:
                raise Problem(
                    "address-unusable",
                    f"{request.address} is a gateway, excluded or outside the network's range",
                    do="it is given to nobody as it is",
                )
            held = term.state.held(slot)
            if held is not None:
                raise Problem("address-taken", f"{request.address} is {whose(held)}")
            released = term.state.released(slot)
            past = released.release if released else None
            turn = past.turn + 1 if past else 0
            holder = Holder(note=request.note, since=int(time.time()), turn=turn)
            put = Put(term.state.keys.slot(slot), encode(holder))
            gone = Delete(term.state.keys.released(slot))
            compares = (
                Compare.absent(put.key),
                Compare.modified_at(gone.key, released.revision if released else 0),
            )
            change = Change(compares, (put, gone), put.key, put.value, (slot,))
            return term.remembering(change, slot, past)

        await self._reshape(reserve)
        return await self.address(request.address, request.network)

    async def unreserve(self, address: str, network: str | None) -> None:
        slot = views.find_slot(self.state, address, network)

        async def unreserve(term: Term) -> Change:
            held = term.state.held(slot)
            if held is None or not held.holder.reserved:
                raise Problem("not-found", f"{address} is not reserved")
            if held.holder.vmac:
                node = held.holder.node
                raise Problem(
                    "in-use",
                    f"{address} is the vmac of node {node}",
                    do=f"once the node is gone for good: netspacectl node delete {node}",
                )
            return term.freeing(slot, held)

        await self._reshape(unreserve)

    # Nodes

    async def nodes(self) -> list[m.Node]:
        state = self.state
        names = sorted(state.nodes.keys() | state.used_by.keys() | state.fenced.keys())
        return [node for name in names if (node := views.node(state, name)) is not None]

    async def node(self, name: str) -> m.Node:
        node = views.node(self.state, name)
        if node is None:
            raise Problem("not-found", f"cluster {self.name} knows no node {name}")
        return node

    async def report_node(self, name: str, report: m.NodeReport) -> m.Node:
        network_rules.check_reported(report.networks)
        await self._finish(self._report_node(name, report))
        return await self.node(name)

    async def _report_node(self, name: str, report: m.NodeReport) -> None:
        term = await self._open()
        await self._heard_from(term, name)
        value = encode(
            NodeRecord(version=report.version, links=report.links, networks=report.networks)
        )
        put = Put(term.state.keys.node(name), value)
        await self._commit(term, Change((), (put,), put.key, value))
