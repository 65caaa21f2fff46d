"""What tasks share that give each image any number of labels: the loss, thresholds, metrics, and how they are tuned.

Thresholds stand in two options of such a task: `thresholds`, one per label joined by commas; none is `threshold` for
all.

Legend: N samples, A labels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common.base import Arrays
from fashion_dist.tasks.common.classification import csv_text
from fashion_dist.tasks.common.evaluators import SumEvaluator, macro_f1

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from shards import Split


def binary_loss(
    logits: Tensor, truth: Tensor, positive_weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Binary cross-entropy of logits [N, A], added up over the labels that are known.

    Args:
        logits: of the network.
        truth: [N, A], 1, 0, or -1 where it is unknown.
        positive_weight: [A], what the loss of a label that is there is multiplied with (torch's `pos_weight`).
        label_smoothing: 1 and 0 are brought nearer to a half by this share.
    """
    import torch.nn.functional as F

    known, truth = truth >= 0, truth.float()
    smoothed = truth.clamp(min=0) * (1 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else truth
    each = F.binary_cross_entropy_with_logits(
        logits.float(), smoothed.clamp(min=0), reduction="none", pos_weight=positive_weight
    )
    return (each * known).sum()


def as_targets(values: np.ndarray) -> np.ndarray:
    """A column of labels as int8 [N, A]: 290,000 images of 1,000 labels are 290 MB; other numbers stay other ones."""
    return values.clip(-1, 2).astype(np.int8)


def require_labels(split: Split, column: str, names: Sequence[str]) -> None:
    """Refuse a column that has other numbers than 1, 0 and those below, which are unknown."""
    row = 0
    for piece in split.iter_columns(column):
        values = piece[column]
        if values.size and values.max() > 1:
            at, a = (int(k) for k in np.unravel_index(int(values.argmax()), values.shape))
            raise ConfigError(
                f"{split.path}: {split.keys[row + at]} of split {split.name!r} has {values[at, a]} for {names[a]!r}; "
                f"allowed: 1, 0, or unknown"
            )
        row += len(values)


def thresholds(config: Config, count: int) -> np.ndarray:
    """float64 [A], the probability from which each label is named; raises ConfigError for anything else."""
    return _thresholds(str(config.options["thresholds"]), float(config.options["threshold"]), count)


@functools.lru_cache(maxsize=16)
def _thresholds(text: str, usual: float, count: int) -> np.ndarray:
    if not 0 <= usual <= 1:
        raise ConfigError(f"task.threshold = {usual} is not possible; allowed: 0 to 1")
    try:
        found = np.array([float(part) for part in text.split(",")] if text else [usual] * count)
    except ValueError:
        found = np.empty(0)
    if len(found) != count or not ((found >= 0) & (found <= 1)).all():
        raise ConfigError(f"task.thresholds = {text!r} is not possible; allowed: {count} numbers from 0 to 1")
    return found


def chosen(logits: Tensor, config: Config, at_least_one: bool) -> Tensor:
    """Logits [N, A] -> bool [N, A], the labels above their thresholds; with `at_least_one` the most probable too."""
    probabilities = logits.float().sigmoid()
    least = tuple(thresholds(config, logits.shape[1]).tolist())
    named = probabilities >= vector_on(least, logits.device, double=True)
    if not at_least_one:
        return named
    return named.logical_or(probabilities == probabilities.amax(dim=1, keepdim=True))


@functools.lru_cache(maxsize=16)
def vector_on(values: tuple[float, ...], device: torch.device, double: bool = False) -> Tensor:
    """Float32, or float64, [len(values)] on a device; kept, for copying it there again would wait for the device."""
    import torch

    with torch.inference_mode(False):  # or training could not use what an evaluation asked for first
        return torch.tensor(values, dtype=torch.float64 if double else torch.float32, device=device)


def add_counts(evaluator: SumEvaluator, named: Tensor, truth: Tensor) -> None:
    """Add labels named, bool [N, A], and true, [N, A] of 1, 0, or -1 (unknown), to the sums that `metrics` needs."""
    known, there = truth >= 0, truth == 1
    named = named & known
    hits, asked = named & there, known.any(dim=1)
    evaluator.add("attribute_images", asked.sum())
    evaluator.add("sample_f1", (image_f1(hits, named, there) * asked).sum())
    evaluator.add("exact", ((named == there).all(dim=1) & asked).sum())
    for name, counts in (("hits", hits), ("named", named), ("true", there)):
        evaluator.add(name, counts.sum(dim=0))


def image_f1(hits: Tensor, named: Tensor, there: Tensor) -> Tensor:
    """F1 of each image, float64 [N], of bool [N, A]: 2 hits / (named + there).

    An image without either has nothing to get wrong and counts as 1.
    """
    both = (named.sum(dim=1) + there.sum(dim=1)).double()
    return (2 * hits.sum(dim=1) / both.clamp(min=1)).where(both > 0, 1.0)


def train_f1(named: Tensor, truth: Tensor) -> Tensor:
    """For `Task.train_metrics`: [2], the sum of the images' F1 and how many have known labels."""
    import torch

    known, there = truth >= 0, truth == 1
    named, asked = named & known, known.any(dim=1)
    return torch.stack([(image_f1(named & there, named, there) * asked).sum(), asked.sum().double()])


def train_micro_f1(named: Tensor, truth: Tensor) -> Tensor:
    """For `Task.train_metrics`: [2], twice the hits, and how many labels were named or are there."""
    import torch

    there, named = truth == 1, named & (truth >= 0)
    return torch.stack([2 * (named & there).sum(), named.sum() + there.sum()])


def metrics(sums: Arrays) -> dict[str, float]:
    """Of the sums of `add_counts`: F1 as the mean over images (`sample_f1`), over labels (`macro_f1`) and of all
    answers together (`micro_f1`), and the share of images of which every label is right (`exact_match`).
    """
    images, both = max(1.0, float(sums["attribute_images"])), float(sums["named"].sum() + sums["true"].sum())
    return {
        "micro_f1": 2 * float(sums["hits"].sum()) / both if both else 0.0,
        "macro_f1": macro_f1(sums["hits"], sums["named"], sums["true"]),
        "sample_f1": float(sums["sample_f1"]) / images,
        "exact_match": float(sums["exact"]) / images,
    }


def names_of(measured: Sequence[str]) -> dict[str, str]:
    """What a task with the metrics `measured` calls those of `metrics`; beside a category two are the attributes'."""
    if "attribute_f1" in measured:
        return {"sample_f1": "attribute_f1", "macro_f1": "attribute_class_f1"}
    return {name: name for name in ("micro_f1", "macro_f1", "sample_f1")}


def label_table(sums: Arrays, names: Sequence[str]) -> str:
    """A CSV of the sums of `add_counts`: each label, how many images have it, were given it, and rightly so; its F1."""
    true, named, hits = (sums[name].astype(np.int64).tolist() for name in ("true", "named", "hits"))
    rows = [(name, *row) for name, *row in zip(names, true, named, hits, strict=True)]
    f1 = [f"{2 * hit / (there + given):.4f}" if there + given else "" for _, there, given, hit in rows]
    return csv_text(
        [("label", "images", "named", "right", "f1"), *((*row, f) for row, f in zip(rows, f1, strict=True))]
    )


def tuned_thresholds(truth: np.ndarray, probabilities: np.ndarray, config: Config) -> str:
    """`thresholds` with the best F1 of each label, of truth [N, A] (1, 0, or -1) and probabilities [N, A].

    Candidates are the middles between neighbouring probabilities; a label that never occurs keeps `threshold`.
    """
    known, otherwise = truth >= 0, float(config.options["threshold"])
    found = [
        best_threshold(probabilities[known[:, a], a], truth[known[:, a], a], otherwise) for a in range(truth.shape[1])
    ]
    return ",".join(repr(float(value)) for value in found)


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
