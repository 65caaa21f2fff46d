"""Fashion-MNIST: IDX files, raw or gzipped, stored as lossless gray PNG.

Facts: `row` (position in its file), `label`. A tenth of every class of the training images becomes the validation
split (`--val`). Files as large as the published ones must be the published ones, by MD5.

Xiao, Rasul, Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.errors import InputError
from shards.limits import over
from shards.readers import Reader, ReadOptions, Source, _folders
from shards.schema import Record, Schema

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FILES = {"train": "train", "test": "t10k"}
PUBLISHED = {
    "train-images-idx3-ubyte": (47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": (60_008, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": (7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": (10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
}
"""File name -> size and MD5 of the unzipped content."""


def read(source: Path, options: ReadOptions) -> Source:
    """The four files in `source`, in its `raw/`, or in `FashionMNIST/raw/` below it or below `fashion-mnist/`."""
    below = ("", "raw", "FashionMNIST/raw", "fashion-mnist/FashionMNIST/raw", "fashion_mnist/FashionMNIST/raw")
    folder = next((source / b for b in below if _file(source / b, "train-images-idx3-ubyte")), None)
    if folder is None:
        raise InputError(f"{source} holds no Fashion-MNIST: {READER.layout}")
    schema = Schema({"row": "int", "label": "int"}, {"label": CLASSES})
    return Source(schema, folder, lambda: _records(folder, options), total=70_000)


def _records(folder: Path, options: ReadOptions) -> Iterator[Record]:
    for split, stem in FILES.items():
        pixels = _idx(folder, f"{stem}-images-idx3-ubyte", 3)
        labels = _idx(folder, f"{stem}-labels-idx1-ubyte", 1)
        if len(pixels) != len(labels):
            raise InputError(f"{folder}: {len(pixels)} images and {len(labels)} labels in {stem}")
        if labels.size and labels.max() >= len(CLASSES):
            row = int(np.argmax(labels >= len(CLASSES)))
            raise InputError(f"{folder}/{stem}-labels-idx1-ubyte, row {row}: label {labels[row]}, allowed: 0 to 9")
        keys = [f"{split}/{row:05d}" for row in range(len(labels))]
        held: set[str] = set()
        if split == "train":
            of_class = [[keys[row] for row in np.flatnonzero(labels == label)] for label in range(len(CLASSES))]
            held = _folders.held_out(of_class, options.val_fraction, options.seed)
        for row, (key, label) in enumerate(zip(keys, labels.tolist(), strict=True)):
            into = "val" if key in held else split
            yield Record(key, gray_png(pixels[row]), {"row": row, "label": label}, into, f"{stem}, row {row}")


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes; see LeCun's description of the format."""
    path = _file(folder, name)
    if path is None:
        raise InputError(f"{folder / name} does not exist, neither as it is nor with .gz")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(4 + 4 * dimensions)
            if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < 4 + 4 * dimensions:
                told = f"is no IDX file of {dimensions} dimensions of bytes: it begins with {data[:4]!r}"
                raise InputError(f"{path} {told}")
            shape = struct.unpack_from(f">{dimensions}I", data, 4)
            expected = len(data) + math.prod(shape)
            if (fault := over("NUMBERS", expected, "bytes announced")) is not None:
                raise InputError(f"{path}: {fault}")
            pieces = [data]  # `read` of the whole would take the memory that is announced, whatever is there
            while (left := expected - sum(map(len, pieces)) + 1) > 0 and (piece := file.read(min(left, 1 << 20))):
                pieces.append(piece)
            data = b"".join(pieces)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} does not unzip: {error}") from None
    if len(data) != expected:
        there = f"has {len(data)} bytes" if len(data) < expected else "has more bytes"
        raise InputError(f"{path} {there}, its header announces {expected}: it was cut or changed")
    size, published = PUBLISHED[name]
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if len(data) == size and found != published:
        raise InputError(f"{path} is not as published: MD5 {found} instead of {published}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def gray_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] as a PNG, losslessly; a third of the time that Pillow takes for so small an image."""
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = pixels
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (_png_chunk(b"IHDR", head), _png_chunk(b"IDAT", zlib.compress(rows.tobytes())), _png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


READER = Reader(
    layout="train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with t10k, raw or .gz",
    read=read,
    uses=("val_fraction",),
)
