"""A shard set without pyarrow: tars of drawn JPEGs (or Fashion-MNIST as PNGs) and the index as NumPy arrays."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpu_proof import jpeg
from shards import Schema, ShardSet, Split, tar
from shards.manifest import MANIFEST, Manifest, Shard
from shards.portable import cpus

INDEX = "drawn.npz"
CLASSES, ATTRIBUTES = 10, 8
SCHEMA = Schema(
    {"label": "int", "category": "int", "attributes": f"ints:{ATTRIBUTES}"},
    {
        "label": tuple(f"garment {i}" for i in range(CLASSES)),
        "category": tuple(f"garment {i}" for i in range(CLASSES)),
        "attributes": tuple(f"attribute {i}" for i in range(ATTRIBUTES)),
    },
)


class DrawnSet(ShardSet):
    """The set that `write` wrote."""

    def split(self, name: str) -> Split:
        """See `ShardSet`."""
        return DrawnSplit(**super().split(name).__getstate__())


@dataclass(frozen=True)
class DrawnSplit(Split):
    """One of its splits."""

    @cached_property
    def _index(self) -> dict[str, np.ndarray]:
        with np.load(self.path / INDEX) as file:
            return {name: file[f"{self.name}.{name}"] for name in (*_COLUMNS, "label")}

    def _numbers(self, name: str, kind: type[np.generic]) -> np.ndarray:
        return np.asarray(self._index[name], kind)

    def _fact(self, name: str) -> np.ndarray:
        label = self._index["label"]
        return (label[:, None] + np.arange(ATTRIBUTES)) % 3 // 2 if name == "attributes" else label

    def iter_columns(self, *names: str, numbers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """See `Split`; in one piece."""
        del numbers
        yield self.columns(*names)

    @cached_property
    def keys(self) -> Any:
        """Numbers, as `Keys` gives strings."""
        return np.array([f"{i:06d}" for i in range(len(self))], object)


_COLUMNS = ("shard", "offset", "size", "crc32", "width", "height")


def write(folder: Path, splits: dict[str, tuple[list[bytes], np.ndarray]], sizes: np.ndarray | None = None) -> None:
    """Pack encoded images, a tar a split.

    Args:
        folder: to be made.
        splits: name -> images and int64 [n] labels.
        sizes: int [n, 2], width and height, the same for all splits; else all are 28 x 28.
    """
    folder.mkdir(parents=True)
    shards, index = [], dict[str, Any]()
    for number, (name, (images, labels)) in enumerate(splits.items()):
        offsets, at, path = [], 0, folder / f"{name}-000000.tar"
        with path.open("wb") as file:
            for i, data in enumerate(images):
                file.write(tar.header(f"{i:06d}.jpg".encode(), len(data)) + data + tar.padding(len(data)))
                offsets.append(at + tar.BLOCK)
                at += tar.padded(len(data))
            file.write(tar.END)
        count = len(images)
        index |= {
            f"{name}.shard": np.full(count, number),
            f"{name}.offset": np.array(offsets),
            f"{name}.size": np.array([len(data) for data in images]),
            f"{name}.crc32": np.array([zlib.crc32(data) for data in images], np.uint32),
            f"{name}.width": np.full(count, 28) if sizes is None else sizes[:count, 0],
            f"{name}.height": np.full(count, 28) if sizes is None else sizes[:count, 1],
            f"{name}.label": np.asarray(labels, np.int64),
        }
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append(Shard(path.name, name, count, path.stat().st_size, digest))
    np.savez(folder / INDEX, **index)
    (folder / MANIFEST).write_bytes(Manifest("drawn", SCHEMA, tuple(shards)).encoded())


def _drawn(job: tuple[int, int, int]) -> bytes:
    width, height, seed = job
    return jpeg.encode(jpeg.drawn(width, height, seed), halved=seed % 5 > 0)


def write_photos(folder: Path, images: int, unique: int, side: int) -> None:
    """`images` training images, `unique` different ones of about `side` pixels in turn, and a few of val and test.

    A fifth of them is 4:4:4, the others 4:2:0.
    """
    draw = np.random.default_rng(0)
    sizes = draw.integers(side * 3 // 4, side * 5 // 4, (unique, 2))
    jobs = [(int(width), int(height), seed) for seed, (width, height) in enumerate(sizes)]
    if len(cpus()) > 4:
        with ProcessPoolExecutor(len(cpus())) as pool:
            made = list(pool.map(_drawn, jobs, chunksize=4))
    else:
        made = list(map(_drawn, jobs))

    def split(count: int) -> tuple[list[bytes], np.ndarray]:
        return [made[i % unique] for i in range(count)], np.arange(count) % unique % CLASSES

    few = min(images // 3, 64)
    write(folder, {"train": split(images), "val": split(few), "test": split(few)}, sizes[np.arange(images) % unique])


def write_fashion_mnist(folder: Path, source: Path) -> None:
    """Fashion-MNIST out of its four published files; a tenth of the training images is validation."""
    files = {path.name: path for path in source.rglob("*-ubyte.gz")}

    def read(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress(files[name].read_bytes()), np.uint8, offset=header)

    def part(prefix: str, kept: slice) -> tuple[list[bytes], np.ndarray]:
        pixels = read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[kept]
        return [_png(image) for image in pixels], read(f"{prefix}-labels-idx1-ubyte.gz", 8)[kept]

    write(folder, {"train": part("train", slice(6000, None)), "val": part("train", slice(6000)),
                   "test": part("t10k", slice(None))})  # fmt: skip


def _png(image: np.ndarray) -> bytes:
    """Gray pixels, uint8 [28, 28]."""
    rows = np.pad(image, [(0, 0), (1, 0)]).tobytes()  # each row begins with its filter, which is none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    )
    made = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)
