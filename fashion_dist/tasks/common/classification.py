"""What the tasks that give each image one class of several have in common; they differ in their classes and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common.base import Arrays, Columns, ReportView, Task, Tensors
from fashion_dist.tasks.common.evaluators import SumEvaluator, macro_f1
from shards import Schema, ShardSet, Split

if TYPE_CHECKING:
    from torch import Tensor, nn


class Classification(Task):
    """A task with one head, cross-entropy, and accuracy as what `best` means.

    A subclass sets `recipe` and has `submission`, whose columns are `label` [N] and `probability` [N, K]; and where the
    classes are not those of the column `label`, `labels` and `class_names` of its own.
    """

    columns: tuple[str, ...] = ("label",)
    monitor = "accuracy"
    summary_metrics = ("macro_f1",)

    def labels(self, columns: Arrays, config: Config) -> np.ndarray:
        """int64 [N], the class of each image; -1 where it is unknown."""
        return columns["label"].astype(np.int64)

    def class_names(self, schema: Schema, config: Config) -> Sequence[str]:
        """Names of the classes, in the order of their numbers."""
        return named_classes(schema, "label", config)

    def build_model(self, config: Config, schema: Schema) -> nn.Module:
        """The configured backbone with the head `label`."""
        from fashion_dist.models.backbone import build_network
        from fashion_dist.models.heads import Head

        return build_network(config.model, {"label": Head(len(self.class_names(schema, config)))}, config.data.image_px)

    def targets(self, columns: Arrays, config: Config) -> Arrays:
        """`label` int64 [N]."""
        return {"label": self.labels(columns, config)}

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse labels outside the classes."""
        count = len(self.class_names(shard_set.schema, config))
        for name in shard_set.splits:
            split = shard_set.split(name)
            require_classes(split, self.labels(split.columns(*self.columns), config), count, "class")

    def loss(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """Cross-entropy over the images whose class is known; the mean over independent heads."""
        import torch
        import torch.nn.functional as F

        known = targets["label"] >= 0
        answers = [logits for name, logits in outputs.items() if name.startswith("label/")] or [outputs["label"]]
        total = torch.stack([
            F.cross_entropy(
                logits.float(), targets["label"],
                ignore_index=-1, label_smoothing=config.train.label_smoothing, reduction="sum",
            )
            for logits in answers
        ]).mean()  # fmt: skip
        return {"loss": total / known.sum().clamp(min=1)}

    def evaluator(self, split: Split, config: Config) -> ClassEvaluator:
        """Accuracy, macro F1, top-3 and top-5 accuracy; tables of what is taken for what."""
        return ClassEvaluator(self, split, config)

    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """The most probable class, int64 [N], and the probabilities of all, float32 [N, K]."""
        logits = outputs["label"].float()
        return {"label": logits.argmax(dim=1).cpu().numpy(), "probability": logits.softmax(dim=1).cpu().numpy()}

    def ensemble(self, members: Sequence[Columns]) -> dict[str, np.ndarray]:
        """The class that is most probable by the mean of the models' probabilities, and that mean."""
        mean = np.mean([np.asarray(columns["probability"], np.float64) for columns in members], axis=0)
        return {"label": mean.argmax(axis=1), "probability": mean.astype(np.float32)}

    def report_views(self) -> tuple[ReportView, ...]:
        """The sections about classes."""
        return (ReportView("classes", truth="label", answer="label", probability="probability"),)


class ClassEvaluator(SumEvaluator):
    """Counts of (truth, answer), and of the samples whose truth is among the best 3 and 5."""

    def add_batch(self, outputs: Tensors, targets: Tensors) -> None:
        """See `SumEvaluator.add_batch`."""
        logits, label = outputs["label"].float(), targets["label"]
        count, known = logits.shape[1], label >= 0
        self.add_counts("confusion", label.clamp(min=0) * count + logits.argmax(dim=1), count * count, known)
        ranked = (logits.topk(min(5, count), dim=1).indices == label[:, None]) & known[:, None]
        self.add("top3", ranked[:, :3].any(dim=1).sum())
        self.add("top5", ranked.any(dim=1).sum())

    @staticmethod
    def _square(sums: Arrays) -> np.ndarray:
        """[K, K], rows the truth and columns the answer."""
        count = round(len(sums["confusion"]) ** 0.5)
        return sums["confusion"].reshape(count, count)

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """See `SumEvaluator.metrics`."""
        confusion = self._square(sums)
        images, right = max(1.0, float(confusion.sum())), np.diag(confusion)
        found = {
            "accuracy": float(right.sum()) / images,
            "macro_f1": macro_f1(right, confusion.sum(axis=0), confusion.sum(axis=1)),
        }
        for best in (3, 5):
            if len(confusion) > best:
                found[f"top{best}_accuracy"] = float(sums[f"top{best}"]) / images
        return found

    def tables(self) -> dict[str, str]:
        """`confusion.csv` and `confused.csv`."""
        return confusion_tables(self._square(self.sums), self.task.class_names(self.split.schema, self.config))


def named_classes(schema: Schema, column: str, config: Config, count: int = 0) -> Sequence[str]:
    """The class names of a column; raises ConfigError where a shard set has none, or not `count`."""
    found = schema.names.get(column, ())
    if not found or (count and len(found) != count):
        wanted = f"{count} classes" if count else "class names"
        raise ConfigError(
            f"task {config.task!r} needs {wanted} for the fact {column!r}; the shard set names {len(found)}"
        )
    return found


def require_classes(split: Split, labels: np.ndarray, count: int, noun: str) -> None:
    """Refuse labels int [N] of a split that are not below `count`."""
    if len(labels) and labels.max() >= count:
        row = int(np.argmax(labels))
        raise ConfigError(
            f"{split.path}: {split.keys[row]} of split {split.name!r} has {noun} {labels[row]}; "
            f"allowed: 0 to {count - 1}"
        )


def confusion_tables(confusion: np.ndarray, names: Sequence[str]) -> dict[str, str]:
    """`confusion.csv`, rows the truth; `confused.csv`, the pairs of classes by how often one is taken for the other."""
    counts = np.asarray(confusion).astype(np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts > 0) if i != j]
    wrong.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return {
        "confusion.csv": csv_text(
            [("truth", *names), *((name, *row.tolist()) for name, row in zip(names, counts, strict=True))]
        ),
        "confused.csv": csv_text(
            [
                ("truth", "answer", "images", "share_of_truth"),
                *((names[i], names[j], count, f"{shares[i, j]:.4f}") for count, i, j in wrong),
            ]
        ),
    }


def csv_text(lines: Iterable[Sequence[object]], separator: str = ",") -> str:
    """Lines as CSV; fields are quoted where they must be."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(lines)
    return text.getvalue()


def in_order(columns: Columns) -> list[int]:
    """Positions of the images by their `row` in the source; in the order of the split where it has no such fact."""
    count = len(columns["label"])
    values: Any = columns.get("row", np.arange(count))
    return [int(i) for i in np.argsort(np.asarray(values), kind="stable")]
