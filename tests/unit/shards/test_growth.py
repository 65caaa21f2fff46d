"""What is read of a set does not grow with the square of its shards: counts of files opened, never times."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import write_csv_source

from fashion_dist.data.shard_reader import ShardFiles
from shards import PackOptions, ShardSet, pack
from shards.verify import verify

opened: Counter[str] = Counter()
_counting = False


def _count(event: str, values: tuple[object, ...]) -> None:
    if _counting and event == "open":
        opened[Path(str(values[0])).name] += 1


sys.addaudithook(_count)  # cannot be taken away again, so it looks at a flag


@pytest.fixture
def counted() -> Iterator[Counter[str]]:
    global _counting
    opened.clear()
    _counting = True
    yield opened
    _counting = False


def test_packing_and_verifying_read_what_names_all_shards_once(tmp_path: Path, counted: Counter[str]) -> None:
    source = write_csv_source(tmp_path / "deep_fashion", train=120, val=2, test=2)
    manifest = pack("deep_fashion", source, tmp_path / "set", PackOptions(shard_mb=0.005))
    assert len(manifest.shards) > 20
    assert counted["plan.json"] <= 4
    counted.clear()
    assert verify(tmp_path / "set") == []
    assert counted["manifest.json"] <= 4 and counted["index.parquet"] <= 4
    counted.clear()
    ShardFiles(ShardSet.open(tmp_path / "set").split("train")).check()
    assert counted["manifest.json"] <= 2
    tars = {name: count for name, count in counted.items() if name.endswith(".tar")}
    assert max(tars.values()) == 1
    counted.clear()
    for rank in range(3):  # of one job, which share the looks
        ShardFiles(ShardSet.open(tmp_path / "set").split("train")).check(rank, 3)
    assert {name: count for name, count in counted.items() if name.endswith(".tar")} == tars
