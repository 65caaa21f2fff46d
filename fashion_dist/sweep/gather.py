"""What a sweep gave: a table of all trials, the best one's submission, and that of the best ones together."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.cli import cut
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import OwnFiles
from fashion_dist.paths import SweepDir
from fashion_dist.results.collect import collect, collect_average
from fashion_dist.runs import open_run
from fashion_dist.sweep.view import SweepView, TrialView, read_sweep_view
from fashion_dist.tracking.metrics_log import PLAIN, iter_metrics
from shards.spreadsheet import csv_for_people


@dataclass(frozen=True)
class Gathered:
    """The sweep as it stood, the trials whose answers are in the submission (the best first), and what was written.

    `missing` is a sentence about the trials that are not done; empty when all are.
    """

    view: SweepView
    trials: Sequence[TrialView]
    files: Sequence[Path]
    missing: str


def gather(
    folder: SweepDir, out: Path | None = None, *, count: int = 0, split: str = "test", wait_s: float = 0.0
) -> Gathered:
    """Write `trials.csv` and `trials.parquet`, and the submission of the `count` best trials that are done.

    A count of 0 writes the tables alone, 1 the best trial's submission, more the mean of so many. Files go to `out`,
    else to the sweep's own folder; `wait_s` is how long to wait for what a network filesystem shows late.

    Raises:
        ConfigError: fewer trials are done than are to be averaged.
        RunError: none is done yet.
    """
    view = read_sweep_view(folder)
    # As of a run: files of other splits than test are in nobody's way.
    of_split = out or (folder.collected if split == "test" else folder.collected / split)
    out = out or folder.collected
    done = [trial for trial in view.ranked if trial.view.state == "done"]
    if count and not done:
        raise RunError(f"no trial of sweep {folder.sweep_id} is done yet; {_missing(view)}")
    if count > len(done):
        raise ConfigError(
            f"--ensemble {count}: {len(done)} trials of sweep {folder.sweep_id} are done; {_missing(view)}"
        )
    chosen = done[:count]
    files = _write_tables(view, out)
    if chosen:
        runs = [folder.home.run_dir(trial.view.run_id) for trial in chosen]
        opened = open_run(runs[0], strict=False)
        if count == 1:
            files += collect(runs[0], opened.config, opened.shard_set, of_split, split, wait_s)
        else:
            files += collect_average(runs, opened.config, opened.shard_set, of_split, split, wait_s)
    return Gathered(view, chosen, files, _missing(view))


def _missing(view: SweepView) -> str:
    """Which trials are not done, by state; those that were given up on purpose are not missing."""
    parts = []
    for state, count in view.counts.items():
        if state not in ("done", "pruned"):
            numbers = [trial.number for trial in view.trials if trial.view.state == state]
            parts.append(f"{count} {state} ({cut(', '.join(map(str, numbers)), 60)})")
    return f"missing: {'; '.join(parts)}" if parts else ""


def rows(view: SweepView) -> list[dict[str, Any]]:
    """One row a trial: number, run, state, the settings that vary, the validation metrics of its best epoch."""
    found = []
    for trial in view.trials:
        progress = trial.view.progress
        config = trial.view.config
        varied = {key: config.get(key, trial.settings.get(key)) for key in view.sweep.varied}
        head = {"trial": trial.number, "run": trial.view.run_id, "state": trial.view.state}
        best = {"best_epoch": progress.best.get("epoch"), "epochs": progress.epoch, "attempts": trial.view.attempts}
        found.append({**head, **varied, **best, **_metrics(view, trial), "detail": trial.view.detail})
    return found


def _metrics(view: SweepView, trial: TrialView) -> Mapping[str, float]:
    epoch = trial.view.progress.best.get("epoch")
    if epoch is None:
        return {}
    run = view.sweep.folder.home.run_dir(trial.view.run_id)
    points = [point for point in iter_metrics(run.metrics, "val") if point.get("epoch") == epoch]
    return {f"val/{name}": value for point in points[-1:] for name, value in point.items() if name not in PLAIN}


def _write_tables(view: SweepView, out: Path) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = rows(view)
    names = list(dict.fromkeys(name for row in table for name in row))
    names.append(names.pop(names.index("detail")))
    cells = [["" if (value := row.get(name)) is None else _plain(value) for name in names] for row in table]
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: _column([row.get(name) for row in table]) for name in names}), buffer)
    own = OwnFiles(out)
    own.claim("trials.csv", "trials.parquet")
    return [own.write("trials.csv", csv_for_people([names, *cells])), own.write("trials.parquet", buffer.getvalue())]


def _plain(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _column(values: Sequence[Any]) -> Any:
    """A column of one type: numbers and truths as they are, all else as text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {bool} or kinds <= {str}:
        return pa.array(values)
    if kinds <= {int, float}:
        return pa.array(values, pa.float64())
    return pa.array([None if value is None else str(_plain(value)) for value in values])
