"""What federation servers decide: overlaps, gateways, what is told and what of it is taken, tokens,
words of nodes, certificates, who may.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import msgspec
import pytest
import yaml
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from federation.plan.availability import DOUBT, RETRY, Judgement, judge
from federation.plan.overlap import Claims, overlap
from federation.server import api, authority, door, tokens
from federation.server.claiming import Own
from federation.server.config import FederationConfig
from federation.server.exchange import Exchange
from federation.server.files import Folder
from federation.server.identity import Identity
from federation.server.info import Site, build, compared, fault_of, subnets
from federation.server.keys import Keys
from federation.server.mirror import Mirror
from federation.server.place import Place
from federation.server.state import FederationRecord, State, pack
from federation.server.status import nodes_of
from federation.server.term import Term
from federation.server.tokens import Ticket, TokenRecord
from federation.server.views import Views, view_of
from federation.server.words import Words
from netspace.callers import Caller, certified
from netspace.config import load
from netspace.messages.federating import Local
from netspace.messages.federation import (
    Capability,
    ClusterInfo,
    FederatedNode,
    Federation,
    Layout,
    Member,
    NodeWord,
    PathWord,
    Version,
    View,
)
from netspace.problems import Problem
from statestore import Delete, Event, KeyValue, Op, Put, Store
from tests.unit.test_config import keys, written

EXAMPLE = Path(__file__).parents[2] / "conf" / "federation-server.yaml"


# Overlaps

SUBNET = st.builds(
    lambda number, length: str(ip_network((number >> (32 - length) << (32 - length), length))),
    st.integers(0x0A000000, 0x0A00FFFF),
    st.integers(16, 32),
)
SUBNETS = st.lists(SUBNET, max_size=6).map(tuple)
CLAIMS = st.builds(Claims, st.just("x"), SUBNETS, SUBNETS, SUBNETS)


@given(CLAIMS, CLAIMS)
def test_an_overlap_is_found_where_a_range_is_anything_of_the_other_cluster(
    one: Claims, other: Claims
) -> None:
    def of(claims: Claims, *, federated: bool) -> list[str]:
        return list(claims.ranges if federated else (*claims.services, *claims.nodes))

    def any_overlap(mine: Sequence[str], theirs: Sequence[str]) -> bool:
        return any(ip_network(a).overlaps(ip_network(b)) for a in mine for b in theirs)

    expected = (
        any_overlap(of(one, federated=True), of(other, federated=True))
        or any_overlap(of(one, federated=True), of(other, federated=False))
        or any_overlap(of(one, federated=False), of(other, federated=True))
    )
    found = overlap(one, other)
    assert (found is not None) == expected
    if found is not None:
        assert ip_network(found.one).overlaps(ip_network(found.other))
        assert "range" in (found.what, found.other_what)
        assert found.one in (*one.ranges, *one.services, *one.nodes)
        assert found.other in (*other.ranges, *other.services, *other.nodes)


def test_the_families_are_apart_and_both_clusters_are_named() -> None:
    one = Claims("east", ("::a01:0/112",), nodes=("10.1.0.1",))
    assert overlap(one, Claims("west", ("10.2.0.0/16",), ("10.96.0.0/12",))) is None
    found = overlap(one, Claims("west", ("10.1.0.0/16",)))
    assert str(found) == (
        "node address 10.1.0.1 of cluster east overlaps range 10.1.0.0/16 of cluster west"
    )


# Gateways


def info(
    *names: str, layout: Layout = "distributed", version: int = 1, down: Sequence[str] = ()
) -> ClusterInfo:
    nodes = [
        FederatedNode(
            name=name,
            addresses=[f"192.0.2.{number}"],
            capabilities=["ipsec"],
            gateway=name.startswith("g"),
            down=5 if name in down else None,
        )
        for number, name in enumerate(names, 1)
    ]
    told = Version(epoch=1, number=version)
    return ClusterInfo(cluster="west", version=told, cni="x", layout=layout, nodes=nodes)


def paths(**states: str) -> list[PathWord]:
    return [
        msgspec.convert(
            {"federation": "f", "cluster": "west", "node": node, "state": state}, PathWord
        )
        for node, state in states.items()
    ]


def available(about: ClusterInfo, told: dict[str, list[PathWord]]) -> tuple[str, ...]:
    """Of what is told for long enough."""
    first = judge(about, told, Judgement(), 100.0)
    return judge(about, told, first, 100.0 + DOUBT).available


def test_gateways_are_all_nodes_that_can_or_the_labelled_ones_and_never_those_that_are_down() -> (
    None
):
    assert available(info("g1", "n2", down=["n2"]), {}) == ("g1",)
    assert available(info("g1", "n2"), {}) == ("g1", "n2")
    assert available(info("g1", "n2", layout="centralised"), {}) == ("g1",)
    unable = msgspec.structs.replace(info("g1").nodes[0], capabilities=["vxlan"])
    assert available(msgspec.structs.replace(info(), nodes=[unable]), {}) == ()


def test_a_gateway_is_out_only_while_nobody_reaches_it() -> None:
    told = {"a": paths(g1="down", g2="up"), "b": paths(g1="down", g3="up")}
    assert available(info("g1", "g2", "g3"), told) == ("g2", "g3")
    told["c"] = paths(g1="up")
    assert available(info("g1", "g2", "g3"), told) == ("g1", "g2", "g3")
    assert available(info("g1"), {"a": paths(g1="connecting")}) == ("g1",)


def test_a_node_that_reaches_nothing_is_not_believed_unless_nobody_else_tells() -> None:
    cut_off = {"a": paths(g1="down", g2="down"), "b": paths(g3="up")}
    assert available(info("g1", "g2", "g3"), {"a": cut_off["a"]}) == ("g3",)
    told = {**cut_off, "c": paths(g1="down", g2="up")}
    assert available(info("g1", "g2", "g3"), told) == ("g2", "g3")


def test_where_no_gateway_would_remain_all_remain() -> None:
    assert available(info("g1", "g2"), {"a": paths(g1="down", g2="down")}) == ("g1", "g2")


def test_a_gateway_that_is_down_for_a_moment_is_not_given_up() -> None:
    """As one that has not heard of this cluster yet when the first tunnel is tried."""
    down, up = {"a": paths(g1="down", g2="up")}, {"a": paths(g1="up", g2="up")}
    first = judge(info("g1", "g2"), down, Judgement(), 100.0)
    assert first.available == ("g1", "g2")
    assert first.until == 100.0 + DOUBT
    again = judge(info("g1", "g2"), up, first, 99.0 + DOUBT)
    assert (again.available, again.until) == (("g1", "g2"), math.inf)
    assert judge(info("g1", "g2"), down, again, 101.0 + DOUBT).available == ("g1", "g2")


def test_a_gateway_that_was_given_up_is_tried_again_after_a_while() -> None:
    told, since = {"a": paths(g1="down", g2="up")}, 100.0 - DOUBT
    first = judge(info("g1", "g2"), told, Judgement(doubted={"g1": since}), 100.0)
    assert first.available == ("g2",)
    assert first.until == 100.0 + RETRY
    quiet = {"a": paths(g2="up")}
    later = judge(info("g1", "g2"), quiet, first, 100.0 + RETRY / 2)
    assert later.available == ("g2",)
    assert judge(info("g1", "g2"), quiet, later, 101.0 + RETRY).available == ("g1", "g2")


# What is told


def node(name: str, *ranges: str, pods: Sequence[str] = ()) -> FederatedNode:
    return FederatedNode(name=name, addresses=["192.0.2.1"], ranges=list(ranges), pods=list(pods))


def test_only_what_is_federated_is_told_of_nodes() -> None:
    site = Site(
        "east", "x", grouped=True, nodes=(node("b", "10.1.2.0/24"), node("a", "10.0.0.0/8"))
    )
    told = build(site, Local(ranges=["10.1.0.0/16"]), with_pods=True)
    assert [(each.name, each.ranges, each.pods) for each in told.nodes] == [
        ("a", ["10.1.0.0/16"], []),
        ("b", ["10.1.2.0/24"], []),
    ]


def test_pools_and_networks_are_ranges_and_pods_lie_where_their_nodes_say() -> None:
    site = Site(
        "east",
        "netspace",
        grouped=False,
        nodes=(node("a", pods=["10.1.0.5"]), node("b")),
        pools={"one": ["10.1.0.0-10.1.0.9"]},
        networks={"vlan": ["10.1.0.0-10.1.0.9", "fd00::1-fd00::4"]},
        pods={"b": ["10.1.0.5", "10.1.0.6", "10.2.0.1"]},
    )
    told = build(site, Local(networks=["vlan"], pools=["one"]), with_pods=True)
    assert told.ranges == [
        "10.1.0.0/29",
        "10.1.0.8/31",
        "fd00::1/128",
        "fd00::2/127",
        "fd00::4/128",
    ]
    assert {each.name: each.pods for each in told.nodes} == {"a": ["10.1.0.5"], "b": ["10.1.0.6"]}
    without = build(site, Local(pools=["one"]), with_pods=False)
    assert [each.pods for each in without.nodes] == [[], []]


def test_a_span_becomes_the_subnets_that_it_is() -> None:
    assert [str(each) for each in subnets("10.0.0.1-10.0.0.2")] == ["10.0.0.1/32", "10.0.0.2/32"]
    with pytest.raises(ValueError, match="two families"):
        subnets("10.0.0.1-::1")


def test_information_is_news_if_it_is_newer_or_differs() -> None:
    assert compared(None, info()) == "newer"
    assert compared(info(version=2), info(version=1)) == "older"
    assert compared(info(version=2), info(version=2)) == "same"
    assert compared(info("g1", version=2), info("g2", version=2)) == "newer"
    later = msgspec.structs.replace(info(), version=Version(epoch=2, number=0))
    assert compared(info(version=99), later) == "newer"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"cluster": "north"}, "it is of cluster north"),
        ({"ranges": ["10.0.0.1/8"]}, "is to be written as 10.0.0.0/8"),
        ({"nodes": [FederatedNode(name="n", addresses=["me"])]}, "'me' is no address"),
        ({"nodes": [node("n"), node("n")]}, "a node stands twice"),
    ],
)
def test_information_that_cannot_be_used_is_not_taken(bad: dict[str, object], why: str) -> None:
    told = msgspec.structs.replace(info(), **bad)
    assert why in fault_of(told, "west", None)
    assert fault_of(info("g1"), "west", None) == ""


# What is taken


class Taking:
    """The cluster `east`, which `west` tells something, and what its state becomes."""

    def __init__(self, tmp_path: Path) -> None:
        config = FederationConfig(cluster="east", state_dir=tmp_path)
        self.keys = Keys("east")
        mirror = Mirror(cast(Store, None), self.keys)
        mirror.known.set()
        self.place = Place(config, cast(Store, None), self.keys, mirror, Folder(config.state_dir))
        self.state = mirror.state
        self.revision = 0
        self.uses: tuple[str, ...] = ()
        members = [
            Member(cluster=name, cni="x", endpoints=["https://h:1"], ca="", ranges=ranges)
            for name, ranges in (
                ("east", ["10.1.0.0/16"]),
                ("west", ["10.2.0.0/16"]),
                ("north", ["10.3.0.0/16"]),
            )
        ]
        federation = Federation(name="f", number=1, founder="west", root="", vni=1, members=members)
        record = FederationRecord(Local(), federation)
        self.do([Put(self.keys.federation("f"), msgspec.json.encode(record))])
        self.exchange = Exchange(
            self.place,
            cast(Term, None),
            Identity(self.place),
            "f",
            members[1],
            lambda: Own("east", self.uses),
        )

    def do(self, operations: Sequence[Op]) -> list[str]:
        """Carries them out; the keys' kinds."""
        for each in operations:
            assert isinstance(each, Put | Delete)
            self.revision += 1
            gone = isinstance(each, Delete)
            value = b"" if isinstance(each, Delete) else each.value
            kind = "delete" if gone else "put"
            event = Event(kind, each.key, value, self.revision, self.revision)  # type: ignore[arg-type]
            self.state.apply(self.revision, [event])
        return [self.keys.parts(each.key)[0] for each in cast(Sequence[Put], operations)]

    def tell(self, told: ClusterInfo) -> list[str]:
        return self.do(list(self.exchange.taken(self.state, told)))


def ranged(told: ClusterInfo, *ranges: str) -> ClusterInfo:
    return msgspec.structs.replace(told, ranges=list(ranges))


def test_older_information_is_ignored_and_the_same_twice_changes_nothing(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    assert world.tell(info("g1", version=5)) == ["peers"]
    known = world.state.peers["f", "west"]
    assert world.tell(info("g1", version=5)) == []
    assert world.tell(info("g2", version=4)) == []
    assert world.state.peers["f", "west"] == known
    assert world.tell(info("g2", version=6)) == ["peers"]


def test_what_overlaps_another_member_is_not_applied_until_it_no_longer_does(
    tmp_path: Path,
) -> None:
    world = Taking(tmp_path)
    world.tell(ranged(info("g1"), "10.2.0.0/16"))
    overlapping = ranged(info("g1", version=2), "10.2.0.0/16", "10.3.9.0/24")
    assert world.tell(overlapping) == ["faults"]
    assert world.state.faults["f", "west"] == (
        "range 10.3.9.0/24 of cluster west overlaps range 10.3.0.0/16 of cluster north"
    )
    assert world.state.peers["f", "west"].version.number == 1
    assert world.tell(overlapping) == []
    assert world.tell(ranged(info("g1", version=3), "10.2.0.0/16")) == ["faults", "peers"]
    assert not world.state.faults


def test_what_a_cluster_tells_that_is_no_member_any_more_is_not_kept(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    record = world.state.federations["f"]
    left = [each for each in record.federation.members if each.cluster != "west"]
    federation = msgspec.structs.replace(record.federation, members=left)
    world.state.federations["f"] = FederationRecord(Local(), federation)
    assert world.tell(info("g1")) == []


def test_a_state_that_is_read_anew_is_the_one_that_was_followed(tmp_path: Path) -> None:
    world = Taking(tmp_path)
    world.tell(info("g1"))
    fresh = State(world.keys)
    fresh.apply(
        9,
        [
            KeyValue(
                world.keys.federation("f"), msgspec.json.encode(world.state.federations["f"]), 1, 1
            ),
            KeyValue(world.keys.peer("f", "west"), pack(info("g1")), 2, 2),
        ],
    )
    assert view_of(fresh, "east") == view_of(world.state, "east")
    [federation] = view_of(fresh, "east").federations
    assert [peer.cluster for peer in federation.peers] == ["west", "north"]
    assert federation.own.ranges == []


def test_the_view_says_when_a_member_last_answered_without_being_a_later_one(
    tmp_path: Path,
) -> None:
    world = Taking(tmp_path)
    world.tell(info("g1"))
    views = Views(world.place)

    def seen() -> tuple[int, int | None]:
        view = msgspec.json.decode(views.latest(), type=View)
        return view.number, view.federations[0].peers[0].contact

    number, before = seen()
    world.do([Put(world.keys.contact("f", "west"), b"1700000000")])
    assert (before, seen()) == (None, (number, 1_700_000_000))


# Words


def test_a_node_is_down_once_it_is_silent_and_forgotten_much_later() -> None:
    words = Words([], 0.0)
    assert words.say(NodeWord(node=node("n")), 1.0)
    assert not words.say(NodeWord(node=node("n")), 2.0)
    assert not words.look(16.0, 1000.0, 15, 60)
    assert words.look(17.0, 1001.0, 15, 60)
    assert [each.down for each in words.nodes] == [1001]
    assert not words.look(18.0, 1002.0, 15, 60)
    assert words.say(NodeWord(node=node("n")), 19.0)
    assert [each.down for each in words.nodes] == [None]
    words.look(40.0, 1100.0, 15, 60)
    assert words.look(200.0, 1160.0, 15, 60) and words.nodes == ()


@pytest.mark.parametrize(
    ("layouts", "gateways"),
    [
        (["distributed"], ["labelled", "plain"]),
        (["centralised"], ["labelled"]),
        (["centralised", "distributed"], ["labelled", "plain"]),
        ([], []),
    ],
)
def test_the_status_says_which_nodes_are_gateways_in_any_federation(
    layouts: list[Layout], gateways: list[str]
) -> None:
    words = Words([], 0.0)
    for name, gateway, capable in (
        ("labelled", True, True),
        ("plain", False, True),
        ("unable", True, False),
    ):
        capabilities: list[Capability] = ["ipsec"] if capable else ["vxlan"]
        words.say(
            NodeWord(
                node=FederatedNode(
                    name=name, addresses=["192.0.2.1"], gateway=gateway, capabilities=capabilities
                )
            ),
            1.0,
        )
    federation = Federation(name="f", number=1, founder="a", root="", vni=1, members=[])
    records = [FederationRecord(Local(layout=layout), federation) for layout in layouts]
    told = nodes_of(words, records, 2.0)
    assert [each.node for each in told if each.gateway] == gateways


def test_a_new_leader_gives_nodes_the_time_to_speak() -> None:
    words = Words([node("n")], 100.0)
    assert not words.look(110.0, 1000.0, 15, 60)
    assert words.look(115.0, 1005.0, 15, 60)


# Tokens


def test_a_token_says_whose_it_is_and_is_read_whole_or_not_at_all() -> None:
    ticket = Ticket(
        federation="f", founder="east", endpoints=["https://h:1"], root="0" * 64, secret="1" * 64
    )
    text = tokens.encode(ticket)
    assert tokens.decode(f" {text}\n") == ticket
    for bad in (text[:-20], text[5:], "nsf1.", "nsf1.!!"):
        with pytest.raises(Problem, match="it is none, or not all of it"):
            tokens.decode(bad)


def test_a_token_admits_once_and_its_user_again() -> None:
    fresh = TokenRecord(expires=100)
    assert tokens.admit(fresh, "c", "k", 99.0)
    used = TokenRecord(expires=100, used="c", key="k")
    assert not tokens.admit(used, "c", "k", 500.0)
    for record, cluster, key, now in (
        (None, "c", "k", 0.0),
        (used, "d", "k", 0.0),
        (used, "c", "l", 0.0),
        (fresh, "c", "k", 101.0),
    ):
        with pytest.raises(Problem) as caught:
            tokens.admit(record, cluster, key, now)
        assert caught.value.code == "forbidden"


# Certificates


def test_only_what_the_root_signed_for_the_cluster_is_its_authority() -> None:
    root_key, key, other_key = authority.new_key(), authority.new_key(), authority.new_key()
    root = authority.make_root(root_key, "f")
    csr = authority.request(key, "east")
    ca = authority.sign_authority(root, root_key, csr, "f", "east")
    assert authority.why_not_genuine(ca, root, "f", "east") == ""
    assert "is made out to" in authority.why_not_genuine(ca, root, "f", "west")
    assert "is made out to" in authority.why_not_genuine(ca, root, "g", "east")
    forged = authority.sign_authority(root, other_key, csr, "f", "east")
    assert "not signed by" in authority.why_not_genuine(forged, root, "f", "east")
    assert authority.is_of(ca, key) and not authority.is_of(ca, root_key)


def test_a_leaf_says_whose_it_is_when_it_ends_and_when_to_renew_it() -> None:
    root_key, key, leaf = authority.new_key(), authority.new_key(), authority.new_key()
    root = authority.make_root(root_key, "f")
    ca = authority.sign_authority(root, root_key, authority.request(key, "east"), "f", "east")
    life = timedelta(days=30)
    made = authority.sign_server(ca, key, authority.request(leaf, "s"), "f", "s", life)
    now = time.time()
    assert abs(made.expires - now - 30 * 86_400) < 10
    assert abs(made.renew - now - 20 * 86_400) < 10
    found = x509.load_pem_x509_certificate(made.pem.encode())
    assert found.subject.rfc4514_string() == "CN=s,OU=east,O=netspace:federation"


def subject(**parts: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(((name, value),) for name, value in parts.items())


def test_a_member_is_who_its_own_authority_says() -> None:
    own = subject(
        organizationName="netspace:federation", organizationalUnitName="east", commonName="s"
    )
    issuer = subject(
        organizationName="netspace:federation", organizationalUnitName="f", commonName="east"
    )
    assert certified({"subject": own, "issuer": issuer}) == Caller("member", "east", "f")
    other = subject(
        organizationName="netspace:federation", organizationalUnitName="f", commonName="west"
    )
    assert certified({"subject": own, "issuer": other}).role == "nobody"
    with pytest.raises(Problem):
        Caller.decode(Caller("member", "east", "f").encode())


# Who may, and the configuration


def test_nodes_speak_for_themselves_and_servers_alone_ask_for_signatures() -> None:
    rows = {(route.method, route.path.rpartition("/")[2]): route.who for route in api.ROUTES}
    me = Caller("node", "east", "n1")
    what = "ask"
    rows["PUT", "word"].check_scope(me, what, {"cluster": "east", "node": "n1"}, None, None)
    for path in ({"cluster": "east", "node": "n2"}, {"cluster": "west", "node": "n1"}):
        with pytest.raises(Problem):
            rows["PUT", "word"].check_scope(me, what, path, None, None)
    for name in ("signatures", "joinings", "departures", "witnesses"):
        assert rows["POST", name].roles == frozenset({"server"})
    for route in api.ROUTES:
        assert route.who.roles is None or "member" not in route.who.roles
        if route.method != "GET" and "node" not in (route.who.roles or ()):
            with pytest.raises(Problem):
                route.who.check_role(me, what)
    assert {(route.method, route.path.rpartition("/")[2]) for route in door.ROUTES
            if route.who.roles is None} == {
        ("GET", "authority"), ("POST", "members"), ("GET", "healthz"),
    }  # fmt: skip


def test_the_example_is_correct_shows_the_defaults_and_documents_every_key() -> None:
    example = load(EXAMPLE, FederationConfig)
    default = FederationConfig(cluster="prod")
    assert example.model_copy(update={"name": default.name}) == default
    lines = []
    for line in EXAMPLE.read_text().splitlines():
        bare = line.lstrip()
        rest = bare.removeprefix("# ")
        key = rest.strip().partition(":")[0]
        if bare.startswith("# ") and key.isidentifier() and key.islower() and ":" in rest:
            words = rest.partition(":")[2]
            if (
                not words.strip()
                or words.strip().startswith(("/", "https", "true"))
                or (words.strip().isdigit())
            ):
                line = line.replace("# ", "", 1)
        lines.append(line)
    found = yaml.safe_load("\n".join(lines))
    assert written(found) == keys(FederationConfig)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cni: x", "cluster: Field required"),
        ("cluster: A", "is no cluster's name"),
        ("cluster: a\nservices: [10.0.0.1/8]", "has host bits set"),
        ("cluster: a\nfederation: {listen: ['http://127.0.0.1:1']}", "clusters speak https"),
        ("cluster: a\nlisten: ['http://10.0.0.1:1']", "could be reached from other machines"),
        ("cluster: a\nlisten: ['https://10.0.0.1:1']", "needs certificates"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "federation-server.yaml"
    path.write_text(text)
    with pytest.raises(Problem, match=r"federation-server\.yaml") as caught:
        load(path, FederationConfig)
    assert why in str(caught.value)
