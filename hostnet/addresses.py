"""IP addresses of links: adding, listing, deleting; all may be repeated.

Source: rtnetlink(7); RFC 4862 for duplicate address detection, which ``nodad`` leaves out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from hostnet import rtnetlink
from hostnet.errors import AlreadyThere, Ipv6Missing, NotPermitted, NotSupported, NotThere
from hostnet.links import Link
from hostnet.netlink import Net

Interface = IPv4Interface | IPv6Interface
_NODAD = 0x02
_DADFAILED = 0x08
_TENTATIVE = 0x40
_PERMANENT = 0x80
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host"}


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a link. ``tentative``: IPv6 that is not usable yet; ``failed``: never;
    ``permanent``: without an end, so not leased by DHCP or a router's advertisement."""

    link: int
    interface: Interface
    scope: str
    tentative: bool = False
    failed: bool = False
    permanent: bool = True


def add_address(net: Net, link: Link, interface: Interface, *, nodad: bool = True) -> bool:
    """Give the link the address; False when it had exactly that one already.

    ``nodad`` (IPv6): usable at once, for addresses that are unique by construction. Errors:
    ``AlreadyThere`` (the address with another prefix length), ``Ipv6Missing``.
    """
    what = f"add the address {interface} to"
    try:
        net.do(what, link.name, address_request(link, interface, nodad=nodad))
    except AlreadyThere as error:
        if any(a.interface == interface for a in list_addresses(net, link)):
            return False
        raise AlreadyThere(
            what,
            link.name,
            "it has the address with another prefix length",
            "delete that one first",
            errno=error.errno,
        ) from None
    except (NotSupported, NotPermitted) as error:
        # The kernel says EACCES where IPv6 is switched off for the link.
        if interface.version == 4:
            raise
        raise Ipv6Missing(
            what,
            link.name,
            f"IPv6 is switched off there ({error.why})",
            "set disable_ipv6=0 for the link, or use a kernel with IPv6",
            errno=error.errno,
        ) from None
    return True


def address_request(link: Link, interface: Interface, *, nodad: bool = True) -> rtnetlink.Message:
    """What ``add_address`` asks of the kernel."""
    broadcast = None
    if interface.version == 4 and interface.network.prefixlen < 31:
        broadcast = interface.network.broadcast_address.packed
    return rtnetlink.set_address(
        rtnetlink.NEWADDR,
        link.index,
        interface.ip.packed,
        interface.network.prefixlen,
        broadcast=broadcast,
        flags=_NODAD if interface.version == 6 and nodad else 0,
    )


def delete_address(net: Net, link: Link, interface: Interface) -> bool:
    """Take the address from the link; False when it had none such."""
    message = rtnetlink.set_address(
        rtnetlink.DELADDR, link.index, interface.ip.packed, interface.network.prefixlen
    )
    try:
        net.do(f"delete the address {interface} of", link.name, message)
    except NotThere:
        return False
    return True


def list_addresses(net: Net, link: Link | None = None) -> list[Address]:
    """The addresses of the link, or of all links; both families."""
    filters = {} if link is None else {"index": link.index}
    which = "the namespace" if link is None else link.name
    messages = net.look("list the addresses of", which, "addr", "dump", **filters)
    return [_address(message) for message in messages]


def _address(message: Any) -> Address:
    # Of a point-to-point address IFA_ADDRESS is the other end, IFA_LOCAL our own.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    if flags is None:
        flags = message["flags"]
    return Address(
        link=message["index"],
        interface=ipaddress.ip_interface(f"{own}/{message['prefixlen']}"),
        scope=_SCOPES.get(message["scope"], str(message["scope"])),
        tentative=bool(flags & _TENTATIVE),
        failed=bool(flags & _DADFAILED),
        permanent=bool(flags & _PERMANENT),
    )
