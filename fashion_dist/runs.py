"""Runs that exist: their folder, configuration and shard set together."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fashion_dist.config import Config
from fashion_dist.errors import CheckpointError
from fashion_dist.paths import Home, RunDir
from shards import ShardSet


@dataclass(frozen=True)
class OpenRun:
    """A run's folder, configuration and the shard set it learns from."""

    folder: RunDir
    config: Config
    shard_set: ShardSet


def open_run(home: Home, name: str) -> OpenRun:
    """The run that `name` means, checked to still have the shard set it was made with.

    Raises:
        ConfigError: no such run.
        InputError: its shard set is gone.
        CheckpointError: its shard set has been packed anew with other content.
    """
    return open_folder(home.find_run(name))


def open_folder(folder: RunDir) -> OpenRun:
    """`open_run` for a folder."""
    config = Config.from_json(folder.config.read_text())
    made = json.loads(folder.run.read_text())
    shard_set = ShardSet.open(made["shard_set"])
    if shard_set.data_hash != made["data_hash"]:
        raise CheckpointError(
            f"{shard_set.path} has changed since run {folder.run_id} was made; launch the task again for a run on it"
        )
    return OpenRun(folder, config, shard_set)
