"""Anybody's images in classes: `launch --task classification --dataset NAME`, NAME being a shard set of your own.

Which column holds the classes is found, or named by `task.label`. The recipe depends on the number of training images
(`own_data.recipe_for`). `--set data.class_balanced=label` draws all classes alike; `task.class_weights` weighs their
losses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common import own_data
from fashion_dist.tasks.common.base import Arrays, Columns
from fashion_dist.tasks.common.classification import Classification
from shards import ShardSet, Split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RECIPE = own_data.recipe("classification", {"class_weights": "none", "unseen": "fail"})
"""`label`: the column. `class_weights`: `none`; `balanced`, N / (K n) for a class with n of N images; K numbers; or
NAME:NUMBER of some. `unseen`: what becomes of images of other splits whose class no training image has: `fail` refuses
to launch, `skip` counts them as unlabelled."""


class ImageClassification(Classification):
    """The class of each image."""

    recipe = RECIPE
    columns = ()

    def label_column(self, config: Config) -> str:
        """`task.label`, after `resolve`."""
        return str(config.options["label"])

    def columns_of(self, config: Config) -> tuple[str, ...]:
        """The column of the classes."""
        return (self.label_column(config),)

    def recipe_for(self, shard_set: ShardSet) -> Config:
        """See `own_data.recipe_for`."""
        return own_data.recipe_for(self.recipe, shard_set.splits["train"])

    def resolve(self, shard_set: ShardSet, config: Config) -> Config:
        """Find the column, the numbers that `balanced` means, and the classes that are skipped."""
        column = own_data.label_column(shard_set.schema, config, "classes")
        names = shard_set.schema.names[column]
        found = {**config.options, "label": column}
        if config.options["class_weights"] != "none" or config.options["unseen"] != "fail":
            counts = own_data.counts_of(shard_set, column)
            there = counts["train"]
            balanced = there.sum() / (len(names) * np.maximum(there, 1))
            text = str(config.options["class_weights"])
            found["class_weights"] = own_data.resolve_weights("task.class_weights", text, names, there, balanced)
            found["unseen"] = self._resolve_unseen(str(config.options["unseen"]), counts)
        return dataclasses.replace(config, options=found)

    @staticmethod
    def _resolve_unseen(text: str, counts: dict[str, np.ndarray]) -> str:
        """`fail` where no class is unseen, else `skip:` and their numbers."""
        if text == "fail":
            return text
        if text.partition(":")[0] != "skip":
            raise ConfigError(f"task.unseen = {text!r} is not possible; allowed: fail, skip")
        unseen = np.flatnonzero((sum(counts.values()) > 0) & (counts["train"] == 0))
        return "skip:" + ",".join(map(str, unseen.tolist())) if len(unseen) else "fail"

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse classes that cannot be learned or judged, naming and counting them."""
        column = self.label_column(config)
        names = self.class_names(shard_set.schema, config)
        own_data.require_count(config, names, 2, "class")
        super().validate(shard_set, config)
        counts = own_data.counts_of(shard_set, column)
        seen = counts["train"] > 0
        if seen.sum() == 1:
            only = names[int(np.argmax(seen))]
            raise ConfigError(
                f"{shard_set.path}: all training images are of class {only!r}; allowed: 2 classes or more"
            )
        for name, there in counts.items():
            unseen = np.flatnonzero((there > 0) & ~seen)
            if len(unseen) and config.options["unseen"] == "fail":
                told = ", ".join(f"{names[k]} ({there[k]})" for k in unseen[:8].tolist()) + ", ..." * (len(unseen) > 8)
                raise ConfigError(
                    f"{shard_set.path}: {there[unseen].sum():,} images of split {name!r} are of {len(unseen):,} "
                    f"class{'es' * (len(unseen) != 1)} that no training image has: {told}; "
                    f"--set task.unseen=skip counts them as unlabelled"
                )

    def labels(self, columns: Arrays, config: Config) -> np.ndarray:
        """int64 [N]; -1 where the class is unknown or skipped."""
        labels = super().labels(columns, config)
        _, _, unseen = str(config.options["unseen"]).partition(":")
        skipped = [int(number) for number in unseen.split(",") if number]
        return np.where(np.isin(labels, skipped), -1, labels) if skipped else labels

    def class_weights(self, config: Config, device: torch.device) -> Tensor | None:
        """See `RECIPE`."""
        return own_data.weights_on(str(config.options["class_weights"]), device)

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`predictions.csv`: key, file, the class and its probability, and the next four."""
        names = self.class_names(split.schema, config)
        return {"predictions.csv": own_data.answer_lines(columns, *best_five(columns, names))}


def best_five(columns: Columns, names: Sequence[str]) -> tuple[list[str], list[list[object]]]:
    """The header and, for each image, the names and probabilities of its most probable classes, at most five."""
    if "probability" in columns:
        every = np.asarray(columns["probability"])
        top = np.argsort(-every, axis=1, kind="stable")[:, :5]
        probability = np.take_along_axis(every, top, axis=1)
    else:
        top, probability = np.asarray(columns["top"]), np.asarray(columns["top_probability"])
    head = ["class", "probability"]
    head += [f"{word}_{n}" for n in range(2, top.shape[1] + 1) for word in ("class", "probability")]
    rows: list[list[object]] = [
        [part for k, p in zip(classes, shares, strict=True) for part in (names[k], f"{p:.6f}")]
        for classes, shares in zip(top.tolist(), probability.tolist(), strict=True)
    ]
    return head, rows
