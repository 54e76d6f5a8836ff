"""Links: what one is, looking it up, deleting it, and the settings every kind has.

Source: rtnetlink(7), the kernel's Documentation/netlink/specs/rt_link.yaml.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from dataclasses import dataclass, field

from hostnet import rtnetlink
from hostnet.errors import (
    AlreadyThere,
    InvalidMac,
    InvalidMtu,
    InvalidName,
    LinkMissing,
    NameTaken,
    from_errno,
)
from hostnet.netlink import Net

NAME_BYTES = 15
MIN_MTU = 68
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("@16si20x")
"""`struct ifreq` of SIOCGIFINDEX (netdevice(7)): name, index."""
_MACVLAN_MODES = {1: "private", 2: "vepa", 4: "bridge", 8: "passthru", 16: "source"}
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Link:
    """One link as the kernel shows it.

    ``kind``: "macvlan", "vlan", "bond", "veth"…, "" for a physical card; ``mac``: lower case
    with colons; ``carrier``: a signal on the line; ``parent``: the index of the link it lies
    on (or of a veth's peer), counted in the namespace that ``parent_netns`` names (None: its
    own); ``master``: the index of the bond or bridge it belongs to; ``vlan_id`` and
    ``macvlan_mode`` for those kinds only; ``settings``: as ``rtnetlink.link_settings`` reads them.
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
    settings: bytes = field(default=b"", compare=False, repr=False)


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
    try:
        bodies = net.ask("look up the link", str(which), rtnetlink.get_link(which))
    except LinkMissing:
        return None
    found = _link(bodies[0])
    return found if which in (found.name, found.index) else None


def get_link(net: Net, which: str | int) -> Link:
    """The link of this name or index; ``LinkMissing`` where there is none."""
    found = find_link(net, which)
    if found is None:
        raise LinkMissing("find the link", str(which), "there is none", "check the name")
    return found


def link_index(name: str) -> int | None:
    """The index of the link of this name, or alternative name, in the namespace that the calling
    thread is in; None where there is none. A few microseconds, and no ``Net``."""
    check_name(name)
    request = _IFREQ.pack(os.fsencode(name), 0)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            index: int = _IFREQ.unpack(fcntl.ioctl(asking, _SIOCGIFINDEX, request))[1]
            return index
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return None
        raise from_errno(error.errno or 0, "", "look up the link", name) from None


def list_links(net: Net) -> list[Link]:
    """All links of the namespace."""
    return [_link(body) for body in net.ask("list", "the links", rtnetlink.list_links())]


def delete_link(net: Net, which: str | int) -> bool:
    """Delete the link; False when it was not there."""
    found = find_link(net, which)
    return found is not None and delete_found(net, found)


def delete_found(net: Net, link: Link) -> bool:
    """The same of a link that was just looked up."""
    try:
        net.do("delete the link", link.name, rtnetlink.delete_link(link.index))
    except LinkMissing:
        return False
    return True


def set_up(net: Net, link: Link) -> None:
    """Set the link up. ``AddressInUse``: a macvlan's MAC is taken on the same parent."""
    net.do("set up the link", link.name, up_request(link))


def up_request(link: Link) -> rtnetlink.Message:
    """What ``set_up`` asks of the kernel."""
    return rtnetlink.set_link(link.index, up=True)


def set_down(net: Net, link: Link) -> None:
    """Set the link down. The kernel drops its IPv6 addresses, unless told to keep them."""
    net.do("set down the link", link.name, rtnetlink.set_link(link.index, up=False))


def set_mtu(net: Net, link: Link, mtu: int) -> None:
    """Set the MTU in bytes; ``InvalidMtu``, or ``Refused`` when the driver cannot."""
    check_mtu(mtu)
    net.do(f"set the MTU {mtu} of", link.name, rtnetlink.set_link(link.index, mtu=mtu))


def rename_link(net: Net, link: Link, name: str) -> None:
    """Give the link another name; ``NameTaken`` when another link has it."""
    check_name(name)
    try:
        message = rtnetlink.set_link(link.index, name=name)
        net.do(f"rename to {name} the link", link.name, message)
    except AlreadyThere:
        raise NameTaken(
            f"rename to {name} the link",
            link.name,
            "another link of the namespace has that name",
            "delete that one, or choose another name",
        ) from None


def _link(body: bytes) -> Link:
    found = rtnetlink.read_link(body)
    mode = found.macvlan_mode
    return Link(
        index=found.index,
        name=found.name,
        kind=found.kind,
        mac=found.mac,
        mtu=found.mtu,
        up=bool(found.flags & rtnetlink.UP),
        carrier=found.carrier,
        parent=found.parent,
        parent_netns=found.parent_netns,
        master=found.master,
        vlan_id=found.vlan_id,
        macvlan_mode=None if mode is None else _MACVLAN_MODES.get(mode, str(mode)),
        settings=found.settings,
    )
