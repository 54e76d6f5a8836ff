"""Asking on a link whether somebody has an address: ARP and neighbour solicitation.

Source: RFC 826 and RFC 5227 (a request without a sender's address changes no cache), RFC 4861,
4.3 and 7.2, packet(7). The packets are pure functions.
"""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from hostnet.announce import checksum
from hostnet.errors import InvalidValue, LinkDown, from_errno
from hostnet.links import Link, get_link
from hostnet.netlink import Net

_BROADCAST: Final = b"\xff" * 6
_ARP, _IPV6, _ALL_PROTOCOLS = 0x0806, 0x86DD, 0x0003
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_AGAIN: Final = 0.25
_OUTGOING: Final = 4


def arp_request(mac: bytes, target: IPv4Address, source: IPv4Address | None) -> bytes:
    """The Ethernet frame that asks who has the target; without a source an ARP probe."""
    sender = b"\0" * 4 if source is None else source.packed
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, sender, bytes(6), target.packed)
    return (_BROADCAST + mac + struct.pack("!H", _ARP) + body).ljust(60, b"\0")


def neighbour_solicitation(mac: bytes, target: IPv6Address, source: IPv6Address | None) -> bytes:
    """The Ethernet frame that asks who has the target; without a source one as for duplicate
    address detection, which is answered to all nodes."""
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(target) & 0xFFFFFF)
    option = b"" if source is None else struct.pack("!BB6s", 1, 1, mac)
    rest = struct.pack("!I16s", 0, target.packed) + option
    sender = b"\0" * 16 if source is None else source.packed
    length = 4 + len(rest)
    pseudo = struct.pack("!16s16sI3xB", sender, group.packed, length, _ICMPV6)
    total = checksum(pseudo + struct.pack("!BBH", _SOLICITATION, 0, 0) + rest)
    head = struct.pack("!IHBB16s16s", 6 << 28, length, _ICMPV6, 255, sender, group.packed)
    ethernet = b"\x33\x33" + group.packed[-4:] + mac + struct.pack("!H", _IPV6)
    return ethernet + head + struct.pack("!BBH", _SOLICITATION, 0, total) + rest


def answer_in(frame: bytes, target: IPv4Address | IPv6Address) -> str | None:
    """The hardware address that the frame says the target has; None where it says nothing."""
    kind = struct.unpack_from("!H", frame, 12)[0] if len(frame) >= 14 else 0
    if isinstance(target, IPv4Address):
        if kind == _ARP and len(frame) >= 42 and frame[28:32] == target.packed:
            return frame[22:28].hex(":")
        return None
    if kind != _IPV6 or len(frame) < 78 or (frame[20], frame[21]) != (_ICMPV6, 255):
        return None
    answers = frame[54] == _ADVERTISEMENT and frame[62:78] == target.packed
    return frame[6:12].hex(":") if answers else None


def who_has(
    net: Net,
    link: Link,
    target: IPv4Address | IPv6Address,
    *,
    source: IPv4Address | IPv6Address | None = None,
    wait: float = 1.0,
) -> str | None:
    """The hardware address of who answers for the target on the link; None after ``wait`` seconds
    without an answer. Asks four times a second. Errors: ``LinkMissing``, ``NotPermitted``."""
    if not net.entered:
        raise RuntimeError("this Net's thread is in another namespace: packets would miss")
    what = f"ask who has {target} on"
    now = get_link(net, link.index)
    mac = bytes.fromhex(now.mac.replace(":", ""))
    if len(mac) != 6:
        raise InvalidValue(what, now.name, "it is no Ethernet link", "ask on another one")
    if isinstance(target, IPv4Address):
        request = arp_request(mac, target, source if isinstance(source, IPv4Address) else None)
    else:
        own = source if isinstance(source, IPv6Address) else None
        request = neighbour_solicitation(mac, target, own)
    deadline = time.monotonic() + wait
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as asking:
            asking.bind((now.name, _ALL_PROTOCOLS))
            while (left := deadline - time.monotonic()) > 0:
                # Without a carrier the frame is lost; the next one may not be.
                asking.send(request)
                if (found := _heard(asking, target, min(left, _AGAIN))) is not None:
                    return found
    except OSError as error:
        known = from_errno(error.errno or 0, "", what, now.name)
        if isinstance(known, LinkDown):
            return None
        raise known from None
    return None


def _heard(asking: socket.socket, target: IPv4Address | IPv6Address, wait: float) -> str | None:
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        asking.settimeout(left)
        try:
            frame, origin = asking.recvfrom(2048)
        except TimeoutError:
            return None
        if origin[2] != _OUTGOING and (found := answer_in(frame, target)) is not None:
            return found
    return None
