"""XFRM: the kernel's IPsec policies, listed, added, replaced and deleted; its states, read.

A policy is known by its direction, selector and mark: two with the same cannot be at once,
whoever made them. Source: linux/xfrm.h, ip-xfrm(8). The kernel accepts policies without ESP:
``esp_missing`` asks for a state of it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

from hostnet.errors import KernelError, from_errno
from hostnet.kernel import run_in
from hostnet.netfilter import talk
from hostnet.netlink import Net
from hostnet.netns import anonymous_netns
from hostnet.rtnetlink import (
    ACK,
    CREATE,
    DUMP,
    EXCLUSIVE,
    Message,
    attribute,
    attributes,
    packed,
)

Direction = Literal["in", "out", "fwd"]
Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

XFRM: Final = 6
"""NETLINK_XFRM."""

_NEWSA, _DELSA, _GETSA = 0x10, 0x11, 0x12
_NEWPOLICY, _DELPOLICY, _GETPOLICY, _UPDPOLICY = 0x13, 0x14, 0x15, 0x19
_TMPL, _AEAD, _MARK = 5, 18, 21
_DIRECTIONS: Final[tuple[Direction, ...]] = ("in", "out", "fwd")
_ESP: Final = socket.IPPROTO_ESP
_TUNNEL: Final = 1
_ALL = 0xFFFFFFFF
_FOREVER = struct.pack("=8Q", *(2**64 - 1,) * 4, *(0,) * 4)
_TRIES = 5
_BATCH = 100
"""Messages in one system call; their acknowledgements must fit into the socket's buffer."""

# Native alignment: as the compiler lays out the kernel's structures on this machine.
_SELECTOR = struct.Struct("@16s16s4sHHHBBBiI")
_POLICY = struct.Struct("@56s64s32sIIBBBB4x")
_POLICY_ID = struct.Struct("@56sIB3x")
_TEMPLATE = struct.Struct("@16s4sB3xH2x16sIBBBxIII")
_STATE = struct.Struct("@56s16s4sB3x16s64s32s12sIIHBBB7x")
_STATE_ID = struct.Struct("@16s4sHBx")
_MARKED = struct.Struct("=II")
_AEAD_HEAD = struct.Struct("=64sII")


@dataclass(frozen=True, slots=True)
class Template:
    """An ESP tunnel from ``source`` to ``target``; ``source`` may be the unspecified address, which
    is any for what comes in. ``reqid``: of the states that serve it, 0 for any. ``optional``: what
    comes in without a tunnel passes as well."""

    source: Address
    target: Address
    reqid: int
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """``block``: dropped; with a template: only through, or from, that tunnel; else let through.
    ``protocol``, ``port`` (of the destination): 0 for all. Of two that match a packet the one with
    the smaller ``priority`` counts. ``mark``, ``mask``: of the packet's mark, 0 for any."""

    direction: Direction
    source: Network
    destination: Network
    priority: int
    block: bool = False
    template: Template | None = None
    protocol: int = 0
    port: int = 0
    mark: int = 0
    mask: int = 0

    @property
    def identity(self) -> tuple[object, ...]:
        """What the kernel knows it by."""
        return (
            self.direction,
            self.source,
            self.destination,
            self.protocol,
            self.port,
            self.mark,
            self.mask,
        )


@dataclass(frozen=True, slots=True)
class State:
    """A security association. ``age`` is not in it: ``added`` is when it was made (Unix seconds);
    ``spi`` 0: one that the kernel still waits for."""

    source: Address
    target: Address
    protocol: int
    spi: int
    reqid: int
    mark: int
    mask: int
    packets: int
    added: int


@dataclass(frozen=True, slots=True)
class Change:
    """What to do with one policy. add: an error where one with its identity is there; replace: in
    one step, no packet in between sees neither; delete: nothing where it is gone."""

    verb: Literal["add", "replace", "delete"]
    policy: Policy


def list_policies(net: Net) -> list[Policy]:
    """All policies that this type can tell: of sockets, with several templates, with ranges of
    ports, for other protocols than ESP tunnels there may be more, which are somebody else's."""
    found = (_read_policy(body) for body in _dump(net, _GETPOLICY, b"", "the IPsec policies"))
    return [policy for policy in found if policy is not None]


def list_states(net: Net) -> list[State]:
    """All states. Their keys come along from the kernel and are not kept."""
    found = (_read_state(body) for body in _dump(net, _GETSA, b"", "the IPsec states"))
    return [state for state in found if state is not None]


def change_policies(net: Net, changes: Sequence[Change]) -> list[tuple[Change, KernelError]]:
    """Carries the changes out in their order, many in one system call; those that the kernel
    refused, with why. ``NotPermitted``, ``NotSupported`` where none can be."""
    refused = []
    for begin in range(0, len(changes), _BATCH):
        batch = changes[begin : begin + _BATCH]
        messages = [_message(change) for change in batch]
        for at, code, text in _acknowledged(net, "change", "the IPsec policies", messages):
            change = batch[at]
            if code == 0:
                net.changed(f"xfrm policy {change.verb}")
            elif change.verb != "delete" or code not in (errno.ENOENT, errno.ESRCH):
                which = f"the IPsec policy {_words(change.policy)}"
                refused.append((change, from_errno(code, text, change.verb, which)))
    return refused


def delete_states(net: Net, states: Sequence[State]) -> None:
    """Deletes the states; those that are gone are passed over."""
    for begin in range(0, len(states), _BATCH):
        batch = states[begin : begin + _BATCH]
        messages = [_state_message(state) for state in batch]
        for at, code, text in _acknowledged(net, "delete", "IPsec states", messages):
            if code == 0:
                net.changed("xfrm state delete")
            elif code != errno.ESRCH:
                state = batch[at]
                which = f"the IPsec state {state.source} to {state.target}, SPI {state.spi:#x}"
                raise from_errno(code, text, "delete", which)


def esp_missing() -> str:
    """Why this kernel has no ESP with AES-GCM; empty where it has. Asked in a network namespace
    that is gone at once."""
    key = bytes(36)
    body = _STATE.pack(
        _SELECTOR.pack(bytes(16), bytes(16), bytes(4), 0, 0, 0, 0, 0, 0, 0, 0),
        ip_address("192.0.2.2").packed.ljust(16, b"\0"),
        (0x1000).to_bytes(4, "big"),
        _ESP,
        ip_address("192.0.2.1").packed.ljust(16, b"\0"),
        _FOREVER,
        bytes(32),
        bytes(12),
        0,
        1,
        socket.AF_INET,
        _TUNNEL,
        0,
        0,
    )
    algorithm = _AEAD_HEAD.pack(b"rfc4106(gcm(aes))", len(key) * 8, 128) + key
    message = Message(_NEWSA, CREATE | EXCLUSIVE, body + attribute(_AEAD, algorithm), "")

    def ask(net: Net) -> str:
        for _, code, text in _acknowledged(net, "try", "ESP", [message]):
            if code:
                error = from_errno(code, text, "add", "a state of ESP with AES-GCM")
                return f"{error.why}; load the modules esp4, esp6 and gcm, or use another kernel"
        return ""

    with anonymous_netns() as netns:
        try:
            return run_in(netns, ask)
        except KernelError as error:
            return f"{error.why}; load the module xfrm_user, or use a kernel with IPsec"


def _acknowledged(
    net: Net, what: str, which: str, messages: Sequence[Message]
) -> Iterator[tuple[int, int, str]]:
    """Sends the messages together; for each its place, the kernel's number and its words."""
    if not messages:
        return
    data = b"".join(packed(message, at, ACK) for at, message in enumerate(messages))
    left = len(messages)
    for part in talk(net, what, which, data, protocol=XFRM):
        if part.code is not None:
            yield part.sequence, part.code, part.text
            left -= 1
            if not left:
                return


def _dump(net: Net, kind: int, body: bytes, which: str) -> list[bytes]:
    for _ in range(_TRIES):
        whole, bodies = True, []
        for part in talk(
            net, "list", which, packed(Message(kind, DUMP, body, ""), 1), protocol=XFRM
        ):
            if part.code:
                raise from_errno(part.code, part.text, "list", which)
            whole = whole and not part.interrupted
            if part.code == 0:
                break
            bodies.append(part.body)
        if whole:
            return bodies
    raise from_errno(errno.EAGAIN, "the list changed while it was read", "list", which)


def _message(change: Change) -> Message:
    policy = change.policy
    mark = attribute(_MARK, _MARKED.pack(policy.mark, policy.mask)) if policy.mask else b""
    direction = _DIRECTIONS.index(policy.direction)
    if change.verb == "delete":
        body = _POLICY_ID.pack(_selector(policy), 0, direction)
        return Message(_DELPOLICY, 0, body + mark, "")
    body = _POLICY.pack(
        _selector(policy), _FOREVER, bytes(32), policy.priority, 0, direction, policy.block, 0, 0
    )
    if policy.template is not None:
        body += attribute(_TMPL, _template(policy.template))
    kind = _NEWPOLICY if change.verb == "add" else _UPDPOLICY
    return Message(kind, 0, body + mark, "")


def _state_message(state: State) -> Message:
    body = _STATE_ID.pack(
        state.target.packed.ljust(16, b"\0"),
        state.spi.to_bytes(4, "big"),
        _family(state.target),
        state.protocol,
    )
    mark = attribute(_MARK, _MARKED.pack(state.mark, state.mask)) if state.mask else b""
    return Message(_DELSA, 0, body + mark, "")


def _selector(policy: Policy) -> bytes:
    if policy.source.version != policy.destination.version:
        raise ValueError(f"{policy.source} and {policy.destination} are of different families")
    ports = struct.pack("!HHHH", policy.port, 0xFFFF if policy.port else 0, 0, 0)
    return _SELECTOR.pack(
        policy.destination.network_address.packed.ljust(16, b"\0"),
        policy.source.network_address.packed.ljust(16, b"\0"),
        ports[:4],
        0,
        0,
        _family(policy.destination.network_address),
        policy.destination.prefixlen,
        policy.source.prefixlen,
        policy.protocol,
        0,
        0,
    )


def _template(template: Template) -> bytes:
    if template.source.version != template.target.version:
        raise ValueError(f"{template.source} and {template.target} are of different families")
    return _TEMPLATE.pack(
        template.target.packed.ljust(16, b"\0"),
        bytes(4),
        _ESP,
        _family(template.target),
        template.source.packed.ljust(16, b"\0"),
        template.reqid,
        _TUNNEL,
        0,
        template.optional,
        # Whatever algorithms the state has.
        _ALL,
        _ALL,
        _ALL,
    )


def _read_policy(body: bytes) -> Policy | None:
    selector, _, _, priority, _, direction, action, _, _ = _POLICY.unpack_from(body)
    read = _read_selector(selector)
    if direction >= len(_DIRECTIONS) or read is None:
        return None
    source, destination, protocol, port = read
    found = attributes(body, _POLICY.size)
    templates = found.get(_TMPL, b"")
    template = None
    if templates:
        template = _read_template(templates)
        if template is None:
            return None
    mark, mask = _MARKED.unpack(found[_MARK]) if _MARK in found else (0, 0)
    return Policy(
        _DIRECTIONS[direction],
        source,
        destination,
        priority,
        block=action == 1,
        template=template,
        protocol=protocol,
        port=port,
        mark=mark,
        mask=mask,
    )


def _read_selector(data: bytes) -> tuple[Network, Network, int, int] | None:
    values = _SELECTOR.unpack(data)
    target, source, ports, sport, sport_mask, family, long, short, protocol, index, user = values
    if family not in (socket.AF_INET, socket.AF_INET6) or sport or sport_mask or index or user:
        return None
    port, mask = struct.unpack("!HH", ports)
    if mask not in (0, 0xFFFF):
        return None
    networks = [
        ip_network((_address(address, family), length), strict=False)
        for address, length in ((source, short), (target, long))
    ]
    return networks[0], networks[1], protocol, port


def _read_template(data: bytes) -> Template | None:
    if len(data) != _TEMPLATE.size:
        return None
    target, spi, protocol, family, source, reqid, mode, _, optional, _, _, _ = _TEMPLATE.unpack(
        data
    )
    if protocol != _ESP or mode != _TUNNEL or any(spi):
        return None
    return Template(_address(source, family), _address(target, family), reqid, bool(optional))


def _read_state(body: bytes) -> State | None:
    values = _STATE.unpack_from(body)
    _, target, spi, protocol, source, _, current, _, _, reqid, family, _, _, _ = values
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = attributes(body, _STATE.size)
    mark, mask = _MARKED.unpack(found[_MARK]) if _MARK in found else (0, 0)
    _, packets, added, _ = struct.unpack("=4Q", current)
    return State(
        _address(source, family),
        _address(target, family),
        protocol,
        int.from_bytes(spi, "big"),
        reqid,
        mark,
        mask,
        packets,
        added,
    )


def _address(data: bytes, family: int) -> Address:
    return ip_address(data[:4] if family == socket.AF_INET else data)


def _family(address: Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def _words(policy: Policy) -> str:
    mark = f" mark {policy.mark:#x}/{policy.mask:#x}" if policy.mask else ""
    return f"{policy.direction} {policy.source} to {policy.destination}{mark}"
