"""What etcd alone gives the same machine: bare puts at once, and one allocation's transaction at a
time, over gRPC and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from urllib.parse import urlsplit

from grpc import aio
from pyetcd.etcdrpc import rpc_pb2 as pb
from pyetcd.etcdrpc import rpc_pb2_grpc as rpc

from bench import fill
from ipam_server.keys import Keys
from statestore import Compare, Put, Txn
from statestore.transactions import encode

VALUE = b"v" * 128
PREFIX = b"/bench/"


async def puts(url: str, tag: str, waiting: int, seconds: float) -> float:
    """Puts of 128 bytes a second, each to a key of its own, `waiting` of them at once."""
    async with aio.insecure_channel(urlsplit(url).netloc) as channel:
        put = rpc.KVStub(channel).Put
        done = 0
        started = perf_counter()
        until = started + seconds

        async def work(worker: int) -> None:
            nonlocal done
            number = 0
            while perf_counter() < until:
                key = PREFIX + b"%s/%d/%d" % (tag.encode(), worker, number)
                await put(pb.PutRequest(key=key, value=VALUE))
                number += 1
                done += 1

        await asyncio.gather(*(work(worker) for worker in range(waiting)))
        return done / (perf_counter() - started)


async def transactions(url: str, tag: str, seconds: float) -> float:
    """Milliseconds, the median, of the transaction that an allocation makes, fenced as a server's
    is, one after the other. They belong to a cluster that no server knows."""
    async with aio.insecure_channel(urlsplit(url).netloc) as channel:
        call = rpc.KVStub(channel).Txn
        times = []
        until = perf_counter() + seconds
        for request in _requests(tag):
            begun = perf_counter()
            answer = await call(request)
            times.append(perf_counter() - begun)
            if not (answer.succeeded and answer.responses[0].response_txn.succeeded):
                raise RuntimeError("a transaction that collides with nothing was refused")
            if perf_counter() > until:
                break
        return median(times) * 1e3


def _requests(tag: str) -> Iterator[pb.TxnRequest]:
    keys = Keys(f"bench-raw-{tag}")
    state, _ = fill.shape(keys.prefix.decode())
    fence = Compare.absent(keys.leader)
    for number in range(1 << 62):
        change = fill.change(state, keys, tag, number)
        yield encode(Txn((fence,), (change.nested(), Put(keys.clock, b"%d" % number))))
