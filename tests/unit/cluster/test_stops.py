"""What the signals at a job's end meant, limits that move, hosts without scontrol, GPUs that are not there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fashion_dist.cluster import heartbeat
from fashion_dist.cluster.gpu_check import require_gpu, why_unusable
from fashion_dist.cluster.heartbeat import HeartbeatThread
from fashion_dist.cluster.job_record import Attempt, LockOwner, changed_versions, hardware_of
from fashion_dist.cluster.rank_env import RankInfo, expand_hosts
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.cluster.stops import why_stopped
from fashion_dist.errors import RunError
from fashion_dist.paths import RunDir

USR2, TERM = "SIGUSR2", "SIGTERM"
QUIET = "JobId=7 Restarts=0 PreemptTime=None"


@pytest.mark.parametrize(
    ("signals", "left_s", "facts", "restart", "end"),
    [
        ({USR2}, 110, QUIET, 0, "time limit"),
        ({USR2, TERM}, 0, QUIET, 0, "time limit"),
        ({TERM}, 0, QUIET, 0, "time limit"),  # the warning got lost
        ({TERM}, 165, QUIET, 0, "cancelled"),  # in the last minutes before the limit
        ({TERM}, 1, QUIET, 0, "cancelled"),
        ({USR2, TERM}, 60, QUIET, 0, "cancelled"),  # while it saved before its limit
        ({TERM}, None, QUIET, 0, "cancelled"),
        ({USR2}, 3000, QUIET, 0, "pre-empted"),
        ({USR2}, None, QUIET, 0, "pre-empted"),
        ({TERM}, 3000, "Restarts=0 PreemptTime=2026-11-27T09:07:19", 0, "pre-empted"),
        ({TERM}, 100, "Restarts=1 PreemptTime=None", 0, "requeued"),
        ({TERM}, 100, "Restarts=1 PreemptTime=None", 1, "cancelled"),
        ({USR2}, 100, "", 0, "time limit"),  # where there is no Slurm to ask
    ],
)
def test_what_is_cancelled_stays_so_and_what_is_stopped_goes_on(
    signals: set[str], left_s: float | None, facts: str, restart: int, end: str
) -> None:
    assert why_stopped(signals, left_s, 120, facts, restart) == end


def test_a_limit_that_was_extended_is_asked_again_before_the_nodes_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(heartbeat.os, "kill", lambda _pid, number: sent.append(number))
    job = JobRef("slurm", "7")
    thread = HeartbeatThread(RunDir(tmp_path), RankInfo(1, 2, 1, 2, 0, 1, job), LockOwner(job, 0, 1, "h"), beat_s=0.02)
    answers = [0.1, 500.0, 0.3]  # at the start, extended, and in the end
    asked: list[float] = []

    def left() -> float:
        asked.append(answers[min(len(asked), 2)])
        return asked[-1]

    thread.warn_before_limit(left, 10)
    thread.start()
    until = time.monotonic() + 10
    while len(asked) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert asked == [0.1, 500.0] and sent == []
    thread._stop_at = 0.0
    while not sent and time.monotonic() < until:
        time.sleep(0.01)
    thread.stop()
    assert sent == [signal.SIGUSR2] and os.getpid()


@pytest.mark.parametrize("was_suspended", [True, False])
def test_ranks_that_gave_each_other_up_after_a_suspension_are_started_again(
    was_suspended: bool, tmp_path: Path
) -> None:
    job, file = JobRef("slurm", "7"), tmp_path / "7_requeue"
    thread = HeartbeatThread(RunDir(tmp_path), RankInfo(1, 2, 1, 2, 0, 1, job), LockOwner(job, 0, 1, "h"), beat_s=0.02)
    thread.requeue_after_suspension(file, 0.3, lambda: was_suspended)
    assert not thread.look_for_suspension() and not file.exists()
    thread._last -= 10.0  # as if nothing had run meanwhile
    assert thread.look_for_suspension() is was_suspended is file.exists()
    thread.start()
    until = time.monotonic() + 10
    while file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    thread.stop()
    assert not file.exists() and not thread.is_excused, "what fails later is a failure"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[1-3,7],m1", ["n1", "n2", "n3", "n7", "m1"]),
        ("gpu-a[08-11].site", ["gpu-a08.site", "gpu-a09.site", "gpu-a10.site", "gpu-a11.site"]),
        ("r[1-2]n[01,3]", ["r1n01", "r1n3", "r2n01", "r2n3"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
    ],
)
def test_a_host_list_is_expanded_as_scontrol_does(text: str, hosts: list[str]) -> None:
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    ("cuda", "driver", "environment", "said", "words"),
    [
        (None, True, {}, "", "torch 2.14 is a build for CPUs"),
        ("13.0", False, {}, "", "the node has no NVIDIA driver"),
        ("13.0", False, {"APPTAINER_NAME": "x.sif"}, "", "Apptainer's --nv"),
        ("13.0", True, {"CUDA_VISIBLE_DEVICES": ""}, "", "the scheduler gave this rank no device"),
        (
            "13.0",
            True,
            {},
            "The NVIDIA driver on your system is too old (found version 12020). Please update",
            "12020).",
        ),
        ("13.0", True, {"CUDA_VISIBLE_DEVICES": "0"}, "", "an older driver than that CUDA needs"),
    ],
)
def test_why_a_gpu_cannot_be_used(
    cuda: str | None, driver: bool, environment: dict[str, str], said: str, words: str
) -> None:
    found = why_unusable("2.14", cuda, environment, said, has_driver=driver)
    assert words in found and "Please" not in found


def test_gpus_that_were_asked_for_and_are_not_there_end_the_rank() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    require_gpu(0)
    with pytest.raises(RunError, match=r"2 GPUs a node were asked for, and this rank on .* can use none: .*"):
        require_gpu(2)
    with pytest.raises(RunError, match=r"GPUs were asked for, and this rank on .* can use none: .*"):
        require_gpu(None)


def test_other_versions_than_before_are_told() -> None:
    first, second = Attempt(1, versions={"torch": "2.14.1"}), Attempt(2, versions={"torch": "2.11.0"})
    assert changed_versions([first, second]) == "other versions than the start before: torch 2.14.1 -> 2.11.0"
    assert changed_versions([first, first]) == changed_versions([Attempt(1), first]) == changed_versions([first]) == ""


def test_the_hardware_of_each_start_is_told_where_it_changed() -> None:
    starts = [
        Attempt(1, hardware="4 x A100"),
        Attempt(2),
        Attempt(3, hardware="8 cores"),
        Attempt(4, hardware="8 cores"),
    ]
    assert hardware_of(starts) == "8 cores (start 1: 4 x A100)"
    assert hardware_of(starts[:2]) == "unknown (start 1: 4 x A100)"
    assert (hardware_of(starts[2:]), hardware_of(starts[:1]), hardware_of([])) == ("8 cores", "4 x A100", "")
