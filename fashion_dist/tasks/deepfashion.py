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
from fashion_dist.tasks.common.base import Arrays, Columns, ReportView, Task, Tensors
from fashion_dist.tasks.common.classification import csv_text, require_classes
from fashion_dist.tasks.common.evaluators import SumEvaluator, macro_f1
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
    train=TrainConfig(epochs=75, batch_size=64, label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix=0.5, ema=0.995),
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

    def build_model(self, config: Config, schema: Schema) -> nn.Module:
        """The configured backbone with a head for each of the schema's categories and attributes."""
        from fashion_dist.models._uncertainty import UncertainNetwork
        from fashion_dist.models.backbone import build_backbone, build_network
        from fashion_dist.models.heads import Head

        heads = {
            "category": Head(len(schema.names["category"])),
            "attributes": Head(len(schema.names["attributes"]), hidden=96),
        }
        if config.options.get("weighting") == "uncertainty":
            backbone, num_features = build_backbone(config.model, config.data.image_px)
            return UncertainNetwork(backbone, num_features, heads, config.model.dropout)
        return build_network(config.model, heads, config.data.image_px)

    def targets(self, columns: Arrays, config: Config) -> Arrays:
        """`category` int64 [N] (-1: unknown) and `attributes` float32 [N, A] (1, 0, or -1: unknown)."""
        return {
            "category": columns["category"].astype(np.int64),
            "attributes": columns["attributes"].astype(np.float32),
        }

    def loss(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """Cross-entropy of the category plus weighted binary cross-entropy of the attributes that are known."""
        import torch.nn.functional as F

        summed = F.cross_entropy(
            outputs["category"].float(), targets["category"],
            ignore_index=-1, label_smoothing=config.train.label_smoothing, reduction="sum",
        )  # fmt: skip
        category = summed / (targets["category"] >= 0).sum().clamp(min=1)
        known = targets["attributes"] >= 0
        each = F.binary_cross_entropy_with_logits(
            outputs["attributes"].float(), targets["attributes"].clamp(min=0), reduction="none"
        )
        attributes = (each * known).sum() / known.sum().clamp(min=1)
        if config.options.get("weighting") == "uncertainty":
            from fashion_dist.models._uncertainty import weigh

            total = weigh({"category": category, "attributes": attributes}, outputs)
        else:
            total = category + float(config.options["attribute_weight"]) * attributes
        return {"loss": total, "category_loss": category, "attribute_loss": attributes}

    def evaluator(self, split: Split, config: Config) -> DeepFashionEvaluator:
        """Accuracies of the category, F1 of the attributes, and `score`."""
        return DeepFashionEvaluator(self, split, config)

    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """Category int64 [N] and its probabilities [N, K]; attributes bool [N, A] and theirs [N, A]."""
        logits = outputs["category"].float()
        chosen = chosen_attributes(outputs["attributes"], config)
        return {
            "category": logits.argmax(dim=1).cpu().numpy(),
            "category_probability": logits.softmax(dim=1).cpu().numpy(),
            "attributes": chosen.cpu().numpy(),
            "attribute_probability": outputs["attributes"].float().sigmoid().cpu().numpy(),
        }

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`category.csv` and `attribute.csv` as the assignment wants them, in the order of the split's file."""
        order = np.argsort(np.asarray(columns["row"]), kind="stable")
        paths, categories = columns["file_path"], columns["category"]
        probabilities = np.asarray(columns["attribute_probability"])
        # Chosen anew, because the thresholds may have been tuned after the prediction.
        attributes = probabilities >= thresholds(config, probabilities.shape[1])
        attributes |= probabilities == probabilities.max(axis=1, keepdims=True)
        return {
            "category.csv": csv_text(
                [("file_path", "category_label"), *((paths[i], categories[i]) for i in order)],
            ),
            "attribute.csv": csv_text(
                [
                    ("file_path", "attribute_label"),
                    *((paths[i], " ".join(str(a) for a in np.flatnonzero(attributes[i]))) for i in order),
                ]
            ),
        }

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse a weighting that does not exist, thresholds that do not fit, and labels outside the classes."""
        if config.options["weighting"] not in WEIGHTINGS:
            allowed = ", ".join(WEIGHTINGS)
            raise ConfigError(f"task.weighting = {config.options['weighting']!r} is not possible; allowed: {allowed}")
        thresholds(config, len(shard_set.schema.names["attributes"]))
        count = len(shard_set.schema.names["category"])
        for name in shard_set.splits:
            split = shard_set.split(name)
            require_classes(split, split.columns("category")["category"], count, "category")

    def tune_thresholds(self, split: Split, predictions: Columns, config: Config) -> dict[str, str]:
        """`thresholds`: for each attribute the one with the best F1 on a split whose attributes are known.

        Candidates are the middles between neighbouring probabilities; an attribute that never occurs keeps `threshold`.
        """
        truth = split.columns("attributes")["attributes"]
        probabilities = np.asarray(predictions["attribute_probability"])
        known, otherwise = truth >= 0, float(config.options["threshold"])
        found = [
            best_threshold(probabilities[known[:, a], a], truth[known[:, a], a], otherwise)
            for a in range(truth.shape[1])
        ]
        return {"thresholds": ",".join(f"{value:.4f}" for value in found)}

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
        known = targets["attributes"] >= 0
        chosen = chosen_attributes(outputs["attributes"], self.config) & known
        truth = targets["attributes"] == 1
        hits, named, true = (chosen & truth).double(), chosen.double(), truth.double()
        asked = known.any(dim=1)
        # F1 of one image is 2 hits / (named + true); an image without either has nothing to get wrong and counts as 1.
        both = (named + true).sum(dim=1)
        f1 = (2 * hits.sum(dim=1) / both.clamp(min=1)).where(both > 0, 1.0)
        self.add("images", labelled.sum())
        for best in (1, 3, 5):
            self.add(f"top{best}", (ranked[:, :best].any(dim=1) & labelled).sum())
        self.add("attribute_images", asked.sum())
        self.add("sample_f1", (f1 * asked).sum())
        for name, counts in (("hits", hits), ("named", named), ("true", true)):
            self.add(name, counts.sum(dim=0))

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """Accuracy of the category; F1 of the attributes averaged over images and over attributes; the mean `score`."""
        images, asked = max(1.0, float(sums["images"])), max(1.0, float(sums["attribute_images"]))
        found = {
            "accuracy": float(sums["top1"]) / images,
            "top3_accuracy": float(sums["top3"]) / images,
            "top5_accuracy": float(sums["top5"]) / images,
            "attribute_f1": float(sums["sample_f1"]) / asked,
            "attribute_class_f1": macro_f1(sums["hits"], sums["named"], sums["true"]),
        }
        return {**found, "score": (found["accuracy"] + found["attribute_f1"]) / 2}


def thresholds(config: Config, count: int) -> np.ndarray:
    """float32 [A], the probability from which each attribute is named.

    Raises:
        ConfigError: `task.thresholds` are not as many as the attributes, or not probabilities.
    """
    options = {**RECIPE.options, **config.options}  # a run may be older than an option
    text = str(options["thresholds"])
    try:
        found = np.array([float(part) for part in text.split(",")] if text else [options["threshold"]] * count)
    except ValueError:
        found = np.empty(0)
    if len(found) != count or not ((found >= 0) & (found <= 1)).all():
        raise ConfigError(f"task.thresholds = {text!r} is not possible; allowed: {count} numbers from 0 to 1")
    return found.astype(np.float32)


def chosen_attributes(logits: Tensor, config: Config) -> Tensor:
    """Attributes [N, A] -> bool [N, A]: those above their thresholds, and always the most probable one."""
    import torch

    probabilities = logits.float().sigmoid()
    least = torch.from_numpy(thresholds(config, logits.shape[1])).to(logits.device)
    return (probabilities >= least).logical_or(probabilities == probabilities.amax(dim=1, keepdim=True))


def best_threshold(probabilities: np.ndarray, truth: np.ndarray, otherwise: float) -> float:
    """The threshold with the best F1 of `probabilities` [n] against `truth` [n], 1 or 0; of several the middle one."""
    if not (truth == 1).any():
        return otherwise
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(truth[order] == 1)
    f1 = 2 * hits / (np.arange(1, len(truth) + 1) + (truth == 1).sum())
    ranked = probabilities[order]
    last = np.append(ranked[:-1] > ranked[1:], True)  # equal probabilities are named together
    best = np.flatnonzero(last & np.isclose(f1, f1[last].max()))
    at = int(best[len(best) // 2])
    below = float(ranked[at + 1]) if at + 1 < len(ranked) else 0.0
    return (float(ranked[at]) + below) / 2
