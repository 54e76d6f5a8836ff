"""Histories made by hand or by a correct model, for the soak's checker."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from soak import ground
from soak.history import (
    Answer,
    Freed,
    History,
    Kind,
    Live,
    Look,
    Operation,
    Outcome,
    Setting,
    StoredAttachment,
    StoredPool,
    StoredSlot,
)


@dataclass(frozen=True)
class Place:
    """A slot at a generation; `pool` where it lies in one that moves."""

    network: str
    slot: int
    generation: int
    pool: str = ""

    @property
    def owner(self) -> ground.Pool | None:
        return ground.BY_NAME.get(self.pool) or ground.owner(self.network, self.slot)


def answer(place: Place, how: str = "never", **changes: Any) -> Answer:
    """What a correct server answers for a place, with changes."""
    owner = place.owner
    assert owner is not None
    ipv4, ipv6 = owner.network.address(place.slot)
    fields: dict[str, Any] = {
        "pool": owner.name,
        "network": place.network,
        "slot": str(place.slot),
        "generation": place.generation,
        "ipv4": ipv4,
        "ipv6": ipv6,
        "how": how,
    }
    return Answer(**(fields | changes))


class Scene(History):
    """A history that is told step by step; every step takes `pace` seconds."""

    def __init__(self, pace: float = 0.01) -> None:
        super().__init__(Setting(seed=0, servers=1, members=1, minutes=0))
        self._pace, self._now = pace, 0.0

    def seconds(self) -> float:  # type: ignore[override]
        self._now += self._pace
        return self._now

    def wait(self, seconds: float) -> None:
        self._now += seconds

    def asks(self, kind: Kind, container: str, claim: str = "1", **asked: Any) -> Operation:
        """An operation begins."""
        fields = {"ifname": "eth0", "pool": "tiny", "namespace": "red", "node": "n1"} | asked
        return self.begin(
            Operation(
                number=0,
                client=0,
                kind=kind,
                container=container,
                claim=claim,
                invoked=0,
                began=0,
                **fields,
            )
        )

    def does(
        self,
        kind: Kind,
        container: str,
        claim: str = "1",
        outcome: Outcome = "ok",
        told: Answer | None = None,
        **asked: Any,
    ) -> Operation:
        """An operation from beginning to end."""
        operation = self.asks(kind, container, claim, **asked)
        self.end(operation, outcome, told)
        return operation

    def gives(self, container: str, place: Place, claim: str = "1", **asked: Any) -> Operation:
        return self.does("allocate", container, claim, "ok", answer(place), **asked)

    def frees(self, container: str, claim: str = "1", released: bool = True) -> Operation:
        return self.does("release", container, claim, "ok", Answer(released=released))

    def reports(self, node: str, *alive: str, seen: int = 1000, outcome: Outcome = "ok") -> None:
        """A node says which containers are alive on it, having seen a revision."""
        live = tuple(Live(container, "eth0", 0) for container in alive)
        asked: dict[str, Any] = {"claim": "", "node": node, "live": live, "seen": seen}
        self.does("report", "", outcome=outcome, **asked)

    def reclaims(self, *gone: tuple[str, Place]) -> None:
        """A round of reclaiming and what it freed."""
        freed = tuple(
            Freed(place.network, str(place.slot), place.generation, container, "eth0")
            for container, place in gone
        )
        self.does("reclaim", "", claim="", freed=freed)

    def lays(self, *pools: StoredPool, held: tuple[tuple[str, Place], ...] = ()) -> Look:
        """A look at where pools lie."""
        look = self.sees(*held)
        look.pools = pools
        return look

    def sees(
        self,
        *held: tuple[str, Place],
        claim: str = "1",
        attachments: tuple[tuple[str, Place], ...] | None = None,
        released: tuple[tuple[str, str], ...] = (),
        last: bool = False,
    ) -> Look:
        """A look at etcd; every holder has its attachment unless told otherwise."""
        stored = [(container, claim, place) for container, place in held]
        return self.looks_at(stored, held if attachments is None else attachments, released, last)

    def looks_at(
        self,
        held: list[tuple[str, str, Place]],
        attachments: tuple[tuple[str, Place], ...],
        released: tuple[tuple[str, str], ...] = (),
        last: bool = False,
    ) -> Look:
        invoked, began = self.tick(), self.seconds()
        slots = []
        for container, claim, place in held:
            owner = place.owner
            slots.append(
                StoredSlot(
                    network=place.network,
                    slot=str(place.slot),
                    generation=place.generation,
                    container=container,
                    ifname="eth0",
                    claim=claim,
                    namespace="red",
                    pod="",
                    pool=owner.name if owner else "gone",
                )
            )
        look = Look(
            invoked=invoked,
            began=began,
            completed=self.tick(),
            ended=self.seconds(),
            revision=invoked,
            leader="s1",
            slots=tuple(slots),
            attachments=tuple(
                StoredAttachment(
                    container=container, ifname="eth0", network=place.network, slot=str(place.slot)
                )
                for container, place in attachments
            ),
            released=released,
            last=last,
        )
        self.looks.append(look)
        return look


def lying(name: str, *ranges: tuple[int, int], needs: int = 0) -> StoredPool:
    """A pool of the soak at these slots."""
    pool = ground.BY_NAME[name]
    spans = tuple((str(first), str(last)) for first, last in ranges)
    return StoredPool(
        name=name, network=pool.network.name, parent=pool.parent, ranges=spans, needs=needs
    )


@dataclass
class Tenant:
    container: str
    claim: str
    generation: int
    pod: str


@dataclass
class Model:
    """A correct server over the pool `tiny`, and clients that ask it in any order; a request takes
    effect at some moment after it was sent, that of a lost one at any later one, or never."""

    random: Random
    scene: Scene = field(default_factory=Scene)
    held: dict[int, Tenant] = field(default_factory=dict)
    dead: set[tuple[str, str]] = field(default_factory=set)
    revision: int = 10
    flying: list[Operation] = field(default_factory=list)
    late: list[Operation] = field(default_factory=list)
    done: dict[int, tuple[Outcome, Answer | None]] = field(default_factory=dict)
    known: list[tuple[str, str, str]] = field(default_factory=list)
    given_up: set[tuple[str, str]] = field(default_factory=set)
    answered: set[tuple[str, str]] = field(default_factory=set)
    containers: int = 0

    def run(self, steps: int) -> Scene:
        for _ in range(steps):
            self.random.choice((self.ask, self.ask, self.work, self.work, self.answer, self.look))()
        while self.flying:
            self.work()
            self.answer()
        self.late.clear()
        for container, claim, _ in self.known:
            self.flying.append(self.scene.asks("release", container, claim))
            self.work()
            self.answer()
            self.look()
        self.look(last=True)
        return self.scene

    def ask(self) -> None:
        open_claims = [each for each in self.known if each[:2] not in self.given_up]
        choice = self.random.random()
        if choice < 0.4 or not open_claims:
            self.containers += 1
            pod = self.random.choice(("", "web"))
            self._allocate(f"c{self.containers}", "1", pod)
            return
        container, claim, pod = self.random.choice(open_claims)
        if choice < 0.5:
            self._allocate(container, claim, pod)
        elif choice < 0.6 and pod:
            self.containers += 1
            self._allocate(f"c{self.containers}", "1", pod, (container,))
        elif choice < 0.7 and (container, claim) in self.answered:
            self.given_up.add((container, claim))
            self._allocate(container, f"{claim}1", pod)
        else:
            self.given_up.add((container, claim))
            self.flying.append(self.scene.asks("release", container, claim))

    def _allocate(
        self, container: str, claim: str, pod: str, removed: tuple[str, ...] = ()
    ) -> None:
        self.known.append((container, claim, pod))
        self.flying.append(self.scene.asks("allocate", container, claim, pod=pod, removed=removed))

    def work(self) -> None:
        """One request takes effect."""
        waiting = [each for each in self.flying if each.number not in self.done]
        if self.late and self.random.random() < 0.3:
            self._effect(self.late.pop())
        elif waiting:
            each = self.random.choice(waiting)
            self.done[each.number] = self._effect(each)

    def answer(self) -> None:
        """One request ends, one way or another."""
        if not self.flying:
            return
        each = self.flying.pop(self.random.randrange(len(self.flying)))
        outcome, told = self.done.get(each.number, ("unknown", None))
        if each.number not in self.done:
            if self.random.random() < 0.5:
                outcome = "failed"
            else:
                self.late.append(each)
        elif self.random.random() < 0.3:
            outcome, told = "unknown", None
        self.scene.end(each, outcome, told)
        if outcome == "ok" and each.kind == "allocate":
            self.answered.add((each.container, each.claim))

    def look(self, last: bool = False) -> None:
        places = [
            (each.container, each.claim, Place("red", slot, each.generation))
            for slot, each in self.held.items()
        ]
        attachments = tuple((container, place) for container, _, place in places)
        self.scene.looks_at(places, attachments, last=last)

    def _effect(self, each: Operation) -> tuple[Outcome, Answer | None]:
        claim = each.container, each.claim
        mine = [(s, t) for s, t in self.held.items() if t.container == each.container]
        if each.kind == "release":
            self.dead.add(claim)
            if mine and mine[0][1].claim == each.claim:
                del self.held[mine[0][0]]
                self.revision += 1
                return "ok", Answer(released=True)
            return "ok", Answer(released=False)
        if claim in self.dead:
            return "refused", None
        if mine and mine[0][1].claim == each.claim:
            return "ok", answer(Place("red", mine[0][0], mine[0][1].generation), "repeated")
        gone = [
            slot
            for slot, tenant in self.held.items()
            if tenant.container in each.removed and tenant.pod and tenant.pod == each.pod
        ]
        free = [slot for slot in (10, 11, 12) if slot not in self.held]
        slots = [slot for slot, _ in mine] or gone or free
        if not slots:
            return "refused", None
        if before := self.held.get(slots[0]):
            # What was superseded never comes back.
            self.dead.add((before.container, before.claim))
        self.revision += 1
        self.held[slots[0]] = Tenant(each.container, each.claim, self.revision, each.pod)
        return "ok", answer(Place("red", slots[0], self.revision))
