"""The frames that announce an address, taken apart by scapy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6NDOptDstLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from hostnet import announcements
from hostnet.announce import (
    gratuitous_arp_reply,
    gratuitous_arp_request,
    unsolicited_neighbour_advertisement,
)

macs = st.binary(min_size=6, max_size=6).map(lambda b: bytes([b[0] & 0xFC | 0x02]) + b[1:])
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)


def text(mac: bytes) -> str:
    return mac.hex(":")


@given(macs, v4)
def test_an_arp_announcement_asks_everybody_for_its_own_address(
    mac: bytes, address: IPv4Address
) -> None:
    frame = Ether(gratuitous_arp_request(mac, address))
    arp = frame[ARP]
    assert (frame.dst, frame.src, frame.type) == ("ff:ff:ff:ff:ff:ff", text(mac), 0x0806)
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 1)
    assert (arp.hwsrc, arp.hwdst) == (text(mac), "00:00:00:00:00:00")
    assert arp.psrc == arp.pdst == str(address)


@given(macs, v4)
def test_the_reply_form_names_the_hardware_address_twice(mac: bytes, address: IPv4Address) -> None:
    arp = Ether(gratuitous_arp_reply(mac, address))[ARP]
    assert arp.op == 2
    assert arp.hwsrc == arp.hwdst == text(mac)
    assert arp.psrc == arp.pdst == str(address)


@given(macs, v6)
def test_a_neighbour_advertisement_overrides_what_all_nodes_knew(
    mac: bytes, address: IPv6Address
) -> None:
    raw = unsolicited_neighbour_advertisement(mac, address)
    frame = Ether(raw)
    assert (frame.dst, frame.src, frame.type) == ("33:33:00:00:00:01", text(mac), 0x86DD)
    assert (IPv6Address(frame[IPv6].src), frame[IPv6].dst) == (address, "ff02::1")
    assert (frame[IPv6].hlim, frame[IPv6].nh, frame[IPv6].plen) == (255, 58, 32)
    advertisement = frame[ICMPv6ND_NA]
    assert (advertisement.R, advertisement.S, advertisement.O) == (0, 0, 1)
    assert IPv6Address(advertisement.tgt) == address
    assert advertisement[ICMPv6NDOptDstLLAddr].lladdr == text(mac)


@given(macs, v6)
def test_thechecksum_is_the_one_that_scapy_computes(mac: bytes, address: IPv6Address) -> None:
    raw = unsolicited_neighbour_advertisement(mac, address)
    frame = Ether(raw)
    del frame[ICMPv6ND_NA].cksum
    assert bytes(frame) == raw


@given(macs, v4, v6)
def test_frames_are_never_shorter_than_ethernet_allows(
    mac: bytes, four: IPv4Address, six: IPv6Address
) -> None:
    frames = announcements(mac, [four, six])
    assert len(frames) == 3
    assert all(len(frame) >= 60 for frame in frames)
