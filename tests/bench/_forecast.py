"""How a run scales: a stated model, in a few formulas. Pure arithmetic.

A step of one rank computes for `compute_s`, two thirds of it in the backward pass. The gradients are added over the
ranks by a ring inside each node and a ring between the nodes (Patarasuk & Yuan 2009), which overlaps with the backward
pass but for its last bucket, unless it needs the core that computes. The loader and the shared filesystem feed whole
steps: a step takes as long as the slowest of computing with what is left of communication, loading, and reading. Every
sample is read once an epoch; a cache or staging reads it once a run.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKWARD = 2 / 3
"""Of a step's computation: backward is twice forward."""
BUCKET_BYTES = 25e6
"""DistributedDataParallel's bucket; the last one has nothing to overlap with."""


@dataclass(frozen=True)
class Machine:
    """A cluster and what runs on one rank of it.

    Args:
        compute_s: of one step on one rank alone, with data in memory.
        batch: samples of one rank's step.
        gradient_bytes: of all parameters.
        node_gbytes: GB/s between the ranks of a node, each way.
        network_gbytes: GB/s of a node's network.
        latency_us: of one message between nodes.
        loads_per_s: samples that one rank's loader prepares a second.
        sample_bytes: read from the filesystem per sample.
        filesystem_gbytes: GB/s of the shared filesystem, all nodes together.
        samples: of an epoch.
        overlap: the share of the backward pass that the exchange of gradients hides behind: 1 where cards and network
            do it beside the computation, 0 where it takes the core that computes.
    """

    compute_s: float
    batch: int
    gradient_bytes: float
    node_gbytes: float
    network_gbytes: float
    latency_us: float
    loads_per_s: float
    sample_bytes: float
    filesystem_gbytes: float
    samples: int
    overlap: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """What so many ranks do.

    Args:
        nodes, ranks: how many, `ranks` in all.
        samples_per_s: of all ranks.
        efficiency: against as many times one rank.
        epoch_s: seconds an epoch.
        filesystem_gbytes: GB/s that they read.
        exposed_s: communication of a step that computation does not hide.
        bottleneck: what a step waits for longest: computation, network, loader or filesystem.
    """

    nodes: int
    ranks: int
    samples_per_s: float
    efficiency: float
    epoch_s: float
    filesystem_gbytes: float
    exposed_s: float
    bottleneck: str


def all_reduce_s(machine: Machine, nodes: int, per_node: int, size: float) -> float:
    """Seconds to add `size` bytes over `nodes` x `per_node` ranks."""
    inside = 2 * (per_node - 1) / per_node * size / (machine.node_gbytes * 1e9)
    between = 2 * (nodes - 1) / nodes * size / (machine.network_gbytes * 1e9)
    messages = 2 * (nodes - 1) + 2 * (per_node - 1)
    return inside + between + messages * machine.latency_us * 1e-6


def forecast(machine: Machine, nodes: int, per_node: int) -> Forecast:
    """Throughput, epoch time, filesystem load and first bottleneck of `nodes` x `per_node` ranks."""
    ranks = nodes * per_node
    exposed = 0.0
    if ranks > 1:
        last = min(BUCKET_BYTES, machine.gradient_bytes)
        whole = all_reduce_s(machine, nodes, per_node, machine.gradient_bytes)
        tail = all_reduce_s(machine, nodes, per_node, last)
        exposed = max(tail, whole - machine.overlap * BACKWARD * machine.compute_s)
    waits = {
        "computation": machine.compute_s,
        "network": machine.compute_s + exposed,
        "loader": machine.batch / machine.loads_per_s,
        "filesystem": ranks * machine.batch * machine.sample_bytes / (machine.filesystem_gbytes * 1e9),
    }
    step_s = max(waits.values())
    # The network is what a step waits for only where it costs more than computing does.
    named = {**waits, "network": exposed}
    bottleneck = max(named, key=lambda name: named[name])
    alone = machine.batch / max(machine.compute_s, machine.batch / machine.loads_per_s)
    rate = ranks * machine.batch / step_s
    return Forecast(
        nodes, ranks, rate, rate / (ranks * alone), machine.samples / rate, rate * machine.sample_bytes / 1e9, exposed,
        bottleneck,
    )  # fmt: skip
