"""DeepFashion: a garment's category and its attributes, from one network.

One backbone with a category head (cross-entropy) and an attribute head (binary cross-entropy, Liu et al. 2016, without
landmarks). The same task trains on the `synthetic` data set (`--dataset synthetic`), which has the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common import attributes
from fashion_dist.tasks.common.base import Arrays, Columns, ReportView, Task, Tensors
from fashion_dist.tasks.common.classification import csv_text, require_classes, right_answers
from fashion_dist.tasks.common.evaluators import SumEvaluator
from shards import Schema, ShardSet, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

RECIPE = Config(
    task="deepfashion",
    dataset="deep_fashion",
    model=ModelConfig(name="fashionnet"),
    optim=OptimConfig(name="adamw", lr=3e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=3.0),
    # Colours are among the attributes, so the pixels keep theirs; the network jitters what its trunk sees. Training
    # crops show a garment larger than the whole photo does, so evaluation crops too (Touvron et al. 2019).
    data=DataConfig(
        image_px=96,
        fit="squash",
        eval_resize=1.14,
        eval_flip=True,
        crop_scale=(0.5, 1.0),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    train=TrainConfig(epochs=75, batch_size=64, label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix_prob=0.5, ema=0.995),
    options={"weighting": "fixed", "attribute_weight": 15.0, "threshold": 0.4, "thresholds": ""},
)
"""`weighting`: `fixed`, the attributes' loss counts `attribute_weight` times the category's; or `uncertainty`, both are
weighed by learned variances. `thresholds`: one per attribute, joined by commas; none is `threshold` for all."""

WEIGHTINGS = ("fixed", "uncertainty")


class DeepFashion(Task):
    """Category and attributes of each garment."""

    recipe = RECIPE
    columns = ("category", "attributes")
    monitor = "score"
    summary_metrics = ("accuracy", "attribute_f1")
    ignore_targets_when_mixed = ("attributes",)
    names_at_least_one = True

    def build_model(self, config: Config, schema: Schema) -> nn.Module:
        """The configured backbone with a head for each of the schema's categories and attributes."""
        from fashion_dist.models.backbone import build_backbone, build_network
        from fashion_dist.models.heads import Head, UncertainNetwork

        heads = {
            "category": Head(len(schema.names["category"])),
            "attributes": Head(len(schema.names["attributes"]), hidden=96),
        }
        if config.options.get("weighting") == "uncertainty":
            backbone, num_features = build_backbone(config.model, config.data.image_px)
            return UncertainNetwork(backbone, num_features, heads, config.model.dropout)
        return build_network(config.model, heads, config.data.image_px)

    def targets(self, columns: Arrays, config: Config) -> Arrays:
        """`category` int64 [N] (-1: unknown) and `attributes` int8 [N, A] (1, 0, or -1: unknown)."""
        return {
            "category": columns["category"].astype(np.int64),
            "attributes": attributes.as_targets(columns["attributes"]),
        }

    def counts(self, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """The categories that are known, and the attributes, one by one."""
        return {
            "category_loss": (targets["category"] >= 0).sum(),
            "attribute_loss": (targets["attributes"] >= 0).sum(),
        }

    def losses(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """Cross-entropy of the category, and binary cross-entropy of the attributes, where they are known."""
        import torch.nn.functional as F

        category = F.cross_entropy(
            outputs["category"].float(), targets["category"],
            ignore_index=-1, label_smoothing=config.train.label_smoothing, reduction="sum",
        )  # fmt: skip
        attribute = attributes.binary_loss(outputs["attributes"], targets["attributes"])
        return {"category_loss": category, "attribute_loss": attribute}

    def objective(self, sums: Tensors, counts: Tensors, outputs: Tensors, config: Config) -> dict[str, Tensor]:
        """Attributes times `attribute_weight`, or both terms weighed by the variances that the network learns."""
        if config.options.get("weighting") == "uncertainty":
            from fashion_dist.models.heads import weigh

            heads = {"category_loss": "category", "attribute_loss": "attributes"}
            return {name: weigh(value, counts[name], outputs, heads[name]) for name, value in sums.items()}
        return {**sums, "attribute_loss": float(config.options["attribute_weight"]) * sums["attribute_loss"]}

    def metrics(self, schema: Schema, config: Config) -> tuple[str, ...]:
        """See `Task.metrics`."""
        return (
            "score", "accuracy", "attribute_f1", "top3_accuracy", "top5_accuracy", "attribute_class_f1",
            "loss", "category_loss", "attribute_loss", *(["plain_loss"] if config.train.label_smoothing else []),
        )  # fmt: skip

    def train_metrics(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """`accuracy` of the category, `attribute_f1` of images whose attributes are known."""
        named = attributes.chosen(outputs["attributes"], config, self.names_at_least_one)
        return {
            "accuracy": right_answers(outputs["category"], targets["category"]),
            "attribute_f1": attributes.train_f1(named, targets["attributes"]),
        }

    def evaluator(self, split: Split, config: Config) -> DeepFashionEvaluator:
        """Accuracies of the category, F1 of the attributes, and `score`."""
        return DeepFashionEvaluator(self, split, config)

    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """Category int64 [N] and its probabilities [N, K]; attributes bool [N, A] and theirs [N, A]."""
        logits = outputs["category"].float()
        chosen = attributes.chosen(outputs["attributes"], config, self.names_at_least_one)
        return {
            "category": logits.argmax(dim=1).cpu().numpy(),
            "category_probability": logits.softmax(dim=1).cpu().numpy(),
            "attributes": chosen.cpu().numpy(),
            "attribute_probability": outputs["attributes"].float().sigmoid().cpu().numpy(),
        }

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`category.csv` and `attribute.csv` as the assignment wants them, in the order of the split's file.

        The blank in the header of the former is the assignment's.
        """
        order = np.argsort(np.asarray(columns["row"]), kind="stable")
        paths, categories = columns["file_path"], columns["category"]
        probabilities = np.asarray(columns["attribute_probability"])
        # Chosen anew, because the thresholds may have been tuned after the prediction.
        named = probabilities >= attributes.thresholds(config, probabilities.shape[1])
        named |= probabilities == probabilities.max(axis=1, keepdims=True)
        words = ((paths[i], " ".join(str(a) for a in np.flatnonzero(named[i]))) for i in order)
        return {
            "category.csv": csv_text([("file_path", " category_label"), *((paths[i], categories[i]) for i in order)]),
            "attribute.csv": csv_text([("file_path", "attribute_label"), *words]),
        }

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse a weighting that does not exist, thresholds that do not fit, and labels outside the classes."""
        if config.options["weighting"] not in WEIGHTINGS:
            allowed = ", ".join(WEIGHTINGS)
            raise ConfigError(f"task.weighting = {config.options['weighting']!r} is not possible; allowed: {allowed}")
        if not float(config.options["attribute_weight"]) > 0:
            given = config.options["attribute_weight"]
            raise ConfigError(f"task.attribute_weight = {given!r} is not possible; allowed: above 0, or no head learns")
        attributes.thresholds(config, len(shard_set.schema.names["attributes"]))
        count = len(shard_set.schema.names["category"])
        for name in shard_set.splits:
            split = shard_set.split(name)
            require_classes(split, split.columns("category")["category"], count, "category")
            attributes.require_labels(split, "attributes", shard_set.schema.names["attributes"])

    def tune_thresholds(self, split: Split, predictions: Columns, config: Config) -> dict[str, str]:
        """`thresholds`: for each attribute the one with the best F1 on a split whose attributes are known."""
        truth = split.columns("attributes")["attributes"]
        found = attributes.tuned_thresholds(truth, np.asarray(predictions["attribute_probability"]), config)
        return {"thresholds": found}

    def ensemble(self, members: Sequence[Columns]) -> dict[str, np.ndarray]:
        """The means of the models' probabilities, and the category that is most probable by them."""
        names = ("category_probability", "attribute_probability")
        means = {
            name: np.mean([np.asarray(columns[name], np.float64) for columns in members], axis=0) for name in names
        }
        return {"category": means["category_probability"].argmax(axis=1), **means}

    def report_views(self) -> tuple[ReportView, ...]:
        """The sections about categories and about attributes."""
        return (
            ReportView("classes", "category", "category", "category_probability", names="category"),
            ReportView("attributes", "attributes", "attributes", "attribute_probability", names="attributes"),
        )


class DeepFashionEvaluator(SumEvaluator):
    """Right categories, and for each image and each attribute how often it is right, named and true."""

    def add_batch(self, outputs: Tensors, targets: Tensors) -> None:
        """See `SumEvaluator.add_batch`."""
        logits, category = outputs["category"].float(), targets["category"]
        labelled = category >= 0
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == category[:, None]
        self.add("images", labelled.sum())
        for best in (1, 3, 5):
            self.add(f"top{best}", (ranked[:, :best].any(dim=1) & labelled).sum())
        named = attributes.chosen(outputs["attributes"], self.config, self.task.names_at_least_one)
        attributes.add_counts(self, named, targets["attributes"])

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """Accuracy of the category; F1 of the attributes averaged over images and over attributes; the mean `score`."""
        images, of_attributes = max(1.0, float(sums["images"])), attributes.metrics(sums)
        found = {
            "accuracy": float(sums["top1"]) / images,
            "top3_accuracy": float(sums["top3"]) / images,
            "top5_accuracy": float(sums["top5"]) / images,
            "attribute_f1": of_attributes["sample_f1"],
            "attribute_class_f1": of_attributes["macro_f1"],
        }
        return {**found, "score": (found["accuracy"] + found["attribute_f1"]) / 2}
