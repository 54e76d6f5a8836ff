"""The pods that the benches make up: every request an attachment, a claim and a pod of its own.

The sizes are those of Kubernetes: container ids of 64 digits, UUIDs, the names of a Deployment's
pods. `wrk.lua` makes up the same ones, so that what etcd holds does not depend on who asked.
"""

from __future__ import annotations

import msgspec

from netspace.messages import AllocateRequest, AttachmentId, Pod, ReleaseRequest

IFNAME = "eth0"
NODES = 1000
"""Nodes that the pods are spread over."""

encode = msgspec.json.encode


def request(tag: str, number: int, node: str = "") -> AllocateRequest:
    """The `number`-th request under a tag of 8 hexadecimal digits; no two tags share a pod. `node`
    asks; by default one of many."""
    return AllocateRequest(
        attachment=AttachmentId(container=container(tag, number), ifname=IFNAME),
        claim=f"{tag}{number:024x}",
        node=node or f"node-{number % NODES:04d}",
        pod=Pod(
            namespace=f"tenant-{number % 97:02d}",
            name=f"web-{tag}-{number:010x}",
            uid=f"{tag}-0000-4000-8000-{number:012x}",
        ),
    )


def release(tag: str, number: int) -> ReleaseRequest:
    """The release of what the request of the same number got."""
    asked = request(tag, number)
    return ReleaseRequest(attachment=asked.attachment, claim=asked.claim, node=asked.node)


def container(tag: str, number: int) -> str:
    return f"{tag}{number:016x}".ljust(64, "0")


def post(host: str, path: str, body: bytes) -> bytes:
    """One HTTP/1.1 request as it goes over the wire; the connection stays open."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
