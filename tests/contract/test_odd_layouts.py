"""Published data sets as they are published: items that splits share, items without a picture, finer annotations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import layouts
import pytest
from minis import polyvore_outfits

from fashion_dist import tasks
from fashion_dist.tasks.common.wardrobe import Wardrobe
from shards import InputError, PackOptions, ReadOptions, RowsError, ShardSet, pack, readers
from shards.verify import verify


@pytest.fixture
def polyvore(tmp_path: Path) -> Path:
    polyvore_outfits(tmp_path / "polyvore")
    return tmp_path / "polyvore"


def test_items_that_splits_share_are_stored_in_each(polyvore: Path, tmp_path: Path) -> None:
    shutil.copytree(polyvore / "disjoint", polyvore / "nondisjoint")
    path = polyvore / "nondisjoint" / "test.json"
    outfits = json.loads(path.read_text())
    outfits[0]["items"][0]["item_id"] = "1000"  # a dress of the training split
    path.write_text(json.dumps(outfits))
    pack("polyvore_outfits", polyvore, tmp_path / "set", PackOptions(), ReadOptions(variant="nondisjoint"))
    shard_set = ShardSet.open(tmp_path / "set")
    assert verify(tmp_path / "set") == []
    assert {"1000", "test/1000"} <= {key for name in shard_set.splits for key in shard_set.split(name).keys}
    for name in shard_set.splits:
        wardrobe = Wardrobe(shard_set.split(name))
        assert len(wardrobe.outfits) == {"train": 12, "val": 5, "test": 5}[name]
        assert wardrobe.lines and wardrobe.questions
    test = shard_set.split("test")
    first = next(row for row, key in enumerate(test.keys) if key == "test/1000")
    assert any(first in outfit for outfit in Wardrobe(test).outfits)
    assert test.columns("item_id")["item_id"][first] == "1000"
    for name in ("polyvore_pairs", "polyvore_outfits"):
        tasks.load(name).validate(shard_set, tasks.load(name).recipe)


def test_outfits_without_pictures_are_left_out_and_counted(polyvore: Path, tmp_path: Path) -> None:
    for item in (1000, 1001, 1002, 1004):  # three of outfit 0, one of outfit 1
        (polyvore / "images" / f"{item}.jpg").unlink()
    manifest = pack("polyvore_outfits", polyvore, tmp_path / "set", PackOptions(), ReadOptions(skip_bad=True))
    shard_set = ShardSet.open(tmp_path / "set")
    assert [len(outfit) for outfit in Wardrobe(shard_set.split("train")).outfits] == [3] + [4] * 10
    listed = (tmp_path / "set" / "rejected.csv").read_text()
    assert "outfit 0 is left out: fewer than 2 of its items have an image" in listed
    assert manifest.rejected == listed.count("\n") - 1
    tasks.load("polyvore_outfits").validate(shard_set, tasks.load("polyvore_outfits").recipe)
    with pytest.raises(RowsError, match="outfit 0 names item '1000', which has no image"):
        pack("polyvore_outfits", polyvore, tmp_path / "other", PackOptions(), ReadOptions(strict=True))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("polyvore_item_metadata.json", '{"1": 5}', "'1' is no object"),
        ("polyvore_item_metadata.json", "[" * 100_000, "is not JSON"),
        ("disjoint/train.json", '[{"set_id": "1", "items": [{"item_id": "1000", "index": 1e999}]}]', "a whole index"),
        (
            "disjoint/train.json",
            '[{"set_id": "1", "items": [{"item_id": "1000", "index": 2147483648}]}]',
            "whole index",
        ),
    ],
)
def test_odd_json_is_one_sentence(polyvore: Path, tmp_path: Path, file: str, content: str, told: str) -> None:
    (polyvore / file).write_text(content)
    with pytest.raises(InputError, match=told):
        pack("polyvore_outfits", polyvore, tmp_path / "set", PackOptions(), ReadOptions())


def test_which_annotations_are_read_is_said(tmp_path: Path) -> None:
    layout = layouts.benchmark(tmp_path / "deep_fashion")
    (layout.source / "Anno_fine").mkdir()
    found = readers.load("deep_fashion").read(layout.source, ReadOptions()).found
    assert "Anno_coarse" in found
    assert "not read, beside it: Anno_fine" in found
    shutil.rmtree(layout.source / "Anno_coarse")
    with pytest.raises(InputError, match="Anno_fine alone, whose layout is not read"):
        pack("deep_fashion", layout.source, tmp_path / "set", PackOptions(), ReadOptions())
