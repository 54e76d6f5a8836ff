"""What namespaces choose by default, from their annotations to what the server is told; and which
pools are for them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kube_controller.kinds import Namespace
from netspace.kubernetes import NamespaceDefault
from netspace.messages import Pool, Selection
from netspace.problems import Problem, invalid
from netspace.selection import PREFIX, from_annotations


@dataclass(frozen=True)
class NamespaceSteps:
    """`chosen` is to be set, `unset` to be taken away; `wrong` cannot be read, and what the server
    has for it stays: its pods had better not land in another pool for a slip of the pen."""

    chosen: dict[str, Selection] = field(default_factory=dict)
    unset: list[str] = field(default_factory=list)
    wrong: dict[str, Problem] = field(default_factory=dict)


def selection_of(namespace: Namespace) -> Selection:
    """What the annotations say; `Problem` invalid."""
    selection = from_annotations(namespace.metadata.ours)
    if selection.ip:
        raise invalid(
            f"annotation {PREFIX}ip",
            "a namespace has many pods, and an address is for one",
            do="annotate the pod with it",
        )
    return selection


def steps(namespaces: Iterable[Namespace], stored: Iterable[NamespaceDefault]) -> NamespaceSteps:
    """What makes the server's defaults those of the namespaces that there are."""
    known = {each.namespace: each.selection for each in stored}
    found = NamespaceSteps()
    seen = set()
    for namespace in namespaces:
        name = namespace.metadata.name
        seen.add(name)
        try:
            selection = selection_of(namespace)
        except Problem as problem:
            found.wrong[name] = problem
            continue
        if selection == Selection():
            if name in known:
                found.unset.append(name)
        elif known.get(name) != selection:
            found.chosen[name] = selection
    found.unset.extend(sorted(set(known) - seen))
    return found


def may_use(pool: Pool, namespace: str) -> bool:
    """Whether the pool is for the namespace's pods."""
    return pool.kind == "default" or "*" in pool.namespaces or namespace in pool.namespaces
