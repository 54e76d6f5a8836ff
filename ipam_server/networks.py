"""The rules for networks and fabrics: pure decisions on what may be declared, changed and deleted.

Inside a fabric an address exists once. Two networks of a fabric either have disjoint subnets, or
they are two clusters' parts of one VLAN: the same VLAN, subnets and mapping, with disjoint ranges.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

import msgspec

from ipam_server.inventory import NetworkState, PoolState, gateway_indices, slot_map, total_of
from ipam_server.owners import check_owner
from ipam_server.records import FabricMemberRecord, FabricRecord, NetworkRecord
from netspace.messages import ChangeNetwork, NewNetwork, Owner
from netspace.problems import Problem, invalid
from netspace.ranges import Ranges
from netspace.slots import SlotError, SlotMap, parse_address, parse_subnet


def declare(new: NewNetwork, uid: str) -> NetworkRecord:
    """The record of a new network, everything in it checked and written in the usual notation."""
    ipv4, ipv6 = _subnet(new.ipv4, 4), _subnet(new.ipv6, 6)
    if new.mapping == "embedded" and (ipv4 is None or ipv6 is None):
        raise invalid("mapping", "embedded needs an IPv4 and an IPv6 subnet")
    record = NetworkRecord(
        uid=uid,
        fabric=new.fabric,
        parent=new.parent,
        vlan=new.vlan,
        ipv4=ipv4,
        ipv6=ipv6,
        gateway4=_gateway(new.gateway4, ipv4, 4),
        gateway6=_gateway(new.gateway6, ipv6, 6),
        mapping=new.mapping,
        mtu=new.mtu,
        range=list(new.range),
        exclude=list(new.exclude),
        services=new.services,
        owner=new.owner,
    )
    slots = _checked(record)
    record = msgspec.structs.replace(
        record,
        range=slots.format_ranges(_spans(slots, record.range, "range")),
        exclude=slots.format_ranges(_spans(slots, record.exclude, "exclude")),
    )
    if not total_of(record):
        raise invalid("network", f"{slots} has no address left that a pod could have")
    return record


def check_reported(networks: Iterable[NewNetwork]) -> None:
    """Refuses what a node says of its cards' address space unless it could be declared."""
    for at, each in enumerate(networks):
        if each.owner is not None:
            raise invalid(f"networks[{at}], {each.name}", "a node's networks are nobody's yet")
        try:
            declare(each, "")
        except Problem as problem:
            raise Problem(
                problem.code, f"networks[{at}], {each.name}: {problem.detail}", do=problem.do
            ) from None


def change(network: NetworkState, name: str, asked: ChangeNetwork) -> NetworkRecord:
    """The record after a change. Addresses in use can be neither excluded nor become a gateway."""
    check_owner("network", name, network.record.owner, asked.owner)
    check_unchanged(f"network {name}", network.revision, asked.revision)
    old = network.record
    fields = {
        field: value
        for field in asked.__struct_fields__
        if field not in ("revision", "owner")
        and (value := getattr(asked, field)) is not msgspec.UNSET
    }
    if not fields:
        raise invalid("change", "it names nothing to change")
    if "gateway4" in fields:
        fields["gateway4"] = _gateway(fields["gateway4"], old.ipv4, 4)
    if "gateway6" in fields:
        fields["gateway6"] = _gateway(fields["gateway6"], old.ipv6, 6)
    if "exclude" in fields:
        spans = _spans(network.slots, fields["exclude"], "exclude")
        fields["exclude"] = network.slots.format_ranges(spans)
    record = msgspec.structs.replace(old, **fields)
    blocked = network.total - total_of(record)
    used = [index for index in network.held if index in blocked]
    if used:
        raise Problem(
            "in-use",
            f"{network.slots.format_ranges(Ranges.single(min(used)))[0]} of network {name}"
            f" is in use, as are {len(used) - 1} more of the addresses to take out",
            do="release them first",
        )
    return record


def check_unchanged(what: str, present: int, seen: int | msgspec.UnsetType) -> None:
    """Refuses a change that was decided on an older version of the thing."""
    if seen is not msgspec.UNSET and seen != present:
        raise Problem(
            "changed",
            f"{what} was changed since you read it",
            do="read it again, then ask again",
        )


def check_delete(
    name: str, network: NetworkState, pools: list[PoolState], acting: Owner | None = None
) -> None:
    """Refuses while a pool lies in the network or anybody but nodes' vmacs holds an address."""
    check_owner("network", name, network.record.owner, acting)
    if pools:
        shown = ", ".join(sorted(pool.name for pool in pools)[:5])
        raise Problem(
            "in-use", f"network {name} has {len(pools)} pools: {shown}", do="delete them first"
        )
    held = sum(not each.holder.vmac for each in network.held.values())
    if held:
        raise Problem(
            "in-use",
            f"{held} addresses of network {name} are held",
            do="release them first",
        )


def joined(fabric: FabricRecord, cluster: str, name: str, record: NetworkRecord) -> FabricRecord:
    """The fabric with the network in it, in place of its earlier self if any; refuses overlap."""
    slots = slot_map(record)
    member = FabricMemberRecord(
        cluster=cluster,
        network=name,
        vlan=record.vlan,
        ipv4=record.ipv4,
        ipv6=record.ipv6,
        mapping=record.mapping,
        ranges=record.range or slots.format_ranges(slots.usable),
        gateways=[each for each in (record.gateway4, record.gateway6) if each is not None],
    )
    others = left(fabric, cluster, name).members
    for other in others:
        _check_apart(fabric.name, member, other)
    return FabricRecord(name=fabric.name, members=[*others, member])


def left(fabric: FabricRecord, cluster: str, name: str) -> FabricRecord:
    """The fabric without the network."""
    return FabricRecord(
        name=fabric.name,
        members=[
            member
            for member in fabric.members
            if (member.cluster, member.network) != (cluster, name)
        ],
    )


def _check_apart(fabric: str, member: FabricMemberRecord, other: FabricMemberRecord) -> None:
    mine, theirs = _subnets(member), _subnets(other)
    if not any(a.overlaps(b) for a in mine for b in theirs if a.version == b.version):
        return
    where = f"network {other.network} of cluster {other.cluster}, in fabric {fabric}"
    same_segment = member.cluster != other.cluster and (mine, member.vlan, member.mapping) == (
        theirs,
        other.vlan,
        other.mapping,
    )
    if not same_segment:
        raise Problem(
            "overlap",
            f"{_shown(member)} overlaps {_shown(other)} of {where}",
            do="choose other subnets; two clusters share one only on the same VLAN,"
            " with the same subnets and disjoint ranges",
        )
    slots = SlotMap(
        IPv4Network(member.ipv4) if member.ipv4 else None,
        IPv6Network(member.ipv6) if member.ipv6 else None,
        member.mapping,
    )
    shared = slots.parse_ranges(member.ranges) & slots.parse_ranges(other.ranges)
    if shared:
        raise Problem(
            "overlap",
            f"{', '.join(slots.format_ranges(shared)[:3])} is in the range of {where} too",
            do="give every cluster on the VLAN a range of its own",
        )
    for one, another in ((member, other), (other, member)):
        inside = slots.parse_ranges(one.ranges)
        for gateway in set(another.gateways) - set(one.gateways):
            if parse_address(gateway).is_link_local or slots.parse_index(gateway) not in inside:
                continue
            raise Problem(
                "overlap",
                f"{gateway} is in the range of network {one.network} of cluster {one.cluster},"
                f" but is the gateway of network {another.network} of cluster {another.cluster}",
                do="name it as the gateway there too, or leave it out of that range",
            )


def _subnets(member: FabricMemberRecord) -> list[IPv4Network | IPv6Network]:
    return [parse_subnet(subnet) for subnet in (member.ipv4, member.ipv6) if subnet is not None]


def _shown(member: FabricMemberRecord) -> str:
    return " and ".join(subnet for subnet in (member.ipv4, member.ipv6) if subnet is not None)


def _subnet(text: str | None, version: int) -> str | None:
    if text is None:
        return None
    try:
        subnet = parse_subnet(text)
    except SlotError as error:
        raise invalid(f"ipv{version}", error) from None
    if subnet.version != version:
        raise invalid(f"ipv{version}", f"{text} is of the other address family")
    if subnet.is_multicast or subnet.is_loopback or subnet.is_link_local or not subnet.prefixlen:
        raise invalid(f"ipv{version}", f"{text} cannot be a pod network's subnet")
    return str(subnet)


def _gateway(text: str | None, subnet: str | None, version: int) -> str | None:
    if text is None:
        return None
    try:
        address = parse_address(text)
    except SlotError as error:
        raise invalid(f"gateway{version}", error) from None
    if address.version != version:
        raise invalid(f"gateway{version}", f"{text} is of the other address family")
    if subnet is None:
        raise invalid(f"gateway{version}", f"{text} has no subnet: the network has no IPv{version}")
    if address.version == 6 and address.is_link_local:
        return str(address)
    if address not in parse_subnet(subnet):
        raise invalid(
            f"gateway{version}", f"{text} is not in {subnet}", do="use an address of the subnet"
        )
    return str(address)


def _spans(slots: SlotMap, texts: list[str], what: str) -> Ranges:
    try:
        return slots.parse_ranges(texts)
    except SlotError as error:
        raise invalid(what, error) from None


def _checked(record: NetworkRecord) -> SlotMap:
    try:
        slots = slot_map(record)
    except SlotError as error:
        raise invalid("network", error) from None
    gateways = gateway_indices(slots, record)
    outside = gateways - slots.usable
    if outside:
        raise invalid("gateway", "the subnet's network or broadcast address cannot be a gateway")
    return slots
