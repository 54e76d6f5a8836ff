"""The network configuration of our plugins, and what a pod's annotations and arguments add to it.

Pure. What the reference macvlan plugin has (`master`, `mode`, `mtu`, `mac`, `linkInContainer`,
`bcqueuelen`, `ipam`, `dns`, `runtimeConfig.mac`, CNI_ARGS `MAC`) keeps its name and meaning
(https://www.cni.dev/plugins/current/main/macvlan/); keys that are not known are left to others.
Everything a pod can name is hostile until it has passed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from cni_plugins.protocol import BAD_ENVIRONMENT, INVALID_CONFIG, CniError, Invocation
from cni_plugins.results import Dns, Route, parse_routes, without_null
from netspace import names, selection
from netspace.messages import Pod, Selection
from netspace.problems import Problem

OWN_IPAM: Final = "netspace-ipam"
"""The IPAM type whose client runs in the plugin's own process."""
DEFAULT_NODE_CONFIG: Final = "/etc/netspace/node.yaml"
ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"
"""The capability by which containerd and CRI-O hand over a pod's annotations."""

Path = Annotated[str, Meta(pattern=r"^(/[^\x00]*)?" + names.END)]
Mode = Literal["", "bridge", "private", "vepa", "passthru"]
S = TypeVar("S")


class IpamConf(msgspec.Struct, kw_only=True):
    """The `ipam` section. With `netspace-ipam`: `config` is the node's configuration file;
    `netspace`, `application`, `ip` and `families` are what a pod gets that asks for nothing;
    `routes` replace the default routes by the networks' gateways."""

    type: str = ""
    config: Path = ""
    netspace: Any = None
    application: Any = None
    ip: Any = None
    families: Any = None
    routes: list[dict[str, Any]] | None = None
    dns: Dns = msgspec.field(default_factory=Dns)


class RuntimeConf(msgspec.Struct, kw_only=True):
    """What the runtime adds for the capabilities that the conflist declares."""

    mac: str = ""
    ips: list[str] = []
    annotations: dict[str, str] = msgspec.field(name=ANNOTATIONS, default_factory=dict)


class NetConf(msgspec.Struct, kw_only=True, rename="camel"):
    """One plugin's configuration. `master` empty: the link that our server's network names, or with
    another IPAM plugin the one with the default route. `vlan` is for other IPAM plugins: with ours
    it comes from the network. `mtu` 0 inherits. `guard_sources`: what a pod sends under addresses
    that are not its own is dropped. `config` is the node's configuration file, where the `ipam`
    section names none."""

    master: Annotated[str, Meta(pattern=names.either(names.LINK, ""))] = ""
    mode: Mode = "bridge"
    mtu: Annotated[int, Meta(ge=0, le=65535)] = 0
    mac: str = ""
    link_in_container: bool = False
    bcqueuelen: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    vlan: Annotated[int, Meta(ge=1, le=4094)] | None = None
    guard_sources: bool = True
    config: Path = ""
    ipam: IpamConf = msgspec.field(default_factory=IpamConf)
    dns: Dns = msgspec.field(default_factory=Dns)
    runtime_config: RuntimeConf = msgspec.field(default_factory=RuntimeConf)


def parse_netconf(config: dict[str, Any]) -> NetConf:
    """The configuration; `CniError` 7 names the key that is wrong. Members that are null count as
    absent: containerd writes the annotations of a pod that has none so."""
    return _converted(without_null(config), NetConf, "the network configuration is wrong")


def node_config_path(conf: NetConf) -> str:
    """The node's configuration file; empty where the configuration names none and its IPAM plugin
    is another one, which can do without."""
    if conf.ipam.type != OWN_IPAM:
        return conf.config
    return conf.ipam.config or conf.config or DEFAULT_NODE_CONFIG


def wanted_mac(conf: NetConf, invocation: Invocation) -> str | None:
    """The hardware address asked for: runtimeConfig's before CNI_ARGS' before the configuration's;
    None where nobody asks. Refused: malformed, multicast and zero."""
    sources = (
        (INVALID_CONFIG, "runtimeConfig.mac", conf.runtime_config.mac),
        (BAD_ENVIRONMENT, "CNI_ARGS MAC", invocation.args.get("MAC", "")),
        (INVALID_CONFIG, "mac", conf.mac),
    )
    for code, where, text in sources:
        if text:
            return _mac(code, where, text)
    return None


def pod_of(invocation: Invocation) -> Pod:
    """Who the sandbox is for; parts that the runtime does not tell are empty."""
    args = invocation.args
    return Pod(
        namespace=args.get("K8S_POD_NAMESPACE", ""),
        name=args.get("K8S_POD_NAME", ""),
        uid=args.get("K8S_POD_UID", ""),
    )


def annotations_passed(invocation: Invocation) -> bool:
    """Whether the runtime says what annotations the pod has; null says that it has none."""
    return ANNOTATIONS in (invocation.config.get("runtimeConfig") or {})


class AnnotationError(CniError):
    """An annotation of ours that cannot be read."""


def selections(
    conf: NetConf, invocation: Invocation, annotations: Mapping[str, str] | None = None
) -> tuple[Selection, Selection]:
    """What the pod asks for by its annotations, and what the conflist gives to a pod that asks for
    nothing. `annotations` None: those that the runtime passes.

    An address from the runtime (`runtimeConfig.ips`, CNI_ARGS `IP`) counts as the pod's wish where
    its annotations name none.
    """
    try:
        asked = selection.from_annotations(
            conf.runtime_config.annotations if annotations is None else annotations
        )
    except Problem as problem:
        raise AnnotationError(INVALID_CONFIG, problem.detail, problem.do) from None
    given = [text.partition("/")[0] for text in conf.runtime_config.ips]
    if not given and invocation.args.get("IP"):
        given = [invocation.args["IP"].partition("/")[0]]
    if given and not asked.ip:
        chosen = _selected({"ip": given}, "the runtime's ")
        asked = msgspec.structs.replace(asked, ip=chosen.ip)
    section = {
        key: value for key in selection.KEYS if (value := getattr(conf.ipam, key)) is not None
    }
    return asked, _selected(section, "ipam.")


def ipam_routes(conf: NetConf) -> list[Route] | None:
    """The routes of the `ipam` section; None where it names none, which means the gateways'."""
    if conf.ipam.routes is None:
        return None
    return parse_routes(conf.ipam.routes, INVALID_CONFIG, "ipam.routes")


def _selected(values: dict[str, Any], where: str) -> Selection:
    try:
        return selection.select(values, where)
    except Problem as problem:
        raise CniError(INVALID_CONFIG, problem.detail, problem.do) from None


def _mac(code: int, where: str, text: str) -> str:
    octets = text.lower().replace("-", ":").split(":")
    if len(octets) != 6 or not all(
        len(octet) == 2 and set(octet) <= set("0123456789abcdef") for octet in octets
    ):
        raise CniError(code, f"{where} is wrong", f"{text[:40]!r} is no hardware address")
    if int(octets[0], 16) & 1:
        raise CniError(code, f"{where} is wrong", f"{text[:40]} is a multicast address")
    if set(octets) == {"00"}:
        raise CniError(code, f"{where} is wrong", "it is the zero address")
    return ":".join(octets)


def _converted(value: Any, kind: type[S], msg: str) -> S:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        why, _, where = names.in_words(str(error)).partition(" - at `$")
        place = where.rstrip("`").lstrip(".")
        raise CniError(INVALID_CONFIG, msg, f"{place}: {why}" if place else why) from None
