"""Netlink messages as bytes: what is packed has the form the kernel reads, and so has an answer."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostnet import rtnetlink
from hostnet.route_messages import set_route


def sent(message: rtnetlink.Message) -> tuple[int, int, bytes]:
    """Type, flags and body as they stand in the bytes."""
    data = rtnetlink.packed(message, 7, rtnetlink.ACK)
    size, kind, flags, sequence, port = struct.unpack_from("=IHHII", data)
    assert (size, sequence, port) == (len(data), 7, 0)
    return kind, flags, data[16:]


def test_a_request_says_that_it_is_one_and_asks_for_an_acknowledgement() -> None:
    kind, flags, _ = sent(rtnetlink.delete_link(9))
    assert (kind, flags) == (rtnetlink.DELLINK, rtnetlink.REQUEST | rtnetlink.ACK)


def test_a_new_macvlan_lies_on_its_parent_in_its_namespace() -> None:
    kind, flags, body = sent(rtnetlink.add_macvlan("eth0", 5, 11, 4, "02:00:00:00:00:01", 1400))
    assert kind == rtnetlink.NEWLINK
    assert flags & (rtnetlink.CREATE | rtnetlink.EXCLUSIVE) == 0x600
    made = rtnetlink.read_link(body)
    assert (made.name, made.kind, made.parent) == ("eth0", "macvlan", 5)
    assert (made.mac, made.mtu, made.macvlan_mode) == ("02:00:00:00:00:01", 1400, 4)
    assert rtnetlink.attributes(body, 16)[28] == struct.pack("=I", 11)


def test_what_a_macvlan_leaves_to_the_kernel_is_not_sent() -> None:
    _, _, body = sent(rtnetlink.add_macvlan("eth0", 5, 11, 4, None, 0))
    assert not rtnetlink.attributes(body, 16).keys() & {1, 4}


def test_a_route_that_is_taken_away_matches_whoever_made_it() -> None:
    _, _, body = sent(set_route("del", 3, bytes(4), 0, scope=0, table=254))
    assert (body[5], body[7]) == (0, 0)


def test_a_table_beyond_a_byte_stands_in_its_attribute() -> None:
    _, _, body = sent(set_route("add", 3, bytes(4), 0, scope=0, table=1000))
    assert body[4] == 0
    assert rtnetlink.attributes(body, 12)[15] == struct.pack("=I", 1000)


def error(code: int, text: bytes = b"") -> bytes:
    """An answer with a number and the kernel's words, as with NETLINK_CAP_ACK and EXT_ACK."""
    said = struct.pack("=HH", 4 + len(text) + 1, 1) + text + b"\0" if text else b""
    body = struct.pack("=i", -code) + bytes(16) + said + bytes(-len(said) & 3)
    return struct.pack("=IHHII", 16 + len(body), rtnetlink.ERROR, 0x300, 1, 0) + body


def test_an_answer_has_the_kernels_number_and_words() -> None:
    (part,) = rtnetlink.parts(error(errno.EBUSY, b"Device is busy"))
    assert (part.code, part.text) == (errno.EBUSY, "Device is busy")


def test_an_acknowledgement_is_the_number_zero() -> None:
    (part,) = rtnetlink.parts(error(0))
    assert (part.code, part.text) == (0, "")


def test_messages_of_one_datagram_come_apart() -> None:
    found = list(rtnetlink.parts(error(0) + error(errno.EPERM)))
    assert [part.code for part in found] == [0, errno.EPERM]


@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail_otherwise_than_it_says(data: bytes) -> None:
    try:
        for part in rtnetlink.parts(data):
            rtnetlink.attributes(part.body)
    except ValueError:
        pass


@pytest.mark.parametrize("size", [0, 3, 5, 17])
def test_an_address_of_no_family_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="4 or 16"):
        rtnetlink.set_address(rtnetlink.NEWADDR, 1, bytes(size), 8)
