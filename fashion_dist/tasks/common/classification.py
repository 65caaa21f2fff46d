"""What the tasks that give each image one class of several have in common; they differ in their classes and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks import Arrays, Columns, Task, Tensors
from shards import Schema, ShardSet, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

Submission = Callable[[Columns, Split, Config], dict[str, str]]


def classification(
    recipe: Config,
    facts: tuple[str, ...],
    class_names: Callable[[Schema, Config], Sequence[str]],
    labels: Callable[[Arrays, Config], np.ndarray],
    submission: Submission,
    merges: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
) -> Task:
    """A task with one head, cross-entropy, and accuracy as what `best` means.

    Args:
        recipe: the configuration that trains it well.
        facts: the facts it needs.
        class_names: names of the classes, in the order of their numbers.
        labels: (facts, config) -> int64 [N], the class of each image; -1 where it is unknown.
        merges: as in `Task`.
        submission: as in `Task`; the columns have `label` [N] and `probability` [N, K].
    """

    def build_model(config: Config, schema: Schema) -> nn.Module:
        from fashion_dist.models.backbone import build_network
        from fashion_dist.models.heads import Head

        return build_network(config.model, {"label": Head(len(class_names(schema, config)))}, config.data.image_px)

    def targets(facts: Arrays, config: Config) -> Arrays:
        return {"label": labels(facts, config)}

    def tables(sums: Arrays, schema: Schema, config: Config) -> dict[str, str]:
        return confusion_tables(sums["confusion"], class_names(schema, config))

    def check(shard_set: ShardSet, config: Config) -> None:
        count = len(class_names(shard_set.schema, config))
        for name in shard_set.splits:
            split = shard_set.split(name)
            found = labels(split.columns(*facts), config)
            if len(found) and found.max() >= count:
                row = int(np.argmax(found))
                raise ConfigError(
                    f"{shard_set.path}: {split.keys[row]} of split {name!r} has class {found[row]}; "
                    f"allowed: 0 to {count - 1}"
                )

    return Task(
        recipe=recipe, facts=facts, build_model=build_model, targets=targets, loss=loss, sums=sums, metrics=metrics,
        rows=rows, submission=submission, tables=tables, class_names=class_names, merges=merges or {}, check=check,
        monitor="accuracy", shown_metrics=("macro_f1",), average=average,
    )  # fmt: skip


def named_classes(fact: str, count: int = 0) -> Callable[[Schema, Config], Sequence[str]]:
    """The class names of `fact`; raises ConfigError where a shard set has none, or not `count`."""

    def read(schema: Schema, config: Config) -> Sequence[str]:
        found = schema.names.get(fact, ())
        if not found or (count and len(found) != count):
            wanted = f"{count} classes" if count else "class names"
            raise ConfigError(
                f"task {config.task!r} needs {wanted} for the fact {fact!r}; the shard set names {len(found)}"
            )
        return found

    return read


def loss(outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
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


def sums(outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
    """`confusion` [K, K], rows the truth and columns the answer; how many had the truth among the best 3 and 5."""
    import torch

    logits, label = outputs["label"].float(), targets["label"]
    count = logits.shape[1]
    known = label >= 0
    ranked = (logits.topk(min(5, count), dim=1).indices == label[:, None]) & known[:, None]
    cells = (label * count + logits.argmax(dim=1))[known]
    return {
        "confusion": torch.bincount(cells, minlength=count * count).reshape(count, count).double(),
        "top3": ranked[:, :3].any(dim=1).sum(),
        "top5": ranked.any(dim=1).sum(),
    }


def metrics(sums: Arrays, schema: Schema) -> dict[str, float]:
    """Accuracy, F1 averaged over the classes that occur, and whether the truth is among the best 3 and 5."""
    confusion = np.asarray(sums["confusion"])
    images, right = max(1.0, float(confusion.sum())), np.diag(confusion)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2 * right[both > 0] / both[both > 0]
    found = {"accuracy": float(right.sum()) / images, "macro_f1": float(f1.mean()) if len(f1) else 0.0}
    for best in (3, 5):
        if len(confusion) > best:
            found[f"top{best}_accuracy"] = float(sums[f"top{best}"]) / images
    return found


def rows(outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
    """The most probable class, int64 [N], and the probabilities of all, float32 [N, K]."""
    logits = outputs["label"].float()
    return {"label": logits.argmax(dim=1).cpu().numpy(), "probability": logits.softmax(dim=1).cpu().numpy()}


def average(members: Sequence[Columns]) -> dict[str, np.ndarray]:
    """The class that is most probable by the mean of the models' probabilities, and that mean."""
    mean = np.mean([np.asarray(columns["probability"], np.float64) for columns in members], axis=0)
    return {"label": mean.argmax(axis=1), "probability": mean.astype(np.float32)}


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
