"""From a custom resource to what is asked of the server. Pure; whatever cannot be is a `Problem`.

The resource's `spec` has the words of the API (`netspace.messages`), so that it is read as one of
its messages, with the same limits. Kubernetes has checked most of it already by the resource's
schema (`schemas`), but an older schema may have let more through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from kube_controller.kinds import Custom
from netspace.messages import NewNetwork, NewPool, Owner
from netspace.names import in_words
from netspace.problems import invalid
from netspace.slots import SlotError, SlotMap, parse_address

OWNER: Final[Owner] = "kubernetes"
"""On whose behalf everything is asked."""
_NOT_THE_SERVERS: Final = ("surplus",)

M = TypeVar("M", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class WantedPool:
    """What a Pool declares. `follows`: its size is that of its application's workloads and the
    `surplus`; `new` then says nothing about size."""

    new: NewPool
    follows: bool
    surplus: int


def network(custom: Custom) -> NewNetwork:
    """With every notation as the server has it. `Problem` invalid."""
    new = _message(custom.name, custom.spec, NewNetwork)
    try:
        slots = SlotMap.of(new.ipv4, new.ipv6, new.mapping)
        return msgspec.structs.replace(
            new,
            ipv4=None if slots.ipv4 is None else str(slots.ipv4),
            ipv6=None if slots.ipv6 is None else str(slots.ipv6),
            gateway4=_address(new.gateway4),
            gateway6=_address(new.gateway6),
            range=slots.format_ranges(slots.parse_ranges(new.range)),
            exclude=slots.format_ranges(slots.parse_ranges(new.exclude)),
        )
    except SlotError as error:
        raise invalid("spec", error) from None


def pool(custom: Custom) -> WantedPool:
    """`Problem` invalid."""
    spec = {key: value for key, value in custom.spec.items() if key not in _NOT_THE_SERVERS}
    size = spec.get("size")
    if isinstance(size, int) and not isinstance(size, bool):
        spec["size"] = str(size)
    new = _message(custom.name, spec, NewPool)
    surplus = custom.spec.get("surplus", 0)
    if isinstance(surplus, bool) or not isinstance(surplus, int) or not 0 <= surplus <= 65_536:
        raise invalid("spec.surplus", "it is no number from 0 to 65536")
    sized = bool(new.ranges) or new.size is not None or new.elastic is not None
    if new.ranges and new.size is not None:
        raise invalid("spec", "it has ranges and a size", do="name one of them")
    if not sized and new.kind != "application":
        raise invalid("spec", "it has no size", do="name ranges, a size or elastic bounds")
    if sized and surplus:
        raise invalid(
            "spec.surplus",
            "it is for pools that follow their workloads",
            do="leave it out, or leave ranges, size and elastic out",
        )
    new = msgspec.structs.replace(new, namespaces=sorted(set(new.namespaces)))
    return WantedPool(new, follows=not sized, surplus=surplus)


def _message(name: str, spec: dict[str, Any], kind: type[M]) -> M:
    return read(spec, kind, name=name, owner=OWNER)


def read(spec: dict[str, Any], kind: type[M], **more: str) -> M:
    """A `spec` as a message; `more`: fields that are not its own. `Problem` invalid."""
    given = {key: value for key, value in spec.items() if value is not None}
    for key in more:
        if key in given:
            raise invalid(f"spec.{key}", "there is no such field")
    try:
        return msgspec.convert({**given, **more}, kind)
    except ValueError as error:
        what, _, where = in_words(str(error)).partition(" - at `$")
        place = where.rstrip("`")
        raise invalid("metadata.name" if place == ".name" else f"spec{place}", what) from None


def _address(text: str | None) -> str | None:
    return None if text is None else str(parse_address(text))
