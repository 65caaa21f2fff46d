"""Sweeps as text: one line each, or every trial of one with the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence

from fashion_dist.cli import aligned, cut, labelled
from fashion_dist.cluster.run_view import duration
from fashion_dist.sweep.view import SweepView, TrialView, UnreadableSweep


def sweeps(views: Sequence[SweepView | UnreadableSweep], width: int) -> str:
    """One line for each sweep, those last of which nothing is known."""
    rows = [["SWEEP", "METHOD", "TRIALS", "STATE", "BEST", "BEST RUN"]]
    for view in views:
        if isinstance(view, UnreadableSweep):
            continue
        best = view.best
        rows.append(
            [
                view.sweep.folder.sweep_id, view.sweep.spec.method, str(len(view.trials)), counts(view),
                f"{best.value:.4f}" if best is not None and best.value is not None else "-",
                best.view.run_id if best is not None else "-",
            ]
        )  # fmt: skip
    lines = [cut(f"{view.sweep_id}  {view.detail}", width) for view in views if isinstance(view, UnreadableSweep)]
    return "\n".join(([aligned(rows, (2, 4), width)] if len(rows) > 1 else []) + lines)


def counts(view: SweepView) -> str:
    """Such as `3 running, 9 done`."""
    return ", ".join(f"{count} {state}" for state, count in view.counts.items())


_URGENCY = {"running": 0, "starting": 0, "suspended": 0, "failed": 0, "queued": 1, "done": 2, "pruned": 2, "new": 3}
"""Which trials a screen shows that does not hold all of them."""


def trials(view: SweepView, width: int, limit: int = 0) -> str:
    """Every trial, or `limit` of them: what runs or failed first, then what waits, then what is done."""
    keys = view.sweep.varied
    shown = view.trials
    if limit and len(shown) > limit:
        shown = sorted(shown, key=lambda trial: (_URGENCY.get(trial.view.state, 1), trial.number))[:limit]
    rows = [["TRIAL", "STATE", "EPOCH", "BEST", "LEFT", *keys, "RUN", "DETAIL"]]
    rows += [_row(trial, keys) for trial in shown]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    text = aligned(rows, (0, 2, 3, 4), width)
    hidden = len(view.trials) - len(shown)
    return f"{text}\n... and {hidden:,} more" if hidden else text


def _row(trial: TrialView, keys: Sequence[str]) -> list[str]:
    p, view = trial.view.progress, trial.view
    settings = [_short(trial.settings.get(key, "-")) for key in keys]
    best = "-" if trial.value is None else f"{trial.value:.4f}"
    epoch = f"{p.epoch}/{p.epochs}" if p.epochs else "-"
    left = duration(view.left_s) if view.state == "running" else "-"
    detail = view.detail.splitlines()[0] if view.detail else ""
    return [str(trial.number), view.state, epoch, best, left, *settings, view.run_id or "-", detail]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_short, value))
    return cut(str(value), 24)


def page(view: SweepView, width: int, commands: Sequence[tuple[str, str]], height: int = 0) -> str:
    """Everything about one sweep: its trials, the best, and what to type; in so many lines, 0 is no bound."""
    sweep, best = view.sweep, view.best
    monitor = sweep.monitor
    rows = [("state", counts(view)), ("metric", f"{monitor.metric}, its {monitor.mode}imum is best")]
    if best is not None:
        told = ", ".join(f"{key}={_short(best.settings.get(key))}" for key in sweep.varied)
        value = f"{best.view.progress.best.get('metric', '')} {best.value:.4f}"
        rows.append(("best", f"trial {best.number}: {value} with {told or 'the recipe'} ({best.view.run_id})"))
    jobs = ", ".join(str(array.job) for array in view.arrays if array.job is not None)
    rows += [("jobs", jobs)] if jobs else []
    rows.append(("folder", str(sweep.folder.path)))
    if sweep.is_studied:
        rows.append(("decisions", str(sweep.folder.decisions)))
    rows += commands
    title = sweep.folder.sweep_id if sweep.name == sweep.folder.sweep_id else f"{sweep.folder.sweep_id} ({sweep.name})"
    facts = "\n".join([title, *labelled(rows)])
    room = max(3, height - facts.count("\n") - 5) if height else 0
    return f"{facts}\n\n{trials(view, width, room)}"
