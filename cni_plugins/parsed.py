"""Addresses read from texts, and kept: one pod's are read at a dozen places, and all pods of a
network have their gateways and routes in common. Each raises `ValueError` as `ipaddress` does."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Final

_KEPT: Final = 128


@lru_cache(_KEPT)
def address(text: str) -> IPv4Address | IPv6Address:
    return ipaddress.ip_address(text)


@lru_cache(_KEPT)
def interface(text: str) -> IPv4Interface | IPv6Interface:
    """An address with its prefix length."""
    return ipaddress.ip_interface(text)


@lru_cache(_KEPT)
def network(text: str) -> IPv4Network | IPv6Network:
    """A subnet; bits beyond its prefix length do not count."""
    return ipaddress.ip_network(text, strict=False)
