"""Many runs and sweeps at once: find them, look at all with one question to the scheduler, draw, watch, cancel."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fashion_dist import cli
from fashion_dist.cluster import slurm
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.run_snapshot import STATES, RunSnapshot
from fashion_dist.cluster.run_view import RunView, read_run_views, typed
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError, InputError, RunError, unknown
from fashion_dist.monitor import chain, messages, sweep_messages, sweep_table
from fashion_dist.monitor.follow import WATCH_S
from fashion_dist.monitor.run_index import read_indexed_views
from fashion_dist.monitor.table import COLUMNS, columns_named, page, table
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.runs import own_config
from fashion_dist.sweep.view import SweepView, UnreadableSweep, read_sweep_view
from shards import program


@dataclass(frozen=True)
class Overview:
    """Runs and sweeps as they are now."""

    runs: Sequence[RunView] = ()
    sweeps: Sequence[SweepView | UnreadableSweep] = ()

    @property
    def is_active(self) -> bool:
        """Whether anything waits or runs."""
        return any(view.is_active for view in self.runs) or any(view.is_active for view in self.sweeps)


def find(
    home: Home, names: Sequence[str], *, is_waiting_found: bool = False
) -> tuple[list[RunDir], list[SweepDir]]:  # fmt: skip
    """The runs and the sweeps that are named; raises ConfigError as `Home.find_run` does."""
    runs: list[RunDir] = []
    sweeps: list[SweepDir] = []
    for name in names:
        sweep = home.find_sweep(name)
        if sweep is not None:
            sweeps.append(sweep)
        else:
            runs.append(home.find_run(name, is_waiting_found=is_waiting_found))
    return runs, sweeps


def look_at_all(
    runs: Sequence[RunDir], sweeps: Sequence[SweepDir], scheduler: Scheduler | None = None, home: Home | None = None
) -> Overview:  # fmt: skip
    """The runs and sweeps as they are now; who looks again keeps the `scheduler`, which bounds what Slurm is asked.

    Of all runs of a working folder `home`, those that are done are known by its index.
    """
    scheduler = scheduler or Scheduler()
    scheduler.refresh()
    views = read_run_views(runs, scheduler) if home is None else read_indexed_views(home, runs, scheduler)
    known = {view.run_id: view for view in views}
    return Overview(views, [_read_sweep(sweep, scheduler, known) for sweep in sweeps])


def look_at_named(runs: Sequence[RunDir], sweeps: Sequence[SweepDir], scheduler: Scheduler) -> Overview:
    """`look_at_all` for the few that were named: a trial whose job waits, of which only its sweep knows, waits."""
    seen = look_at_all(runs, sweeps, scheduler)
    return Overview([_as_trial(run, view, scheduler) for run, view in zip(runs, seen.runs, strict=True)], seen.sweeps)


def _as_trial(run: RunDir, view: RunView, scheduler: Scheduler) -> RunView:
    """A run's view, or that of its sweep's last job for it where that one waits."""
    if view.is_active or view.state in ("done", "unreadable"):
        return view
    for folder, number in run.home.trials(run.run_id).get(run.run_id, []):
        sweep = _read_sweep(folder, scheduler, {view.run_id: view})
        if sweep.trials and sweep.trials[number].view.is_active:
            return sweep.trials[number].view
    return view


def _read_sweep(sweep: SweepDir, scheduler: Scheduler, known: Mapping[str, RunView]) -> SweepView | UnreadableSweep:
    try:
        return read_sweep_view(sweep, scheduler, known)
    except (InputError, RunError, OSError) as error:
        return UnreadableSweep(sweep.sweep_id, f"unreadable: {error}")


def select(views: Sequence[RunView], state: str, task: str, sort: str) -> list[RunView]:
    """The runs of one state and task, sorted by a column, or by their last change for `updated`.

    Raises:
        ConfigError: no such state.
    """
    if state and state not in STATES:
        raise unknown("state", state, STATES)
    chosen = [view for view in views if state in ("", view.state) and task in ("", view.task)]
    if sort == "updated":
        return sorted(chosen, key=lambda view: (-view.progress.updated, view.run_id))
    column = columns_named([sort], chosen)[0] if chosen else COLUMNS["run"]
    return sorted(chosen, key=lambda view: (*column.order(view), view.run_id))


def draw(
    named: Sequence[RunDir], seen: Overview, home: Home, width: int, *, trials: bool = False, height: int = 0,
    columns: Sequence[str] = (),
) -> str:  # fmt: skip
    """The page of the one run or sweep that was named, else a table of sweeps and one of runs.

    `trials` shows those of sweeps among the runs as well; `height` bounds a sweep's page, unless 0; `columns` are those
    of the table of runs, which chooses where there are none.
    """
    if len(named) == 1 and len(seen.runs) == 1 and not seen.sweeps and not columns and named[0].path.is_dir():
        return page(named[0], seen.runs[0], _going_on(named[0]), width) + _followed(named[0].path)
    if not seen.runs and len(seen.sweeps) == 1 and isinstance(sweep := seen.sweeps[0], SweepView):
        then = _followed(sweep.sweep.folder.path)
        return sweep_table.page(sweep, width, sweep_messages.commands(sweep), max(0, height - bool(then))) + then
    hidden = {trial.view.run_id for sweep in seen.sweeps for trial in sweep.trials} if not (trials or named) else set()
    views = [view for view in seen.runs if view.run_id not in hidden]
    parts = [f"{sweep_table.sweeps(seen.sweeps, width)}\n"] if seen.sweeps else []
    if views:
        counts = {state: sum(view.state == state for view in views) for state in STATES}
        summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        parts.append(f"{table(views, width, columns)}\n\n{len(views)} run{'s' * (len(views) > 1)}: {summary}")
    if len(views) < len(seen.runs):
        parts.append(f"{len(seen.runs) - len(views)} more are trials of sweeps: {program.command('status')} SWEEP")
    if not parts and home.all_runs():
        return f"none of the runs in {home.runs} is as asked"
    if not parts:
        return f"no runs in {home.runs}; {program.command('launch')} --task NAME makes one"
    return "\n".join(parts)


def _followed(folder: Path) -> str:
    then = chain.line(folder)
    return f"\n  then      {then}" if then else ""


def _going_on(run: RunDir) -> str:
    try:
        own_config(run)
    except InputError as error:
        return f"no: {error}"
    return typed("launch", run)


def watch(look_now: Callable[[], Overview], draw_now: Callable[[Overview, int], str]) -> Overview:
    """Redraw until nothing waits or runs; a plain copy every time when stdout is no terminal."""
    if not sys.stdout.isatty():
        seen = look_now()
        while seen.is_active:
            print(cli.visible(draw_now(seen, 200)), flush=True)
            time.sleep(WATCH_S)
            seen = look_now()
        return seen
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            seen = look_now()
            live.update(
                Text(cli.visible(draw_now(seen, shutil.get_terminal_size().columns)), no_wrap=True), refresh=True
            )
            if not seen.is_active:
                return seen
            time.sleep(WATCH_S)


def hold(runs: Sequence[RunDir], sweeps: Sequence[SweepDir], *, release: bool) -> cli.Result:
    """Keep waiting jobs of these runs and sweeps from starting, or let go of them.

    Raises:
        ConfigError: none was named, or a named one does not wait in Slurm's queue.
        RunError: the scheduler refused.
    """
    verb = "release" if release else "hold"
    if not runs and not sweeps:
        raise ConfigError(f"--{verb} needs the runs or sweeps: {program.command('status')} RUN --{verb}")
    views = list(look_at_named(runs, [], Scheduler()).runs)
    for sweep in sweeps:
        trials = [trial.view for trial in read_sweep_view(sweep).trials]
        if unknown := next((view for view in trials if view.cause == "no answer"), None):
            raise RunError(f"{unknown.run_id}: {unknown.detail}")
        views += [view for view in trials if view.state == "queued"]
    done: dict[str, str] = {}
    for view in views:
        if view.state != "queued" or view.job is None or view.job.cluster != "slurm":
            raise ConfigError(f"{view.run_id} is {view.state}; only what waits in Slurm's queue is held and released")
        done[view.run_id] = f"{view.job}: {'released' if release else 'held'}"
    for first in range(0, len(views), 100):
        part = [view.job.job_id for view in views[first : first + 100] if view.job is not None]
        slurm.ask(["scontrol", "release" if release else "uhold", ",".join(part)])  # of root's too the owner lets go
    lines = [f"{shlex.quote(run_id)}  {what}" for run_id, what in done.items()]
    return cli.Result("", text="\n".join(lines) or "nothing waits", data={verb: done})


AGAIN_S = 4.0
"""How long a second Ctrl-C is waited for."""


def with_links(made: cli.Result, folder: RunDir | SweepDir, jobs: Sequence[JobRef], *, wait: bool) -> cli.Result:
    """What a launch made of a run or a sweep, with what follows it by itself; or with `wait`, how all that ended."""
    followed = chain.to_json(folder.path)
    if followed:
        text = "\n".join(filter(None, [made.text, f"then: {chain.line(folder.path)}"]))
        made = replace(made, text=text, data={**made.data, **followed})
    if not wait or (made.data.get("outcome") == "done" and not followed):
        return made
    cli.tell(made.to_text())
    try:
        if isinstance(folder, SweepDir):
            ended = sweep_messages.of_end(folder)
        else:
            ended = made if made.data["outcome"] == "done" else messages.of_end(folder)
        # Nothing follows a run that failed; a sweep is collected whatever became of its trials.
        hopeless = isinstance(folder, RunDir) and ended.exit_status
        done = not followed or hopeless or chain.watch(folder.path)
    except KeyboardInterrupt:
        interrupted(folder, jobs)
        raise
    status = ended.exit_status if done else cli.EXIT_FAILED
    return replace(ended, exit_status=status, data={**ended.data, **chain.to_json(folder.path)})


def interrupted(folder: RunDir | SweepDir, jobs: Sequence[JobRef | None]) -> None:
    """Ctrl-C ends `--wait`, not what is waited for: say so; on this machine a second one asks that to save and stop."""
    is_run = isinstance(folder, RunDir)
    look = typed("status", folder)
    cli.tell(f"\nthe {'run' if is_run else 'sweep'} goes on; {look} --watch follows it, {look} --cancel ends it")
    if not any(job is not None and job.cluster == "local" for job in jobs):
        return
    try:
        cli.tell(f"Ctrl-C once more within {AGAIN_S:.0f} s asks it to save and stop")
        time.sleep(AGAIN_S)
    except KeyboardInterrupt:
        runs, sweeps = ([folder], []) if isinstance(folder, RunDir) else ([], [folder])
        cli.tell(f"\n{cancel(runs, sweeps).text}")


def cancel(runs: Sequence[RunDir], sweeps: Sequence[SweepDir] = ()) -> cli.Result:
    """End the jobs of these runs and sweeps and of no others.

    Raises:
        ConfigError: none was named, or what a run's files call its job is none; jobs named before are ended.
        RunError: the scheduler refused.
    """
    if not runs and not sweeps:
        raise ConfigError(f"--cancel needs the runs to cancel: {program.command('status')} RUN --cancel")
    done: dict[str, str] = {}
    for folder in [*(run.path for run in runs), *(sweep.path for sweep in sweeps)]:
        chain.cancel(folder)
    for run, view in zip(runs, look_at_named(runs, [], Scheduler()).runs, strict=True):
        if view.is_active and view.job is not None:
            if view.job.cluster == "local" and view.job not in RunSnapshot.read(run).jobs:
                raise ConfigError(f"{view.run_id} waits in its sweep's queue on this machine, which ends as a whole")
            slurm.cancel(view.job)
            done[view.run_id] = f"{view.job}: told to save and end"
        elif view.state == "unreadable":
            raise ConfigError(view.detail)
        else:
            done[view.run_id] = f"{view.state}: nothing to cancel"
    lines = [f"{shlex.quote(run_id)}  {what}" for run_id, what in done.items()]
    for sweep in sweeps:
        for job, what in sweep_messages.cancel(sweep).items():
            done[f"{sweep.sweep_id}, {job}"] = what
            lines.append(f"{sweep.sweep_id}, {job}: {what}")
    return cli.Result("", text="\n".join(lines), data={"cancelled": done})
