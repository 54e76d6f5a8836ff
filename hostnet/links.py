"""Links: what one is, looking it up, deleting it, and the settings every kind has.

Source: rtnetlink(7), the kernel's Documentation/netlink/specs/rt_link.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hostnet.errors import (
    AlreadyThere,
    InvalidMac,
    InvalidMtu,
    InvalidName,
    LinkMissing,
    NameTaken,
)
from hostnet.netlink import Net

NAME_BYTES = 15
MIN_MTU = 68
_IFF_UP = 1
_MACVLAN_MODES = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel shows it.

    ``kind``: "macvlan", "vlan", "bond", "veth"…, "" for a physical card; ``mac``: lower case
    with colons; ``carrier``: a signal on the line; ``parent``: the index of the link it lies
    on (or of a veth's peer), counted in the namespace that ``parent_netns`` names (None: its
    own); ``master``: the index of the bond or bridge it belongs to; ``vlan_id`` and
    ``macvlan_mode`` for those kinds only.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    carrier: bool
    parent: int | None = None
    parent_netns: int | None = None
    master: int | None = None
    vlan_id: int | None = None
    macvlan_mode: str | None = None


def check_name(name: str) -> str:
    """The name, if the kernel takes it as one; else ``InvalidName``.

    As net/core/dev.c, ``dev_valid_name``; also refused is "%", which makes it a pattern.
    """
    size = len(name.encode(errors="surrogateescape"))
    if not 1 <= size <= NAME_BYTES:
        why = f"a link's name has 1 to {NAME_BYTES} bytes, this one {size}"
    elif name in (".", "..") or any(c in "/:%\0" or c.isspace() for c in name):
        why = 'a link\'s name is not "." or ".." and has no "/", ":", "%" or white space'
    else:
        return name
    raise InvalidName("use the link name", repr(name), why, "choose another name")


def check_mac(mac: str) -> str:
    """The address in lower case with colons; ``InvalidMac`` if malformed, zero or multicast."""
    normal = mac.lower().replace("-", ":")
    if not _MAC.fullmatch(normal):
        why = "it is not six pairs of hexadecimal digits"
    elif normal == "00:00:00:00:00:00":
        why = "it is zero"
    elif int(normal[:2], 16) & 1:
        why = "it is a multicast address (the first byte is odd)"
    else:
        return normal
    raise InvalidMac("use the hardware address", repr(mac), why, "give a unicast address")


def check_mtu(mtu: int, parent: Link | None = None) -> int:
    """The MTU; ``InvalidMtu`` if negative, under 68 or above the parent's. 0: the parent's."""
    if mtu == 0:
        return 0 if parent is None else parent.mtu
    if mtu < MIN_MTU:
        why, remedy = f"an MTU is at least {MIN_MTU}", "give 0 to inherit the parent's"
    elif parent is not None and mtu > parent.mtu:
        why = f"it is above {parent.mtu}, the MTU of its parent {parent.name}"
        remedy = "give 0 to inherit it, or raise the parent's first"
    else:
        return mtu
    raise InvalidMtu("use the MTU", str(mtu), why, remedy)


def find_link(net: Net, which: str | int) -> Link | None:
    """The link of this name or index; None where there is none.

    Only the name counts, never an alternative name.
    """
    if isinstance(which, str):
        check_name(which)
        wanted: dict[str, Any] = {"ifname": which}
    else:
        wanted = {"index": which}
    try:
        messages = net.look("look up the link", str(which), "link", "get", **wanted)
    except LinkMissing:
        return None
    found = _link(messages[0])
    return found if which in (found.name, found.index) else None


def get_link(net: Net, which: str | int) -> Link:
    """The link of this name or index; ``LinkMissing`` where there is none."""
    found = find_link(net, which)
    if found is None:
        raise LinkMissing("find the link", str(which), "there is none", "check the name")
    return found


def list_links(net: Net) -> list[Link]:
    """All links of the namespace."""
    return [_link(message) for message in net.look("list", "the links", "link", "dump")]


def delete_link(net: Net, which: str | int) -> bool:
    """Delete the link; False when it was not there."""
    found = find_link(net, which)
    if found is None:
        return False
    try:
        net.change("delete the link", found.name, "link", "del", index=found.index)
    except LinkMissing:
        return False
    return True


def set_up(net: Net, link: Link) -> None:
    """Set the link up. ``AddressInUse``: a macvlan's MAC is taken on the same parent."""
    net.change("set up the link", link.name, "link", "set", index=link.index, state="up")


def set_down(net: Net, link: Link) -> None:
    """Set the link down. The kernel drops its IPv6 addresses, unless told to keep them."""
    net.change("set down the link", link.name, "link", "set", index=link.index, state="down")


def set_mtu(net: Net, link: Link, mtu: int) -> None:
    """Set the MTU in bytes; ``InvalidMtu``, or ``Refused`` when the driver cannot."""
    check_mtu(mtu)
    what = f"set the MTU {mtu} of"
    net.change(what, link.name, "link", "set", index=link.index, mtu=mtu)


def rename_link(net: Net, link: Link, name: str) -> None:
    """Give the link another name; ``NameTaken`` when another link has it."""
    check_name(name)
    try:
        net.change(
            f"rename to {name} the link", link.name, "link", "set", index=link.index, ifname=name
        )
    except AlreadyThere:
        raise NameTaken(
            f"rename to {name} the link",
            link.name,
            "another link of the namespace has that name",
            "delete that one, or choose another name",
        ) from None


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    mode = data.get_attr("IFLA_MACVLAN_MODE") if data and kind == "macvlan" else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & _IFF_UP),
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        parent=message.get_attr("IFLA_LINK") or None,
        parent_netns=message.get_attr("IFLA_LINK_NETNSID"),
        master=message.get_attr("IFLA_MASTER") or None,
        vlan_id=data.get_attr("IFLA_VLAN_ID") if data and kind == "vlan" else None,
        macvlan_mode=_MACVLAN_MODES.get(mode, mode) if mode is not None else None,
    )
