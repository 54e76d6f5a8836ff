"""Asks a node's federation agent over its socket, as its own commands do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from netspace.http_client import HttpClient
from netspace.messages.federation_node import FederationAgentStatus


def asked(run: Path, seconds: float, method: str, target: str, body: bytes = b"") -> bytes:
    """The answer of the agent whose `run_dir` this is. Raises `Problem`."""

    async def ask() -> bytes:
        client = HttpClient([f"unix://{run}/federation-agent.sock"], seconds)
        try:
            return await client.request(method, target, body)
        finally:
            await client.close()

    return asyncio.run(ask())


def status(run: Path, seconds: float) -> FederationAgentStatus:
    """What it says of itself. Raises `Problem`."""
    return msgspec.json.decode(asked(run, seconds, "GET", "/v1/status"), type=FederationAgentStatus)
