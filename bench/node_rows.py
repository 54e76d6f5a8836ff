"""How the figures of a node are measured: the reference and ours in turns, call by call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_interface

from bench import traffic
from bench.figures import Figures
from bench.node_figures import MEMORY, RATIO
from bench.node_place import DUAL, FOUR, PARENT, Call, Place, Plugin, Runtime, namespaces
from hostnet import Netns, add_address, get_link, run_in

Say = Callable[[str], None]

BARE = ("10.29.0.1", "10.29.0.2")
"""Addresses of the two ends of the bare link."""


@dataclass(frozen=True, slots=True)
class Scale:
    """`calls` of each kind and side; `dual` of those that wait for duplicate address detection;
    `bursts` of `pods` each, `at_once`; `memory`: how many pods have come and gone when the agent's
    memory is looked at, for each of the goal's; `streams` of `chunks` of 256 KiB each, and as many
    rounds of `answers`. `bound`: seconds after which the bench gives up."""

    calls: int
    dual: int
    block: int
    bursts: int
    pods: int
    at_once: int
    memory: dict[int, int]
    streams: int
    chunks: int
    answers: int
    bound: float
    usual: str


WHOLE = Scale(
    calls=60,
    dual=30,
    block=20,
    bursts=3,
    pods=200,
    at_once=32,
    memory={200: 200, 1000: 1000},
    streams=200,
    chunks=16,
    answers=100,
    bound=1200,
    usual="about five minutes",
)
QUICK = Scale(
    calls=3,
    dual=3,
    block=2,
    bursts=1,
    pods=6,
    at_once=3,
    memory={200: 10, 1000: 20},
    streams=4,
    chunks=4,
    answers=20,
    bound=120,
    usual="less than half a minute",
)


class Bench:
    """The rounds on a place. Everything runs in threads that are in the node's namespace."""

    def __init__(self, place: Place, scale: Scale, figures: Figures, say: Say) -> None:
        self._place, self._scale, self._figures, self._say = place, scale, figures, say
        self._runtime = Runtime()
        self._sides = {"ref": place.reference, "our": place.node.plugin()}

    def measure(self) -> None:
        """Measures all there is. Raises `Failed`."""
        self._one_at_a_time(FOUR, self._scale.calls)
        self._say("ADD and DEL one at a time")
        self._versions()
        self._processor()
        self._say("VERSION and processor time")
        self._one_at_a_time(DUAL, self._scale.dual)
        self._say("ADD with both families")
        self._memory()
        self._bursts()
        self._traffic()

    def _one_at_a_time(self, pool: str, calls: int) -> None:
        """Pods come and go again, one of each side in turns. Their namespaces stay until the last
        is done, since the kernel takes its time to take one away. The first ones are not counted:
        they find everything cold."""
        kind = "v4" if pool == FOUR else "dual"
        cold = 3 if pool == FOUR else 0
        with namespaces(2 * (calls + cold)) as sandboxes:
            pods = iter(sandboxes)
            for number in range(-cold, calls):
                for side, plugin in self._sides.items():
                    container, pod = self._runtime.name(), next(pods)
                    made = self._runtime.call(plugin, pool, "ADD", container, pod)
                    gone = self._runtime.call(plugin, pool, "DEL", container, pod)
                    if number < 0:
                        continue
                    self._figures.add(f"{side}_add_{kind}_ms", made.seconds * 1e3)
                    if pool == FOUR:
                        self._figures.add(f"{side}_del_ms", gone.seconds * 1e3)

    def _versions(self) -> None:
        for _ in range(self._scale.calls):
            for side, plugin in self._sides.items():
                call = self._runtime.call(plugin, FOUR, "VERSION", "", None)
                self._figures.add(f"{side}_version_ms", call.seconds * 1e3)

    def _processor(self) -> None:
        """Processor time comes in hundredths of a second, so it is taken over a block of ADDs."""
        block = self._scale.block
        for _ in range(max(1, self._scale.calls // block)):
            for side, plugin in self._sides.items():
                with namespaces(block) as sandboxes:
                    before, spent = self._place.processor(), 0.0
                    held = []
                    for pod in sandboxes:
                        held.append((self._runtime.name(), pod))
                        spent += self._runtime.call(plugin, FOUR, "ADD", *held[-1]).processor
                    if plugin.ours:
                        spent += self._place.processor() - before
                    self._figures.add(f"{side}_cpu_ms_per_add", spent / block * 1e3)
                    for each in held:
                        self._runtime.call(plugin, FOUR, "DEL", *each)

    def _bursts(self) -> None:
        for number, (side, plugin) in itertools.product(
            range(self._scale.bursts), self._sides.items()
        ):
            with namespaces(self._scale.pods) as sandboxes:
                pods = [(self._runtime.name(), pod) for pod in sandboxes]
                begun = time.perf_counter()
                self._all_at_once(plugin, "ADD", pods)
                seconds = time.perf_counter() - begun
                self._figures.add(f"{side}_burst_dual_s", seconds)
                self._say(f"burst {number + 1}, {side}: {seconds:.2f} s")
                if plugin.ours:
                    self._beside_others(plugin)
                self._all_at_once(plugin, "DEL", pods)

    def _beside_others(self, plugin: Plugin) -> None:
        """Single pods while the node has many."""
        with namespaces(self._scale.calls // self._scale.bursts) as sandboxes:
            for pod in sandboxes:
                container = self._runtime.name()
                made = self._runtime.call(plugin, FOUR, "ADD", container, pod)
                self._runtime.call(plugin, FOUR, "DEL", container, pod)
                self._figures.add("our_add_v4_ms_held_200", made.seconds * 1e3)

    def _memory(self) -> None:
        plugin, gone = self._sides["our"], 0
        for goal, count in self._scale.memory.items():
            while gone < count:
                some = min(self._scale.at_once, count - gone)
                with namespaces(some) as sandboxes:
                    pods = [(self._runtime.name(), pod) for pod in sandboxes]
                    self._all_at_once(plugin, "ADD", pods)
                    self._all_at_once(plugin, "DEL", pods)
                gone += some
            self._figures.add(f"{MEMORY}_{goal}", self._place.agent_memory())
            self._say(f"{count} pods have come and gone")

    def _all_at_once(
        self, plugin: Plugin, command: str, pods: Sequence[tuple[str, Netns]]
    ) -> list[Call]:
        netns = self._place.node.netns
        with ThreadPoolExecutor(self._scale.at_once, initializer=netns.enter) as threads:
            return list(
                threads.map(lambda pod: self._runtime.call(plugin, DUAL, command, *pod), pods)
            )

    def _traffic(self) -> None:
        near, far = self._place.node, self._place.far
        for node, address in zip((near, far), BARE, strict=True):
            _give(node.netns, address)
        with namespaces(2) as (here, there):
            pods = [(self._runtime.name(), here), (self._runtime.name(), there)]
            plugins = (near.plugin(), far.plugin())
            made = [
                self._runtime.call(plugin, FOUR, "ADD", *pod)
                for plugin, pod in zip(plugins, pods, strict=True)
            ]
            address = made[1].result["ips"][0]["address"].partition("/")[0]
            with (
                traffic.far_end(near.netns, far.netns, BARE[1]) as bare,
                traffic.far_end(here, there, address) as ours,
                traffic.on_processor(0),
            ):
                self._in_pairs({"ref": traffic.Near(bare), "our": traffic.Near(ours)})
            for plugin, pod in zip(plugins, pods, strict=True):
                self._runtime.call(plugin, FOUR, "DEL", *pod)
        self._say("traffic between pods of two nodes")

    def _in_pairs(self, ends: Mapping[str, traffic.Near]) -> None:
        """Short rounds, each side right beside the other, and first as often as second: what else
        the machine does changes both."""
        for number in range(self._scale.streams):
            pair = sorted(ends, reverse=bool(number % 2))
            carried = {side: ends[side].megabits(self._scale.chunks) for side in pair}
            waited = {side: ends[side].round_trip(self._scale.answers) for side in pair}
            for name, found in (("pod_to_pod_mbit", carried), ("pod_to_pod_rtt_us", waited)):
                for side, value in found.items():
                    self._figures.add(f"{side}_{name}", value)
                self._figures.add(RATIO.format(name), found["our"] / found["ref"])
        for end in ends.values():
            end.close()


def _give(netns: Netns, address: str) -> None:
    interface = ip_interface(f"{address}/24")
    run_in(netns, lambda net: add_address(net, get_link(net, PARENT), interface))
