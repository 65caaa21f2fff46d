"""A trained run in Python: `fashion_dist.load_run(RUN)`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dist.config import Config
from fashion_dist.data.preprocessing import describe, open_picture, preprocess
from fashion_dist.errors import CheckpointError, InputError
from fashion_dist.paths import Home, RunDir
from fashion_dist.results.named import named_columns, view_names, views_of
from fashion_dist.runs import learned_packing, learned_schema, own_config
from fashion_dist.settings import require
from fashion_dist.tasks import load
from fashion_dist.tasks.common.evaluators import concatenate
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.inference import full_precision, one_thread
from shards import Schema


def load_run(run: str | Path, home: str | Path = "") -> LoadedRun:
    """A run with its best weights.

    Args:
        run: a run id, a unique beginning of one, or a run's folder.
        home: the working folder; else $FASHION_DIST_HOME, else ./workspace.

    Raises:
        ConfigError: there is no such run, or it was made with settings that are gone.
        CheckpointError: it has no best weights yet.
    """
    folder = Home.find(str(home)).find_run(str(run))
    return LoadedRun(folder, own_config(folder), learned_schema(folder))


class LoadedRun:
    """A trained network with its preprocessing, its class names, and what was measured and predicted with it.

    `schema` has the columns and class names that it learned.
    """

    def __init__(self, folder: RunDir, config: Config, schema: Schema) -> None:
        self.folder, self.config, self.schema = folder, config, schema
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task = load(config.task)
        with contextlib.closing(Checkpoints(folder.checkpoints)) as checkpoints:
            found = checkpoints.load("best", self.device)
        if found is None:
            raise CheckpointError(f"run {folder.run_id} has no best weights yet in {folder.checkpoints}")
        self.model: nn.Module = self.task.build_model(config, schema)
        """From images [N, 3, P, P], as `preprocess` makes them, to named outputs; in evaluation mode."""
        self.model.load_state_dict(found[1]["model"])
        self.model.to(self.device).eval()
        self.settings = describe(config.data, learned_packing(folder))
        """What `preprocess` does, as JSON holds it."""

    def __repr__(self) -> str:
        return f"LoadedRun({self.folder.run_id!r}, {self.config.model.name}, {len(self.class_names)} classes)"

    @functools.cached_property
    def class_names(self) -> list[str]:
        """Names of the classes or attributes that the task answers with first, in the order of their numbers."""
        views = views_of(self.task)
        return list(view_names(views[0], self.task, self.schema, self.config)) if views else []

    def preprocess(self, picture: str | Path) -> Tensor:
        """A picture file as the network gets it in evaluation, float32 [3, P, P]."""
        try:
            return preprocess(open_picture(picture, self.settings), self.settings)
        except OSError as error:
            raise InputError(f"{picture} cannot be read as a picture: {error}") from None

    def predict(self, paths: Sequence[str | Path], batch_size: int = 64) -> Any:
        """What the product predicts for picture files: `file`, names and probabilities (see `named_columns`).

        Returns:
            A data frame of pandas, where it is installed, else a table of Arrow; a row a picture.
        """
        require(not isinstance(paths, str | Path), "paths", paths, "a list of picture files")
        require(type(batch_size) is int and batch_size > 0, "batch_size", batch_size, "a whole number from 1")
        columns: dict[str, list[Any]] = {"file": [str(path) for path in paths]}
        batches = []
        with one_thread(), torch.inference_mode():
            for start in range(0, len(paths), batch_size):
                images = torch.stack([self.preprocess(path) for path in paths[start : start + batch_size]])
                batches.append(self.task.predictions(self.outputs(images.to(self.device)), self.config))
        if batches:
            columns |= named_columns(concatenate(batches), self.config, self.schema)
        return frame(columns)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The network's outputs for float32 images [N, 3, P, P], by the arithmetic of predictions."""
        images = images.to(memory_format=torch.channels_last)
        with full_precision():
            found: dict[str, Tensor] = self.model(images)
            if self.config.data.eval_flip:
                mirrored = self.model(images.flip(-1))
                found = {name: (value + mirrored[name]) / 2 for name, value in found.items()}
        return found

    @property
    def metrics(self) -> Any:
        """Every measured point, a row each: split, step, epoch and the metrics; see `predict` for its type."""
        points = read_metrics(self.folder.metrics)
        names = list(dict.fromkeys(name for point in points for name in point))
        return frame({name: [point.get(name) for point in points] for name in names})

    def predictions(self, name: str = "test") -> Any:
        """What was predicted of a split, or of other pictures under that name; see `predict` for columns and type.

        Raises:
            InputError: there is nothing of that name yet.
        """
        import pyarrow.parquet as pq

        from fashion_dist.results.collect import open_predicted, write_names

        path = self.folder.named(name, "parquet")
        if not path.is_file():
            opened, split = open_predicted(self.folder.home, str(self.folder.path), name)
            write_names(self.folder, self.config, self.schema, opened.shard_set.split(split), name)
        table = pq.read_table(path)
        return table.to_pandas() if _has_pandas() else table


def frame(columns: dict[str, list[Any]]) -> Any:
    """Columns as a data frame of pandas, where it is installed, else as a table of Arrow."""
    if _has_pandas():
        return importlib.import_module("pandas").DataFrame(columns)
    import pyarrow as pa

    return pa.table(columns)


def _has_pandas() -> bool:
    return importlib.util.find_spec("pandas") is not None
