"""Two nodes on a switch, made of network namespaces: the data centre that the demo runs in.

    node1: eth0 ─┐                        ┌─ eth0 :node2
                 ├─ switch, VLANs 910, 920 ─┤
    node1: eth1 ─┘                        └─ eth1 :node2

The switch is a bridge that knows VLANs. Everything is made with `ip` and `bridge`, as an admin
would; the nodes' bonds and VLAN interfaces are the agent's work, not this file's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from hostnet import Net, open_netns, run_in
from lab import programs

T = TypeVar("T")

PREFIX = "nsdemo-"
SWITCH = PREFIX + "switch"
NETNS = Path("/run/netns")
CARDS = ("eth0", "eth1")


class TopologyError(RuntimeError):
    """A link or a namespace could not be made; says what the program said."""


class Topology:
    """Makes and removes the namespaces. `nodes` are names; every node has two cards."""

    def __init__(self, nodes: Sequence[str], vlans: Sequence[int]) -> None:
        self.nodes = tuple(nodes)
        self.vlans = tuple(vlans)

    def make(self) -> None:
        ip(f"netns add {name}" for name in (SWITCH, *map(netns, self.nodes)))
        lines = [
            "link set lo up",
            "link add sw0 type bridge vlan_filtering 1 mcast_snooping 0 forward_delay 0",
            "link set sw0 up",
        ]
        allowed = []
        for node in self.nodes:
            for card in CARDS:
                port = cable(node, card)
                lines += [
                    f"link add {port} type veth peer name {card} netns {netns(node)}",
                    f"link set {port} master sw0 up",
                ]
                allowed += [f"vlan add dev {port} vid {vlan}" for vlan in self.vlans]
        ip(lines, inside=SWITCH)
        batch("bridge", allowed, SWITCH)
        for node in self.nodes:
            ip(["link set lo up"], inside=netns(node))

    def pull(self, node: str, card: str) -> None:
        """Pulls a card's cable out of the switch."""
        ip([f"link set {cable(node, card)} down"], inside=SWITCH)

    def plug(self, node: str, card: str) -> None:
        """Puts it back."""
        ip([f"link set {cable(node, card)} up"], inside=SWITCH)


def netns(name: str) -> str:
    """The namespace of a node or a pod."""
    return PREFIX + name


def cable(node: str, card: str) -> str:
    """The switch's port that a card is plugged into."""
    return f"{node}-{card}"


def standing() -> list[str]:
    """The namespaces of a topology that are there."""
    return sorted(path.name for path in NETNS.glob(f"{PREFIX}*"))


def remove() -> None:
    """Removes every namespace of the topology with all that is in it."""
    names = standing()
    if names:
        ip(f"netns delete {name}" for name in names)


def within(namespace: str, job: Callable[[Net], T]) -> T:
    """What the job gives, in a thread that is in the namespace; a program that it starts is there,
    too. Cheaper than `command`, which mounts the namespace's /sys besides."""
    with open_netns(str(NETNS / namespace), allow_own=True) as opened:
        return run_in(opened, job)


def command(namespace: str, *words: str) -> list[str]:
    """The command line that runs a program in a namespace, with that one's /sys."""
    return [str(programs.find("ip")), "netns", "exec", namespace, *words]


def ip(lines: Iterable[str], inside: str | None = None) -> None:
    """Runs several `ip` commands in one process; raises `TopologyError` with what it said."""
    batch("ip", lines, inside)


def batch(program: str, lines: Iterable[str], inside: str | None) -> None:
    """The same of `bridge` and `tc`."""
    words = [str(programs.find(program)), *(["-n", inside] if inside else []), "-batch", "-"]
    text = "\n".join(lines) + "\n"
    done = subprocess.run(
        words, input=text, text=True, capture_output=True, env=programs.environment()
    )
    if done.returncode != 0:
        raise TopologyError(f"{program}: {done.stderr.strip()}")
