"""Another set as a run sees it: names say which class is which, not numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fashion_dist.tasks.common.learned_set import LearnedSet
from shards import PackOptions, ReadOptions, Schema, ShardSet, pack


def packed(folder: Path, rows: Sequence[tuple[str, str]]) -> ShardSet:
    """A table of these classes and labels, the same rows in each split."""
    folder.mkdir()
    lines = ["path,split,kind,colours"]
    for split in ("train", "val", "test"):
        for number, (kind, colours) in enumerate(rows):
            Image.new("RGB", (9, 9), (number * 20, 90, 9 * len(split))).save(folder / f"{split}{number}.png")
            lines.append(f"{split}{number}.png,{split},{kind},{colours}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    reading = ReadOptions(label_columns=("kind", "colours"))
    pack("table", folder / "list.csv", folder / "set", PackOptions(), reading, workers=1)
    return ShardSet.open(folder / "set")


def test_classes_and_labels_go_by_their_names(tmp_path: Path) -> None:
    mine = packed(tmp_path / "a", [("apple", "red"), ("cat", "gray|white"), ("dog", "black|white")])
    other = packed(tmp_path / "b", [("cat", "white|blue"), ("dog", "gray"), ("zebra", "black|white")])
    raw = other.split("test")
    order = np.argsort(list(raw.keys))
    assert raw.columns("kind")["kind"][order].tolist() == [0, 1, 2]
    seen = LearnedSet.of(other, mine.schema)
    assert seen.schema.names == mine.schema.names and seen.data_hash == other.data_hash
    part = seen.split("test")
    (columns,) = part.iter_columns("kind", "colours")
    assert columns["kind"][order].tolist() == [1, 2, -1] and list(part.keys) == list(raw.keys)
    names = mine.schema.names["colours"]
    told = [{names[at]: value for at, value in enumerate(row)} for row in columns["colours"][order].tolist()]
    # Red is no label of the other set, which can say nothing of it; blue is none of the run's.
    assert told[0] == {"black": 0, "gray": 0, "red": -1, "white": 1}
    assert told[2] == {"black": 1, "gray": 0, "red": -1, "white": 1}
    assert LearnedSet.of(mine, mine.schema) is mine


def test_what_a_set_does_not_name_is_unknown(tmp_path: Path) -> None:
    other = packed(tmp_path / "b", [("cat", "white"), ("dog", "gray")])
    learned = Schema({"kind": "ints:2", "style": "int", "colours": "int"},
                     {"kind": ("cat", "dog"), "style": ("old", "new"), "colours": ("white",)})  # fmt: skip
    columns = LearnedSet.of(other, learned).split("test").columns("kind", "style", "colours", "file")
    assert columns["kind"].tolist() == [[-1, -1]] * 2 and columns["style"].tolist() == [-1, -1]
    assert sorted(columns["colours"]) == [-1, 0] and sorted(columns["file"]) == ["test0.png", "test1.png"]
    assert columns["kind"].dtype == np.int32 and columns["style"].dtype == np.int64
