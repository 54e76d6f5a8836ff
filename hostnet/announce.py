"""Telling the neighbours at once which hardware address an IP address has now.

The packets are pure functions; ``announce`` sends them by a packet socket (packet(7)) in
the namespace of the job.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from hostnet.errors import InvalidValue, from_errno
from hostnet.links import Link, get_link
from hostnet.netlink import Net

_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ARP, _IPV6 = 0x0806, 0x86DD
_ICMPV6 = 58
_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2
_CARRIER_POLL = 0.005


def gratuitous_arp_request(mac: bytes, address: IPv4Address) -> bytes:
    """The Ethernet frame of an ARP announcement (RFC 5227, section 3; RFC 5944, 4.6).

    A broadcast request whose sender and target are both ``address``; target MAC zero.
    """
    return _arp(mac, address, operation=1, target_mac=bytes(6))


def gratuitous_arp_reply(mac: bytes, address: IPv4Address) -> bytes:
    """The same as a broadcast reply, for hosts that learn from replies only (RFC 5944, 4.6).

    Here the target MAC is the announced one too.
    """
    return _arp(mac, address, operation=2, target_mac=mac)


def unsolicited_neighbour_advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """The Ethernet frame of an unsolicited Neighbour Advertisement (RFC 4861, 7.2.6 and 4.4).

    From ``address`` to all nodes, hop limit 255, Override set, Solicited and Router not,
    with the target link-layer address option.
    """
    option = struct.pack("!BB6s", _TARGET_LINK_LAYER_ADDRESS, 1, mac)
    rest = struct.pack("!I16s", _OVERRIDE, address.packed) + option
    length = 4 + len(rest)
    pseudo = struct.pack("!16s16sI3xB", address.packed, _ALL_NODES.packed, length, _ICMPV6)
    total = checksum(pseudo + struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + rest)
    icmp = struct.pack("!BBH", _ADVERTISEMENT, 0, total) + rest
    header = struct.pack(
        "!IHBB16s16s", 6 << 28, length, _ICMPV6, 255, address.packed, _ALL_NODES.packed
    )
    return _ALL_NODES_MAC + mac + struct.pack("!H", _IPV6) + header + icmp


def announcements(mac: bytes, addresses: Iterable[IPv4Address | IPv6Address]) -> list[bytes]:
    """The frames for the addresses: both forms of ARP, or an advertisement, for each."""
    frames = []
    for address in addresses:
        if isinstance(address, IPv4Address):
            frames += [gratuitous_arp_request(mac, address), gratuitous_arp_reply(mac, address)]
        else:
            frames.append(unsolicited_neighbour_advertisement(mac, address))
    return frames


def announce(
    net: Net, link: Link, addresses: Iterable[IPv4Address | IPv6Address], *, wait: float = 0.2
) -> bool:
    """Send the announcements from the link, which is up; False if it has no carrier.

    Without a carrier the kernel drops frames silently: one is waited for, ``wait`` seconds
    at most. Errors: ``LinkMissing``, ``LinkDown``, ``NotPermitted``.
    """
    if not net.entered:
        raise RuntimeError("this Net's thread is in another namespace: packets would miss")
    what, which = "announce addresses from", link.name
    deadline = time.monotonic() + wait
    while not (now := get_link(net, link.index)).carrier:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_CARRIER_POLL)
    mac = bytes.fromhex(now.mac.replace(":", ""))
    if len(mac) != 6:
        raise InvalidValue(what, which, "it is no Ethernet link", "leave the announcement out")
    try:
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        # Closing a packet socket waits for an RCU grace period, 5 to 15 ms: not here.
        net.late.callback(sender.close)
        sender.bind((now.name, 0))
        for frame in announcements(mac, addresses):
            sender.send(frame)
    except OSError as error:
        raise from_errno(error.errno or 0, "", what, which) from None
    net.changed("announce")
    return True


def _arp(mac: bytes, address: IPv4Address, *, operation: int, target_mac: bytes) -> bytes:
    body = struct.pack(
        "!HHBBH6s4s6s4s",
        1,
        0x0800,
        6,
        4,
        operation,
        mac,
        address.packed,
        target_mac,
        address.packed,
    )
    # Padded to Ethernet's least size: not every virtual link does it.
    return (_BROADCAST + mac + struct.pack("!H", _ARP) + body).ljust(60, b"\0")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
