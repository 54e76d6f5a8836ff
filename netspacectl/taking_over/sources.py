"""What other address plugins leave, and lists of pods and sandboxes, read to values. Pure.

host-local: a folder with one file for each address, which holds container id and interface name
(https://www.cni.dev/plugins/current/ipam/host-local/). Spiderpool: SpiderEndpoint and SpiderIPPool,
v2beta1. whereabouts: IPPool, v1alpha1, whose allocations are offsets from the range's address.
Objects as `kubectl get … -o json` writes them, one or a list. Sandboxes as `crictl pods -o json`
does. All of it is hostile until it is checked.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface
from typing import Any, Final, TypeVar

import msgspec

from netspace import names
from netspace.slots import SlotError, parse_address
from netspacectl.taking_over.found import Found, KnownPod, Sandbox, unreadable

T = TypeVar("T")
COLUMNS: Final = ("ipv4", "ipv6", "namespace", "pod", "uid", "node", "container", "ifname")
"""Of a CSV, in any order; the header names them, one of the first two must be there."""
_OWN_FILES: Final = ("lock", "last_reserved_ip")
"""What host-local keeps for itself beside the addresses."""
_FORMS: Final = {
    "namespace": names.NAMESPACE,
    "pod": names.POD,
    "uid": names.UID,
    "node": names.NODE,
    "container": names.CONTAINER,
}


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""


class _Object(msgspec.Struct):
    kind: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}


class _List(msgspec.Struct):
    kind: str = ""
    items: list[_Object] | None = None


class _Detail(msgspec.Struct):
    interface: str = ""
    ipv4: str | None = None
    ipv6: str | None = None


class _Current(msgspec.Struct):
    uid: str = ""
    node: str = ""
    ips: list[_Detail] = []


class _Allocated(msgspec.Struct):
    interface: str = ""
    pod: str = ""
    uid: str = msgspec.field(name="podUid", default="")


class _Allocation(msgspec.Struct):
    podref: str = ""
    container: str = msgspec.field(name="id", default="")
    ifname: str = ""


class _Address(msgspec.Struct):
    ip: str = ""


class _PodStatus(msgspec.Struct, rename="camel"):
    phase: str = ""
    pod_ips: list[_Address] = msgspec.field(name="podIPs", default_factory=list)


class _Listed(msgspec.Struct):
    """One line of `crictl pods -o json`."""

    id: str
    metadata: _Metadata
    state: str = ""


class _Listing(msgspec.Struct):
    items: list[_Listed] = []


def host_local(files: Iterable[tuple[str, bytes]], node: str) -> list[Found]:
    """The files of a folder, each with its name; `node` is where they lie."""
    found = []
    for name, content in sorted(files):
        if name.partition(".")[0] in _OWN_FILES:
            continue
        lines = content.decode(errors="replace").split()
        if not 1 <= len(lines) <= 2:
            raise unreadable(name, "it does not hold a container id and an interface name")
        found.append(
            _checked(
                name,
                addresses=(_address(name, name),),
                node=node,
                container=lines[0],
                ifname=lines[1] if len(lines) == 2 else "",
            )
        )
    return found


def spiderpool(content: bytes, where: str) -> list[Found]:
    """SpiderEndpoints, and of SpiderIPPools what no endpoint has."""
    endpoints, pools = list[Found](), list[Found]()
    for each in _objects(content, where):
        place = f"{where}: {each.kind} {each.metadata.name}"
        if each.kind == "SpiderEndpoint":
            endpoints += _endpoint(each, place)
        elif each.kind == "SpiderIPPool":
            pools += _allocated(each, place)
    known = {address for each in endpoints for address in each.addresses}
    return endpoints + [each for each in pools if not known & {*each.addresses}]


def _endpoint(item: _Object, where: str) -> Iterator[Found]:
    current = _converted(item.status.get("current") or {}, _Current, where)
    for detail in current.ips:
        texts = [text for text in (detail.ipv4, detail.ipv6) if text]
        if texts:
            yield _checked(
                where,
                addresses=tuple(_address(text.partition("/")[0], where) for text in texts),
                namespace=item.metadata.namespace,
                pod=item.metadata.name,
                uid=current.uid,
                node=current.node,
                ifname=detail.interface,
            )


def _allocated(item: _Object, where: str) -> Iterator[Found]:
    text = item.status.get("allocatedIPs") or "{}"
    try:
        given = msgspec.json.decode(text, type=dict[str, _Allocated])
    except (msgspec.DecodeError, TypeError) as error:
        raise unreadable(where, f"allocatedIPs: {error}") from None
    for address, allocation in given.items():
        namespace, _, pod = allocation.pod.partition("/")
        yield _checked(
            where,
            addresses=(_address(address, where),),
            namespace=namespace,
            pod=pod,
            uid=allocation.uid,
            ifname=allocation.interface,
        )


def whereabouts(content: bytes, where: str) -> list[Found]:
    """IPPools; OverlappingRangeIPReservations say nothing that these do not."""
    found = []
    for each in _objects(content, where):
        if each.kind != "IPPool":
            continue
        place = f"{where}: {each.kind} {each.metadata.name}"
        try:
            first = ip_interface(str(each.spec.get("range"))).ip
        except ValueError as error:
            raise unreadable(place, f"range: {error}") from None
        given = _converted(each.spec.get("allocations") or {}, dict[str, _Allocation], place)
        for offset, allocation in given.items():
            if not (offset.isascii() and offset.isdigit() and len(offset) <= 39):
                raise unreadable(place, f"{offset[:40]!r} is no offset")
            namespace, _, pod = allocation.podref.partition("/")
            try:
                address = str(first + int(offset))
            except ValueError as error:
                raise unreadable(place, f"offset {offset}: {error}") from None
            found.append(
                _checked(
                    place,
                    addresses=(address,),
                    namespace=namespace,
                    pod=pod,
                    container=allocation.container,
                    ifname=allocation.ifname,
                )
            )
    return found


def table(content: bytes, where: str) -> list[Found]:
    """A CSV with a header that names some of `COLUMNS`."""
    try:
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        lines = [[cell.strip() for cell in row] for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise unreadable(where, error) from None
    if not lines:
        raise unreadable(where, "it is empty")
    header = lines[0]
    wrong = [column for column in header if column not in COLUMNS]
    if wrong or len({*header}) != len(header) or not {"ipv4", "ipv6"} & {*header}:
        raise unreadable(where, f"its first line must name some of {', '.join(COLUMNS)}, once")
    found = []
    for number, line in enumerate(lines[1:], 2):
        if not any(line):
            continue
        place = f"{where}: line {number}"
        if len(line) != len(header):
            raise unreadable(place, f"it has {len(line)} cells for {len(header)} columns")
        cells = dict(zip(header, line, strict=True))
        texts = [text for key in ("ipv4", "ipv6") if (text := cells.pop(key, ""))]
        if not texts:
            raise unreadable(place, "it names no address")
        found.append(
            _checked(place, addresses=tuple(_address(text, place) for text in texts), **cells)
        )
    return found


def pods(content: bytes, where: str) -> dict[tuple[str, str], KnownPod]:
    """`kubectl get pods -A -o json`."""
    found = {}
    for each in _objects(content, where):
        if each.kind not in ("Pod", ""):
            raise unreadable(where, f"it has a {each.kind}, not pods alone")
        status = _converted(each.status, _PodStatus, where)
        name = (each.metadata.namespace, each.metadata.name)
        found[name] = KnownPod(
            namespace=name[0],
            name=name[1],
            uid=each.metadata.uid,
            node=str(each.spec.get("nodeName") or ""),
            over=status.phase in ("Succeeded", "Failed"),
            addresses=tuple(address.ip for address in status.pod_ips),
        )
    return found


def sandboxes(content: bytes, where: str) -> list[Sandbox]:
    """`crictl pods -o json` of a node; those that are not ready are left out."""
    return [
        Sandbox(
            container=each.id,
            namespace=each.metadata.namespace,
            name=each.metadata.name,
            uid=each.metadata.uid,
        )
        for each in _decoded(content, _Listing, where).items
        if each.state == "SANDBOX_READY"
    ]


def _objects(content: bytes, where: str) -> list[_Object]:
    """The objects of a list, or the one that is no list."""
    listed = _decoded(content, _List, where)
    if listed.items is not None:
        return listed.items
    if listed.kind.endswith("List") or not listed.kind:
        raise unreadable(where, "it holds no objects: write it with kubectl get -o json")
    return [_decoded(content, _Object, where)]


def _decoded(content: bytes, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unreadable(where, error) from None


def _converted(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise unreadable(where, error) from None


def _address(text: str, where: str) -> str:
    try:
        return str(parse_address(text))
    except SlotError as error:
        raise unreadable(where, error) from None


def _checked(where: str, *, addresses: tuple[str, ...], **parts: str) -> Found:
    """Every part in the form that the server takes, or empty."""
    if len({":" in text for text in addresses}) != len(addresses):
        raise unreadable(where, f"{' and '.join(addresses)} are of one family")
    for key, text in parts.items():
        form = _FORMS.get(key)
        if text and not (names.is_ifname(text) if form is None else names.matches(form, text)):
            raise unreadable(where, f"{text[:60]!r} is no {key}")
    return Found(where=where, addresses=addresses, **parts)
