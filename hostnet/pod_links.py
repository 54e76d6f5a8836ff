"""A pod's link brought up: its addresses, itself, its routes, in one request where nothing is in
the way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from hostnet.addresses import Interface, add_address, address_request
from hostnet.errors import RouteConflict
from hostnet.links import Link, set_up, up_request
from hostnet.netlink import Net
from hostnet.routes import Route, add_route, route_request


def bring_up(
    net: Net, link: Link, interfaces: Sequence[Interface], routes: Sequence[Route]
) -> None:
    """Give the link the addresses, set it up, and make those of the routes that nothing else has.

    Errors: as ``add_address``, ``set_up`` and ``add_route``, but for ``RouteConflict``: in a pod
    with several links the first one that brings a route keeps it.
    """
    requests = [
        *(address_request(link, interface) for interface in interfaces),
        up_request(link),
        *(route_request(link, route) for route in routes),
    ]
    if not net.do_many("bring up the link", link.name, requests):
        for request in requests[1:]:
            net.changed(request.step)
        return
    # Each may be repeated, and alone it says what is wrong.
    for interface in interfaces:
        add_address(net, link, interface)
    set_up(net, link)
    for route in routes:
        with suppress(RouteConflict):
            add_route(net, link, route)
