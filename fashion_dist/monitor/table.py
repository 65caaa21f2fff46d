"""Runs as text: a table as wide as the terminal, and one run's page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fashion_dist.cli import aligned, cut, labelled
from fashion_dist.cluster.run_view import RunView, answers, duration, typed
from fashion_dist.errors import unknown
from fashion_dist.paths import RunDir
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.train.startup_timer import format_startup

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Column:
    """One column of the table: its heading, a run's entry, and what a run is sorted by.

    Columns with the smallest `keep` go first when the terminal is narrow.
    """

    title: str
    text: Callable[[RunView], str]
    order: Callable[[RunView], tuple[object, ...]]
    keep: int
    right: bool = False


def _number(value: float | None) -> tuple[float]:
    return (math.inf if value is None else -value,)


def _epoch(view: RunView) -> str:
    return f"{view.progress.epoch}/{view.progress.epochs}" if view.progress.epochs else "-"


def _best(view: RunView) -> str:
    best = view.progress.best
    return f"{best['value']:.4f}" if best else "-"


COLUMNS = {
    "run": Column("RUN", lambda v: v.run_id, lambda v: (v.run_id,), 9),
    "name": Column("NAME", lambda v: v.name or "-", lambda v: (not v.name, v.name), 8),
    "state": Column("STATE", lambda v: v.state, lambda v: (v.state, v.run_id), 9),
    "epoch": Column("EPOCH", _epoch, lambda v: _number(v.progress.epoch), 8, right=True),
    "step": Column("STEP", lambda v: str(v.progress.step), lambda v: _number(v.progress.step), 2, right=True),
    "best": Column("BEST", _best, lambda v: _number(v.progress.best.get("value")), 7, right=True),
    "rate": Column(
        "IMG/S", lambda v: f"{v.progress.samples_per_s:.0f}" if v.state == "running" else "-",
        lambda v: _number(v.progress.samples_per_s), 4, right=True,
    ),
    "left": Column(
        "LEFT", lambda v: duration(v.left_s) if v.state == "running" else "-",
        lambda v: (v.left_s if v.left_s is not None else math.inf,), 6, right=True,
    ),
    "tries": Column("TRIES", lambda v: str(v.attempts), lambda v: _number(v.attempts), 3, right=True),
    "job": Column("JOB", lambda v: v.job.job_id if v.job else "-", lambda v: (v.job.job_id if v.job else "",), 5),
    "nodes": Column("NODES", lambda v: v.nodes or "-", lambda v: (v.nodes,), 1),
}  # fmt: skip
_LEAST_DETAIL = 16


def columns_named(names: Sequence[str], views: Sequence[RunView]) -> list[Column]:
    """The columns of these names: those of `COLUMNS`, `task`, `model`, or the key of a setting such as `optim.lr`.

    Raises:
        ConfigError: no such column, and no run has such a setting.
    """
    keys = {key for view in views for key in view.config}
    found = []
    for name in names:
        if name in COLUMNS:
            found.append(COLUMNS[name])
            continue
        key = "model.name" if name == "model" else name
        if key not in keys:
            raise unknown("column", name, [*COLUMNS, "model", *keys], limit=8)
        found.append(_setting(name, key))
    return found


def _setting(name: str, key: str) -> Column:
    def order(view: RunView) -> tuple[object, ...]:
        value = view.config.get(key)
        is_number = isinstance(value, int | float)
        return (not is_number, value if is_number else 0, "" if is_number else str(value))

    return Column(name.upper(), lambda view: _shown(view.config.get(key)), order, 5)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def table(views: Sequence[RunView], width: int, names: Sequence[str] = ()) -> str:
    """The runs, one a line, in `width` columns; what does not fit is left out, and the detail is cut.

    With `names` of columns these alone are shown, all of them.
    """
    if not views:
        return "no runs"
    if names:
        columns = columns_named(names, views)
        return _aligned(columns, [[c.title, *map(c.text, views)] for c in columns])
    wants_detail = any(view.detail for view in views)
    columns = [c for name, c in COLUMNS.items() if name != "name" or any(view.name for view in views)]
    cells = {c: [c.title, *map(c.text, views)] for c in columns}

    def taken() -> int:
        return sum(max(map(len, cells[c])) + 2 for c in columns)

    while len(columns) > 2 and taken() + (_LEAST_DETAIL if wants_detail else -2) > width:
        columns.remove(min(columns, key=lambda c: c.keep))
    details = ["DETAIL" if wants_detail else "", *((view.detail.splitlines() or [""])[0] for view in views)]
    return _aligned(columns, [*(cells[c] for c in columns), [cut(detail, width - taken()) for detail in details]])


def _aligned(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> str:
    return aligned([*zip(*cells, strict=True)], [at for at, column in enumerate(columns) if column.right])


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars from their least to their largest; more values than `width` are averaged in groups."""
    finite = [max(-1e300, min(1e300, value)) for value in values if math.isfinite(value)]
    if not finite:
        return ""
    size = max(1, math.ceil(len(finite) / width))
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((mean - low) / span * len(_BARS)))] for mean in means)


def page(run: RunDir, view: RunView, go_on: str, width: int) -> str:
    """Everything about one run; `go_on` is the command that goes on with it, or why there is none."""
    p = view.progress
    doing = "" if view.state == "done" else f", {p.phase}"
    starts = f"{view.attempts} start{'s' * (view.attempts != 1)}"
    known = [
        ("state", f"{view.state}: {view.detail}" if view.detail else view.state),
        ("hint", view.hint),
        ("note", p.message if view.state in ("running", "done") else ""),
        ("log", str(view.log or "")),
        ("epoch", f"{p.epoch} of {p.epochs}, step {p.step} of {p.total_steps or '?'}{doing}" if p.epochs else ""),
        ("speed", f"{p.samples_per_s:.0f} samples/s, {duration(view.left_s)} left" * (view.state == "running")),
        ("start", format_startup(p.startup) if p.startup else ""),
        ("best", p.best_words),
        ("job", f"{view.job}, {starts}, nodes {view.nodes or '-'}" if view.job is not None else ""),
        ("hardware", view.hardware),
        *_curves(run, p.best.get("metric", ""), width),
        ("folder", str(run.path)),
        *_files(run).items(),
    ]
    rows = [(label, text) for label, text in known if text]
    if view.is_active:
        rows.append(("follow", typed("status", run, "--watch")))
        rows.append(("cancel", typed("status", run, "--cancel")))
    elif view.state != "done":
        rows.append(("go on", go_on))
    else:
        rows += answers(run).items()
    if run.checkpoints.is_dir():
        rows.append(("report", typed("report", run)))
    return "\n".join([f"{view.run_id}  {view.name}".rstrip(), *labelled(rows)])


def _curves(run: RunDir, metric: str, width: int) -> list[tuple[str, str]]:
    points = read_metrics(run.metrics, "train", "val")
    rows = []
    for split, name in dict.fromkeys([("train", "loss"), ("val", "loss"), ("train", metric), ("val", metric)]):
        values = [float(p[name]) for p in points if p["split"] == split and isinstance(p.get(name), (int, float))]
        if name and len(values) > 1:
            bars = sparkline(values, max(10, min(60, width - 40)))
            rows.append((f"{split} {name}", f"{bars}  {values[0]:.4g} to {values[-1]:.4g}"))
    return rows


def _files(run: RunDir) -> dict[str, str]:
    found = {"metrics": run.metrics, "predictions": run.predictions("test"), "submission": run.submission}
    return {name: str(path) for name, path in found.items() if path.exists()}
