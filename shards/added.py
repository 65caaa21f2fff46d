"""Adds a split to a packed set: the tars that are there stay as they are, and the manifest is written last.

Killed at any moment, it continues when run again, as packing does. A split that is replaced has its old manifest kept
in the staging folder until the new one stands.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards import index, packing, readers, staging, writer
from shards.errors import InputError
from shards.images import OpenDecoder, open_pillow
from shards.locks import single_packer
from shards.manifest import INDEX, LEARNED, MANIFEST, REJECTED, Manifest, fsync_files, fsync_folder
from shards.pack_plan import OnProgress, PackOptions, Plan
from shards.readers import ReadOptions, Rejected, Source, _folders, _pictures, _tables
from shards.safe_io import read_regular, write_whole
from shards.schema import Record, Schema, folded, split_fault
from shards.typed_json import parse_dataclass


def add_split(
    out: Path,
    split: str,
    source: Path,
    *,
    workers: int = 1,
    replace: bool = False,
    skip_bad: bool = False,
    open_decoder: OpenDecoder = open_pillow,
    on_progress: OnProgress = lambda _stage, _done, _total: None,
) -> Manifest:
    """Adds `source` as the split `split` to the set in `out`, read as the set was: same options, same class names.

    `source` is laid out as the set's own source, of which then the split of this name is taken, or all where it has one
    split; or it is a folder of pictures, whose classes are known where folders are named as classes. `replace` puts it
    in the place of a split that is there. See `packing.pack` for the rest.

    Raises:
        InputError: the set has the split, or cannot grow; the source has other columns or classes than the set.
    """
    if fault := split_fault(split):
        raise InputError(fault)
    kept = out / staging.STAGING / staging.BEFORE / MANIFEST
    before = _manifest(out, kept)
    _require_packed(out, before)
    if split in before.splits and not replace:
        raise InputError(f"{out} has a split {split!r} of {before.splits[split]} images; --replace puts another there")
    if split in LEARNED and split in before.splits:
        raise InputError(f"{out}: runs learn from {split!r}, which is only packed with the whole set: --replace there")
    options = dataclasses.replace(parse_dataclass(PackOptions, before.options, out / MANIFEST), skip_bad=skip_bad)
    opened = _opened(source, split, before, skip_bad)
    folder = staging.begin(out)
    with single_packer(folder / "lock", str(out)), staging.removed_if_refused(folder):
        plan = packing.stage_plan(folder, before.dataset, opened, options, on_progress, {}, keep=(staging.BEFORE,))
        _require_new_keys(out, before, split, plan)
        todo = [shard for shard in plan.shards if not writer.is_finished(plan, shard, out)]
        packing.check_space(out, todo)
        if todo:
            packing.write_here(plan, todo, workers, on_progress, open_decoder)
        newly = _newly_rejected(out, before, plan)
        manifest = _grown(before, split, plan, len(newly))
        _publish(out, folder, before, manifest, split, plan, newly)
        writer.commit(manifest, out, folder)
    return manifest


def _manifest(out: Path, kept: Path) -> Manifest:
    """The set's manifest, or the one that an interrupted replacement keeps."""
    with contextlib.suppress(FileNotFoundError):
        return Manifest.load(out)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return Manifest.load(kept.parent)
    raise InputError(f"{out} is no packed set (no {MANIFEST}), so no split is added to it")


def _require_packed(out: Path, manifest: Manifest) -> None:
    if manifest.options.get("reindexed", False):
        raise InputError(f"{out} is indexed, not packed: put the new tars beside the others and --reindex them all")
    if manifest.tables:
        raise InputError(
            f"{out} has tables ({', '.join(manifest.tables)}) about its images; pack the whole source again"
        )


def _opened(source: Path, split: str, manifest: Manifest, skip_bad: bool) -> Source:
    """The source as records of one split, with the set's columns and class numbers."""
    readers.require_there(source)
    if _is_of_set(source, manifest):
        return _pictures.read(source, manifest.schema, split, _folders.Walk(skip_bad), f"{split}/")
    if manifest.dataset == "image_folder" and manifest.schema.names:
        _require_known(source, manifest)
    reader, chosen = readers.load(manifest.dataset), manifest.options.get("read", {})
    there_are: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 0.0, "seed": manifest.options.get("seed", 0)}
    there_are |= {"skip_bad": skip_bad, "added": split not in LEARNED, "labelled": bool(manifest.schema.names)}
    if "classes" in chosen:  # the names are the set's by now, and the file may be another or gone
        there_are["classes"] = next(iter(manifest.schema.names.values()))
    options = ReadOptions.of_chosen(chosen, **there_are)
    seen = reader.read(source, options)
    there = {record.split for record in seen.records()}
    if split not in there and len(there) > 1:
        raise InputError(f"{source} holds the splits {', '.join(sorted(there))}, and none is called {split!r}")
    opened = reader.read(source, options)
    numbers = _numbers(source, opened.schema, manifest.schema)
    prefix = "" if split in there else f"{split}/"

    def records() -> Iterator[Record]:
        for record in opened.records():
            if split in there and record.split != split:
                continue
            yield _as_in_set(record, split, prefix, numbers, manifest.schema)

    return dataclasses.replace(opened, schema=manifest.schema, records=records)


def _is_of_set(source: Path, manifest: Manifest) -> bool:
    """Whether a folder holds pictures, in no folders or in folders named as the set's classes, and no labels of them.

    Of folders of classes a side file such as a readme says nothing; of other sources it may have the labels.
    """
    if not source.is_dir():
        return False
    known = {name for names in manifest.schema.names.values() for name in names}
    walk = _folders.Walk(skip_bad=True)
    if not set(walk.folders(source)) <= known or not walk.images(source):
        return False
    tables = walk.side.keys() & _tables.LOADERS.keys()
    return not walk.side or (not tables and "layout" in readers.load(manifest.dataset).uses)


def _require_known(source: Path, manifest: Manifest) -> None:
    """Refuse folders of classes that the set has not, before the reader takes them for the classes of a new set."""
    folders = _folders.Walk(skip_bad=True).folders(source) if source.is_dir() else []
    if manifest.options.get("read", {}).get("class_depth", 1) == 1 and not any(map(_folders.split_of, folders)):
        _numbers(source, Schema(manifest.schema.columns, {"label": tuple(folders)}), manifest.schema)


def _numbers(source: Path, mine: Schema, theirs: Schema) -> dict[str, list[int]]:
    """Column -> the set's number, or position, of each of the source's classes."""
    differing = [
        f"{name} ({mine.columns.get(name, 'none')} here, {theirs.columns.get(name, 'none')} in the set)"
        for name in {**mine.columns, **theirs.columns}
        if not _fits(name, mine, theirs)
    ]
    if differing:
        raise InputError(f"{source} has other columns than the set: {', '.join(differing)}")
    found: dict[str, list[int]] = {}
    for column, names in mine.names.items():
        known = theirs.names.get(column, ())
        if unknown := [name for name in names if name not in known]:
            shown = ", ".join(unknown[:5])
            raise InputError(f"{source}: {column} has {shown}, which the set has not; it has {', '.join(known[:60])}")
        found[column] = [known.index(name) for name in names]
    return found


def _fits(name: str, mine: Schema, theirs: Schema) -> bool:
    """Whether the set can hold a column of the source: also whole numbers as fractions, a class as several or none."""
    kinds = tuple(schema.columns.get(name, "").partition(":")[0] for schema in (mine, theirs))
    if name in theirs.names and name not in mine.columns:
        return True
    if (name in theirs.names) != (name in mine.names):
        return False
    return kinds[0] == kinds[1] or kinds == ("int", "ints" if name in mine.names else "float")


def _as_in_set(record: Record, split: str, prefix: str, numbers: dict[str, list[int]], schema: Schema) -> Record:
    facts = {name: record.columns.get(name) for name in schema.columns}
    for column, number in numbers.items():
        value = facts[column]
        if value is not None and schema.columns[column] == "int":
            facts[column] = number[value]
        elif value is not None:
            there = {number[value]: 1} if isinstance(value, int) else dict(zip(number, value, strict=True))
            facts[column] = [there.get(position, 0) for position in range(schema.width(column))]
    facts |= {n: float(v) for n, v in facts.items() if schema.columns[n] == "float" and isinstance(v, int)}
    if prefix:
        facts |= {name: f"{prefix}{facts[name]}" for name in _pictures.NAMED if name in facts}
    return dataclasses.replace(record, key=prefix + record.key, columns=facts, split=split)


def _require_new_keys(out: Path, before: Manifest, split: str, plan: Plan) -> None:
    """Refuse keys that other splits of the set have."""
    kept = [number for number, shard in enumerate(before.shards) if shard.split != split]
    known = {folded(key) for rows in index.read(_old_index(out), kept) for key in rows["key"].to_pylist()}
    doubled = [entry.key for shard in plan.shards for entry in plan.entries(shard) if folded(entry.key) in known]
    if doubled:
        shown = ", ".join(doubled[:5])
        raise InputError(f"{len(doubled)} images have keys that other splits of {out} have, such as {shown}")


def _newly_rejected(out: Path, before: Manifest, plan: Plan) -> list[Rejected]:
    """What is left out now and was not before, as the same pictures are where they replace themselves."""
    content = read_regular(out / REJECTED).decode() if before.rejected else ""
    items = writer.summary(plan)[1]
    known = {*_rows_of(content)[: before.rejected]}  # an interrupted adding has named more
    rows = _rows_of(writer.rejected_csv(items).decode())
    return [item for item, row in zip(items, rows, strict=True) if row not in known]


def _rows_of(table: str) -> list[tuple[str, ...]]:
    return [tuple(row) for row in csv.reader(io.StringIO(table, newline=""))][1:]


def _grown(before: Manifest, split: str, plan: Plan, newly: int) -> Manifest:
    """The manifest with the split's shards behind the others, so that no row of another split moves."""
    shards, rejected, converted = writer.summary(plan)
    if not shards:
        raise InputError(f"all {len(rejected)} images of split {split!r} were rejected")
    return dataclasses.replace(
        before,
        shards=(*(shard for shard in before.shards if shard.split != split), *shards),
        rejected=before.rejected + newly,
        converted=dict(sorted((converted + Counter(before.converted)).items())),
        former=tuple(dict.fromkeys([before.data_hash, *before.former])),
    )


def _publish(
    out: Path, folder: Path, before: Manifest, manifest: Manifest, split: str, plan: Plan, newly: list[Rejected]
) -> None:
    """Gives the new files their names; of a replaced split the old manifest goes first, into the staging folder."""
    added = [shard.name for shard in manifest.shards if shard.split == split]
    names = [name.removesuffix(".tar") + ending for name in added for ending in (".tar", ".idx")]
    known = before.files | {name for name in names if not (folder / name).exists()}
    staging.refuse_strangers(out, known, names, every_tar=False)
    fsync_files(folder / name for name in names if name.endswith(".idx") and (folder / name).exists())
    kept = folder / staging.BEFORE
    if split in before.splits and not (kept / MANIFEST).exists():
        kept.mkdir(exist_ok=True)
        write_whole(kept / INDEX, read_regular(out / INDEX))
        write_whole(kept / MANIFEST, before.encoded())
    index.write(folder / INDEX, before.schema, _rows(_old_index(out), before, split, plan))
    if newly:
        lines = writer.rejected_csv(newly)
        before_them = read_regular(out / REJECTED) if before.rejected else b""
        behind = lines.partition(b"\n")[2] if before_them else lines
        if not before_them.endswith(behind):  # an interrupted adding has named them already
            write_whole(folder / REJECTED, before_them + behind)
    write_whole(folder / "ours.json", json.dumps(sorted({*before.files, *manifest.files})).encode())
    fsync_folder(folder)
    if split in before.splits:
        (out / MANIFEST).unlink(missing_ok=True)
    for name in [*names, INDEX, REJECTED]:
        if (folder / name).exists():
            (folder / name).replace(out / name)
    for name in before.files - manifest.files:
        (out / name).unlink(missing_ok=True)
    fsync_folder(out)


def _old_index(out: Path) -> Path:
    """The index that the manifest before speaks of; in one that has only grown, those rows stand where they did."""
    kept = out / staging.STAGING / staging.BEFORE / INDEX
    return kept if kept.exists() else out / INDEX


def _rows(old_index: Path, before: Manifest, split: str, plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the index: those of the splits that stay as they are, and behind them the new ones."""
    stays = [number for number, shard in enumerate(before.shards) if shard.split != split]
    for number, rows in zip(stays, index.read(old_index, stays), strict=True):
        yield before.shards[number].split, rows
    yield from writer.index_rows(plan, {shard.name for shard in writer.summary(plan)[0]})
