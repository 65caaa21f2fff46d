"""Fashion-MNIST in two classes: 1 for clothing, 0 for footwear and bags. The shards are those of the ten classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fashion_dist.config import Config
from fashion_dist.tasks import fashion_mnist
from fashion_dist.tasks.common.base import Arrays, Columns
from fashion_dist.tasks.common.classification import Classification, csv_text, in_order
from shards import Schema, Split

RECIPE = dataclasses.replace(fashion_mnist.RECIPE, task="fashion_mnist_binary")

NAMES = ("footwear or bag", "clothing")
FOOTWEAR_AND_BAGS = (5, 7, 8, 9)
"""Sandal, sneaker, bag and ankle boot among the ten classes."""


def is_clothing(classes: np.ndarray) -> np.ndarray:
    """Of each of the ten classes [N] whether it is clothing: int64 [N] of 1 and 0, and -1 where it is unknown."""
    return np.where(classes < 0, -1, ~np.isin(classes, FOOTWEAR_AND_BAGS)).astype(np.int64)


class FashionMnistBinary(Classification):
    """Whether each image is of clothing."""

    recipe = RECIPE
    coarse_labels_from = {fashion_mnist.RECIPE.task: is_clothing}

    def labels(self, columns: Arrays, config: Config) -> np.ndarray:
        """1 for clothing and 0 for the rest, int64 [N]."""
        return is_clothing(columns["label"])

    def class_names(self, schema: Schema, config: Config) -> Sequence[str]:
        """What 0 and 1 mean."""
        return NAMES

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`test.csv`: the number of each test image in the published file, 1 or 0, and the probability of 1."""
        answers, probabilities = np.asarray(columns["label"]), np.asarray(columns["probability"])
        lines = [(n, int(answers[i]), f"{probabilities[i, 1]:.6f}") for n, i in enumerate(in_order(columns))]
        return {"test.csv": csv_text([("id", "label", "probability"), *lines])}
