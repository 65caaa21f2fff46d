"""Small sources and looks at folders, for the tests of packing."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[3]


def picture(number: int, width: int = 24, height: int = 18) -> Image.Image:
    """A small picture of its own."""
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(number: int, width: int = 24, height: int = 18) -> bytes:
    return encoded(picture(number, width, height), "JPEG", quality=80)


def write_csv_source(folder: Path, train: int = 30, val: int = 6, test: int = 5) -> Path:
    """The assignment's layout: three categories, two attributes."""
    folder.mkdir(parents=True)
    (folder / "categories.txt").write_text("coat\nhat\nshoe\n")
    for split, count in (("train", train), ("val", val), ("test", test)):
        (folder / split).mkdir()
        lines = ["file_path,category_label,red,striped" if split != "test" else "file_path"]
        for n in range(count):
            (folder / split / f"{n:04d}.jpg").write_bytes(jpeg(1000 * len(split) + n))
            labels = f",{n % 3},{n % 2},{int(n % 5 == 0)}" if split != "test" else ""
            lines.append(f"{folder.name}/{split}/{n:04d}.jpg{labels}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def add_row(source: Path, row: str, split: str = "train") -> int:
    """Appends a line to a CSV file; returns its number."""
    path = source / f"{split}.csv"
    path.write_text(path.read_text() + row + "\n")
    return len(path.read_text().splitlines())


def tree_hash(folder: Path) -> str:
    """Names and bytes of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def final_names(folder: Path) -> list[str]:
    """What has a final name in a set's folder: everything but the staging folder."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".packing") if folder.is_dir() else []
