"""What users of a cluster apply: pods that say their name over HTTP, Deployments, StatefulSets and
Services; and where their addresses are seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from tests.kubernetes.cluster import Cluster, until

PORT: Final = 8080
_SCRIPT: Final = (
    f"mkdir -p /tmp/www; echo $POD >/tmp/www/index.html; exec httpd -f -p {PORT} -h /tmp/www"
)


def template(app: str, annotations: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    """A pod's template; annotations are named without their prefix `ipam.com/`."""
    name = {"fieldRef": {"fieldPath": "metadata.name"}}
    container = {
        "name": "c",
        "image": "localhost/busybox:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _SCRIPT],
        "env": [{"name": "POD", "valueFrom": name}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
    }
    ours = {f"ipam.com/{key}": value for key, value in annotations.items()}
    return {
        "metadata": {"labels": {"app": app}, "annotations": ours},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


def pod(name: str, namespace: str = "default", **annotations: str) -> dict[str, Any]:
    made = template(name, annotations)
    made["metadata"] |= {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", **made}


def deployment(
    name: str, replicas: int, namespace: str = "default", **annotations: str
) -> dict[str, Any]:
    """Its pods lie on both nodes where it has two."""
    selector = {"matchLabels": {"app": name}}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector,
    }
    pods = template(name, annotations, topologySpreadConstraints=[spread])
    spec = {"replicas": replicas, "selector": selector, "template": pods}
    return _workload("Deployment", name, namespace, spec)


def stateful_set(
    name: str, replicas: int, namespace: str = "default", **annotations: str
) -> dict[str, Any]:
    spec = {
        "replicas": replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, annotations),
    }
    return _workload("StatefulSet", name, namespace, spec)


def service(name: str) -> dict[str, Any]:
    """Of both families, for the pods of the app of that name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": PORT}],
        },
    }


def custom(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A Network or a Pool."""
    version = "ipam.netspace.io/v1alpha1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _workload(kind: str, name: str, namespace: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


class Workloads:
    """The pods of a cluster's apps."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def pods(self, app: str, namespace: str = "default") -> list[Any]:
        found = self._cluster.get("pods", "-n", namespace, "-l", f"app={app}")
        return sorted(found["items"], key=lambda pod: str(pod["metadata"]["name"]))

    def ready(self, app: str, count: int, namespace: str = "default") -> list[Any]:
        """The app's pods once there are so many, all ready and none on its way out."""

        def all_ready() -> list[Any]:
            pods = self.pods(app, namespace)
            return pods if len(pods) == count and all(map(is_ready, pods)) else []

        return list(until(all_ready, f"{count} pods of {app} are ready"))

    def addresses(self, app: str, count: int, namespace: str = "default") -> dict[str, list[str]]:
        """The addresses of each of the app's pods, once they are ready."""
        return {
            pod["metadata"]["name"]: addresses_of(pod) for pod in self.ready(app, count, namespace)
        }

    def gone(self, app: str, namespace: str = "default") -> None:
        until(lambda: not self.pods(app, namespace), f"the pods of {app} are gone")

    def delete(self, *things: str, namespace: str = "default") -> None:
        self._cluster.kubectl("delete", "-n", namespace, "--wait=false", *things)

    def says(self, pod: str, address: str, port: int = PORT) -> str:
        """What a pod hears from an HTTP server."""
        host = f"[{address}]" if ip_address(address).version == 6 else address
        url = f"http://{host}:{port}/"
        words = ("exec", pod, "--", "timeout", "3", "wget", "-q", "-O", "-", url)
        return self._cluster.kubectl(*words, check=False).strip()

    def events(self, name: str, reason: str) -> list[str]:
        """The messages of the events with the reason on a pod."""
        chosen = f"involvedObject.name={name},reason={reason}"
        found = self._cluster.get("events", "-A", "--field-selector", chosen)
        return [str(each["message"]) for each in found["items"]]


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions: Sequence[Mapping[str, str]] = pod["status"].get("conditions", ())
    said = {condition["type"]: condition["status"] for condition in conditions}
    return said.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def addresses_of(pod: Mapping[str, Any]) -> list[str]:
    return [str(each["ip"]) for each in pod["status"].get("podIPs", ())]
