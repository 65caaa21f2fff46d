"""Tiny raw data sets in the layouts of the real ones, drawn so that a class or an outfit can be seen."""

from __future__ import annotations

import csv
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fashion_dist import tasks
from shards.readers.synthetic import ATTRIBUTES, CATEGORIES, draw_garment

COUNTS = {"train": 60, "val": 20, "test": 20}


def deep_fashion(folder: Path) -> None:
    """Drawn garments with the assignment's CSVs."""
    for split, count in COUNTS.items():
        (folder / split).mkdir(parents=True)
        rows: list[list[object]] = []
        for number in range(count):
            category = number % len(CATEGORIES)
            data, attributes = draw_garment(np.random.default_rng([3, len(split), number]), CATEGORIES[category])
            (folder / split / f"{number}.jpg").write_bytes(data)
            labels = [category, *(int(name in attributes) for name in ATTRIBUTES)] if split != "test" else []
            rows.append([f"{split}/{number}.jpg", *labels])
        with (folder / f"{split}.csv").open("w", newline="") as file:
            header = ["file_path", "category_label", *ATTRIBUTES] if split != "test" else ["file_path"]
            csv.writer(file).writerows([header, *rows])
    (folder / "categories.txt").write_text("\n".join(CATEGORIES) + "\n")


def fashion_mnist(folder: Path) -> None:
    """Gray squares with a bright row that says the class, as IDX files."""
    folder.mkdir(parents=True)
    for stem, count in (("train", 80), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.random.default_rng(count).integers(0, 80, (count, 28, 28), np.uint8)
        pixels[np.arange(count), 2 * labels + 2] = 255
        for kind, array in ((f"{stem}-images-idx3-ubyte", pixels), (f"{stem}-labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{kind}.gz").write_bytes(gzip.compress(head + array.tobytes()))


def clipart(folder: Path) -> None:
    """Twelve classes in twelve colours, so that they sort as numbers and not as strings."""
    colours = np.random.default_rng(1).integers(0, 255, (12, 3))
    for split, count in (("train", 6), ("valid", 2)):
        for label in range(12):
            for number in range(count):
                _square(folder / split / str(label) / f"{number:03d}.png", colours[label], number)
    for number in range(20):
        _square(folder / "test" / f"{number + 1:04d}.png", colours[number % 12], number)


def polyvore_outfits(folder: Path) -> None:
    """Outfits of one colour each, of a dress, a shirt, shoes and a hat, in three splits that share no item."""
    kinds = (("3", "all-body"), ("21", "tops"), ("41", "shoes"), ("55", "hats"))
    items: dict[str, dict[str, str]] = {}
    for split, first, count in (("train", 0, 12), ("valid", 12, 5), ("test", 17, 5)):
        outfits = []
        for outfit in range(first, first + count):
            colour = np.random.default_rng(outfit).integers(0, 255, 3)
            ids = [str(1000 + 4 * outfit + kind) for kind in range(4)]
            for item, (category, semantic) in zip(ids, kinds, strict=True):
                _square(folder / "images" / f"{item}.jpg", colour, int(item))
                items[item] = {"category_id": category, "semantic_category": semantic}
            outfits.append(
                {"set_id": str(outfit), "items": [{"item_id": i, "index": n + 1} for n, i in enumerate(ids)]}
            )
        _outfit_files(folder / "disjoint", split, outfits, [str(n) for n in range(first, first + count)])
    (folder / "polyvore_item_metadata.json").write_text(json.dumps(items))
    (folder / "categories.csv").write_text("3,dress,all-body\n21,shirt,tops\n41,shoes,shoes\n55,hat,hats\n")


def _outfit_files(folder: Path, split: str, outfits: list[dict[str, object]], sets: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.json").write_text(json.dumps(outfits))
    lines, questions = [], []
    for place, name in enumerate(sets):
        others = [sets[(place + step) % len(sets)] for step in (1, 2, 3)]
        lines.append(f"1 {name}_1 {name}_2 {name}_3 {name}_4")
        lines.append(f"0 {name}_1 {others[0]}_2 {others[1]}_3")
        answers = [f"{name}_4", *(f"{other}_4" for other in others)]
        answers = answers[place % 4 :] + answers[: place % 4]
        asked = [f"{name}_1", f"{name}_2", f"{name}_3"]
        questions.append({"question": asked, "blank_position": 4, "answers": answers})
    (folder / f"compatibility_{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / f"fill_in_blank_{split}.json").write_text(json.dumps(questions))


def _square(path: Path, colour: np.ndarray, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (40, 40, 3))
    Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path)


DRAW: dict[str, Callable[[Path], None]] = {
    "deep_fashion": deep_fashion,
    "fashion_mnist": fashion_mnist,
    "clipart": clipart,
    "polyvore_outfits": polyvore_outfits,
}

OWN = {"classification": "clipart", "multilabel": "deep_fashion"}
"""Tasks without a data set of their own -> the one that they are tried on."""


def dataset_of(task: str) -> str:
    """The data set that a task is tried on."""
    return OWN.get(task) or tasks.load(task).recipe.dataset
