"""./run demo: the main job on real parts, step by step, with checks.

Runs inside the lab kernel or on a machine whose kernel has bonds and VLANs; `lab.__main__` chooses.
"""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lab import place, programs, topology
from lab.narrator import Narrator
from lab.place import BOND, CLUSTER, NODES, VLANS, Place
from lab.runtime import IFNAME, CniError, Runtime, Sandbox

POOL = "ipam.com/netspace"
APPLICATION = "ipam.com/application"
ADDRESS = "ipam.com/ip"
PINGS, PING_INTERVAL = 40, 0.1
APPLY = "apply -f plan.yaml --yes"
NETWORKS: dict[str, dict[str, Any]] = {
    f"vlan{vlan}": {
        "parent": BOND,
        "vlan": vlan,
        "ipv4": f"10.{at}.0.0/24",
        "gateway4": f"10.{at}.0.1",
        "ipv6": f"fd00:{at}::/64",
        "gateway6": f"fd00:{at}::1",
    }
    for vlan, at in zip(VLANS, (91, 92), strict=True)
}
POOLS: dict[str, dict[str, Any]] = {
    "vlan910": {
        "tenant-a": {
            "kind": "netspace",
            "size": 32,
            "namespaces": ["team-a"],
            "pools": {"orders": {"size": 4}},
        },
        "default": {"kind": "default", "size": 100},
    },
    "vlan920": {
        "tenant-b": {"kind": "netspace", "size": 3, "namespaces": ["team-b"], "cooldown": "0s"},
    },
}
"""By network; `orders` is carved from tenant-a, and is of kind application."""


class Demo:
    """The story. Each method is one step."""

    def __init__(self, lab: Place, tell: Narrator) -> None:
        self.lab = lab
        self.tell = tell
        self.pods: dict[str, Sandbox] = {}

    def run(self) -> None:
        self.build()
        self.declare_networks()
        self.carve_pools()
        self.prepare_nodes()
        self.add_pods()
        self.traffic()
        self.named_pod_keeps_its_addresses()
        self.order_of_reuse()
        self.fixed_address()
        self.foreign_namespace()
        self.lost_card()
        self.nothing_is_left()

    def build(self) -> None:
        self.tell.step(
            "Two nodes, each with two network cards on a switch; a server on a fresh etcd"
        )
        why = self.lab.make_nodes()
        self.tell.say(
            f"node1 and node2 with {' and '.join(topology.CARDS)} each; VLANs 910 and 920"
        )
        if why:
            self.tell.say(
                f"{why}: instead of asking the agent, each call starts Python, which takes seconds"
                " in the lab kernel."
            )
        self.lab.start_server()

    def declare_networks(self) -> None:
        self.tell.step("The networks, which make up the total pool")
        self.apply(NETWORKS)
        self.tell.say(self.lab.ctl("network", "list"))

    def carve_pools(self) -> None:
        self.tell.step("The pools, carved from the total pool and from one another")
        self.apply({name: {**NETWORKS[name], "pools": pools} for name, pools in POOLS.items()})
        self.tell.say(self.lab.ctl("pool", "list"))

    def prepare_nodes(self) -> None:
        self.tell.step("The agent makes the nodes ready: a bond of both cards, VLANs on it")
        self.lab.start_agents([f"bond {BOND}", *(f"link {BOND}.{vlan}" for vlan in VLANS)])
        for node in NODES:
            for subject, said in self.lab.put_right(node):
                self.tell.say(f"{node}: {subject}: {said}")
            links = {link["ifname"]: link for link in self.lab.links(node)}
            bond = links.get(BOND, {}).get("linkinfo", {}).get("info_data", {})
            cards = [name for name, link in links.items() if link.get("master") == BOND]
            self.tell.check(
                f"{node} has {BOND} over {' and '.join(topology.CARDS)}",
                bond.get("mode") == "active-backup" and sorted(cards) == sorted(topology.CARDS),
                f"active: {bond.get('active_slave')}",
            )

    def add_pods(self) -> None:
        self.tell.step("Pods, added by running the CNI executables as a container runtime does")
        for node, namespace, name, wish in (
            ("node1", "team-a", "web-1", {POOL: "tenant-a"}),
            ("node2", "team-a", "web-2", {POOL: "tenant-a"}),
            ("node1", "team-a", "orders-0", {APPLICATION: "orders"}),
            ("node2", "team-b", "job-1", {POOL: "tenant-b"}),
            ("node1", "team-b", "job-2", {POOL: "tenant-b"}),
            ("node2", "shop", "front", {}),
        ):
            self.add(node, namespace, name, wish)
        held = {
            entry["container"]: entry
            for entry in self.lab.ctl_json("address", "list")
            if entry["state"] == "used"
        }
        rows = []
        for pod in self.pods.values():
            entry = held[pod.container]
            rows.append(
                [
                    f"{pod.namespace}/{pod.name}",
                    pod.node,
                    str(NETWORKS[entry["network"]]["vlan"]),
                    entry["pool"],
                    entry["ipv4"],
                    entry["ipv6"],
                ]
            )
            assert pod.addresses == (entry["ipv4"], entry["ipv6"])
        self.tell.table(("pod", "node", "VLAN", "pool", "IPv4", "IPv6"), rows)
        self.tell.check(
            "every pod has an IPv4 and an IPv6 address of one slot, from the pool it asked for",
            len(rows) == len(self.pods)
            and [row[3] for row in rows]
            == ["tenant-a", "tenant-a", "orders", "tenant-b", "tenant-b", "default"]
            and all(row[4].split(".")[-1] == row[5].split(":")[-1].removeprefix("::") or
                    int(row[4].split(".")[-1]) == int(row[5].split(":")[-1], 16) for row in rows),
        )  # fmt: skip
        for pod in self.pods.values():
            self.runtime(pod.node).check(pod)
        self.tell.check("CHECK finds every pod's interface as it was made", True)

    def traffic(self) -> None:
        self.tell.step("Who reaches whom")
        web1, web2, job1 = self.pods["web-1"], self.pods["web-2"], self.pods["job-1"]
        for address in web2.addresses:
            self.tell.check(
                "web-1 on node1 reaches web-2 on node2, both on VLAN 910",
                self.pings(web1, address),
                address,
            )
        for address in job1.addresses:
            self.tell.check(
                "web-1 on VLAN 910 does not reach job-1 on VLAN 920",
                not self.pings(web1, address, tries=1),
                address,
            )
            on_link = f"route replace {address} dev {IFNAME}"
            topology.ip([on_link], inside=web1.netns)
            self.tell.check(
                "nor when web-1 is told that job-1 is its neighbour",
                not self.pings(web1, address, tries=1),
                address,
            )
            topology.ip([on_link.replace("replace", "delete")], inside=web1.netns)

    def named_pod_keeps_its_addresses(self) -> None:
        self.tell.step("A named pod that is deleted and added again has its old addresses")
        before = self.pods["web-1"].addresses
        self.delete("web-1")
        again = self.add("node1", "team-a", "web-1", {POOL: "tenant-a"})
        self.tell.check("on the same node", again.addresses == before, " ".join(again.addresses))
        self.delete("web-1")
        moved = self.add("node2", "team-a", "web-1", {POOL: "tenant-a"})
        self.tell.check("on the other node", moved.addresses == before, " ".join(moved.addresses))
        for address in moved.addresses:
            self.tell.check(
                "orders-0, which knew it at its old place, reaches it at once",
                self.pings(self.pods["orders-0"], address),
                address,
            )
        self.delete("web-1")
        self.add("node1", "team-a", "web-1", {POOL: "tenant-a"})

    def order_of_reuse(self) -> None:
        self.tell.step("A new pod gets a never-used address, then the longest-released one")
        first, second = self.pods["job-1"].addresses, self.pods["job-2"].addresses
        self.delete("job-1")
        third = self.add("node1", "team-b", "job-3", {POOL: "tenant-b"}).addresses
        self.tell.check(
            "job-3 gets the address that nobody has had", third not in (first, second), third[0]
        )
        self.delete("job-2")
        fourth = self.add("node1", "team-b", "job-4", {POOL: "tenant-b"}).addresses
        self.tell.check("job-4 gets job-1's, released longest ago", fourth == first, fourth[0])
        fifth = self.add("node2", "team-b", "job-5", {POOL: "tenant-b"}).addresses
        self.tell.check("job-5 gets job-2's", fifth == second, fifth[0])
        self.refused(
            "job-6 is told that the pool is exhausted",
            ("node2", "team-b", "job-6", {POOL: "tenant-b"}),
            "pool tenant-b has 3 addresses, 3 used",
        )

    def fixed_address(self) -> None:
        self.tell.step("A fixed address")
        wanted = {POOL: "tenant-a", ADDRESS: "10.91.0.30"}
        pod = self.add("node1", "team-a", "fixed", wanted)
        self.tell.check(
            "the pod that asks for 10.91.0.30 has it", pod.addresses[0] == "10.91.0.30",
            " ".join(pod.addresses),
        )  # fmt: skip
        self.refused(
            "another pod that asks for it is told who holds it",
            ("node2", "team-a", "thief", wanted),
            "10.91.0.30 is held by team-a/fixed on node node1",
        )

    def foreign_namespace(self) -> None:
        self.tell.step("A pool is for the namespaces that it lists")
        self.refused(
            "a pod of namespace shop is refused tenant-a",
            ("node1", "shop", "spy", {POOL: "tenant-a"}),
            "pool tenant-a does not list namespace shop",
        )

    def lost_card(self) -> None:
        self.tell.step("A bond loses a card")
        source, target = self.pods["web-1"], self.pods["web-2"]
        active = self.active_card(source.node)
        words = f"-n -q -c {PINGS} -i {PING_INTERVAL} -W 1 {target.addresses[0]}".split()
        ping = topology.within(
            source.netns,
            lambda _: subprocess.Popen(
                [str(programs.find("ping")), *words],
                stdout=subprocess.PIPE,
                text=True,
                env=programs.environment(),
            ),
        )
        time.sleep(PINGS * PING_INTERVAL / 4)
        self.lab.topology.pull(source.node, active)
        said = ping.communicate()[0]
        now = self.active_card(source.node)
        self.tell.check(
            f"with the cable of {active} pulled {source.node} uses the other card",
            now not in ("", active),
            f"active: {now}",
        )
        found = re.search(r"(\d+) (?:packets )?received", said)
        received = int(found[1]) if found else 0
        self.tell.check(
            "traffic goes on", received >= PINGS * 0.9, f"{received} of {PINGS} pings answered"
        )
        for address in target.addresses:
            self.tell.check("and still does", self.pings(source, address), address)
        self.lab.topology.plug(source.node, active)

    def nothing_is_left(self) -> None:
        self.tell.step("After all DELs nothing of a pod is left")
        for name in list(self.pods):
            self.delete(name)
        for node in NODES:
            pod_links = [
                link["ifname"]
                for link in self.lab.links(node)
                if link.get("linkinfo", {}).get("info_kind") == "macvlan"
            ]
            routes = self.lab.ip(node, "route")
            self.tell.check(
                f"{node} has no interface, route or record of a pod",
                not pod_links and not routes and not self.lab.records(node),
                ", ".join([*pod_links, *self.lab.records(node)]) or "none",
            )
        pods = [name for name in topology.standing() if name.startswith(topology.netns("pod-"))]
        self.tell.check("no namespace of a pod", not pods, len(pods))
        left = self.keys()
        self.tell.check("no etcd key of a pod", not left, ", ".join(left) or "none")

    # What the steps are made of

    def runtime(self, node: str) -> Runtime:
        return self.lab.runtimes[node]

    def add(self, node: str, namespace: str, name: str, annotations: dict[str, str]) -> Sandbox:
        self.pods[name] = self.runtime(node).add(namespace, name, annotations)
        return self.pods[name]

    def delete(self, name: str) -> None:
        pod = self.pods.pop(name)
        self.runtime(pod.node).delete(pod)

    def refused(self, what: str, pod: tuple[str, str, str, dict[str, str]], reason: str) -> None:
        node, namespace, name, annotations = pod
        try:
            self.add(node, namespace, name, annotations)
        except CniError as error:
            self.tell.check(what, reason in str(error), f"code {error.code}: {error}")
        else:
            self.delete(name)
            self.tell.check(what, False, "it got an address")

    def pings(self, source: Sandbox, address: str, tries: int = 3) -> bool:
        words = f"-n -q -c 1 -w {tries} -W 1 {address}".split()
        done = topology.within(
            source.netns,
            lambda _: subprocess.run(
                [str(programs.find("ping")), *words],
                capture_output=True,
                env=programs.environment(),
            ),
        )
        return done.returncode == 0

    def active_card(self, node: str) -> str:
        bond = next(link for link in self.lab.links(node) if link["ifname"] == BOND)
        return str(bond["linkinfo"]["info_data"].get("active_slave", ""))

    def apply(self, networks: Mapping[str, Mapping[str, Any]]) -> None:
        """Brings the cluster to these networks and their pools."""
        plan = {"version": 1, "clusters": {CLUSTER: {"networks": dict(networks)}}}
        (place.FOLDER / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
        self.tell.say(f"$ netspacectl {APPLY}")
        self.tell.say(self.lab.ctl(*APPLY.split()))

    def keys(self) -> list[str]:
        """The keys of holders and attachments in etcd."""
        found: list[str] = []
        for kind in ("slots", "attachments"):
            first = f"/netspace/v1/clusters/{CLUSTER}/{kind}/"
            span = {"key": first, "range_end": f"{first[:-1]}0"}  # '0' comes after '/'
            asked = {name: base64.b64encode(text.encode()).decode() for name, text in span.items()}
            answer = self.lab.etcd.request("kv/range", {**asked, "keys_only": True})
            found += [base64.b64decode(each["key"]).decode() for each in answer.get("kvs", ())]
        return found

    def leave_standing(self) -> None:
        """Puts two pods back and says how to look around."""
        self.add("node1", "team-a", "web-1", {POOL: "tenant-a"})
        self.add("node2", "team-a", "web-2", {POOL: "tenant-a"})
        server = " ".join(self.lab.ctl_options())
        pod = self.pods["web-1"]
        self.tell.step("The lab stands, with web-1 and web-2 in it")
        self.tell.say(
            f"./run lab netspacectl {server} address list\n"
            f"./run lab ip netns exec {topology.netns('node1')} ip -details link\n"
            f"./run lab ip netns exec {pod.netns} ping -c 3 {self.pods['web-2'].addresses[0]}\n"
            "./run demo --end      ends it"
        )


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--end"]:
        place.end()
        return 0
    if list(arguments) not in ([], ["--keep"]):
        print(
            f"demo: {' '.join(arguments)!r} is not understood; use --keep or --end", file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tell = Narrator()
    try:
        with Place() as lab:
            demo = Demo(lab, tell)
            demo.run()
            if "--keep" in arguments:
                demo.leave_standing()
                lab.keep = True
    except (place.PlaceError, topology.TopologyError, CniError) as error:
        tell.check("the demo runs to its end", False, error)
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was made is removed", file=sys.stderr)
        return 130
    if "--keep" not in arguments:
        left = place.left()
        tell.check("nothing of the lab is left", not left, ", ".join(left) or "none")
    return tell.sum_up()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
