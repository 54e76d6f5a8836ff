"""charon's connections as the node wants them, and what it says of those it has. Pure.

A connection makes security associations alone: its policies are the node's own (`policies`), so
that charon installs none. Every child covers all addresses of both families; which packets take it
is said by the policies' templates: ends and reqid. What others brought up has a mark besides that
no policy has, so that packets out never take it. Who brought a tunnel up also renews its keys: if
both did, they would meet. Who brings one up asks for the other by its node's name and says its own
subject: so charon, asked by another, never takes a connection of ours to it for one from it.
Source: swanctl.conf(5), RFC 7296.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from federation.desired import Accept, Path, Tunnel
from federation.node.ike import Given, Section, sections, text

PREFIX: Final = "netspace/"
"""Of the names of our connections."""
ACCEPTED: Final = 15
"""The ordinal in the mark of states that others brought up; no flow has it."""
REQIDS: Final = range(0x4E500000, 0x4E600000)

_IKE: Final = ("aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha384-ecp384")
_ESP: Final = ("aes256gcm16-x25519-esn", "aes256gcm16-ecp384-esn")
_EVERYTHING: Final = ("0.0.0.0/0", "::/0")
_ORGANIZATION: Final = "netspace:federation"
_REPLAY: Final = 2048
_DPD: Final = 2
_ACCEPTED_DPD: Final = 10
_LATE: Final = 30
"""Seconds that new keys may take, on a node that is busy, before the old ones end."""
_IKE_SECONDS: Final = 4 * 3600
_ACCEPTED_SECONDS: Final = 2 * 86_400
"""Longer than whoever brought the tunnel up uses a key."""
_BYTES: Final = 1 << 38
_PACKETS: Final = 1 << 30
_LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class Membership:
    """What this node is and knows in one federation. `node`: its name there; `key`, `certificate`:
    PEM, its own; `root`: the PEM certificate of the federation's authority; `members`: those of the
    clusters, by name. `mask`: the bits of the packet mark that ordinals are written in. `rekey`:
    seconds a key of ESP is used."""

    federation: str
    node: str
    key: str
    certificate: str
    root: str
    members: Mapping[str, str]
    mask: int
    rekey: int = 3600


@dataclass(frozen=True, slots=True)
class Association:
    """A child of ours that charon has, and its IKE SA: the ids by which it is ended, what it is
    between, whether it is marked as one that others brought up, whether it can carry packets.
    `child` 0: the IKE SA has none yet."""

    ike: int
    child: int
    local: str
    remote: str
    reqid: int
    marked: bool
    carries: bool
    spis: tuple[int, ...] = ()


def tunnel_name(path: Path) -> str:
    """The name of the connection to a gateway."""
    return _name("to", path.federation, path.cluster, path.node)


def accept_name(accept: Accept) -> str:
    """The name of the connection that takes a cluster's nodes."""
    return _name("from", accept.federation, accept.cluster, accept.local)


def tunnel_connection(tunnel: Tunnel, membership: Membership) -> Given:
    """The connection that this node brings up. Raises ValueError: the cluster is no member."""
    path = tunnel.path
    given = _connection(
        membership,
        _authority(membership, path.cluster),
        f"fqdn:{path.node}",
        local=tunnel.local,
        remote=tunnel.remote,
    )
    over = max(membership.rekey // 10, 5)
    child = _child(tunnel.reqid) | {
        "rekey_time": f"{membership.rekey}",
        "life_time": f"{membership.rekey + max(over, _LATE)}",
        "rand_time": f"{over}",
        "rekey_bytes": f"{_BYTES}",
        "life_bytes": f"{_BYTES + _BYTES // 4}",
        "rand_bytes": f"{_BYTES // 10}",
        "rekey_packets": f"{_PACKETS}",
        "life_packets": f"{_PACKETS + _PACKETS // 4}",
        "rand_packets": f"{_PACKETS // 10}",
    }
    times = {"rekey_time": f"{_IKE_SECONDS}", "dpd_delay": f"{_DPD}"}
    return {**given, **times, "children": {tunnel_name(path): child}}


def accept_connection(accept: Accept, membership: Membership) -> Given:
    """The connection that nodes of the cluster bring up."""
    given = _connection(
        membership,
        accept.ca,
        f"O={_ORGANIZATION}, OU={accept.cluster}, CN=*",
        local=accept.local,
        remote="%any",
        own=f"fqdn:{membership.node}",
    )
    mark = ACCEPTED * (membership.mask & -membership.mask)
    child = _child(accept.reqid) | {
        "mark_out": f"{mark:#x}/{membership.mask:#x}",
        "rekey_time": "0",
        "life_time": f"{_ACCEPTED_SECONDS}",
        # charon would take a random share of the difference off, and rekey without end.
        "rand_time": "0",
    }
    times = {"rekey_time": "0", "over_time": "0", "rand_time": "0", "dpd_delay": f"{_ACCEPTED_DPD}"}
    return {**given, **times, "children": {accept_name(accept): child}}


def associations(found: Iterable[Section]) -> list[Association]:
    """What charon lists (list-sas)."""
    read = []
    for listed in found:
        for _, sa in sections(listed):
            ends = text(sa, "local-host"), text(sa, "remote-host")
            ike = int(text(sa, "uniqueid"))
            established = text(sa, "state") in ("ESTABLISHED", "REKEYING", "REKEYED")
            children = dict(sections(sa)).get("child-sas", {})
            alive = [
                (child, text(child, "state"))
                for _, child in sections(children)
                if text(child, "state") not in ("DELETED", "DESTROYING")
            ]
            for child, state in alive:
                read.append(
                    Association(
                        ike,
                        int(text(child, "uniqueid")),
                        *ends,
                        int(text(child, "reqid") or "0"),
                        int(text(child, "mark-out") or "0", 16) != 0,
                        established and state in ("INSTALLED", "REKEYING", "REKEYED"),
                        _spis(child),
                    )
                )
            if not alive:
                read.append(Association(ike, 0, *ends, 0, False, False))
    return read


def spis(found: Iterable[Section]) -> set[int]:
    """Of all states that charon lists (list-sas), those too that it is about to delete."""
    return {
        spi
        for listed in found
        for _, sa in sections(listed)
        for _, child in sections(dict(sections(sa)).get("child-sas", {}))
        for spi in _spis(child)
    }


def _spis(child: Section) -> tuple[int, ...]:
    return tuple(int(spi, 16) for key in ("spi-in", "spi-out") if (spi := text(child, key)))


def fits(one: Association, tunnel: Tunnel) -> bool:
    """Whether a child is what the tunnel is to be. Behind NAT the ends are the same: each side
    tells its own view of them."""
    wanted = ip_address(tunnel.local), ip_address(tunnel.remote)
    ends = ip_address(one.local), ip_address(one.remote)
    return one.reqid == tunnel.reqid and not one.marked and ends == wanted


def reason(lines: Sequence[str], refusal: str, tunnel: Tunnel) -> str:
    """Why a tunnel did not come up, from what charon said; the first that fits counts."""
    far = f"{tunnel.path.node} ({tunnel.remote})"
    said = "\n".join(lines)
    for words, meaning in (
        (
            "received AUTHENTICATION_FAILED",
            f"authentication failed: {far} refused this node's"
            " certificate, or does not expect this cluster",
        ),
        (
            "constraint check failed",
            f"authentication failed: the certificate of {far} is not {tunnel.path.cluster}'s",
        ),
        (
            "certificate invalid",
            f"authentication failed: the certificate of {far} is not valid"
            " now; see that the clocks are right",
        ),
        (
            "no trusted",
            f"authentication failed: the certificate of {far} is not from the"
            " federation's authority",
        ),
        (
            "no issuer certificate",
            f"authentication failed: the certificate of {far} is not from"
            " the federation's authority",
        ),
        ("no private key", "this node's certificate has no key in charon"),
        (
            "NO_PROPOSAL_CHOSEN",
            f"{far} takes no tunnel from here, or has no proposal in common with this node",
        ),
        ("TS_UNACCEPTABLE", f"{far} refused what the tunnel is to carry"),
        ("unable to install", "the kernel refused the keys: it may have no ESP with AES-GCM"),
        ("giving up after", f"timeout: no answer from {far}; see that UDP 500 and 4500 are open"),
        ("peer not responding", f"timeout: no answer from {far}"),
        ("not established after", f"timeout: {far} did not come to an end"),
        ("error writing to socket", f"no route to {far}"),
    ):
        if words in said or words in refusal:
            return meaning
    return refusal or "charon gave no reason"


def _connection(
    membership: Membership, ca: str, identity: str, *, local: str, remote: str, own: str = ""
) -> dict[str, str | Given | list[str]]:
    return {
        "version": "2",
        "local_addrs": [local],
        "remote_addrs": [remote],
        "proposals": list(_IKE),
        "unique": "never",
        "mobike": "no",
        "encap": "no",
        "keyingtries": "1",
        "reauth_time": "0",
        "send_cert": "always",
        "send_certreq": "no",
        "local": {
            "auth": "pubkey",
            "certs": [membership.certificate],
            **({"id": own} if own else {}),
        },
        "remote": {"auth": "pubkey", "id": identity, "cacerts": [ca]},
    }


def _child(reqid: int) -> dict[str, str | list[str]]:
    return {
        "mode": "tunnel",
        "policies": "no",
        "local_ts": list(_EVERYTHING),
        "remote_ts": list(_EVERYTHING),
        "esp_proposals": list(_ESP),
        "reqid": f"{reqid}",
        "replay_window": f"{_REPLAY}",
        "start_action": "none",
        "close_action": "none",
        "dpd_action": "clear",
    }


def _authority(membership: Membership, cluster: str) -> str:
    try:
        return membership.members[cluster]
    except KeyError:
        raise ValueError(
            f"{cluster} is no member of the federation {membership.federation}"
        ) from None


def _name(*parts: str) -> str:
    name = PREFIX + "/".join(parts)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}#{hashlib.sha256(name.encode()).hexdigest()[:16]}"
