"""The mapping between slots and addresses: one to one, both ways, from /32 to /8 and /64."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.ranges import Ranges
from netspace.slots import Mapping, SlotError, SlotMap, parse_address, parse_subnet

MAPPINGS: st.SearchStrategy[Mapping] = st.sampled_from(["offset", "embedded"])


@st.composite
def maps(draw: st.DrawFn, mapping: Mapping | None = None) -> SlotMap:
    """Any network there can be, of any size."""
    chosen: Mapping = draw(MAPPINGS) if mapping is None else mapping
    dual = chosen == "embedded" or draw(st.booleans())
    ipv4 = ipv6 = None
    if dual or draw(st.booleans()):
        length = draw(st.integers(8, 32))
        ipv4 = IPv4Network((draw(st.integers(0, 2**32 - 1)), length), strict=False)
    if dual or ipv4 is None:
        longest = 96 if chosen == "embedded" else 128
        if ipv4 is not None:
            longest = min(longest, 128 - (32 - ipv4.prefixlen))
        length = draw(st.integers(32, longest))
        ipv6 = IPv6Network((draw(st.integers(0, 2**128 - 1)), length), strict=False)
    return SlotMap(ipv4, ipv6, chosen)


@given(maps(), st.data())
def test_every_slot_has_its_own_addresses_and_every_address_its_slot(
    slots: SlotMap, data: st.DataObject
) -> None:
    index, other = (data.draw(st.integers(0, slots.count - 1)) for _ in range(2))
    ipv4, ipv6 = slots.ipv4_of(index), slots.ipv6_of(index)
    assert (ipv4 is None) == (slots.ipv4 is None)
    assert (ipv6 is None) == (slots.ipv6 is None)
    assert slots.texts_of(index) == (ipv4 and str(ipv4), ipv6 and str(ipv6))
    if ipv4 is not None and slots.ipv4 is not None:
        assert ipv4 in slots.ipv4
        assert slots.index_of(ipv4) == index
        assert (ipv4 == slots.ipv4_of(other)) == (index == other)
    if ipv6 is not None and slots.ipv6 is not None:
        assert ipv6 in slots.ipv6
        assert slots.index_of(ipv6) == index
        assert (ipv6 == slots.ipv6_of(other)) == (index == other)


@given(maps("embedded"), st.data())
def test_an_embedded_address_ends_in_the_ipv4_address(slots: SlotMap, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, slots.count - 1))
    ipv4, ipv6 = slots.ipv4_of(index), slots.ipv6_of(index)
    assert ipv4 is not None and ipv6 is not None
    assert int(ipv6) & 0xFFFFFFFF == int(ipv4)


@given(maps(), st.integers(0, 2**128 - 1))
def test_an_address_that_belongs_to_no_slot_is_refused_and_never_misread(
    slots: SlotMap, number: int
) -> None:
    for address in (IPv6Address(number), IPv4Address(number % 2**32)):
        try:
            index = slots.index_of(address)
        except SlotError:
            continue
        assert address in (slots.ipv4_of(index), slots.ipv6_of(index))


@given(maps(), st.data())
def test_ranges_written_as_text_read_back_the_same(slots: SlotMap, data: st.DataObject) -> None:
    bounds = data.draw(st.lists(st.integers(0, slots.count - 1), max_size=8))
    ranges = Ranges((min(a, b), max(a, b)) for a, b in zip(bounds[::2], bounds[1::2], strict=False))
    assert slots.parse_ranges(slots.format_ranges(ranges)) == ranges


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "mapping", "count", "usable"),
    [
        ("10.0.0.0/24", None, "offset", 256, (1, 254)),
        ("10.0.0.0/8", None, "offset", 1 << 24, (1, (1 << 24) - 2)),
        # RFC 3021: both addresses of a /31 are hosts'.
        ("10.0.0.0/31", None, "offset", 2, (0, 1)),
        ("10.0.0.7/32", None, "offset", 1, (0, 0)),
        (None, "fd00::/64", "offset", 1 << 64, (1, (1 << 64) - 1)),
        (None, "fd00::/32", "offset", 1 << 96, (1, (1 << 96) - 1)),
        (None, "fd00::/126", "offset", 4, (1, 3)),
        # RFC 6164: no anycast address on a /127.
        (None, "fd00::/127", "offset", 2, (0, 1)),
        (None, "fd00::1/128", "offset", 1, (0, 0)),
        ("10.0.0.0/24", "fd00::/64", "offset", 256, (1, 254)),
        ("10.0.0.0/31", "fd00::/127", "offset", 2, (0, 1)),
        ("10.0.0.0/31", "fd00::/64", "offset", 2, (1, 1)),
        ("10.0.0.0/32", "fd00::/64", "offset", 1, None),
        ("10.0.0.0/32", "fd00::/64", "embedded", 1, (0, 0)),
        ("10.0.0.0/31", "fd00::/96", "embedded", 2, (0, 1)),
        ("10.0.0.0/24", "fd00::/64", "embedded", 256, (1, 254)),
    ],
)
def test_network_broadcast_and_anycast_addresses_are_nobodys(
    ipv4: str | None,
    ipv6: str | None,
    mapping: Mapping,
    count: int,
    usable: tuple[int, int] | None,
) -> None:
    slots = SlotMap(
        IPv4Network(ipv4) if ipv4 else None, IPv6Network(ipv6) if ipv6 else None, mapping
    )
    assert slots.count == count
    assert slots.usable == Ranges([usable] if usable else [])


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "mapping", "why"),
    [
        (None, None, "offset", "needs an IPv4 subnet"),
        ("10.0.0.0/24", None, "embedded", "needs an IPv4 and an IPv6"),
        (None, "fd00::/64", "embedded", "needs an IPv4 and an IPv6"),
        ("10.0.0.0/24", "fd00::/97", "embedded", "/96 or shorter"),
        ("10.0.0.0/24", "fd00::/121", "offset", "fewer addresses"),
    ],
)
def test_subnets_that_have_no_mapping_are_refused(
    ipv4: str | None, ipv6: str | None, mapping: Mapping, why: str
) -> None:
    with pytest.raises(SlotError, match=why):
        SlotMap(IPv4Network(ipv4) if ipv4 else None, IPv6Network(ipv6) if ipv6 else None, mapping)


DUAL = SlotMap(IPv4Network("10.0.0.0/24"), IPv6Network("fd00::/64"))


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("10.0.0.5", (5, 5)),
        (" 10.0.0.5 - 10.0.0.9 ", (5, 9)),
        ("10.0.0.16/28", (16, 31)),
        ("fd00::5", (5, 5)),
        ("fd00::5-fd00::f", (5, 15)),
        ("fd00::10/124", (16, 31)),
    ],
)
def test_addresses_spans_and_subnets_of_either_family_name_slots(
    text: str, interval: tuple[int, int]
) -> None:
    assert DUAL.parse_ranges([text]) == Ranges([interval])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an IP address"),
        ("10.0.0.9-10.0.0.5", "ends before it begins"),
        ("10.0.0.5-fd00::9", "begins in one address family"),
        ("10.0.0.5-10.0.1.5", "is not in"),
        ("fd00::ff-fd00::100", "belongs to no slot"),
        ("fd00::/64", "belongs to no slot"),
        ("10.0.0.5/28", "host bits"),
        ("10.0.0.0/33", "impossible prefix"),
        ("10.0.0.0/", "not a subnet"),
        ("10.0.0.0/-1", "not a subnet"),
        ("10.0.0.0/255.255.255.0", "not a subnet"),
        ("10.0.0.0/\u0662\u0664", "not a subnet"),
        ("10.0.0.\u0665", "not an IP address"),
        ("010.0.0.5", "not an IP address"),
        ("10.0.0.5\n-", "not an IP address"),
        ("10.0.5", "not an IP address"),
        ("0x0a000005", "not an IP address"),
        ("::ffff:10.0.0.5", "not a plain IPv6"),
        ("fd00::5%eth0", "not a plain IPv6"),
        ("fd00::5%", "not an IP address"),
        ("-", "not an IP address"),
        ("a" * 10_000, "not an IP address"),
    ],
)
def test_text_that_is_no_range_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(SlotError, match=why) as caught:
        DUAL.parse_ranges([text])
    assert len(str(caught.value)) < 200


@given(st.text())
def test_hostile_text_is_an_address_or_a_slot_error(text: str) -> None:
    for parse in (parse_address, parse_subnet, DUAL.parse_index, lambda t: DUAL.parse_ranges([t])):
        try:
            parse(text)
        except SlotError as error:
            assert str(error)


@pytest.mark.parametrize("index", [-1, 256])
def test_a_slot_outside_of_the_network_has_no_address(index: int) -> None:
    with pytest.raises(SlotError, match="outside"):
        DUAL.ipv4_of(index)
    with pytest.raises(SlotError, match="outside"):
        DUAL.ipv6_of(index)
