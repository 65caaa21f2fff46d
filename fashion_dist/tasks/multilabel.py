"""Anybody's images with any number of labels each: `launch --task multilabel --dataset NAME`.

Which column holds the labels is found, or named by `task.label`. The recipe depends on the number of training images
(`own_data.recipe_for`). `collect RUN --tune-thresholds` answers with the thresholds that suit validation best.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common import attributes, own_data
from fashion_dist.tasks.common.base import Arrays, Columns, ReportView, Task, Tensors
from fashion_dist.tasks.common.classification import named_classes
from fashion_dist.tasks.common.evaluators import SumEvaluator
from shards import Schema, ShardSet, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHARED = own_data.recipe("multilabel", {"positive_weights": "none", "threshold": 0.5, "thresholds": ""})
# A picture mixed of two, of which each label would hold by half, teaches little of any.
RECIPE = dataclasses.replace(
    _SHARED, train=dataclasses.replace(_SHARED.train, label_smoothing=0.0, mixup=0.0, cutmix=0.0, mix_prob=1.0)
)
"""`label`: the column. `positive_weights`: what the loss of a label that is there is multiplied with: `none`;
`balanced`, the images without it over those with it; a number for each; or NAME:NUMBER of some. `threshold`: the
probability from which a label is named; `thresholds`: one for each, joined by commas."""


class MultiLabel(Task):
    """The labels of each image."""

    recipe = RECIPE
    columns = ()
    monitor = "micro_f1"
    summary_metrics = ("macro_f1", "sample_f1")

    def columns_of(self, config: Config) -> tuple[str, ...]:
        """`task.label`, after `resolve`."""
        return (str(config.options["label"]),)

    def recipe_for(self, shard_set: ShardSet) -> Config:
        """See `own_data.recipe_for`."""
        return own_data.recipe_for(self.recipe, shard_set.splits["train"])

    def class_names(self, schema: Schema, config: Config) -> Sequence[str]:
        """Names of the labels, in the order of the column."""
        return named_classes(schema, str(config.options["label"]), config)

    def resolve(self, shard_set: ShardSet, config: Config) -> Config:
        """Find the column, and the numbers that `balanced` means."""
        column = own_data.label_column(shard_set.schema, config, "labels")
        found = {**config.options, "label": column}
        if (text := str(config.options["positive_weights"])) != "none":
            there = own_data.counts_of(shard_set, column, "train")["train"]
            absent = own_data.counts_of(shard_set, column, "train", value=0)["train"]
            names, balanced = shard_set.schema.names[column], absent / np.maximum(there, 1)
            found["positive_weights"] = own_data.resolve_weights("task.positive_weights", text, names, there, balanced)
        return dataclasses.replace(config, options=found)

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse labels that cannot be learned, and thresholds that do not fit."""
        column, names = str(config.options["label"]), self.class_names(shard_set.schema, config)
        own_data.require_count(config, names, 1, "label")
        attributes.thresholds(config, len(names))
        if not own_data.counts_of(shard_set, column)["train"].any():
            raise ConfigError(f"{shard_set.path}: no training image has any of the labels; allowed: some have one")
        for name in shard_set.splits:
            attributes.require_labels(shard_set.split(name), column, names)

    def build_model(self, config: Config, schema: Schema) -> nn.Module:
        """The configured backbone with the head `labels`."""
        from fashion_dist.models.backbone import build_network
        from fashion_dist.models.heads import Head

        head = Head(len(self.class_names(schema, config)))
        return build_network(config.model, {"labels": head}, config.data.image_px)

    def targets(self, columns: Arrays, config: Config) -> Arrays:
        """`labels` int8 [N, A]: 1, 0, or -1 where it is unknown."""
        return {"labels": attributes.as_targets(columns[str(config.options["label"])])}

    def counts(self, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """The labels that are known, one by one."""
        return {"loss": (targets["labels"] >= 0).sum()}

    def losses(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """Binary cross-entropy of the labels that are known; the mean over independent heads."""
        import torch

        weights = own_data.weights_on(str(config.options["positive_weights"]), targets["labels"].device)
        answers = [logits for name, logits in outputs.items() if name.startswith("labels/")] or [outputs["labels"]]
        smoothing = config.train.label_smoothing
        parts = [attributes.binary_loss(logits, targets["labels"], weights, smoothing) for logits in answers]
        return {"loss": torch.stack(parts).mean()}

    def metrics(self, schema: Schema, config: Config) -> tuple[str, ...]:
        """See `Task.metrics`."""
        plain = ["plain_loss"] if config.train.label_smoothing else []
        return ("micro_f1", "macro_f1", "sample_f1", "exact_match", "loss", *plain)

    def train_metrics(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """`micro_f1`."""
        named = attributes.chosen(outputs["labels"], config, self.names_at_least_one)
        return {"micro_f1": attributes.train_micro_f1(named, targets["labels"])}

    def evaluator(self, split: Split, config: Config) -> SumEvaluator:
        """F1 by three means, and the share of images of which every label is right; tables of each label."""
        return LabelEvaluator(self, split, config)

    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """The labels that are named, bool [N, A], and the `probability` of all, float32 [N, A]."""
        named = attributes.chosen(outputs["labels"], config, self.names_at_least_one)
        return {"labels": named.cpu().numpy(), "probability": outputs["labels"].float().sigmoid().cpu().numpy()}

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`predictions.csv`: key, file, the names of the labels and their probabilities, joined by `|`; where a name
        has one in it, as JSON lists.
        """
        names = self.class_names(split.schema, config)
        probability = np.asarray(columns["probability"])
        # Chosen anew, because the thresholds may have been tuned after the prediction.
        named = probability >= attributes.thresholds(config, len(names))
        as_json = any("|" in name for name in names)
        rows = []
        for has, of in zip(named, probability, strict=True):
            there = np.flatnonzero(has).tolist()
            words, shares = [names[a] for a in there], [round(float(of[a]), 6) for a in there]
            rows.append(
                [json.dumps(words, ensure_ascii=False), json.dumps(shares)] if as_json
                else ["|".join(words), "|".join(f"{share:.6f}" for share in shares)]
            )  # fmt: skip
        return {"predictions.csv": own_data.answer_lines(columns, ("labels", "probabilities"), rows)}

    def tune_thresholds(self, split: Split, predictions: Columns, config: Config) -> dict[str, str]:
        """`thresholds`: for each label the one with the best F1 on a split whose labels are known."""
        column = str(config.options["label"])
        probability = np.asarray(predictions["probability"])
        return {"thresholds": attributes.tuned_thresholds(split.columns(column)[column], probability, config)}

    def ensemble(self, members: Sequence[Columns]) -> dict[str, np.ndarray]:
        """The means of the models' probabilities, of which `submission` makes labels."""
        return {"probability": np.mean([np.asarray(columns["probability"], np.float64) for columns in members], axis=0)}

    def report_views(self) -> tuple[ReportView, ...]:
        """The sections about the labels."""
        return (ReportView("attributes", "labels", "labels", "probability"),)


class LabelEvaluator(SumEvaluator):
    """For each image and each label how often it is right, named and true."""

    def add_batch(self, outputs: Tensors, targets: Tensors) -> None:
        """See `SumEvaluator.add_batch`."""
        named = attributes.chosen(outputs["labels"], self.config, self.task.names_at_least_one)
        attributes.add_counts(self, named, targets["labels"])

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """See `attributes.metrics`."""
        return attributes.metrics(sums)

    def tables(self) -> dict[str, str]:
        """`labels.csv`: of each label how many images have it, were given it, and rightly so."""
        return {"labels.csv": attributes.label_table(self.sums, self.task.class_names(self.split.schema, self.config))}
