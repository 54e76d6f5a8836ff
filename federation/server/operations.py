"""What people and controllers do with federations: the leader's work. Each is decided on the state
as it is and written in one transaction.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET

from federation.plan.overlap import Claims
from federation.server import authority, tokens
from federation.server.checks import (
    address_fault,
    endpoints_fault,
    exposed_fault,
    member_fault,
    ranges_fault,
)
from federation.server.claiming import clash
from federation.server.exchange import (
    dissolved,
    forgotten,
    why_not_taken,
    with_members,
)
from federation.server.identity import stranger
from federation.server.info import federated, missing
from federation.server.leading import Duty
from federation.server.place import Place, member_of, record_of
from federation.server.service import Service
from federation.server.state import FederationRecord, State, unread
from federation.server.tokens import Ticket, TokenRecord
from netspace.asking import path
from netspace.http_client import HttpClient
from netspace.messages.federating import (
    Authority,
    ChangeFederation,
    FederationDetails,
    Joined,
    JoinFederation,
    Joining,
    Local,
    NewFederation,
    Signing,
    Token,
)
from netspace.messages.federation import Federation, Member, Settings
from netspace.problems import Problem, invalid
from statestore import Delete, Op, Put

T = TypeVar("T")

MOST_MEMBERS: Final = 256

NOT_WRITTEN: Final = frozenset({"changed", "state-full", "state-unavailable", "too-large"})
"""What says that a change of the state was not made."""

REFUSED: Final = frozenset(
    {"exists", "forbidden", "invalid", "no-space", "not-found", "overlap", "owned"}
)
"""What says that the founder has not taken a cluster in, and its key is of no use. After anything
else it may have, and takes the same key in once more."""


def details(place: Place, record: FederationRecord) -> FederationDetails:
    federation = record.federation
    return FederationDetails(
        name=federation.name,
        founded=federation.founder == place.cluster,
        local=record.local,
        federation=federation,
    )


async def found(service: Service, new: NewFederation) -> FederationDetails:
    place, duty = service.place, service.duty
    name = new.name
    _absent(place.state, name)
    _check_settings(new.settings)
    member = _own_member(place, duty, new.local)
    _check_claims(place, duty, place.state, None, new.local)
    folder = place.folder
    folder.forget(name)
    root_key, key = folder.own_key(name, "root"), folder.own_key(name, "authority")
    root = authority.make_root(root_key, name)
    ca = authority.sign_authority(
        root, root_key, authority.request(key, place.cluster), name, place.cluster
    )
    federation = Federation(
        name=name,
        number=1,
        founder=place.cluster,
        root=root,
        vni=new.vni or vni_of(name),
        members=[msgspec.structs.replace(member, ca=ca)],
        settings=new.settings,
    )
    try:
        return await _entered(service, FederationRecord(new.local, federation))
    except Problem as problem:
        if problem.code in NOT_WRITTEN:
            folder.forget(name)
        raise


async def join(service: Service, asked: JoinFederation) -> FederationDetails:
    place, duty = service.place, service.duty
    ticket = tokens.decode(asked.token)
    name = ticket.federation
    if asked.name not in (None, name):
        raise invalid(
            "token",
            f"it is of federation {name}, and {asked.name} is to be joined",
            do=f"use one of {asked.name} (netspacectl federation token {asked.name}, where it was"
            f" founded), or join {name}: this one is not used up",
        )
    _absent(place.state, name)
    if ticket.founder == place.cluster:
        raise invalid("token", "it is this cluster's own", do="use it in the cluster that joins")
    if fault := endpoints_fault(ticket.endpoints):
        raise invalid("token", fault, do="have another one made, where the founder names https")
    member = _own_member(place, duty, asked.local)
    _check_claims(place, duty, place.state, None, asked.local)
    told = await _founder_of(ticket)
    fresh = place.folder.key(name, "authority") is None
    key = place.folder.own_key(name, "authority")
    body = Joining(
        secret=ticket.secret,
        csr=authority.request(key, place.cluster),
        member=member,
        underlay=[address for node in duty.words.nodes for address in node.addresses],
    )
    client = stranger(ticket.endpoints, name, told.authority)
    try:
        joined = await _asked(client, "POST", path("federations", name, "members"), body, Joined)
    except Problem as problem:
        if fresh and problem.code in REFUSED:
            place.folder.forget(name)
        raise
    finally:
        await client.close()
    federation = joined.federation
    mine = next((each for each in federation.members if each.cluster == place.cluster), None)
    expected = msgspec.structs.replace(
        federation, root=told.root, founder=ticket.founder, name=name
    )
    why = why_not_taken(expected, federation, place.cluster)
    if mine is None or why or not authority.is_of(mine.ca, key):
        raise invalid("the founder's answer", why or "this cluster is no member in it")
    return await _entered(service, FederationRecord(asked.local, federation))


async def _founder_of(ticket: Ticket) -> Authority:
    """Who the founder is, proven by the root that the token names."""
    client = stranger(ticket.endpoints, ticket.federation, None)
    try:
        target = path("federations", ticket.federation, "authority")
        told = await _asked(client, "GET", target, None, Authority)
    finally:
        await client.close()
    genuine = authority.fingerprint(told.root) == ticket.root and (
        not authority.why_not_genuine(told.authority, told.root, ticket.federation, ticket.founder)
    )
    if not genuine:
        raise Problem(
            "forbidden",
            f"whoever answers at {ticket.endpoints[0]} is not the founder that the token names",
            do="see that its endpoints lead to the founder's servers, and have another token made",
        )
    return told


async def _asked(
    client: HttpClient, method: str, target: str, body: msgspec.Struct | None, kind: type[T]
) -> T:
    data = b"" if body is None else msgspec.json.encode(body)
    answer = await client.request(method, target, data, repeat=True)
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise Problem("internal", f"the founder's answer cannot be understood: {error}") from None


async def joining(service: Service, name: str, asked: Joining) -> Joined:
    """At the founder: another cluster becomes a member."""
    duty, keys = service.duty, service.place.keys
    digest = tokens.hashed(asked.secret)
    public = authority.public_of(asked.csr)
    cluster = asked.member.cluster

    def admitted(state: State) -> FederationRecord | None:
        """The record that the member comes into; None where it has come already."""
        record = _founded(service.place, state, name)
        token = state.tokens.get((name, digest))
        if not tokens.admit(token, cluster, public, time.time()):
            return None
        if member_of(record, cluster) is not None:
            raise Problem(
                "exists",
                f"federation {name} has a member {cluster} already",
                do="if it is to join anew, remove it first: netspacectl federation remove",
            )
        _check_newcomer(duty, state, record, asked)
        return record

    if admitted(service.place.state) is not None:
        signing = Signing(kind="authority", csr=asked.csr, cluster=cluster, node=service.me.name)
        signed = await service.identity.sign(name, signing)
        member = msgspec.structs.replace(asked.member, ca=signed.certificate)

        def decided(state: State) -> Iterable[Op]:
            record = admitted(state)
            if record is not None:
                token = state.tokens[name, digest]
                used = msgspec.structs.replace(token, used=cluster, key=public)
                new = with_members(record, [*record.federation.members, member])
                yield Put(keys.token(name, digest), msgspec.json.encode(used))
                yield Put(keys.federation(name), msgspec.json.encode(new))

        await duty.term.change(decided)
        # The new member asks at once, and must be known at the door by then.
        await service.identity.look()
    record = _founded(service.place, service.place.state, name)
    if member_of(record, cluster) is None:
        raise Problem("forbidden", f"cluster {cluster} was removed from federation {name} again")
    return Joined(federation=record.federation)


async def token(service: Service, name: str, lifetime: float) -> Token:
    duty, place = service.duty, service.place
    secret, now = tokens.new_secret(), int(time.time())
    expires = now + int(lifetime)

    def decided(state: State) -> Iterable[Op]:
        _founded(place, state, name)
        for (federation, digest), known in state.tokens.items():
            if federation == name and known.expires + tokens.KEPT < now:
                yield Delete(place.keys.token(name, digest))
        record = TokenRecord(expires=expires)
        yield Put(place.keys.token(name, tokens.hashed(secret)), msgspec.json.encode(record))

    state = await duty.term.change(decided)
    federation = record_of(state, name).federation
    ticket = Ticket(
        federation=name,
        founder=place.cluster,
        endpoints=place.config.federation.reached_at,
        root=authority.fingerprint(federation.root),
        secret=secret,
    )
    return Token(federation=name, token=tokens.encode(ticket), expires=expires)


async def change(service: Service, name: str, asked: ChangeFederation) -> FederationDetails:
    place, duty = service.place, service.duty

    def decided(state: State) -> Iterable[Op]:
        record = record_of(state, name)
        federation = record.federation
        if asked.pairs is not UNSET or asked.settings is not UNSET:
            _founded(place, state, name)
        if asked.settings is not UNSET:
            _check_settings(asked.settings)
            federation = msgspec.structs.replace(federation, settings=asked.settings)
        if asked.pairs is not UNSET:
            members = {member.cluster for member in federation.members}
            for pair in asked.pairs:
                if not {pair.one, pair.other} <= members or pair.one == pair.other:
                    raise invalid(
                        f"pair {pair.one} and {pair.other}", "they are not two of the members"
                    )
            federation = msgspec.structs.replace(federation, pairs=asked.pairs)
        given = {
            field: getattr(asked, field)
            for field in Local.__struct_fields__
            if getattr(asked, field) is not UNSET
        }
        local = msgspec.structs.replace(record.local, **given)
        if given:
            _check_claims(place, duty, state, record, local)
        if federation != record.federation:
            federation = msgspec.structs.replace(federation, number=federation.number + 1)
        new = FederationRecord(local, federation)
        if new != record:
            yield Put(place.keys.federation(name), msgspec.json.encode(new))

    state = await duty.term.change(decided)
    return details(place, record_of(state, name))


async def remove_member(service: Service, name: str, member: str) -> FederationDetails:
    """At the founder; of a cluster that is no member nothing is changed."""
    place, duty = service.place, service.duty

    def decided(state: State) -> Iterable[Op]:
        record = _founded(place, state, name)
        if member == place.cluster:
            raise Problem(
                "in-use",
                f"cluster {member} has founded federation {name}",
                do="delete the federation instead",
            )
        left = [each for each in record.federation.members if each.cluster != member]
        if len(left) == len(record.federation.members):
            return
        new = with_members(record, left)
        pairs = [pair for pair in new.federation.pairs if member not in (pair.one, pair.other)]
        federation = msgspec.structs.replace(new.federation, pairs=pairs)
        new = FederationRecord(new.local, federation)
        yield Put(place.keys.federation(name), msgspec.json.encode(new))
        yield from forgotten(place, state, name, [member])

    state = await duty.term.change(decided)
    await service.identity.look()
    return details(place, record_of(state, name))


async def leave(service: Service, name: str, *, force: bool) -> None:
    place, duty = service.place, service.duty
    record = record_of(place.state, name)
    federation = record.federation
    if federation.founder == place.cluster:
        raise Problem(
            "in-use",
            f"this cluster has founded federation {name}, and keeps its members",
            do="delete the federation instead: netspacectl federation delete",
        )
    if member_of(record, place.cluster) is not None:
        try:
            await _tell_founder(service, record)
        except Problem as problem:
            if not force:
                raise Problem(
                    problem.code,
                    f"the founder of {name} was not told: {problem.detail}",
                    do="try again, or leave with --force; the founder then removes this cluster",
                ) from None
    await duty.term.change(
        lambda state: dissolved(place, name) if name in state.federations else ()
    )
    await service.identity.look()


async def _tell_founder(service: Service, record: FederationRecord) -> None:
    """That this cluster leaves."""
    name = record.federation.name
    founder = member_of(record, record.federation.founder)
    if founder is None:
        raise Problem("unavailable", "it is no member any more")
    client = HttpClient(
        founder.endpoints, tls=service.identity.towards(name, founder.ca), name=name
    )
    try:
        target = path("federations", name, "members", service.place.cluster)
        await client.request("DELETE", target, repeat=True)
    finally:
        await client.close()


async def delete(service: Service, name: str, *, force: bool) -> None:
    place, duty = service.place, service.duty

    def decided(state: State) -> Iterable[Op]:
        record = _founded(place, state, name)
        others = [
            each.cluster for each in record.federation.members if each.cluster != place.cluster
        ]
        if others and not force:
            raise Problem(
                "in-use",
                f"federation {name} has {len(others)} other members: {', '.join(others[:5])}",
                do="let them leave, remove them, or delete it with --force",
            )
        yield from dissolved(place, name)

    await duty.term.change(decided)
    await service.identity.look()


def vni_of(name: str) -> int:
    """The number of a federation's VXLAN meshes, made of its name: 1 to 2^24 - 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % (2**24 - 1) + 1


async def _entered(service: Service, record: FederationRecord) -> FederationDetails:
    """Writes a federation that the cluster is in from now on."""
    place, name = service.place, record.federation.name

    def decided(state: State) -> Iterable[Op]:
        _absent(state, name)
        yield Put(place.keys.federation(name), msgspec.json.encode(record))

    state = await service.duty.term.change(decided)
    await service.identity.look()
    return details(place, record_of(state, name))


def _absent(state: State, name: str) -> None:
    if name in state.federations:
        raise Problem("exists", f"this cluster is in a federation {name} already")
    if name in unread(state):
        raise Problem(
            "exists",
            f"what etcd has of federation {name} cannot be understood: {unread(state)[name]}",
            do=f"restore or remove the key that ends with federations/{name}",
        )


def _founded(place: Place, state: State, name: str) -> FederationRecord:
    record = record_of(state, name)
    founder = record.federation.founder
    if founder != place.cluster:
        raise Problem(
            "owned", f"cluster {founder} has founded federation {name}", do=f"ask in {founder}"
        )
    return record


def _own_member(place: Place, duty: Duty, local: Local) -> Member:
    """This cluster as a member, its `ca` still empty."""
    config = place.config
    endpoints = config.federation.reached_at
    if not endpoints:
        raise invalid(
            "federation.endpoints",
            "the configuration does not say where other clusters reach this one's servers",
            do="name them, for example https://federation.example.net:8475",
        )
    _check_local(duty, local)
    return Member(
        cluster=place.cluster,
        cni=config.cni,
        endpoints=endpoints,
        ca="",
        ranges=[str(each) for each in federated(duty.site(), local)],
        services=list(config.services),
    )


def _check_local(duty: Duty, local: Local) -> None:
    for text in local.ranges:
        _subnet(f"range {text}", text)
    if fault := exposed_fault(local.exposed):
        raise invalid("exposed", fault)
    if local.pools or local.networks:
        if not duty.ranges_known:
            raise Problem(
                "unavailable",
                duty.faults.get("ipam", "the IPAM server has not been heard yet"),
                retry_after=1,
            )
        lacking = missing(duty.site(), local)
        if lacking:
            raise Problem(
                "not-found",
                "; ".join(lacking),
                do="name pools and networks of the IPAM server in `ipam`",
            )
    if fault := ranges_fault(str(each) for each in federated(duty.site(), local)):
        raise invalid("ranges", fault)


def _check_claims(
    place: Place, duty: Duty, state: State, record: FederationRecord | None, local: Local
) -> None:
    """Refuses what overlaps another member's, of the federation or of another one."""
    _check_local(duty, local)
    site = duty.site()
    new = Claims(
        place.cluster,
        tuple(str(each) for each in federated(site, local)),
        site.services,
        tuple(address for node in site.nodes for address in node.addresses),
    )
    found = clash(state, record, new, duty.own())
    if found:
        raise Problem("overlap", found, do="federate other ranges")


def _check_newcomer(duty: Duty, state: State, record: FederationRecord, asked: Joining) -> None:
    member = asked.member
    if len(record.federation.members) >= MOST_MEMBERS:
        raise Problem("no-space", f"federation {record.federation.name} has {MOST_MEMBERS} members")
    underlay = next((fault for text in asked.underlay if (fault := address_fault(text))), "")
    if fault := member_fault(member) or ranges_fault(member.ranges) or underlay:
        raise invalid("what it brings", fault)
    if not member.endpoints:
        raise invalid("endpoints", f"cluster {member.cluster} names none")
    new = Claims(
        member.cluster, tuple(member.ranges), tuple(member.services), tuple(asked.underlay)
    )
    found = clash(state, record, new, duty.own())
    if found:
        raise Problem("overlap", found, do="federate other ranges")


def _subnet(what: str, text: str) -> None:
    try:
        ip_network(text)
    except ValueError as error:
        raise invalid(what[:80], error, do="write a subnet such as 10.8.0.0/16") from None


def _check_settings(settings: Settings) -> None:
    bits = f"{settings.mark:032b}".strip("0")
    if "0" in bits or len(bits) < 4:
        raise invalid(
            f"settings.mark {settings.mark:#x}",
            "it is not at least four bits next to each other",
            do="write for example 0x00f00000",
        )
    if settings.port == settings.probe_port:
        raise invalid("settings", f"port and probe_port are both {settings.port}")
