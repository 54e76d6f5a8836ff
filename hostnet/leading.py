"""The settings by which a host leads others' packets on, of both families."""

from __future__ import annotations

from typing import Final

from hostnet.errors import Ipv6Missing
from hostnet.links import list_links
from hostnet.netlink import Net
from hostnet.routes import list_routes
from hostnet.sysctls import has_ipv6, read_sysctl, write_sysctl

FORWARDING: Final = (
    ("1", "ipv4", "conf", "all", "forwarding"),
    ("1", "ipv6", "conf", "all", "forwarding"),
    ("0", "ipv4", "conf", "all", "send_redirects"),
)
"""The value and the sysctl."""

_ROUTER: Final = 9
"""The protocol of routes from router advertisements (rtnetlink(7))."""


def ensure_forwarding(net: Net) -> list[str]:
    """Sets them; what was changed, in words."""
    done = []
    if has_ipv6() and read_sysctl(net, "ipv6", "conf", "all", "forwarding") != "1":
        # A router takes no routes of other routers, unless told to: those it has would go.
        links = {link.index: link.name for link in list_links(net)}
        told = {found.link for found in list_routes(net) if found.protocol == _ROUTER}
        for index in told & links.keys():
            done += set_in_words(net, "2", "ipv6", "conf", links[index], "accept_ra")
    for value, *path in FORWARDING:
        done += set_in_words(net, value, *path)
    return done


def set_in_words(net: Net, value: str, *path: str) -> list[str]:
    """Sets a sysctl; what was changed, in words. Nothing where the kernel has no IPv6."""
    try:
        before = write_sysctl(net, value, *path)
    except Ipv6Missing:
        return []
    return [] if before == value else [f"set net/{'/'.join(path)} from {before} to {value}"]
