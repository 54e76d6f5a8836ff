"""What the cluster's nodes say of themselves, as their leader keeps it in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from netspace.messages.federation import FederatedNode, NodeWord, PathWord


@dataclass(frozen=True, slots=True)
class Heard:
    """A node, and its last word since this server leads. `at`, and `down`, since when it is down:
    seconds of a monotonic clock; `down` None: it is not, or was when this server came to lead."""

    node: FederatedNode
    word: NodeWord | None
    at: float
    down: float | None = None


Told = dict[tuple[str, str], dict[str, list[PathWord]]]


class Words:
    """Nodes are known from the state until they speak. A clock is given, none is read: `at` counts
    seconds, `wall` is the Unix time. `moved`: whether some path's state is another one since it was
    last set to false."""

    def __init__(self, nodes: Iterable[FederatedNode], at: float) -> None:
        self.heard = {node.name: Heard(node, None, at) for node in nodes}
        self.moved = True

    def is_new(self, node: FederatedNode) -> bool:
        """Whether it has not said the same of itself before."""
        known = self.heard.get(node.name)
        return known is None or (
            msgspec.structs.replace(known.node, down=None)
            != msgspec.structs.replace(node, down=None)
        )

    def say(self, word: NodeWord, at: float) -> bool:
        """Takes a word; whether it tells others anything new."""
        node = msgspec.structs.replace(word.node, down=None)
        before = self.heard.get(node.name)
        self.heard[node.name] = Heard(node, word, at)
        if _states(None if before is None else before.word) != _states(word):
            self.moved = True
        return before is None or before.node != node

    def forget(self, name: str) -> bool:
        """Whether the node was known."""
        return self.heard.pop(name, None) is not None

    def look(self, at: float, wall: float, silent: float, forget: float) -> bool:
        """Marks the nodes down that have been silent for so long, and forgets those that are for
        long; whether that is new."""
        changed = False
        for name, heard in tuple(self.heard.items()):
            down = heard.node.down
            if down is None:
                if at - heard.at >= silent:
                    node = msgspec.structs.replace(heard.node, down=int(wall))
                    self.heard[name] = Heard(node, heard.word, heard.at, at)
                    changed = self.moved = True
            elif (wall - down if heard.down is None else at - heard.down) >= forget:
                del self.heard[name]
                changed = True
        return changed

    @property
    def nodes(self) -> tuple[FederatedNode, ...]:
        return tuple(self.heard[name].node for name in sorted(self.heard))

    def paths(self) -> Told:
        """By federation and cluster what each node that is not down says of its paths to it."""
        found: Told = {}
        for name, heard in self.heard.items():
            if heard.word is not None and heard.node.down is None:
                for path in heard.word.paths:
                    at = (path.federation, path.cluster)
                    found.setdefault(at, {}).setdefault(name, []).append(path)
        return found


def _states(word: NodeWord | None) -> list[tuple[str, str, str, str]]:
    paths = () if word is None else word.paths
    return [(path.federation, path.cluster, path.node, path.state) for path in paths]
