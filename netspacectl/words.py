"""The types of arguments and options: what the server would refuse is refused before it is asked.

The rules are the server's own (`netspace.names`, `netspace.slots`, the limits of
`netspace.messages`); only the words around them are for a command line.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Final

import click

from netspace import names, slots
from netspace.problems import Problem
from netspacectl.text import parse_duration

NONE: Final = "none"
MAX_SECONDS: Final = 31_536_000
MAX_SIZE: Final = 2**128
MAX_NOTE: Final = 200
MAX_REPLICAS: Final = 65_536
_LABEL_RULE: Final = "lower-case letters, digits, '-' and '.', at most 63"

# Generic only in click's newer releases.
if TYPE_CHECKING:
    Type = click.ParamType[Any]
else:
    Type = click.ParamType
Parameter = click.Parameter | None
Context = click.Context | None


class Name(Type):
    """A text of one of the forms in `netspace.names`; `other` is accepted besides it."""

    def __init__(self, what: str, pattern: str, rule: str, other: str | None = None) -> None:
        self.name = what
        self.pattern = pattern
        self.rule = rule
        self.other = other

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        text = str(value)
        if text != self.other and not names.matches(self.pattern, text):
            self.fail(f"{text[:80]!r} is no {self.name}: use {self.rule}", param, ctx)
        return text


class Address(Type):
    """One IPv4 or IPv6 address, in its usual notation afterwards."""

    name = "address"

    def __init__(self, version: int | None = None) -> None:
        self.version = version

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        try:
            address = slots.parse_address(str(value))
        except slots.SlotError as error:
            self.fail(str(error), param, ctx)
        if self.version is not None and address.version != self.version:
            self.fail(f"{address} is no IPv{self.version} address", param, ctx)
        return str(address)


class Subnet(Type):
    """A subnet of one family with its prefix length."""

    name = "subnet"

    def __init__(self, version: int) -> None:
        self.version = version

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        try:
            subnet = slots.parse_subnet(str(value))
        except slots.SlotError as error:
            self.fail(str(error), param, ctx)
        if isinstance(subnet, IPv4Network) != (self.version == 4):
            self.fail(f"{subnet} is no IPv{self.version} subnet", param, ctx)
        return str(subnet)


class Span(Type):
    """An address, `first-last`, or a subnet, as `SlotMap.parse_ranges` reads it."""

    name = "span"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        text = "".join(str(value).split())
        try:
            if "/" in text:
                slots.parse_subnet(text)
            else:
                first, dash, last = text.partition("-")
                ends = [slots.parse_address(end) for end in ((first, last) if dash else (first,))]
                if ends[0].version != ends[-1].version:
                    raise slots.SlotError(
                        f"{text!r} begins in one address family and ends in the other"
                    )
                if int(ends[0]) > int(ends[-1]):
                    raise slots.SlotError(f"{text!r} ends before it begins")
        except slots.SlotError as error:
            self.fail(f"{error}: use ADDRESS, FIRST-LAST or a subnet", param, ctx)
        return text


class Size(Type):
    """How many addresses, 1 to 2^128, as the decimal string of the API."""

    name = "size"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) <= 39):
            self.fail(f"{text[:60]!r} is no number of addresses", param, ctx)
        if not 1 <= int(text) <= MAX_SIZE:
            self.fail(f"{text} is not between 1 and 2^128", param, ctx)
        return str(int(text))


class Bounds(Type):
    """The fewest and the most addresses, `4:64`; `none` for no bounds."""

    name = "minimum:maximum"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[int, int] | str:
        if value == NONE:
            return NONE
        parts = str(value).split(":")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"{str(value)[:60]!r}: use MINIMUM:MAXIMUM, or none", param, ctx)
        if max(map(len, parts)) > 15 or not 1 <= int(parts[0]) <= int(parts[1]):
            self.fail(f"{str(value)[:60]}: use 1 or more, and no maximum below it", param, ctx)
        return int(parts[0]), int(parts[1])


class Replicas(Type):
    """How many replicas, 0 to 65536; `none` to follow none."""

    name = "number"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> int | str:
        text = str(value)
        if text == NONE:
            return NONE
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_REPLICAS):
            self.fail(f"{text[:60]!r}: use a number up to {MAX_REPLICAS}, or none", param, ctx)
        return int(text)


class Duration(Type):
    """Seconds, written `30s`, `5m`, `2h`, `1h30m`, `7d`; at most a year."""

    name = "duration"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(f"{error}: use something like 30s, 5m, 2h or 1h30m", param, ctx)
        if seconds > MAX_SECONDS:
            self.fail(f"{value} is longer than a year, the longest the server takes", param, ctx)
        return seconds


class OrNone(Type):
    """What another type takes, or the word `none` (which stays that word: it is not `None`)."""

    def __init__(self, inner: Type) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        return NONE if value == NONE else self.inner.convert(value, param, ctx)


class Note(Type):
    """A line of at most 200 characters."""

    name = "text"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        text = str(value)
        if len(text) > MAX_NOTE:
            self.fail(f"it has {len(text)} characters: use at most {MAX_NOTE}", param, ctx)
        return text


class ServerUrl(Type):
    """Where a server listens, as `netspace.endpoints` reads it."""

    name = "url"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        from netspace.endpoints import Endpoint

        try:
            return Endpoint.parse(str(value)).url
        except Problem as problem:
            self.fail(str(problem), param, ctx)


def check_gateway(gateway: str | None, subnet: IPv4Network | IPv6Network | None) -> None:
    """`SlotError` for a gateway that is not in its family's subnet, which link-local ones are
    never."""
    if gateway is None:
        return
    if subnet is None:
        raise slots.SlotError(f"gateway {gateway}: the network has no subnet of its family")
    address = slots.parse_address(gateway)
    if not (address.version == 6 and address.is_link_local) and address not in subnet:
        raise slots.SlotError(f"gateway {gateway} is not in {subnet}")


class PersonName(Type):
    """What an admin or an authority is called in a certificate."""

    name = "name"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        from netspace.callers import is_person

        text = str(value)
        if not is_person(text):
            self.fail(
                f"{text[:80]!r} is no name: use letters, digits, spaces and ._@:+-, at most 64",
                param,
                ctx,
            )
        return text


class HostName(Type):
    """A host's name or address, as clients write it."""

    name = "host"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        from ipaddress import ip_address

        text = str(value).strip("[]")
        try:
            return str(ip_address(text))
        except ValueError:
            if not names.matches(names.NODE, text.lower()):
                self.fail(f"{text[:80]!r} is neither a host's name nor an address", param, ctx)
        return text.lower()


def label(what: str) -> Name:
    """The name of a fabric, cluster, network or pool."""
    return Name(f"{what} name", names.NAME, _LABEL_RULE)


NODE: Final = Name("node name", names.NODE, "lower-case letters, digits, '-' and '.', at most 253")
FEDERATION: Final = Name(
    "federation", names.FEDERATION, "lower-case letters, digits and '-', a letter first, at most 63"
)
NAMESPACE: Final = Name(
    "namespace", names.NAMESPACE, "lower-case letters, digits and '-', at most 63"
)
NAMESPACE_OR_ANY: Final = Name(
    "namespace", names.NAMESPACE, "lower-case letters, digits and '-', or '*' for all", other="*"
)
POD: Final = Name("pod name", names.POD, "letters, digits, '-', '.' and '_', at most 253")
LINK: Final = Name(
    "link name", names.LINK, "at most 15 letters, digits, '-', '.', '_', '@' and '+'"
)
VLAN: Final = click.IntRange(1, 4094)
MTU: Final = click.IntRange(0, 65535)
