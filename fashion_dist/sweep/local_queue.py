"""The queue of a sweep on this machine: a few trials at a time, each with its share of the cores and GPUs.

    python -m fashion_dist.sweep.local_queue SWEEP_FOLDER        nobody types it

Trials are launched as runs of their own are, and outlive the queue; SIGTERM ends the queue and what it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fashion_dist.cluster import launcher, permissions, placement, slurm
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import FashionDistError, ShardsError
from fashion_dist.io import write_json
from fashion_dist.paths import SweepDir
from fashion_dist.sweep import trial
from fashion_dist.sweep.sweep_record import Sweep, read_arrays
from shards.portable import cpus, set_cpus

POLL_S = 0.3


def work(folder: SweepDir) -> None:
    """Run the trials of the last submission, in order."""
    sweep, array = Sweep.read(folder), read_arrays(folder)[-1]
    me = JobRef.of_process(os.getpid())
    slots: list[JobRef | None] = [None] * min(array.max_parallel, len(array.numbers))
    started: list[int] = []
    refused: dict[str, str] = {}
    try:
        for number in array.numbers:
            slot = _free_slot(slots)
            started.append(number)
            try:
                slots[slot] = _start(sweep, number, slot, len(slots))
            except (FashionDistError, ShardsError, OSError) as error:
                refused[str(number)] = str(error)
                print(f"trial {number}: {error}", flush=True)
            write_json(folder.queue, {"job": me.to_json(), "started": started, "refused": refused})
        while any(job is not None and slurm.job_status(job) == "running" for job in slots):
            time.sleep(POLL_S)
    except SystemExit:
        for job in slots:
            if job is not None:
                slurm.cancel(job)
        raise


def _free_slot(slots: list[JobRef | None]) -> int:
    while True:
        for slot, job in enumerate(slots):
            if job is None or slurm.job_status(job) == "gone":
                return slot
        time.sleep(POLL_S)


def _start(sweep: Sweep, number: int, slot: int, slots: int) -> JobRef | None:
    mine = trial.begin(sweep, number)
    if trial.is_over(sweep, number, sweep.run_of(mine)):
        return None
    plan = trial.plan_of(sweep, mine, trial.array_of(sweep.folder, number))
    with _share(slot, slots):
        launched = launcher.launch(plan, trial.TrialJob)
    print(f"trial {number}: {launched.outcome}, run {mine.run_id}", flush=True)
    return launched.job


@contextmanager
def _share(slot: int, slots: int) -> Iterator[None]:
    """Within, what is started gets this slot's part of the cores, and of the GPUs where there are enough."""
    cores = cpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(placement.local_gpus())]
    set_cpus(cores[slot % len(cores) :: slots] or [cores[slot % len(cores)]])
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot % len(gpus) :: slots])
    try:
        yield
    finally:
        set_cpus(cores)
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible


def main(argv: list[str]) -> int:
    """Returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = SweepDir(Path(argv[0]))
    permissions.keep(folder.path)
    deadline = time.monotonic() + 30
    me = JobRef.of_process(os.getpid())
    while read_arrays(folder)[-1].job != me:  # who started us has yet to write down our id
        if time.monotonic() > deadline:
            print("nobody wrote this queue down; ending", file=sys.stderr)
            return 1
        time.sleep(0.05)
    work(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
