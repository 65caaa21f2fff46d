"""Jobs and job arrays through submitit: with `pickled_rank` the only importer of it.

On Slurm submitit writes the sbatch script and pickles the call. Locally its controller starts one process per rank;
ours adds what `--kill-on-bad-exit` and accounting do on Slurm: a dead rank ends its peers, exit codes are kept.

`python -m fashion_dist.cluster.submitit_executor FOLDER` is that controller; nobody types it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE, Controller, LocalJob
from submitit.slurm.slurm import _make_sbatch_string

from fashion_dist.cluster import containers, pickled_rank, safe_python, sbatch_options, slurm
from fashion_dist.cluster.failures import exits_file
from fashion_dist.cluster.job_environment import job_environment
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster, JobRef
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import names_in, write_json, write_private

A = TypeVar("A")
R = TypeVar("R")

_SBATCH_S = 300.0
"""sbatch itself tries for minutes where the controller takes no more jobs for the moment."""
_UNKNOWN = re.compile(r"timed out|not answer|zero bytes|receive failure|unexpected message|no job id", re.IGNORECASE)
"""What sbatch says where the controller may have taken the job although it gave no answer."""
_SUBMITTED = re.compile(r"[0-9a-f]{32}\.pkl|\d+(_\d+)?_(submission\.sh|submitted\.pkl)")


def script(resources: Resources, folder: Path, name: str, comment: str) -> str:
    """The sbatch script that `submit` would hand in; writes nothing."""
    return _script(_rank_words(folder), resources, folder, _slurm_parameters(resources, folder, name, comment))


def submit(
    call: Callable[[], object], cluster: Cluster, resources: Resources, folder: Path, name: str, comment: str = "",
    code: Path | None = None,
) -> JobRef:  # fmt: skip
    """Start one job whose ranks each call `call()`.

    `call` is picklable, and has a `checkpoint()` where the scheduler may requeue it; on `local` the ranks of all nodes
    run on this machine. `folder`, for scripts, pickles and logs, is on the filesystem that the nodes share.
    `queued_before` finds the job again by its `comment`; `code` see `job_environment`.

    Raises:
        ConfigError: the scheduler refuses the job; in its own words, and nothing is left behind.
        RunError: nobody knows whether it took the job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if cluster == "slurm":
        with _cleaned_on_refusal(folder):
            return _submit_calls([DelayedSubmission(call)], resources, folder, name, comment, code)[0]
    executor = _LocalExecutor(folder)
    executor.update_parameters(
        tasks_per_node=resources.ranks, timeout_min=resources.time_min, signal_delay_s=resources.signal_delay_s,
        gpus_per_node=resources.gpus_per_node,
    )  # fmt: skip
    with _cleaned_on_refusal(folder), job_environment(cluster, code, resources):
        return JobRef.of_process(int(executor.submit(call).job_id))


def slurm_job(job_id: str) -> JobRef:
    """A job of this machine's cluster."""
    return JobRef("slurm", job_id, name=slurm.cluster_name())


def queued_before(folder: Path, cluster: Cluster, name: str, comment: str) -> JobRef | None:
    """A job of this folder that waits or runs although nobody wrote its id down: its launcher was killed."""
    if cluster == "local":
        pid = slurm.find_process("fashion_dist.cluster.submitit_executor", str(folder))
        return JobRef.of_process(pid) if pid is not None else None
    mine = [entry for entry in slurm.queue(name=name) if entry.comment == comment and entry.status != "gone"]
    return slurm_job(mine[0].job_id) if mine else None


def complete(job: JobRef, call: Callable[[], object], resources: Resources, folder: Path) -> None:
    """Write the pickle that a launcher killed right after sbatch did not put in its place."""
    path = JobPaths(folder, job.job_id).submitted_pickle
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        _dump(DelayedSubmission(call), resources, temporary)
        temporary.rename(path)


def _dump(call: DelayedSubmission, resources: Resources, path: Path) -> None:
    call.set_timeout(resources.time_min, 0)
    call.dump(path)


def forget_results() -> None:
    """Remove this rank's result of an earlier attempt, and what a kill while writing it left; called in the job.

    submitit takes an old result for the new one, and refuses to write beside a leftover.
    """
    if "SUBMITIT_FOLDER" in os.environ:
        path = submitit.JobEnvironment().paths.result_pickle
        path.unlink(missing_ok=True)
        path.with_suffix(path.suffix + ".save_tmp").unlink(missing_ok=True)


def again(call: Callable[[], object]) -> DelayedSubmission:
    """What submitit's `checkpoint()` shall return to run `call` again."""
    return DelayedSubmission(call)


@contextlib.contextmanager
def _cleaned_on_refusal(folder: Path) -> Iterator[None]:
    before = set(folder.iterdir())
    try:
        yield
    except (OSError, ConfigError, RunError) as error:
        for path in set(folder.iterdir()) - before:
            if _SUBMITTED.fullmatch(path.name):  # another command may have begun to log here meanwhile
                path.unlink()
        if isinstance(error, OSError):
            raise ConfigError(f"nothing was submitted: {error}") from None
        raise


def _slurm_parameters(resources: Resources, folder: Path, name: str, comment: str) -> dict[str, Any]:
    # 0 where sbatch counts them in another way, beside which it takes no number per task.
    cpus = resources.cpus_per_task or (0 if sbatch_options.gives_cpus(resources.sbatch) else 1)
    optional = {
        "cpus_per_task": cpus,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gpus_per_node": resources.gpus_asked,
        "mem": f"{round(resources.mem_gb * 1024)}M" if resources.mem_gb else "",
        "setup": setup_lines(resources.setup),
        "comment": comment,
    }
    for text in (name, comment):
        if not text.isprintable():
            raise ConfigError(f"a job's name and comment may not have control characters: {text!r}")
    return {
        "job_name": name,
        "time": resources.time_min,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.ranks_per_node,
        "signal_delay_s": resources.signal_delay_s,
        "wckey": None,
        "additional_parameters": {"requeue": True, **{name: text or True for name, text in resources.sbatch.items()}},
        # srun takes neither the CPUs (since 22.05) nor the append mode from sbatch; a lost rank must end its peers.
        "srun_args": [
            "--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else []), "--open-mode=append",
            *containers.srun_arguments(resources, folder), *resources.srun_args,
        ],
        **{key: value for key, value in optional.items() if value},
    }  # fmt: skip


def setup_lines(lines: Sequence[str]) -> list[str]:
    """Shell lines of which one that fails ends the job with its words; each is a command of its own."""
    if not lines:
        return []
    failed = 'echo "error: a setup line failed with status $1: $2" >&2; exit "$1"'
    return [
        f"_setup_failed() {{ {failed}; }}",
        *(f"eval {shlex.quote(line)} || _setup_failed $? {shlex.quote(line)}" for line in lines),
    ]


# Python takes most of a second until it can listen; until then the signal would end it.
_DEAF = 'bash -c \'trap "" USR2; exec "$0" "$@"\''


def _rank_words(folder: Path) -> tuple[str, str]:
    return "fashion_dist.cluster.pickled_rank", str(folder)


def _script(words: Sequence[str], resources: Resources, folder: Path, parameters: Mapping[str, Any]) -> str:
    """An sbatch script whose ranks are `python -m WORDS`."""
    python = f"{_DEAF} {shlex.join(containers.command(resources, folder, safe_python.interpreter()))}"
    text = _make_sbatch_string(f"{python} -m {shlex.join(words)}", folder.absolute(), **parameters)
    return f"{text}\n{containers.after_ranks(folder)}"


class _LocalExecutor(submitit.LocalExecutor):  # type: ignore[misc]
    """With our controller, in a session of its own: Ctrl-C and a closed terminal end the launcher, not the job."""

    @property
    def _submitit_command_str(self) -> str:
        return local_command(self.folder)

    def _submit_command(self, command: str) -> LocalJob[Any]:
        ranks = self.parameters["tasks_per_node"]
        inherited = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = ",".join(str(index) for index in range(self.parameters["gpus_per_node"]))
        environment = {
            **os.environ,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(ranks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * self.parameters["timeout_min"]),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(self.parameters["signal_delay_s"]),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "CUDA_VISIBLE_DEVICES": inherited if gpus and inherited else gpus,
        }
        words = ("fashion_dist.cluster.submitit_executor", str(self.folder))
        process = safe_python.start_detached(*words, env=environment)
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=list(range(ranks)))


class _LocalController(Controller):  # type: ignore[misc]
    """submitit's controller, with exit codes kept and peers of a failed rank ended.

    The grace is for the peers' own error reports: gloo notices a lost peer in 1 to 2 s.
    """

    GRACE_S = 6.0

    def wait(self, freq: int = 24) -> list[int | None]:
        """Exit codes of all ranks, once all have ended, one has failed and the grace is over, or time is up."""
        begin = time.monotonic()
        failed_at: float | None = None
        signalled = False
        while True:
            codes = [task.poll() for task in self.tasks]
            write = codes if any(code is not None for code in codes) else None
            now = time.monotonic()
            if all(code is not None for code in codes):
                break
            if failed_at is None and any(code not in (None, 0, LOCAL_REQUEUE_RETURN_CODE) for code in codes):
                failed_at = now
                write_json(exits_file(self.folder, self.pid), {"exit_codes": write})
            if failed_at is not None and now - failed_at > self.GRACE_S:
                break
            if not signalled and now - begin > self.timeout_s - self.signal_delay_s:
                self._forward_signal(signal.SIGUSR2)
                signalled = True
            if now - begin > self.timeout_s:
                break
            time.sleep(1 / freq)
        write_json(exits_file(self.folder, self.pid), {"exit_codes": codes})
        return codes


def run_array(
    function: Callable[[A], R], arguments: Sequence[A], *, resources: Resources, folder: Path, name: str,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> list[R]:  # fmt: skip
    """`[function(a) for a in arguments]`, each in a task of a Slurm array.

    Functions are a module's, arguments and results are pickled; `on_progress` is called with (finished, all).

    Raises:
        RunError: a task failed or left no result; the first is shown with the place of its log.
    """
    on_progress(0, len(arguments))
    jobs = submit_array(function, arguments, resources=resources, folder=folder, name=name)
    waiting, scheduler = {job: JobPaths(folder, job.job_id).result_pickle.name for job in jobs}, Scheduler()
    try:
        while waiting:
            time.sleep(1)
            scheduler.refresh()  # a Slurm that does not answer for a while ends no task
            queue, ended = scheduler.ask(jobs, ()), names_in(folder)
            waiting = {job: name for job, name in waiting.items() if queue.status(job) != "gone" and name not in ended}
            on_progress(len(jobs) - len(waiting), len(jobs))
    except BaseException:
        for array in sorted({job.job_id.partition("_")[0] for job in jobs}):
            slurm.cancel(JobRef("slurm", array))
        raise
    return [result(folder, job.job_id) for job in jobs]


def submit_array(
    function: Callable[[A], R], arguments: Sequence[A], *, resources: Resources, folder: Path, name: str
) -> list[JobRef]:
    """One Slurm array with a task per argument, or several where the cluster's arrays are smaller; returns at once.

    Raises:
        ConfigError: the scheduler refuses an array; those before it are cancelled, and nothing is left behind.
        RunError: nobody knows whether it took one, whose tasks would find nothing to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = max(1, slurm.max_array_size())
    jobs: list[JobRef] = []
    with _cleaned_on_refusal(folder):
        try:
            for start in range(0, len(arguments), size):
                calls = [DelayedSubmission(function, argument) for argument in arguments[start : start + size]]
                jobs += _submit_calls(calls, resources, folder, name)
        except BaseException:
            for array in {job.job_id.partition("_")[0] for job in jobs}:
                slurm.cancel(JobRef("slurm", array))
            raise
    return jobs


def _submit_calls(
    calls: Sequence[DelayedSubmission], resources: Resources, folder: Path, name: str, comment: str = "",
    code: Path | None = None,
) -> list[JobRef]:  # fmt: skip
    """One array with a task per call, or for one call a plain job, which every cluster takes."""
    pickles = [folder / f"{uuid.uuid4().hex}.pkl" for _ in calls]
    for call, path in zip(calls, pickles, strict=True):
        _dump(call, resources, path)
    tasks = range(len(calls)) if len(calls) > 1 else ()
    job = submit_module(
        _rank_words(folder), f"0-{tasks[-1]}" if tasks else "", resources=resources, folder=folder, name=name,
        comment=comment, code=code,
    )  # fmt: skip
    jobs = [dataclasses.replace(job, job_id=f"{job.job_id}_{task}") for task in tasks] or [job]
    for each, path in zip(jobs, pickles, strict=True):
        path.rename(JobPaths(folder, each.job_id).submitted_pickle)
    return jobs


def submit_module(
    words: Sequence[str], task_ids: str, *, resources: Resources, folder: Path, name: str, comment: str = "",
    max_parallel: int = 0, after: str = "", hold: bool = False, code: Path | None = None,
) -> JobRef:  # fmt: skip
    """One Slurm array of `python -m WORDS`, whose tasks know themselves by SLURM_ARRAY_TASK_ID, or one job; writes one
    file.

    `task_ids` are such as `0-11` or `3,7`, of which `max_parallel` run at once (0 is no bound); empty is one job. What
    it waits for is `after`, as sbatch's `--dependency` takes it; where that can no longer be, it is cancelled. `hold`
    leaves it in the queue until somebody releases it. See `submit` for the rest.

    Raises:
        ConfigError: the scheduler refuses the array; in its own words, and nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = _slurm_parameters(resources, folder, name, comment)
    extra: dict[str, Any] = {"array": task_ids + (f"%{max_parallel}" if max_parallel else "")} if task_ids else {}
    if after:
        extra["dependency"] = ",".join(filter(None, [resources.sbatch.get("dependency", ""), after]))
        extra["kill-on-invalid-dep"] = "yes"
    extra |= {"hold": True} if hold else {}
    parameters["additional_parameters"] |= extra
    if task_ids:
        parameters["map_count"] = 1  # names the logs after array and task
    text = _script(words, resources, folder, parameters)
    with job_environment("slurm", code, resources):
        return slurm_job(_sbatch(text, folder, name, bool(comment), " array" if task_ids else ""))


def _sbatch(text: str, folder: Path, name: str, is_marked: bool, what: str = "") -> str:
    """Hand a script in, and keep it in `folder` under the job's id, which is returned; raises as `submit` does.

    One that `is_marked` by a comment is found again by whoever submits it.
    """
    slurm.cluster_name()  # known before there is a job, which belongs to it
    path = folder / f".submission-{os.getpid()}.sh"
    write_private(path, text)
    try:
        job_id = submitted_id(slurm.ask(["sbatch", "--parsable", str(path)], _SBATCH_S))
    except RunError as error:
        path.unlink()
        if _UNKNOWN.search(str(error)):
            way = "the same command again takes it up" if is_marked else "scancel ends it before the same command again"
            raise RunError(
                f"Slurm did not say whether it took the job{what} ({error}); squeue -n {name} tells, and {way}"
            ) from None
        raise ConfigError(f"the job{what} was refused, nothing was submitted: {error}") from None
    path.rename(folder / f"{job_id}_submission.sh")
    return job_id


def submitted_id(text: str) -> str:
    """The id in what `sbatch --parsable` printed, the last line that is one; raises RunError where there is none."""
    said = re.compile(r"\s*(?:Submitted batch job )?(\d+)(?:;[\w.-]+| on cluster \S+)?\s*")
    found = [match[1] for line in text.splitlines() if (match := said.fullmatch(line))]
    if not found:
        raise RunError(f"sbatch printed no job id, so the job cannot be found: {' '.join(text.split())[:200]}")
    return found[-1]


def result(folder: Path, job_id: str, wait_s: float = 30.0) -> Any:
    """What a finished task of ours returned; waits for the file, which another node may show late.

    Raises:
        RunError: the task failed, left nothing, or others can have written its file.
    """
    paths = JobPaths(folder, job_id)
    deadline = time.monotonic() + wait_s
    while paths.result_pickle.name not in names_in(folder):
        state = slurm.accounting([job_id]).get(job_id, "")
        if time.monotonic() > deadline or state in ("FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL"):
            raise RunError(f"task {job_id} left no result ({state or 'gone'}); its log is {paths.stderr}")
        time.sleep(0.2)
    outcome, value = pickled_rank.load(paths.result_pickle)
    if outcome != "success":
        raise RunError(f"task {job_id} failed: {str(value).strip().splitlines()[-1]}; its log is {paths.stderr}")
    return value


def local_command(folder: Path) -> str:
    """What the local controller runs in each rank, for a dry run."""
    return shlex.join([*safe_python.interpreter(), "-m", *_rank_words(folder)])


if __name__ == "__main__":
    # The ranks start again as often as rank 0 asks for it; the job itself counts its requeues.
    _LocalController(Path(sys.argv[1])).run(max_retry=1_000_000)
