"""What a node should have, and the steps that bring it there: nothing is done twice."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.node_config import BondSection, NodeConfig
from cni_plugins.node_state.desired import Desired, Parent, desired, settings
from cni_plugins.node_state.faults import Step, bond_faults, parent_steps, suspects, unwanted
from cni_plugins.records import Record
from cni_plugins.results import Ip, Result, Route
from hostnet import Bond, BondState, Card, Link
from netspace.messages import Network, Pod

CARD = Link(2, "card1", "", "02:00:00:00:00:02", 1500, True, True)
BOND = Link(9, "bond0", "bond", "02:00:00:00:00:02", 1500, True, True)


def network(name: str, parent: str = "bond0", vlan: int | None = 910) -> Network:
    return Network(
        name=name,
        revision=1,
        uid=name,
        fabric="default",
        parent=parent,
        vlan=vlan,
        ipv4="10.1.0.0/24",
        ipv6=None,
        gateway4=None,
        gateway6=None,
        mapping="offset",
        mtu=0,
        range=[],
        exclude=[],
        total="254",
        carved="0",
        used=0,
        reserved=0,
    )


def record(container: str = "c1", **changes: object) -> Record:
    values: dict[str, object] = {
        "state": "held",
        "plugin": "netspace",
        "network": "net",
        "ipam": "netspace-ipam",
        "cluster": "c",
        "node": "n",
        "container": container,
        "ifname": "eth0",
        "netns": "/run/netns/x",
        "pod": Pod(),
        "mac": "02:00:00:00:01:01",
        "master": "bond0",
        "vlan": 910,
        "mode": "bridge",
        "mtu": 1500,
        "sandbox": "boot:1:2",
        "result": Result(
            ips=[Ip(address="10.1.0.5/24", gateway="10.1.0.1")], routes=[Route(dst="0.0.0.0/0")]
        ),
    }
    return Record(**{**values, **changes})  # type: ignore[arg-type]


CONFIG = NodeConfig(cluster="c", bonds=(BondSection(name="bond0", slaves=("card1",)),))


def test_networks_and_records_name_the_links_that_pods_need() -> None:
    found = desired(CONFIG, [network("a"), network("b", vlan=920)], [record(), record("c2")])
    assert found.parents == (
        Parent("bond0", 910, 1500, ("a",), 2),
        Parent("bond0", 920, 0, ("b",), 0),
    )


def test_without_a_server_the_records_keep_what_pods_need() -> None:
    found = desired(CONFIG, None, [record()])
    assert [parent.name for parent in found.parents] == ["bond0.910"]
    assert not found.complete


def test_a_pod_gets_the_routes_with_the_gateways_it_had() -> None:
    (pod,) = desired(CONFIG, [], [record()]).pods
    assert [(route.dst, route.gw) for route in pod.plan.routes] == [("0.0.0.0/0", "10.1.0.1")]


def test_only_held_attachments_with_an_interface_of_ours_are_kept() -> None:
    records = [
        record("c1", state="adding", result=None),
        record("c2", state="releasing"),
        record("c3", plugin="netspace-ipam"),
    ]
    assert desired(CONFIG, [], records).pods == ()


def test_a_bonds_configured_mtu_counts_more_than_what_pods_once_got() -> None:
    config = NodeConfig(
        cluster="c", bonds=(BondSection(name="bond0", slaves=("card1",), mtu=1400),)
    )
    (parent,) = desired(config, [], [record(mtu=9000)]).parents
    assert parent.mtu == 1400


def state(**changes: object) -> BondState:
    card = Card(replace(CARD, master=9), True, False, 0, "")
    options = {"mode": "active-backup", "miimon": 100}
    values = BondState(BOND, "active-backup", "card1", None, (card,), options)
    return replace(values, **changes)  # type: ignore[arg-type]


def test_a_bond_that_is_right_has_no_faults_and_each_fault_is_named() -> None:
    bond = Bond("bond0", ("card1",))
    assert bond_faults(bond, state()) == []
    assert bond_faults(bond, None) == ["it was missing"]
    assert bond_faults(bond, state(cards=())) == ["card1 was not in it"]
    wrong = {"mode": "active-backup", "miimon": 900}
    assert bond_faults(bond, state(options=wrong)) == ["miimon was 900, not 100"]
    assert bond_faults(bond, state(link=replace(BOND, up=False))) == ["it was down"]
    assert bond_faults(replace(bond, mtu=9000), state()) == ["its MTU was 1500, not 9000"]


links = st.builds(
    lambda bond, vlan, vlan_there, vlan_mtu: {
        "bond0": bond,
        **(
            {"bond0.910": replace(vlan, mtu=min(vlan_mtu, bond.mtu), parent=9, vlan_id=910)}
            if vlan_there
            else {}
        ),
    },
    st.builds(Link, st.just(9), st.just("bond0"), st.just("bond"), st.just(""),
              st.sampled_from([1300, 1500, 9000]), st.booleans(), st.booleans()),
    st.builds(Link, st.just(11), st.just("bond0.910"), st.just("vlan"), st.just(""),
              st.just(0), st.booleans(), st.booleans()),
    st.booleans(),
    st.sampled_from([1300, 1500, 9000]),
)  # fmt: skip
parents = st.builds(
    Parent,
    st.just("bond0"),
    st.sampled_from([None, 910]),
    st.sampled_from([0, 1400, 1500, 9000]),
    st.just(()),
    st.just(1),
)


def taken(links: dict[str, Link], made: dict[str, int], step: Step) -> None:
    """What the kernel does: a VLAN begins with its master's MTU and goes down with it."""
    if step.act == "make":
        master = links["bond0"]
        links[step.name] = Link(11, step.name, "vlan", "", master.mtu, True, True, 9, vlan_id=910)
        made[step.name] = 11
    elif step.act == "up":
        links[step.name] = replace(links[step.name], up=True)
    else:
        links[step.name] = replace(links[step.name], mtu=step.value)


@given(links, parents, st.booleans())
def test_what_is_put_right_needs_nothing_more(
    links: dict[str, Link], parent: Parent, own: bool
) -> None:
    made = {"bond0.910": 11} if own and "bond0.910" in links else {}
    for step in parent_steps(parent, links, made):
        taken(links, made, step)
    assert parent_steps(parent, links, made) == ()
    assert links[parent.name].up
    assert links[parent.name].mtu >= parent.mtu


@given(links, parents, st.booleans())
def test_no_mtu_is_ever_lowered(links: dict[str, Link], parent: Parent, own: bool) -> None:
    made = {"bond0.910": 11} if own and "bond0.910" in links else {}
    before = {name: link.mtu for name, link in links.items()}
    for step in parent_steps(parent, links, made):
        taken(links, made, step)
    assert all(links[name].mtu >= mtu for name, mtu in before.items())


def test_a_node_without_the_master_has_nothing_to_do() -> None:
    assert parent_steps(Parent("bond7", 910, 0, ("a",), 0), {"bond0": BOND}, {}) == ()


VLAN = Link(11, "bond0.910", "vlan", "02:00:00:00:00:02", 1500, True, True, 9, vlan_id=910)
NOBODYS = Desired((), (), (), complete=True, busy=False)


def test_a_vlan_of_ours_that_nobody_wants_goes() -> None:
    there = {"bond0": BOND, "bond0.910": VLAN}
    assert unwanted(NOBODYS, there, {"bond0.910": 11}, {}) == (VLAN,)


def test_a_vlan_stays_that_is_not_ours_or_in_use_or_may_be() -> None:
    there = {"bond0": BOND, "bond0.910": VLAN}
    made = {"bond0.910": 11}
    own, other = frozenset({VLAN.mac}), frozenset({VLAN.mac, "02:00:00:00:01:01"})
    child = Link(12, "vmac910", "macvlan", "", 1500, True, True, 11)
    assert unwanted(NOBODYS, there, {}, {}) == ()
    assert unwanted(NOBODYS, there, {"bond0.910": 5}, {}) == ()
    assert unwanted(NOBODYS, {**there, "vmac910": child}, made, {}) == ()
    assert unwanted(NOBODYS, there, made, {11: other}) == ()
    assert unwanted(replace(NOBODYS, complete=False), there, made, {11: own}) == ()
    assert unwanted(replace(NOBODYS, busy=True), there, made, {11: own}) == ()
    wanted = replace(NOBODYS, parents=(Parent("bond0", 910, 0, ("a",), 0),))
    assert unwanted(wanted, there, made, {}) == ()


def test_the_pods_that_the_link_below_does_not_know_are_looked_at() -> None:
    pods = desired(CONFIG, [], [record(), record("c2", mac="02:00:00:00:01:02")]).pods
    there = {"bond0": BOND, "bond0.910": VLAN}
    found = suspects(pods, there, {11: frozenset({"02:00:00:00:01:01"})})
    assert [pod.key.container for pod in found] == ["c2"]
    assert len(suspects(pods, {"bond0": BOND}, {})) == 2


def test_a_fenced_pod_is_looked_at_while_its_interface_is_up() -> None:
    (pod,) = desired(CONFIG, [], [record(fenced="10.1.0.5: it is somebody else's")]).pods
    there = {"bond0.910": VLAN}
    assert suspects([pod], there, {11: frozenset({pod.plan.mac})}) == (pod,)
    assert suspects([pod], there, {}) == ()


def test_only_vlans_of_ours_get_settings_beyond_those_of_every_parent() -> None:
    parent = Parent("bond0", 910, 0, (), 0)
    every = {setting.segments[-1] for setting in settings(parent, own=False)}
    assert every == {"arp_ignore", "arp_announce"}
    assert {setting.segments[-1] for setting in settings(parent, own=True)} == {*every, "accept_ra"}
    assert all("bond0.910" in setting.segments for setting in settings(parent, own=True))
