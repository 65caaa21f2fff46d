"""The curves of a run: loss, the task's metrics, learning rate and throughput over epochs."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_dist.errors import InputError
from fashion_dist.paths import RunDir
from fashion_dist.tracking import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette, told apart by colour-blind readers too.
_TRAIN, _VAL, _MARK = "#0072B2", "#D55E00", "#009E73"
_PLAIN = frozenset({"split", "step", "epoch", "attempt", "time"})


def draw_curves(run: RunDir, metrics: Sequence[str], best_epoch: int | None = None) -> dict[str, Path]:
    """Write `report/curves.png`, `.svg` and `.csv`; returns their paths by ending.

    Args:
        run: the run's folder.
        metrics: validation metrics to show, the monitored one first.
        best_epoch: marked in every panel.

    Raises:
        InputError: nothing has been measured yet.
    """
    points = read_metrics(run.metrics)
    if not points:
        raise InputError(f"run {run.run_id} has measured nothing yet ({run.metrics})")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    run.report.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    (loss, score), (rate, speed) = figure.subplots(2, 2)
    train, val = [[p for p in points if p["split"] == split] for split in ("train", "val")]
    _line(loss, train, "loss", "train", _TRAIN)
    _line(loss, val, "loss", "val", _VAL)
    _label(loss, "Loss", "loss")
    for name, style in zip(metrics, ("-", "--", ":", "-."), strict=False):
        _line(score, val, name, name, _VAL, style)
    _label(score, "Validation", "metric")
    _line(rate, train, "lr", "learning rate", _TRAIN)
    _label(rate, "Learning rate", "learning rate")
    _line(speed, train, "samples_per_s", "all ranks", _TRAIN)
    _label(speed, "Throughput", "samples / s")
    speed.set_ylim(bottom=0)
    starts = _attempt_starts(train)
    for axes in (loss, score, rate, speed):
        if best_epoch:
            axes.axvline(best_epoch, color=_MARK, linewidth=1, label="best" if axes is score else None)
        for start in starts:
            axes.axvline(start, color="0.6", linewidth=0.8, linestyle=":")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(run.run_id)
    written = {ending: run.report / f"curves.{ending}" for ending in ("png", "svg", "csv")}
    figure.savefig(written["png"], dpi=120)
    figure.savefig(written["svg"], metadata={"Date": None})
    _write_csv(written["csv"], points)
    return written


def best_metrics(run: RunDir, best_epoch: float | None) -> dict[str, Any]:
    """What the evaluation after epoch `best_epoch` measured; empty where there is none."""
    for point in read_metrics(run.metrics):
        if point["split"] == "val" and point["epoch"] == best_epoch:
            return {name: value for name, value in point.items() if name not in _PLAIN}
    return {}


def _line(axes: Axes, points: list[dict[str, Any]], name: str, label: str, colour: str, style: str = "-") -> None:
    shown = [(p["epoch"], p[name]) for p in points if p.get(name) is not None]
    if shown:
        marker = "o" if len(shown) < 3 else None
        axes.plot(*zip(*shown, strict=True), style, color=colour, label=label, linewidth=1.4, marker=marker)


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _attempt_starts(points: list[dict[str, Any]]) -> list[float]:
    """The epochs at which a later attempt took the run up."""
    return [p["epoch"] for before, p in itertools.pairwise(points) if before["attempt"] != p["attempt"]]


def _write_csv(path: Path, points: list[dict[str, Any]]) -> None:
    names = sorted({name for point in points for name in point} - _PLAIN)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "step", "epoch", *names])
        writer.writerows([[p["split"], p["step"], p["epoch"], *(p.get(name, "") for name in names)] for p in points])
