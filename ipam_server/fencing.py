"""Taking in Kubernetes' word on nodes that are fenced, and ending it.

What was said is kept in etcd beside what nodes report, and frees addresses in the same rounds.
"""

from __future__ import annotations

import msgspec

from ipam_server import witnesses
from ipam_server.changes import Change
from ipam_server.reclaiming import Reclaiming
from netspace.callers import current
from netspace.kubernetes import Fencing, NodeFencing
from netspace.problems import Problem
from statestore import Put


class Fences(Reclaiming):
    """See the module."""

    async def fencing(self, node: str) -> NodeFencing:
        """What is known of a fenced node."""
        state, now = self.state, self.now()
        told = state.fenced.get(node)
        if told is None:
            raise Problem("not-found", f"node {node} of cluster {self.name} is not fenced")
        return NodeFencing(
            node=node,
            why=told.record.why,
            revision=state.revision,
            held=state.used_by.get(node, 0),
            gone=len(told.record.gone),
            since=max(0, now - told.record.began) / 1000,
            last=max(0, now - told.record.at) / 1000,
        )

    async def fence(self, node: str, asked: Fencing) -> NodeFencing:
        """Takes Kubernetes' word on a node in."""
        await self._finish(self._fence(node, asked))
        return await self.fencing(node)

    async def unfence(self, node: str) -> None:
        """Ends it; nothing to end is success."""
        await self._finish(self._unfence(node))

    async def _fence(self, node: str, asked: Fencing) -> None:
        async with self._locks.hold(("node", node, "")):
            term = await self._open()
            state = term.state
            if not any(node in known for known in (state.nodes, state.used_by, state.fenced)):
                raise Problem("not-found", f"cluster {self.name} knows no node {node}")
            record = witnesses.fenced(state, node, asked, term.clock.now())
            put = Put(state.keys.fenced(node), msgspec.json.encode(record))
            change = Change((), (put,), put.key, put.value)
            await self._commit_audited(term, change, f"fencing by {current()}")

    async def _unfence(self, node: str) -> None:
        async with self._locks.hold(("node", node, "")):
            await self._heard_from(await self._open(), node)
