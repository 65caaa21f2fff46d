"""A split's predictions beside its truth, brought together by key; and its images as thumbnails."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fashion_dist.config import Config
from fashion_dist.data.shard_reader import ShardFiles
from fashion_dist.errors import DamageError, InputError
from fashion_dist.paths import RunDir
from fashion_dist.results.prediction_files import PredictionFiles
from fashion_dist.tasks import Task
from shards import Split, images

SPLITS = ("test", "val")
"""Splits that a report judges, in the order of preference: the first with labels and predictions."""


@dataclass(frozen=True)
class SplitPredictions:
    """What a run answered about n images of a split.

    Args:
        split: the split.
        rows: int64 [n], the images, as rows of the split.
        columns: the task's prediction columns, [n, ...], in that order.
        targets: the task's targets of these images, [n, ...]; empty for tasks whose images have none by themselves.
        note: what of the split is missing, in a sentence; empty if nothing.
    """

    split: Split
    rows: np.ndarray
    columns: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    note: str = ""


def read_answers(run: RunDir, task: Task, config: Config, split: Split) -> SplitPredictions | None:
    """The predictions of a split, each image once; None where there are none. Raises DamageError where some are NaN."""
    try:
        files = PredictionFiles.of_run(run, split)
    except InputError:
        return None
    rows = np.flatnonzero(files.row_of >= 0)
    note = ""
    if len(rows) < len(split):
        note = f"Only {len(rows):,} of the {len(split):,} images of {split.name} were predicted; the rest is left out."
    if not len(rows):
        return None
    chosen = files.columns(files.row_of[rows])
    if any(values.dtype.kind == "f" and np.isnan(values).any() for values in chosen.values()):
        raise DamageError(run.run_id, "", 0, f"its network answered NaN for some pictures of {split.name}")
    targets = {k: np.asarray(v)[rows] for k, v in task.image_targets(split, config).items()}
    return SplitPredictions(split, rows, chosen, targets, note)


class Thumbnails:
    """Images of a split, their longer side `px`, as data URIs; each is decoded once."""

    def __init__(self, split: Split, px: int = 104) -> None:
        self._split, self._px = split, px
        self._files = ShardFiles(split)
        self._made: dict[int, str] = {}

    def __getitem__(self, row: int) -> str:
        """The image in `row`; a gray square where it is damaged."""
        from PIL import Image

        if row not in self._made:
            try:
                picture = images.shown(self._files.read(row).tobytes(), 2 * self._px)
            except (DamageError, OSError, images.BadImageError):
                picture = Image.new("RGB", (self._px, self._px), "#999999")
            self._made[row] = encode(picture, self._px)
        return self._made[row]

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def encode(image: Any, px: int, quality: int = 80) -> str:
    """A Pillow image, at most `px` on its longer side, as a data URI; small ones are enlarged in whole steps."""
    from PIL import Image

    longer = max(image.size)
    if longer * 2 <= px:
        factor = px // longer
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image.thumbnail((px, px))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def spread(order: Iterable[int], groups: np.ndarray, each: int, most: int) -> list[int]:
    """The first of `order` with at most `each` of a group: places int, groups [n] by place."""
    taken: Counter[int] = Counter()
    found: list[int] = []
    for place in order:
        if taken[group := int(groups[place])] < each:
            taken[group] += 1
            found.append(int(place))
        if len(found) == most:
            break
    return found
