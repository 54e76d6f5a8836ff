"""Results: one internal form, its encoding for each CNI version, and reading those of others.

Pure. Source: CNI specification, section 5 (spec-v1.1.0), and the same of 0.3.1 and 0.4.0.
0.3.x, 0.4.0  `ips[].version`; interfaces are name, mac, sandbox; routes are dst, gw
1.0.0         no `ips[].version`
1.1.0         interface `mtu`, `socketPath`, `pciID`; route `mtu`, `advmss`, `priority`, `table`,
              `scope`
An IPAM plugin's result has no `interfaces` and no `ips[].interface`. Between our own plugins the
VLAN travels in a private key, `netspace`, which no runtime gets to see.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cni_plugins import parsed
from cni_plugins.protocol import INVALID_CONFIG, UNDECODABLE, VERSIONS, CniError

PRIVATE_KEY: Final = "netspace"
_EXTENDED: Final = "1.1.0"
_MAX_ITEMS: Final = 1000
"""Interfaces, addresses or routes in one result; a pod has a handful."""


class Dns(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Passed through as it is: a kubelet takes none of it."""

    nameservers: list[str] = []
    domain: str = ""
    search: list[str] = []
    options: list[str] = []


class Interface(msgspec.Struct, kw_only=True, omit_defaults=True, rename={"pci_id": "pciID"}):
    """`sandbox` is the namespace's path, empty for a link of the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = msgspec.field(name="socketPath", default="")
    pci_id: str = ""


class Ip(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`address` with prefix length; `interface` is an index into the interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


class Route(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`dst` is a subnet; without `gw` the gateway of the address of its family is meant."""

    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class Private(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What our IPAM plugin tells our main plugin of the network behind the addresses."""

    parent: str = ""
    vlan: int | None = None
    mtu: int = 0
    network: str = ""
    probe: bool = False


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A result in the words of version 1.1.0."""

    interfaces: list[Interface] = []
    ips: list[Ip] = []
    routes: list[Route] = []
    dns: Dns = msgspec.field(default_factory=Dns)
    netspace: Private | None = None


def encode_result(result: Result, version: str) -> bytes:
    """A main plugin's result for the runtime, in the version of the configuration."""
    return _encoded(result, version, ipam=False)


def encode_ipam_result(result: Result, version: str) -> bytes:
    """An IPAM plugin's result for the plugin that called it, the private key included."""
    return _encoded(result, version, ipam=True)


def parse_result(value: Any, code: int, what: str) -> Result:
    """The result another plugin gave, or `prevResult`, of any version from 0.3.0 on.

    `CniError` with the code given where it has not the form of a result; `what` names it.
    """
    if not isinstance(value, dict):
        raise CniError(code, f"{what} is wrong", "it is not an object")
    version = value.get("cniVersion")
    if version not in VERSIONS:
        raise CniError(
            code,
            f"{what} is wrong",
            f"its cniVersion is {str(version)[:20]!r}: it must be one of {', '.join(VERSIONS)}",
        )
    try:
        result = msgspec.convert(without_null(value), Result)
        _check(result)
    except (msgspec.ValidationError, ValueError) as error:
        raise CniError(code, f"{what} is wrong", str(error)[:300]) from None
    return result


def parse_prev_result(config: dict[str, Any]) -> Result | None:
    """The configuration's `prevResult`, None where it has none."""
    if config.get("prevResult") is None:
        return None
    return parse_result(config["prevResult"], INVALID_CONFIG, "prevResult")


def parse_delegated(value: Any, ipam: str) -> Result:
    """What an IPAM plugin answered to ADD: at least one address, none bound to an interface."""
    result = parse_result(value, UNDECODABLE, f"the result of {ipam}")
    if not result.ips:
        raise CniError(UNDECODABLE, f"the result of {ipam} is wrong", "it has no address in it")
    return result


def parse_routes(values: list[dict[str, Any]], code: int, what: str) -> list[Route]:
    """Routes of a configuration, in the form that results have."""
    try:
        routes = msgspec.convert([without_null(value) for value in values], list[Route])
        for route in routes:
            _check_route(route)
    except (msgspec.ValidationError, ValueError) as error:
        raise CniError(code, f"{what} is wrong", str(error)[:300]) from None
    return routes


def attached(result: Result, interface: Interface) -> Result:
    """The result with this interface as its only one, and all addresses on it."""
    return Result(
        interfaces=[interface],
        ips=[msgspec.structs.replace(ip, interface=0) for ip in result.ips],
        routes=result.routes,
        dns=result.dns,
    )


def gateway_of(result: Result, route: Route) -> str:
    """The route's gateway, or that of the first address of its family, or nothing."""
    if route.gw:
        return route.gw
    family = parsed.network(route.dst).version
    for ip in result.ips:
        if ip.gateway and parsed.interface(ip.address).version == family:
            return ip.gateway
    return ""


def _encoded(result: Result, version: str, *, ipam: bool) -> bytes:
    extended = version == _EXTENDED
    answer: dict[str, Any] = {"cniVersion": version}
    if not ipam:
        answer["interfaces"] = [
            _kept(interface, None if extended else ("name", "mac", "sandbox"))
            for interface in result.interfaces
        ]
    answer["ips"] = [_ip(ip, version, ipam) for ip in result.ips]
    if result.routes:
        answer["routes"] = [
            _kept(route, None if extended else ("dst", "gw")) for route in result.routes
        ]
    dns = msgspec.to_builtins(result.dns)
    if dns:
        answer["dns"] = dns
    if ipam and result.netspace is not None:
        answer[PRIVATE_KEY] = msgspec.to_builtins(result.netspace)
    return msgspec.json.encode(answer)


def _ip(ip: Ip, version: str, ipam: bool) -> dict[str, Any]:
    fields = _kept(ip, ("address", "gateway") if ipam else None)
    if version.startswith("0."):
        fields["version"] = str(parsed.interface(ip.address).version)
    return fields


def _kept(value: Interface | Ip | Route, keys: tuple[str, ...] | None) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return fields if keys is None else {key: fields[key] for key in keys if key in fields}


def without_null(value: Any) -> Any:
    """The value without members that are null, which others write for what is not there."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_null(item) for item in value]
    return value


def _check(result: Result) -> None:
    for items in (result.interfaces, result.ips, result.routes):
        if len(items) > _MAX_ITEMS:
            raise ValueError(f"it lists more than {_MAX_ITEMS} of a kind")
    for ip in result.ips:
        version = parsed.interface(ip.address).version
        if "/" not in ip.address:
            raise ValueError(f"the address {ip.address} has no prefix length")
        if ip.gateway and parsed.address(ip.gateway).version != version:
            raise ValueError(f"the gateway {ip.gateway} of {ip.address} is of the other family")
        if ip.interface is not None and not 0 <= ip.interface < max(1, len(result.interfaces)):
            raise ValueError(f"{ip.address} names interface {ip.interface}, which is not listed")
    for route in result.routes:
        _check_route(route)


def _check_route(route: Route) -> None:
    version = parsed.network(route.dst).version
    if route.gw and parsed.address(route.gw).version != version:
        raise ValueError(f"the gateway {route.gw} of {route.dst} is of the other family")
    for name in ("mtu", "advmss", "priority"):
        if not 0 <= getattr(route, name) < 2**32:
            raise ValueError(f"the {name} of the route to {route.dst} is out of range")
