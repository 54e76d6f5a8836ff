"""The server's answers: checked against the slot mapping, then turned into a result.

Pure. A node computes the addresses of the slot itself and configures nothing that does not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

from cni_plugins import parsed
from cni_plugins.netconf import NetConf, ipam_routes
from cni_plugins.protocol import CniError
from cni_plugins.results import Ip, Private, Result, Route
from netspace import names
from netspace.messages import Allocation, NetworkView
from netspace.slots import Mapping, SlotError, SlotMap, parse_subnet

INCONSISTENT = 110
"""CNI error code: the server's answer contradicts itself or an earlier one."""


def slot_map(network: NetworkView) -> SlotMap:
    """The network's mapping; `CniError` 110 where its subnets make none."""
    try:
        return _slot_map(network.ipv4, network.ipv6, network.mapping)
    except SlotError as error:
        raise _inconsistent(f"network {network.name}: {error}") from None


@lru_cache(maxsize=64)
def _slot_map(subnet4: str | None, subnet6: str | None, mapping: Mapping) -> SlotMap:
    # A node has few networks and asks for the same ones for every pod.
    ipv4 = None if subnet4 is None else parse_subnet(subnet4)
    ipv6 = None if subnet6 is None else parse_subnet(subnet6)
    if isinstance(ipv4, IPv6Network) or isinstance(ipv6, IPv4Network):
        raise SlotError("its subnets are of the wrong family")
    return SlotMap(ipv4, ipv6, mapping)


def check_allocation(allocation: Allocation, cluster: str) -> None:
    """`CniError` 110 where the answer is for another cluster, has no address, has one that its slot
    does not have, or describes a link or gateway that cannot be."""
    if allocation.cluster != cluster:
        raise _inconsistent(f"it is for the cluster {allocation.cluster!r}, not {cluster}")
    network = allocation.network
    mapping = slot_map(network)
    try:
        index = int(allocation.slot)
        slot4, slot6 = mapping.ipv4_of(index), mapping.ipv6_of(index)
    except (SlotError, ValueError) as error:
        raise _inconsistent(error) from None
    if allocation.ipv4 is None and allocation.ipv6 is None:
        raise _inconsistent("it has no address")
    for given, owned in ((allocation.ipv4, slot4), (allocation.ipv6, slot6)):
        if given is not None and given != str(owned):
            raise _inconsistent(
                f"slot {index} of {network.name} is {owned or 'of the other family'}, not {given}"
            )
    if not names.matches(names.LINK, network.parent):
        raise _inconsistent(f"the parent link {network.parent!r} of {network.name} is no name")
    if network.vlan is not None and not 1 <= network.vlan <= 4094:
        raise _inconsistent(f"{network.name} has no VLAN {network.vlan}: they go from 1 to 4094")
    for gateway, subnet in (
        (network.gateway4, mapping.ipv4),
        (network.gateway6, mapping.ipv6),
    ):
        if gateway is not None:
            _check_gateway(gateway, subnet, network.name)


def result_of(allocation: Allocation, conf: NetConf) -> Result:
    """An IPAM result for a checked answer: both addresses with their gateways, and the default
    routes by them unless the configuration names routes."""
    network = allocation.network
    mapping = slot_map(network)
    ips = []
    for address, subnet, gateway in (
        (allocation.ipv4, mapping.ipv4, network.gateway4),
        (allocation.ipv6, mapping.ipv6, network.gateway6),
    ):
        if address is not None and subnet is not None:
            ips.append(Ip(address=f"{address}/{subnet.prefixlen}", gateway=gateway or ""))
    routes = ipam_routes(conf)
    return Result(
        ips=ips,
        routes=default_routes(ips) if routes is None else routes,
        dns=conf.ipam.dns,
        netspace=Private(
            parent=network.parent,
            vlan=network.vlan,
            mtu=network.mtu,
            network=network.name,
            probe=allocation.probe,
        ),
    )


def default_routes(ips: Sequence[Ip]) -> list[Route]:
    """One default route for each family that has a gateway."""
    return [
        Route(dst="::/0" if ":" in ip.gateway else "0.0.0.0/0", gw=ip.gateway)
        for ip in ips
        if ip.gateway
    ]


def _check_gateway(gateway: str, subnet: IPv4Network | IPv6Network | None, network: str) -> None:
    try:
        address = parsed.address(gateway)
    except ValueError:
        raise _inconsistent(f"the gateway {gateway[:60]!r} of {network} is no address") from None
    if subnet is None or address.version != subnet.version:
        raise _inconsistent(f"the gateway {gateway} of {network} is of a family it has not")


def _inconsistent(why: object) -> CniError:
    return CniError(
        INCONSISTENT,
        "the IPAM server's answer cannot be right",
        f"{why}: nothing was configured; see the server's logs and `netspacectl network show`",
    )
