"""TensorBoard: event files in the run's folder `tensorboard/`, which `tensorboard --logdir HOME/runs` shows.

Made anew from metrics.jsonl at every start, so that steps which an interrupted start had beyond its last checkpoint are
not there twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fashion_dist.config import Config
from fashion_dist.paths import RunDir
from fashion_dist.tracking.metrics_log import PLAIN
from fashion_dist.tracking.trackers import TrackerOptions
from fashion_dist.tracking.wandb_media import Media
from shards.safe_io import refuse_link
from shards.spreadsheet import markdown

PACKAGE = ("tensorboard", "pip install 'fashion-dist[tensorboard]'")
MOST_CLASSES = 100
"""Of more there is no table of confusions."""


def start(run: RunDir, config: Config, options: TrackerOptions) -> TensorBoard:
    """New event files with the run's settings."""
    del options
    for path in refuse_link(run.tensorboard).glob("events.out.tfevents.*"):
        path.unlink()
    tracker = TensorBoard(run)
    tracker.write_table("settings", ("setting", "value"), list(config.flat().items()))
    return tracker


class TensorBoard:
    """A run's event files, by torch's own writer."""

    def __init__(self, run: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.tensorboard))
        self._step = 0

    def log(self, line: Mapping[str, Any]) -> None:
        """Add each number of a line of metrics.jsonl as `<split>/<name>` at its step."""
        self._step = max(self._step, line["step"])
        for name, value in line.items():
            if name not in PLAIN:
                number = math.nan if value is None else value
                self._writer.add_scalar(f"{line['split']}/{name}", number, line["step"], line["time"])
        self._writer.flush()

    def show(self, media: Media) -> None:
        """Add summary, confusions, examples and figures."""
        self.write_table("summary", ("figure", "value"), list(media.summary.items()))
        for split, (names, cells) in media.confusions.items():
            if len(names) <= MOST_CLASSES:
                rows = [(name, *row) for name, row in zip(names, cells, strict=True)]
                self.write_table(f"{split}/confusion", ("truth", *names), rows)
        for number, one in enumerate(media.examples):
            self._add_image(f"{media.split}/examples/{number}", one.image)
        if media.examples:
            rows = [(number, one.key, *one.values.values()) for number, one in enumerate(media.examples)]
            self.write_table(f"{media.split}/examples", ("example", "key", *media.examples[0].values), rows)
        for name, path in media.pictures.items():
            with Image.open(path) as picture:
                self._add_image(f"report/{name}", picture)
        if media.artifacts:
            files = [(a.name, a.type, ", ".join(map(str, (*a.files, *a.references)))) for a in media.artifacts]
            self.write_table("artifacts", ("name", "type", "files"), files)

    def _add_image(self, tag: str, image: Image.Image) -> None:
        self._writer.add_image(tag, np.asarray(image.convert("RGB")), self._step, dataformats="HWC")

    def write_table(self, tag: str, head: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
        """Add a table as text."""
        text = [[str(cell).replace("|", r"\|") for cell in row] for row in (head, *rows)]
        self._writer.add_text(tag, markdown(text), self._step)

    def finish(self) -> None:
        """Close the files."""
        self._writer.close()
