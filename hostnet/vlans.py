"""802.1Q VLAN interfaces: made where missing, checked where present.

Source: IEEE 802.1Q (identifiers 1 to 4094), net/8021q in the kernel.
"""

from __future__ import annotations

import hashlib

from hostnet.errors import (
    AlreadyThere,
    InvalidValue,
    LinkMissing,
    NotThatVlan,
    ParentMissing,
    VlanIdTaken,
)
from hostnet.links import (
    NAME_BYTES,
    Link,
    check_mtu,
    check_name,
    find_link,
    get_link,
    list_links,
    set_mtu,
    set_up,
)
from hostnet.netlink import Net


def vlan_name(parent: str, vlan_id: int) -> str:
    """The usual name PARENT.ID, within 15 bytes.

    Where that is too long: the beginning of the parent's name, "~", the first three digits
    of its SHA-256 (so that two parents with the same beginning differ), "." and the id.
    """
    name = f"{parent}.{vlan_id}"
    if len(name.encode()) <= NAME_BYTES:
        return name
    tail = f"~{hashlib.sha256(parent.encode()).hexdigest()[:3]}.{vlan_id}"
    head = parent.encode()[: NAME_BYTES - len(tail)]
    return head.decode(errors="ignore") + tail


def ensure_vlan(
    net: Net, parent: str, vlan_id: int | None, *, name: str | None = None, mtu: int = 0
) -> Link:
    """The interface for ``vlan_id`` on ``parent``, made if missing; it and its parent are up.

    ``vlan_id`` None or 0 means untagged: the parent itself. ``name`` None: ``vlan_name``.
    ``mtu`` 0: the parent's for a new one, left alone for an existing one (and untagged).
    Any number of callers may do it at once. Errors: ``ParentMissing``, ``InvalidValue`` (the
    id), ``InvalidName``, ``InvalidMtu``, ``NotThatVlan`` (a link has the name and is another
    thing), ``VlanIdTaken`` (the parent has the VLAN under another name), ``NotSupported``.
    """
    below = find_link(net, parent)
    if below is None:
        raise ParentMissing(
            f"make VLAN {vlan_id or 0} on", parent, "there is no such link", "make it first"
        )
    if vlan_id is not None and not 0 <= vlan_id <= 4094:
        raise InvalidValue(
            "use the VLAN id", str(vlan_id), "ids go from 1 to 4094", "give 0 for untagged"
        )
    if not below.up:
        set_up(net, below)
    if not vlan_id:
        return below if below.up else get_link(net, parent)

    name = check_name(name if name is not None else vlan_name(parent, vlan_id))
    check_mtu(mtu, below)
    found = find_link(net, name)
    if found is None:
        found = _make(net, below, vlan_id, name, mtu)
    if (found.kind, found.vlan_id, found.parent) != ("vlan", vlan_id, below.index):
        raise NotThatVlan(
            f"make VLAN {vlan_id} on",
            parent,
            f"the link {name} exists and is {_described(found)}",
            "delete or rename that one, or choose another name",
        )
    if mtu and found.mtu != mtu:
        set_mtu(net, found, mtu)
    if not found.up:
        set_up(net, found)
    return get_link(net, found.index)


def _make(net: Net, below: Link, vlan_id: int, name: str, mtu: int) -> Link:
    what = f"make VLAN {vlan_id} on"
    values = {"mtu": mtu} if mtu else {}
    try:
        net.change(
            what,
            below.name,
            "link",
            "add",
            kind="vlan",
            ifname=name,
            link=below.index,
            vlan_id=vlan_id,
            **values,
        )
    except AlreadyThere:
        # Somebody was faster, or the parent carries this VLAN under another name.
        found = find_link(net, name)
        if found is not None:
            return found
        for other in list_links(net):
            if (other.kind, other.vlan_id, other.parent) == ("vlan", vlan_id, below.index):
                raise VlanIdTaken(
                    what,
                    below.name,
                    f"it has this VLAN already, as {other.name}",
                    f"use the name {other.name}, or delete that link",
                ) from None
        raise
    except LinkMissing as error:
        raise ParentMissing(what, below.name, error.why, "it was just deleted") from None
    return get_link(net, name)


def _described(link: Link) -> str:
    if link.kind == "vlan":
        return f"VLAN {link.vlan_id} on the link with index {link.parent}"
    return f"a {link.kind}" if link.kind else "a network card"
