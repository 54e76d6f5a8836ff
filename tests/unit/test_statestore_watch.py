"""Events of one revision stand together; quiet ranges progress."""

from __future__ import annotations

from pyetcd.etcdrpc import kv_pb2
from pyetcd.etcdrpc import rpc_pb2 as pb

from statestore import Event, WatchEvents
from statestore.watch import progressed, revisions


def put(key: bytes, revision: int, created: int) -> kv_pb2.Event:
    kv = kv_pb2.KeyValue(key=key, value=b"v", create_revision=created, mod_revision=revision)
    return kv_pb2.Event(type=kv_pb2.Event.PUT, kv=kv)


def deletion(key: bytes, revision: int) -> kv_pb2.Event:
    kv = kv_pb2.KeyValue(key=key, mod_revision=revision)
    return kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv)


def test_events_are_grouped_by_revision_in_their_order() -> None:
    events = [put(b"b", 5, 5), deletion(b"a", 5), put(b"b", 7, 5)]
    assert list(revisions(events)) == [
        WatchEvents(5, (Event("put", b"b", b"v", 5, 5), Event("delete", b"a", b"", 0, 5))),
        WatchEvents(7, (Event("put", b"b", b"v", 5, 7),)),
    ]


def test_no_events_are_no_revisions() -> None:
    assert list(revisions([])) == []


def test_only_etcds_own_notice_of_a_quiet_range_moves_a_watch_on() -> None:
    now = pb.ResponseHeader(revision=9)
    assert progressed(4, pb.WatchResponse(header=now)) == 9
    assert progressed(12, pb.WatchResponse(header=now)) == 12
    assert progressed(4, pb.WatchResponse(header=now, created=True)) == 4
    assert progressed(4, pb.WatchResponse(header=now, events=[deletion(b"a", 6)])) == 4
