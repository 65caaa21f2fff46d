"""Photos of many sizes and formats, packed into several shards."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from shards import PackOptions, ReadOptions, ShardSet, pack

TRAIN, VAL = 83, 21


def photo(number: int) -> tuple[str, bytes]:
    """The file name extension and bytes of picture `number`: smooth colours and a shape, no two alike."""
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers(40, 140, 2))
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).ellipse((5, 5, width // 2, height // 2), fill=tuple(coarse[0, 0].tolist()))
    kind = number % 8
    buffer = io.BytesIO()
    if kind == 1:
        image.save(buffer, "PNG")
        return "png", buffer.getvalue()
    exif = Image.Exif()
    if kind == 2:
        exif[0x112] = 6  # to be shown rotated by 90 degrees
    if kind == 3:
        image = image.convert("L")
    image.save(buffer, "JPEG", quality=90, progressive=kind == 4, exif=exif)
    return "jpg", buffer.getvalue()


def draw_photos(folder: Path) -> Path:
    for split, count, first in (("train", TRAIN, 0), ("val", VAL, 1000)):
        for number in range(count):
            extension, data = photo(first + number)
            path = folder / split / str(number % 3) / f"{number:03d}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def photos_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """To be read only."""
    root = tmp_path_factory.mktemp("photos")
    pack("image_folder", draw_photos(root / "raw"), root / "set", PackOptions(shard_mb=0.03), ReadOptions())
    made = ShardSet.open(root / "set")
    assert len(made.manifest.shards) > 4
    return made


@pytest.fixture
def own_set(photos_set: ShardSet, tmp_path: Path) -> ShardSet:
    """A copy that the test may damage."""
    shutil.copytree(photos_set.path, tmp_path / "own")
    return ShardSet.open(tmp_path / "own")


@pytest.fixture
def damage(own_set: ShardSet) -> Callable[[int], str]:
    """Flips a byte in the middle of the image in a row of the training split; tells its key."""

    def flip(row: int) -> str:
        split = own_set.split("train")
        path = own_set.path / split.shard_names[split.shard[row]]
        at = int(split.offset[row] + split.size[row] // 2)
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.write_bytes(data)
        return split.keys[row]

    return flip


@pytest.fixture
def undecodable(own_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    """Makes the image in a row garbage whose CRC is right, as a damaged original that was packed unseen."""
    import zlib

    def spoil(row: int) -> str:
        split = own_set.split("train")
        path = own_set.path / split.shard_names[split.shard[row]]
        at, size = int(split.offset[row]), int(split.size[row])
        data = bytearray(path.read_bytes())
        data[at + size // 8 : at + size] = bytes(size - size // 8)
        path.write_bytes(data)
        crc = split.crc32.copy()
        crc[row] = zlib.crc32(data[at : at + size])
        object.__getattribute__(split, "__dict__")["crc32"] = crc
        monkeypatch.setattr(ShardSet, "split", lambda _self, _name: split)
        return split.keys[row]

    return spoil
