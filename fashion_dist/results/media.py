"""What a run has to show beside its curves, for trackers."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import DamageError, InputError, RunError
from fashion_dist.paths import RunDir
from fashion_dist.results.collect import ordered_predictions
from fashion_dist.results.named import names_by_column
from fashion_dist.run_status import RunState
from fashion_dist.tasks import load
from fashion_dist.tracking.metrics_log import PLAIN, iter_metrics
from fashion_dist.tracking.wandb_media import Artifact, Example, Media
from shards import ShardSet, Split, images
from shards.safe_io import is_regular, read_regular
from shards.spreadsheet import text_of

EXAMPLES, SHOWN_PX = 32, 224
CONFUSABLE = 400
"""Most classes of a confusion matrix that is shown; W&B takes 200,000 cells of a table."""


def run_media(run: RunDir, config: Config, shard_set: ShardSet, split: str = "test") -> Media:
    """What there is to see of a run now; parts that it does not have yet are left out."""
    measured = sorted(run.measures(split).parent.glob("*/confusion.csv"))
    found = {path.parent.name: _read_confusion(path) for path in measured if is_regular(path)}
    confusions = {name: t for name, t in found.items() if t is not None and len(t[0]) <= CONFUSABLE}
    artifacts = _artifacts(run, config, shard_set)
    summary = _summary(run)
    seen = [path for item in artifacts for path in (*item.files, *item.references)]
    seen += sorted(run.predictions(split).glob("*.parquet"))
    marks = [(str(path), path.stat().st_size) for path in seen if path.exists()]
    facts = json.dumps([summary, {name: cells for name, (_, cells) in confusions.items()}, marks], default=str)
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    pictures = {path.stem: path for path in sorted((run.report / "figures").glob("*.png")) if is_regular(path)}
    return Media(summary, confusions, split, _examples(run, config, shard_set, split), artifacts, fingerprint, pictures)


def _summary(run: RunDir) -> dict[str, Any]:
    """`best/<metric>` and `best/epoch`, and the last metrics of every split."""
    found: dict[str, Any] = {}
    for point in iter_metrics(run.metrics):
        found |= {f"{point['split']}/{name}": value for name, value in point.items() if name not in PLAIN}
    progress = RunState.read(run.state)
    best = progress.best if progress is not None else {}
    if best:
        for point in iter_metrics(run.metrics, "val"):
            if point["epoch"] == best["epoch"]:
                found |= {f"best/{k}": v for k, v in point.items() if k == "epoch" or k not in PLAIN}
        found |= {f"best/{best['metric']}": best["value"], "best/epoch": best["epoch"]}
    return found


def _read_confusion(path: Path) -> tuple[list[str], list[list[int]]] | None:
    """Names and counts; None where it is not what was written."""
    try:
        header, *rows = csv.reader(io.StringIO(read_regular(path).decode(), newline=""))
        cells = [[int(cell) for cell in row[1:]] for row in rows]
    except (ValueError, csv.Error):
        return None
    names = [text_of(cell) for cell in header[1:]]
    return (names, cells) if [len(row) for row in cells] == [len(names)] * len(names) else None


def _artifacts(run: RunDir, config: Config, shard_set: ShardSet) -> list[Artifact]:
    """Shard set, best checkpoint, predictions and submission; `made_from` names what each was made from."""
    facts = {"data_hash": shard_set.data_hash, "splits": dict(shard_set.splits)}
    name = f"shards-{config.dataset}-{shard_set.data_hash[:10]}"
    artifacts = [Artifact(name, "dataset", references=(shard_set.path,), is_input=True, facts=facts)]
    if best := sorted(run.checkpoints.glob("best-*/manifest.json")):
        artifacts.append(
            Artifact(f"checkpoint-{run.run_id}", "model", references=(best[-1].parent,), facts={"made_from": [name]})
        )
    before = [artifact.name for artifact in artifacts]
    for split in shard_set.splits:
        if files := sorted(path for path in run.predictions(split).glob("rank_*.parquet") if is_regular(path)):
            made_from = {"made_from": before, "split": split}
            artifacts.append(
                Artifact(f"predictions-{split}-{run.run_id}", "predictions", references=files, facts=made_from)
            )
    if files := sorted(path for path in run.submission.glob("[!.]*") if is_regular(path)):  # links are not uploaded
        predicted = [artifact.name for artifact in artifacts if artifact.type == "predictions"]
        artifacts.append(
            Artifact(f"submission-{run.run_id}", "submission", files=files, facts={"made_from": predicted})
        )
    return artifacts


def _examples(run: RunDir, config: Config, shard_set: ShardSet, split: str) -> list[Example]:
    if split not in shard_set.splits or not run.predictions(split).is_dir():
        return []
    from fashion_dist.data.shard_reader import ShardFiles

    part = shard_set.split(split)
    try:
        columns = ordered_predictions(run, part)
    except (InputError, RunError):
        return []
    names = names_by_column(load(config.task), part.schema, config)
    files = ShardFiles(part)
    found = []
    try:
        for row in np.unique(np.linspace(0, len(part) - 1, min(EXAMPLES, len(part))).astype(int)).tolist():
            try:
                picture = images.shown(files.read(row).tobytes(), 2 * SHOWN_PX)
            except (DamageError, OSError, images.BadImageError):
                continue
            picture.thumbnail((SHOWN_PX, SHOWN_PX))
            found.append(Example(str(columns["key"][row]), picture, _values(columns, row, names, part)))
    finally:
        files.close()
    return found


def _values(
    columns: Mapping[str, np.ndarray], row: int, names: Mapping[str, Sequence[str]], part: Split
) -> dict[str, Any]:
    """The sample's key, its true classes where they are known, the answers and how sure they are."""
    values: dict[str, Any] = {"key": str(columns["key"][row])}
    facts = part.columns(*part.schema.columns)
    for name in names:
        if name in facts and facts[name].ndim == 1 and np.issubdtype(facts[name].dtype, np.integer):
            values[f"true {name}"] = _name(names[name], int(facts[name][row]))
    for name, column in columns.items():
        if name.endswith("probability") and column.ndim == 2:
            values[f"{name} of the first"] = float(column[row].max())
        elif name in names and name not in facts and np.issubdtype(column.dtype, np.integer) and column.ndim == 1:
            values[name] = _name(names[name], int(column[row]))
    return values


def _name(names: Sequence[str], number: int) -> str:
    return str(names[number]) if 0 <= number < len(names) else "unknown"
