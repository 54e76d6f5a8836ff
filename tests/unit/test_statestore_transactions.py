"""Transactions as values: what goes to etcd, what comes back, how etcd counts them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pyetcd.etcdrpc import kv_pb2
from pyetcd.etcdrpc import rpc_pb2 as pb

from statestore import Compare, Delete, Get, KeyValue, Put, Txn, TxnResult, operations, prefix_end
from statestore.transactions import decode, encode, writes


def puts(count: int) -> tuple[Put, ...]:
    return tuple(Put(b"key%d" % number, b"") for number in range(count))


def test_a_flat_transaction_counts_as_its_longest_list() -> None:
    compares = tuple(Compare.absent(b"key%d" % number) for number in range(3))
    assert operations(Txn(compares, puts(2), puts(1))) == 3
    assert operations(Txn(compares, puts(2), puts(7))) == 7
    assert operations(Txn()) == 0


def test_nested_siblings_share_their_allowance() -> None:
    nested = Txn(then=puts(3))
    assert operations(Txn(then=(nested,) * 125)) == 128
    assert operations(Txn(then=(nested, Txn(then=puts(10))))) == 12


def test_what_is_nested_in_either_branch_counts() -> None:
    assert operations(Txn(otherwise=(Txn(then=(Txn(then=puts(4)),)),))) == 6


def test_only_reads_in_all_branches_change_nothing() -> None:
    assert not writes(Txn((Compare.absent(b"a"),), (Get(b"a"),), (Txn(then=(Get(b"b"),)),)))
    assert writes(Txn(then=(Get(b"a"),), otherwise=(Txn(then=(Delete(b"b"),)),)))
    assert writes(Txn(then=(Put(b"a", b""),)))


def test_a_transaction_says_to_etcd_what_it_says_here() -> None:
    txn = Txn(
        compares=(
            Compare.absent(b"a"),
            Compare.created_at(b"b", 5),
            Compare.modified_at(b"c", 6),
            Compare.attached_to(b"d", 7),
        ),
        then=(Put(b"a", b"value", lease=9), Get(b"a", b"b")),
        otherwise=(Txn(then=(Delete(b"a", b"b"),)),),
    )
    request = encode(txn)
    compared = [
        (each.key, each.target, each.WhichOneof("target_union"), each.result)
        for each in request.compare
    ]
    equal = pb.Compare.EQUAL
    assert compared == [
        (b"a", pb.Compare.CREATE, "create_revision", equal),
        (b"b", pb.Compare.CREATE, "create_revision", equal),
        (b"c", pb.Compare.MOD, "mod_revision", equal),
        (b"d", pb.Compare.LEASE, "lease", equal),
    ]
    assert [each.create_revision for each in request.compare[:2]] == [0, 5]
    assert request.compare[2].mod_revision == 6
    assert request.compare[3].lease == 7
    assert request.success[0].request_put == pb.PutRequest(key=b"a", value=b"value", lease=9)
    assert request.success[1].request_range == pb.RangeRequest(key=b"a", range_end=b"b")
    nested = request.failure[0].request_txn
    assert nested.success[0].request_delete_range == pb.DeleteRangeRequest(key=b"a", range_end=b"b")


def test_results_come_in_the_order_of_the_branch_taken() -> None:
    kv = kv_pb2.KeyValue(key=b"a", value=b"1", create_revision=3, mod_revision=4)
    nested = pb.TxnResponse(
        succeeded=False,
        responses=[
            pb.ResponseOp(response_delete_range=pb.DeleteRangeResponse(deleted=2)),
        ],
    )
    response = pb.TxnResponse(
        header=pb.ResponseHeader(revision=9),
        succeeded=True,
        responses=[
            pb.ResponseOp(response_put=pb.PutResponse()),
            pb.ResponseOp(response_range=pb.RangeResponse(kvs=[kv])),
            pb.ResponseOp(response_txn=nested),
            pb.ResponseOp(response_range=pb.RangeResponse()),
        ],
    )
    assert decode(response) == TxnResult(
        True, 9, (None, (KeyValue(b"a", b"1", 3, 4),), TxnResult(False, 9, (2,)), ())
    )


@given(prefix=st.binary(min_size=1, max_size=6), key=st.binary(max_size=8))
def test_the_end_of_a_prefix_parts_its_keys_from_all_others(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    inside = key >= prefix and (end == b"\0" or key < end)
    assert inside == key.startswith(prefix)
    longer = prefix + key
    assert longer >= prefix and (end == b"\0" or longer < end)


def test_the_end_of_the_empty_prefix_is_the_end_of_all_keys() -> None:
    assert prefix_end(b"") == b"\0"
    assert prefix_end(b"\xff\xff") == b"\0"
