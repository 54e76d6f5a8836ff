"""The records of a pod's place are found whoever wrote them, and only what changed is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cni_plugins import places
from cni_plugins.places import Place
from cni_plugins.records import Key, Record, Records
from netspace.disk import read_whole
from netspace.messages import Pod

WEB = Place("main", "default", "web-0", "eth0")


def record(container: str, pod: str = "web-0") -> Record:
    return Record(
        state="held",
        plugin="netspace",
        network="net",
        ipam="netspace-ipam",
        cluster="main",
        node="n1",
        container=container,
        ifname="eth0",
        netns="/var/run/netns/pod",
        pod=Pod(namespace="default", name=pod, uid="u1"),
    )


def found(records: Records, place: Place = WEB) -> set[str]:
    return {each.container for each in records.at(place)}


def test_records_that_were_there_before_are_found(tmp_path: Path) -> None:
    Records(tmp_path).save(record("c1"))
    Records(tmp_path).save(record("c2", "db-0"))
    assert found(Records(tmp_path)) == {"c1"}


def test_what_another_process_writes_and_deletes_is_seen(tmp_path: Path) -> None:
    ours, theirs = Records(tmp_path), Records(tmp_path)
    ours.save(record("c1"))
    assert found(ours) == {"c1"}
    theirs.save(record("c2"))
    assert found(ours) == {"c1", "c2"}
    theirs.delete(Key("c1", "eth0"))
    assert found(ours) == {"c2"}


def test_an_attachment_that_became_another_pods_is_at_its_new_place(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save(record("c1"))
    assert found(records) == {"c1"}
    records.save(record("c1", "db-0"))
    assert found(records) == set()
    assert found(records, WEB._replace(pod="db-0")) == {"c1"}


def test_a_folder_that_comes_later_or_again_is_seen(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert found(records) == set()
    records.save(record("c1"))
    assert found(records) == {"c1"}
    (tmp_path / "attachments").rename(tmp_path / "away")
    assert found(records) == set()
    records.save(record("c2"))
    assert found(records) == {"c2"}


def test_a_record_that_cannot_be_read_is_of_no_place(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save(record("c1"))
    (tmp_path / "attachments" / "c2@eth0.json").write_text("{")
    assert found(records) == {"c1"}


def test_where_the_kernel_watches_no_more_folders_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places._Watch, "on", staticmethod(lambda folder: None))
    ours, theirs = Records(tmp_path), Records(tmp_path)
    ours.save(record("c1"))
    assert found(ours) == {"c1"}
    theirs.save(record("c2"))
    assert found(ours) == {"c1", "c2"}


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)
    for number in range(50):
        records.save(record(f"c{number}", f"pod-{number}"))
    assert found(records) == set()
    read: list[str] = []

    def counted(path: str) -> bytes:
        read.append(Path(path).name)
        return read_whole(path)

    monkeypatch.setattr("cni_plugins.records.read_whole", counted)
    records.save(record("c50", "pod-50"))
    assert found(records) == set()
    assert read == ["c50@eth0.json"]
