"""What the tasks for anybody's images share: which column is learned, a recipe by the set's size, weights of labels.

`resolve` replaces what a user leaves to the shard set by what it means there, before anything is submitted: the run
then says which column it learned from and with which weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.settings import Scalar
from fashion_dist.tasks.common.base import Columns
from fashion_dist.tasks.common.classification import csv_text
from shards import Schema, ShardSet, decode_key

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FEW, MANY = 2_000, 100_000
"""Training images up to which a set is small, and from which on it is large."""
MOST_LABELS = 100_000
"""Of more, a column names images rather than what is on them."""
MOST_WEIGHTS = 1_000
"""Weights stand in the run's configuration one by one, so there is an end to them."""


def recipe(task: str, options: dict[str, Scalar]) -> Config:
    """The recipe of a set of middling size, whose `dataset` the user names: our own network from scratch."""
    return Config(
        task=task,
        dataset="",
        model=ModelConfig(name="fashionnet", dropout=0.2),
        optim=OptimConfig(name="adamw", lr=3e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=3.0),
        data=DataConfig(
            image_px=96, fit="squash", eval_resize=1.14, eval_flip=True, crop_scale=(0.5, 1.0),
            mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
        ),
        train=TrainConfig(
            epochs=60, batch_size=64, label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix_prob=0.5, ema=0.995
        ),
        options={"label": "", **options},
    )  # fmt: skip


def recipe_for(base: Config, images: int) -> Config:
    """`base` for a set of so many training images.

    Up to `FEW`, batches of 16 (or the largest power of two that there are images for), so that an epoch has enough
    steps. From `MANY` on, ResNet-50 at 224 px as it is trained on ImageNet (Goyal et al. 2017; cosine and label
    smoothing: He et al. 2019).
    """
    train = base.train
    if images <= FEW:
        size = min(16, 1 << max(0, images.bit_length() - 1))
        return dataclasses.replace(base, train=dataclasses.replace(train, batch_size=size, eval_batch_size=16))
    if images < MANY:
        return base
    return dataclasses.replace(
        base,
        model=ModelConfig(name="resnet50"),
        optim=OptimConfig(name="sgd", lr=0.1, weight_decay=1e-4, warmup_epochs=5.0),
        data=DataConfig(image_px=224, crop_scale=(0.08, 1.0)),
        train=TrainConfig(epochs=90, batch_size=256, eval_batch_size=256, label_smoothing=train.label_smoothing),
    )


def label_column(schema: Schema, config: Config, wanted: str) -> str:
    """The column to learn: `task.label`, or the only one of `classes` (one a picture) or `labels` (any number of them).

    Raises:
        ConfigError: there is none, or several; or the one that is named does not fit. Names those that do.
    """
    is_vector = wanted == "labels"
    fitting = [
        name for name, kind in schema.columns.items()
        if schema.names.get(name) and (kind.startswith("ints:") if is_vector else kind == "int")
    ]  # fmt: skip
    named = str(config.options["label"])
    where = f"shard set {config.dataset!r}"
    if not named:
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise ConfigError(f"{where} has several columns of {wanted}: {', '.join(fitting)}; --set task.label=NAME")
        told = ", ".join(f"{name} ({kind})" for name, kind in schema.columns.items()) or "no columns"
        other = "classification" if is_vector else "multilabel"
        raise ConfigError(f"{where} has no column of {wanted} with names; it has {told}; task {other} learns others")
    if named not in schema.columns:
        raise unknown(f"column of {where} (task.label)", named, schema.columns)
    if named not in fitting:
        kind = schema.columns[named]
        what = {"int": "whole numbers", "float": "numbers", "str": "text"}.get(kind, f"vectors ({kind})")
        named_or_not = ", with names" if schema.names.get(named) else ""
        raise ConfigError(
            f"task.label = {named!r} is not possible: the column is of {what}{named_or_not}; "
            f"allowed: columns of {wanted} with names: {', '.join(fitting) or 'there are none'}"
        )
    return named


def require_count(config: Config, names: Sequence[str], least: int, kind: str) -> None:
    """Refuse a column with too few or too many names."""
    if not least <= len(names) <= MOST_LABELS:
        shown = f" ({names[0]})" if len(names) == 1 else ""
        plural = "" if len(names) == 1 else "es" if kind.endswith("s") else "s"
        column = config.options["label"]
        raise ConfigError(
            f"column {column!r} of shard set {config.dataset!r} has {len(names):,} {kind}{plural}"
            f"{shown}; allowed: {least} to {MOST_LABELS:,}"
        )


def resolve_weights(key: str, text: str, names: Sequence[str], there: np.ndarray, balanced: np.ndarray) -> str:
    """Weights as numbers joined by commas, one for each name, of what a user may ask for; `none` stays.

    `balanced`, numbers joined by commas, or NAME:NUMBER of some, the others weighing 1.

    Args:
        key: the option, for messages.
        text: its value.
        names: of the labels.
        there: int [A], how many training images have each.
        balanced: float [A], what `balanced` means.

    Raises:
        ConfigError: it is none of these, negative, or a weight for a label that no training image has.
    """
    if text == "none":
        return text
    allowed = f"none, balanced, {len(names)} numbers of 0 or more joined by commas, or NAME:NUMBER of some"
    if len(names) > MOST_WEIGHTS:
        raise ConfigError(f"{key} has no end with {len(names):,} labels; allowed: none with more than {MOST_WEIGHTS:,}")
    if text == "balanced":
        found = np.where(there > 0, balanced, 1.0)
    else:
        found, asked = np.ones(len(names)), np.zeros(len(names), bool)
        parts = [part.strip() for part in text.split(",")]
        try:
            if any(":" in part for part in parts):
                for part in parts:
                    name, _, number = part.rpartition(":")
                    if name not in names:
                        raise unknown(f"label in {key}", name, names)
                    found[names.index(name)], asked[names.index(name)] = float(number), True
            else:
                found, asked = np.array([float(part) for part in parts]), np.ones(len(names), bool)
        except ConfigError:
            raise
        except ValueError:
            found = np.empty(0)
        if found.shape != (len(names),) or not np.isfinite(found).all() or (found < 0).any() or not found.any():
            raise ConfigError(f"{key} = {text!r} is not possible; allowed: {allowed}")
        if (lost := np.flatnonzero(asked & (found != 1) & (there == 0))).size:
            raise ConfigError(
                f"{key} weighs {names[int(lost[0])]!r}, which no training image has; allowed there: 1, or nothing"
            )
    return "none" if (found == 1).all() else ",".join(f"{value:.6g}" for value in found)


@functools.lru_cache(maxsize=16)
def weights_on(text: str, device: torch.device) -> Tensor | None:
    """Resolved weights as float32 [A] on a device; None of `none`."""
    from fashion_dist.tasks.common.attributes import vector_on

    return None if text == "none" else vector_on(tuple(float(part) for part in text.split(",")), device)


def counts_of(shard_set: ShardSet, column: str, *splits: str, value: int = 1) -> dict[str, np.ndarray]:
    """Of each split, or of `splits`, int64 [A]: how many images have each class, or `value` for each label."""
    count = len(shard_set.schema.names[column])
    found = {name: np.zeros(count, np.int64) for name in splits or shard_set.splits}
    for name, counts in found.items():
        for piece in shard_set.split(name).iter_columns(column):
            values = piece[column]
            if values.ndim == 1:
                counts += np.bincount(values[(values >= 0) & (values < count)], minlength=count)
            else:
                counts += (values == value).sum(axis=0)
    return found


def answer_lines(columns: Columns, head: Sequence[str], answers: Sequence[Sequence[object]]) -> str:
    """`predictions.csv`: key, file and an answer for each image, by their `row` in the source where the set has it."""
    keys = [decode_key(str(key)) for key in columns["key"]]
    files = ["" if file is None else str(file) for file in columns.get("file", [""] * len(keys))]
    row = np.asarray(columns.get("row", np.arange(len(keys))))
    order = np.argsort(row, kind="stable").tolist() if row.dtype.kind == "i" else range(len(keys))
    return csv_text([("key", "file", *head), *((keys[i], files[i], *answers[i]) for i in order)])
