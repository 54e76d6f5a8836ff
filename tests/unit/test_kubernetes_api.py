"""How a node reaches Kubernetes' API, and what it makes of its answers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cni_plugins import add
from cni_plugins.kubernetes import rights
from cni_plugins.kubernetes.api import ApiError, KubeApi
from cni_plugins.kubernetes.credentials import access
from cni_plugins.kubernetes.pods import MIRROR, ApiPods, other_pod
from cni_plugins.netconf import ANNOTATIONS
from cni_plugins.node_config import KubernetesSection
from cni_plugins.protocol import CniError
from netspace.kube_access import Access, from_kubeconfig, from_service_account
from netspace.messages import Pod
from netspace.problems import Problem
from tests.pki import Pki
from tests.unit.cni_bench import Bench, invocation
from tests.unit.kubernetes_double import (
    Asked,
    KubeDouble,
    Reply,
    kube_double,
    kubeconfig,
    section,
    status,
)

WEB = Pod(namespace="default", name="web-0", uid="u-1")
Test = Callable[[KubeDouble, KubeApi], Awaitable[None]]


def pod(uid: str = "u-1", **annotations: str) -> Reply:
    return 200, {"metadata": {"uid": uid, "annotations": annotations}, "spec": {"x": 1}}


def run(folder: Path, answer: Callable[[Asked], Reply], test: Test, **changes: Any) -> None:
    """The test with an API on plain HTTP, as `kubectl proxy` is one."""

    async def work() -> None:
        async with kube_double(answer) as double:
            path = kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{double.port}")
            api = KubeApi(section(path, **changes), {})
            try:
                await test(double, api)
            finally:
                await api.close()

    asyncio.run(asyncio.wait_for(work(), 20))


async def refused(asked: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await asked
    return caught.value


async def failure(asked: Awaitable[object]) -> CniError:
    with pytest.raises(CniError) as caught:
        await asked
    return caught.value


class TestRequests:
    def test_a_connection_is_used_again(self, tmp_path: Path) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            for _ in range(3):
                await api.get("/x", dict)
            assert (len(double.asked), double.connections) == (3, 1)

        run(tmp_path, lambda asked: (200, {}), test)

    def test_one_that_was_closed_meanwhile_is_replaced(self, tmp_path: Path) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            await api.get("/x", dict)
            await double.hang_up()
            await api.get("/x", dict)
            assert double.connections == 2

        run(tmp_path, lambda asked: (200, {}), test)

    def test_one_that_breaks_off_under_a_request_is_replaced_once(self, tmp_path: Path) -> None:
        replies: list[Reply] = [(200, {}), None, (200, {"a": 1}), (200, {}), None, None]

        async def test(double: KubeDouble, api: KubeApi) -> None:
            await api.get("/x", dict)
            assert await api.get("/x", dict) == {"a": 1}
            await api.get("/x", dict)
            assert (await refused(api.get("/x", dict))).status == 0

        run(tmp_path, lambda asked: replies.pop(0), test)

    def test_what_the_api_refuses_has_its_words(self, tmp_path: Path) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            error = await refused(api.get("/x", dict))
            assert error.status == 403
            assert "pods is forbidden" in error.why

        run(tmp_path, lambda asked: status(403, "pods is forbidden: you cannot"), test)

    def test_silence_ends_after_the_configured_time(self, tmp_path: Path) -> None:
        async def work() -> None:
            over = asyncio.Event()

            async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await over.wait()
                writer.close()
                await writer.wait_closed()

            server = await asyncio.start_server(mute, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            path = kubeconfig(tmp_path / "k", f"http://127.0.0.1:{port}")
            api = KubeApi(section(path, timeout=0.1), {})
            began = time.monotonic()
            error = await refused(api.get("/x", dict))
            assert "nothing within" in error.why
            assert 0.1 <= time.monotonic() - began < 10
            server.close()
            over.set()
            await asyncio.sleep(0.01)

        asyncio.run(work())

    @pytest.mark.parametrize("body", ["text", 5, []])
    def test_an_answer_of_another_form_is_an_error(self, tmp_path: Path, body: Any) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            assert "cannot be read" in (await refused(api.get("/x", dict))).why

        run(tmp_path, lambda asked: (200, body), test)

    def test_a_kubeconfig_that_changes_is_read_anew(self, tmp_path: Path) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            await api.get("/x", dict)
            path = tmp_path / "kubeconfig"
            kubeconfig(path, f"http://127.0.0.1:{double.port}/behind/a/proxy/")
            await api.get("/x", dict)
            assert [asked.path for asked in double.asked] == ["/x", "/behind/a/proxy/x"]
            path.write_text("{}")
            assert "current-context" in (await refused(api.get("/x", dict))).why

        run(tmp_path, lambda asked: (200, {}), test)


class TestAsWhom:
    def served(self, folder: Path, pki: Pki, test: Callable[[KubeDouble], Awaitable[None]]) -> None:
        tls = pki.server()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.cert, tls.key)
        context.load_verify_locations(tls.ca)
        context.verify_mode = ssl.CERT_OPTIONAL

        async def work() -> None:
            async with kube_double(lambda asked: (200, {}), context) as double:
                await test(double)

        asyncio.run(asyncio.wait_for(work(), 20))

    def test_a_token_file_is_read_for_every_request(self, tmp_path: Path) -> None:
        pki = Pki(tmp_path)

        async def test(double: KubeDouble) -> None:
            (tmp_path / "token").write_text("one\n")
            pki.ca.rename(tmp_path / "ca.crt")
            environ = {
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(double.port),
            }
            api = KubeApi(KubernetesSection(service_account=str(tmp_path)), environ)
            await api.get("/x", dict)
            (tmp_path / "token").write_text("two")
            await api.get("/x", dict)
            shown = [asked.headers["authorization"] for asked in double.asked]
            assert shown == ["Bearer one", "Bearer two"]
            (tmp_path / "token").unlink()
            assert "token: it cannot be read" in (await refused(api.get("/x", dict))).why
            await api.close()

        self.served(tmp_path, pki, test)

    def test_certificates_may_stand_in_the_kubeconfig_or_beside_it(self, tmp_path: Path) -> None:
        pki = Pki(tmp_path)
        mine = pki.make([("CN", "node-1")])

        async def test(double: KubeDouble) -> None:
            url = f"https://127.0.0.1:{double.port}"
            beside = kubeconfig(
                tmp_path / "beside",
                url,
                ca=pki.ca,
                **{"client-certificate": mine.cert.name, "client-key": mine.key.name},
            )
            config = json.loads(beside.read_text())
            config["clusters"][0]["cluster"] = {
                "server": url,
                "certificate-authority-data": base64.b64encode(pki.ca.read_bytes()).decode(),
            }
            config["users"][0]["user"] = {
                "client-certificate-data": base64.b64encode(mine.cert.read_bytes()).decode(),
                "client-key-data": base64.b64encode(mine.key.read_bytes()).decode(),
            }
            inside = tmp_path / "inside"
            inside.write_text(json.dumps(config))
            for path in (beside, inside):
                api = KubeApi(section(path), {})
                await api.get("/x", dict)
                peer = double.writers[-1].get_extra_info("peercert")
                assert peer["subject"] == ((("commonName", "node-1"),),)
                await api.close()

        self.served(tmp_path, pki, test)

    def test_an_api_of_another_authority_is_shown_nothing(self, tmp_path: Path) -> None:
        other = Pki(tmp_path, "other")

        async def test(double: KubeDouble) -> None:
            url = f"https://127.0.0.1:{double.port}"
            api = KubeApi(section(kubeconfig(tmp_path / "k", url, ca=other.ca, token="t")), {})
            assert "certificate is not taken" in (await refused(api.get("/x", dict))).why
            assert not double.asked

        self.served(tmp_path, Pki(tmp_path), test)


class TestCredentials:
    def read(self, path: Path, **user: Any) -> Access:
        return from_kubeconfig(kubeconfig(path / "k", "https://[fd00::1]", **user))

    def test_a_port_may_be_left_out_and_ipv6_stands_in_brackets(self, tmp_path: Path) -> None:
        found = self.read(tmp_path, token="t")
        assert (found.endpoint.host, found.endpoint.port, found.token) == ("fd00::1", 443, "t")
        environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
        found = from_service_account(tmp_path, None, environ, lambda path: b"")
        assert found.endpoint.authority == "[fd00::1]:443"

    def test_the_kubeconfig_counts_where_one_is_named(self, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "k", "https://10.0.0.1:6443", token="t")
        assert access(section(path), {}).endpoint.host == "10.0.0.1"

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"current-context": "y"}, "no context 'y'"),
            ({"current-context": ""}, "no current-context"),
            ({"users": None}, "no user 'u'"),
            ({"clusters": [{"name": "c", "cluster": {"server": "10.0.0.1"}}]}, "no address"),
            (
                {"clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.1"}}]},
                "no https",
            ),
            ({"users": [{"name": "u", "user": {"exec": {"command": "aws"}}}]}, "exec"),
            ({"users": [{"name": "u", "user": {"username": "a"}}]}, "username"),
            ({"users": [{"name": "u", "user": {"as": "root"}}]}, "as is not supported"),
            ({"users": [{"name": "u", "user": {"client-key-data": "AAAA"}}]}, "go together"),
            ({"users": [{"name": "u", "user": {"client-key-data": "!"}}]}, "no base64"),
            ({"contexts": "x"}, "no kubeconfig"),
        ],
    )
    def test_what_is_not_understood_is_refused_by_name(
        self, tmp_path: Path, change: dict[str, Any], why: str
    ) -> None:
        path = kubeconfig(tmp_path / "k", "https://10.0.0.1:6443")
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(Problem, match=why):
            from_kubeconfig(path)

    def test_without_verification_nothing_is_asked(self, tmp_path: Path) -> None:
        path = kubeconfig(tmp_path / "k", "https://10.0.0.1:6443")
        config = json.loads(path.read_text())
        config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
        path.write_text(json.dumps(config))
        with pytest.raises(Problem, match="insecure-skip-tls-verify"):
            from_kubeconfig(path)

    def test_outside_of_a_container_the_api_must_be_named(self, tmp_path: Path) -> None:
        with pytest.raises(Problem, match="nothing says where the API is"):
            from_service_account(tmp_path, None, {}, lambda path: b"")
        named = from_service_account(tmp_path, "https://10.0.0.1:6443", {}, lambda path: b"")
        assert named.token_file == tmp_path / "token"


class TestAnnotations:
    def test_they_are_the_pods(self, tmp_path: Path) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            assert await ApiPods(api).annotations(WEB) == {"ipam.com/netspace": "blue"}
            assert double.asked[0].path == "/api/v1/namespaces/default/pods/web-0"

        run(tmp_path, lambda asked: pod(**{"ipam.com/netspace": "blue"}), test)

    def test_a_pod_without_any_has_none(self, tmp_path: Path) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            assert await ApiPods(api).annotations(WEB) == {}

        run(tmp_path, lambda asked: (200, {"metadata": {"uid": "u-1"}}), test)

    @pytest.mark.parametrize(
        ("reply", "why"),
        [
            (pod("u-2"), "another one now: UID u-2, not u-1"),
            (status(404, "not found"), "does not know it"),
            (status(403, "forbidden"), "forbidden"),
            (status(500, "etcd is away"), "etcd is away"),
            (None, "does not answer"),
        ],
    )
    def test_where_they_cannot_be_had_it_is_tried_again(
        self, tmp_path: Path, reply: Reply, why: str
    ) -> None:
        async def test(double: KubeDouble, api: KubeApi) -> None:
            error = await failure(ApiPods(api).annotations(WEB))
            assert error.code == 11
            assert "default/web-0" in error.msg
            assert why in error.details

        run(tmp_path, lambda asked: reply, test)

    def test_a_static_pod_is_known_by_its_mirror(self) -> None:
        assert other_pod("hash", "u-1", {MIRROR: "hash"}) is None
        assert other_pod("", "u-1", {}) is None
        assert other_pod("hash", "u-1", {MIRROR: "another"}) is not None


class Known:
    """Annotations by the API, as a node would ask for them; `asked` so often."""

    def __init__(self, **annotations: str) -> None:
        self.known, self.asked = annotations, 0

    async def annotations(self, pod: Pod) -> dict[str, str]:
        self.asked += 1
        return self.known


class TestWhenTheApiIsAsked:
    def selected(self, folder: Path, pods: Known, **changes: Any) -> str | None:
        bench = Bench(folder)
        asyncio.run(add.add(bench.host(pods=pods), invocation(**changes)))
        request, _ = next(iter(bench.ipam.holders.values()))
        return request.selection.netspace

    def test_where_the_runtime_passes_no_annotations(self, tmp_path: Path) -> None:
        pods = Known(**{"ipam.com/netspace": "blue"})
        assert self.selected(tmp_path, pods) == "blue"
        assert pods.asked == 1

    @pytest.mark.parametrize("passed", [None, {}, {"ipam.com/netspace": "green"}])
    def test_not_where_it_passes_them_though_there_are_none(
        self, tmp_path: Path, passed: dict[str, str] | None
    ) -> None:
        pods = Known(**{"ipam.com/netspace": "blue"})
        asked = self.selected(tmp_path, pods, runtimeConfig={ANNOTATIONS: passed})
        assert (asked, pods.asked) == ((passed or {}).get("ipam.com/netspace"), 0)

    def test_not_for_a_sandbox_that_is_no_pod(self, tmp_path: Path) -> None:
        pods = Known(**{"ipam.com/netspace": "blue"})
        assert self.selected(tmp_path, pods, args="IgnoreUnknown=1") is None
        assert pods.asked == 0

    def test_an_api_that_cannot_say_leaves_nothing_behind(self, tmp_path: Path) -> None:
        class Away:
            async def annotations(self, pod: Pod) -> dict[str, str]:
                raise CniError(11, "not now")

        bench = Bench(tmp_path)
        error = asyncio.run(failure(add.add(bench.host(pods=Away()), invocation())))
        assert error.code == 11
        assert bench.nothing_left()


def test_an_executable_without_the_agent_asks_too(tmp_path: Path) -> None:
    """The pod's UID is another one: it gets no further."""

    async def work() -> None:
        async with kube_double(lambda asked: pod("u-2")) as double:
            path = kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{double.port}")
            config = {
                "cluster": "c1",
                "node": "node-1",
                "state_dir": str(tmp_path / "state"),
                "server": {"endpoints": [f"unix://{tmp_path}/nobody.sock"]},
                "kubernetes": {"kubeconfig": str(path)},
            }
            (tmp_path / "node.yaml").write_text(json.dumps(config))
            conf = {
                "cniVersion": "1.0.0",
                "name": "net",
                "ipam": {"type": "netspace-ipam", "config": str(tmp_path / "node.yaml")},
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cni_plugins.ipam_main"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={
                    "PATH": os.defpath,
                    "CNI_COMMAND": "ADD",
                    "CNI_CONTAINERID": "c0ffee",
                    "CNI_NETNS": "/var/run/netns/pod",
                    "CNI_IFNAME": "eth0",
                    "CNI_PATH": "/opt/cni/bin",
                    "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1",
                },
            )
            output, _ = await process.communicate(json.dumps(conf).encode())
            answer = json.loads(output)
            assert (process.returncode, answer["code"]) == (1, 11)
            assert "another one now" in answer["details"]

    asyncio.run(asyncio.wait_for(work(), 60))


class TestRights:
    def asked(
        self, folder: Path, answer: Callable[[Asked], Reply], **changes: Any
    ) -> rights.Answer:
        found: list[rights.Answer] = []

        async def test(double: KubeDouble, api: KubeApi) -> None:
            found.append(await rights.ask(api, KubernetesSection(**changes)))

        run(folder, answer, test)
        return found[0]

    def test_what_is_lacking_is_named(self, tmp_path: Path) -> None:
        def answer(asked: Asked) -> Reply:
            allowed = asked.body["spec"]["resourceAttributes"]["resource"] == "pods"
            return 201, {"status": {"allowed": allowed}}

        said = self.asked(tmp_path, answer)
        assert said.reached
        assert [lack.partition(":")[0] for lack in said.lacks] == ["create events", "patch events"]
        assert self.asked(tmp_path, answer, events=False).lacks == ()

    def test_an_api_that_is_away_is_not_reached(self, tmp_path: Path) -> None:
        said = self.asked(tmp_path, lambda asked: status(401, "Unauthorized"))
        assert not said.reached
        assert "Unauthorized" in said.found


def test_the_section_names_a_kubeconfig_or_a_server_not_both() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"server": "http://10.0.0.1"}, KubernetesSection)
