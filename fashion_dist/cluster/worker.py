"""What runs in each rank: find the place, take the run's lock, listen to signals, train, and say how it ended.

Everything is read from the run folder, nothing from the pickle but the folder's path: a job that was requeued, killed
with its node or launched again starts the same way. Besides submitit this module starts a rank on its own:

    srun python -P -m fashion_dist.cluster.worker RUN_FOLDER     in an sbatch script written by hand
    python -P -m fashion_dist.cluster.worker RUN_FOLDER          one rank, no cluster

Torch is imported only after the thread counts are set, which OpenMP reads once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_dist.cluster import code_version, containers, failures, job_record, machine, permissions, run_lock, slurm
from fashion_dist.cluster.gpu_check import require_gpu
from fashion_dist.cluster.heartbeat import HeartbeatThread, end_within
from fashion_dist.cluster.job_record import JobRecord, LockOwner, RuntimeOptions
from fashion_dist.cluster.rank_env import RankInfo, advertise_address, read_rank_info
from fashion_dist.cluster.stops import PreemptionFlag, ask_why_stopped, time_left, was_suspended
from fashion_dist.errors import InputError, RunBusyError, RunError
from fashion_dist.io import read_json, write_json
from fashion_dist.paths import RunDir
from fashion_dist.train.startup_timer import StartupTimer, import_late
from shards.portable import cpus, set_cpus
from shards.safe_io import refuse_link

if TYPE_CHECKING:
    from fashion_dist.data.options import Decode
    from fashion_dist.tracking.wandb_media import Media

_PEER_FILE = re.compile(r"(rank_|node_|attempt-)\d+\.json")
EXIT_REQUEUE_LOCAL = 144
"""By which rank 0 asks submitit's local controller to start the ranks again."""

MakePruner = Callable[[RunDir], Callable[[int], bool] | None]

END_S = 60.0
"""A rank whose work is over ends within this time, whatever threads still hang."""


@dataclass(frozen=True)
class TrainJob:
    """What submitit pickles: the run's folder."""

    run_dir: str

    def __call__(self) -> None:
        """Run this rank to the run's end, or to the next stop."""
        from fashion_dist.cluster import submitit_executor

        submitit_executor.forget_results()
        try:
            run_worker(RunDir(Path(self.run_dir)), self.pruner)
        except BaseException:
            end_within(END_S, 1)
            raise
        end_within(END_S, 0)

    def pruner(self, run: RunDir) -> Callable[[int], bool] | None:  # noqa: ARG002
        """What decides, from the epochs done, whether the run ends early; None for a run of its own."""
        return None

    def checkpoint(self) -> object:
        """For a signal that comes before `run_worker` listens: the same again. No collective, no state."""
        from fashion_dist.cluster import submitit_executor

        return submitit_executor.again(type(self)(self.run_dir))


def run_worker(run: RunDir, make_pruner: MakePruner | None = None) -> None:
    """This rank's whole life; raises what ended it, after it has been written to the run folder.

    `make_pruner` makes what ends a run early, on rank 0; see `TrainJob.pruner`.

    Raises:
        SystemExit: rank 0 of a local job asks to be started again.
        RunBusyError: another job holds the run folder.
    """
    startup = StartupTimer()
    stop = PreemptionFlag()
    stop.install()
    faulthandler.enable()
    permissions.require_own(run.path)
    permissions.keep(run.path)
    rank_info = read_rank_info(os.environ)
    record = JobRecord.read(run)
    options = record.options if record is not None else RuntimeOptions()
    owner = _enter(run, rank_info, options.peer_timeout_s)
    threads = set_threads(rank_info)
    heartbeat = HeartbeatThread(run, rank_info, owner, stalled_s=min(60.0, options.peer_timeout_s / 2))
    if rank_info.is_main and record is not None:
        # Slurm's own signal comes up to a minute early, and is lost on a rank that is still starting.
        heartbeat.warn_before_limit(functools.partial(time_left, rank_info), record.resources.signal_delay_s)
        if rank_info.world_size > 1 and "SLURM_JOB_ID" in os.environ:
            again = containers.requeue_file(Path(record.logs or run.logs), os.environ["SLURM_JOB_ID"])
            asked = functools.partial(was_suspended, rank_info)
            heartbeat.requeue_after_suspension(again, options.peer_timeout_s, asked)
    heartbeat.start()
    launched = record.code if record is not None else ""
    code = code_version.code_hash() if launched else ""
    if told := code_version.difference(launched, [code]):
        print(told, file=sys.stderr, flush=True)
    startup.record_phase("run folder")
    try:
        prune = make_pruner(run) if make_pruner is not None and rank_info.is_main else None
        outcome = _train(run, rank_info, owner, record, options, threads, stop, heartbeat, startup, prune, code)
        heartbeat.withdraw()
        if rank_info.is_main:
            _leave(run, rank_info, owner, options, outcome)
    except (Exception, KeyboardInterrupt) as error:
        failure = failures.report(run, rank_info.rank, owner.attempt, error)
        print(failure.sentence, file=sys.stderr, flush=True)
        if failure.is_of_a_peer and heartbeat.look_for_suspension():
            message = "suspended for longer than its ranks wait for each other; goes on by itself"
            job_record.end_attempt(run, owner.attempt, "requeued", message, goes_on=True)
            write_json(run.state, {**read_json(run.state), "state": "stopped", "message": message})
        elif rank_info.is_main:
            heartbeat.withdraw()
            _fail(run, owner, failure)
        raise
    finally:
        if rank_info.is_main:
            run_lock.release(run, owner)
        heartbeat.stop()


def set_threads(rank_info: RankInfo) -> int:
    """Give this rank its share of its node's cores, before torch asks; returns the number of threads."""
    asked = int(os.environ.get("SLURM_CPUS_PER_TASK") or 0) if rank_info.job.cluster == "slurm" else 0
    threads, cores = cores_of(cpus(), rank_info, asked)
    if cores:
        set_cpus(cores)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    return threads


def cores_of(allowed: Sequence[int], rank_info: RankInfo, asked: int) -> tuple[int, list[int]]:
    """How many threads a rank runs, and the cores to keep it to; none where these are its own already, or others'.

    `allowed` are the cores of this process, `asked` those that a scheduler promised to each rank; 0 without one.
    """
    ranks = rank_info.local_world_size
    threads = max(1, asked or len(allowed) // ranks)
    # With more cores than the ranks of this job asked for, Slurm confines nobody: other jobs run on some of them.
    if ranks == 1 or len(allowed) // ranks != threads:
        return threads, []
    first = rank_info.local_rank * threads
    return threads, list(allowed[first : first + threads])


def _enter(run: RunDir, rank_info: RankInfo, timeout_s: float) -> LockOwner:
    """Rank 0 takes the lock and numbers the attempt; the others wait for that."""
    if not rank_info.is_main:
        return run_lock.await_owner(run, rank_info.job, rank_info.restart, timeout_s)
    for folder in (run.heartbeats, run.rendezvous(1).parent):
        folder.mkdir(exist_ok=True)  # before the others look
    attempt = len(job_record.attempts(run)) + 1
    owner = run_lock.acquire(run, rank_info.job, rank_info.restart, attempt)
    print(failures.start_mark(attempt), file=sys.stderr, flush=True)
    job_record.begin_attempt(
        run,
        {
            "attempt": attempt, "job": rank_info.job.to_json(), "restart": rank_info.restart, "host": owner.host,
            "nodes": rank_info.node_list or owner.host, "ranks": rank_info.world_size, "node_count": rank_info.nodes,
            "hardware": machine.hardware(), "versions": machine.installed("torch", "torchvision"),
        },
    )  # fmt: skip
    if changed := job_record.changed_versions(job_record.attempts(run)):
        print(changed, file=sys.stderr, flush=True)
        job_record.note_attempt(run, attempt, changed)
    _forget_peers(run)
    return owner


def _forget_peers(run: RunDir) -> None:
    """Remove what ranks left at the last start, so that it does not pass for this one's."""
    for folder in (run.heartbeats, run.rendezvous(1).parent):
        for path in refuse_link(folder).glob("*.json"):
            if _PEER_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _train(
    run: RunDir, rank_info: RankInfo, owner: LockOwner, record: JobRecord | None, options: RuntimeOptions, threads: int,
    stop: PreemptionFlag, heartbeat: HeartbeatThread, startup: StartupTimer, prune: Callable[[int], bool] | None,
    code: str,
) -> str:  # fmt: skip
    """`done`, `stopped` or `pruned`.

    Whatever needs no peer comes before the ranks meet, so that they wait for the slowest one only once.
    """
    address, interface = advertise_address(rank_info, record.resources.network_interface if record else "")
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)

    from fashion_dist.data.options import LoaderOptions
    from fashion_dist.runs import open_run, read_facts, require_weights
    from fashion_dist.tasks import load
    from fashion_dist.train import decode_choice
    from fashion_dist.train.distributed import World, init_process_group
    from fashion_dist.train.options import Callbacks, TrainerOptions
    from fashion_dist.train.trainer import Trainer, build_model

    import_late()
    require_gpu(record.resources.gpus_if_known if record is not None else 0)
    startup.record_phase("imports")
    tested = decode_choice.test_node(run, options.decode, options.cache, rank_info.local_rank)
    if tested:
        startup.record_phase("decoder's self-test")
    opened = open_run(run)
    require_weights(opened)
    config, shard_set = opened.config, opened.shard_set
    model = build_model(config, shard_set, run.home.weights, read_facts(run).weights_sha256)
    startup.record_phase("model")
    world = World(
        rank_info.rank, rank_info.world_size, rank_info.local_rank, rank_info.local_world_size, rank_info.node,
        rank_info.nodes,
    )  # fmt: skip

    def should_stop() -> bool:
        heartbeat.steps += 1
        return stop.requested

    def media() -> Media:
        from fashion_dist.results.media import run_media  # pictures, which only trackers are shown

        return run_media(run, config, shard_set)

    group = Path(record.sweep).name if record is not None else ""
    callbacks = Callbacks(should_stop, prune, heartbeat.nodes.take, media, startup)
    print(f"attempt {owner.attempt}: {rank_info}, address {address} on {interface or 'any interface'}", flush=True)
    with init_process_group(world, run.rendezvous(owner.attempt), address, options.peer_timeout_s) as dist:
        startup.record_phase("process group")
        note = code_version.difference(record.code, dist.gather(code)) if record is not None and code else ""
        decode = decode_choice.settle(run, options.decode, options.cache, dist, tested)
        if decode is not None and decode.why:
            note = _joined(note, f"images are decoded by {decode.way}, since {decode.why}")
        if note and rank_info.is_main:
            job_record.note_attempt(run, owner.attempt, _joined(job_record.attempts(run)[-1].note, note))
        way: Decode = decode.way if decode is not None else "cpu"
        loader = LoaderOptions(
            stage=options.stage, cache=options.cache, decode=way, bad_samples=options.bad_samples, threads=threads
        )  # fmt: skip
        trainer_options = TrainerOptions(loader, options.wandb, group, owner.attempt, note, options.track)
        trainer = Trainer(config, load(config.task), shard_set, dist, run, trainer_options, callbacks, model)
        outcome = trainer.fit()
        if outcome == "stopped":  # a signal may have reached any one rank; rank 0 has to know which it was
            heartbeat.signals = stop.signals
            heartbeat.beat()
            dist.barrier()
        return outcome


def _leave(run: RunDir, rank_info: RankInfo, owner: LockOwner, options: RuntimeOptions, outcome: str) -> None:
    """Rank 0 notes how the attempt ended, and asks for another one where the scheduler wants the run to go on."""
    if outcome == "done":
        job_record.end_attempt(run, owner.attempt, "done")
        return
    if outcome == "pruned":
        message = "its sweep gave it up; launching it goes on"
        job_record.end_attempt(run, owner.attempt, "pruned", message)
        _write_message(run, message)
        return
    end = ask_why_stopped(run, rank_info, owner)
    reached = sum(attempt.end == "time limit" for attempt in job_record.attempts(run)) + (end == "time limit")
    goes_on = end in job_record.GOES_ON
    if goes_on and reached > options.time_limits:
        goes_on, message = False, f"reached its time limit {reached} times; launch again to go on"
    else:
        message = f"{end}; goes on by itself" if goes_on else f"{end}; launch again to go on"
    job_record.end_attempt(run, owner.attempt, end, message, goes_on=goes_on)
    _write_message(run, message)
    if not goes_on or end == "requeued":
        return
    run_lock.release(run, owner)
    if rank_info.job.cluster == "local":
        raise SystemExit(EXIT_REQUEUE_LOCAL)
    try:
        slurm.requeue(rank_info.job.job_id)
    except RunError as error:
        record = JobRecord.read(run)
        if record is not None and record.resources.container and shutil.which("scontrol") is None:
            # The batch script runs outside of the container, and requeues the job once we have ended.
            containers.requeue_file(Path(record.logs or run.logs), os.environ["SLURM_JOB_ID"]).touch()
            return
        raise RunError(f"the job could not requeue itself ({error}); launch again to go on") from None


def _write_message(run: RunDir, message: str) -> None:
    told = _joined(message, job_record.attempts(run)[-1].note)
    write_json(run.state, {**read_json(run.state), "message": told})


def _joined(*sentences: str) -> str:
    return "; ".join(filter(None, sentences))


def _fail(run: RunDir, owner: LockOwner, failure: failures.Failure) -> None:
    with contextlib.suppress(OSError):  # a full disk: the rank's own log has the words
        job_record.end_attempt(run, owner.attempt, "failed", failure.sentence)
        values = {**read_json(run.state), "state": "failed", "attempt": owner.attempt, "message": failure.sentence}
        write_json(run.state, {**values, "updated": time.time()})


def main(argv: list[str]) -> int:
    """`python -m fashion_dist.cluster.worker RUN_FOLDER`; returns the exit status."""
    if len(argv) != 1 or not RunDir(Path(argv[0])).config.is_file():
        print(
            "error: usage: python -m fashion_dist.cluster.worker RUN_FOLDER (a folder with a config.json)",
            file=sys.stderr,
        )
        return 2
    from fashion_dist.runs import own_config

    try:
        run = RunDir(Path(argv[0]).absolute())
        own_config(run)  # before anything in the folder is touched
        run_worker(run)
    except (RunBusyError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
