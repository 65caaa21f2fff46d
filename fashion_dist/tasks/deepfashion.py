"""DeepFashion: a garment's category and its attributes, from one network.

One backbone with a category head (cross-entropy) and an attribute head (binary cross-entropy, Liu et al. 2016, without
landmarks). The same task trains on the `synthetic` data set (`--dataset synthetic`), which has the same facts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.tasks import Arrays, Columns, Task, Tensors
from shards import Schema, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

RECIPE = Config(
    task="deepfashion",
    dataset="deep_fashion",
    model=ModelConfig(name="fashionnet"),
    optim=OptimConfig(name="adamw", lr=3e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=3.0),
    # The attributes are colours and patterns of the middle, so the pixels keep their colours (the network recolours
    # what its trunk sees) and evaluation takes the whole photo.
    data=DataConfig(
        image_px=128,
        start_px=64,
        fit="squash",
        eval_resize=1.0,
        crop_scale=(0.5, 1.0),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    train=TrainConfig(epochs=60, batch_size=64, label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix=0.5, ema=0.995),
    options={"attribute_weight": 15.0, "threshold": 0.4},
)


def build_model(config: Config, schema: Schema) -> nn.Module:
    """The configured backbone with a head for each of the schema's categories and attributes."""
    from fashion_dist.models import Head, build_network

    heads = {
        "category": Head(len(schema.names["category"]), part="shape"),
        "attributes": Head(len(schema.names["attributes"]), part="look", hidden=96),
    }
    return build_network(config.model, heads, config.data.image_px)


def targets(facts: Arrays, config: Config) -> Arrays:
    """`category` int64 [N] (-1: unknown) and `attributes` float32 [N, A] (1, 0, or -1: unknown)."""
    return {
        "category": facts["category"].astype(np.int64),
        "attributes": facts["attributes"].astype(np.float32),
    }


def loss(outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
    """Cross-entropy of the category plus weighted binary cross-entropy of the attributes that are known."""
    import torch.nn.functional as F

    category = F.cross_entropy(
        outputs["category"].float(), targets["category"],
        ignore_index=-1, label_smoothing=config.train.label_smoothing,
    )  # fmt: skip
    known = targets["attributes"] >= 0
    each = F.binary_cross_entropy_with_logits(
        outputs["attributes"].float(), targets["attributes"].clamp(min=0), reduction="none"
    )
    attributes = (each * known).sum() / known.sum().clamp(min=1)
    weight = float(config.options["attribute_weight"])
    return {"loss": category + weight * attributes, "category_loss": category, "attribute_loss": attributes}


def chosen_attributes(logits: Tensor, threshold: float) -> Tensor:
    """Attributes [N, A] -> bool [N, A]: those above the threshold, and always the most probable one."""
    probabilities = logits.float().sigmoid()
    return (probabilities >= threshold).logical_or(probabilities == probabilities.amax(dim=1, keepdim=True))


def sums(outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
    """Counts whose sums over batches and ranks give the metrics; see `metrics`."""
    logits, category = outputs["category"].float(), targets["category"]
    labelled = category >= 0
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == category[:, None]
    truth = targets["attributes"] == 1
    known = targets["attributes"] >= 0
    chosen = chosen_attributes(outputs["attributes"], float(config.options["threshold"])) & known
    hits = (chosen & truth).double()
    named, true = chosen.double(), truth.double()
    asked = known.any(dim=1)
    # F1 of one image is 2 hits / (named + true); an image without either has nothing to get wrong and counts as 1.
    both = (named + true).sum(dim=1)
    f1 = (2 * hits.sum(dim=1) / both.clamp(min=1)).where(both > 0, 1.0)
    return {
        "images": labelled.sum(),
        "top1": (ranked[:, :1].any(dim=1) & labelled).sum(),
        "top3": (ranked[:, :3].any(dim=1) & labelled).sum(),
        "top5": (ranked.any(dim=1) & labelled).sum(),
        "attribute_images": asked.sum(),
        "sample_f1": (f1 * asked).sum(),
        "hits": hits.sum(dim=0),
        "named": named.sum(dim=0),
        "true": true.sum(dim=0),
    }


def metrics(sums: Arrays, schema: Schema) -> dict[str, float]:
    """Accuracy of the category; F1 of the attributes averaged over images and over attributes; their mean, `score`."""
    images, asked = max(1.0, float(sums["images"])), max(1.0, float(sums["attribute_images"]))
    both = sums["named"] + sums["true"]
    class_f1 = np.divide(2 * sums["hits"], both, out=np.zeros_like(both), where=both > 0)
    found = {
        "accuracy": float(sums["top1"]) / images,
        "top3_accuracy": float(sums["top3"]) / images,
        "top5_accuracy": float(sums["top5"]) / images,
        "attribute_f1": float(sums["sample_f1"]) / asked,
        "attribute_class_f1": float(class_f1[both > 0].mean()) if (both > 0).any() else 0.0,
    }
    return {**found, "score": (found["accuracy"] + found["attribute_f1"]) / 2}


def rows(outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
    """Category int64 [N] and its probabilities [N, K]; attributes bool [N, A] and theirs [N, A]."""
    logits = outputs["category"].float()
    chosen = chosen_attributes(outputs["attributes"], float(config.options["threshold"]))
    return {
        "category": logits.argmax(dim=1).cpu().numpy(),
        "category_probability": logits.softmax(dim=1).cpu().numpy(),
        "attributes": chosen.cpu().numpy(),
        "attribute_probability": outputs["attributes"].float().sigmoid().cpu().numpy(),
    }


def submission(columns: Columns, split: Split, config: Config) -> dict[str, str]:
    """`category.csv` and `attribute.csv` as the assignment wants them, in the order of the split's file."""
    order = np.argsort(np.asarray(columns["row"]), kind="stable")
    paths, categories, attributes = columns["file_path"], columns["category"], columns["attributes"]
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


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """Lines as CSV; fields are quoted where they must be."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


TASK = Task(
    recipe=RECIPE,
    facts=("category", "attributes"),
    build_model=build_model,
    targets=targets,
    loss=loss,
    sums=sums,
    metrics=metrics,
    rows=rows,
    submission=submission,
    monitor="score",
    unmixable=("attributes",),
    shown_metrics=("accuracy", "attribute_f1"),
)
