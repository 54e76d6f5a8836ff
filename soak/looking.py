"""Looking at etcd itself: the cluster's whole state at one revision, as a part of the history."""

from __future__ import annotations

import contextlib

import msgspec

from ipam_server.keys import Keys, slot_id
from ipam_server.records import Holder, PoolRecord, ranges_of, slot_of
from soak.ground import CLUSTER
from soak.history import History, Look, StoredAttachment, StoredPool, StoredSlot
from statestore import Store

KEYS = Keys(CLUSTER)


async def look(
    store: Store, history: History, *, last: bool = False, findings: tuple[str, ...] | None = None
) -> Look:
    """Adds a look to the history. Raises `StoreError` where no member answers in time."""
    invoked, began = history.tick(), history.seconds()
    slots: list[StoredSlot] = []
    attachments: list[StoredAttachment] = []
    released: list[tuple[str, str]] = []
    pools: list[StoredPool] = []
    leader = ""
    revision = 0
    async with contextlib.aclosing(store.pages(KEYS.prefix)) as pages:
        async for page in pages:
            revision = page.revision
            for kv in page.items:
                kind, names = KEYS.parse(kv.key)
                if kind == "leader":
                    leader = name_of(kv.value)
                elif kind == "pools":
                    pools.append(_pool(names[0], kv.value))
                elif kind == "slots":
                    slots.append(_stored(names, kv.value, kv.mod_revision))
                elif kind == "released":
                    network, index = slot_id(names)
                    released.append((network, str(index)))
                elif kind == "attachments":
                    network, index = slot_of(kv.value)
                    attachments.append(
                        StoredAttachment(
                            container=names[0], ifname=names[1], network=network, slot=str(index)
                        )
                    )
    seen = Look(
        invoked=invoked,
        began=began,
        completed=history.tick(),
        ended=history.seconds(),
        revision=revision,
        leader=leader,
        slots=tuple(slots),
        attachments=tuple(attachments),
        released=tuple(released),
        last=last,
        pools=tuple(pools),
        findings=findings,
    )
    history.looks.append(seen)
    return seen


def _stored(names: tuple[str, ...], value: bytes, generation: int) -> StoredSlot:
    network, index = slot_id(names)
    holder = msgspec.json.decode(value, type=Holder)
    return StoredSlot(
        network=network,
        slot=str(index),
        generation=generation,
        container=holder.container,
        ifname=holder.ifname,
        claim=holder.claim,
        namespace=holder.namespace,
        pod=holder.pod,
        pool=holder.pool,
        node=holder.node,
    )


def _pool(name: str, value: bytes) -> StoredPool:
    record = msgspec.json.decode(value, type=PoolRecord)
    return StoredPool(
        name=name,
        network=record.network,
        parent=record.parent,
        ranges=tuple((str(first), str(last)) for first, last in ranges_of(record).intervals),
        needs=0 if record.replicas is None else max(1, record.replicas + record.surplus),
    )


def name_of(value: bytes) -> str:
    """The leader's name, from the value of its key."""
    return str(msgspec.json.decode(value)["name"])
