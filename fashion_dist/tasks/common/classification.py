"""What the tasks that give each image one class of several have in common; they differ in their classes and files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.tasks.common.base import Arrays, Columns, ReportView, Task, Tensors
from fashion_dist.tasks.common.evaluators import SumEvaluator, macro_f1
from shards import Schema, ShardSet, Split
from shards.spreadsheet import csv_for_people
from shards.spreadsheet import csv_text as csv_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fashion_dist.train.distributed import ProcessGroup

WIDE = 4096
"""Of more classes only the five most probable ones of an image are kept, not the probabilities of all."""
SHOWN = 1000
"""Of more classes there is no table of all against all."""


class Classification(Task):
    """A task with one head, cross-entropy, and accuracy as what `best` means.

    A subclass sets `recipe` and has `submission`, whose columns are those of `predictions`; and where the classes are
    not those of the column `label`, a `label_column`, or `labels` and `class_names`, of its own.
    """

    columns: tuple[str, ...] = ("label",)
    monitor = "accuracy"
    summary_metrics = ("macro_f1",)

    def label_column(self, config: Config) -> str:
        """The column of the classes."""
        return "label"

    def labels(self, columns: Arrays, config: Config) -> np.ndarray:
        """int64 [N], the class of each image; -1 where it is unknown."""
        return columns[self.label_column(config)].astype(np.int64)

    def class_names(self, schema: Schema, config: Config) -> Sequence[str]:
        """Names of the classes, in the order of their numbers."""
        return named_classes(schema, self.label_column(config), config)

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
            require_classes(split, self.labels(split.columns(*self.columns_of(config)), config), count, "class")

    def counts(self, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """The images whose class is known, each by the weight of its class."""
        label = targets["label"]
        known, weights = label >= 0, self.class_weights(config, label.device)
        return {"loss": known.sum() if weights is None else (weights[label.clamp(min=0)] * known).sum()}

    def losses(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """Cross-entropy of the images whose class is known; the mean over independent heads."""
        import torch
        import torch.nn.functional as F

        label, smoothing = targets["label"], config.train.label_smoothing
        weights = self.class_weights(config, label.device)
        answers = [logits for name, logits in outputs.items() if name.startswith("label/")] or [outputs["label"]]
        total = torch.stack([
            F.cross_entropy(
                logits.float(), label, weights, ignore_index=-1, label_smoothing=smoothing, reduction="sum"
            )
            for logits in answers
        ]).mean()  # fmt: skip
        return {"loss": total}

    def class_weights(self, config: Config, device: torch.device) -> Tensor | None:
        """Float32 [K] on the device, by which the losses of the classes are weighed; None weighs all alike."""
        return None

    def metrics(self, schema: Schema, config: Config) -> tuple[str, ...]:
        """See `Task.metrics`."""
        count = len(self.class_names(schema, config))
        best = [f"top{n}_accuracy" for n in (3, 5) if count > n]
        return ("accuracy", "macro_f1", *best, "loss", *(["plain_loss"] if config.train.label_smoothing else []))

    def train_metrics(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """`accuracy`."""
        return {"accuracy": right_answers(outputs["label"], targets["label"])}

    def evaluator(self, split: Split, config: Config) -> ClassEvaluator:
        """Accuracy, macro F1, top-3 and top-5 accuracy; tables of what is taken for what."""
        return ClassEvaluator(self, split, config)

    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """The most probable class `label`, int64 [N], and the `probability` of all, float32 [N, K].

        Of more than `WIDE` classes the five most probable ones `top`, int64 [N, 5], and their `top_probability`.
        """
        probability = outputs["label"].float().softmax(dim=1)
        found = {"label": outputs["label"].float().argmax(dim=1)}
        if probability.shape[1] > WIDE:
            found["top_probability"], found["top"] = probability.topk(5, dim=1)
        else:
            found["probability"] = probability
        return {name: values.cpu().numpy() for name, values in found.items()}

    def ensemble(self, members: Sequence[Columns]) -> dict[str, np.ndarray]:
        """The class that is most probable by the mean of the models' probabilities, and that mean."""
        if "probability" not in members[0]:
            raise ConfigError(f"answers in more than {WIDE:,} classes have no mean; allowed: the best run alone")
        mean = np.mean([np.asarray(columns["probability"], np.float64) for columns in members], axis=0)
        return {"label": mean.argmax(axis=1), "probability": mean.astype(np.float32)}

    def report_views(self) -> tuple[ReportView, ...]:
        """The sections about classes."""
        return (ReportView("classes", truth="label", answer="label", probability="probability"),)


class ClassEvaluator(SumEvaluator):
    """How often each class is taken for each, as counts of the pairs that occur, and top-3 and top-5 hits.

    Nothing grows with the square of the classes; 8 bytes a sample are kept until `reduce`.
    """

    def __init__(self, task: Classification, split: Split, config: Config) -> None:
        super().__init__(task, split, config)
        self.count = len(task.class_names(split.schema, config))
        self._pairs: list[Tensor] = []
        self.pairs: np.ndarray = np.empty((0, 3), np.int64)
        """After `reduce`, int64 [P, 3]: truth, answer and how often, of the pairs that occur."""

    def add_batch(self, outputs: Tensors, targets: Tensors) -> None:
        """See `SumEvaluator.add_batch`."""
        logits, label = outputs["label"].float(), targets["label"]
        known = label >= 0
        self._pairs.append((label * self.count + logits.argmax(dim=1)).where(known, -1))
        ranked = (logits.topk(min(5, self.count), dim=1).indices == label[:, None]) & known[:, None]
        self.add("top3", ranked[:, :3].any(dim=1).sum())
        self.add("top5", ranked.any(dim=1).sum())

    def reduce(self, dist: ProcessGroup) -> None:
        """See `Evaluator.reduce`."""
        import torch

        super().reduce(dist)
        cells, counts = np.unique(torch.cat(self._pairs).cpu().numpy() if self._pairs else [], return_counts=True)
        found = dist.gather_arrays({"cell": cells.astype(np.int64), "count": counts.astype(np.int64)})
        cells, where = np.unique(np.concatenate([part["cell"] for part in found]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([part["count"] for part in found]), len(cells)).astype(np.int64)
        known = cells >= 0
        self.pairs = np.stack([cells // self.count, cells % self.count, counts], axis=1)[known]

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """See `SumEvaluator.metrics`."""
        truth, answer, times = self.pairs.T
        images, hit = max(1, int(times.sum())), truth == answer
        right = np.bincount(truth[hit], times[hit], self.count)
        named, true = np.bincount(answer, times, self.count), np.bincount(truth, times, self.count)
        found = {"accuracy": float(right.sum()) / images, "macro_f1": macro_f1(right, named, true)}
        for best in (3, 5):
            if self.count > best:
                found[f"top{best}_accuracy"] = float(sums[f"top{best}"]) / images
        return found

    def tables(self) -> dict[str, str]:
        """`confused.csv`, and of at most `SHOWN` classes `confusion.csv`."""
        return confusion_tables(self.pairs, self.task.class_names(self.split.schema, self.config))


def right_answers(logits: Tensor, label: Tensor) -> Tensor:
    """For `Task.train_metrics`: [2], how many of logits [N, K] are highest at `label` [N], and of how many known."""
    import torch

    known = label >= 0
    return torch.stack([((logits.argmax(dim=1) == label) & known).sum(), known.sum()])


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
    """Refuse labels int [N] of a split that are not below `count`, nor -1 where none is known."""
    if (wrong := (labels >= count) | (labels < -1)).any():
        row = int(np.argmax(wrong))
        raise ConfigError(
            f"{split.path}: {split.keys[row]} of split {split.name!r} has {noun} {labels[row]}; "
            f"allowed: 0 to {count - 1}"
        )


def confusion_tables(pairs: np.ndarray, names: Sequence[str]) -> dict[str, str]:
    """`confused.csv`, the pairs of classes by how often one is taken for the other; and of at most `SHOWN` classes
    `confusion.csv`, rows the truth. `pairs`, int64 [P, 3], are truth, answer and how often, of pairs that occur.
    """
    truth, answer, times = pairs.T
    of_truth = np.bincount(truth, times, len(names)).astype(np.int64)
    wrong = pairs[truth != answer]
    wrong = wrong[np.lexsort((wrong[:, 1], wrong[:, 0], -wrong[:, 2]))]
    lines = [(names[i], names[j], count, f"{count / of_truth[i]:.4f}") for i, j, count in wrong.tolist()]
    found = {"confused.csv": csv_for_people([("truth", "answer", "images", "share_of_truth"), *lines])}
    if len(names) <= SHOWN:
        counts = np.zeros((len(names), len(names)), np.int64)
        counts[truth, answer] = times
        rows = [(name, *row.tolist()) for name, row in zip(names, counts, strict=True)]
        found["confusion.csv"] = csv_for_people([("truth", *names), *rows])
    return found


def require_writable(names: Iterable[str], separators: str, file: str) -> None:
    """Refuse names that a submission's format cannot hold, for they would make other lines of it.

    Raises:
        InputError: a name is empty, or has a separator, a control character or a blank at its ends; names the first.
    """
    for name in names:
        if not name or name != name.strip() or not name.isprintable() or any(mark in name for mark in separators):
            raise InputError(
                f"{name!r} cannot stand in {file}, where {' and '.join(map(repr, separators))} end a name; rename the "
                "image and pack again"
            )


def in_order(columns: Columns) -> list[int]:
    """Positions of the images by their `row` in the source; in the order of the split where it has no such fact."""
    count = len(columns["label"])
    values: Any = columns.get("row", np.arange(count))
    return [int(i) for i in np.argsort(np.asarray(values), kind="stable")]
