"""Federation servers of several clusters, joined by tokens, over a real etcd and real TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation.client import Client
from federation.server import authority, identity
from federation.server.config import FederationConfig
from federation.server.files import Folder
from federation.server.keys import Keys
from federation.server.mirror import Mirror
from federation.server.place import Place
from federation.server.state import FederationRecord, ServerRecord, pack, unpack
from ipam_server.client import Client as IpamClient
from lab.etcd import Etcd
from lab.server import HASTY as IPAM
from lab.server import Server
from netspace import messages as m
from netspace.messages.federating import (
    Certificate,
    ChangeFederation,
    Local,
    NewFederation,
    Signing,
)
from netspace.messages.federation import ClusterInfo, Federation, Member, PathWord, Version
from netspace.problems import Problem
from statestore import Put, Store, Txn
from tests.etcd.test_federation_trials import as_member
from tests.federation_world import NAME, Cluster, World, pair, until

Trio = tuple[Cluster, Cluster, Cluster]


@pytest.fixture
def world(tmp_path: Path, shared_etcd: Etcd) -> Iterator[World]:
    """For clusters whose servers are killed, or are special."""
    world = World(tmp_path, shared_etcd.url)
    yield world
    world.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, shared_etcd: Etcd) -> Iterator[Trio]:
    world = World(tmp_path_factory.mktemp("trio"), shared_etcd.url)
    try:
        a, b, c = world.clusters(
            "a", "b", "c", leader_ttl=10, times={"refresh": 1}, services=["10.96.0.0/16"]
        )
        yield a, b, c
    finally:
        world.end()


@pytest.fixture
def trio(running: Trio) -> Iterator[Trio]:
    """Three clusters, in no federation yet."""
    yield running
    for cluster in running:
        cluster.cleared()


def knows(one: Cluster, other: Cluster, gateways: list[str]) -> bool:
    return one.available(other.name) == gateways


def refusal(cluster: Cluster, token: str, *ranges: str) -> str:
    """What a cluster is told that may not join."""
    with pytest.raises(Problem) as caught:
        cluster.join(token, *(ranges or ("10.9.0.0/16",)))
    assert not cluster.ask(lambda client: client.federations(cluster.name))
    return f"{caught.value.code}: {caught.value}"


def test_clusters_that_joined_by_tokens_tell_one_another_their_nodes(trio: Trio) -> None:
    a, b, c = trio
    pair(a, b)
    c.join(a.token(), "10.3.0.0/16", "fd00:3::/64")
    for number, cluster in enumerate((a, b, c), 1):
        cluster.say(f"node-{cluster.name}", f"192.0.2.{number}")
    for one in (a, b, c):
        for other in (a, b, c):
            if one is not other:
                gateway = [f"node-{other.name}"]
                until(partial(knows, one, other, gateway), f"{one.name} knows {gateway}")
    seen = b.peer("c")
    assert seen is not None and seen.info is not None
    assert seen.kind == "heterogeneous"
    assert seen.info.ranges == ["10.3.0.0/16", "fd00:3::/64"]
    assert [member.cluster for member in a.view().federation.members] == [
        "a", "b", "c",
    ]  # fmt: skip
    assert all(peer.reached for peer in c.stands().peers)


def test_a_token_works_once_for_a_short_time_and_only_as_it_was_made(trio: Trio) -> None:
    a, b, c = trio
    a.found("10.1.0.0/16")
    expired, until_then = a.token(1), time.time() + 2
    used, other = a.token(), a.token()
    b.join(used, "10.2.0.0/16")
    assert "forbidden: " in refusal(c, used) and "cluster b has used it" in refusal(c, used)
    body = other.removeprefix("nsf1.")
    forged = json.loads(ticket_text(body)) | {"secret": "0" * 64}
    assert "it is none of this federation's" in refusal(c, token_of(forged))
    wrong_root = json.loads(ticket_text(body)) | {"root": "0" * 64}
    assert "is not the founder that the token names" in refusal(c, token_of(wrong_root))
    assert refusal(c, other[:-30]).startswith("invalid: token: it is none, or not all of it")
    until(lambda: time.time() > until_then, "the token has expired")
    assert "it expired" in refusal(c, expired)
    [federation] = a.ask(lambda client: client.federations("a"))
    assert [member.cluster for member in federation.federation.members] == ["a", "b"]


def test_a_token_of_another_federation_than_the_one_named_is_not_used_up(trio: Trio) -> None:
    a, b, _ = trio
    a.found("10.1.0.0/16")
    token = a.token()
    with pytest.raises(Problem, match="it is of federation prod, and test is to be joined"):
        b.join(token, "10.2.0.0/16", name="test")
    assert not b.ask(lambda client: client.federations("b"))
    b.join(token, "10.2.0.0/16", name=NAME)
    assert [member.cluster for member in a.view().federation.members] == ["a", "b"]


def ticket_text(body: str) -> bytes:
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def token_of(ticket: dict[str, object]) -> str:
    return "nsf1." + base64.urlsafe_b64encode(json.dumps(ticket).encode()).decode().rstrip("=")


def test_overlapping_ranges_are_refused_with_both_named(trio: Trio) -> None:
    a, b, c = trio
    pair(a, b)
    said = refusal(c, a.token(), "10.2.128.0/17")
    assert said.startswith("overlap: range 10.2.128.0/17 of cluster c overlaps")
    assert "range 10.2.0.0/16 of cluster b" in said
    assert "Service CIDR 10.96.0.0/16 of cluster a" in refusal(c, a.token(), "10.96.5.0/24")
    until(lambda: b.peer("a") is not None and b.sees("a").reached, "b has heard of a")
    before = b.number()
    with pytest.raises(Problem, match=r"range 10\.1\.0\.0/16 of cluster a"):
        change = ChangeFederation(ranges=["10.0.0.0/8"])
        b.ask(lambda client: client.change("b", NAME, change))
    assert b.number() == before


def test_a_cluster_that_is_away_is_kept_as_it_was_and_comes_back(world: World, trio: Trio) -> None:
    a, b, c = trio[0], world.cluster("away"), trio[2]
    pair(a, b)
    c.join(a.token(), "10.3.0.0/16")

    def all_known() -> bool:
        # As agents do: a new leader has heard of nothing that was not told on.
        b.say("n1", "192.0.2.1")
        c.say("n2", "192.0.2.2")
        return a.available("away") == c.available("away") == ["n1"] and (
            a.available("c") == b.available("c") == ["n2"]
        )

    until(all_known, "all know all")
    before = a.view()
    assert b.servers[0].end(signal.SIGKILL) < 0
    until(lambda: not a.sees("away").reached, "a has noticed")
    status = a.sees("away")
    assert status.why and status.age is not None and status.nodes == 1
    assert a.sees("c").reached
    after = a.view()
    assert [peer.info for peer in after.peers] == [peer.info for peer in before.peers]
    assert [peer.available for peer in after.peers] == [peer.available for peer in before.peers]

    def third_known() -> bool:
        c.say("n3", "192.0.2.3")
        return a.nodes_of("c") == ["n2", "n3"]

    until(third_known, "the others are heard all the same")
    b.servers[0].start()
    until(lambda: a.sees("away").reached, "b is back")
    until(lambda: b.nodes_of("c") == ["n2", "n3"], "b has caught up")


def test_another_server_leads_on_when_the_leader_is_killed(world: World) -> None:
    a = world.cluster("two-a", servers=2)
    b = world.cluster("two-b")
    a.found("10.1.0.0/16")
    b.join(a.token(), "10.2.0.0/16")

    def known_to_b(*names: str) -> bool:
        for name in names:
            a.say(name, "192.0.2.1", at=other)
        return b.nodes_of("two-a") == list(names)

    other = 1  # which leads, or passes it on
    until(partial(known_to_b, "n1"), "b knows a's node")
    # The first one alone has the key; without a certificate nobody takes the other one for a's.
    until(lambda: certified(a, 0) and certified(a, 1), "both servers have their certificates")
    until(lambda: told(a, 0) == told(a, 1), "both servers tell the same")
    version = b.peer("two-a").info.version  # type: ignore[union-attr]
    leader = int((a.status().leader or "").removeprefix("two-a-"))
    other = 1 - leader
    a.servers[leader].end(signal.SIGKILL)
    until(lambda: led(a, other), "the other one leads")
    assert b.nodes_of("two-a") == ["n1"]
    until(partial(known_to_b, "n1", "n2"), "b hears the new leader")
    info = b.peer("two-a").info  # type: ignore[union-attr]
    assert info is not None and info.version > version and info.nodes[0].down is None


def test_the_status_says_which_server_has_no_certificate_yet(world: World) -> None:
    a = world.cluster("bare", servers=2)
    leader = int((a.status().leader or "").removeprefix("bare-"))
    other = a.servers[1 - leader]
    other.end()
    a.ask(lambda client: client.found("bare", NewFederation(name=NAME)), leader)
    until(lambda: certified(a, leader), "the leader has its certificate")
    key = a.servers[leader].folder / "state" / NAME / "authority.key"
    kept = key.rename(key.with_suffix(".kept"))
    other.start()

    def bare() -> list[str]:
        return [each.name for each in a.status(leader).servers if each.uncertified == [NAME]]

    def faults() -> list[str]:
        return [text for text in a.status(leader).federations[0].faults if "certificate" in text]

    until(lambda: bare() == [f"bare-{1 - leader}"], "the other one says that it has none")
    [fault] = faults()
    assert f"server bare-{1 - leader} has no certificate of federation {NAME}" in fault
    kept.rename(key)
    until(lambda: not bare() and certified(a, 1 - leader), "it has one")
    assert faults() == []


def test_a_server_asks_for_its_certificate_as_soon_as_another_one_has_the_key(
    tmp_path: Path, shared_etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that becomes known while it is just being refused one."""
    monkeypatch.setattr(identity, "LOOK", 3600.0)
    config, keys = FederationConfig(cluster="late", state_dir=tmp_path), Keys("late")

    async def asked() -> None:
        async with Store([shared_etcd.url]) as store:
            mirror = Mirror(store, keys)
            asking = Asking(Place(config, store, keys, mirror, Folder(tmp_path)))
            mirror.start()
            await mirror.known.wait()
            work = asyncio.create_task(asking.run())
            try:
                await store.txn(
                    Txn((), (Put(keys.federation(NAME), msgspec.json.encode(alone("late"))),))
                )
                for number in (1, 2):
                    await asking.began.acquire()
                    other = ServerRecord(f"s{number}", "unix:///s", (NAME,))
                    await store.txn(
                        Txn((), (Put(keys.server(other.name), msgspec.json.encode(other)),))
                    )
                    while other.name not in mirror.state.servers:
                        await mirror.moved()
                    asking.refused.release()
                await asking.began.acquire()
                assert mirror.state.servers.keys() == {"s1", "s2"}
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                await mirror.close()
                await store.delete_prefix(keys.prefix)

    asyncio.run(asyncio.wait_for(asked(), 20))


class Asking(identity.Identity):
    """Is refused whatever it asks for, when it is time."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.began, self.refused = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def sign(self, federation: str, asked: Signing) -> Certificate:
        self.began.release()
        await self.refused.acquire()
        raise Problem("unavailable", "nobody has the key")


def alone(cluster: str) -> FederationRecord:
    member = Member(cluster=cluster, cni="x", endpoints=["https://h:1"], ca="")
    federation = Federation(name=NAME, number=1, founder=cluster, root="", vni=1, members=[member])
    return FederationRecord(Local(), federation)


def told(cluster: Cluster, at: int) -> object:
    """What its nodes are told by one of its servers, but for when who was heard."""
    view = cluster.view(at)
    peers = [(peer.cluster, peer.info, peer.available) for peer in view.peers]
    return view.federation, view.own, peers


def certified(cluster: Cluster, at: int) -> bool:
    """Whether one of its servers can show other members whose it is."""
    return f'certificate_expires_timestamp_seconds{{federation="{NAME}"}}' in metrics(cluster, at)


def metrics(cluster: Cluster, at: int = 0) -> str:
    return cluster.ask(lambda client: client._http.request("GET", "/metrics"), at).decode()


def led(cluster: Cluster, at: int) -> bool:
    try:
        return cluster.status(at).leader == cluster.servers[at].folder.name
    except Problem:
        return False


def test_what_is_said_twice_changes_nothing(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    a.say("n1", "192.0.2.1")
    until(lambda: b.nodes_of("a") == ["n1"], "b knows a's node")
    until(lambda: b.available("a") == ["n1"], "b has judged it")
    numbers = a.number(), b.number()
    versions = a.view().own.version, b.view().own.version
    for _ in range(3):
        a.say("n1", "192.0.2.1")
    contact = b.sees("a").contact or 0
    until(lambda: (b.sees("a").contact or 0) > contact + 1, "b has read all of it again")
    assert (a.number(), b.number()) == numbers
    assert (a.view().own.version, b.view().own.version) == versions


@pytest.mark.parametrize("refresh", [1, 300])
def test_a_state_that_was_set_back_begins_a_later_life(
    world: World, shared_etcd: Etcd, refresh: int
) -> None:
    """Whether the others then ask for everything first, or for what is newer."""
    names = f"back-a-{refresh}", f"back-b-{refresh}"
    a, b = pair(*world.clusters(*names, times={"refresh": refresh}))

    def known_to_b(*names: str) -> bool:
        for name in names:
            a.say(name, "192.0.2.1")
        return b.nodes_of(a.name) == list(names)

    until(partial(known_to_b, "n1"), "b knows a's node")
    until(partial(known_to_b, "n1", "n2"), "b knows both")
    known = b.peer(a.name).info  # type: ignore[union-attr]
    assert known is not None
    a.servers[0].end(signal.SIGKILL)
    asyncio.run(set_back(shared_etcd.url, a.name))
    a.servers[0].start()
    a.servers[0].wait_until(lambda: led(a, 0), "leading")

    def healed() -> bool:
        a.say("n1", "192.0.2.9")
        info = b.peer(a.name).info  # type: ignore[union-attr]
        return info is not None and [n.addresses for n in info.nodes] == [["192.0.2.9"]]

    until(healed, "b takes what the later life says")
    info = b.peer(a.name).info  # type: ignore[union-attr]
    assert info is not None and info.version.epoch > known.version.epoch


async def set_back(url: str, cluster: str) -> None:
    """As a backup would have it: the cluster has told one thing, and knows of no node."""
    keys = Keys(cluster)
    async with Store([url]) as store:
        stored = await store.get(keys.own(NAME))
        assert stored is not None
        info = unpack(stored.value, ClusterInfo)
        old = ClusterInfo(
            cluster=cluster, version=Version(epoch=1, number=1), cni=info.cni, ranges=info.ranges,
            endpoints=info.endpoints,
        )  # fmt: skip
        puts = (Put(keys.own(NAME), pack(old)), Put(keys.nodes, pack([])))
        await store.txn(Txn((), puts))


def test_gateways_that_the_own_nodes_cannot_reach_are_left_out(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    for number in (1, 2):
        b.say(f"g{number}", f"192.0.2.{number}")
    until(lambda: a.available("b") == ["g1", "g2"], "both gateways")

    def path(node: str, up: bool) -> PathWord:
        return PathWord(federation=NAME, cluster="b", node=node, state="up" if up else "down")

    a.say("n1", "192.0.2.11", [path("g1", False), path("g2", True)])
    until(lambda: a.available("b") == ["g2"], "the one that nobody reaches is out")
    a.say("n2", "192.0.2.12", [path("g1", True)])
    until(lambda: a.available("b") == ["g1", "g2"], "somebody reaches it")
    assert a.sees("b").tunnels == {"up": 2, "connecting": 0, "down": 1}


def test_a_node_that_falls_silent_is_down_for_the_others(world: World, trio: Trio) -> None:
    a, b = pair(trio[0], world.cluster("hush-b", times={"silent": 1}))

    def says(*nodes: str) -> list[str]:
        for node in nodes:
            b.say(node, f"192.0.2.{node[1:]}")
        return a.available("hush-b")

    until(lambda: says("n1") == ["n1"], "the node is a gateway")

    until(lambda: says("n2") == ["n2"], "the silent one is no gateway any more")
    info = a.peer("hush-b").info  # type: ignore[union-attr]
    assert info is not None
    down = {node.name: node.down for node in info.nodes}
    assert down["n1"] is not None and abs(down["n1"] - time.time()) < 60
    until(lambda: says("n1", "n2") == ["n1", "n2"], "it has spoken again")
    b.ask(lambda client: client.forget_node("hush-b", "n1"))
    until(lambda: a.nodes_of("hush-b") == ["n2"], "it was forgotten")


def test_a_node_gets_a_certificate_of_its_own_name_alone(trio: Trio) -> None:
    a = trio[0]
    a.found("10.1.0.0/16")
    key = ec.generate_private_key(ec.SECP256R1())

    def asked(name: str) -> x509.Certificate:
        signed = a.ask(lambda client: client.certify("a", NAME, "n1", request(key, name)))
        assert signed.renew < signed.expires <= time.time() + 30 * 86_400 + 60
        made = x509.load_pem_x509_certificate(signed.certificate.encode())
        made.verify_directly_issued_by(x509.load_pem_x509_certificate(signed.authority.encode()))
        assert not authority.why_not_genuine(signed.authority, signed.root, NAME, "a")
        return made

    made = asked("n1")
    assert made.public_key() == key.public_key()
    assert made.subject.rfc4514_string() == "CN=n1,OU=a,O=netspace:federation"
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in names] == ["n1", "192.0.2.1"]
    with pytest.raises(Problem, match="node n1 asks for a certificate of n2"):
        asked("n2")


def request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), x509.IPAddress(ip_address("192.0.2.1"))]
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_a_certificate_of_another_authority_is_not_let_in(trio: Trio) -> None:
    a, _ = pair(*trio[:2])
    stranger = trio[2]
    stranger.found("10.9.0.0/16")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(stranger.folder / "server.pem", stranger.folder / "server.key")
    port = int(a.servers[0].door.rpartition(":")[2])
    with (
        pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"),
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as secure,
    ):
        secure.sendall(b"GET /v1/federations/prod/info HTTP/1.1\r\nHost: x\r\n\r\n")
        secure.recv(1000)
    assert any("no TLS with" in line["message"] for line in a.servers[0].log)


def test_a_member_that_was_put_out_is_let_in_no_more_and_says_so(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    a.ask(lambda client: client.remove_member("a", NAME, "b"))
    assert a.view().peers == []

    # It depends on what it asked when, and whether over a connection from before.
    words = ("was removed", "does not know the authority of our", "is no member of federation")

    def said() -> bool:
        stands = b.stands()
        told = [*stands.faults, *(peer.why for peer in stands.peers)]
        return any(word in each for word in words for each in told)

    until(said, "b says why")
    until(lambda: not b.sees("a").reached, "b is not answered any more")
    b.ask(lambda client: client.leave("b", NAME, force=True))
    assert b.ask(lambda client: client.view("b")).federations == []
    b.join(a.token(), "10.2.0.0/16")
    until(lambda: a.sees("b").reached and b.sees("a").reached, "it is a member once more")


def test_what_a_member_says_it_has_seen_does_no_harm(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    before = a.number(), a.view().federation.number
    info = f"/v1/federations/{NAME}/info?wait=0"
    for known in (2**53 - 1, 5000):
        as_member(b, a, "GET", f"{info}&known={known}&after=9000000000000000.1")
    assert (a.number(), a.view().federation.number) == before
    for known in (20, 40, 60):
        as_member(b, a, "GET", f"{info}&known={known}")
    assert a.view().federation.number == 21
    until(lambda: b.view().federation.number == 21, "b has the later description")


def test_a_record_that_cannot_be_understood_harms_no_other_federation(
    trio: Trio, shared_etcd: Etcd
) -> None:
    a, b = pair(*trio[:2])
    bad = Keys("a").federation("broken")

    async def put(value: bytes | None) -> None:
        async with Store([shared_etcd.url]) as store:
            if value is None:
                await store.delete_prefix(bad)
            else:
                await store.txn(Txn((), (Put(bad, value),)))

    asyncio.run(put(b'{"local": {}, "federation": {"number": 9007199254740992}}'))
    try:

        def faults() -> list[str]:
            found = [each for each in a.status().federations if each.name == "broken"]
            return [fault for each in found for fault in each.faults]

        until(lambda: len(faults()) == 1, "the status says it")
        assert "federation broken cannot be understood" in faults()[0]
        a.say("n1", "192.0.2.1")
        until(lambda: b.nodes_of("a") == ["n1"], "the other one goes on")
        a.ask(lambda client: client.ready())
    finally:
        asyncio.run(put(None))
    until(lambda: not faults(), "it is gone")


def test_a_join_that_is_refused_leaves_no_key(trio: Trio) -> None:
    a, b, c = trio
    pair(a, b)
    refusal(c, a.token(), "10.2.128.0/17")
    assert not c.folder.exists()
    refusal(c, a.token(), "169.254.0.0/16")
    assert not c.folder.exists()


def test_a_node_that_takes_another_members_ranges_is_refused_alone(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    with pytest.raises(Problem, match=r"node n1: .*overlaps range 10\.2\.0\.0/16 of cluster b"):
        a.say("n1", "10.2.0.7")
    a.say("n2", "192.0.2.2")
    until(lambda: b.nodes_of("a") == ["n2"], "the others are told on")


def test_ranges_are_one_clusters_in_all_federations(trio: Trio) -> None:
    a, b, c = trio
    pair(a, b)
    b.say("n1", "192.0.2.1")
    until(lambda: a.nodes_of("b") == ["n1"], "a knows b")
    other = Cluster("a", a.servers, "other")
    other.ask(lambda client: client.found("a", NewFederation(name="other")))
    token = other.token()
    assert "range 10.2.0.0/16 of cluster b" in refusal(c, token, "10.2.5.0/24")
    assert "range 10.1.0.0/16 of cluster a" in refusal(c, token, "10.1.5.0/24")
    c.join(token, "10.3.0.0/16")


def test_a_member_leaves_and_the_founder_ends_it(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    with pytest.raises(Problem, match="has founded federation prod"):
        a.ask(lambda client: client.leave("a", NAME))
    with pytest.raises(Problem, match="has 1 other members: b"):
        a.ask(lambda client: client.delete("a", NAME))
    b.ask(lambda client: client.leave("b", NAME))
    assert a.view().peers == []
    a.ask(lambda client: client.delete("a", NAME))
    for cluster in (a, b):
        assert cluster.status().federations == []
        assert not cluster.folder.exists()


def test_keys_are_in_files_for_their_owner_alone_and_never_in_the_state(
    trio: Trio, shared_etcd: Etcd
) -> None:
    a, b = pair(*trio[:2])
    files = {
        cluster.name: {path.name: path.stat().st_mode & 0o777 for path in cluster.folder.iterdir()}
        for cluster in (a, b)
    }
    assert files["a"].keys() == {"root.key", "authority.key", "server.key", "server.pem"}
    assert files["b"].keys() == {"authority.key", "server.key", "server.pem"}
    assert {mode for found in files.values() for mode in found.values()} == {0o600}

    async def stored() -> bytes:
        async with Store([shared_etcd.url]) as store:
            pages = [page async for page in store.pages(b"/netspace/v1/federation/")]
        return b"".join(kv.value for page in pages for kv in page.items)

    assert b"PRIVATE KEY" not in asyncio.run(stored())


def test_hundreds_of_agents_wait_for_the_next_view_and_all_get_it(trio: Trio) -> None:
    a = trio[0]
    a.found("10.1.0.0/16")
    a.say("n1", "192.0.2.1")
    until(lambda: [node.name for node in a.view().own.nodes] == ["n1"], "the node is known")

    async def waited() -> list[int]:
        number = a_number
        async with Client([a.servers[0].url]) as client:
            asked = [client.view("a", number, 15) for _ in range(300)]
            waiting = [asyncio.create_task(each) for each in asked]
            await asyncio.sleep(0.5)
            assert not any(task.done() for task in waiting)
            change = ChangeFederation(layout="centralised")
            await client.change("a", NAME, change)
            return [(await task).number for task in waiting]

    a_number = a.number()
    numbers = asyncio.run(waited())
    assert all(number > a_number for number in numbers)


def test_a_view_that_is_not_new_comes_after_the_patience_that_was_asked_for(trio: Trio) -> None:
    a = trio[0]
    number = a.number()
    began = time.monotonic()
    view = a.ask(lambda client: client.view("a", number, 0.4))
    assert view.number == number and 0.4 <= time.monotonic() - began < 15
    began = time.monotonic()
    view = a.ask(lambda client: client.view("a", number + 10**6, 0.1))
    assert view.number == number


def test_a_join_whose_answer_was_lost_can_be_asked_for_again(trio: Trio, shared_etcd: Etcd) -> None:
    a, c = trio[0], trio[2]
    a.found("10.1.0.0/16")
    token = a.token()
    c.join(token, "10.3.0.0/16")

    async def forget() -> None:
        async with Store([shared_etcd.url]) as store:
            await store.delete_prefix(Keys("c").federation(NAME))

    kept = c.folder / "authority.key"
    key = kept.read_bytes()
    asyncio.run(forget())
    until(lambda: not c.ask(lambda client: client.federations("c")), "c knows nothing of it")
    until(lambda: not c.folder.exists(), "c has forgotten its keys")
    kept.parent.mkdir()
    kept.write_bytes(key)
    c.join(token, "10.3.0.0/16")
    members = a.view().federation.members
    assert [member.cluster for member in members] == ["a", "c"]


def test_the_status_metrics_and_readiness_are_told(trio: Trio) -> None:
    a, b = pair(*trio[:2])
    b.say("n1", "192.0.2.1")
    until(lambda: a.available("b") == ["n1"], "the gateway is known")
    a.ask(lambda client: client.ready())
    status = a.status()
    assert status.leader == "a-0" and status.ready
    until(lambda: a.status().servers[0].keys == [NAME], "it says whose keys it has")
    [federation] = status.federations
    assert federation.faults == [] and federation.certificate is not None
    text = metrics(a)
    labels = '{federation="prod",peer="b"}'
    assert f"netspace_federation_peer_gateways_available{labels} 1.0" in text
    assert f"netspace_federation_peer_reached{labels} 1.0" in text
    assert "netspace_federation_leading 1.0" in text


def test_a_join_needs_a_name_that_is_free_and_endpoints(world: World, trio: Trio) -> None:
    a, b = pair(*trio[:2])
    token = a.token()
    with pytest.raises(Problem, match="this cluster is in a federation prod already"):
        b.join(token, "10.2.0.0/16")
    c = world.cluster("nowhere", federation={"listen": []})
    with pytest.raises(Problem, match="does not say where other clusters reach"):
        c.join(token, "10.3.0.0/16")


def test_a_netspace_cluster_federates_pools_and_tells_where_its_pods_are(
    world: World, tmp_path: Path, shared_etcd: Etcd
) -> None:
    (tmp_path / "ipam").mkdir()
    server = Server(tmp_path / "ipam", shared_etcd.url, **IPAM).start()
    try:
        server.wait_until(lambda: server.said("ready"), "ready")
        asyncio.run(planned(server.url))
        ipam = {"endpoints": [server.url], "interval": 0.2}
        b = world.cluster("net-b", cni="netspace")
        a = world.cluster("net-own", cni="netspace", ipam=ipam)
        local = Local(pools=["apps"])
        until(lambda: founded(a, local), "the IPAM server was heard")
        b.join(a.token(), "10.9.0.0/16")
        a.say("n1", "192.0.2.1")

        def pods() -> dict[str, list[str]]:
            peer = b.peer("net-own")
            nodes = [] if peer is None or peer.info is None else peer.info.nodes
            return {node.name: node.pods for node in nodes}

        until(lambda: pods() == {"n1": ["10.7.0.16", "fd07::10"]}, "b knows where the pod is")
        info = b.peer("net-own").info  # type: ignore[union-attr]
        assert info is not None and not info.grouped
        assert info.ranges == ["10.7.0.16/28", "fd07::10/124"]
        assert b.sees("net-own").kind == "homogeneous"
        missing = ChangeFederation(pools=["none"])
        with pytest.raises(Problem, match="there is no pool none"):
            a.ask(lambda client: client.change("net-own", NAME, missing))
    finally:
        server.end(signal.SIGKILL)


def founded(cluster: Cluster, local: Local) -> bool:
    new = NewFederation(name=NAME, local=local)
    try:
        cluster.ask(lambda client: client.found(cluster.name, new))
    except Problem as problem:
        assert problem.code == "unavailable"
        return False
    return True


async def planned(url: str) -> None:
    """A pool of sixteen addresses of each family, one of them a pod's on node n1."""
    async with IpamClient([url]) as client:
        await client.create_cluster(m.NewCluster(name="net-own"))
        await client.create_fabric(m.NewFabric(name="federated"))
        await client.create_network(
            "net-own",
            m.NewNetwork(
                name="vlan", fabric="federated", vlan=7, ipv4="10.7.0.0/24", ipv6="fd07::/64"
            ),
        )
        await client.create_pool(
            "net-own",
            m.NewPool(name="apps", kind="default", network="vlan", ranges=["10.7.0.16-10.7.0.31"]),
        )
        await client.allocate(
            "net-own",
            m.AllocateRequest(
                attachment=m.AttachmentId(container="c1", ifname="eth0"),
                claim="0" * 32,
                node="n1",
                pod=m.Pod(namespace="shop", name="cart", uid="u1"),
            ),
        )
