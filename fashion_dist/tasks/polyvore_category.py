"""Polyvore items by category: the source's `category_id`, or with `--set task.level=semantic` the coarser kinds."""

from __future__ import annotations

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.errors import ConfigError
from fashion_dist.tasks.common.base import Columns
from fashion_dist.tasks.common.classification import Classification, require_writable
from fashion_dist.tasks.common.learned_set import LearnedSet
from shards import ShardSet, Split

RECIPE = Config(
    task="polyvore_category",
    dataset="polyvore_outfits",
    model=ModelConfig(name="fashionnet", dropout=0.2),
    optim=OptimConfig(name="adamw", lr=3e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=3.0),
    data=DataConfig(
        image_px=96, fit="squash", eval_resize=1.14, crop_scale=(0.5, 1.0), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    ),
    train=TrainConfig(epochs=60, batch_size=64, label_smoothing=0.1, mixup=0.4, cutmix=1.0, mix_prob=0.5, ema=0.995),
    options={"level": "category"},
)

LEVELS = ("category", "semantic")


def level(config: Config) -> str:
    """The column that is learned; raises ConfigError unless `task.level` is one of `LEVELS`."""
    chosen = str(config.options["level"])
    if chosen not in LEVELS:
        raise ConfigError(f"task.level = {chosen!r} is not possible; allowed: {', '.join(LEVELS)}")
    return chosen


class PolyvoreCategory(Classification):
    """The category of each item."""

    recipe = RECIPE
    columns = ("item_id", "category", "semantic", "category_id")

    def label_column(self, config: Config) -> str:
        """See `level`."""
        return level(config)

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`category.txt`, a line for each item: its id and its category, as the source writes them."""
        words = self.source_names(split, config)
        answers = np.asarray(columns["label"])
        require_writable(map(str, columns["item_id"]), " ", "category.txt")
        lines = [f"{item} {words[int(label)]}" for item, label in zip(columns["item_id"], answers, strict=True)]
        return {"category.txt": "\n".join(lines) + "\n"}

    def source_names(self, split: Split, config: Config) -> list[str]:
        """How the source writes each class: the number of a category, the word of a semantic one."""
        names = list(self.class_names(split.schema, config))
        if level(config) == "semantic":
            return names
        shard_set = LearnedSet.of(ShardSet.open(split.path), split.schema)
        for name in shard_set.splits:
            columns = shard_set.split(name).columns("category", "category_id")
            for position, number in zip(columns["category"].tolist(), columns["category_id"].tolist(), strict=True):
                if position >= 0:
                    names[position] = str(number)
        return names
