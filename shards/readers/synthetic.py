"""Garments drawn by a program, in the DeepFashion assignment's own layout: something to train on in a minute, anywhere.

Ten kinds of garment in varied shapes, poses, colours, patterns and backgrounds, 128 pixels wide, seeded: the same seed
gives the same files. Attributes are the colours, how the cloth is patterned, and traits of shape (`TRAITS`), which are
independent of the colours and sit in no fixed place. `test_labels.csv` holds what an assignment would keep to itself,
so that a demonstration can grade its own submission.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shards import worker_pool
from shards.errors import InputError, SpaceError
from shards.readers import Reader, ReadOptions, Source, deep_fashion
from shards.readers._synthetic_shapes import SHAPES, Points, choose_traits
from shards.readers._synthetic_shapes import TRAITS as TRAITS
from shards.safe_io import read_regular, refuse_link
from shards.spreadsheet import csv_text
from shards.typed_json import parse_object

IMAGE_PX = 128
COUNTS = {"train": 4000, "val": 400, "test": 400}
DRAWN = "drawn.json"
VERSION = 2
COLOURS = {
    "black": (28, 28, 30), "white": (240, 240, 238), "gray": (128, 128, 130), "red": (205, 32, 38),
    "orange": (240, 130, 30), "yellow": (245, 215, 50), "green": (40, 140, 62), "blue": (36, 76, 188),
    "purple": (120, 50, 155), "pink": (242, 150, 185), "brown": (110, 66, 34), "beige": (222, 200, 160),
}  # fmt: skip
ATTRIBUTES = (*COLOURS, "colorful", "patterned", "plain", *TRAITS)
CATEGORIES = tuple(SHAPES)
_SUPERSAMPLED = 2
_DRAWN_FILES = re.compile(
    rf"({'|'.join(COUNTS)})(/\d{{5}}\.jpg|\.csv)?|test_labels\.csv|categories\.txt|{re.escape(DRAWN)}"
)
_Y, _X = (np.mgrid[:IMAGE_PX, :IMAGE_PX] / IMAGE_PX - 0.5).astype(np.float32)
_WALLS = ((236, 234, 230), (205, 205, 210), (176, 160, 140), (150, 170, 165), (225, 210, 190), (95, 98, 108))


def read(source: Path, options: ReadOptions) -> Source:
    """The drawn data set in `source`."""
    if not (source / "train.csv").is_file():
        raise InputError(f"{source} holds no drawn data set; without --source, packing draws one")
    return deep_fashion.read_csv(source, options)


def draw(folder: Path, seed: int, workers: int, on_progress: Callable[[str, int, int], Any]) -> None:
    """Draws the data set into `folder`, whole or not at all; what was drawn with the same seed is kept."""
    told = {"version": VERSION, "seed": seed, "image_px": IMAGE_PX, "counts": COUNTS}
    drawn = folder / DRAWN
    with contextlib.suppress(FileNotFoundError):
        before = _read_drawn(drawn)
        if before == told:
            return
    fresh = folder.with_name(folder.name + ".tmp")
    replacing = (fresh / DRAWN).exists()  # killed while the folder was being removed
    if os.path.lexists(folder) and not drawn.exists() and not replacing:
        raise InputError(f"{folder} was not drawn by us (no {DRAWN}), so it is kept; move it away")
    for old in (folder, fresh):
        _require_drawn(old)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    jobs = [
        (split, first, min(first + 100, count)) for split, count in COUNTS.items() for first in range(0, count, 100)
    ]
    total = sum(COUNTS.values())
    labels: dict[str, list[list[str | int]]] = {split: [] for split in COUNTS}
    drawn_rows = worker_pool.each(
        _draw_range, [(fresh, seed, *job) for job in jobs], workers, lambda done: on_progress("draw", done, total)
    )
    for (split, _, _), rows in zip(jobs, drawn_rows, strict=True):
        labels[split] += rows
    header = ["file_path", deep_fashion.LABEL, *ATTRIBUTES]
    for split in COUNTS:
        if split == "test":
            (fresh / "test.csv").write_bytes(csv_text([header[:1], *(row[:1] for row in labels[split])]).encode())
        name = "test_labels.csv" if split == "test" else f"{split}.csv"
        (fresh / name).write_bytes(csv_text([header, *labels[split]]).encode())
    (fresh / "categories.txt").write_text("\n".join(CATEGORIES) + "\n")
    (fresh / DRAWN).write_text(json.dumps(told) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.replace(folder)


def _read_drawn(path: Path) -> dict[str, Any]:
    """What was drawn, and how; raises InputError for a file that does not say so."""
    with contextlib.suppress(ValueError):
        if (told := parse_object(read_regular(path), path)).keys() <= {"version", "seed", "image_px", "counts"}:
            return told
    raise InputError(f"{path} is not ours, so its folder is kept; move it away")


def _require_drawn(folder: Path) -> None:
    """Refuse a folder to be removed, if it is there, that is a link or holds a file that is not drawn."""
    for path in refuse_link(folder).rglob("*"):
        if path.is_symlink() or not _DRAWN_FILES.fullmatch(str(path.relative_to(folder))):
            raise InputError(f"{path} was not drawn by us, so {folder} is kept; move it away")


def _draw_range(job: tuple[Path, int, str, int, int], count: Callable[[int], None]) -> list[list[str | int]]:
    """Draws the images `first` to `last` of a split; returns their CSV rows."""
    folder, seed, split, first, last = job
    (folder / split).mkdir(exist_ok=True)
    rows: list[list[str | int]] = []
    for number in range(first, last):
        rng = np.random.default_rng([seed, tuple(COUNTS).index(split), number])
        category = int(rng.integers(len(CATEGORIES)))
        data, attributes = draw_garment(rng, CATEGORIES[category])
        name = f"{split}/{number + 1:05d}.jpg"
        with SpaceError.told(folder / name, data.__len__):
            (folder / name).write_bytes(data)
        count(1)
        rows.append([f"synthetic/{name}", category, *(int(attribute in attributes) for attribute in ATTRIBUTES)])
    return rows


def draw_garment(rng: np.random.Generator, category: str, traits: set[str] | None = None) -> tuple[bytes, set[str]]:
    """One garment as a JPEG, and its attributes: the colours of its cloth, how it is patterned, and its traits.

    With `traits` these instead of those that `rng` draws; all else stays as it is.
    """
    from PIL import Image

    drawn = choose_traits(rng, category)
    traits = drawn if traits is None else traits
    shape = SHAPES[category](rng, traits)
    place = _pose(rng)
    cloth, lining, attributes = _cloth(rng)
    pixels = _background(rng)
    pixels = _blend(pixels, cloth, _mask(shape.outline, place))
    if shape.lining:
        pixels = _blend(pixels, lining, _mask(shape.lining, place))
    shade = np.float32(0.55 if cloth.mean() > 60 else 3.0)
    pixels = pixels * (1 + (shade - 1) * _mask(shape.details, place))
    grain = rng.standard_normal((IMAGE_PX, IMAGE_PX, 1), np.float32) * np.float32(rng.uniform(1, 7))
    pixels = pixels * np.float32(rng.uniform(0.8, 1.0)) + grain
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue(), attributes | traits


def _pose(rng: np.random.Generator) -> np.ndarray:
    """float64 [2, 3], from a shape's square to pixels: turned, leaning, mirrored, scaled and moved."""
    turn, lean = rng.normal(0, 0.12), rng.normal(0, 0.06)
    scale = IMAGE_PX / 2 * rng.uniform(0.74, 0.95)
    stretch = rng.uniform(0.85, 1.15)
    flip = rng.choice([-1, 1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[flip * scale * stretch, lean * scale], [0, scale]])
    room = IMAGE_PX / 2 - scale
    centre = IMAGE_PX / 2 + rng.uniform(-1, 1, 2) * (abs(room) * 0.8 + 3)
    return np.concatenate([matrix, centre[:, None]], axis=1)


def _mask(polygons: list[Points], place: np.ndarray) -> np.ndarray:
    """float32 [px, px, 1], 1 inside the polygons."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (IMAGE_PX * _SUPERSAMPLED,) * 2)
    canvas = ImageDraw.Draw(image)
    for polygon in polygons:
        points = (np.asarray(polygon) @ place[:, :2].T + place[:, 2]) * _SUPERSAMPLED
        canvas.polygon([(float(x), float(y)) for x, y in points], fill=255)
    small = image.reduce(_SUPERSAMPLED)
    return np.asarray(small, np.float32)[:, :, None] / 255


def _blend(under: np.ndarray, over: np.ndarray, mask: np.ndarray) -> np.ndarray:
    blended: np.ndarray = under + (over - under) * mask
    return blended


def _cloth(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """float32 [px, px, 3] of cloth, float32 [3] of lining, and the attributes."""
    names = [str(name) for name in rng.permutation(list(COLOURS))]
    colours = [_shade(rng, COLOURS[name]) for name in names[:3]]
    lining = _shade(rng, COLOURS[names[3]])
    kind = rng.random()
    if kind < 0.55:
        cloth = np.broadcast_to(colours[0], (IMAGE_PX, IMAGE_PX, 3))
        attributes = {names[0], "plain"}
    elif kind < 0.85:
        cloth = np.where(_pattern(rng)[:, :, None], colours[1], colours[0])
        attributes = {names[0], names[1], "patterned"}
    else:
        cloth = np.where(_pattern(rng)[:, :, None], colours[1], colours[0])
        cloth = np.where(_pattern(rng)[:, :, None], colours[2], cloth)
        attributes = {*names[:3], "patterned", "colorful"}
    return cloth * _folds(rng), lining, attributes


def _shade(rng: np.random.Generator, colour: tuple[int, int, int]) -> np.ndarray:
    return np.clip(np.asarray(colour, np.float32) + rng.normal(0, 7, 3), 0, 255).astype(np.float32)


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """Bool [px, px]: stripes, checks or dots."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(9, 20) / IMAGE_PX
    cos, sin = np.float32(np.cos(angle) / period), np.float32(np.sin(angle) / period)
    u, v = _X * cos + _Y * sin, _Y * cos - _X * sin
    u, v = u - np.floor(u), v - np.floor(v)
    kind = rng.integers(3)
    if kind == 0:
        made = u < 0.45
    elif kind == 1:
        made = (u < 0.5) ^ (v < 0.5)
    else:
        made = (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.12
    return np.asarray(made)


def _folds(rng: np.random.Generator) -> np.ndarray:
    """Float [px, px, 1] around 1: soft shadows."""
    fx, fy, phase, slope = (np.float32(rng.uniform(-k, k)) for k in (25, 12, 6, 0.12))
    return np.asarray(1 + np.float32(0.09) * np.sin(fx * _X + fy * _Y + phase) + slope * _X)[:, :, None]


def _background(rng: np.random.Generator) -> np.ndarray:
    """float32 [px, px, 3]: a wall in uneven light, with things that are no garment."""
    wall = (np.asarray(_WALLS[rng.integers(len(_WALLS))]) + rng.normal(0, 8, 3)).astype(np.float32)
    across, down = (np.float32(slope) for slope in rng.uniform(-0.25, 0.25, 2))
    pixels = wall * (1 + across * _X + down * _Y)[:, :, None]
    if rng.random() < 0.5:
        pixels[int(IMAGE_PX * rng.uniform(0.65, 0.9)) :] *= np.float32(rng.uniform(0.6, 0.9))  # a floor
    for _ in range(rng.integers(0, 4)):
        left, top = (IMAGE_PX * rng.uniform(0, 0.95, 2)).astype(int)
        width, height = (IMAGE_PX * rng.uniform(0.03, 0.25, 2)).astype(int)
        thing = pixels[top : top + height, left : left + width]
        thing += (rng.uniform(0, 255, 3).astype(np.float32) - thing) * np.float32(0.4)
    return np.asarray(pixels)


READER = Reader(layout="what packing draws when no --source is given", read=read, draw=draw)
