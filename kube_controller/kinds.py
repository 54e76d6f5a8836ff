"""Kubernetes' objects as far as they matter here, and where the API has each kind.

Whatever else an object holds is not kept: a cluster may have thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

GROUP: Final = "ipam.netspace.io"
VERSION: Final = "v1alpha1"
FINALIZER: Final = f"{GROUP}/finalizer"
MIRROR: Final = "kubernetes.io/config.mirror"
"""On the object that shows a static pod: the UID that the node's kubelet knows it by."""
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
"""The taint by which an admin says that a node runs nothing any more
(https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/)."""
OURS: Final = "ipam.com/"


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """`meta/v1 ObjectMeta`."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None

    @property
    def key(self) -> str:
        """What tells an object from the others of its kind."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def ours(self) -> dict[str, str]:
        """The annotations that are Netspace's."""
        found = self.annotations or {}
        return {key: value for key, value in found.items() if key.startswith(OURS)}


class Custom(msgspec.Struct, frozen=True):
    """A Network, a Pool or a Federation of ours."""

    metadata: Metadata
    spec: dict[str, Any] = {}
    status: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def going(self) -> bool:
        """Whether somebody has deleted it, and it waits for its finalizers."""
        return self.metadata.deletion_timestamp is not None

    @property
    def held(self) -> bool:
        """Whether it waits for ours."""
        return FINALIZER in (self.metadata.finalizers or ())


class Namespace(msgspec.Struct, frozen=True):
    metadata: Metadata


class Template(msgspec.Struct, frozen=True):
    metadata: Metadata = Metadata()


class WorkloadSpec(msgspec.Struct, frozen=True):
    replicas: int | None = None
    template: Template = Template()


class Workload(msgspec.Struct, frozen=True):
    """A StatefulSet or a Deployment."""

    metadata: Metadata
    spec: WorkloadSpec = WorkloadSpec()


class Taint(msgspec.Struct, frozen=True):
    key: str = ""


class NodeSpec(msgspec.Struct, frozen=True):
    taints: tuple[Taint, ...] | None = None


class Node(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: NodeSpec = NodeSpec()

    @property
    def out_of_service(self) -> bool:
        return any(taint.key == OUT_OF_SERVICE for taint in self.spec.taints or ())


class PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""


class Pod(msgspec.Struct, frozen=True):
    metadata: Metadata
    status: PodStatus = PodStatus()

    @property
    def finished(self) -> bool:
        """Whether none of its containers runs or will run again."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def uids(self) -> tuple[str, ...]:
        """What its node may know it by."""
        mirrored = (self.metadata.annotations or {}).get(MIRROR)
        return (self.metadata.uid,) if mirrored is None else (self.metadata.uid, mirrored)


class Involved(msgspec.Struct, frozen=True):
    """What an event is about, as its author says; empty where it does not."""

    name: str = ""
    uid: str = ""


class Secret(msgspec.Struct, frozen=True):
    """`data` in base 64."""

    metadata: Metadata = Metadata()
    data: dict[str, str] | None = None


class PodEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event on a pod of the event's namespace."""

    metadata: Metadata
    involved_object: Involved = Involved()


class Kept(Protocol):
    """What every object has."""

    @property
    def metadata(self) -> Metadata: ...


T = TypeVar("T", bound=Kept)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """Where a kind's objects are, of all namespaces, and what is kept of each. `fields`: a field
    selector of those that count."""

    path: str
    kind: type[T]
    fields: str = ""

    @property
    def plural(self) -> str:
        return self.path.rpartition("/")[2]

    def of(self, name: str, part: str = "") -> str:
        """The path of one object that is in no namespace, or of a part of it."""
        return f"{self.path}/{quote(name, safe='')}{part}"

    def within(self, namespace: str, name: str) -> str:
        """The path of one object in a namespace."""
        root, _, plural = self.path.rpartition("/")
        return f"{root}/namespaces/{quote(namespace, safe='')}/{plural}/{quote(name, safe='')}"


NETWORKS: Final = Resource(f"/apis/{GROUP}/{VERSION}/networks", Custom)
POOLS: Final = Resource(f"/apis/{GROUP}/{VERSION}/pools", Custom)
FEDERATIONS: Final = Resource(f"/apis/{GROUP}/{VERSION}/federations", Custom)
NAMESPACES: Final = Resource("/api/v1/namespaces", Namespace)
NODES: Final = Resource("/api/v1/nodes", Node)
PODS: Final = Resource("/api/v1/pods", Pod)
SECRETS: Final = Resource("/api/v1/secrets", Secret)
STATEFUL_SETS: Final = Resource("/apis/apps/v1/statefulsets", Workload)
DEPLOYMENTS: Final = Resource("/apis/apps/v1/deployments", Workload)
TAKEN: Final = Resource(
    "/api/v1/events",
    PodEvent,
    "involvedObject.kind=Pod,reason=AddressTaken,source=netspace-agent",
)
"""Nodes' word that a pod asks for an address that somebody has."""


def matter(found: object) -> object:
    """What of an object makes a difference here; the rest of it may change as often as it likes."""
    match found:
        case Custom(metadata=seen):
            return seen.uid, seen.generation, seen.deletion_timestamp, seen.finalizers
        case Workload(metadata=seen, spec=spec):
            return seen.uid, spec.replicas, spec.template.metadata.ours
        case Namespace(metadata=seen):
            return seen.uid, seen.ours
        case Node(metadata=seen):
            return seen.uid, found.out_of_service
    return found
