"""The pods of a soak as values: who asks, and for what."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from netspace import messages as m
from netspace.slots import Family
from soak import ground
from soak.ground import Pool

NAMESPACES = ("red", "blue", "green")


@dataclass(frozen=True)
class Pod:
    """One attachment under one claim. `pool` None: only the address chooses it. `generation` is
    known once an allocation was answered."""

    container: str
    ifname: str
    claim: str
    node: str
    namespace: str
    name: str
    uid: str
    pool: Pool | None
    ip: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()
    generation: int | None = None
    address: str = ""

    @property
    def attachment(self) -> m.AttachmentId:
        return m.AttachmentId(container=self.container, ifname=self.ifname)

    def request(self, removed: Sequence[str]) -> m.AllocateRequest:
        pool = self.pool
        named = pool is not None and pool.kind != "default"
        return m.AllocateRequest(
            attachment=self.attachment,
            claim=self.claim,
            node=self.node,
            pod=m.Pod(namespace=self.namespace, name=self.name, uid=self.uid),
            selection=m.Selection(
                netspace=pool.name if named and pool and pool.kind == "netspace" else None,
                application=pool.name if named and pool and pool.kind == "application" else None,
                ip=self.ip,
                families=self.families,
            ),
            removed=list(removed),
        )

    def release(self, generation: int | None) -> m.ReleaseRequest:
        return m.ReleaseRequest(
            attachment=self.attachment, node=self.node, claim=self.claim, generation=generation
        )


def new_pod(
    random: Random, client: int, container: str, claim: str, node: str, used: Collection[str]
) -> Pod:
    """A pod of a client that has not been asked for; sometimes under a name that was there before,
    but none of those `used` now, if there are others."""
    pool = random.choices(ground.POOLS, ground.WEIGHTS)[0]
    namespace = random.choice([each for each in NAMESPACES if pool.takes(each)])
    name = ""
    if random.random() < 0.7:
        names = [f"{pool.name}-{client}-{each}" for each in range(5)]
        name = random.choice([each for each in names if each not in used] or names)
    pod = Pod(
        container=container,
        ifname=random.choice(("eth0", "eth0", "eth0", "net1")),
        claim=claim,
        node=node,
        namespace=namespace,
        name=name,
        uid=f"u{random.getrandbits(32):08x}" if name else "",
        pool=pool,
    )
    chance = random.random()
    if chance < 0.1 and pool.name in ("main", "team", "wide"):
        # Few addresses, so that clients ask for the same ones.
        last = pool.span[1]
        addresses = pool.network.address(random.randint(last - 4, last))
        ip = tuple(each for each in addresses if each)
        ip = random.choice((ip, ip[:1], ip[-1:]))
        return dataclasses.replace(pod, ip=ip, pool=random.choice((pool, None)))
    if chance > 0.9 and pool.network is ground.RED:
        families: tuple[Family, ...] = random.choice((("ipv4",), ("ipv6",)))
        return dataclasses.replace(pod, families=families)
    return pod


def lies_in(network: ground.Ground, address: str) -> bool:
    """Whether an address is the network's."""
    try:
        network.index(address)
    except ValueError:
        return False
    return True
