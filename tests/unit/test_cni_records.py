"""Attachment records on disk, and the lock per attachment."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins import locks
from cni_plugins.protocol import CniError
from cni_plugins.records import Key, Record, Records
from netspace import names
from netspace.messages import Pod
from tests.unit.cni_doubles import network_view


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "state": "held",
        "plugin": "netspace",
        "network": "net",
        "ipam": "netspace-ipam",
        "cluster": "c1",
        "node": "node-1",
        "container": "abc",
        "ifname": "eth0",
        "netns": "/var/run/netns/pod",
        "pod": Pod(namespace="default", name="web-0", uid="u1"),
        "claim": "0" * 32,
    }
    return Record(**{**values, **changes})


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save(record(mac="02:00:00:00:00:01", vlan=910))
    assert records.load(Key("abc", "eth0")) == record(mac="02:00:00:00:00:01", vlan=910)
    assert records.all() == [record(mac="02:00:00:00:00:01", vlan=910)]


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    records = Records(tmp_path / "not-made")
    assert (records.load(Key("abc", "eth0")), records.all()) == (None, [])
    records.delete(Key("abc", "eth0"))


def test_a_record_cut_off_at_any_byte_is_set_aside_and_never_fatal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(tmp_path)
    records.save(record())
    file = tmp_path / "attachments" / "abc@eth0.json"
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        assert records.load(Key("abc", "eth0")) is None
        assert not file.exists()
    assert "set aside" in caplog.text
    assert len(list((tmp_path / "attachments").glob("*.broken*"))) > 0
    file.write_bytes(whole)
    assert records.load(Key("abc", "eth0")) == record()


def test_a_change_that_was_cut_off_at_any_byte_leaves_the_record_as_it_was_before(
    tmp_path: Path,
) -> None:
    records = Records(tmp_path)
    file = tmp_path / "attachments" / "abc@eth0.json"
    before, after = record(state="adding", claim=None), record(mac="02:00:00:00:00:01")
    records.save(before)
    first = len(file.read_bytes())
    records.save(after)
    whole = file.read_bytes()
    for size in range(first, len(whole)):
        file.write_bytes(whole[:size])
        assert records.load(Key("abc", "eth0")) == before
        Records(tmp_path).save(after)
        assert records.load(Key("abc", "eth0")) == after


def test_a_record_that_changes_again_and_again_stays_small(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for number in range(100):
        records.save(record(mtu=number))
        assert records.load(Key("abc", "eth0")) == record(mtu=number)
    assert (tmp_path / "attachments" / "abc@eth0.json").stat().st_size < 16_000


@pytest.mark.parametrize("by_another_process", [False, True])
def test_a_record_that_was_deleted_comes_back_as_a_whole_file(
    tmp_path: Path, by_another_process: bool
) -> None:
    records = Records(tmp_path)
    records.save(record(state="adding"))
    records.save(record())
    (Records(tmp_path) if by_another_process else records).delete(Key("abc", "eth0"))
    records.save(record(state="adding"))
    assert records.all() == [record(state="adding")]


@pytest.mark.parametrize("damage", [b"null", b"[]", b"\xff\xfe", b"{}", b'{"state": "lost"}'])
def test_a_damaged_record_does_not_hide_the_others(tmp_path: Path, damage: bytes) -> None:
    records = Records(tmp_path)
    records.save(record())
    (tmp_path / "attachments" / "other@eth0.json").write_bytes(damage)
    assert records.all() == [record()]


def test_a_record_under_another_ones_name_is_set_aside(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save(record())
    file = tmp_path / "attachments" / "abc@eth0.json"
    file.rename(file.with_name("other@eth0.json"))
    assert records.load(Key("other", "eth0")) is None


def test_a_file_that_was_never_renamed_is_not_read(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save(record())
    folder = tmp_path / "attachments"
    (folder / "abc@eth0.json").rename(folder / "abc@eth0.json.new")
    assert records.all() == []


def test_records_are_for_root_alone(tmp_path: Path) -> None:
    Records(tmp_path / "state").save(record())
    folder = tmp_path / "state" / "attachments"
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "abc@eth0.json").stat().st_mode & 0o077 == 0


keys = st.builds(
    Key,
    st.from_regex(names.CONTAINER, fullmatch=True),
    st.from_regex(names.IFNAME, fullmatch=True).filter(names.is_ifname),
)


@given(st.lists(keys, min_size=2, max_size=5, unique=True))
def test_no_two_attachments_share_a_file_and_none_leaves_the_folder(found: list[Key]) -> None:
    assert len({str(key) for key in found}) == len(found)
    for key in found:
        assert "/" not in str(key)
        assert not str(key).startswith(".")
        assert str(key).isascii()
        assert len(str(key)) <= 180


def test_a_networks_mapping_is_kept_and_another_one_refused(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.keep_mapping(network_view())
    records.keep_mapping(network_view(mtu=1400, gateway4="10.9.0.254"))
    for changes in ({"ipv4": "10.8.0.0/24"}, {"ipv6": None}, {"mapping": "embedded"}):
        with pytest.raises(CniError) as caught:
            Records(tmp_path).keep_mapping(network_view(**changes))
        assert caught.value.code == 110
    records.keep_mapping(network_view(uid="uid-2", ipv4="10.8.0.0/24"))


def test_a_hostile_uid_of_a_network_stays_in_its_folder(tmp_path: Path) -> None:
    Records(tmp_path / "state").keep_mapping(network_view(uid="../../x"))
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["mappings"]


# Locks


def test_a_lock_is_held_by_one_coroutine_at_a_time(tmp_path: Path) -> None:
    inside = most = 0

    async def work() -> None:
        nonlocal inside, most
        async with locks.held(tmp_path / "lock", "a", 10):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    asyncio.run(all_of_them())
    assert most == 1
    assert (tmp_path / "lock").read_bytes() == b""


def test_a_lock_is_shared_by_many_and_by_nobody_with_one_who_holds_it_alone(
    tmp_path: Path,
) -> None:
    alone = together = most = 0

    async def sharing() -> None:
        nonlocal together, most
        async with locks.held(tmp_path / "lock", "a", 10, shared=True):
            together += 1
            most = max(most, together)
            assert not alone
            await asyncio.sleep(0.002)
            together -= 1

    async def excluding() -> None:
        nonlocal alone
        async with locks.held(tmp_path / "lock", "a", 10):
            alone += 1
            assert (alone, together) == (1, 0)
            await asyncio.sleep(0.001)
            alone -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(20) for work in (sharing, excluding)))

    asyncio.run(all_of_them())
    assert most > 1
    assert (tmp_path / "lock").read_bytes() == b""


def test_waiting_for_a_lock_ends_with_error_11(tmp_path: Path) -> None:
    async def both() -> int:
        async with locks.held(tmp_path / "lock", "a", 0):
            with pytest.raises(CniError) as caught:
                async with locks.held(tmp_path / "lock", "a", 0.05):
                    pass
            async with locks.held(tmp_path / "lock", "b", 0):
                return caught.value.code

    assert asyncio.run(both()) == 11


def _hold(folder: str, held: Any, end: Any) -> None:
    async def hold() -> None:
        async with locks.held(Path(folder) / "lock", "a", 5):
            held.set()
            await asyncio.to_thread(end.wait, 10)

    asyncio.run(hold())


def test_a_lock_holds_between_processes_and_ends_with_the_one_that_held_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), held, end))
    process.start()

    async def take(wait: float) -> None:
        async with locks.held(tmp_path / "lock", "a", wait):
            pass

    try:
        assert held.wait(20)
        with pytest.raises(CniError):
            asyncio.run(take(0.05))
        process.kill()
        process.join()
        asyncio.run(take(1))
    finally:
        process.kill()
        process.join()
