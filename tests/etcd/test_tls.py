"""Mutual TLS on loopback: who gets in, who does not and is told why, and as whom."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.node_config import ServerSection
from cni_plugins.protocol import CniError
from cni_plugins.status import _ask_servers
from ipam_server.api import Backend, make_application
from netspace import tls as tls_module
from netspace.callers import HEADER, Caller
from netspace.endpoints import Endpoint
from netspace.http_server import HttpServer, Limits
from netspace.tls import server_context
from tests.pki import ADMIN, CONTROLLER, NODE_1, SERVER, Pki
from tests.tls_served import ask, free_port, serving


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


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
