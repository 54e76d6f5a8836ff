"""What a packet on the wire is: its headers from outside in, what lies in it, what was added.

Ethernet frames in, values out. An ESP packet can be opened where its key is known (AES-GCM with a
16 byte check value, RFC 4106), so that what is inside is seen and not believed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Kind = Literal["clear", "esp", "vxlan", "ike", "other"]

ESP: Final = 50
UDP: Final = 17
TCP: Final = 6
NAT_T: Final = 4500
IKE: Final = (500, NAT_T)
VXLAN: Final = 4789
_ETHERNET: Final = 14
_UDP: Final = 8
_VXLAN: Final = 8
_ESP: Final = struct.Struct("!IIQ")
"""SPI, sequence number, initialisation vector."""
_CHECK: Final = 16
_SALT: Final = 4
_VERSIONS: Final = {0x0800: 4, 0x86DD: 6}
_WITH_PORTS: Final = (TCP, UDP, 132)


@dataclass(frozen=True, slots=True)
class Header:
    """An IP header: where it begins in the packet, its whole length as it says itself, the first
    byte behind it and what that is. `ports` (0, 0) where there are none."""

    source: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address
    protocol: int
    start: int
    length: int
    payload: int
    ports: tuple[int, int] = (0, 0)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """As `Flow.key`."""
        return (str(self.source), str(self.target), *self.ports)


@dataclass(frozen=True, slots=True)
class Packet:
    """`kind` of the outermost IP header's traffic; `headers` from outside in; `overhead`: bytes
    that stand around the innermost packet, None where that was not seen."""

    kind: Kind
    headers: tuple[Header, ...]
    overhead: int | None = None

    @property
    def outer_headers(self) -> int | None:
        """IP headers around the innermost packet; None where that was not seen."""
        return None if self.overhead is None else len(self.headers) - 1


def ip_header(data: bytes, start: int, version: int) -> Header | None:
    """The IP header at `start`; None where there is none that is whole."""
    if version == 4 and len(data) >= start + 20 and data[start] >> 4 == 4:
        size = (data[start] & 15) * 4
        length, flags = struct.unpack_from("!HxxH", data, start + 2)
        protocol, fragment = data[start + 9], flags & 0x1FFF
        source = IPv4Address(data[start + 12 : start + 16])
        target = IPv4Address(data[start + 16 : start + 20])
        payload = start + size
        ports = _ports(data, payload, protocol) if not fragment else (0, 0)
        return Header(source, target, protocol, start, length, payload, ports)
    if version == 6 and len(data) >= start + 40 and data[start] >> 4 == 6:
        length = struct.unpack_from("!H", data, start + 4)[0] + 40
        protocol, payload = data[start + 6], start + 40
        fragment = 0
        if protocol == 44 and len(data) >= payload + 8:  # the fragment header
            protocol, fragment = data[payload], struct.unpack_from("!H", data, payload + 2)[0] >> 3
            payload += 8
        six, other = (IPv6Address(data[start + at : start + at + 16]) for at in (8, 24))
        ports = _ports(data, payload, protocol) if not fragment else (0, 0)
        return Header(six, other, protocol, start, length, payload, ports)
    return None


def read(
    frame: bytes,
    pods: Sequence[IPv4Network | IPv6Network],
    keys: Mapping[int, bytes] | None = None,
    vxlan: int = VXLAN,
) -> Packet | None:
    """A frame as a packet, None where it is not IP. `pods`: the networks of all pods; `keys`: of
    ESP by SPI, each with its salt."""
    if len(frame) < _ETHERNET:
        return None
    version = _VERSIONS.get(int.from_bytes(frame[12:14], "big"))
    outer = ip_header(frame, _ETHERNET, version) if version else None
    if outer is None:
        return None
    if outer.protocol == ESP:
        return _esp(frame, outer, outer.payload, keys or {})
    if outer.protocol == UDP and outer.ports[1] == vxlan:
        return _tunnelled(frame, outer)
    if outer.protocol == UDP and NAT_T in outer.ports:
        start = outer.payload + _UDP
        # Four zero bytes where an SPI would be: IKE (RFC 3948).
        if frame[start : start + 4] not in (b"\0\0\0\0", b"\xff"):
            return _esp(frame, outer, start, keys or {})
    if outer.protocol == UDP and set(outer.ports) & set(IKE):
        return Packet("ike", (outer,))
    clear = any(side in network for side in (outer.source, outer.target) for network in pods)
    return Packet("clear" if clear else "other", (outer,), 0 if clear else None)


def esp_keys(state: str) -> dict[int, bytes]:
    """The keys by SPI that `ip xfrm state` tells, of AES-GCM alone."""
    found: dict[int, bytes] = {}
    spi = None
    for words in map(str.split, state.splitlines()):
        if words[:2] == ["proto", "esp"] and "spi" in words:
            spi = int(words[words.index("spi") + 1], 16)
        elif words[:1] == ["aead"] and words[1] == "rfc4106(gcm(aes))" and spi is not None:
            found[spi] = bytes.fromhex(words[2].removeprefix("0x"))
    return found


def opened(data: bytes, key: bytes) -> bytes | None:
    """What an ESP packet (from its SPI to its end) carries; None where the key does not fit it.
    Extended sequence numbers count from 0 here: nothing runs for 2^32 packets."""
    spi, number, vector = _ESP.unpack_from(data)
    sealed = data[_ESP.size :]
    for known in (struct.pack("!II", spi, number), struct.pack("!III", spi, 0, number)):
        try:
            plain = AESGCM(key[:-_SALT]).decrypt(
                key[-_SALT:] + struct.pack("!Q", vector), sealed, known
            )
        except InvalidTag:
            continue
        padding = plain[-2]
        return plain[: -2 - padding]
    return None


def in_ranges(text: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(ip_address(text) in network for network in networks)


def _ports(data: bytes, start: int, protocol: int) -> tuple[int, int]:
    if protocol not in _WITH_PORTS or len(data) < start + 4:
        return (0, 0)
    source, target = struct.unpack_from("!HH", data, start)
    return (source, target)


def _esp(frame: bytes, outer: Header, start: int, keys: Mapping[int, bytes]) -> Packet:
    data = frame[start : outer.start + outer.length]
    key = keys.get(int.from_bytes(data[:4], "big"))
    plain = opened(data, key) if key and len(data) > _ESP.size + _CHECK else None
    if not plain:
        return Packet("esp", (outer,))
    headers = _nested(plain)
    inner = headers[-1].length if headers else 0
    return Packet("esp", (outer, *headers), outer.length - inner)


def _tunnelled(frame: bytes, outer: Header) -> Packet:
    start = outer.payload + _UDP + _VXLAN
    version = _VERSIONS.get(int.from_bytes(frame[start + 12 : start + 14], "big"))
    if not version:
        return Packet("vxlan", (outer,))
    headers = _nested(frame[start + _ETHERNET :])
    inner = headers[-1].length if headers else 0
    return Packet("vxlan", (outer, *headers), outer.length - inner)


def _nested(data: bytes) -> tuple[Header, ...]:
    """The IP headers of a packet, one in another."""
    found: list[Header] = []
    version = data[0] >> 4 if data else 0
    header = ip_header(data, 0, version)
    while header is not None:
        found.append(header)
        if header.protocol == UDP and header.ports[1] == VXLAN:
            at = header.payload + _UDP + _VXLAN + _ETHERNET
        elif header.protocol in (4, 41):  # IP in IP
            at = header.payload
        else:
            break
        header = ip_header(data, at, data[at] >> 4) if len(data) > at else None
    return tuple(found)
