"""Sets of addresses that firewall rules match (ipset): made, filled, emptied, taken away.

Source: ipset(8), linux/netfilter/ipset/ip_set.h. A kernel may have some types and not others:
``has_set_type`` tries one.
"""

from __future__ import annotations

import importlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from hostnet.errors import KernelError, from_errno
from hostnet.netfilter import talk
from hostnet.netlink import Net, bare_pyroute2
from hostnet.rtnetlink import DUMP, Message, attribute, attributes, packed

_MOST = 65536
_NAMES_ONLY, _HEADERS_ONLY = 1 << 1, 1 << 2
_SUBSYSTEM, _LIST, _VERSION = 6, 7, 6
_PROTOCOL, _SETNAME, _FLAGS, _DATA, _ELEMENTS = 1, 2, 6, 7, 24
_HEAD = struct.Struct("=BBH")


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A set as it should be. ``kind``: hash:ip, hash:net, hash:mac or hash:ip,mac; ``family``: 4 or
    6, 0 for hash:mac; ``entries``: as text, the parts of one entry with a comma between."""

    name: str
    kind: str
    family: int
    entries: frozenset[str]


def ensure_sets(net: Net, wanted: list[AddressSet]) -> list[str]:
    """Makes the sets and their entries what they should be; what was changed, in words. Sets of
    other names are not looked at."""
    if not wanted:
        return []
    done = []
    with _opened() as sets:
        known = _known(sets)
        for each in wanted:
            if each.name not in known:
                family = socket.AF_INET6 if each.family == 6 else socket.AF_INET
                given = {"stype": each.kind, "family": family, "maxelem": _MOST}
                _ask(sets, "create", each.name, each.name, exclusive=False, **given)
                net.changed("ipset create")
            present = _entries(sets, each) if each.name in known else frozenset()
            for verb, entries in (
                ("add", each.entries - present),
                ("delete", present - each.entries),
            ):
                for entry in sorted(entries):
                    _entry(sets, verb, each, entry)
                    net.changed(f"ipset {verb}")
            if each.name not in known:
                done.append(f"made the set {each.name}")
            elif present != each.entries:
                done.append(f"the set {each.name} has {len(each.entries)} entries again")
    return done


def delete_sets(net: Net, names: list[str]) -> list[str]:
    """Takes the sets away; those that are not there are passed over."""
    if not names:
        return []
    with _opened() as sets:
        gone = [name for name in names if name in _known(sets)]
        for name in gone:
            _ask(sets, "destroy", name, name)
            net.changed("ipset destroy")
    return [f"deleted the set {name}" for name in gone]


def read_set(net: Net, wanted: AddressSet) -> frozenset[str] | None:
    """The entries of the set with this name; None where there is none."""
    with _opened() as sets:
        return _entries(sets, wanted) if wanted.name in _known(sets) else None


def set_names(net: Net) -> list[str]:
    """The names of all sets; ``NotSupported`` where the kernel has none at all."""
    with _opened() as sets:
        return sorted(_known(sets))


def set_sizes(net: Net) -> dict[str, int]:
    """How many entries each set has; cheaper by far than reading them."""
    body = _HEAD.pack(socket.AF_INET, 0, 0) + attribute(_PROTOCOL, bytes((_VERSION,)))
    body += attribute(_FLAGS, struct.pack("!I", _HEADERS_ONLY))
    request = packed(Message(_SUBSYSTEM << 8 | _LIST, DUMP, body, ""), 1)
    found = {}
    for part in talk(net, "list", "the sets", request):
        if part.code:
            raise from_errno(part.code, part.text, "list", "the sets")
        if part.code == 0:
            break
        told = attributes(part.body, _HEAD.size)
        header = attributes(told.get(_DATA, b"")).get(_ELEMENTS, bytes(4))
        name = told.get(_SETNAME, b"").rstrip(b"\0").decode(errors="replace")
        found[name] = int.from_bytes(header, "big")
    return found


def has_set_type(net: Net, kind: str, name: str) -> bool:
    """Whether the kernel has sets of this kind; ``name``: of the set that is made to see it, and
    stays."""
    try:
        with _opened() as sets:
            _ask(sets, "create", name, name, stype=kind, exclusive=False)
    except KernelError:
        return False
    return True


@contextmanager
def _opened() -> Iterator[Any]:
    with bare_pyroute2():
        module = importlib.import_module("pyroute2.ipset")
    try:
        sets = module.IPSet()
    except Exception as error:
        raise from_errno(_code(error), "", "use", "sets of addresses") from None
    try:
        yield sets
    finally:
        sets.close()


def _known(sets: Any) -> frozenset[str]:
    found = _ask(sets, "list", "the list", None, flags=_NAMES_ONLY)
    return frozenset(message.get_attr("IPSET_ATTR_SETNAME") for message in found)


def _entries(sets: Any, wanted: AddressSet) -> frozenset[str]:
    found = set()
    for message in _ask(sets, "list", wanted.name, wanted.name):
        listed = message.get_attr("IPSET_ATTR_ADT")
        for entry in listed.get_attrs("IPSET_ATTR_DATA") if listed else ():
            found.add(_text(entry, wanted))
    return frozenset(found)


def _text(entry: Any, wanted: AddressSet) -> str:
    parts = []
    for part in wanted.kind.removeprefix("hash:").split(","):
        if part == "mac":
            parts.append(str(entry.get_attr("IPSET_ATTR_ETHER")).lower())
            continue
        inner = entry.get_attr("IPSET_ATTR_IP_FROM")
        address = inner.get_attr(f"IPSET_ATTR_IPADDR_IPV{wanted.family}")
        if part == "net":
            length = entry.get_attr("IPSET_ATTR_CIDR")
            whole = 32 if wanted.family == 4 else 128
            address = str(ip_network(f"{address}/{whole if length is None else length}"))
        parts.append(str(address))
    return ",".join(parts)


def _entry(sets: Any, verb: str, wanted: AddressSet, entry: str) -> None:
    family = socket.AF_INET6 if wanted.family == 6 else socket.AF_INET
    etype = wanted.kind.removeprefix("hash:")
    _ask(
        sets,
        verb,
        wanted.name,
        wanted.name,
        entry=tuple(entry.split(",")) if "," in etype else entry,
        family=family,
        etype=etype,
        exclusive=False,
    )


def _ask(sets: Any, verb: str, which: str, name: str | None, **values: Any) -> Any:
    try:
        named = {} if name is None else {"name": name}
        return list(getattr(sets, verb)(**named, **values) or ())
    except Exception as error:
        raise from_errno(_code(error), "", f"{verb} the set", which) from None


def _code(error: Exception) -> int:
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code is None and error.args and isinstance(error.args[0], int):
        code = error.args[0]
    if not isinstance(code, int):
        raise error
    return code
