"""What federation servers do not take: other clusters' ranges, texts that nodes cannot use, numbers
that lead nowhere, records that cannot be understood, keys that are left over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from federation.plan.networks import network
from federation.plan.overlap import of_info
from federation.server import authority, leading
from federation.server.checks import MOST_RANGES, info_fault, member_fault, node_fault
from federation.server.claiming import Own, clash, own_clash, own_of
from federation.server.exchange import Exchange
from federation.server.identity import Identity
from federation.server.info import Site
from federation.server.leading import Duty
from federation.server.state import FederationRecord, State, unread
from federation.server.term import Term
from federation.server.witnesses import FURTHEST, Witnesses, epoch_after, number_after
from federation.server.words import Words
from netspace.http_client import HttpClient
from netspace.messages.federating import Certificate, Info, Local, Signing
from netspace.messages.federation import (
    ClusterInfo,
    Cni,
    FederatedNode,
    Federation,
    Member,
    NodeWord,
    PortSpan,
    Version,
)
from netspace.problems import Problem
from statestore import KeyValue, Leader, Op, Put
from tests.unit.test_federation_exchange import Taking, info, node, ranged

# Whose ranges are whose, in all federations


def in_another(world: Taking, cluster: str, *ranges: str, applied: bool = True) -> None:
    """The cluster is in federation g with east, which brings 10.9.0.0/16 there."""
    members = [
        Member(cluster=name, cni="x", endpoints=["https://h:1"], ca="", ranges=list(brought))
        for name, brought in (("east", ["10.9.0.0/16"]), (cluster, ranges))
    ]
    record = FederationRecord(
        Local(), Federation(name="g", number=1, founder="east", root="", vni=2, members=members)
    )
    world.state.federations["g"] = record
    own = msgspec.structs.replace(info(), cluster="east", ranges=["10.9.0.0/16"])
    world.state.own["g"] = own
    if applied:
        there = msgspec.structs.replace(info(), cluster=cluster, ranges=list(ranges))
        world.state.peers["g", cluster] = there


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("10.7.1.0/24", "overlaps range 10.7.0.0/16 of cluster south"),
        ("10.9.5.0/24", "overlaps range 10.9.0.0/16 of cluster east"),
        ("10.5.0.0/16", "overlaps 10.5.1.0/24, which cluster east uses itself"),
    ],
)
def test_what_is_another_clusters_in_any_federation_is_not_applied(
    tmp_path: Path, told: str, why: str
) -> None:
    world = Taking(tmp_path)
    in_another(world, "south", "10.7.0.0/16")
    world.uses = ("10.5.1.0/24",)
    assert world.tell(ranged(info("g1"), "10.2.0.0/16", told)) == ["faults"]
    assert why in world.state.faults["f", "west"]
    assert world.tell(ranged(info("g1", version=2), "10.2.0.0/16")) == ["faults", "peers"]


def test_two_clusters_can_share_the_same_ranges_in_two_federations(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    in_another(world, "west", "10.2.0.0/16")
    world.uses = ("10.1.0.0/24",)
    assert world.tell(ranged(info("g1"), "10.2.0.0/16")) == ["peers"]


def test_a_founder_keeps_nobody_out_of_another_federation_by_what_it_says_of_others(
    tmp_path: Path,
) -> None:
    world = Taking(tmp_path)
    in_another(world, "phantom", "10.2.0.0/16", applied=False)
    assert world.tell(ranged(info("g1"), "10.2.0.0/16")) == ["peers"]


def test_what_a_cluster_uses_itself_may_be_service_cidr_or_underlay_of_others(
    tmp_path: Path,
) -> None:
    world = Taking(tmp_path)
    world.uses = ("10.96.0.0/16", "192.0.2.0/24")
    told = msgspec.structs.replace(ranged(info("g1"), "10.2.0.0/16"), services=["10.96.0.0/16"])
    assert world.tell(told) == ["peers"]


def test_a_cluster_uses_its_nodes_ranges_its_pools_and_its_networks() -> None:
    site = Site(
        "east",
        "x",
        grouped=True,
        nodes=(node("a", "10.4.0.0/24"),),
        pools={"p": ["10.5.0.0-10.5.0.255"]},
        networks={"n": ["fd00::/64"]},
    )
    assert own_of(site) == Own("east", ("10.4.0.0/24", "10.5.0.0/24", "fd00::/64"))


def test_what_a_cluster_comes_to_use_after_another_one_is_said(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    world.tell(ranged(info("g1"), "10.2.0.0/16"))
    said = own_clash(world.state, "f", Own("east", ("10.2.7.0/24",)))
    assert said == (
        "range 10.2.0.0/16 of cluster west overlaps 10.2.7.0/24, which cluster east uses itself"
    )
    assert own_clash(world.state, "f", Own("east", ("10.5.0.0/24",))) == ""


def test_a_stored_text_that_cannot_be_read_keeps_no_other_member_out(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    bad = ranged(info(), "10.3.0.0/33", "10.3.0.0/16")
    world.state.peers["f", "north"] = msgspec.structs.replace(bad, cluster="north")
    assert world.tell(ranged(info("g1"), "10.2.0.0/16")) == ["peers"]
    assert world.tell(ranged(info("g1", version=2), "10.3.1.0/24")) == ["faults"]
    record = world.state.federations["f"]
    assert clash(world.state, record, of_info(info("g1")), Own("east")) == ""


# What can be told at all


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"ranges": ["10.2.0.0/255.255.0.0"]}, "'10.2.0.0/255.255.0.0' is no subnet"),
        ({"ranges": ["10.2.0.0/33"]}, "is no subnet"),
        ({"ranges": ["10.2.0.0/ 16"]}, "is to be written as 10.2.0.0/16"),
        ({"ranges": ["10.2.0.0"]}, "is to be written as 10.2.0.0/32"),
        ({"ranges": ["FD00::/64"]}, "is to be written as fd00::/64"),
        ({"ranges": ["128.0.0.0/2"]}, "is too large: the prefix is at least /8"),
        ({"ranges": ["f000::/4"]}, "is too large: the prefix is at least /16"),
        ({"ranges": ["169.254.169.254/32"]}, "169.254.0.0/16 are each link's own"),
        ({"ranges": ["127.0.0.0/8"]}, "are each machine's own"),
        ({"ranges": ["fe80::/64"]}, "are each link's own"),
        ({"ranges": ["ff02::/16"]}, "are of groups"),
        ({"ranges": ["::/16"]}, "are each machine's own"),
        ({"services": ["0.0.0.0/0"]}, "Service CIDR 0.0.0.0/0 is too large"),
        ({"exposed": [PortSpan(first=80, last=22)]}, "the last is before the first"),
        ({"endpoints": ["unix:///run/x"]}, "clusters speak https"),
        ({"endpoints": ["http://h:1"]}, "clusters speak https"),
        ({"endpoints": ["nonsense"]}, "neither a Unix socket nor"),
        ({"nodes": [node("n", "10.2.0.0/33")]}, "range of node n: '10.2.0.0/33' is no subnet"),
        ({"nodes": [node("n", pods=["x"])]}, "pod of node n: 'x' is no address"),
        ({"nodes": [node("n", pods=["FD00::1"])]}, "is to be written as fd00::1"),
        (
            {"nodes": [FederatedNode(name="n", addresses=["127.0.0.1"])]},
            "address of node n: 127.0.0.1/32 cannot be a cluster's",
        ),
        (
            {"ranges": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(MOST_RANGES + 1)]},
            "257 ranges are federated, and at most 256 can be: federate larger ranges",
        ),
    ],
)
def test_what_nodes_cannot_use_is_not_taken(bad: dict[str, Any], why: str) -> None:
    assert why in info_fault(msgspec.structs.replace(info("g1"), **bad), None)


def test_what_clusters_use_is_taken() -> None:
    told = msgspec.structs.replace(
        info("g1"),
        ranges=["10.0.0.0/8", "100.64.0.0/10", "240.0.0.0/8", "fd00:2::/48", "2001:db8::5/128"],
        services=["10.96.0.0/12", "fd00:96::/108"],
        exposed=[PortSpan(first=80, last=80)],
        endpoints=["https://federation.example.net:8475"],
        nodes=[
            FederatedNode(
                name="n",
                addresses=["192.0.2.1", "fd00::1"],
                ranges=["10.0.1.0/24"],
                pods=["10.0.1.5", "::a01:5", "fd00:2::5"],
            )
        ],
    )
    assert info_fault(told, None) == ""
    for text in (*told.ranges, *told.services):
        assert str(network(text)) == text


def test_what_a_founder_says_of_members_is_held_to_the_same() -> None:
    good = Member(cluster="w", cni="x", endpoints=["https://h:1"], ca="", ranges=["10.2.0.0/16"])
    assert member_fault(good) == ""
    bad = msgspec.structs.replace(good, endpoints=["unix:///run/netspace/federation.sock"])
    assert member_fault(bad).startswith("member w: endpoint 'unix:///")
    assert "is no subnet" in member_fault(msgspec.structs.replace(good, ranges=["10.2.0.0/x"]))


# What the own nodes say


def leader_of(world: Taking) -> Duty:
    return Duty(world.place, Identity(world.place), cast(Leader, None), restored=False)


def test_a_node_that_says_what_nobody_can_use_is_refused_alone(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    world.tell(ranged(info("g1"), "10.2.0.0/16"))
    duty = leader_of(world)
    duty.say(NodeWord(node=node("good", "10.1.1.0/24")))
    for bad, code in (
        (node("bad", "10.1.0.0/33"), "invalid"),
        (node("bad", pods=["x"]), "invalid"),
        (FederatedNode(name="bad", addresses=["x"]), "invalid"),
        (FederatedNode(name="bad", addresses=["10.2.0.5"]), "overlap"),
        (node("bad", "10.2.9.0/24"), "overlap"),
    ):
        with pytest.raises(Problem) as caught:
            duty.say(NodeWord(node=bad))
        assert caught.value.code == code and "node bad" in str(caught.value)
    assert [each.name for each in duty.site().nodes] == ["good"]


def test_a_node_that_was_stored_and_cannot_be_told_on_is_left_out(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    world.state.nodes = (node("bad", "10.1.0.0/33"), node("good"))
    assert [each.name for each in leader_of(world).site().nodes] == ["good"]


def test_more_ranges_than_others_take_are_not_told(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    duty, state = leader_of(world), world.state
    state.epoch = 1
    world.do(cast(Sequence[Op], list(duty._built(state))))
    many = Local(ranges=[f"10.{n >> 7}.{(n & 127) * 2}.0/24" for n in range(MOST_RANGES + 1)])
    before = msgspec.structs.replace(state.own["f"], ranges=["10.1.0.0/16"])
    state.own["f"] = before
    state.federations["f"] = msgspec.structs.replace(state.federations["f"], local=many)
    assert list(duty._built(state)) == []


# What others say that they have seen


class Terms:
    """Carries out what is decided, on the state of a world."""

    def __init__(self, world: Taking) -> None:
        self.world = world
        self.noted = 0

    async def change(self, decide: Callable[[State], Iterable[Op]]) -> State:
        self.world.do(list(decide(self.world.state)))
        return self.world.state

    async def note(self, key: bytes, value: bytes) -> None:
        self.noted += 1


@pytest.mark.parametrize("known", [1, 1 + FURTHEST, 2**53 - 1])
def test_a_number_that_cannot_have_been_seen_changes_nothing(tmp_path: Path, known: int) -> None:
    world = Taking(tmp_path)
    assert list(number_after(world.keys, world.state, "f", known)) == []
    world.state.own["f"] = info()
    seen = Version(epoch=known + 1, number=0)
    assert bool(list(epoch_after(world.keys, world.state, "f", seen))) == (known == 1)


def test_members_are_believed_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Taking(tmp_path)
    witnesses, clock = Witnesses(world.keys, cast(Term, Terms(world))), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def said(number: int) -> int:
        asyncio.run(witnesses.say("f", None, number))
        return world.state.federations["f"].federation.number

    assert said(2**53 - 1) == 1
    assert said(5) == 6
    assert [said(number) for number in range(7, 20)] == [6] * 13
    clock[0] += 61
    assert said(8) == 9


# What etcd has


def test_a_record_that_cannot_be_understood_is_passed_over_and_said(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    world.tell(info("g1"))
    keys, good = world.keys, world.state.federations["f"]
    wrong = msgspec.json.encode(good).replace(b'"number":1', b'"number":9007199254740992')
    world.do([Put(keys.federation("g"), wrong), Put(keys.peer("f", "north"), b"x")])
    assert world.state.federations.keys() == {"f"}
    assert world.state.peers.keys() == {("f", "west")}
    assert world.state.unreadable.keys() == {("federations", "g"), ("peers", "f", "north")}
    assert "9007199254740991" in unread(world.state)["g"]
    fresh = State(keys)
    fresh.apply(
        9,
        [
            KeyValue(keys.federation("f"), msgspec.json.encode(good), 1, 1),
            KeyValue(keys.federation("g"), wrong, 2, 2),
            KeyValue(keys.epoch, b"\xff", 3, 3),
        ],
    )
    assert (fresh.federations, fresh.epoch) == ({"f": good}, 0)
    world.do([Put(keys.federation("g"), msgspec.json.encode(good)), Put(keys.epoch, b"2")])
    assert world.state.unreadable.keys() == {("peers", "f", "north")}


def test_the_keys_of_a_federation_whose_record_cannot_be_understood_are_kept(
    tmp_path: Path,
) -> None:
    world = Taking(tmp_path)
    identity = certified(world)
    assert identity.shown("f") is not None
    world.do([Put(world.keys.federation("f"), b"{")])
    asyncio.run(identity.look())
    assert world.place.folder.key("f", "authority") is not None
    del world.state.unreadable["federations", "f"]
    asyncio.run(identity.look())
    assert world.place.folder.key("f", "authority") is None


# Keys and certificates


def certified(world: Taking) -> Identity:
    """East in federation f with its own key."""
    folder = world.place.folder
    root_key, key = authority.new_key(), folder.own_key("f", "authority")
    root = authority.make_root(root_key, "f")
    ca = authority.sign_authority(root, root_key, authority.request(key, "east"), "f", "east")
    record = world.state.federations["f"]
    members = [
        msgspec.structs.replace(each, ca=ca)
        for each in record.federation.members
        if each.cluster == "east"
    ]
    federation = msgspec.structs.replace(record.federation, root=root, members=members)
    world.state.federations["f"] = FederationRecord(Local(), federation)
    identity = Identity(world.place)
    asyncio.run(identity.look())
    return identity


def test_a_key_that_is_left_over_signs_nothing(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    identity, state = certified(world), world.state
    record, folder = state.federations["f"], world.place.folder
    csr = authority.request(authority.new_key(), "n1")
    node_asks = Signing(kind="node", csr=csr, cluster="east", node="n1")
    member_asks = Signing(kind="authority", csr=csr, cluster="west", node="s")
    assert identity.has_key(record)
    assert identity.sign_here(state, "f", node_asks) is not None
    folder.write(folder.key_file("f", "authority"), authority.key_pem(authority.new_key()))
    folder.write(folder.key_file("f", "root"), authority.key_pem(authority.new_key()))
    assert not identity.has_key(record)
    assert identity.sign_here(state, "f", node_asks) is None
    assert identity.sign_here(state, "f", member_asks) is None


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"-----BEGIN nothing", b""])
def test_a_damaged_certificate_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    world = Taking(tmp_path)
    identity = certified(world)
    path = world.place.folder.certificate("f")
    path.write_bytes(damage)
    asyncio.run(identity.look())
    assert identity.faults == {}
    assert authority.span(path.read_text()).expires > time.time()


class Failing(Identity):
    async def sign(self, federation: str, asked: Signing) -> Certificate:
        if federation == "bad":
            raise RuntimeError("never expected")
        return await super().sign(federation, asked)


def test_one_federation_that_fails_keeps_no_other_one_from_its_certificate(
    tmp_path: Path,
) -> None:
    world = Taking(tmp_path)
    certified(world)
    good = world.state.federations.pop("f")
    bad = msgspec.structs.replace(good.federation, name="bad")
    world.state.federations |= {"bad": FederationRecord(Local(), bad), "f": good}
    identity = Failing(world.place)
    asyncio.run(identity.look())
    assert identity.shown("f") is not None and "never expected" in identity.faults["bad"]


def test_work_that_fails_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "PAUSE", 0.0)
    failures: list[Exception] = [UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), RuntimeError()]

    async def work() -> None:
        if failures:
            raise failures.pop()

    asyncio.run(leading.kept(work))
    assert failures == []


# How often others are asked


class Asked(Exception):
    """Often enough."""


class Asking(Exchange):
    """Is answered at once, by `answers`."""

    answers: list[Info]
    questions: list[tuple[float, bool]]

    async def _ask(self, client: HttpClient, wait: float, *, whole: bool) -> Info:
        self.questions.append((wait, whole))
        if not self.answers:
            raise Asked
        return self.answers.pop(0)


def slept(
    world: Taking, term: object, answers: Sequence[Info], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[tuple[float, bool]]]:
    """How long it waits after each answer, and what it asks."""
    pauses: list[float] = []
    member = world.exchange.member
    asking = Asking(
        world.place, cast(Term, term), Identity(world.place), "f", member, lambda: Own("east")
    )
    asking.answers, asking.questions = list(answers), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(Asked):
        asyncio.run(asking._go_on(cast(HttpClient, None)))
    return pauses, asking.questions


def test_a_member_that_answers_at_once_is_asked_ever_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Taking(tmp_path)
    news = Info(info=ranged(info("g1"), "10.2.0.0/16"))
    later = Info(info=ranged(info("g1", version=2), "10.2.0.0/16"))
    pauses, questions = slept(
        world, Terms(world), [news, *[Info()] * 10, later, Info()], monkeypatch
    )
    assert pauses[0] == pauses[11] == 0.5
    assert pauses[1:11] == [1.0, 2.0, 4.0, 8.0] + [10.0] * 6
    assert pauses[12] == 1.0
    assert [whole for _, whole in questions] == [True, *[False] * 13]


class Refusing(Terms):
    async def change(self, decide: Callable[[State], Iterable[Op]]) -> State:
        raise Problem("state-unavailable", "etcd is away")


def test_what_could_not_be_kept_is_not_read_whole_again_and_is_tried_ever_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Taking(tmp_path)
    news = Info(info=ranged(info("g1"), "10.2.0.0/16"))
    pauses, questions = slept(world, Refusing(world), [news, *[Info()] * 5], monkeypatch)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert questions == [(0.0, True), *[(0.0, False)] * 6]


# Clocks


def test_a_clock_that_is_set_makes_no_node_forgotten_and_no_contact_go_unnoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Words([], 0.0)
    words.say(NodeWord(node=node("n")), 0.0)
    assert words.look(15.0, 1000.0, 15, 60)
    assert not words.look(16.0, 1000.0 + 86_400, 15, 60)
    assert words.look(75.0, 500.0, 15, 60) and words.nodes == ()
    world = Taking(tmp_path)
    terms, monotonic, wall = Terms(world), [1000.0], [5000.0]
    world.exchange._term = cast(Term, terms)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic[0])
    monkeypatch.setattr(time, "time", lambda: wall[0])
    for seconds in (0.0, -4000.0, 10.0):
        monotonic[0] += 10.0
        wall[0] += seconds
        world.exchange._heard()
        asyncio.run(world.exchange._take(Info()))
    assert terms.noted == 2


def test_a_node_that_was_down_before_this_leader_is_forgotten_by_what_was_stored() -> None:
    words = Words([msgspec.structs.replace(node("n"), down=1000)], 0.0)
    assert not words.look(1.0, 1059.0, 15, 60)
    assert words.look(2.0, 1060.0, 15, 60)


def test_the_name_of_a_cni_is_one_line() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"one": "x\n"}, dict[str, Cni])


def test_information_counts_its_own_nodes_once() -> None:
    twice: ClusterInfo = msgspec.structs.replace(info(), nodes=[node("n"), node("n")])
    assert info_fault(twice, None) == "a node stands twice in it"
    assert node_fault(node("n", "10.0.0.0/24")) == ""
