"""What commands say about a sweep: what was submitted, how it ended, and what to type next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fashion_dist import cli
from fashion_dist.cluster import requirements, slurm
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.run_view import typed
from fashion_dist.errors import RunError
from fashion_dist.monitor import disk, sweep_table
from fashion_dist.monitor.follow import WATCH_S
from fashion_dist.paths import SweepDir
from fashion_dist.sweep.view import SweepView, read_sweep_view

if TYPE_CHECKING:
    from fashion_dist.sweep.launcher import Submitted, SweepDraft

SHOWN = 24
SETTLE_S = 12.0
"""How long to believe that an ended sweep might go on: a task that requeues itself is gone for a moment."""


def commands(view: SweepView) -> list[tuple[str, str]]:
    """What makes sense now, with why it does."""
    folder = view.sweep.folder
    found = []
    if view.is_active:
        found += [("follow", typed("status", folder, "--watch")), ("cancel", typed("status", folder, "--cancel"))]
    if view.best is not None:
        found.append(("collect", typed("collect", folder, "--best")))
    if any(state in view.counts for state in ("failed", "cancelled", "stopped")):
        found.append(("run again", "the same sweep command with --rerun-failed"))
    return found


def of_draft(draft: SweepDraft) -> cli.Result:
    """What would be submitted."""
    sweep = draft.sweep
    rows = [trial for trial in sweep.trials if trial is not None]
    lines = [f"{t.number}  {t.run_id}  " + " ".join(f"{k}={v}" for k, v in t.settings.items()) for t in rows]
    if not rows:
        lines = [f"{len(sweep.trials)} trials, whose settings are chosen as they start"]
    return cli.Result(
        "nothing was submitted", text="\n".join([f"sweep {sweep.folder.sweep_id}", *_shown(draft), *lines]),
        data={"sweep": sweep.folder.sweep_id, "trials": [{"settings": t.settings, "run": t.run_id} for t in rows]},
    )  # fmt: skip


def of_submission(draft: SweepDraft, submitted: Submitted) -> cli.Result:
    """What became of a submission."""
    view, folder = submitted.view, draft.sweep.folder
    count = sum(len(array.numbers) for array in submitted.arrays)
    jobs = ", ".join(str(array.job) for array in submitted.arrays)
    context = draft.context
    takes = disk.needs(context.home, context.config.task, context.config.model.name, count) if count else ""
    if not count:
        failed = sum(view.counts.get(state, 0) for state in ("failed", "cancelled", "stopped"))
        hint = f"; --rerun-failed runs the {failed} again that did not end well" if failed else ""
        headline = f"sweep {folder.sweep_id}: {sweep_table.counts(view)}; nothing was submitted{hint}"
    else:
        what = f"job array{'s' * (len(submitted.arrays) > 1)} of" if draft.context.cluster == "slurm" else "queue of"
        parallel = draft.request.max_parallel or (1 if draft.context.cluster == "local" else 0)
        atonce = f", {parallel} at once" if parallel else ""
        headline = f"sweep {folder.sweep_id}: submitted {jobs}, {what} {count:,} trial{'s' * (count > 1)}{atonce}"
    if submitted.left:
        headline += f"; {submitted.left:,} more wait for the same command again (--max-submit)"
    if draft.doubled:
        headline += (
            f"; {draft.doubled} more would repeat one of these and {'are' if draft.doubled > 1 else 'is'} left out"
        )
    return cli.Result(
        headline, {"sweep folder": folder.path}, dict(commands(view)),
        {
            **view.to_json(), "submitted": count, "left": submitted.left, "notes": _notes(draft),
            "arrays": [a.job.to_json() for a in submitted.arrays if a.job],
        },
        "\n".join(filter(None, [*_shown(draft), sweep_table.trials(view, 200, SHOWN), takes])),
    )  # fmt: skip


def _shown(draft: SweepDraft) -> list[str]:
    return [f"note: {note}" for note in _notes(draft)]


def _notes(draft: SweepDraft) -> list[str]:
    found = [] if draft.request.request.debug else map(requirements.long_warmup, draft.configs)
    return [*draft.context.notes, *dict.fromkeys(filter(None, found))]


def of_end(folder: SweepDir) -> cli.Result:
    """Follow the sweep to its end, a line on stderr whenever something changes."""
    said, scheduler = "", Scheduler()
    over_since: float | None = None
    while True:
        scheduler.refresh()
        view = read_sweep_view(folder, scheduler)
        best = view.best
        words = f"{folder.sweep_id}: {sweep_table.counts(view)}" + (
            f"; best {best.value:.4f} (trial {best.number})" if best is not None else ""
        )
        if words != said:
            cli.tell(words)
            said, over_since = words, None
        over_since = None if view.is_active else over_since or time.monotonic()
        if over_since is not None and time.monotonic() - over_since > SETTLE_S:
            break
        time.sleep(WATCH_S)
    well = all(trial.view.state in ("done", "pruned") for trial in view.trials)
    return cli.Result(
        said, {"sweep folder": folder.path}, dict(commands(view)), view.to_json(), sweep_table.trials(view, 200, SHOWN),
        exit_status=cli.EXIT_DONE if well else cli.EXIT_FAILED,
    )  # fmt: skip


def cancel(folder: SweepDir) -> dict[str, str]:
    """End the sweep's own jobs that wait or run, and nothing else; says what was done, by job.

    Raises:
        RunError: the scheduler refused.
    """
    done: dict[str, str] = {}
    view = read_sweep_view(folder)
    for array in view.arrays:
        if array.job is None or str(array.job) in done:
            continue
        mine = [t for t in view.trials if t.view.job and t.view.job.job_id.partition("_")[0] == array.job.job_id]
        there = slurm.job_status(array.job)
        if there != "gone":
            slurm.cancel(array.job)
            done[str(array.job)] = "told to end; trials that run save"
        elif array.cluster == "slurm" or not mine:
            done[str(array.job)] = "over: nothing to cancel"
    for trial in view.trials:  # on this machine a trial outlives its queue
        job = trial.view.job
        if trial.view.is_active and job is not None and job.cluster == "local" and str(job) not in done:
            slurm.cancel(job)
            done[str(job)] = f"trial {trial.number}: told to save and end"
    if not done:
        raise RunError(f"sweep {folder.sweep_id} was never submitted")
    return done
