"""What follows a run or a sweep by itself: `--then collect,report`.

On Slurm each link is a job that waits for the one before (`--dependency`); on this machine one process waits for the
run and does them in order. Launching the same again goes on at the first link that is not done.

FOLDER/then.json           the links, with their jobs
FOLDER/then/<link>.json    how a link ended

    python -m fashion_dist.monitor.chain FOLDER LINK [LINK ...]        nobody types it
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist import cli
from fashion_dist.cluster import permissions, run_lock, safe_python, slurm
from fashion_dist.cluster.job_environment import job_environment
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import Cluster, JobRef, JobStatus
from fashion_dist.errors import ConfigError, RunError, unknown
from fashion_dist.io import append, read_json, write_json
from fashion_dist.monitor.follow import WATCH_S, follow
from fashion_dist.paths import RunDir, SweepDir

LINKS = ("collect", "report", "sync")
"""The commands that may follow, none of which needs more than the folder."""
_ALIVE = ("queued", "running")


@dataclass(frozen=True)
class Link:
    """A command that follows a run or a sweep.

    Of several links on this machine one process is the `job`; `status` is None while it has not ended.
    """

    name: str
    job: JobRef | None
    status: int | None = None
    message: str = ""


def parse(text: str) -> tuple[str, ...]:
    """The links that `collect,report` means; raises ConfigError for others, and for one that is named twice."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in LINKS:
            raise unknown("link (--then)", name, LINKS)
    if len(set(names)) < len(names):
        raise ConfigError(f"--then {text} names one twice; allowed: each of {', '.join(LINKS)} once")
    return names


def read(folder: Path) -> list[Link]:
    """The links of a run's or a sweep's folder, in order; none where nothing follows it."""
    found = []
    for name, job in read_json(folder / "then.json").items():
        if name in LINKS:
            ended = read_json(folder / "then" / f"{name}.json")
            status = ended.get("exit_status")
            given = JobRef.from_json(job, folder / "then.json") if job else None
            found.append(Link(name, given, status if isinstance(status, int) else None, str(ended.get("message", ""))))
    return found


def line(folder: Path, scheduler: Scheduler | None = None) -> str:
    """All links in one line, such as `collect done, report waits (Slurm job 7)`; empty where nothing follows."""
    links = read(folder)
    there = _there(links, scheduler or Scheduler())
    return ", ".join(f"{link.name} {_told(link, there[link.name])}" for link in links)


def to_json(folder: Path) -> dict[str, Any]:
    """The links as `--json` has them, under `then`; empty where nothing follows."""
    told = [
        {"name": link.name, "job": link.job.to_json() if link.job else None, "exit_status": link.status,
         "message": link.message} for link in read(folder)
    ]  # fmt: skip
    return {"then": told} if told else {}


def _there(links: Sequence[Link], scheduler: Scheduler) -> dict[str, JobStatus]:
    """Whether the job of each link waits, runs or is gone, by the link's name."""
    queue = scheduler.ask([link.job for link in links if link.job is not None])
    return {link.name: queue.status(link.job) if link.job is not None else "gone" for link in links}


def not_over(folder: Path, scheduler: Scheduler | None = None) -> list[str]:
    """The links whose jobs wait or run, or may do so."""
    links = [link for link in read(folder) if link.status is None]
    there = _there(links, scheduler or Scheduler())
    return [link.name for link in links if there[link.name] != "gone"]


def _told(link: Link, there: str) -> str:
    if link.status is not None:
        return "done" if link.status == 0 else f"failed ({link.message})"
    if there in _ALIVE:
        is_slurm = link.job is not None and link.job.cluster == "slurm"
        return f"{'runs' if there == 'running' and is_slurm else 'waits'} ({link.job})"
    return "did not begin" if there == "gone" else there


def submit(
    folder: Path, names: Sequence[str], cluster: Cluster, resources: Resources, before: Sequence[JobRef] = ()
) -> None:
    """Let the links follow that are neither done nor on their way; without names those of the last time, if any.

    Each asks for a node, a rank and at most one GPU of the run's `resources`; `before` are its jobs that wait or run.

    Raises:
        ConfigError: the scheduler refuses a job, or another cluster has those that it would follow.
        RunError: nobody knows whether it took one, which the same again takes up.
    """
    if not names and not (folder / "then.json").is_file():
        return
    with run_lock.file_lock(folder, "then"):
        links = {link.name: link for link in read(folder)}
        noted = [*before, *(link.job for link in links.values() if link.job and link.status is None)]
        if away := next((job for job in noted if job.is_elsewhere), None):
            if not names:
                return
            raise ConfigError(f"{away} is on cluster {away.name}: what follows {folder.name} is asked for there")
        names = names or list(links)
        alive = {name for name, there in _there([*links.values()], Scheduler()).items() if there in _ALIVE}
        done = {n for n, link in links.items() if link.status == 0 and not before}
        jobs = {name: links[name].job if name in links else None for name in names}
        todo = {name: jobs[name] if name in alive else None for name in names if name not in done}
        wanted = [name for name, job in todo.items() if job is None]
        for name in wanted:
            (folder / "then" / f"{name}.json").unlink(missing_ok=True)
        made = _here(folder, wanted) if cluster == "local" else _on_slurm(folder, todo, resources, before)
        for name, job in zip(wanted, made, strict=False):  # each noted before the next is asked for
            jobs[name] = job
            write_json(folder / "then.json", {name: job.to_json() if job else None for name, job in jobs.items()})


def _here(folder: Path, names: Sequence[str]) -> Iterator[JobRef]:
    if not names:
        return
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    words = ("fashion_dist.monitor.chain", str(folder), *names)
    with job_environment("local"), append(folder / "logs" / "then.log") as log:
        process = safe_python.start_detached(*words, env=os.environ, output=log)
    yield from [JobRef.of_process(process.pid)] * len(names)


def _on_slurm(
    folder: Path, todo: Mapping[str, JobRef | None], resources: Resources, before: Sequence[JobRef]
) -> Iterator[JobRef]:
    """The jobs of the links in `todo` that have none that is alive; one that nobody noted is taken up."""
    from fashion_dist.cluster import submitit_executor as jobs
    from fashion_dist.cluster.launcher import comment_of

    one = resources.of_one_rank
    ids = sorted({job.job_id.partition("_")[0] for job in before if job.cluster == "slurm"})
    # A sweep's trials may fail and the rest be collected; a run that failed has nothing to collect.
    how = "afterany" if (folder / "sweep.json").is_file() else "afterok"
    after = f"{how}:{':'.join(ids)}" if ids else ""
    for name, job in todo.items():
        title, comment = f"{folder.name}-{name}", comment_of(folder / "then" / name)
        words = ("fashion_dist.monitor.chain", str(folder), name)
        try:
            made = job or jobs.queued_before(folder, "slurm", title, comment)
            made = made or jobs.submit_module(
                words, "", resources=one, folder=folder / "logs", name=title, comment=comment, after=after
            )
        except (ConfigError, RunError) as error:
            itself = f"{folder.name} itself is submitted or done, but {name}, which is to follow it,"
            if isinstance(error, RunError):
                raise RunError(f"{itself} may not be: {error}") from None
            raise ConfigError(f"{itself} is not: {error}; the same command again adds it") from None
        if job is None:
            yield made
        after = f"afterok:{made.job_id}"


def watch(folder: Path) -> bool:
    """Follow the links to their end, a line on stderr whenever something changes; returns whether all are done."""
    said, scheduler = "", Scheduler()
    while True:
        scheduler.refresh()
        words = line(folder, scheduler)
        if words != said:
            cli.tell(f"then: {words}")
            said = words
        open_links = [link for link in read(folder) if link.status is None]
        if not any(there in _ALIVE for there in _there(open_links, scheduler).values()):
            return all(link.status == 0 for link in read(folder))
        time.sleep(WATCH_S)


def cancel(folder: Path) -> None:
    """End the jobs of links that wait or run."""
    for job in {link.job for link in read(folder) if link.status is None and link.job is not None}:
        if slurm.job_status(job) != "gone":
            slurm.cancel(job)


def do(folder: Path, name: str) -> int:
    """Run one link's command, and write down how it ended; returns its exit status."""
    is_sweep = (folder / "sweep.json").is_file()
    flags = ["--best"] if is_sweep and name == "collect" else []
    words = [name, str(folder), "--home", str(folder.parent.parent), "--json", *flags]
    said = subprocess.run(
        [*safe_python.interpreter(), "-m", "fashion_dist", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    lines = said.stdout.splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    message = str(told.get("error") or told.get("message") or "")
    print(f"{name}: exit status {said.returncode}, {message}", flush=True)
    (folder / "then").mkdir(exist_ok=True)
    write_json(folder / "then" / f"{name}.json", {"exit_status": said.returncode, "message": message})
    return said.returncode


def main(argv: Sequence[str]) -> int:
    """Do the links in order once the run or the sweep has ended; returns the exit status of the last."""
    folder, names = Path(argv[0]), argv[1:]
    permissions.keep(folder)
    if "SLURM_JOB_ID" not in os.environ:
        if (folder / "sweep.json").is_file():
            from fashion_dist.monitor import sweep_messages

            sweep_messages.of_end(SweepDir(folder))
        elif (state := follow(RunDir(folder), lambda _view: None).state) != "done":
            print(f"the run is {state}, so nothing follows it", flush=True)
            return 1
    for name in names:
        if status := do(folder, name):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
