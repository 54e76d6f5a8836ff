"""etcd cut off, restarted, stopped, full, behind TLS: what was done, and what the caller hears."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from lab.etcd import Etcd, ServerTls
from lab.proxy import Proxy
from statestore import (
    BadRequest,
    Compare,
    Delete,
    Get,
    OutcomeUnknown,
    OutOfSpace,
    Put,
    Store,
    StoreError,
    Tls,
    Txn,
    Unavailable,
)
from tests.etcd.service_world import renewed


async def changed(store: Store, key: bytes) -> int:
    """Wait until a key is there; its mod revision."""
    async with asyncio.timeout(5):
        while (kv := await store.get(key)) is None:
            await asyncio.sleep(0.01)
        return kv.mod_revision


@pytest.mark.parametrize("loss", ["cut", "silence"])
def test_a_write_whose_answer_is_lost_is_unknown_and_not_repeated(
    shared_etcd: Etcd, prefix: bytes, loss: str
) -> None:
    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port) as proxy,
            # The second endpoint would carry the write out a second time if it were asked.
            Store([proxy.url, shared_etcd.url], timeout=1.0) as store,
            Store([shared_etcd.url]) as beside,
        ):
            await store.get(prefix)
            proxy.losing_answers = True
            writing = asyncio.ensure_future(store.txn(Txn(then=(Put(prefix, b"1"),))))
            revision = await changed(beside, prefix)
            if loss == "cut":
                proxy.cut()
            with pytest.raises(OutcomeUnknown, match="read back"):
                await writing
            kv = await store.get(prefix)
            assert kv is not None and kv.mod_revision == kv.create_revision == revision
            assert await beside.revision() == revision

    asyncio.run(scenario())


def test_a_read_whose_answer_is_lost_is_asked_elsewhere(shared_etcd: Etcd, prefix: bytes) -> None:
    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port) as proxy,
            Store([proxy.url, shared_etcd.url], timeout=2.0) as store,
        ):
            await store.txn(Txn(then=(Put(prefix, b"1"),)))
            proxy.losing_answers = True
            for _ in range(2):
                kv = await store.get(prefix)
                assert kv is not None and kv.value == b"1"
            proxy.losing_answers = False

    asyncio.run(scenario())


def test_a_read_that_nobody_answers_is_unavailable_in_time(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port) as proxy,
            Store([proxy.url], timeout=0.5) as store,
        ):
            await store.get(prefix)
            proxy.losing_answers = True
            began = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match="no answer in time"):
                await store.txn(Txn((Compare.absent(prefix),), (Get(prefix),)))
            assert asyncio.get_running_loop().time() - began < 5

    asyncio.run(scenario())


def test_a_write_that_was_never_sent_is_unavailable(shared_etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Proxy(shared_etcd.host, shared_etcd.client_port) as proxy:
            # Nobody listens on the first; the second takes connections and never speaks.
            proxy.losing_answers = proxy.losing_requests = True
            for url in ("http://127.0.0.1:1", proxy.url):
                async with Store([url], timeout=0.4) as store:
                    with pytest.raises(Unavailable, match="nothing was changed"):
                        await store.txn(Txn(then=(Put(b"key", b"1"),)))

    asyncio.run(scenario())


def test_a_write_that_was_not_sent_goes_to_the_next_endpoint(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    async def scenario() -> None:
        async with Store(["http://127.0.0.1:1", shared_etcd.url]) as store:
            result = await store.txn(Txn(then=(Put(prefix, b"1"),)))
            assert result.revision == await store.revision()

    asyncio.run(scenario())


def test_calls_wait_for_an_etcd_that_comes_back_within_their_time(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Store([etcd.url], timeout=10.0) as store:
            await store.txn(Txn(then=(Put(b"key", b"1"),)))
            await asyncio.to_thread(etcd.kill)
            # Until the connection is seen to be gone, a write might have been sent over it.
            await asyncio.sleep(0.2)
            calls = asyncio.gather(store.get(b"key"), store.txn(Txn(then=(Put(b"other", b"1"),))))
            await asyncio.sleep(2.8)
            assert not calls.done()
            await asyncio.to_thread(etcd.start)
            kv, _ = await calls
            assert kv is not None and kv.value == b"1"

    asyncio.run(scenario())


def test_an_etcd_that_is_away_is_tried_again_as_often_however_long_it_is(
    shared_etcd: Etcd, prefix: bytes
) -> None:
    """Left to itself gRPC tries ever more rarely: six times within 16 s, then every two minutes."""
    tries: list[int] = []

    def noted(host: str, port: int) -> str:
        tries.append(port)
        return ""

    async def scenario() -> None:
        async with (
            Proxy(shared_etcd.host, shared_etcd.client_port, noted) as proxy,
            Store([proxy.url], timeout=30.0) as store,
        ):
            proxy.refused.add("")
            asked = asyncio.create_task(store.get(prefix))
            async with asyncio.timeout(12):
                while len(tries) < 6:
                    await asyncio.sleep(0.05)
            proxy.refused.clear()
            assert await asked is None

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_reads_and_writes_go_on_when_a_member_is_lost(
    three_members: list[Etcd], fault: str
) -> None:
    async def scenario() -> None:
        async with Store([member.url for member in three_members], timeout=5.0) as store:
            before = await store.status()
            assert sum(each.leader for each in before) == 1
            assert all(each.version and not each.error for each in before)
            # The leader is the worst to lose, and the store talks to it.
            number = [each.leader for each in before].index(True)
            members = three_members[number:] + three_members[:number]
            async with Store([member.url for member in members], timeout=5.0) as led:
                await led.txn(Txn(then=(Put(b"key", b"0"),)))
                getattr(members[0], fault)()
                async with asyncio.timeout(12):
                    kv = await led.get(b"key")
                    assert kv is not None and kv.value == b"0"
                    with contextlib.suppress(OutcomeUnknown):
                        await led.txn(Txn(then=(Put(b"key", b"1"),)))
                    await led.txn(Txn(then=(Put(b"key", b"2"),)))
                    kv = await led.get(b"key")
                assert kv is not None and kv.value == b"2"
                after = await led.status(timeout=5.0)
                assert [bool(each.error) for each in after] == [True, False, False]

    asyncio.run(scenario())


def issue(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    leaf = authority.issue_cert(name)
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    return cert, key


def test_tls_lets_in_only_who_shows_a_certificate_of_the_authority(
    tmp_path: Path, make_etcd: Callable[[Etcd], Etcd]
) -> None:
    ours, foreign = trustme.CA(), trustme.CA()
    ca, foreign_ca = tmp_path / "ca.pem", tmp_path / "foreign.pem"
    ours.cert_pem.write_to_path(ca)
    foreign.cert_pem.write_to_path(foreign_ca)
    server = issue(ours, tmp_path / "ours", "127.0.0.1")
    client = issue(ours, tmp_path / "ours", "netspace-server")
    stranger = issue(foreign, tmp_path / "foreign", "netspace-server")
    etcd = make_etcd(Etcd(tmp_path / "etcd", tls=ServerTls(*server, ca, client_ca=ca)))

    async def attempt(tls: Tls, url: str = etcd.url, timeout: float = 0.5) -> StoreError | None:
        async with Store([url], tls, timeout=timeout) as store:
            try:
                await store.txn(Txn(then=(Put(b"key", b"1"),)))
            except StoreError as error:
                return error
        return None

    async def scenario() -> None:
        assert await attempt(Tls(ca, *client), timeout=10) is None
        for refused in (Tls(ca), Tls(ca, *stranger), Tls(foreign_ca, *client)):
            assert isinstance(await attempt(refused), Unavailable | OutcomeUnknown)
        # The certificate is for 127.0.0.1 alone.
        localhost = etcd.url.replace("127.0.0.1", "localhost")
        assert isinstance(await attempt(Tls(ca, *client), localhost), Unavailable)
        async with Store([etcd.url], Tls(ca, *client)) as store:
            kv = await store.get(b"key")
            assert kv is not None and kv.mod_revision == kv.create_revision

    asyncio.run(scenario())


def test_a_certificate_that_is_put_in_the_place_of_one_that_has_ended_is_used(
    tmp_path: Path, make_etcd: Callable[[Etcd], Etcd]
) -> None:
    ours, foreign = trustme.CA(), trustme.CA()
    ca = tmp_path / "ca.pem"
    ours.cert_pem.write_to_path(ca)
    server = issue(ours, tmp_path / "ours", "127.0.0.1")
    good = issue(ours, tmp_path / "ours", "netspace-server")
    used = issue(foreign, tmp_path / "used", "netspace-server")
    etcd = make_etcd(Etcd(tmp_path / "etcd", tls=ServerTls(*server, ca, client_ca=ca)))

    async def scenario() -> None:
        async with Store([etcd.url], Tls(ca, *used), timeout=1.0) as store:
            with pytest.raises((Unavailable, OutcomeUnknown)):
                await store.get(b"key")
            for new, old in zip(good, used, strict=True):
                shutil.copy(new, old)
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(Unavailable, OutcomeUnknown):
                        assert await store.get(b"key") is None
                        return

    asyncio.run(scenario())


def test_what_cannot_be_right_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        missing = tmp_path / "none.pem"
        for endpoints, tls, message in (
            ([], None, "no endpoint"),
            (["127.0.0.1:2379"], None, "write http"),
            (["http://"], None, "write http"),
            (["https://127.0.0.1:2379"], None, "configure TLS"),
            (["https://127.0.0.1:2379"], Tls(missing), "none.pem: No such file"),
            (["https://127.0.0.1:2379"], Tls(missing, cert=missing), "needs its key"),
        ):
            with pytest.raises(BadRequest, match=message):
                async with Store(endpoints, tls):
                    pass

    asyncio.run(scenario())


def test_a_full_etcd_refuses_puts_and_takes_deletes_and_reads(
    tmp_path: Path, make_etcd: Callable[[Etcd], Etcd]
) -> None:
    etcd = make_etcd(Etcd(tmp_path / "etcd", quota=4 << 20))

    async def scenario() -> None:
        async with Store([etcd.url]) as store, await store.lease(10) as lease:
            await store.txn(Txn(then=(Put(b"leader", b"me", lease.id),)))
            number = 0
            with pytest.raises(OutOfSpace, match="compact and defragment"):
                while True:
                    await store.txn(Txn(then=(Put(b"big/%d" % number, bytes(400_000)),)))
                    number += 1
            with pytest.raises(OutOfSpace):
                await store.lease(3)
            (status,) = await store.status()
            assert status.alarms == ("NOSPACE",) and status.database_bytes > 3 << 20
            assert await store.get(b"big/0") is not None
            gone = await store.txn(Txn((Compare.absent(b"none"),), (Delete(b"big/0"),)))
            assert gone.results == (1,)
            # Etcd may have done the very put with which it found out.
            assert await store.delete_prefix(b"big/", chunk=2) in (number - 1, number)
            # The lease that was there before is kept alive all the while.
            await renewed(lease)
            assert not lease.lost.is_set() and await store.get(b"leader") is not None

            await asyncio.to_thread(etcd.compact, await store.revision())
            await asyncio.to_thread(etcd.defragment)
            await asyncio.to_thread(etcd.disarm)
            await store.txn(Txn(then=(Put(b"big/0", b"1"),)))
            (status,) = await store.status()
            assert status.alarms == ()

    asyncio.run(scenario())
