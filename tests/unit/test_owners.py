"""Whose a network or a pool is: nobody changes what is another's, and is told whose it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import msgspec
import pytest

from ipam_server import networks as network_rules
from ipam_server import pools as pool_rules
from ipam_server.owners import check_acting, check_owner
from ipam_server.records import NetworkRecord, PoolRecord
from netspace.callers import Caller
from netspace.messages import ChangeNetwork, ChangePool, NewNetwork, NewPool, Owner, ResizePool
from netspace.problems import Problem
from tests.unit.cluster_world import World

OWNERS: tuple[Owner | None, ...] = (None, *get_args(Owner))


def world(owner: Owner | None) -> World:
    made = World()
    made.add_network(NewNetwork(name="red", vlan=910, ipv4="10.0.0.0/24", owner=owner))
    made.add_pool(
        NewPool(
            name="team", kind="netspace", network="red", size="32", namespaces=["a"], owner=owner
        )
    )
    return made


CHANGES: dict[str, Callable[[World, Owner | None], object]] = {
    "change a network": lambda w, acting: network_rules.change(
        w.network("red"), "red", ChangeNetwork(mtu=9000, owner=acting)
    ),
    "delete a network": lambda w, acting: network_rules.check_delete(
        "red", w.network("red"), [], acting
    ),
    "change a pool": lambda w, acting: pool_rules.change(
        w.state, w.pool("team"), ChangePool(cooldown=1, owner=acting)
    ),
    "grow a pool": lambda w, acting: pool_rules.grow(
        w.state, w.pool("team"), ResizePool(size="1", owner=acting), 0
    ),
    "shrink a pool": lambda w, acting: pool_rules.shrink(
        w.state, w.pool("team"), ResizePool(size="1", owner=acting), 0
    ),
    "delete a pool": lambda w, acting: pool_rules.check_delete(w.state, w.pool("team"), acting),
}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("acting", OWNERS)
@pytest.mark.parametrize("change", CHANGES)
def test_only_its_owner_changes_a_thing(
    change: str, acting: Owner | None, owner: Owner | None
) -> None:
    if owner == acting:
        CHANGES[change](world(owner), acting)
        return
    with pytest.raises(Problem) as caught:
        CHANGES[change](world(owner), acting)
    assert caught.value.code == "owned"
    name = change.rpartition(" ")[2]
    if owner == "kubernetes":
        assert f"{name}s.ipam.netspace.io/" in caught.value.detail and "kubectl" in caught.value.do
    else:
        assert "netspacectl" in caught.value.do


@pytest.mark.parametrize("owner", OWNERS)
def test_a_name_that_is_there_is_told_apart_from_one_that_is_anothers(owner: Owner | None) -> None:
    for acting in OWNERS:
        with pytest.raises(Problem) as caught:
            world(owner).add_pool(
                NewPool(name="team", kind="netspace", network="red", size="1", owner=acting)
            )
        assert caught.value.code == ("exists" if acting == owner else "owned")


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("inner", OWNERS)
def test_a_pool_nests_in_anybodys_pool(owner: Owner | None, inner: Owner | None) -> None:
    made = world(owner)
    new = NewPool(
        name="db", kind="application", network="red", parent="team", size="4", owner=inner
    )
    assert made.add_pool(new).owner == inner
    assert made.pool("team").record.owner == owner


def test_a_controller_acts_for_kubernetes_alone_and_admins_for_both() -> None:
    for caller in (Caller("admin", name="alice"), Caller("local")):
        for acting in OWNERS:
            check_acting(caller, acting, "make pools")
    controller = Caller("controller", "east")
    check_acting(controller, "kubernetes", "make pools")
    with pytest.raises(Problem) as caught:
        check_acting(controller, None, "make pools")
    assert caught.value.code == "forbidden"


def test_what_was_stored_before_there_were_owners_is_peoples() -> None:
    for record in (world(None).network("red").record, world(None).pool("team").record):
        stored = msgspec.to_builtins(record)
        del stored["owner"]
        assert msgspec.convert(stored, type(record)) == record
        assert isinstance(record, (NetworkRecord, PoolRecord))
        check_owner("pool", "team", record.owner, None)
