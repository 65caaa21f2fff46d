from __future__ import annotations

from pathlib import Path

import pytest

from fashion_dist.cluster import failures
from fashion_dist.cluster.failures import Failure
from fashion_dist.paths import RunDir

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


def test_sruns_words_about_killed_ranks(tmp_path: Path) -> None:
    log = tmp_path / "1_0_log.err"
    log.write_text(
        "srun: error: n1: task 7: Killed\n"
        f"{failures.start_mark(2)}\n"
        "some words\n"
        "srun: error: n2: task 1: Killed\n"
        "srun: Terminating StepId=12.0\n"
        "srun: error: n1: tasks 0,2-3: Terminated\n"
        "srun: error: n1: task 4: Exited with exit code 1\n"
        "srun: error: n3: task 5: Out Of Memory\n"
    )
    terminated, memory = "ended by the system: Terminated", "ended by the system: Out Of Memory"
    found = failures.killed_by_srun(log, 2)
    assert found == {1: "killed", 0: terminated, 2: terminated, 3: terminated, 5: memory}
    assert next(iter(found)) == 1
    assert failures.killed_by_srun(tmp_path / "none", 1) == {}


def test_exit_codes_that_are_signals() -> None:
    assert failures.killed_by_signal([0, 1, -9, None, -11]) == {2: "killed by signal 9", 4: "killed by signal 11"}
