"""Many runs at once: find them, look at all with one question to the scheduler, draw, watch, cancel."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence

from fashion_dist import cli
from fashion_dist.cluster import record, scheduler
from fashion_dist.cluster.table import COLUMNS, page, table
from fashion_dist.cluster.view import STATES, RunView, Scheduler, look
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.files import read_json
from fashion_dist.paths import Home, RunDir
from fashion_dist.state import RunState

WATCH_S = 2.0


def all_runs(home: Home) -> list[RunDir]:
    """Every run of the working folder."""
    try:
        with os.scandir(home.runs) as entries:
            return [home.run_dir(name) for name in sorted(entry.name for entry in entries if entry.is_dir())]
    except FileNotFoundError:
        return []


def look_at(runs: Sequence[RunDir]) -> list[RunView]:
    """All of the runs as they are now; Slurm is asked twice at most."""
    slurm = Scheduler()
    submissions = [record.Submission.read(run) for run in runs]
    jobs = [s.job for s in submissions if s is not None and s.job is not None]
    unsettled = [
        job
        for run, s in zip(runs, submissions, strict=True)
        if s is not None and (job := s.job) in jobs and job is not None and not _is_done(run)
    ]
    slurm.expect(unsettled)
    return [look(run, slurm) for run in runs]


def _is_done(run: RunDir) -> bool:
    progress = RunState.read(run.state)
    return progress is not None and progress.state == "done"


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
    return sorted(chosen, key=lambda view: (*COLUMNS[sort].order(view), view.run_id))


def draw(named: Sequence[RunDir], views: Sequence[RunView], home: Home, width: int) -> str:
    """One run's page when one was named, else the table with a line that counts the states."""
    if len(named) == 1 and len(views) == 1:
        command = str(read_json(named[0].run).get("command", ""))
        return page(named[0], views[0], command, width)
    counts = {state: sum(view.state == state for view in views) for state in STATES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if not views:
        return f"no runs in {home.runs}; python jobs/launch.py --task NAME makes one"
    return f"{table(views, width)}\n\n{len(views)} run{'s' * (len(views) > 1)}: {summary}"


def watch(look_now: Callable[[], list[RunView]], draw_now: Callable[[list[RunView], int], str]) -> list[RunView]:
    """Redraw until nothing waits or runs; a plain copy every time when stdout is no terminal."""
    if not sys.stdout.isatty():
        views = look_now()
        while any(view.is_active for view in views):
            print(draw_now(views, 200), flush=True)
            time.sleep(WATCH_S)
            views = look_now()
        return views
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            views = look_now()
            live.update(Text(draw_now(views, shutil.get_terminal_size().columns), no_wrap=True), refresh=True)
            if not any(view.is_active for view in views):
                return views
            time.sleep(WATCH_S)


def cancel(runs: Sequence[RunDir]) -> cli.Result:
    """End the jobs of these runs and of no others.

    Raises:
        ConfigError: none was named.
        RunError: the scheduler refused.
    """
    if not runs:
        raise ConfigError("--cancel needs the runs to cancel: python jobs/status.py RUN --cancel")
    done: dict[str, str] = {}
    for view in look_at(runs):
        if view.is_active and view.job is not None:
            scheduler.cancel(view.job)
            done[view.run_id] = f"{view.job}: told to save and end"
        else:
            done[view.run_id] = f"{view.state}: nothing to cancel"
    text = "\n".join(f"{shlex.quote(run_id)}  {what}" for run_id, what in done.items())
    return cli.Result("", text=text, data={"cancelled": done})
