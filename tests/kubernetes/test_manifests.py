"""The manifests, as kubectl renders them and as a real API checks them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kube_controller import kinds
from kube_controller.declared_federation import SECRET
from lab import programs
from tests.kubernetes.apiserver import ApiServer

OVERLAYS = programs.CLONE / "packaging" / "kubernetes" / "overlays"
FEDERATION = OVERLAYS.parent / "components" / "federation"
CERT_MANAGER = "cert-manager.io/v1"


def rendered(with_namespaces: ApiServer, overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(with_namespaces.kubectl("kustomize", str(OVERLAYS / overlay))))


@pytest.mark.parametrize("overlay", ["try", "kubernetes-1.20", "uninstall"])
def test_the_api_takes_all_that_an_overlay_has(with_namespaces: ApiServer, overlay: str) -> None:
    said = with_namespaces.kubectl("apply", "-k", str(OVERLAYS / overlay), "--dry-run=server")
    assert len(said.splitlines()) == len(rendered(with_namespaces, overlay))


def test_newer_versions_differ_in_the_disruption_budget_alone(with_namespaces: ApiServer) -> None:
    older, newer = (
        rendered(with_namespaces, "kubernetes-1.20"),
        rendered(with_namespaces, "production"),
    )
    [budget] = [each for each in newer if each["kind"] == "PodDisruptionBudget"]
    assert budget["apiVersion"] == "policy/v1"
    budget["apiVersion"] = "policy/v1beta1"
    assert sorted(map(str, newer)) == sorted(map(str, older))


def test_cert_manager_adds_its_own_kinds_to_what_is_tried(with_namespaces: ApiServer) -> None:
    objects = rendered(with_namespaces, "cert-manager")
    added = [each for each in objects if each["apiVersion"] == CERT_MANAGER]
    named = {
        (each["kind"], each["metadata"]["name"]) for each in rendered(with_namespaces, "production")
    }
    others = {(each["kind"], each["metadata"]["name"]) for each in objects if each not in added}
    assert added
    assert others == named


def test_nobody_may_more_than_is_said(with_namespaces: ApiServer) -> None:
    objects = rendered(with_namespaces, "production")
    roles = [each for each in objects if each["kind"] in ("Role", "ClusterRole")]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not words & {"*", "secrets", "delete", "impersonate", "escalate", "bind"}


def test_the_controller_may_follow_what_it_follows(with_namespaces: ApiServer) -> None:
    [role] = [
        each
        for each in rendered(with_namespaces, "production")
        if (each["kind"], each["metadata"]["name"]) == ("ClusterRole", "netspace-controller")
    ]

    def verbs(plural: str) -> set[str]:
        rules = [rule for rule in role["rules"] if plural in rule["resources"]]
        return {verb for rule in rules for verb in rule["verbs"]}

    followed: list[kinds.Resource[Any]] = [
        *(kinds.NETWORKS, kinds.POOLS, kinds.FEDERATIONS, kinds.NAMESPACES, kinds.NODES),
        *(kinds.STATEFUL_SETS, kinds.DEPLOYMENTS, kinds.TAKEN),
    ]
    for resource in followed:
        assert {"list", "watch"} <= verbs(resource.plural), resource.plural
    assert verbs(kinds.PODS.plural) == {"get", "list"}


def test_the_api_takes_the_federations_objects(with_namespaces: ApiServer) -> None:
    said = with_namespaces.kubectl("apply", "-k", str(FEDERATION), "--dry-run=server")
    objects = list(yaml.safe_load_all(with_namespaces.kubectl("kustomize", str(FEDERATION))))
    assert len(said.splitlines()) == len(objects)


def test_of_secrets_the_controller_reads_the_tokens_alone(with_namespaces: ApiServer) -> None:
    objects = list(yaml.safe_load_all(with_namespaces.kubectl("kustomize", str(FEDERATION))))
    rules = [rule for each in objects for rule in each.get("rules", ()) if each["kind"] == "Role"]
    assert rules == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [SECRET],
            "verbs": ["get"],
        }
    ]


def test_the_agent_alone_is_privileged(with_namespaces: ApiServer) -> None:
    privileged = set()
    for each in rendered(with_namespaces, "production"):
        spec = each.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
            security = container.get("securityContext", {})
            assert security["readOnlyRootFilesystem"], container["name"]
            if security.get("privileged"):
                privileged.add(container["name"])
    assert privileged == {"agent"}
