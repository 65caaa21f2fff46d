"""Predictions for people: key, file, the class by its name, its probability and the five most probable ones.

Every task that answers with classes or with attributes (`Task.report_views`) has them, as Parquet and as CSV.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.config import Config
from fashion_dist.results.prediction_files import PredictionFiles
from fashion_dist.tasks import ReportView, Task, load
from shards import Schema, Split, decode_key
from shards.safe_io import create, temporary

if TYPE_CHECKING:
    import pyarrow as pa

BEST = 5
"""How many classes of each picture are named."""
FILE_COLUMNS = ("file", "file_path")
SEPARATOR = "|"
"""Between the labels of a picture that has several."""


def views_of(task: Task) -> list[ReportView]:
    """What a task answers with that has names."""
    return [view for view in task.report_views() if view.kind in ("classes", "attributes") and view.answer]


def view_names(view: ReportView, task: Task, schema: Schema, config: Config) -> Sequence[str]:
    """The names behind a view's numbers or positions."""
    if not isinstance(view.names, str):
        return view.names
    return schema.names.get(view.names, ()) if view.names else task.class_names(schema, config)


def names_by_column(task: Task, schema: Schema, config: Config) -> dict[str, Sequence[str]]:
    """What the numbers of columns, and those of predictions `label` and `labels`, mean."""
    classes = task.class_names(schema, config)
    return {**schema.names, **({"label": classes, "labels": classes} if classes else {})}


def named_columns(
    columns: Mapping[str, np.ndarray], config: Config, schema: Schema, truth: Mapping[str, np.ndarray] | None = None
) -> dict[str, list[Any]]:
    """The named columns of n samples, of the task's prediction columns [n, ...] and, where they are known, its targets.

    Returns:
        Of classes `class`, `probability` and the next `class_2`, `probability_2` to 5; of attributes `labels` and
        `probabilities`, joined by `|`, and the most probable `label_1`, `label_probability_1` to 5. What is known to
        be true is `true_class` and `true_labels`.
    """
    task = load(config.task)
    found: dict[str, list[Any]] = {}
    for view in views_of(task):
        names = np.array([*view_names(view, task, schema, config), "unknown"], object)
        answer = np.asarray(columns[view.answer])
        best, values, probability = _ranked(columns, view)
        known = None if truth is None else truth.get(view.truth)
        if view.kind == "classes":
            answer = answer.astype(np.int64)  # a task may answer yes or no
            found["class"] = names[answer].tolist()
            if probability.size or values.size:
                of_answer = probability[np.arange(len(answer)), answer] if probability.size else values[:, 0]
                found["probability"] = of_answer.tolist()
            noun, first = ("class", "probability"), 1
            if known is not None and (known >= 0).any():
                found["true_class"] = names[known.astype(np.int64)].tolist()
        else:
            found["labels"] = [SEPARATOR.join(names[:-1][row]) for row in answer.astype(bool)]
            if probability.size:
                chosen = zip(probability, answer.astype(bool), strict=True)
                found["probabilities"] = [SEPARATOR.join(f"{p:.4f}" for p in row[yes]) for row, yes in chosen]
            noun, first = ("label", "label_probability"), 0
            if known is not None and (known >= 0).any():
                found["true_labels"] = [SEPARATOR.join(names[:-1][row]) for row in known > 0]
        for place in range(first, best.shape[1]):
            found[f"{noun[0]}_{place + 1}"] = names[best[:, place]].tolist()
            found[f"{noun[1]}_{place + 1}"] = values[:, place].tolist()
    return found


def _ranked(columns: Mapping[str, np.ndarray], view: ReportView) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best classes [n, 5] with their probabilities [n, 5], and those of all [n, K], where they were kept."""
    if view.probability not in columns and "top" not in columns:  # a task need not say how sure it is
        return np.empty((0, 0), np.int64), np.empty((0, 0)), np.empty(0)
    if view.probability not in columns:  # of very many classes the best ones alone are
        return np.asarray(columns["top"]), np.asarray(columns["top_probability"]), np.empty(0)
    probability = np.asarray(columns[view.probability])
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], axis=1)
    best = np.argsort(-probability, axis=1, kind="stable")[:, :BEST]
    return best, np.take_along_axis(probability, best, axis=1), probability


def paths_of(split: Split) -> Sequence[str]:
    """The file of each sample: the column that holds it, else its key."""
    for name in FILE_COLUMNS:
        if name in split.schema.columns:
            return [str(path) for path in split.columns(name)[name]]
    return [decode_key(key) for key in split.keys]


def named_tables(files: PredictionFiles, config: Config, schema: Schema) -> Iterator[pa.Table]:
    """The named predictions of a split in its order, a table a few thousand samples."""
    import pyarrow as pa

    split, task = files.split, load(config.task)
    paths = paths_of(split)
    columns_of = task.columns_of(config)
    has_truth = all(name in split.schema.columns for name in columns_of)
    told = split.columns(*columns_of) if has_truth else {}
    told_of = (*(name for view in views_of(task) for name in view.predictions), "top", "top_probability")
    wanted = [name for name in told_of if name in files.names]
    for where, columns in files.blocks(wanted):
        truth = task.targets({name: values[where] for name, values in told.items()}, config) if has_truth else None
        keys = [decode_key(key) for key in split.keys[where]]
        yield pa.table({"key": keys, "file": paths[where], **named_columns(columns, config, schema, truth)})


def write_named(files: PredictionFiles, config: Config, schema: Schema, parquet: Path, text: Path) -> list[Path]:
    """Write the named predictions as Parquet and as CSV, each in one step and in the order of the source; none of a
    task that names nothing. Names of all samples are in memory at once, probabilities of all classes are not.
    """
    if not views_of(load(config.task)):
        return []
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = list(named_tables(files, config, schema))
    table = pa.concat_tables(tables, promote_options="permissive")
    if "row" in files.split.schema.columns:
        table = table.take(np.argsort(files.split.columns("row")["row"], kind="stable"))
    with contextlib.ExitStack() as stack:
        fresh = [temporary(parquet), temporary(text)]
        for path in fresh:
            stack.callback(path.unlink, missing_ok=True)
        with os.fdopen(create(fresh[0]), "wb") as out:
            pq.write_table(table, out)
        with os.fdopen(create(fresh[1]), "w", newline="", encoding="utf-8") as lines:
            rows = csv.writer(lines, lineterminator="\n")
            rows.writerow(table.column_names)
            for batch in table.to_batches(max_chunksize=4096):
                rows.writerows(zip(*(map(_cell, column.to_pylist()) for column in batch.columns), strict=True))
        fresh[0].replace(parquet)
        fresh[1].replace(text)
    return [parquet, text]


def _cell(value: object) -> object:
    return f"{value:.6f}" if isinstance(value, float) else value
