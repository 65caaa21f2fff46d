"""A set that was just packed or indexed verifies, whatever pictures, names and facts were drawn for it."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import odd_images
import pytest

from shards import PackOptions, ReadOptions, pack
from shards.reindex import ReindexOptions, reindex
from shards.verify import verify

PIECES = (
    "a",
    "B",
    "é",
    "e\u0301",
    "名",
    " ",
    ".",
    "%41",
    "=1+1",
    "\u202f",
    "\u200d",
    "'",
    '"',
    ",",
    ";",
    "~",
    "x" * 60,
)
VALUES = (None, True, 0, -1, 2**62, 2**70, 0.5, float("nan"), float("inf"), "", "x,y", "=1", [1, 2], [1, [2]], [], {})


@pytest.mark.parametrize("seed", range(4))
def test_a_set_that_was_just_made_verifies(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    kinds, good = list(odd_images.kinds().values()), odd_images.saved(odd_images.rgb(), "JPEG")
    for label in ("one", "two"):
        (tmp_path / "source" / label).mkdir(parents=True)
        for number in range(12):
            name = "".join(draw.choices(PIECES, k=3)) + f"{number}.{draw.choice(('jpg', 'png', 'tif'))}"
            data = good if number < 4 else draw.choice(kinds).data
            (tmp_path / "source" / label / name).write_bytes(data)
    pack("image_folder", tmp_path / "source", tmp_path / "set", PackOptions(skip_bad=True, seed=seed), ReadOptions())
    assert verify(tmp_path / "set") == []

    (tmp_path / "theirs").mkdir()
    for split in ("train", "val"):
        with tarfile.open(tmp_path / "theirs" / f"{split}.tar", "w") as tar:
            for number in range(12):
                key = "".join(draw.choices(PIECES, k=2)).strip(". ") + f"{split}{number}"
                facts = {name: draw.choice(VALUES) for name in ("a", "b", "c")}
                data = good if number < 4 else draw.choice(kinds).data
                for ending, content in (("jpg", data), ("json", json.dumps(facts).encode())):
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    reindex(tmp_path / "theirs", options=ReindexOptions(skip_bad=True))
    assert verify(tmp_path / "theirs") == []
