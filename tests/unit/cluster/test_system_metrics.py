"""What the nodes are doing comes into the run's own record, of every node, each sample once."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fashion_dist.cluster.heartbeat import HeartbeatThread
from fashion_dist.cluster.job_record import LockOwner
from fashion_dist.cluster.rank_env import RankInfo
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.cluster.system_metrics import EACH_NODE, AllNodes, NodeSampler
from fashion_dist.io import write_json
from fashion_dist.paths import RunDir

JOB = JobRef("local", str(os.getpid()))


def watching(run: RunDir, rank: int, attempt: int = 1) -> HeartbeatThread:
    """A rank of two nodes with two ranks each."""
    rank_info = RankInfo(rank, 4, rank % 2, 2, rank // 2, 2, JOB)
    return HeartbeatThread(run, rank_info, LockOwner(JOB, 0, attempt, "here"), beat_s=0.02)


def test_a_sample_tells_what_this_machine_does() -> None:
    sampler = NodeSampler()
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        sum(range(1000))
    found = sampler.sample()
    assert 0 < found["cpu_percent"] <= 100 and 0 < found["memory_percent"] < 100
    assert {"network_in_mb_s", "network_out_mb_s"} <= found.keys()
    assert all(value >= 0 for value in found.values())


def test_rank_0_has_the_figures_of_every_node_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    watches = [watching(run, rank) for rank in range(4)]
    for watch in watches:
        watch.start()
    found: set[str] = set()
    until = time.monotonic() + 60
    while not {"node0/cpu_percent", "node1/memory_percent"} <= found and time.monotonic() < until:
        found |= watches[0].nodes.take().keys()
        time.sleep(0.02)
    for watch in watches:
        watch.stop()
        watch.join()
    assert {name.partition("/")[0] for name in found} == {"node0", "node1"}
    assert sorted(path.name for path in run.heartbeats.glob("node_*")) == ["node_0.json", "node_1.json"]
    watches[0].nodes.take()
    assert watches[0].nodes.take() == {} == watches[2].nodes.take()
    other = AllNodes(run, attempt=2, nodes=2)  # the start that follows does not take the last one's for its own
    other.look()
    assert other.take() == {}


def test_many_nodes_are_summed_and_the_slowest_is_named(tmp_path: Path) -> None:
    def line(nodes: int) -> dict[str, float]:
        run = RunDir(tmp_path / str(nodes))
        run.heartbeats.mkdir(parents=True)
        for node in range(nodes):
            figures = {"cpu_percent": 10.0 + node, **{f"gpu{k}_percent": 90.0 - (node == 2) * k for k in range(8)}}
            write_json(run.node_figures(node), {"attempt": 1, "sample": 1, "figures": figures})
        found = AllNodes(run, attempt=1, nodes=nodes)
        found.look()
        return found.take()

    assert len(line(EACH_NODE)) == EACH_NODE * 9
    assert len(line(EACH_NODE + 1)) == len(line(64)) == 2 * 5
    many = line(20)
    assert (many["nodes/gpu_percent_min"], many["nodes/gpu_percent_min_node"]) == (83.0, 2)
    assert many["nodes/cpu_percent_mean"] == 19.5 and many["nodes/cpu_percent_max_node"] == 19
