"""The files of TLS: what cannot be used, what is renewed while requests go on, what ends."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netspace import tls as tls_module
from netspace.certificates import expires_soon
from netspace.http_client import HttpClient
from netspace.http_server import Limits
from netspace.problems import Problem
from netspace.tls import Renewed, server_context
from tests.pki import ADMIN, SERVER, Pki
from tests.tls_served import ask, serving


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


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
            for renewed in range(1, 6):
                while done < 10 * renewed and not any(load.done() for load in loads):
                    await asyncio.sleep(0.01)
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
    assert done >= 50
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
            client = HttpClient([served.url()], 5, pki.make(ADMIN, end=5))
            try:
                await client.request("GET", "/v1/clusters")
                await asyncio.sleep(5.5)
                with pytest.raises(Problem) as caught:
                    await client.request("GET", "/v1/clusters")
                return caught.value.code, str(caught.value)
            finally:
                await client.close()

    code, words = asyncio.run(run())
    assert (code, "admin alice has expired" in words) == ("forbidden", True)
