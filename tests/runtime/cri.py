"""The handful of CRI's messages (runtime.v1) that starting and stopping a pod's sandbox takes.

Field names and numbers are those of k8s.io/cri-api, pkg/apis/runtime/v1/api.proto. Requests and
answers are JSON objects, as protobuf's own mapping has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

_SERVICE = "runtime.v1.RuntimeService"

# Message: its fields as "type name number", with `*` for repeated and `map` for string to string.
_MESSAGES = {
    "PodSandboxMetadata": (
        "string name 1",
        "string uid 2",
        "string namespace 3",
        "uint32 attempt 4",
    ),
    "LinuxPodSandboxConfig": ("string cgroup_parent 1",),
    "PodSandboxConfig": (
        "PodSandboxMetadata metadata 1",
        "map labels 6",
        "map annotations 7",
        "LinuxPodSandboxConfig linux 8",
    ),
    "PodIP": ("string ip 1",),
    "PodSandboxNetworkStatus": ("string ip 1", "*PodIP additional_ips 2"),
    "PodSandboxStatus": ("string id 1", "PodSandboxNetworkStatus network 5"),
    "PodSandbox": ("string id 1", "PodSandboxMetadata metadata 2"),
    "RuntimeCondition": ("string type 1", "bool status 2", "string message 4"),
    "RuntimeStatus": ("*RuntimeCondition conditions 1",),
    "StatusRequest": (),
    "StatusResponse": ("RuntimeStatus status 1",),
    "RunPodSandboxRequest": ("PodSandboxConfig config 1",),
    "RunPodSandboxResponse": ("string pod_sandbox_id 1",),
    "StopPodSandboxRequest": ("string pod_sandbox_id 1",),
    "StopPodSandboxResponse": (),
    "RemovePodSandboxRequest": ("string pod_sandbox_id 1",),
    "RemovePodSandboxResponse": (),
    "ListPodSandboxRequest": (),
    "ListPodSandboxResponse": ("*PodSandbox items 1",),
    "PodSandboxStatusRequest": ("string pod_sandbox_id 1", "bool verbose 2"),
    "PodSandboxStatusResponse": ("PodSandboxStatus status 1", "map info 2"),
}


_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FIELD.TYPE_STRING,
    "bool": _FIELD.TYPE_BOOL,
    "uint32": _FIELD.TYPE_UINT32,
}


def _described() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(
        name="cri.proto", package="runtime.v1", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields:
            _add_field(message, *text.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(message: descriptor_pb2.DescriptorProto, kind: str, name: str, number: str) -> None:
    field = message.field.add(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if kind[0] == "*" or kind == "map" else field.LABEL_OPTIONAL
    if kind == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "string", "key", "1")
        _add_field(entry, "string", "value", "2")
        kind = f"{message.name}.{entry.name}"
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".runtime.v1.{kind.lstrip('*')}"


_POOL = _described()


class CriError(Exception):
    """What the runtime refused or did not finish in time; `code` is gRPC's."""

    def __init__(self, method: str, error: grpc.RpcError) -> None:
        super().__init__(f"{method}: {error.code().name}: {error.details()}")
        self.code: grpc.StatusCode = error.code()


class Cri:
    """A runtime at its socket."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def close(self) -> None:
        self._channel.close()

    def run(
        self,
        name: str,
        annotations: Mapping[str, str],
        *,
        cgroup: str,
        attempt: int,
        within: float = 60,
    ) -> str:
        """The id of a new sandbox of the pod `default/NAME`, whose `attempt` tells it from earlier
        ones; a deadline ends it after `within` seconds."""
        config = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": f"uid-of-{name}",
                "attempt": attempt,
            },
            "annotations": dict(annotations),
            "linux": {"cgroup_parent": cgroup},
        }
        answer = self._ask("RunPodSandbox", {"config": config}, within)
        return str(answer["pod_sandbox_id"])

    def stop(self, sandbox: str) -> None:
        self._ask("StopPodSandbox", {"pod_sandbox_id": sandbox})

    def remove(self, sandbox: str) -> None:
        self._ask("RemovePodSandbox", {"pod_sandbox_id": sandbox})

    def sandboxes(self) -> list[str]:
        items = self._ask("ListPodSandbox", {}).get("items", [])
        return [str(item["id"]) for item in items]

    def addresses(self, sandbox: str) -> list[str]:
        """What the runtime tells of the pod, first address first."""
        network = self._status(sandbox)["status"]["network"]
        return [network["ip"], *(other["ip"] for other in network.get("additional_ips", []))]

    def netns(self, sandbox: str) -> str:
        """The path of the sandbox's network namespace."""
        info = json.loads(self._status(sandbox)["info"]["info"])
        for namespace in info["runtimeSpec"]["linux"]["namespaces"]:
            if namespace["type"] == "network":
                return str(namespace["path"])
        raise AssertionError(f"no network namespace in {info}")

    def ready(self) -> bool:
        """Whether the runtime answers, and has a network for its pods."""
        try:
            conditions = self._ask("Status", {}, 1)["status"]["conditions"]
        except CriError:
            return False
        return all(condition.get("status", False) for condition in conditions)

    def _status(self, sandbox: str) -> dict[str, Any]:
        return self._ask("PodSandboxStatus", {"pod_sandbox_id": sandbox, "verbose": True})

    def _ask(self, method: str, request: dict[str, Any], within: float = 60) -> dict[str, Any]:
        answer = _message(f"{method}Response")
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/{_SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        message = json_format.ParseDict(request, _message(f"{method}Request")())
        try:
            said = call(message, timeout=within)
        except grpc.RpcError as error:
            raise CriError(method, error) from None
        found: dict[str, Any] = json_format.MessageToDict(said, preserving_proto_field_name=True)
        return found


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"runtime.v1.{name}"))
