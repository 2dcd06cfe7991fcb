"""Which nodes of a Ray cluster can hold a policy, and what it may ask of them."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from vlaprune_bench.config import EvalConfig
from vlaprune_bench.types import UserError


@dataclass(frozen=True)
class NodeSlot:
    """Where a host may run."""

    node: str
    """Ray's id of the node."""
    name: str
    gpus: int
    """Of the host: 1 or 0."""
    cpus: float
    """Its share of the node's."""

    def workers(self, asked: int | str) -> int:
        """Simulators at once; with auto, one CPU is left to the policy."""
        return max(1, int(self.cpus) - 1) if asked == "auto" else int(asked)


def node_slots(config: EvalConfig) -> list[NodeSlot]:
    """Room for hosts: one a GPU; one a node, where nothing in the cluster has a GPU (or none is
    wanted)."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    gpus = {n["NodeID"]: int(n["Resources"].get("GPU", 0)) for n in nodes}
    on_gpus = config.compute.device != "cpu" and any(gpus.values())
    slots = []
    for node in nodes:
        cpus = node["Resources"].get("CPU", 0.0)
        number = gpus[node["NodeID"]] if on_gpus else int(cpus >= 1)
        for index in range(number):
            gpu = f" GPU {index}" if number > 1 else ""
            name = f"node {node['NodeManagerHostname']} ({node['NodeID'][:6]}){gpu}"
            slots.append(NodeSlot(node["NodeID"], name, int(on_gpus), cpus / number))
    return slots


def check(config: EvalConfig) -> None:
    """Refuse what makes no sense on a cluster.

    Raises:
        UserError: which option, and why.
    """
    device, video = config.compute.device, config.storage.video
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"--device is {device}; with --launcher ray it must be auto, cpu or cuda: Ray "
            "gives each policy a GPU of its own."
        )
    if video != "none":
        raise UserError(
            f"video is {video}; with --launcher ray it must be none: videos would stay on "
            "the nodes."
        )
