from __future__ import annotations

from pathlib import Path

import pytest

from fashion_dist.cluster import failures
from fashion_dist.cluster.failures import Failure
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.paths import RunDir

JOB = "slurmstepd: error: *** JOB 7 ON n1"
PEER = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:6359"


def failure(rank: int, message: str, elapsed_s: float, kind: str = "RuntimeError") -> Failure:
    return Failure(rank, 1, f"n{rank}", kind, message, "", elapsed_s)


def sentence(found: list[Failure], killed: dict[int, str] | None = None) -> str:
    cause = failures.cause(found, killed)
    return cause.sentence if cause else ""


def test_the_cause_is_not_the_peers_complaint() -> None:
    found = [failure(0, PEER, 3.0), failure(1, "loss is not finite\nmore", 9.0, "RunError"), failure(2, PEER, 2.0)]
    assert sentence(found) == "rank 1 on n1: RunError: loss is not finite"


def test_the_earliest_of_several_own_errors() -> None:
    found = [failure(0, "b", 3.0, "ValueError"), failure(1, "a", 2.5, "OSError")]
    assert sentence(found) == "rank 1 on n1: OSError: a"


def test_a_silent_death_before_the_peers_complaints_and_after_a_report() -> None:
    peers = [failure(0, PEER, 1.0)]
    assert sentence(peers, {1: "killed by signal 9"}) == "rank 1 was killed by signal 9"
    assert sentence([*peers, failure(2, "x", 5.0, "KeyError")], {1: "killed by signal 9"}).startswith("rank 2")
    # A rank that srun killed because another one had failed has told its story already.
    assert sentence(peers, {0: "killed"}) == f"rank 0 on n0: RuntimeError: {PEER}"


def test_a_stalled_rank_is_a_cause_although_it_speaks_of_time() -> None:
    found = [failure(0, "timed out after 120 s", 200.0), failure(1, "no sign of life, timeout", 150.0, "Stalled")]
    assert sentence(found).startswith("rank 1 on n1: Stalled")


def test_nothing_known() -> None:
    assert failures.cause([]) is None


@pytest.mark.parametrize(
    "message",
    [
        PEER,
        "NCCL error in: ProcessGroupNCCL.cpp, remote process exited or there was a network error",
        "Connection reset by peer",
        "rank 1 could not join 2 ranks in 120 s: ...",
        "Timed out waiting 120000ms for recv operation to complete",
        "Socket Timeout",
    ],
)
def test_peers_complaints_are_known(message: str) -> None:
    assert failure(0, message, 0).is_of_a_peer


def test_reports_are_written_and_read_by_attempt(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        failures.report(run, 3, 2, error)
    failures.report_stalled(run, 3, 2, "n3", "must not replace the rank's own words")
    failures.report_stalled(run, 1, 2, "n1", "no sign of life")
    (tmp_path / "errors" / "rank_9.json").write_text("{")
    stalled, own = failures.read(run, 2)
    assert (stalled.rank, stalled.type) == (1, "Stalled")
    assert own.sentence.endswith("ValueError: two") and "test_failures.py" in own.traceback
    assert failures.read(run, 1) == []


def test_what_slurm_writes_into_a_jobs_log(tmp_path: Path) -> None:
    job, problems = JobRef("slurm", "1"), list[str]()
    assert failures.read_log(tmp_path, job, 2, problems) == failures.JobLog(tmp_path / "1_0_log.err")
    (tmp_path / "1_0_log.err").write_text(
        "srun: error: n1: task 7: Killed\n"
        f"{failures.start_mark(2)}\n"
        "some words\n"
        "srun: error: n2: task 1: Killed\n"
        "srun: Terminating StepId=12.0\n"
        "srun: error: n1: tasks 0,2-3: Terminated\n"
        "srun: error: n1: task 4: Exited with exit code 1\n"
        "srun: error: n3: tasks 50000-99999999999: Killed\n"
    )
    found = failures.read_log(tmp_path, job, 2, problems)
    terminated = "ended by the system: Terminated"
    assert found.killed == {1: "killed", 0: terminated, 2: terminated, 3: terminated}
    assert next(iter(found.killed)) == 1 and (found.last, found.ended) == ("some words", "")
    assert found.of_rank(12).name == "1_12_log.err" and problems == []


def test_a_rank_number_without_an_end_costs_nothing() -> None:
    assert len(failures.killed_by_srun("srun: error: n3: tasks 0-99999999,3: Killed")) == 1


@pytest.mark.parametrize(
    ("line", "ended"),
    [
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-27T05:00:00 DUE TO TIME LIMIT ***", "TIMEOUT"),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-27T05:00:00 DUE TO NODE FAILURE ***", "NODE_FAIL"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-27T05:00:00 DUE TO PREEMPTION ***", "PREEMPTED"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-27T05:00:00 ***", "CANCELLED"),
        ("slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-27T05:00:00 ***", "CANCELLED"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", "OUT_OF_MEMORY"),
        ("srun: error: n3: task 5: Out Of Memory", "OUT_OF_MEMORY"),
        # As Slurm 20.11 to 25.05 write them.
        (f"{JOB} CANCELLED AT 2026-11-27T05:00:00 DUE to SIGNAL Terminated ***", "CANCELLED"),
        (f"{JOB} CANCELLED AT 2026-11-27T05:00:00 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", "NODE_FAIL"),
        (f"{JOB} UNCORRECTABLE MEMORY ERROR AT 2026-11-27T05:00:00 ***", "NODE_FAIL"),
        ("srun: error: Node failure on n2", "NODE_FAIL"),
        (f"{JOB} CANCELLED AT 2026-11-27T05:00:00 DUE TO JOB REQUEUE ***", "REQUEUED"),
        ("slurmstepd: error: Detected 2 oom-kill event(s) in StepId=7.0 cgroup. Some of your", "OUT_OF_MEMORY"),
        (f"slurmstepd: error: StepId=7.0 exceeded memory limit (3 > 2), being killed\n{JOB} CANCELLED AT T ***",
         "OUT_OF_MEMORY"),
        (f"slurmstepd: error: Exceeded job memory limit\n{JOB} CANCELLED AT T DUE to SIGNAL Killed ***",
         "OUT_OF_MEMORY"),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT T DUE TO TASK FAILURE ***", ""),  # a rank failed
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT T DUE to SIGNAL Killed ***", ""),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-27T05:00:00 ***", ""),  # a rank failed
        ("RuntimeError: CANCELLED AT noon DUE TO TIME LIMIT", ""),  # a rank's own words
    ],
)  # fmt: skip
def test_how_a_job_ended_by_its_log(line: str, ended: str, tmp_path: Path) -> None:
    (tmp_path / "7_0_log.err").write_text(f"words\n{line}\n")
    assert failures.read_log(tmp_path, JobRef("slurm", "7"), 0, []).ended == ended


def test_exit_codes_that_are_signals(tmp_path: Path) -> None:
    job, problems = JobRef("local", "7"), list[str]()
    failures.exits_file(tmp_path, "7").write_text('{"exit_codes": [0, 1, -9, null, -11]}')
    found = failures.read_log(tmp_path, job, 0, problems)
    assert found.killed == {2: "killed by signal 9", 4: "killed by signal 11"} and not problems
    failures.exits_file(tmp_path, "7").write_text('{"exit_codes": ["-9"]}')
    assert failures.read_log(tmp_path, job, 0, problems).killed == {} and "7_exits.json: exit_codes" in problems[0]
