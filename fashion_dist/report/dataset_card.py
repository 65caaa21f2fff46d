"""`card.html`: a shard set on one page, without a script and without a file beside it."""

from __future__ import annotations

import base64
import csv
import io
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.report import near_duplicates
from fashion_dist.report.blocks import Page, Picture, Section, Sheet, Shot, Table
from fashion_dist.report.page import render
from shards import images, index, worker_pool
from shards.errors import InputError
from shards.manifest import CARD, INDEX, MANIFEST, REJECTED
from shards.pack_plan import OnProgress
from shards.portable import pread
from shards.safe_io import open_regular, read_regular, write_whole
from shards.schema import Schema
from shards.shard_set import ShardSet, Split

if TYPE_CHECKING:
    from PIL import Image as PillowImage

THUMB_PX = 72
PER_CLASS = 8
MAX_CLASSES = 120
MAX_TOGETHER = 60
SHOWN_PAIRS = 24


@dataclass(frozen=True)
class _Looks:
    """What decoding one shard gives: per row a perceptual hash and a tiny picture, and the wanted thumbnails."""

    hashes: np.ndarray
    looks: np.ndarray
    thumbs: dict[int, bytes]


def write_card(folder: Path, *, workers: int = 1, on_progress: OnProgress = lambda _stage, _done, _total: None) -> Path:
    """Writes the card of the set in `folder` and lists it in its manifest; the same set gives the same bytes.

    Raises:
        InputError: a `card.html` is there that is not ours.
    """
    shard_set = ShardSet.open(folder)
    if not shard_set.manifest.card and os.path.lexists(folder / CARD):
        raise InputError(f"{folder / CARD} was not written by packing, so it is kept; move it away, or use --no-card")
    splits = [shard_set.split(name) for name in shard_set.splits]
    held = [fact for fact, names in shard_set.schema.names.items() if _is_held(shard_set.schema.columns[fact], names)]
    columns = [split.columns(*held) for split in splits]
    sizes = np.concatenate([np.stack([split.width, split.height], axis=1) for split in splits])
    split_of = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    wanted = _wanted(shard_set.schema, columns)
    total = len(split_of)
    closely = total <= near_duplicates.MAX_IMAGES
    looks = _look_at_all(shard_set, set().union(*wanted.values()) if wanted else set(), closely, workers, on_progress)
    if closely:
        hashes = np.concatenate([one.hashes for one in looks])
        same = near_duplicates.find(hashes, np.concatenate([one.looks for one in looks]), split_of, SHOWN_PAIRS)
    else:
        crcs = np.concatenate([split.crc32 for split in splits])
        sizes_of = np.concatenate([split.size for split in splits])
        same = near_duplicates.same_bytes(sizes_of, crcs, split_of, SHOWN_PAIRS)
    thumbs = {row: data for one in looks for row, data in one.thumbs.items()}
    for row in sorted({row for pair in same[1] for row in (pair.first, pair.second)} - thumbs.keys()):
        thumbs[row] = _thumb(_open(shard_set, row))
    sections = [
        _counts(shard_set, splits), _sizes(sizes), *_sheets(shard_set.schema, wanted, thumbs),
        *_together(shard_set.schema, columns), _duplicates(shard_set, same, thumbs, closely),
        _rejected(shard_set),
    ]  # fmt: skip
    if not shard_set.manifest.card:
        write_whole(folder / MANIFEST, replace(shard_set.manifest, card=True).encoded())
    write_whole(folder / CARD, render(_page(shard_set, sections)).encode())
    return folder / CARD


def _is_held(kind: str, names: Sequence[str]) -> bool:
    """Whether a fact is held whole: numbers of classes, and vectors of few names."""
    return kind == "int" or len(names) <= MAX_TOGETHER


def _wanted(schema: Schema, columns: Sequence[Mapping[str, np.ndarray]]) -> dict[tuple[str, int], list[int]]:
    """(fact, class) -> rows of the index for its contact sheet: the first ones, which packing shuffled."""
    wanted: dict[tuple[str, int], list[int]] = {}
    for fact, names in schema.names.items():
        if schema.columns[fact] != "int" or len(names) > MAX_CLASSES:
            continue
        labels = np.concatenate([column[fact] for column in columns])
        for number in range(len(names)):
            rows = np.flatnonzero(labels == number)[:PER_CLASS]
            if len(rows):
                wanted[fact, number] = rows.tolist()
    return wanted


def _look_at_all(
    shard_set: ShardSet, wanted: set[int], closely: bool, workers: int, on_progress: OnProgress
) -> list[_Looks]:
    shards = shard_set.manifest.shards
    first = 0
    jobs = []
    for number, shard in enumerate(shards):
        rows = tuple(sorted(row for row in wanted if first <= row < first + shard.samples))
        jobs.append((shard_set.path, number, first, rows, closely))
        first += shard.samples
    return worker_pool.each(_look_at_shard, jobs, workers, lambda done: on_progress("card", done, first))


def _look_at_shard(job: tuple[Path, int, int, tuple[int, ...], bool], count: Callable[[int], Any]) -> _Looks:

    folder, number, first, wanted, closely = job
    shard_set = ShardSet.open(folder)
    shard = shard_set.manifest.shards[number]
    places = index.open_table(folder / INDEX).read_row_group(number, columns=["offset", "size"]).to_pydict()
    hashes = np.zeros(shard.samples if closely else 0, np.uint64)
    looks = np.zeros((len(hashes), near_duplicates.LOOK_PX**2), np.uint8)
    thumbs: dict[int, bytes] = {}
    with os.fdopen(open_regular(shard_set.tar_folder / shard.name), "rb") as archive:
        for row, (offset, size) in enumerate(zip(places["offset"], places["size"], strict=True)):
            if not closely and first + row not in wanted:
                continue
            pixels = _decode(pread(archive.fileno(), size, offset))
            if closely:
                gray = pixels.convert("L").resize((near_duplicates.HASH_PX,) * 2, 4)
                hashes[row] = near_duplicates.perceptual_hash(np.asarray(gray))
                looks[row] = np.asarray(gray.reduce(near_duplicates.HASH_PX // near_duplicates.LOOK_PX)).ravel()
            if first + row in wanted:
                thumbs[first + row] = _thumb(pixels)
            if row % 64 == 63:
                count(64)
    count(shard.samples % 64)
    return _Looks(hashes, looks, thumbs)


def _decode(data: bytes) -> PillowImage.Image:
    """Upright RGB, decoded at a fraction of its size where the format can; noise of its own where it does not decode.

    Only sets that were packed with `--check header` have such images, and the card is not to fail for them.
    """
    try:
        return images.shown(data, 2 * THUMB_PX)
    except images.BadImageError:
        from PIL import Image

        noise = np.random.default_rng(zlib.crc32(data)).integers(0, 256, (THUMB_PX, THUMB_PX, 3), dtype=np.uint8)
        return Image.fromarray(noise)


def _open(shard_set: ShardSet, row: int) -> PillowImage.Image:
    split, place = _place(shard_set, row)
    path = shard_set.tar_folder / split.shard_names[split.shard[place]]
    with os.fdopen(open_regular(path), "rb") as file:
        return _decode(pread(file.fileno(), int(split.size[place]), int(split.offset[place])))


def _thumb(pixels: PillowImage.Image) -> bytes:
    small = pixels.copy()
    small.thumbnail((THUMB_PX, THUMB_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return file.getvalue()


def _uri(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _page(shard_set: ShardSet, sections: Sequence[Section]) -> Page:
    manifest = shard_set.manifest
    size_mb = sum(shard.size for shard in manifest.shards) / 1e6
    counts = ", ".join(f"{split} {count:,}" for split, count in manifest.splits.items())
    told = [
        ("tars", f"{len(manifest.shards)}, {size_mb:,.1f} MB"),
        ("facts", ", ".join(f"{name} ({kind})" for name, kind in manifest.schema.columns.items())),
        ("packed with", ", ".join(f"{name} {value}" for name, value in manifest.options.items())),
        ("data hash", manifest.data_hash),
    ]
    if manifest.converted:
        converted = ", ".join(f"{count} {name.upper()}" for name, count in manifest.converted.items())
        told.append(("stored as PNG, which DALI decodes", converted))
    return Page(title=manifest.dataset, subtitle=counts, sections=sections, facts=told)


def _counts(shard_set: ShardSet, splits: Sequence[Split]) -> Section:
    tables = []
    for fact, names in shard_set.schema.names.items():
        counts = [_counted(split, fact, len(names)) for split in splits]
        rows = list(zip((*names, "(not given)"), *(of_split.tolist() for of_split in counts), strict=True))
        rows = rows if any(of_split[-1] for of_split in counts) else rows[:-1]
        tables.append(Table(fact, ("", *shard_set.splits), rows, folded=len(rows) > MAX_CLASSES))
    return Section("counts", "Counts", [], tables)


def _counted(split: Split, fact: str, classes: int) -> np.ndarray:
    """int64 [K + 1], images of each class, and last those whose class is not given."""
    counts = np.zeros(classes + 1, np.int64)
    for piece in split.iter_columns(fact):
        values = piece[fact]
        if values.ndim == 2:
            counts += np.append((values == 1).sum(axis=0), (values == -1).all(axis=1).sum())
        else:
            numbers = np.where(values == -1, classes, values)
            counts += np.bincount(numbers[(values >= -1) & (values < classes)], minlength=classes + 1)
    return counts


def _sizes(sizes: np.ndarray) -> Section:
    """Histogram of the shorter sides, and the commonest sizes; of one size a sentence."""
    shorter = sizes.min(axis=1)
    low, high = int(shorter.min()), int(shorter.max())
    found, times = np.unique(sizes, axis=0, return_counts=True)
    if len(found) == 1:  # a single bar says less
        return Section("sizes", "Image sizes", [f"All images are {found[0][0]} × {found[0][1]} pixels."])
    counts, edges = np.histogram(shorter, bins=min(24, high - low + 1), range=(low, high + 1))
    step = 390 / len(counts)
    bars = ""
    for i, height in enumerate(100 * counts / counts.max()):
        title = f"{int(edges[i])} to {int(np.ceil(edges[i + 1])) - 1} px: {counts[i]}"
        place = f'x="{i * step + 1:.1f}" y="{110 - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}"'
        bars += f'<rect fill="var(--blue)" {place}><title>{title}</title></rect>'
    labels = ((0, "start", low), (390, "end", high))
    bars += "".join(
        f'<text x="{x}" y="126" font-size="11" fill="currentColor" text-anchor="{anchor}">{side} px</text>'
        for x, anchor, side in labels
    )
    order = np.argsort(-times, kind="stable")[:8]
    rows = [(f"{found[i][0]} x {found[i][1]}", int(times[i])) for i in order]
    alt = f"Histogram of the images' shorter sides, from {low} to {high} pixels."
    picture = Picture("sizes", "Shorter side", alt, f'<svg viewBox="0 0 390 130">{bars}</svg>', ())
    return Section("sizes", "Image sizes", [], [picture, Table("Commonest", ("width x height", "images"), rows)])


def _sheets(
    schema: Schema, wanted: Mapping[tuple[str, int], list[int]], thumbs: Mapping[int, bytes]
) -> Iterable[Section]:
    for fact in dict.fromkeys(fact for fact, _ in wanted):
        sheets = []
        for number, rows in ((number, rows) for (of, number), rows in wanted.items() if of == fact):
            name = schema.names[fact][number]
            shots = [Shot(_uri(thumbs[row]), f"{name}, row {row}") for row in rows]
            sheets.append(Sheet(f"{number} {name}", shots, px=THUMB_PX))
        yield Section(f"sheets-{fact}", f"Contact sheets: {fact}", [], sheets)


def _together(schema: Schema, columns: Sequence[Mapping[str, np.ndarray]]) -> Iterable[Section]:
    """Which attributes occur together: of the images with the row's, the share that has the column's, too."""
    for fact, names in schema.names.items():
        if schema.columns[fact] == "int" or len(names) > MAX_TOGETHER:
            continue
        given = np.concatenate([column[fact] for column in columns]) == 1
        both = given.T.astype(np.int64) @ given.astype(np.int64)
        share = both / np.maximum(1, both.diagonal())[:, None]
        rows = [(name, *(f"{100 * part:.0f}" for part in line)) for name, line in zip(names, share, strict=True)]
        words = "Of 100 images with the row's, how many have the column's."
        title = f"{fact.capitalize()} together"
        yield Section(f"together-{fact}", title, [words], [Table("", ("", *names), rows, wide=True)])


def _duplicates(
    shard_set: ShardSet,
    same: tuple[int, Sequence[near_duplicates.Pair]],
    thumbs: Mapping[int, bytes],
    closely: bool,
) -> Section:
    kind = (
        "near-duplicate images across splits (perceptual hash)" if closely else "images of the same bytes across splits"
    )
    total, shown = same
    shots = []
    for pair in shown:
        names = " | ".join(_name(shard_set, row) for row in (pair.first, pair.second))
        shots.append(Shot(_uri(thumbs[pair.first]), names, (names,), (_uri(thumbs[pair.second]),)))
    words = f"{total:,} pair{'s' * (total != 1)} of {kind}."
    return Section("duplicates", "Duplicates", [words], [Sheet("", shots, px=THUMB_PX)] if shots else [])


def _place(shard_set: ShardSet, row: int) -> tuple[Split, int]:
    """The split that has a row of the index, and the row's place in it."""
    for name in shard_set.splits:
        split = shard_set.split(name)
        if split.row0 <= row < split.row0 + len(split):
            return split, row - split.row0
    raise AssertionError(f"row {row} is in no split")


def _name(shard_set: ShardSet, row: int) -> str:
    split, place = _place(shard_set, row)
    return f"{split.name}: {split.keys[place]}"


def _rejected(shard_set: ShardSet) -> Section:
    if not shard_set.manifest.rejected:
        return Section("left-out", "Left out", ["Nothing."])
    text = read_regular(shard_set.path / REJECTED).decode("utf-8", "replace")
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    note = f"and {len(rows) - 40:,} more in {REJECTED}" if len(rows) > 40 else ""
    table = Table("", ("source", "key", "reason"), rows[:40], note=note, wide=True)
    return Section("left-out", "Left out", [f"{len(rows):,} in all."], [table])
