from __future__ import annotations

import os

import pytest

from fashion_dist.cluster.rank_env import (
    RankInfo,
    advertise_address,
    interface_addresses,
    read_rank_info,
    tasks_per_node,
)
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.cluster.worker import cores_of
from fashion_dist.errors import ConfigError

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "n[1-4]",
}


def test_a_slurm_step() -> None:
    rank_info = read_rank_info({**STEP, "SLURM_RESTART_COUNT": "2"})
    assert rank_info == RankInfo(5, 7, 1, 2, 2, 4, JobRef("slurm", "12"), 2, "n[1-4]")
    assert not rank_info.is_main


def test_an_array_task_is_known_as_the_queue_shows_it() -> None:
    rank_info = read_rank_info({**STEP, "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"})
    assert rank_info.job == JobRef("slurm", "40_3")


def test_a_batch_script_without_srun_is_one_rank() -> None:
    batch = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    rank_info = read_rank_info(batch)
    assert (rank_info.rank, rank_info.world_size, rank_info.job.cluster) == (0, 1, "local")


def test_ranks_of_a_local_job_share_this_machine() -> None:
    environment = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_GLOBALID": "1",
        "SUBMITIT_LOCAL_NTASKS": "4",
        "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()),
    }
    rank_info = read_rank_info(environment)
    assert (rank_info.rank, rank_info.local_rank, rank_info.local_world_size, rank_info.nodes) == (1, 1, 4, 1)
    assert rank_info.job == JobRef.of_process(os.getpid())


@pytest.mark.parametrize(
    ("allowed", "ranks", "asked", "threads", "cores"),
    [
        (8, 2, 0, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),  # a local job: all cores are its own
        (7, 3, 0, 2, [[0, 1], [2, 3], [4, 5]]),
        (8, 2, 4, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),  # Slurm confined the job to its cores
        (8, 2, 2, 2, [[], []]),  # it did not: others may be on the first cores
        (4, 2, 4, 4, [[], []]),  # it gave each rank cores of its own
        (8, 1, 8, 8, [[]]),
        (2, 4, 0, 1, [[], [], [], []]),  # more ranks than cores
    ],
)
def test_a_rank_keeps_to_its_share_of_the_cores(
    allowed: int, ranks: int, asked: int, threads: int, cores: list[list[int]]
) -> None:
    for rank in range(ranks):
        rank_info = RankInfo(rank, ranks, rank, ranks, 0, 1, JobRef("slurm", "1"))
        assert cores_of(range(allowed), rank_info, asked) == (threads, cores[rank])


@pytest.mark.parametrize(
    ("text", "counts"), [("1", [1]), ("2(x3)", [2, 2, 2]), ("4(x2),1,3(x2)", [4, 4, 1, 3, 3]), ("16,8", [16, 8])]
)
def test_tasks_per_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_one_node_talks_over_loopback() -> None:
    alone = RankInfo(0, 2, 0, 2, 0, 1, JobRef("slurm", "1"))
    assert advertise_address(alone) == ("127.0.0.1", "lo")
    assert interface_addresses()["lo"] == "127.0.0.1"
    assert advertise_address(alone, "lo") == ("127.0.0.1", "lo")


def test_an_interface_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no interface 'ib7'.* it has .*lo"):
        advertise_address(RankInfo(0, 2, 0, 1, 0, 2, JobRef("slurm", "1")), "ib7")
