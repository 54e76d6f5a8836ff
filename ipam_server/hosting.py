"""What belongs to nodes themselves: the vmac of each on a network, and forgetting a node.

A vmac's slot is a reservation with a node's name. It lies in no pool, so that no pod's choice ever
comes to it, and stays until the node or an admin gives it back, whatever the node reports.
"""

from __future__ import annotations

import time

import msgspec

from ipam_server import views
from ipam_server.changes import Change
from ipam_server.fencing import Fences
from ipam_server.keys import SlotId
from ipam_server.pools import network_of, total_free
from ipam_server.records import Holder
from ipam_server.state import ClusterState
from ipam_server.term import Term
from netspace import messages as m
from netspace.problems import Problem
from netspace.ranges import Ranges
from statestore import Compare, Delete, Put

NOTE = "vmac"
"""The note of a vmac's holder, as people see it."""


def choose(state: ClusterState, network: str, node: str) -> SlotId:
    """The slot of a new vmac: the last of the total pool that lies in no pool and nobody holds,
    since pools are carved from the front. `Problem` no-space where there is none."""
    known = network_of(state, network)
    free = total_free(state, network)
    held = Ranges((index, index) for index in known.touched(free) if index in known.held)
    unsure = Ranges(
        (slot[1], slot[1]) for slot in (*state.disputed, *state.taken) if slot[0] == network
    )
    left = free - held - unsure
    if not left:
        raise Problem(
            "no-space",
            f"every address of network {network} lies in a pool or is reserved, and node {node}"
            " needs one of its own there for its vmac",
            do="shrink a pool by one address for each node (netspacectl pool shrink), or give the"
            " node's VLAN interface an address of its own",
        )
    return network, left.last


class Hosting(Fences):
    """See the module."""

    async def vmac(self, network: str, node: str) -> m.Vmac:
        """The slot of the node's vmac on the network, given if it has none yet."""
        term = await self._open()
        network_of(term.state, network)
        if (network, node) not in term.state.vmacs:

            async def give(term: Term) -> Change:
                if (network, node) in term.state.vmacs:
                    raise Problem("exists", f"node {node} has its vmac on {network} already")
                slot = choose(term.state, network, node)
                released = term.state.released(slot)
                past = released.release if released else None
                holder = Holder(
                    node=node,
                    note=NOTE,
                    since=int(time.time()),
                    turn=past.turn + 1 if past else 0,
                )
                put = Put(term.state.keys.slot(slot), msgspec.json.encode(holder))
                gone = Delete(term.state.keys.released(slot))
                compares = (
                    Compare.absent(put.key),
                    Compare.modified_at(gone.key, released.revision if released else 0),
                )
                change = Change(compares, (put, gone), put.key, put.value, (slot,))
                return term.remembering(change, slot, past)

            try:
                await self._reshape(give)
            except Problem as problem:
                # Asked for twice at once: the other one gave it.
                if problem.code != "exists":
                    raise
        return self._vmac(network, node)

    async def free_vmac(self, network: str, node: str) -> None:
        """Ends it; nothing to end is success."""

        async def free(term: Term) -> Change:
            index = term.state.vmacs[network, node]
            held = term.state.held((network, index))
            assert held is not None
            return term.freeing((network, index), held)

        term = await self._open()
        if (network, node) in term.state.vmacs:
            await self._reshape(free)

    async def forget_node(self, node: str) -> None:
        """Ends its vmacs and forgets what it reported. Refuses while it holds pods' addresses."""
        term = await self._open()
        used = term.state.used_by.get(node, 0)
        if used:
            raise Problem(
                "in-use",
                f"{used} addresses are held by pods of node {node}",
                do=f"release them first; netspacectl address list --node {node} shows them",
            )
        places = sorted(place for place in term.state.vmacs if place[1] == node)
        keys = term.state.keys
        state = term.state
        known = any(node in each for each in (state.nodes, state.absences, state.fenced))
        if not places and not known:
            raise Problem("not-found", f"cluster {self.name} knows no node {node}")
        for network, _ in places:
            await self.free_vmac(network, node)

        async def forget(term: Term) -> Change:
            key = keys.node(node)
            said = (Delete(keys.absences(node)), Delete(keys.fenced(node)))
            return Change((), (Delete(key), *said), key, None)

        await self._reshape(forget)

    def _vmac(self, network: str, node: str) -> m.Vmac:
        state = self.state
        slot = network, state.vmacs[network, node]
        held = state.held(slot)
        assert held is not None
        ipv4, ipv6 = views.addresses(state.networks[network].slots, slot[1])
        return m.Vmac(
            network=network,
            node=node,
            slot=str(slot[1]),
            generation=held.generation,
            ipv4=ipv4,
            ipv6=ipv6,
        )
