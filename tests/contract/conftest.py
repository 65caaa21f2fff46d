"""A shard set per data set of the tasks, packed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from minis import DRAW

from shards import PackOptions, ReadOptions, ShardSet, pack, readers

if TYPE_CHECKING:
    from strangers import Bench


@pytest.fixture(scope="session")
def mini_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder, for shard sets that `mini_set` packs."""
    return tmp_path_factory.mktemp("minis")


@pytest.fixture(scope="session")
def mini_set(mini_home: Path) -> Callable[[str], ShardSet]:
    """The miniature of a data set, by name."""

    def packed(dataset: str) -> ShardSet:
        folder = mini_home / "shards" / dataset
        if not folder.is_dir():
            DRAW[dataset](mini_home / "raw" / dataset)
            options = ReadOptions(val_fraction=0.25) if "val_fraction" in readers.load(dataset).uses else ReadOptions()
            pack(dataset, mini_home / "raw" / dataset, folder, PackOptions(), options, workers=1)
        return ShardSet.open(folder)

    return packed


@pytest.fixture
def bench(mini_set: Callable[[str], ShardSet], tmp_path: Path) -> Bench:
    """A temporary folder with a small source, a packed set of it and a run."""
    from strangers import Bench

    return Bench(tmp_path, mini_set("clipart"))
