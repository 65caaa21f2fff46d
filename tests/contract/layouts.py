"""Small sources in the layout of each data set, and what each says about its images, told without our readers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards import ReadOptions

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
"""The real photos, where they are there."""


@dataclass(frozen=True)
class Layout:
    """A source.

    Args:
        dataset: the reader's name.
        source: its folder.
        expected: stored key -> (split, facts that must be so).
        options: what to read of it.
    """

    dataset: str
    source: Path
    expected: dict[str, tuple[str, dict[str, Any]]]
    options: ReadOptions = field(default_factory=ReadOptions)


def image(number: int, kind: str = "JPEG", size: tuple[int, int] = (20, 16)) -> bytes:
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def assignment(folder: Path) -> Layout:
    expected = {}
    put(folder / "categories.txt", b"coat\nhat\n")
    for split, count in (("train", 12), ("val", 3), ("test", 4)):
        lines = ["file_path,category_label,red,blue" if split != "test" else "file_path"]
        for n in range(count):
            put(folder / split / f"{n}.jpg", image(n + 100 * len(split)))
            labels = [n % 2, n % 3 == 0, n % 3 == 1]
            told = f",{int(labels[0])},{int(labels[1])},{int(labels[2])}" if split != "test" else ""
            lines.append(f"deep_fashion/{split}/{n}.jpg{told}")
            facts = {"row": n, "file_path": f"deep_fashion/{split}/{n}.jpg"}
            facts |= {"category": None, "attributes": None} if split == "test" else {}
            if split != "test":
                facts |= {"category": int(labels[0]), "attributes": [int(labels[1]), int(labels[2])]}
            expected[f"deep_fashion/{split}/{n}"] = (split, facts)
        put(folder / f"{split}.csv", "\n".join(lines).encode())
    return Layout("deep_fashion", folder, expected)


def benchmark(folder: Path) -> Layout:
    """The official lists: names with blanks, unknown attributes, categories from 1, boxes."""
    names, expected = [], {}
    splits = ["train", "train", "val", "test", "train", "test"]
    for n, _ in enumerate(splits):
        name = f"img/Sheer_Pleated-Front_Blouse/img_{n:08d}.jpg"
        put(folder / name, image(n))
        names.append(name)
    attributes = [[1, -1, 0], [-1, -1, 1], [0, 0, 0], [1, 1, 1], [-1, 1, -1], [0, 1, 0]]
    categories = [3, 1, 2, 3, 1, 2]
    boxes = [[n, 2 * n, 10 + n, 15] for n in range(6)]
    lists = {
        "Anno_coarse/list_category_cloth.txt": (
            "category_name  category_type",
            ["Anorak 1", "Jean Shorts 2", "Dress 3"],
        ),
        "Anno_coarse/list_attr_cloth.txt": (
            "attribute_name attribute_type",
            ["a-line  5", "abstract print  1", "crop top 3"],
        ),
        "Anno_coarse/list_category_img.txt": (
            "image_name category_label",
            [f"{name}   {label}" for name, label in zip(names, categories, strict=True)],
        ),
        "Anno_coarse/list_attr_img.txt": (
            "image_name attribute_labels",
            [f"{name}  {'  '.join(map(str, row))}" for name, row in zip(names, attributes, strict=True)],
        ),
        "Anno_coarse/list_bbox.txt": (
            "image_name x_1 y_1 x_2 y_2",
            [f"{name}  {' '.join(map(str, row))}" for name, row in zip(names, boxes, strict=True)],
        ),
        "Eval/list_eval_partition.txt": (
            "image_name evaluation_status",
            [f"{name}  {split}" for name, split in zip(names, splits, strict=True)],
        ),
    }
    for name, (header, rows) in lists.items():
        put(folder / name, "\n".join([str(len(rows)), header, *rows, ""]).encode())
    stored = {1: 1, -1: 0, 0: -1}
    chosen = ReadOptions(categories=("Dress", "Anorak"), attributes=("abstract print", "a-line"))
    for n, name in enumerate(names):
        if categories[n] != 2:
            facts = {
                "file_path": name,
                "category": {3: 0, 1: 1}[categories[n]],
                "attributes": [stored[attributes[n][1]], stored[attributes[n][0]]],
                "box": boxes[n],
            }
            expected[name.removesuffix(".jpg")] = (splits[n], facts)
    return Layout("deep_fashion", folder, expected, chosen)


def polyvore(folder: Path) -> Layout:
    items = {
        f"{100 + n}": {"category_id": ["11", "", "7"][n % 3], "semantic_category": ["tops", "bottoms"][n % 2]}
        for n in range(12)
    }
    put(folder / "polyvore_item_metadata.json", json.dumps(items).encode())
    put(folder / "polyvore_outfit_titles.json", json.dumps({"900": {"title": "Summer", "url_name": "summer"}}).encode())
    put(folder / "categories.csv", b"7,skirt,bottoms\n11,t-shirt,tops\n11,top,tops\n")
    expected = {}
    for split, (set_id, first) in {"train": (900, 100), "valid": (901, 104), "test": (902, 108)}.items():
        # Indices are neither consecutive nor sorted: a position would name another item.
        listed = [{"item_id": str(first + k), "index": index} for k, index in enumerate((7, 1, 3, 2))]
        put(folder / "disjoint" / f"{split}.json", json.dumps([{"set_id": str(set_id), "items": listed}]).encode())
        put(
            folder / "disjoint" / f"compatibility_{split}.txt",
            f"1 {set_id}_7 {set_id}_1\n0 {set_id}_2 {set_id}_3 {set_id}_7\n".encode(),
        )
        question = {"question": [f"{set_id}_7"], "blank_position": 2, "answers": [f"{set_id}_1", f"{set_id}_3"]}
        put(folder / "disjoint" / f"fill_in_blank_{split}.json", json.dumps([question]).encode())
        for k in range(4):
            key, n = str(first + k), first + k - 100
            put(folder / "images" / f"{key}.jpg", image(first + k))
            category = [11, None, 7][n % 3]
            facts = {"item_id": key, "category_id": category, "category": {11: 1, None: None, 7: 0}[category]}
            facts["semantic"] = [1, 0][n % 2]
            expected[key] = ({"valid": "val"}.get(split, split), facts)
    return Layout("polyvore_outfits", folder, expected)


def clipart(folder: Path) -> Layout:
    """Classes as numbers, odd modes and formats, a flat test folder, no validation folder."""
    expected = {}
    for label, name in enumerate(["0", "2", "10"]):
        for n in range(5):
            kind = ["PNG", "GIF", "JPEG", "BMP", "WEBP"][n]
            put(folder / "train" / name / f"{n:03d}.{kind.lower()}", image(10 * label + n, kind))
            expected[f"train/{name}/{n:03d}"] = ("train", {"label": label})
    for n in range(3):
        put(folder / "valid" / "10" / f"{n}.png", image(90 + n, "PNG"))
        expected[f"valid/10/{n}"] = ("val", {"label": 2, "row": n})
        put(folder / "test" / f"{n}.png", image(80 + n, "PNG"))
        expected[f"test/{n}"] = ("test", {"label": None, "row": n, "file": f"test/{n}.png"})
    return Layout("clipart", folder, expected)


def image_folder(folder: Path) -> Layout:
    expected = {}
    for label, name in enumerate(["boots", "v1.0 hats"]):
        for n in range(3):
            put(folder / name / "deeper" / f"{n}.jpg", image(10 * label + n))
            expected[f"{name.replace('.', '%2E').replace(' ', '%20')}/deeper/{n}"] = (
                "train",
                {"label": label, "file": f"{name}/deeper/{n}.jpg"},
            )
    put(folder / "boots" / ".DS_Store", b"no image")
    return Layout("image_folder", folder, expected, ReadOptions(val_fraction=0.0))


def fashion_mnist(folder: Path) -> Layout:
    rng = np.random.default_rng(0)
    expected = {}
    for split, stem, count in (("train", "train", 40), ("test", "t10k", 7)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        put(
            folder / f"{stem}-images-idx3-ubyte.gz",
            gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels.tobytes()),
        )
        put(folder / f"{stem}-labels-idx1-ubyte", struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes())
        expected |= {f"{split}/{n:05d}": (split, {"label": int(labels[n]), "row": n}) for n in range(count)}
    return Layout("fashion_mnist", folder, expected, ReadOptions(val_fraction=0.0))


def real_deep_fashion(_: Path) -> Layout:
    expected = {}
    for split in ("train", "val", "test"):
        with (REAL / "deep_fashion" / f"{split}.csv").open(newline="") as file:
            for row, cells in enumerate(csv.DictReader(file)):
                path = cells.pop("file_path")
                category = cells.pop("category_label", None)
                facts: dict[str, Any] = {"row": row, "category": None if category is None else int(category)}
                facts["attributes"] = [int(value) for value in cells.values()] or None
                expected[path.removesuffix(".jpg")] = (split, facts)
    return Layout("deep_fashion", REAL, expected)


def real_clipart(_: Path) -> Layout:
    expected: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in (REAL / "clipart").glob("*/**/*.png"):
        key = path.relative_to(REAL / "clipart").with_suffix("").as_posix()
        split = {"valid": "val"}.get(key.split("/")[0], key.split("/")[0])
        expected[key] = (split, {"label": None if split == "test" else int(path.parent.name)})
    return Layout("clipart", REAL, expected)


def real_polyvore(_: Path) -> Layout:
    root = REAL / "polyvore_outfits"
    items = json.loads((root / "polyvore_item_metadata.json").read_bytes())
    expected: dict[str, tuple[str, dict[str, Any]]] = {}
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        for outfit in json.loads((root / "disjoint" / f"{name}.json").read_bytes()):
            for item in outfit["items"]:
                told = items[item["item_id"]]["category_id"]
                facts = {"item_id": item["item_id"], "category_id": int(told) if told else None}
                expected[item["item_id"]] = (split, facts)
    return Layout("polyvore_outfits", REAL, expected)


def real_fashion_mnist(_: Path) -> Layout:
    folder = REAL / "fashion-mnist" / "FashionMNIST" / "raw"
    expected: dict[str, tuple[str, dict[str, Any]]] = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        labels = gzip.decompress((folder / f"{stem}-labels-idx1-ubyte.gz").read_bytes())[8:]
        expected |= {f"{split}/{n:05d}": (split, {"label": label, "row": n}) for n, label in enumerate(labels)}
    return Layout("fashion_mnist", REAL, expected, ReadOptions(val_fraction=0.0))


SMALL: dict[str, Callable[[Path], Layout]] = {
    "deep_fashion": assignment,
    "deep_fashion, official lists": benchmark,
    "polyvore_outfits": polyvore,
    "clipart": clipart,
    "image_folder": image_folder,
    "fashion_mnist": fashion_mnist,
}
FULL: dict[str, Callable[[Path], Layout]] = {
    "deep_fashion": real_deep_fashion,
    "clipart": real_clipart,
    "polyvore_outfits": real_polyvore,
    "fashion_mnist": real_fashion_mnist,
}
