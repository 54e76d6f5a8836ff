"""Mutual TLS on loopback: who gets in, who does not and is told why, renewal, slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from cni_plugins.node_config import ServerSection
from cni_plugins.protocol import CniError
from cni_plugins.status import _ask_servers
from ipam_server.api import Backend, make_application
from ipam_server.certificates import Certificates, expires_soon
from ipam_server.directory import Directory
from netspace import messages as m
from netspace import tls as tls_module
from netspace.callers import HEADER, Caller, current
from netspace.endpoints import Endpoint
from netspace.http_client import HttpClient
from netspace.http_server import HttpServer, Limits
from netspace.problems import Problem
from netspace.tls import Renewed, Tls, server_context
from tests.api_double import Double
from tests.pki import ADMIN, CONTROLLER, NODE_1, SERVER, Pki

STATUS = m.ServerStatus(name="s1", endpoint="", version="1", clusters=[])


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


class Served:
    """A server that listens with TLS, over a double of the service."""

    def __init__(self, port: int, certificates: Certificates, backend: Backend) -> None:
        self.port = port
        self.certificates = certificates
        self.backend = backend
        self.callers: list[Caller] = []

    def url(self, host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.port}"

    async def metrics(self) -> str:
        return (await self.backend.metrics.exposition(None)).decode()


@contextlib.asynccontextmanager
async def serving(tls: Tls, limits: Limits | None = None) -> AsyncIterator[Served]:
    limits = limits or Limits(arrival=2)
    backend = Backend()
    certificates = Certificates(tls, backend.metrics)
    served = Served(free_port(), certificates, backend)

    async def clusters() -> list[m.Cluster]:
        served.callers.append(current())
        return []

    double = Double({"own_status": STATUS, "clusters": clusters, "networks": []})
    backend.directory = cast(Directory, double)
    server = HttpServer(
        make_application(backend, limits), limits, certificates.renewed, backend.metrics.cut
    )
    await server.listen(Endpoint.parse(served.url()))
    try:
        yield served
    finally:
        await server.stop()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def ask(
    url: str,
    tls: Tls,
    target: str = "/healthz",
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
) -> str:
    """`ok`, or the problem: code, then its words."""
    client = HttpClient([url], 5, tls)
    try:
        await client.request(method, target, headers=headers or [])
    except Problem as problem:
        return f"{problem.code}: {problem}"
    finally:
        await client.close()
    return "ok"


# Handshakes


def test_both_sides_show_certificates_of_one_authority_and_the_subject_is_the_caller(
    pki: Pki,
) -> None:
    async def run() -> None:
        async with serving(pki.server()) as served:
            assert await ask(served.url(), pki.make(ADMIN), "/v1/clusters") == "ok"
            assert await ask(served.url("localhost"), pki.make(ADMIN), "/v1/clusters") == "ok"
            assert served.callers == [Caller("admin", name="alice")] * 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("what", "client_hears", "server_says"),
    [
        ("another authority", "certificate is not taken", "unable to get local issuer"),
        ("expired", "has expired", "certificate has expired"),
        ("not yet valid", "does not take our certificate", "not yet valid"),
        ("for servers only", "not made for this use", "unsuitable certificate purpose"),
    ],
)
def test_a_certificate_that_is_not_taken_is_named_on_both_sides(
    tmp_path: Path, pki: Pki, caplog: Any, what: str, client_hears: str, server_says: str
) -> None:
    (tmp_path / "other").mkdir()
    other = Pki(tmp_path / "other", "other")
    bad = {
        "another authority": lambda: replace(other.make(ADMIN), ca=pki.ca),
        "expired": lambda: pki.make(ADMIN, begin=-200, end=-100),
        "not yet valid": lambda: pki.make(ADMIN, begin=100, end=200),
        "for servers only": lambda: pki.make(ADMIN, server=True, client=False),
    }[what]()
    words = {"another authority": "does not know the authority"}.get(what, client_hears)

    async def run() -> list[str]:
        async with serving(pki.server()) as served:
            return [
                await ask(served.url(), bad, target, method)
                for method, target in (("GET", "/healthz"), ("DELETE", "/v1/fabrics/lab"))
            ]

    for said in asyncio.run(run()):
        assert said.startswith("unavailable: "), said
        assert words in said
    assert any(server_says in record.getMessage() for record in caplog.records)


def test_who_shows_no_certificate_does_not_get_in(pki: Pki, caplog: Any) -> None:
    async def run() -> str:
        async with serving(pki.server()) as served:
            context = ssl.create_default_context(cafile=str(pki.ca))
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            try:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                with pytest.raises(ssl.SSLError) as caught:
                    await asyncio.wait_for(reader.read(), 5)
                return tls_module.explained(caught.value)
            finally:
                writer.close()

    assert "wants a certificate" in asyncio.run(run())
    assert "no TLS with 127.0.0.1: the other side showed no certificate" in caplog.text


def test_a_server_of_another_name_or_authority_is_not_asked_and_hears_why(
    tmp_path: Path, pki: Pki, caplog: Any
) -> None:
    (tmp_path / "other").mkdir()
    other = Pki(tmp_path / "other", "other")

    async def run() -> tuple[str, str, str]:
        async with serving(pki.server(["ipam.example.net", "127.0.0.1"])) as served:
            return (
                await ask(served.url("localhost"), pki.make(ADMIN)),
                await ask(served.url(), replace(pki.make(ADMIN), ca=other.ca)),
                await ask(served.url(), pki.make(ADMIN)),
            )

    named, trusted, right = asyncio.run(run())
    assert named.startswith("unavailable")
    assert "Hostname mismatch, certificate is not valid for 'localhost'" in named
    assert trusted.startswith("unavailable")
    assert "the other side's certificate is not taken: self-signed certificate in" in trusted
    assert right == "ok"
    assert "the other side does not know the authority of our certificate" in caplog.text
    assert "it does not name the host they meant" in caplog.text


def test_http_to_an_https_port_and_the_reverse_say_what_is_wrong(
    tmp_path: Path, pki: Pki, caplog: Any
) -> None:
    async def run() -> tuple[bytes, str]:
        async with serving(pki.server()) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            heard = await asyncio.wait_for(reader.read(), 5)
            writer.close()
        app = make_application(Backend(), Limits())
        plain = HttpServer(app, Limits())
        port = free_port()
        await plain.listen(Endpoint.parse(f"http://127.0.0.1:{port}"))
        try:
            return heard, await ask(f"https://127.0.0.1:{port}", pki.make(ADMIN))
        finally:
            await plain.stop()

    heard, said = asyncio.run(run())
    assert b"200" not in heard
    assert "the other side speaks HTTP without TLS" in caplog.text
    assert "does not speak TLS" in said


def test_versions_before_1_2_are_refused(pki: Pki) -> None:
    context = server_context(pki.server())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.num_tickets == 0


# Files


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda tls: tls.ca.unlink(), "cannot be read: No such file"),
        (lambda tls: tls.key.unlink(), "cannot be read: No such file"),
        (lambda tls: tls.ca.write_text("nothing"), "holds no certificate"),
        (lambda tls: tls.cert.write_text("nothing"), "no certificate for the key"),
    ],
)
def test_files_that_cannot_be_used_are_named(pki: Pki, spoil: Any, why: str) -> None:
    tls = pki.server()
    spoil(tls)
    with pytest.raises(Problem, match=why) as caught:
        server_context(tls)
    assert caught.value.code == "invalid"


def test_a_pair_that_clients_would_not_take_is_refused_before_it_is_used(
    tmp_path: Path, pki: Pki
) -> None:
    (tmp_path / "other").mkdir()
    wrong = replace(pki.server(), ca=Pki(tmp_path / "other", "ca").ca)
    with pytest.raises(Problem, match="would not take it"):
        server_context(wrong)
    with pytest.raises(Problem, match="expired"):
        server_context(pki.make(SERVER, ["127.0.0.1"], server=True, begin=-9, end=-1))


def test_new_files_that_do_not_fit_leave_the_old_ones_in_use(pki: Pki, caplog: Any) -> None:
    tls = pki.server()
    renewed = Renewed(tls, server_context)
    before = renewed.context
    assert not renewed.look()
    tls.key.write_bytes(pki.server().key.read_bytes())
    assert not renewed.look()
    assert renewed.context is before
    assert "are not used" in caplog.text
    tls.cert.unlink()
    assert not renewed.look()
    pki.server(into=tls)
    assert renewed.look()
    assert renewed.context is not before


def test_a_client_takes_its_new_certificate_for_the_next_connection(
    pki: Pki, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tls_module, "LOOK", 0.0)
    mine = pki.make(ADMIN)

    async def run() -> list[str]:
        async with serving(pki.server()) as served:
            client = HttpClient([served.url()], 5, mine)
            await client.request("GET", "/v1/clusters")
            pki.make([("O", "netspace:admins"), ("CN", "bob")], into=mine)
            await client.close()
            await client.request("GET", "/v1/clusters")
            await client.close()
            return [caller.name for caller in served.callers]

    assert asyncio.run(run()) == ["alice", "bob"]


def test_certificate_and_authority_change_under_load_without_a_failed_request(
    tmp_path: Path, pki: Pki
) -> None:
    tls, mine = pki.server(), pki.make(ADMIN)
    (tmp_path / "new").mkdir()
    new = Pki(tmp_path / "new", "new")

    async def run() -> tuple[int, str, str]:
        async with serving(tls, Limits(arrival=5)) as served:
            done, stop = 0, False

            async def load() -> None:
                nonlocal done
                while not stop:
                    answer = await ask(served.url(), mine)
                    assert answer == "ok", answer
                    done += 1

            loads = [asyncio.create_task(load()) for _ in range(8)]
            for _ in range(5):
                await asyncio.sleep(0.15)
                pki.server(into=tls)
                served.certificates.look()
            stop = True
            await asyncio.gather(*loads)
            # Over to another authority: both are trusted for a while, then the new one alone.
            old = pki.ca.read_bytes()
            pki.ca.write_bytes(old + new.ca.read_bytes())
            served.certificates.look()
            both = await ask(served.url(), replace(new.make(ADMIN), ca=pki.ca))
            new.server(into=tls)
            pki.ca.write_bytes(new.ca.read_bytes())
            served.certificates.look()
            return done, both, await ask(served.url(), mine)

    done, both, last = asyncio.run(run())
    assert done > 50
    assert both == "ok"
    assert "does not know the authority" in last


def test_the_end_of_the_certificate_is_a_metric_and_near_it_a_warning(
    pki: Pki, caplog: Any
) -> None:
    async def run() -> str:
        tls = pki.make(SERVER, ["127.0.0.1"], server=True, begin=-3600, end=300)
        async with serving(tls) as served:
            return await served.metrics()

    line = next(
        line
        for line in asyncio.run(run()).splitlines()
        if line.startswith("netspace_tls_certificate_expires_timestamp_seconds ")
    )
    assert abs(float(line.split()[1]) - time.time() - 300) < 60
    assert "the server's certificate expires soon" in caplog.text
    day = 86400.0
    assert expires_soon(0, 365 * day, 13 * day)
    assert not expires_soon(0, 365 * day, 15 * day)
    assert not expires_soon(0, 1 * day, 0.5 * day)


def test_a_certificate_that_expires_on_an_open_connection_is_of_no_more_use(pki: Pki) -> None:
    async def run() -> tuple[str, str]:
        async with serving(pki.server()) as served:
            client = HttpClient([served.url()], 5, pki.make(ADMIN, end=1.5))
            try:
                await client.request("GET", "/v1/clusters")
                await asyncio.sleep(2.6)
                with pytest.raises(Problem) as caught:
                    await client.request("GET", "/v1/clusters")
                return caught.value.code, str(caught.value)
            finally:
                await client.close()

    code, words = asyncio.run(run())
    assert (code, "admin alice has expired" in words) == ("forbidden", True)


# The header


def test_a_server_speaks_for_others_and_nobody_else_does(pki: Pki) -> None:
    said = [(HEADER, Caller("admin", name="carol").encode())]

    async def run() -> list[str]:
        async with serving(pki.server()) as served:
            answers = [
                await ask(served.url(), pki.make(subject), "/v1/clusters", headers=said)
                for subject in (SERVER, NODE_1, CONTROLLER, ADMIN, [("O", "x"), ("CN", "y")])
            ]
            assert served.callers == [Caller("admin", name="carol")]
            twice = await ask(served.url(), pki.make(SERVER), "/v1/clusters", headers=said * 2)
            junk = [(HEADER, "root")]
            wrong = await ask(served.url(), pki.make(SERVER), "/v1/clusters", headers=junk)
            none = await ask(served.url(), pki.make(SERVER), "/v1/clusters")
            assert twice.startswith("bad-request")
            assert wrong.startswith("bad-request")
            assert none.startswith("forbidden: server s1 may not GET /v1/clusters")
            return answers

    server, *others = asyncio.run(run())
    assert server == "ok"
    for other in others:
        assert other.startswith("forbidden: ")
        assert "may not speak for somebody else" in other


# STATUS


def test_a_node_can_tell_over_tls_whether_a_server_is_ready(pki: Pki) -> None:
    async def run() -> tuple[str, str]:
        async with serving(pki.server()) as served:
            mine = pki.make(NODE_1)
            section = ServerSection(
                endpoints=(served.url(),), ca=str(mine.ca), cert=str(mine.cert), key=str(mine.key)
            )

            def status() -> str:
                try:
                    _ask_servers(section)
                except CniError as error:
                    return str(error.details)
                return "ready"

            unready = await asyncio.to_thread(status)
            wrong = section.endpoints[0].replace("127.0.0.1", "127.0.0.2")
            section = ServerSection(
                endpoints=(wrong,), ca=str(mine.ca), cert=str(mine.cert), key=str(mine.key)
            )
            return unready, await asyncio.to_thread(status)

    unready, away = asyncio.run(run())
    assert "it answered 500" in unready
    assert "127.0.0.2" in away


# Slow clients


async def ended(reader: asyncio.StreamReader, seconds: float) -> float:
    """How long it took until the server hung up."""
    started = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass
    return time.monotonic() - started


def test_a_handshake_that_does_not_come_to_an_end_is_cut_off(pki: Pki, caplog: Any) -> None:
    async def run() -> tuple[float, str]:
        async with serving(pki.server(), Limits(arrival=0.4)) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"\x16\x03\x01")
            took = await ended(reader, 5)
            writer.close()
            return took, await served.metrics()

    took, metrics = asyncio.run(run())
    assert 0.3 < took < 3
    assert 'netspace_http_connections_cut_total{why="handshake"} 1.0' in metrics
    assert "no TLS with 127.0.0.1" in caplog.text


@pytest.mark.parametrize("first", [True, False])
def test_a_header_that_drips_in_is_cut_off_and_others_are_served_meanwhile(
    pki: Pki, first: bool
) -> None:
    async def run() -> tuple[float, str]:
        async with serving(pki.server(), Limits(arrival=0.6)) as served:
            mine = pki.make(ADMIN)
            context = tls_module.client_context(mine)
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            if not first:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"ok\n")

            async def drip() -> None:
                for byte in b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            assert await ask(served.url(), mine) == "ok"
            took = await ended(reader, 8)
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            writer.close()
            return took, await served.metrics()

    took, metrics = asyncio.run(run())
    assert took < 4
    assert 'netspace_http_connections_cut_total{why="slow"} 1.0' in metrics


def test_an_idle_connection_ends_by_itself(pki: Pki) -> None:
    async def run() -> float:
        async with serving(pki.server(), Limits(arrival=5, idle=0.4)) as served:
            context = tls_module.client_context(pki.make(ADMIN))
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"ok\n")
            took = await ended(reader, 5)
            writer.close()
            return took

    assert asyncio.run(run()) < 4


def test_who_comes_when_all_places_are_taken_is_turned_away_and_later_let_in(pki: Pki) -> None:
    async def run() -> tuple[str, str]:
        limits = Limits(connections=2, arrival=5)
        async with serving(pki.server(), limits) as served:
            mine = pki.make(ADMIN)
            clients = [HttpClient([served.url()], 5, mine) for _ in range(2)]
            for client in clients:
                await client.request("GET", "/healthz")
            full = await ask(served.url(), mine)
            for client in clients:
                await client.close()
            await asyncio.sleep(0.2)
            assert 'why="full"} 1.0' in await served.metrics()
            return full, await ask(served.url(), mine)

    full, later = asyncio.run(run())
    assert full.startswith("unavailable: ")
    assert later == "ok"


def test_an_answer_that_nobody_takes_is_cut_off(pki: Pki) -> None:
    async def run() -> str:
        async with serving(pki.server(), Limits(arrival=5, timeout=0.5)) as served:
            double = cast(Double, served.backend.directory)
            name = "n" * 60
            cluster = m.Cluster(name=name, leader=None, networks=0, pools=0, used=0)
            double.answers["clusters"] = [cluster] * 200_000
            context = tls_module.client_context(pki.make(ADMIN))
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=context, limit=1024
            )
            writer.write(b"GET /v1/clusters HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(10):
                while 'why="slow"} 1.0' not in await served.metrics():
                    await asyncio.sleep(0.1)
            writer.transport.abort()
            del reader
            return "cut"

    assert asyncio.run(run()) == "cut"


logging.getLogger("netspace").setLevel(logging.INFO)
