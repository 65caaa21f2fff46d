"""Drawn garments in the layout of the assignment."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from shards.readers.synthetic import ATTRIBUTES, CATEGORIES, draw_garment

COUNTS = {"train": 96, "val": 40, "test": 37}


def draw_garments(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """The assignment's layout with a few drawn garments; the test labels are in nobody's file."""
    for split, count in (counts or COUNTS).items():
        (folder / split).mkdir(parents=True)
        rows: list[list[object]] = []
        for number in range(count):
            rng = np.random.default_rng([7, len(split), number])
            category = number % len(CATEGORIES)
            data, attributes = draw_garment(rng, CATEGORIES[category])
            (folder / split / f"{number:04d}.jpg").write_bytes(data)
            labels = [category, *(int(name in attributes) for name in ATTRIBUTES)] if split != "test" else []
            rows.append([f"{split}/{number:04d}.jpg", *labels])
        with (folder / f"{split}.csv").open("w", newline="") as file:
            header = ["file_path", "category_label", *ATTRIBUTES] if split != "test" else ["file_path"]
            csv.writer(file).writerows([header, *rows])
    (folder / "categories.txt").write_text("\n".join(CATEGORIES) + "\n")
    return folder
