"""What a namespace chooses: weighed between its pods and the configuration. The random order of all
of it is in `test_allocation_rules.py`."""

from __future__ import annotations

import msgspec
import pytest

from ipam_server.namespaces import recorded
from netspace.messages import NewNetwork, NewPool, Selection
from netspace.problems import Problem
from tests.unit.cluster_world import World, ask


def world(**chosen: object) -> World:
    made = World()
    made.add_network(NewNetwork(name="red", ipv4="10.0.0.0/24", ipv6="fd00::/64"))
    for name in ("team", "own", "conf"):
        made.add_pool(
            NewPool(name=name, kind="netspace", network="red", size="8", namespaces=["shop"])
        )
    made.add_pool(NewPool(name="main", kind="default", network="red", size="8"))
    record = recorded(msgspec.convert(chosen, Selection))
    made.put(made.keys.namespace("shop"), msgspec.json.encode(record))
    return made


def pool_of(made: World, **asked: object) -> str:
    index, _ = made.allocate(ask("c1", "web-0", namespace="shop", **asked))  # type: ignore[arg-type]
    held = made.state.held(("red", index))
    assert held is not None
    return held.holder.pool


def test_the_pods_choice_comes_first_then_the_namespaces_then_the_configurations() -> None:
    own, conf = Selection(netspace="own"), Selection(netspace="conf")
    assert pool_of(world(netspace="team"), selection=own, default=conf) == "own"
    assert pool_of(world(netspace="team"), default=conf) == "team"
    assert pool_of(world(families=["ipv4"]), default=conf) == "conf"
    assert pool_of(world(families=["ipv4"])) == "main"


def test_families_are_weighed_apart_from_the_pool() -> None:
    made = world(families=["ipv6"])
    index, _ = made.allocate(ask("c1", "web-0", namespace="shop"))
    held = made.state.held(("red", index))
    assert held is not None and held.holder.families == ("ipv6",)


def test_other_namespaces_are_not_touched() -> None:
    made = world(netspace="team")
    index, _ = made.allocate(ask("c1", "web-0", namespace="bank"))
    held = made.state.held(("red", index))
    assert held is not None and held.holder.pool == "main"


def test_a_choice_that_cannot_be_had_names_the_namespace() -> None:
    for chosen, code in (("nowhere", "pool-unknown"), ("closed", "pool-forbidden")):
        made = world(netspace=chosen)
        made.add_pool(
            NewPool(name="closed", kind="netspace", network="red", size="1", namespaces=["bank"])
        )
        with pytest.raises(Problem) as caught:
            pool_of(made)
        assert caught.value.code == code
        assert "which namespace shop chooses by default" in caught.value.detail


@pytest.mark.parametrize(
    "chosen", [{"ip": ["10.0.0.5"]}, {"netspace": "team", "ip": ["fd00::5"]}, {}]
)
def test_a_namespace_chooses_no_address_and_not_nothing(chosen: dict[str, object]) -> None:
    with pytest.raises(Problem) as caught:
        recorded(msgspec.convert(chosen, Selection))
    assert caught.value.code == "invalid"
