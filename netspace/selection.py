"""What a pod or a conflist asks for: annotations and configuration keys to a `Selection`.

The keys are the same in both places; annotations carry the prefix `ipam.com/`. Every value is
hostile until it has passed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netspace import names
from netspace.messages import Selection
from netspace.problems import invalid
from netspace.slots import Family, SlotError, parse_address

PREFIX: Final = "ipam.com/"
KEYS: Final = ("netspace", "application", "ip", "families")
_FAMILIES: Final[tuple[Family, ...]] = ("ipv4", "ipv6")


def from_annotations(annotations: Mapping[str, str]) -> Selection:
    """The selection in a pod's annotations; other annotations are ignored. An unknown key below our
    own prefix is refused, since a misspelt one would silently choose another pool."""
    ours = {
        key.removeprefix(PREFIX): value
        for key, value in annotations.items()
        if key.startswith(PREFIX)
    }
    for key in ours:
        if key not in KEYS:
            raise invalid(
                f"annotation {PREFIX + key[:60]}",
                "there is no such annotation",
                do=f"use {', '.join(PREFIX + known for known in KEYS)}",
            )
    return select(ours, f"annotation {PREFIX}")


def select(values: Mapping[str, object], where: str = "") -> Selection:
    """The selection in a mapping with the keys of `KEYS`; `where` comes before the key in errors.

    Pool names are one name each; `ip` is one address or two, separated by a comma (or a list), of
    different families; `families` is `ipv4`, `ipv6` or both.
    """
    netspace = _pool(values, "netspace", where)
    application = _pool(values, "application", where)
    if netspace is not None and application is not None:
        raise invalid(
            f"{where}netspace and {where}application",
            f"both name a pool ({netspace} and {application})",
            do="name one of them",
        )
    return Selection(
        netspace=netspace,
        application=application,
        ip=_addresses(_words(values, "ip", where), where),
        families=_families(_words(values, "families", where), where),
    )


def _pool(values: Mapping[str, object], key: str, where: str) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not names.matches(names.NAME, value):
        raise invalid(
            f"{where}{key}",
            f"{_shown(value)} is no pool name",
            do="use lower-case letters, digits, '-' and '.', at most 63",
        )
    return value


def _words(values: Mapping[str, object], key: str, where: str) -> list[str]:
    value = values.get(key, [])
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise invalid(f"{where}{key}", f"{_shown(value)} is no text and no list of texts")
    if key in values and not words:
        raise invalid(f"{where}{key}", "it is empty", do="leave it out or name something")
    return [word.strip() for word in words]


def _addresses(words: list[str], where: str) -> tuple[str, ...]:
    try:
        addresses = [parse_address(word) for word in words]
    except SlotError as error:
        raise invalid(f"{where}ip", error, do="use one address, or one of each family") from None
    if len({address.version for address in addresses}) != len(addresses):
        raise invalid(
            f"{where}ip",
            f"{', '.join(words)[:120]} names two addresses of one family",
            do="use one address, or one of each family",
        )
    return tuple(str(address) for address in addresses)


def _families(words: list[str], where: str) -> tuple[Family, ...]:
    if not set(words) <= set(_FAMILIES) or len(set(words)) != len(words):
        raise invalid(
            f"{where}families",
            f"{_shown(','.join(words))} is wrong",
            do="use ipv4, ipv6 or ipv4,ipv6",
        )
    return tuple(family for family in _FAMILIES if family in words)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
