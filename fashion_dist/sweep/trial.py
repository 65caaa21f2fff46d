"""One trial in the hands of a job: which it is, its run's folder, and whether it is worth another epoch.

    python -m fashion_dist.sweep.trial SWEEP_FOLDER FIRST        what a task of the sweep's job array runs

Everything is read from the sweep's folder, so a task that was requeued or lost its node takes up its own trial again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fashion_dist.cluster import permissions, run_lock, slurm
from fashion_dist.cluster.heartbeat import end_within
from fashion_dist.cluster.job_record import JobRecord
from fashion_dist.cluster.launcher import RunSpec, make_folder, write_run
from fashion_dist.cluster.rank_env import RankInfo, read_rank_info
from fashion_dist.cluster.worker import END_S, TrainJob, run_worker
from fashion_dist.errors import ConfigError, InputError, RunBusyError, RunError
from fashion_dist.io import names_in
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.run_status import RunState
from fashion_dist.runs import own_config, run_id
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep, Trial, read_arrays


def begin(sweep: Sweep, number: int) -> Trial:
    """The trial of that number: as it was expanded, or as the search makes it now, once and for all."""
    if sweep.is_studied:
        from fashion_dist.sweep.study import Study

        return Study(sweep).begin(number)
    known = sweep.trial(number)
    assert known is not None, "a sweep without a search knows all its trials"
    return known


def is_over(sweep: Sweep, number: int, run: RunDir) -> bool:
    """Whether there is nothing left to do for a trial: its run is done, or the sweep gave it up."""
    progress = RunState.read(run.state)
    if progress is not None and progress.state == "done":
        return True
    if not sweep.is_studied:
        return False
    from fashion_dist.sweep.decisions import given_up

    return number in given_up(sweep.folder)


def plan_of(sweep: Sweep, trial: Trial, array: SubmittedArray) -> RunSpec:
    """The plan of a trial's run, whose folder is open to the group to which the sweep's is.

    Raises:
        ConfigError: its configuration is another than when the sweep was made.
    """
    config, run = sweep.config_of(trial.settings), sweep.run_of(trial)
    begun = run.config.is_file()
    if begun and run_id(config, run.home, sweep.data_hash) != trial.run_id:
        config = own_config(run)  # one that begins with weights of its own was made from the recipe of that time
    if run_id(config, run.home, sweep.data_hash) != trial.run_id:
        changed = str(run.config) if begun else "its task's recipe, or what is known of its weights,"
        raise ConfigError(
            f"trial {trial.number} would be another run than when sweep {sweep.folder.sweep_id} was made: {changed} "
            f"has changed; the same sweep under another --name makes new trials"
        )
    home = Home.find(str(sweep.folder.home.path), sweep.request.shards)
    return RunSpec(
        config, home.shard_set(config.dataset), sweep.data_hash, run, array.cluster,
        array.resources, array.options, sweep.command, str(sweep.folder.path), trial.number,
        permissions.group_of(sweep.folder.path), code=array.code,
    )  # fmt: skip


def array_of(folder: SweepDir, number: int, job_id: str = "") -> SubmittedArray:
    """The last submission of a trial, or the one with this array's id."""
    mine = [array for array in read_arrays(folder) if number in array.numbers]
    if not mine:
        raise RunError(f"{folder.arrays} knows no submission of trial {number}")
    named = [array for array in mine if array.job is not None and array.job.job_id == job_id]
    return (named or mine)[-1]


def enter(sweep: Sweep, number: int, rank_info: RankInfo) -> RunDir | None:
    """The folder of the trial's run, ready for this rank; None where nothing is left to do.

    Raises:
        RunBusyError: another job trains the same run.
        RunError: rank 0 did not make the folder ready in time.
    """
    array = array_of(sweep.folder, number, rank_info.job.job_id.partition("_")[0])
    if not rank_info.is_main:
        return _await_main(sweep, number, rank_info, array.options.peer_timeout_s)
    trial = begin(sweep, number)
    plan = plan_of(sweep, trial, array)
    run = plan.run
    if is_over(sweep, number, run):
        return None
    make_folder(run, plan.group)
    with run_lock.file_lock(run.path, "launch"):
        before = JobRecord.read(run)
        if before is not None and before.job not in (None, rank_info.job) and slurm.job_status(before.job) != "gone":
            raise RunBusyError(f"run {run.run_id} is trained by {before.job} already, and left to it")
        write_run(plan)
        JobRecord(
            "slurm", array.resources, array.options, plan.comment, rank_info.job, time.time(), plan.sweep, number,
            str(sweep.folder.logs), array.code,
        ).write(run)  # fmt: skip
    return run


def _await_main(sweep: Sweep, number: int, rank_info: RankInfo, timeout_s: float) -> RunDir | None:
    deadline = time.monotonic() + timeout_s
    made, runs = sweep.folder.trial(number), sweep.folder.home.runs
    while True:
        known = sweep.trials[number] is not None or made.name in names_in(made.parent)
        trial = sweep.trial(number) if known else None
        if trial is not None and (run := sweep.run_of(trial)).run_id in names_in(runs):
            names = names_in(run.path)
            if run.state.name in names and is_over(sweep, number, run):
                return None
            record = JobRecord.read(run) if run.job.name in names else None
            if record is not None and record.job == rank_info.job:
                return run
        if time.monotonic() > deadline:
            raise RunError(f"rank 0 did not make trial {number} ready within {timeout_s:.0f} s")
        time.sleep(0.1)


@dataclass(frozen=True)
class TrialJob(TrainJob):
    """A run that its sweep may end early."""

    def pruner(self, run: RunDir) -> Callable[[int], bool] | None:
        """What asks the sweep whether its trial is worth another epoch; None where the sweep stops none early."""
        record = JobRecord.read(run)
        assert record is not None, "a trial is submitted"
        sweep = Sweep.read(SweepDir(Path(record.sweep)))
        if sweep.spec.halving is None:
            return None

        def prune(epoch: int) -> bool:
            from fashion_dist.sweep.study import Study

            return Study(sweep).prune(record.trial, epoch, run)

        return prune


def main(argv: list[str]) -> int:
    """Run this rank of the task's trial; returns the exit status."""
    if len(argv) != 2 or not SweepDir(Path(argv[0])).sweep.is_file() or "SLURM_ARRAY_TASK_ID" not in os.environ:
        print("error: usage: python -m fashion_dist.sweep.trial SWEEP_FOLDER FIRST, in a job array", file=sys.stderr)
        return 2
    sweep = Sweep.read(SweepDir(Path(argv[0])))
    number = int(argv[1]) + int(os.environ["SLURM_ARRAY_TASK_ID"])
    permissions.keep(sweep.folder.path)
    try:
        run = enter(sweep, number, read_rank_info(os.environ))
        if run is None:
            print(f"trial {number} of sweep {sweep.folder.sweep_id} is over already", flush=True)
            return 0
        run_worker(run, TrialJob(str(run.path)).pruner)
    except (RunBusyError, InputError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _main() -> None:
    status = 1
    try:
        status = main(sys.argv[1:])
    finally:
        end_within(END_S, status)
    sys.exit(status)


if __name__ == "__main__":
    _main()
