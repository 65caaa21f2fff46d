"""Polyvore pairs: whether two items of clothing go together, by one network for both, symmetric by construction.

Other backbones of the assignment: `--model resnet50 --weights imagenet`, `--model mobilenet_v2` from scratch, and
`--model xception --weights imagenet`, whole or with `--set model.freeze=backbone`. Hard negatives:
`--set task.negatives=hard`. `fashion-dist collect RUN --task polyvore_outfits` answers outfits and questions with the
same weights.
"""

from __future__ import annotations

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.tasks import Columns, Task
from fashion_dist.tasks.common import compatibility
from fashion_dist.tasks.common.compatibility import asked_pairs, score_pairs, wardrobe_of
from shards import Split

RECIPE = Config(
    task="polyvore_pairs",
    dataset="polyvore_outfits",
    model=ModelConfig(name="fashionnet", dropout=0.2, args={"hue_jitter_prob": 0.0}),
    optim=OptimConfig(name="adamw", lr=2e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=2.0),
    # Colours are part of what goes together, so none is changed.
    data=DataConfig(
        image_px=64, fit="squash", eval_resize=1.1, eval_flip=True, crop_scale=(0.6, 1.0),
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    ),
    train=TrainConfig(epochs=60, batch_size=32, ema=0.99, label_smoothing=0.1),
    options=dict(compatibility.OPTIONS),
)  # fmt: skip


def submission(columns: Columns, split: Split, config: Config) -> dict[str, str]:
    """`compatibility.txt`, a line for each pair: both items, 1 or 0 as predicted, as is true, and the probability."""
    pairs, truth = asked_pairs(wardrobe_of(split), config.train.seed)
    probabilities = compatibility.sigmoid(score_pairs(np.asarray(columns["embedding"]), pairs[:, 0], pairs[:, 1]))
    names = list(split.keys)
    lines = [
        f"{names[a]} {names[b]} {int(probability > 0.5)} {true} {probability:.4f}"
        for (a, b), true, probability in zip(pairs.tolist(), truth.tolist(), probabilities.tolist(), strict=True)
    ]
    return {"compatibility.txt": "\n".join(lines) + "\n"}


TASK = Task(
    recipe=RECIPE,
    facts=("item_id", "semantic"),
    build_model=compatibility.build_model,
    examples=compatibility.examples,
    loss=compatibility.loss,
    judge=compatibility.judge,
    rows=compatibility.rows,
    submission=submission,
    check=compatibility.check,
    average=compatibility.average,
    settle=compatibility.calibrate,
    monitor="score",
    shown_metrics=("pair_auc", "outfit_auc", "fill_in_blank"),
)
