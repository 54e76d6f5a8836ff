"""What must be done to get from one set of keyed values to another."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Changes(Generic[T]):
    """`removed` and `added` values, and those `changed` under their key: (before, after)."""

    removed: tuple[T, ...] = ()
    added: tuple[T, ...] = ()
    changed: tuple[tuple[T, T], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed)


def changes(
    before: Iterable[T], after: Iterable[T], key: Callable[[T], Hashable] | None = None
) -> Changes[T]:
    """The difference, each part in the order of the values given. Without a key a value is its own,
    and nothing is ever `changed`. Of two values with one key the last counts."""
    name: Callable[[T], Hashable] = key or _itself
    old = {name(value): value for value in before}
    new = {name(value): value for value in after}
    return Changes(
        tuple(value for one, value in old.items() if one not in new),
        tuple(value for one, value in new.items() if one not in old),
        tuple((old[one], value) for one, value in new.items() if one in old and old[one] != value),
    )


def _itself(value: object) -> Hashable:
    assert isinstance(value, Hashable)
    return value
