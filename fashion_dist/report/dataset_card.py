"""`card.html`: a shard set on one page, without a script and without a file beside it."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.report import near_duplicates
from shards import worker_pool
from shards.errors import InputError
from shards.manifest import CARD, INDEX, MANIFEST, REJECTED
from shards.pack_plan import OnProgress
from shards.portable import pread
from shards.safe_io import open_regular, read_regular, require_regular, write_whole
from shards.schema import Schema
from shards.shard_set import ShardSet

if TYPE_CHECKING:
    from PIL import Image as PillowImage

THUMB_PX = 72
PER_CLASS = 8
MAX_CLASSES = 120
SHOWN_PAIRS = 24

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { font-weight: 600; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; } td, th { padding: .15rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid var(--line); }
.wide { overflow-x: auto; } .sheet img { height: 72px; margin: 1px; } .sheet p { margin: .6rem 0 0; }
.pairs { display: flex; flex-wrap: wrap; gap: .8rem; } .pairs figure { margin: 0; width: 9.5rem; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; } rect { fill: var(--bar); }
text { fill: currentColor; font-size: 11px; }
.heat td { text-align: center; font-size: .75rem; padding: .1rem .3rem; } .heat th { font-size: .75rem; }
code { overflow-wrap: anywhere; }
"""


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
    facts = {name: shard_set.schema.facts[name] for name in shard_set.schema.names}
    columns = [split.facts(*facts) for split in splits]
    sizes = np.concatenate([np.stack([split.width, split.height], axis=1) for split in splits])
    split_of = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    wanted = _wanted(shard_set.schema, columns)
    total = len(split_of)
    closely = total <= near_duplicates.MAX_IMAGES
    looks = _look_at_all(shard_set, set().union(*wanted.values()) if wanted else set(), closely, workers, on_progress)
    if closely:
        hashes = np.concatenate([one.hashes for one in looks])
        pairs = near_duplicates.find(hashes, np.concatenate([one.looks for one in looks]), split_of)
    else:
        crcs = np.concatenate([split.crc32 for split in splits])
        pairs = near_duplicates.same_bytes(np.concatenate([split.size for split in splits]), crcs, split_of)
    thumbs = {row: data for one in looks for row, data in one.thumbs.items()}
    shown = pairs[:SHOWN_PAIRS]
    for row in sorted({row for pair in shown for row in (pair.first, pair.second)} - thumbs.keys()):
        thumbs[row] = _thumb(_open(shard_set, row))
    parts = [
        _head(shard_set),
        _counts(shard_set, columns),
        _sizes(sizes),
        _sheets(shard_set.schema, wanted, thumbs),
        _together(shard_set.schema, columns),
        _pairs(shard_set, pairs, shown, thumbs, closely),
        _rejected(shard_set),
    ]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(shard_set.manifest.dataset)}</title>"
    page += f'<meta name=viewport content="width=device-width"><style>{_STYLE}</style>' + "\n".join(parts)
    if not shard_set.manifest.card:
        write_whole(folder / MANIFEST, replace(shard_set.manifest, card=True).encoded())
    write_whole(folder / CARD, page.encode())
    return folder / CARD


def _wanted(schema: Schema, columns: Sequence[Mapping[str, np.ndarray]]) -> dict[tuple[str, int], list[int]]:
    """(fact, class) -> rows of the index for its contact sheet: the first ones, which packing shuffled."""
    wanted: dict[tuple[str, int], list[int]] = {}
    for fact, names in schema.names.items():
        if schema.facts[fact] != "int" or len(names) > MAX_CLASSES:
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
    import pyarrow.parquet as pq

    folder, number, first, wanted, closely = job
    shard_set = ShardSet.open(folder)
    shard = shard_set.manifest.shards[number]
    places = (
        pq.ParquetFile(require_regular(folder / INDEX)).read_row_group(number, columns=["offset", "size"]).to_pydict()
    )
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
    """Upright RGB, decoded at a fraction of its size where the format can."""
    from PIL import Image, ImageOps

    pixels = Image.open(io.BytesIO(data))
    pixels.draft("RGB", (2 * THUMB_PX, 2 * THUMB_PX))
    upright = ImageOps.exif_transpose(pixels)
    if upright.mode in ("RGBA", "LA", "P"):
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert("RGB")


def _open(shard_set: ShardSet, row: int) -> PillowImage.Image:
    for name in shard_set.splits:
        split = shard_set.split(name)
        if split.row0 <= row < split.row0 + len(split):
            place = row - split.row0
            path = shard_set.tar_folder / split.shard_names[split.shard[place]]
            with os.fdopen(open_regular(path), "rb") as file:
                return _decode(pread(file.fileno(), int(split.size[place]), int(split.offset[place])))
    raise AssertionError(f"row {row} is in no split")


def _thumb(pixels: PillowImage.Image) -> bytes:
    small = pixels.copy()
    small.thumbnail((2 * THUMB_PX, THUMB_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return file.getvalue()


def _img(data: bytes, title: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{html.escape(title)}" title="{html.escape(title)}">'


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<div class=wide><table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table></div>"


def _head(shard_set: ShardSet) -> str:
    manifest = shard_set.manifest
    size_mb = sum(shard.size for shard in manifest.shards) / 1e6
    counts = ", ".join(f"{split} {count:,}" for split, count in manifest.splits.items())
    options = ", ".join(f"{name} {value}" for name, value in manifest.options.items())
    facts = ", ".join(f"{name} ({kind})" for name, kind in manifest.schema.facts.items())
    converted = ", ".join(f"{count} {name.upper()}" for name, count in manifest.converted.items())
    lines = [
        f"<h1>{html.escape(manifest.dataset)}</h1>",
        f"<p>{counts}; {len(manifest.shards)} tars, {size_mb:,.1f} MB. Facts: {html.escape(facts)}.</p>",
        f"<p>Packed with {html.escape(options)}. Data hash <code>{manifest.data_hash}</code>.</p>",
    ]
    if converted:
        lines.append(f"<p>Stored as PNG because DALI cannot decode them: {html.escape(converted)}.</p>")
    return "\n".join(lines)


def _counts(shard_set: ShardSet, columns: Sequence[Mapping[str, np.ndarray]]) -> str:
    splits = list(shard_set.splits)
    parts = ["<h2>Counts</h2>"]
    for fact, names in shard_set.schema.names.items():
        vector = shard_set.schema.facts[fact] != "int"
        rows = []
        for number, name in enumerate(names):
            per_split = [
                int((column[fact][:, number] == 1).sum() if vector else (column[fact] == number).sum())
                for column in columns
            ]
            rows.append([name, *(f"{count:,}" for count in per_split)])
        unknown = [
            int(((column[fact] == -1).all(axis=1) if vector else column[fact] == -1).sum()) for column in columns
        ]
        if any(unknown):
            rows.append(["(not given)", *(f"{count:,}" for count in unknown)])
        parts.append(f"<h3>{html.escape(fact)}</h3>" + _table(["", *splits], rows))
    return "\n".join(parts)


def _sizes(sizes: np.ndarray) -> str:
    """Histogram of the shorter sides, and the commonest sizes."""
    shorter = sizes.min(axis=1)
    low, high = int(shorter.min()), int(shorter.max())
    counts, edges = np.histogram(shorter, bins=min(24, high - low + 1), range=(low, high + 1))
    step, tallest = 640 / len(counts), counts.max()
    bars = ""
    for i, count in enumerate(counts):
        height = 100 * count / tallest
        title = f"{int(edges[i])} to {int(np.ceil(edges[i + 1])) - 1} px: {count}"
        place = f'x="{i * step + 1:.1f}" y="{110 - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}"'
        bars += f"<rect {place}><title>{title}</title></rect>"
    axis = f'<text x="0" y="126">{low} px</text><text x="640" y="126" text-anchor="end">{high} px</text>'
    found, times = np.unique(sizes, axis=0, return_counts=True)
    order = np.argsort(-times, kind="stable")[:8]
    common = _table(["width x height", "images"], [(f"{found[i][0]} x {found[i][1]}", f"{times[i]:,}") for i in order])
    svg = f'<svg viewBox="0 0 640 130" width="100%" role="img" aria-label="shorter sides">{bars}{axis}</svg>'
    return f"<h2>Image sizes</h2><p>Shorter side, in pixels</p>{svg}{common}"


def _sheets(schema: Schema, wanted: Mapping[tuple[str, int], list[int]], thumbs: Mapping[int, bytes]) -> str:
    parts = ["<h2>Contact sheets</h2>"] if wanted else []
    fact_before = ""
    for (fact, number), rows in wanted.items():
        if fact != fact_before:
            parts.append(f"<h3>{html.escape(fact)}</h3>")
            fact_before = fact
        name = schema.names[fact][number]
        images = "".join(_img(thumbs[row], f"{name}, row {row}") for row in rows)
        parts.append(f"<div class=sheet><p>{number} {html.escape(name)}</p>{images}</div>")
    return "\n".join(parts)


def _together(schema: Schema, columns: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Which attributes occur together: of the images with the row's, the share that has the column's, too."""
    parts = []
    for fact, names in schema.names.items():
        if schema.facts[fact] == "int" or len(names) > 60:
            continue
        given = np.concatenate([column[fact] for column in columns]) == 1
        both = given.T.astype(np.int64) @ given.astype(np.int64)
        share = both / np.maximum(1, both.diagonal())[:, None]
        head = "<tr><th></th>" + "".join(f"<th>{html.escape(name)}</th>" for name in names) + "</tr>"
        lines = []
        for i, name in enumerate(names):
            cells = "".join(
                f'<td style="background: rgb(74 127 181 / {part:.2f})" title="{count}">{part * 100:.0f}</td>'
                for part, count in zip(share[i], both[i], strict=True)
            )
            lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
        parts.append(
            f"<h2>{html.escape(fact.capitalize())} together</h2><p>Of 100 images with the row's, how many have the "
            f"column's.</p><div class=wide><table class=heat>{head}{''.join(lines)}</table></div>"
        )
    return "\n".join(parts)


def _pairs(
    shard_set: ShardSet,
    pairs: Sequence[near_duplicates.Pair],
    shown: Sequence[near_duplicates.Pair],
    thumbs: Mapping[int, bytes],
    closely: bool,
) -> str:
    told = (
        "near-duplicate images across splits (perceptual hash)"
        if closely
        else "images with the same bytes across splits"
    )
    parts = [f"<h2>Duplicates</h2><p>{len(pairs):,} pair{'s' * (len(pairs) != 1)} of {told}.</p>"]
    figures = []
    for pair in shown:
        names = [_name(shard_set, row) for row in (pair.first, pair.second)]
        images = "".join(_img(thumbs[row], name) for row, name in zip((pair.first, pair.second), names, strict=True))
        figures.append(f"<figure>{images}<figcaption>{html.escape(' | '.join(names))}</figcaption></figure>")
    return "\n".join(parts) + f"<div class='pairs sheet'>{''.join(figures)}</div>"


def _name(shard_set: ShardSet, row: int) -> str:
    for name in shard_set.splits:
        split = shard_set.split(name)
        if split.row0 <= row < split.row0 + len(split):
            return f"{name}: {split.keys[row - split.row0]}"
    raise AssertionError(f"row {row} is in no split")


def _rejected(shard_set: ShardSet) -> str:
    if not shard_set.manifest.rejected:
        return "<h2>Left out</h2><p>Nothing.</p>"
    text = read_regular(shard_set.path / REJECTED).decode("utf-8", "replace")
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    more = f"<p>and {len(rows) - 40:,} more in {REJECTED}</p>" if len(rows) > 40 else ""
    return f"<h2>Left out</h2><p>{len(rows):,} in all.</p>{_table(['source', 'key', 'reason'], rows[:40])}{more}"
