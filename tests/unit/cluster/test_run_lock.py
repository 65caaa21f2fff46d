from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fashion_dist.cluster import run_lock
from fashion_dist.cluster.job_record import LockOwner
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import RunBusyError, RunError
from fashion_dist.paths import RunDir

MINE = JobRef.of_process(os.getpid())


@pytest.fixture
def gone() -> JobRef:
    process = subprocess.Popen([sys.executable, "-c", ""])
    job = JobRef.of_process(process.pid)
    process.wait()
    return job


def test_taken_seen_and_released(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert LockOwner.read(run) is None
    mine = run_lock.acquire(run, MINE, restart=0, attempt=3)
    assert LockOwner.read(run) == mine
    assert run_lock.await_owner(run, MINE, 0, timeout_s=1) == mine
    run_lock.release(run, mine)
    assert LockOwner.read(run) is None


def test_a_living_job_keeps_others_out_and_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    mine = run_lock.acquire(run, MINE, restart=0, attempt=1)
    with pytest.raises(RunBusyError, match=rf"local job {os.getpid()} on .*attempt 1"):
        run_lock.acquire(run, JobRef("slurm", "99"), restart=0, attempt=2)
    assert LockOwner.read(run) == mine


def test_a_job_that_is_gone_makes_room_and_cannot_release_its_heir(tmp_path: Path, gone: JobRef) -> None:
    run = RunDir(tmp_path)
    old = run_lock.acquire(run, gone, restart=0, attempt=1)
    new = run_lock.acquire(run, MINE, restart=0, attempt=2)
    run_lock.release(run, old)
    assert LockOwner.read(run) == new


def test_a_job_takes_its_own_lock_again_after_a_requeue(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run_lock.acquire(run, MINE, restart=0, attempt=1)
    again = run_lock.acquire(run, MINE, restart=1, attempt=2)
    assert LockOwner.read(run) == again
    with pytest.raises(RunError, match="did not take the run's lock within 0 s"):
        run_lock.await_owner(run, MINE, 0, timeout_s=0.1)


def test_what_only_another_machine_knows_is_not_guessed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run_lock.acquire(run, JobRef("local", "1", "another-host", 5), restart=0, attempt=1)
    with pytest.raises(RunBusyError, match=r"another-host; if that machine is gone for good, remove .*lock.json"):
        run_lock.acquire(run, MINE, restart=0, attempt=2)


def test_of_many_at_once_one_wins(tmp_path: Path, gone: JobRef) -> None:
    run_lock.acquire(RunDir(tmp_path), gone, restart=0, attempt=1)
    code = textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        from fashion_dist.cluster import run_lock
        from fashion_dist.cluster.slurm import JobRef
        from fashion_dist.errors import RunBusyError
        from fashion_dist.paths import RunDir
        sys.stdin.readline()
        try:
            run_lock.acquire(RunDir(Path({str(tmp_path)!r})), JobRef.of_process(os.getpid()), 0, 2)
            print("won", flush=True)
        except RunBusyError:
            print("lost", flush=True)
        sys.stdin.readline()
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(6)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
    for racer in racers:
        racer.communicate("end\n")
    assert sorted(said) == ["lost"] * 5 + ["won"]
