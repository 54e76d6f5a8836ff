"""What another address plugin has given, as values: one interface of one pod with its addresses,
completed from lists of pods and of sandboxes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from netspace.problems import Problem

MAIN: Final = "eth0"
"""The interface whose addresses Kubernetes lists as the pod's own."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """`where` it was found, for people. Addresses in their usual notation, at most one of each
    family; what is not known is empty. `gone`: why its pod is no more."""

    where: str
    addresses: tuple[str, ...]
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    node: str = ""
    container: str = ""
    ifname: str = ""
    gone: str = ""

    @property
    def name(self) -> tuple[str, str]:
        return self.namespace, self.pod


class KnownPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as Kubernetes lists it; `over`: it has finished, its sandbox is gone or going."""

    namespace: str
    name: str
    uid: str
    node: str
    over: bool
    addresses: tuple[str, ...]


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox that is ready, as a node's runtime lists it."""

    container: str
    namespace: str
    name: str
    uid: str


Pods = Mapping[tuple[str, str], KnownPod]


def completed(
    found: Sequence[Found], pods: Pods | None, sandboxes: Sequence[Sandbox]
) -> list[Found]:
    """With what else is known of each pod and interface; those of one interface become one. `pods`
    None: nobody has listed them."""
    by_container = {each.container: each for each in sandboxes}
    by_name: dict[tuple[str, str], list[Sandbox]] = {}
    for sandbox in sandboxes:
        by_name.setdefault((sandbox.namespace, sandbox.name), []).append(sandbox)
    complete = (_complete(each, pods, by_container, by_name) for each in found)
    return _joined(complete)


def _complete(
    found: Found,
    pods: Pods | None,
    by_container: Mapping[str, Sandbox],
    by_name: Mapping[tuple[str, str], Sequence[Sandbox]],
) -> Found:
    changed = msgspec.structs.replace
    known = by_container.get(found.container)
    if known is not None and not found.pod:
        found = changed(found, namespace=known.namespace, pod=known.name, uid=known.uid)
    if not found.pod:
        return found
    if pods is not None:
        pod = pods.get(found.name)
        if pod is None or pod.over:
            return changed(found, gone="its pod is gone" if pod is None else "its pod has finished")
        if found.uid not in ("", pod.uid):
            return changed(found, gone=f"the pod of this name is another one now: UID {pod.uid}")
        if found.node not in ("", pod.node):
            return changed(found, gone=f"its pod runs on node {pod.node}, not on {found.node}")
        main = any(address in pod.addresses for address in found.addresses)
        found = changed(
            found, uid=pod.uid, node=pod.node, ifname=found.ifname or (MAIN if main else "")
        )
    if not found.container:
        own = [each for each in by_name.get(found.name, ()) if found.uid in ("", each.uid)]
        if len(own) == 1:
            found = changed(found, container=own[0].container, uid=found.uid or own[0].uid)
    return found


def _joined(found: Iterable[Found]) -> list[Found]:
    """Addresses of two families that one interface has are one slot's, or should be."""
    joined: dict[tuple[str, ...], Found] = {}
    for number, each in enumerate(found):
        key: tuple[str, ...] = (str(number),)
        if each.ifname and (each.container or each.pod):
            key = (each.container, *(() if each.container else each.name), each.ifname, each.gone)
        before = joined.get(key)
        if before is None or not _apart(before.addresses, each.addresses):
            joined[key if before is None else (str(number),)] = each
            continue
        both = tuple(sorted((*before.addresses, *each.addresses), key=lambda text: ":" in text))
        joined[key] = msgspec.structs.replace(before, addresses=both)
    return list(joined.values())


def _apart(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether they are of different families."""
    return not {":" in text for text in one} & {":" in text for text in other}


def unreadable(where: str, why: object) -> Problem:
    """The problem of an input that is not what it should be."""
    return Problem("invalid", f"{where}: {why}", do="nothing was changed: correct the input")
