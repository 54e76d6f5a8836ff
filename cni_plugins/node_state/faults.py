"""What differs between the node as it should be and as it is, in words and as steps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cni_plugins.node_state.desired import Desired, Parent, PodLink
from hostnet import Bond, BondState, Link
from hostnet.bond_options import differences, wanted_options

Act = Literal["make", "up", "mtu"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do to a link: make the VLAN `name`, set it up, or give it the MTU `value`.
    `found`: what was wrong."""

    act: Act
    name: str
    found: str
    value: int = 0


def bond_faults(bond: Bond, state: BondState | None) -> list[str]:
    """What is wrong with the bond, one short clause each; empty where nothing is."""
    if state is None:
        return ["it was missing"]
    found = []
    if not state.link.up:
        found.append("it was down")
    if bond.mtu and state.link.mtu != bond.mtu:
        found.append(f"its MTU was {state.link.mtu}, not {bond.mtu}")
    changes = differences(wanted_options(bond), state.options)
    found += [f"{name} was {state.options.get(name)}, not {changes[name]}" for name in changes]
    cards = {card.link.name: card.link for card in state.cards}
    for name in bond.slaves:
        if name not in cards:
            found.append(f"{name} was not in it")
        elif not cards[name].up:
            found.append(f"{name} was down")
    if bond.primary and state.primary != bond.primary and bond.primary in cards:
        found.append(f"its primary card was {state.primary or 'none'}, not {bond.primary}")
    return found


def parent_steps(
    parent: Parent, links: Mapping[str, Link], made: Mapping[str, int]
) -> tuple[Step, ...]:
    """What to do for the parent, in this order. Nothing where this node has no such master. What
    has the VLAN's name and is another thing is left to the making, which refuses it. A VLAN of
    ours has its master's MTU; other links get no more than the pods on them need."""
    master = links.get(parent.master)
    if master is None:
        return ()
    steps = []
    if not master.up:
        steps.append(Step("up", master.name, "it was down"))
    mtu = master.mtu
    if mtu < parent.mtu:
        mtu = parent.mtu
        steps.append(_mtu(master, mtu))
    if parent.vlan is None:
        return tuple(steps)
    link = links.get(parent.name)
    if link is None:
        return (*steps, Step("make", parent.name, "it was missing"))
    if (link.kind, link.vlan_id, link.parent) != ("vlan", parent.vlan, master.index):
        return (*steps, Step("make", parent.name, "another link has its name"))
    wanted = mtu if made.get(link.name) == link.index else max(link.mtu, parent.mtu)
    if link.mtu != wanted:
        steps.append(_mtu(link, wanted))
    if not link.up:
        steps.append(Step("up", link.name, "it was down"))
    return tuple(steps)


def unwanted(
    wanted: Desired,
    links: Mapping[str, Link],
    made: Mapping[str, int],
    forwarded: Mapping[int, frozenset[str]],
) -> tuple[Link, ...]:
    """The VLAN interfaces of ours that nobody wants and nothing lies on. None where that cannot
    be known: the networks are unknown, or an ADD is under way."""
    if not wanted.complete or wanted.busy:
        return ()
    names = {parent.name for parent in wanted.parents} | {
        parent.master for parent in wanted.parents
    }
    below = {link.parent for link in links.values() if link.parent_netns is None}
    return tuple(
        link
        for name, index in sorted(made.items())
        if (link := links.get(name)) is not None
        and (link.index, link.kind) == (index, "vlan")
        and name not in names
        and index not in below
        and link.master is None
        and not forwarded.get(index, frozenset()) - {link.mac}
    )


def suspects(
    pods: Iterable[PodLink],
    links: Mapping[str, Link],
    forwarded: Mapping[int, frozenset[str]],
) -> tuple[PodLink, ...]:
    """The pods whose interface may be missing (or, where fenced, up): the link below does not take
    frames for its address. In passthru mode, and where the link below is in the pod, it never
    says, so those are always among them."""
    found = []
    for pod in pods:
        parent = links.get(pod.parent)
        silent = pod.plan.in_container or pod.plan.mode == "passthru"
        heard = parent is not None and pod.plan.mac in forwarded.get(parent.index, frozenset())
        if silent or heard == bool(pod.fenced):
            found.append(pod)
    return tuple(found)


def _mtu(link: Link, wanted: int) -> Step:
    return Step("mtu", link.name, f"its MTU was {link.mtu}, not {wanted}", wanted)
