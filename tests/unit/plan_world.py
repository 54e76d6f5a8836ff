"""Address plans over the server's own rules, with a dict in place of etcd.

`python -m tests.unit.plan_world` draws the example, conf/plan.yaml, into docs/address-plan.svg.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ipam_server import pools as pool_rules
from ipam_server import views
from ipam_server.networks import check_delete, joined, left
from ipam_server.records import FabricRecord
from netspace.messages import Cluster
from netspace.problems import Problem
from netspacectl.address_plan import declared, difference, figures
from netspacectl.address_plan.declared import Declared, Source
from netspacectl.address_plan.difference import Difference, Step
from netspacectl.address_plan.picture import svg
from netspacectl.address_plan.present import Present, PresentCluster
from tests.unit.cluster_world import World

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "conf" / "plan.yaml"
PICTURE = ROOT / "docs" / "address-plan.svg"
USED = {"default": 30, "tenant-a": 20, "orders-db": 3, "tenant-b": 6, "vms": 40, "batch": 9}
"""How many addresses are in use in the picture of the example."""


class PlanWorld:
    """Clusters and fabrics. `run` does what the server does when a step's request reaches it."""

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}
        self.fabrics: dict[str, FabricRecord] = {}

    def present(self) -> Present:
        return Present(
            fabrics={name: views.fabric(record) for name, record in self.fabrics.items()},
            clusters={
                name: PresentCluster(
                    Cluster(
                        name=name,
                        leader="server-1",
                        networks=len(world.state.networks),
                        pools=len(world.state.pools),
                        used=sum(len(n.held) for n in world.state.networks.values()),
                    ),
                    {key: views.network(world.state, key) for key in sorted(world.state.networks)},
                    {
                        key: views.pool(world.state, pool, world.now)
                        for key, pool in sorted(world.state.pools.items())
                    },
                )
                for name, world in sorted(self.worlds.items())
            },
        )

    def hand_over(self, cluster: str, kind: str, name: str) -> None:
        """From now on it is the Kubernetes object of its name."""
        world = self.worlds[cluster]
        if kind == "pool":
            world.rewrite(
                name, msgspec.structs.replace(world.pool(name).record, owner="kubernetes")
            )
        else:
            record = msgspec.structs.replace(world.network(name).record, owner="kubernetes")
            world.put(world.keys.network(name), msgspec.json.encode(record))

    def apply(self, wanted: Declared, *, prune: bool = False) -> Difference:
        """Carries the difference out unless something is refused."""
        found = difference.difference(self.present(), wanted, prune=prune)
        if not found.refused:
            for step in found.steps:
                self.run(step)
        return found

    def run(self, step: Step) -> None:
        kind, cluster, name = step.thing
        request: Any = step.request
        if request is not None:
            request = msgspec.json.decode(msgspec.json.encode(request), type=type(request))
        match step.action, kind:
            case "create", "fabric":
                self.fabrics[name] = FabricRecord(name=name)
            case "create", "cluster":
                self.worlds[name] = World(name)
            case "create", "network":
                assert name not in self.worlds[cluster].state.networks
                record = self.worlds[cluster].add_network(request)
                fabric = self.fabrics.get(record.fabric)
                if fabric is None:
                    assert record.fabric == "default"
                    fabric = FabricRecord(name="default")
                self.fabrics[record.fabric] = joined(fabric, cluster, name, record)
            case "change", "network":
                self.worlds[cluster].change_network(name, request)
            case "delete", "network":
                world = self.worlds[cluster]
                inside = [p for p in world.state.pools.values() if p.record.network == name]
                check_delete(name, world.network(name), inside)
                fabric_name = world.network(name).record.fabric
                world.delete(world.keys.network(name))
                self.fabrics[fabric_name] = left(self.fabrics[fabric_name], cluster, name)
            case "create", "pool":
                self.worlds[cluster].add_pool(request)
            case "change", "pool":
                world = self.worlds[cluster]
                world.rewrite(name, pool_rules.change(world.state, world.pool(name), request))
            case "grow", "pool":
                self.worlds[cluster].grow(name, request)
            case "shrink", "pool":
                self.worlds[cluster].shrink(name, request)
            case "delete", "pool":
                world = self.worlds[cluster]
                assert not world.state.children(name)
                pool_rules.check_delete(world.state, world.pool(name))
                world.delete(world.keys.pool(name))
            case _:
                raise AssertionError(step)

    def reserve(self, cluster: str, pool: str, count: int) -> None:
        """Takes the lowest addresses of a pool into use."""
        world = self.worlds[cluster]
        known = world.pool(pool)
        for index in list(known.own.head(count)):
            world.reserve((known.record.network, index))


def plan(text: str) -> Declared:
    """What a file with this text declares."""
    return declared.read([Source("plan.yaml", text.encode())])


def faults(text: str) -> list[str]:
    """The faults of such a file, without its name."""
    try:
        plan(text)
    except Problem as problem:
        return [error.removeprefix("plan.yaml: ") for error in problem.errors]
    return []


def example() -> figures.Plan:
    """The example as it stands, some of it in use."""
    world = PlanWorld()
    world.apply(declared.read([Source(EXAMPLE.name, EXAMPLE.read_bytes())]))
    for cluster, known in world.worlds.items():
        for pool in list(known.state.pools):
            world.reserve(cluster, pool, USED.get(pool, 0))
    return figures.of(world.present())


if __name__ == "__main__":
    PICTURE.write_text(svg(example()))
