"""What the webhook says to annotations, and how it asks the server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ipam_server.client import Client
from kube_controller.webhook import Asked, Known, Verdict, annotations_of, verdict
from kube_controller.webhook_serving import FRESH, AdmissionRequest, AdmissionReview, Webhook
from kube_controller.webhook_serving import GroupKind as Kind
from netspace.problems import Problem
from tests.unit.netspacectl_double import MemoryClient, network, pool

APP = pool(name="db", kind="application", namespaces=["team-a"], ranges=["10.91.0.100-10.91.0.103"])
MAIN = pool(name="main", kind="default", namespaces=[], ranges=["10.91.0.200-10.91.0.220"])
KNOWN = Known(
    {"vlan910": network(), "four": network(name="four", ipv4="10.92.0.0/24", ipv6=None)},
    {
        "tenant-a": pool(),
        "db": APP,
        "main": MAIN,
        "four": pool(name="four", network="four", namespaces=["*"], ranges=["10.92.0.9"]),
    },
)


def pod(namespace: str = "team-a", old: dict[str, str] | None = None, /, **ours: str) -> Asked:
    before = None if old is None else holding(old)
    return Asked("Pod", "web-0", namespace, holding(ours), before)


def holding(ours: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"annotations": {f"ipam.com/{key}": text for key, text in ours.items()}}}


def told(asked: Asked, known: Known | Problem = KNOWN) -> Verdict:
    return verdict(asked, known)


@pytest.mark.parametrize(
    "ours",
    [
        {},
        {"netspace": "tenant-a"},
        {"netspace": "main"},
        {"application": "db"},
        {"netspace": "tenant-a", "ip": "10.91.0.16,fd00:91::10"},
        {"ip": "10.91.0.201"},
        {"netspace": "four", "families": "ipv4"},
    ],
)
def test_what_the_server_would_take_is_taken(ours: dict[str, str]) -> None:
    assert told(pod(**ours)) == Verdict()


@pytest.mark.parametrize(
    ("ours", "why"),
    [
        ({"netspce": "tenant-a"}, "there is no such annotation"),
        ({"netspace": "Tenant A"}, "is no pool name"),
        ({"netspace": "tenant-z"}, "there is no pool tenant-z"),
        ({"netspace": "db"}, "use ipam.com/application"),
        ({"application": "tenant-a"}, "use ipam.com/netspace"),
        ({"netspace": "tenant-a", "application": "db"}, "name one of them"),
        ({"ip": "10.91.0.300"}, "10.91.0.300"),
        ({"ip": "10.91.0.100"}, "is in no pool that namespace team-a may use"),
        ({"netspace": "tenant-a", "ip": "10.91.0.90"}, "is not in pool tenant-a"),
        ({"netspace": "tenant-a", "ip": "10.91.0.16,fd00:91::11"}, "is not in pool tenant-a"),
        ({"netspace": "four", "families": "ipv6"}, "has no ipv6"),
        ({"families": "ipv5"}, "families"),
    ],
)
def test_what_it_would_refuse_is_refused_in_words(ours: dict[str, str], why: str) -> None:
    (fault,) = told(pod(**ours)).faults
    assert why in fault


def test_a_pool_that_does_not_list_the_namespace_is_refused() -> None:
    (fault,) = told(pod("team-b", netspace="tenant-a")).faults
    assert fault == "ipam.com/netspace: pool tenant-a does not list namespace team-b"


def test_what_was_wrong_before_does_not_keep_the_object_from_other_changes() -> None:
    assert told(pod("team-a", {"netspace": "tenant-z"}, netspace="tenant-z")) == Verdict()
    assert told(pod("team-a", {"netspace": "tenant-y"}, netspace="tenant-z")).faults


def test_a_namespace_chooses_for_its_pods_but_no_address() -> None:
    def asked(**ours: str) -> Asked:
        return Asked("Namespace", "team-a", "", holding(ours))

    assert told(asked(netspace="tenant-a")) == Verdict()
    assert "an address is for one" in told(asked(ip="10.91.0.16")).faults[0]
    assert "does not list namespace" in told(
        Asked("Namespace", "team-b", "", holding({"netspace": "tenant-a"}))
    ).faults[0]  # fmt: skip


def test_templates_are_judged_and_an_address_for_several_is_warned_of() -> None:
    def deployment(replicas: int, **ours: str) -> Asked:
        spec = {"replicas": replicas, "template": holding(ours)}
        return Asked("Deployment", "web", "team-a", {"spec": spec})

    assert told(deployment(3, netspace="tenant-z")).faults
    assert told(deployment(1, ip="10.91.0.16")) == Verdict()
    assert told(deployment(2, ip="10.91.0.16")).warnings
    cron = {"spec": {"jobTemplate": {"spec": {"template": holding({"netspace": "x"})}}}}
    assert annotations_of("CronJob", cron) == {"ipam.com/netspace": "x"}


@pytest.mark.parametrize(
    "found", [{}, {"metadata": None}, {"metadata": {"annotations": []}}, {"metadata": 5}]
)
def test_what_has_another_form_is_kubernetes_to_refuse(found: dict[str, Any]) -> None:
    assert told(Asked("Pod", "", "team-a", found)) == Verdict()


def test_without_the_server_only_the_form_is_judged() -> None:
    away = Problem("unavailable", "nobody answers")
    assert told(pod(netspace="Tenant A"), away).faults
    said = told(pod(netspace="tenant-z"), away)
    assert not said.faults
    assert "does not answer" in said.warnings[0]


class TestAsking:
    def webhook(self) -> tuple[Webhook, MemoryClient, list[float]]:
        client, now = MemoryClient("east"), [0.0]
        client.network_table["vlan910"] = network()
        client.pool_table["tenant-a"] = pool()
        assert isinstance(client, Client)
        return Webhook("east", client, lambda: now[0]), client, now

    def review(self, webhook: Webhook, **ours: str) -> bool:
        request = AdmissionRequest(
            uid="u", kind=Kind("Pod"), namespace="team-a", object=holding(ours)
        )
        response = asyncio.run(webhook.review(AdmissionReview(request)))
        assert response.uid == "u"
        assert (response.status is None) == response.allowed
        return response.allowed

    def test_what_it_was_told_is_believed_for_a_moment(self) -> None:
        webhook, client, now = self.webhook()
        for _ in range(3):
            assert self.review(webhook, netspace="tenant-a")
        assert len(client.asked) == 2
        now[0] += FRESH
        assert self.review(webhook, netspace="tenant-a")
        assert len(client.asked) == 4

    def test_nothing_is_refused_by_what_was_told_before(self) -> None:
        webhook, client, _ = self.webhook()
        assert not self.review(webhook, netspace="new")
        client.pool_table["new"] = pool(name="new")
        assert self.review(webhook, netspace="new")

    def test_objects_without_annotations_of_ours_cost_the_server_nothing(self) -> None:
        webhook, client, _ = self.webhook()
        assert self.review(webhook)
        assert client.asked == []

    def test_a_server_that_is_away_lets_everything_pass_that_can_be_read(self) -> None:
        webhook, client, _ = self.webhook()
        client.problem = Problem("unavailable", "nobody answers")
        assert self.review(webhook, netspace="tenant-z")
        assert not self.review(webhook, netspace="Tenant Z")
