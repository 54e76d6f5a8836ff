"""The node's configuration, conf/node.yaml: one model for the executables and the agent.

msgspec reads it, since an executable does so for every pod and pydantic's import costs it 40 ms;
the collector below names all faults at once with their paths, as the servers' configuration does.
"""

from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import yaml
from msgspec import Meta

from netspace import handover, names
from netspace.messages import NewNetwork
from netspace.problems import Problem
from netspace.slots import SlotError, SlotMap

if TYPE_CHECKING:
    from netspace.tls import Tls

MAX_SIZE: Final = 1 << 20
"""Bytes of a configuration file."""

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Address = Annotated[str, Meta(pattern=r"^[0-9.]{7,15}" + names.END)]
Address46 = Annotated[str, Meta(pattern=r"^[0-9a-fA-F.:]{2,45}" + names.END)]
Cidr = Annotated[str, Meta(pattern=r"^[0-9a-fA-F.:]{2,45}/[0-9]{1,3}" + names.END)]
LinkName = Annotated[str, Meta(pattern=names.LINK)]
File = Annotated[str, Meta(pattern=r"^/[^\x00]*" + names.END)]
Url = Annotated[str, Meta(pattern=r"^(unix:///|https?://)[^\s]+" + names.END, max_length=300)]


class ServerSection(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`endpoints` are tried in order; `timeout` is in seconds for a whole request. `ca`, `cert` and
    `key` are PEM files for https: the authority, the node's certificate and its key."""

    endpoints: Annotated[tuple[Url, ...], Meta(min_length=1, max_length=32)] = (
        "unix:///run/netspace/server.sock",
    )
    timeout: Annotated[float, Meta(gt=0, le=120)] = 10.0
    ca: File | None = None
    cert: File | None = None
    key: File | None = None

    def tls(self) -> Tls | None:
        """The files; None where none is named."""
        if self.ca is None or self.cert is None or self.key is None:
            return None
        from netspace.tls import Tls  # with ssl it costs more than all the rest of this file

        return Tls(Path(self.ca), Path(self.cert), Path(self.key))


class BondSection(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One bond; names, meanings and values are the kernel's, and what is left out is the kernel's
    choice (Documentation/networking/bonding.rst), but for `mode` and `miimon` (100 ms).
    `take_addresses`: the node's own addresses and routes move with a card into the bond, and back
    where the default gateway does not answer within `gateway_timeout` seconds."""

    name: LinkName
    slaves: Annotated[tuple[LinkName, ...], Meta(min_length=1, max_length=16)]
    mode: str = "active-backup"
    miimon: Count | None = None
    updelay: Count | None = None
    downdelay: Count | None = None
    lacp_rate: str | None = None
    xmit_hash_policy: str | None = None
    primary: LinkName | None = None
    primary_reselect: str | None = None
    fail_over_mac: str | None = None
    num_peer_notif: Count | None = None
    min_links: Count | None = None
    mtu: Annotated[int, Meta(ge=0, le=65535)] = 0
    arp_interval: Count | None = None
    arp_ip_target: tuple[Address, ...] | None = None
    take_addresses: bool = False
    gateway_timeout: Annotated[float, Meta(gt=0, le=120)] = 10.0


class AgentSection(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How `netspace-agent serve` works. `at_once`: calls it works on together; `waiting`: calls
    that wait for their turn; `timeout`: seconds a call may take with its waiting, fewer than the 90
    that the executables wait; `report`: seconds between two reports to the server."""

    socket: File = "/run/netspace/cni.sock"
    at_once: Annotated[int, Meta(ge=1, le=1024)] = 32
    waiting: Annotated[int, Meta(ge=0, le=10_000)] = 1000
    timeout: Annotated[float, Meta(gt=0, le=80)] = 75.0
    report: Annotated[float, Meta(ge=1, le=86400)] = 300.0


class ServicesSection(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The way from pods to Services and to their own node, by a vmac on each VLAN. `cidrs`: the
    cluster's Service CIDRs; `node_addresses`: the node's own that pods reach, `auto`: those of its
    network cards, bonds, VLANs and of the links with a default route; `extra`: what else lies
    behind the node."""

    cidrs: Annotated[tuple[Cidr, ...], Meta(max_length=16)] = ()
    node_addresses: Literal["auto"] | Annotated[tuple[Address46, ...], Meta(max_length=64)] = "auto"
    extra: Annotated[tuple[Cidr, ...], Meta(max_length=64)] = ()


class KubernetesSection(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How the node asks Kubernetes' API: by a `kubeconfig`, or by the credentials in the folder
    `service_account`, as Kubernetes mounts them, with `server` where the environment does not name
    the API. `timeout`: seconds for one question. `events`: whether the agent tells of pods'
    addresses, and why they have none, by events on the pods."""

    kubeconfig: File | None = None
    service_account: File = "/var/run/secrets/kubernetes.io/serviceaccount"
    server: Annotated[str, Meta(pattern=r"^https://[^\s]+" + names.END, max_length=300)] | None = (
        None
    )
    timeout: Annotated[float, Meta(gt=0, le=30)] = 5.0
    events: bool = True


class NodeConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`node` empty is the host's name; `state_dir` holds the attachment records. `links`: the
    address space of the node's logical cards, each under the name its network is to have.
    `handover`: the file by which the federation agent hands over routes for pods."""

    cluster: Annotated[str, Meta(pattern=names.NAME)]
    node: Annotated[str, Meta(pattern=names.either(names.NODE, ""))] = ""
    server: ServerSection = ServerSection()
    state_dir: File = "/var/lib/netspace"
    bonds: tuple[BondSection, ...] = ()
    links: Annotated[tuple[NewNetwork, ...], Meta(max_length=4096)] = ()
    services: ServicesSection | None = None
    handover: File = handover.PATH
    agent: AgentSection = AgentSection()
    kubernetes: KubernetesSection | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def node_name(self) -> str:
        """The node's name in lower case, as Kubernetes has it."""
        return self.node or socket.gethostname().lower()


def load(path: Path) -> NodeConfig:
    """The configuration in the file. `Problem` invalid, with one entry in `errors` for each fault,
    like `node.yaml: bonds[0].slaves: Expected `array`, got `str``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise _faulty(path, [f"it cannot be read: {error.strerror}"]) from None
    if len(data) > MAX_SIZE:
        raise _faulty(path, [f"it is larger than {MAX_SIZE} bytes"])
    return parse(data, path)


def parse(data: bytes, path: Path) -> NodeConfig:
    """As `load`; the path is for the errors."""
    try:
        document = yaml.compose(data, Loader=_LOADER)
        repeated = [] if document is None else _repeated(document, "")
        content = {} if document is None else yaml.load(data, Loader=_LOADER)
    except RecursionError:
        raise _faulty(path, ["it is not YAML to be used: too deep, or it holds itself"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _faulty(path, [f"it is not YAML: {' '.join(str(error).split())[:300]}"]) from None
    if not isinstance(content, dict):
        raise _faulty(path, ["it must be a mapping of keys to values"])
    if repeated:
        raise _faulty(path, repeated)
    try:
        config = msgspec.convert(content, NodeConfig)
    except msgspec.ValidationError:
        raise _faulty(path, faults(content, NodeConfig)) from None
    problems = _contradictions(config)
    if problems:
        raise _faulty(path, problems)
    return config


def faults(value: Any, kind: Any, place: str = "") -> list[str]:
    """Every fault of the value as `PATH: reason`; empty where msgspec takes it."""
    item = _item_type(kind)
    if item is not None and isinstance(value, list):
        found = [
            fault for at, part in enumerate(value) for fault in faults(part, item, f"{place}[{at}]")
        ]
        return found or _fault(value, kind, place)
    if not _is_struct(kind) or not isinstance(value, dict):
        return _fault(value, kind, place)
    hints = get_type_hints(kind, include_extras=True)
    dot = f"{place}." if place else ""
    found = [f"{dot}{key}: there is no such key" for key in value if key not in hints]
    for field in msgspec.structs.fields(kind):
        if field.name in value:
            found += faults(value[field.name], hints[field.name], f"{dot}{field.name}")
        elif field.required:
            found.append(f"{dot}{field.name}: it is missing")
    return found or _fault(value, kind, place)


def _fault(value: Any, kind: Any, place: str) -> list[str]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        why, _, where = names.in_words(str(error)).partition(" - at `$")
        inner = where.rstrip("`")
        path = f"{place}{inner}" if place else inner.lstrip(".")
        return [f"{path}: {why}" if path else why]
    return []


def _item_type(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        return _item_type(get_args(kind)[0])
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _contradictions(config: NodeConfig) -> list[str]:
    found = []
    if not names.matches(names.NODE, config.node_name):
        found.append(f"node: the host name {config.node_name!r} cannot be used, name the node")
    files = (config.server.ca, config.server.cert, config.server.key)
    secured = any(url.startswith("https://") for url in config.server.endpoints)
    if not all(files) and (any(files) or secured):
        found.append("server: https needs ca, cert and key: name all three")
    kubernetes = config.kubernetes
    if kubernetes is not None and kubernetes.kubeconfig and kubernetes.server:
        found.append("kubernetes: the kubeconfig names the server: leave server out")
    found += _no_networks(config.services)
    seen: set[str] = set()
    for at, link in enumerate(config.links):
        try:
            slots = SlotMap.of(link.ipv4, link.ipv6, link.mapping)
            slots.parse_ranges(link.range)
            slots.parse_ranges(link.exclude)
        except SlotError as error:
            found.append(f"links[{at}]: {error}")
        if link.name in seen:
            found.append(f"links[{at}].name: {link.name} stands there twice")
        seen.add(link.name)
    owners: dict[str, str] = {}
    for at, bond in enumerate(config.bonds):
        for name in (bond.name, *bond.slaves):
            if name in owners:
                found.append(f"bonds[{at}]: {name} stands in {owners[name]} already")
            owners[name] = f"bonds[{at}]"
    return found


def _no_networks(services: ServicesSection | None) -> list[str]:
    found = []
    for key, texts in (
        ("cidrs", services.cidrs if services else ()),
        ("extra", services.extra if services else ()),
        ("node_addresses", services.node_addresses if services else ()),
    ):
        for at, text in enumerate(() if texts == "auto" else texts):
            try:
                ip_network(text)
            except ValueError as error:
                found.append(f"services.{key}[{at}]: {error}")
    return found


def _repeated(node: Any, place: str) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [
            fault
            for at, item in enumerate(node.value)
            for fault in _repeated(item, f"{place}[{at}]")
        ]
    if not isinstance(node, yaml.MappingNode):
        return []
    found, seen = [], set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue  # Nothing that can be a key; reading it says so.
        path = f"{place}.{key.value}".lstrip(".")
        if key.value in seen:
            found.append(f"{path}: the key stands there twice (line {key.start_mark.line + 1})")
        seen.add(key.value)
        found += _repeated(value, path)
    return found


def _faulty(path: Path, found: list[str]) -> Problem:
    errors = tuple(f"{path.name}: {fault}" for fault in found)
    detail = errors[0] if len(errors) == 1 else f"{len(errors)} faults: {'; '.join(errors)}"
    return Problem("invalid", detail, do=f"correct {path}", errors=errors)


_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
