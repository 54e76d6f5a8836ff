"""What a link sends filtered by rules over its frames, where the kernel can.

Two ways, the first one that the kernel has. nftables' egress hook (Linux 5.16) sees every frame
that leaves a link. tc's clsact (Linux 4.5) sees all but those of packet sockets that ask for no
queueing (PACKET_QDISC_BYPASS, packet(7)). Either one lies in the link's own namespace: to take it
away CAP_NET_ADMIN there is needed.

Source: linux/netfilter/nf_tables.h, nfnetlink.h; linux/pkt_sched.h, pkt_cls.h; rtnetlink(7).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final, Literal

from hostnet.errors import AlreadyThere, NotSupported, NotThere, Refused, from_errno
from hostnet.kernel import run_in
from hostnet.links import Link, get_link
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
from hostnet.sources import Rule, Sources, Template, bpf_program, nft_rule, rules_of, template

Way = Literal["nftables", "tc"]
WAYS: Final[tuple[Way, ...]] = ("nftables", "tc")

_WHAT: Final = "filter what is sent by"
_LACKS: Final = (NotSupported, NotThere, Refused)
"""What kernels say that have no such filter, each in its own words."""
_lacking: dict[Way, bool] = {}
"""What this kernel was found not to have, and to have: asking again may start a search for modules.
Never learnt from a pod's own link, which who may change it can make refuse anything."""


def filter_egress(net: Net, link: Link, own: Sources) -> Way | None:
    """Drops from now on what the link sends under other addresses than its own, as `rules_of`
    says; which way it is done, None where the kernel has none. Whatever filter of ours was there
    before is replaced. What the kernel has and this link refuses is raised."""
    for way in known_ways():
        try:
            _INSTALL[way](net, link, own)
        except _LACKS:
            # The same is said of a link that has just gone.
            get_link(net, link.index)
            if _has(way):
                raise
            continue
        net.changed("egress filter")
        return way
    return None


def filters_egress(net: Net, link: Link, own: Sources) -> bool:
    """Whether the link's filter is there and is this one."""
    for way in known_ways():
        with suppress(*_LACKS):
            if _PRESENT[way](net, link, rules_of(own)):
                return True
    return False


def forget_filter(net: Net, name: str) -> None:
    """Takes away what may be left of the filter of a link that is gone: another link of this name
    would have it."""
    if "nftables" in known_ways():
        with suppress(*_LACKS):
            _talked(net, name, *_batch([_nft(_DELTABLE, 0, attribute(1, _table(name)))]))
            net.changed("egress filter del")


def known_ways() -> tuple[Way, ...]:
    """The ways that this kernel was not found to lack."""
    return tuple(way for way in WAYS if not _lacking.get(way))


def egress_ways() -> tuple[Way, ...]:
    """The ways that this kernel has, tried anew in a namespace of their own. May block."""
    _lacking.clear()
    return tuple(way for way in WAYS if _has(way))


def _has(way: Way) -> bool:
    if way not in _lacking:
        with anonymous_netns() as spare:
            _lacking[way] = run_in(spare, lambda net: _refused(way, net))
    return not _lacking[way]


def _refused(way: Way, net: Net) -> bool:
    try:
        _INSTALL[way](net, get_link(net, "lo"), Sources(bytes(6)))
    except _LACKS:
        return True
    return False


# nftables: a table for each link, in the netdev family.
_NFNL_BEGIN, _NFNL_END, _SUBSYSTEM = 16, 17, 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _GETRULE = 0, 2, 3, 6, 7
_NETDEV, _EGRESS, _DROP = 5, 1, 0
_APPEND: Final = 0x800
_CHAIN: Final = b"egress\0"
_KEPT: Final = 32
"""Requests that are kept: most pods' links have one name and as many addresses."""
_HEAD = struct.Struct("!BBH")


def _install_nft(net: Net, link: Link, own: Sources) -> None:
    for again in (False, True):
        counted, last = _template(link.name, len(own.four), len(own.six) - bool(own.six), again)
        try:
            return _talked(net, link.name, counted.filled(own), last)
        except AlreadyThere:
            if again:
                raise


@lru_cache(_KEPT)
def _template(name: str, four: int, six: int, again: bool) -> tuple[Template, int]:
    """The request for links of this name with so many addresses, and the number of its last
    message; `again`: what is there goes first."""
    last = 0

    def made(own: Sources) -> bytes:
        nonlocal last
        table = attribute(1, _table(name))
        messages = [_nft(_DELTABLE, 0, table)] if again else []
        messages.append(_nft(_NEWTABLE, CREATE | EXCLUSIVE, table))
        data, last = _batch([*messages, *_chain(name, table, rules_of(own))])
        return data

    return template(four, six, made), last


def _chain(name: str, table: bytes, rules: Sequence[Rule]) -> Iterator[Message]:
    hook = attribute(1, _number(_EGRESS)) + attribute(2, _number(0))
    hook += attribute(3, name.encode(errors="surrogateescape") + b"\0")
    body = table + attribute(3, _CHAIN) + attribute(4, hook)
    body += attribute(5, _number(_DROP)) + attribute(7, b"filter\0")
    yield _nft(_NEWCHAIN, CREATE, body)
    for rule in rules:
        body = table + attribute(2, _CHAIN) + attribute(4, nft_rule(rule))
        yield _nft(_NEWRULE, CREATE | _APPEND, body)


def _batch(messages: Sequence[Message]) -> tuple[bytes, int]:
    """One request, of which all is done or nothing, and the number of its last message."""
    *first, last = messages
    begin, end = (
        Message(kind, 0, _HEAD.pack(0, 0, _SUBSYSTEM), "") for kind in (_NFNL_BEGIN, _NFNL_END)
    )
    batch = [begin, *first, last._replace(flags=last.flags | ACK), end]
    data = b"".join(packed(message, at) for at, message in enumerate(batch))
    return data, len(messages)


def _talked(net: Net, name: str, data: bytes, last: int) -> None:
    for part in talk(net, _WHAT, name, data):
        if part.code:
            raise from_errno(part.code, part.text, _WHAT, name)
        if part.code == 0 and part.sequence == last:
            return


def _present_nft(net: Net, link: Link, rules: Sequence[Rule]) -> bool:
    body = attribute(1, _table(link.name)) + attribute(2, _CHAIN)
    found = []
    for part in talk(net, _WHAT, link.name, packed(_nft(_GETRULE, DUMP, body), 1)):
        if part.code:
            raise from_errno(part.code, part.text, "read the filter of", link.name)
        if part.code == 0:
            break
        found.append(attributes(part.body, _HEAD.size).get(4, b""))
    return found == [nft_rule(rule) for rule in rules]


def _nft(kind: int, flags: int, body: bytes) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, flags, _HEAD.pack(_NETDEV, 0, 0) + body, "")


def _table(name: str) -> bytes:
    return f"netspace-{name}".encode(errors="surrogateescape") + b"\0"


def _number(value: int) -> bytes:
    return struct.pack("!I", value)


# tc: a classic BPF program as the only filter of ours.
_NEWQDISC, _NEWFILTER, _GETFILTER = 36, 44, 46
_TC = struct.Struct("=BxxxiIII")
_CLSACT, _CLSACT_HANDLE, _EGRESS_SIDE = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF3
_ALL_PROTOCOLS: Final = 0x0300
_PRIORITY, _HANDLE = 1, 0x6E73
_KIND, _OPTIONS = 1, 2
_OPS_LENGTH, _OPS, _NAME, _FLAGS = 4, 5, 7, 8
_DIRECT: Final = 1


def _install_tc(net: Net, link: Link, own: Sources) -> None:
    body = _TC.pack(0, link.index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")
    with suppress(AlreadyThere):
        net.do(_WHAT, link.name, Message(_NEWQDISC, CREATE | EXCLUSIVE, body, "qdisc add"))
    program = bpf_program(rules_of(own))
    options = attribute(_OPS_LENGTH, struct.pack("=H", len(program) // 8))
    options += attribute(_OPS, program) + attribute(_NAME, b"netspace\0")
    options += attribute(_FLAGS, struct.pack("=I", _DIRECT))
    body = _filter(link) + attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options)
    net.do(_WHAT, link.name, Message(_NEWFILTER, CREATE, body, "filter add"))


def _present_tc(net: Net, link: Link, rules: Sequence[Rule]) -> bool:
    message = Message(_GETFILTER, 0, _filter(link) + attribute(_KIND, b"bpf\0"), "")
    [answer] = net.ask("read the filter of", link.name, message)
    options = attributes(attributes(answer, _TC.size).get(_OPTIONS, b""))
    return options.get(_OPS) == bpf_program(rules)


def _filter(link: Link) -> bytes:
    return _TC.pack(0, link.index, _HANDLE, _EGRESS_SIDE, _PRIORITY << 16 | _ALL_PROTOCOLS)


_INSTALL: Final[dict[Way, Callable[[Net, Link, Sources], None]]] = {
    "nftables": _install_nft,
    "tc": _install_tc,
}
_PRESENT: Final[dict[Way, Callable[[Net, Link, Sequence[Rule]], bool]]] = {
    "nftables": _present_nft,
    "tc": _present_tc,
}
