"""One writer per run folder.

`lock.json` names the job that may write. It goes stale only when the scheduler, or the process table for a job of this
machine, says that the job is gone: never by age, because clocks differ between nodes and a job may be suspended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from fashion_dist.cluster.job_record import LockOwner
from fashion_dist.cluster.slurm import JobRef, job_status
from fashion_dist.errors import RunBusyError, RunError
from fashion_dist.io import is_listed, write_json
from fashion_dist.paths import RunDir
from shards.locks import lock_file, unlock_file
from shards.safe_io import open_regular


def acquire(run: RunDir, job: JobRef, restart: int, attempt: int) -> LockOwner:
    """Become the writer; the job's own earlier attempts, and jobs that are gone, make room.

    Raises:
        RunBusyError: another job writes here, or may do so; it is named.
        ConfigError: lock.json cannot be read, so that nobody knows.
    """
    with file_lock(run.path):
        now = LockOwner.read(run)
        if now is not None and now.job != job:
            _require_gone(run, now)
        mine = LockOwner(job, restart, attempt, socket.gethostname())
        write_json(run.lock, dataclasses.asdict(mine))
        return mine


def _require_gone(run: RunDir, now: LockOwner) -> None:
    try:
        there = job_status(now.job)
    except RunError as error:
        raise RunBusyError(f"run {run.run_id} is held by {now.job} (node {now.host}), and {error}") from None
    if there == "unknown":
        raise RunBusyError(
            f"run {run.run_id} is held by {now.job}; if that machine is gone for good, remove {run.lock} and try again"
        )
    if there != "gone":
        raise RunBusyError(f"run {run.run_id} is held by {now.job} (node {now.host}, attempt {now.attempt})")


def release(run: RunDir, mine: LockOwner) -> None:
    """Let the folder go, if it is still ours."""
    with file_lock(run.path):
        if LockOwner.peek(run) == mine:
            run.lock.unlink()


def await_owner(run: RunDir, job: JobRef, restart: int, timeout_s: float) -> LockOwner:
    """Rank 0's holder as the others see it, once written; raises RunError if it took no lock within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        now = LockOwner.peek(run) if is_listed(run.lock) else None
        if now is not None and now.job == job and now.restart == restart:
            return now
        if time.monotonic() > deadline:
            raise RunError(f"rank 0 did not take the run's lock within {timeout_s:.0f} s ({run.lock})")
        time.sleep(0.05)


@contextlib.contextmanager
def file_lock(folder: Path, name: str = "lock") -> Iterator[None]:
    """Only one process at a time is inside, over all nodes whose filesystem supports locks; the kernel ends it."""
    path = folder / f".{name}.guard"
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Filesystems without locks leave a window of milliseconds between reading and writing the lock.
        with contextlib.suppress(OSError):
            lock_file(descriptor, path, between_nodes=True)
        yield
    finally:
        with contextlib.suppress(OSError):
            unlock_file(descriptor)
        os.close(descriptor)
