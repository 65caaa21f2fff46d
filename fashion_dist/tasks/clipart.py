"""Clip art in 65 categories (the Clipart domain of Office-Home, Venkateswara et al. 2017, and sets laid out like it).

Three models of the assignment: `--model resnet50 --weights imagenet`, `--model resnet50`, and our own by default.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.tasks.common.base import Columns
from fashion_dist.tasks.common.classification import Classification, in_order, require_writable
from shards import Split

RECIPE = Config(
    task="clipart",
    dataset="clipart",
    model=ModelConfig(name="fashionnet", dropout=0.2, args={"hue_jitter_prob": 0.2, "palette": False, "sketch": True}),
    optim=OptimConfig(name="adamw", lr=3e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=3.0),
    # Colours tell drawings apart, so they are seldom changed. The network cuts a drawing's margin off by itself.
    data=DataConfig(
        image_px=80, fit="squash", eval_resize=1.0, eval_flip=True, crop_scale=(0.7, 1.0), rotate=5.0,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    ),
    train=TrainConfig(epochs=70, batch_size=64, label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix_prob=0.5, ema=0.995),
)  # fmt: skip


class ClipArt(Classification):
    """The category of each drawing."""

    recipe = RECIPE

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`test.txt`: header `id,label`, then the image's name without its ending, a comma and a blank, its class."""
        names = [PurePosixPath(str(file)).stem for file in columns["file"]]
        require_writable(names, ",", "test.txt")
        answers = np.asarray(columns["label"])
        lines = ["id,label", *(f"{names[i]}, {int(answers[i])}" for i in in_order(columns))]
        return {"test.txt": "\n".join(lines) + "\n"}
