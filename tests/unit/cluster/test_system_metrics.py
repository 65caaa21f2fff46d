"""What the nodes are doing comes into the run's own record, of every node, each sample once."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fashion_dist.cluster.heartbeat import HeartbeatThread
from fashion_dist.cluster.job_record import LockOwner
from fashion_dist.cluster.rank_env import RankInfo
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.cluster.system_metrics import AllNodes, NodeSampler
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
