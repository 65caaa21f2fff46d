"""`manifest.json`: what a shard set is. It is written last; a folder without one is not a set."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import DamageError, InputError
from shards.safe_io import name_fault, read_regular
from shards.schema import Schema, split_fault
from shards.typed_json import parse_dataclass, parse_object, parse_value

FORMAT = "fashion-dist shards 1"
MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTED = "rejected.csv"
CARD = "card.html"
RESHAPING = ("resize_px", "background")
LEARNED = ("train", "val")
"""The splits that a run learns from and is validated on; no other is part of what a run is."""
_TYPES = {"reindexed": bool, "seed": int, "taking": Mapping[str, Any], "read": Mapping[str, Any]}
_SHA256 = re.compile(r"[0-9a-f]{64}")
SCHEMA_MEMBER = "__shards__/schema.json"
"""First member of each tar, so that a set is rebuilt from its tars alone; WebDataset readers skip it."""


def index_name(tar: str) -> str:
    """The name of a tar's DALI index; those of tars in folders stand in the set's folder, too."""
    return tar.removesuffix(".tar").replace("/", "--") + ".idx"


@dataclass(frozen=True)
class Shard:
    """One tar: file name (of tars that were only indexed, the path below their folder), samples, bytes and hash."""

    name: str
    split: str
    samples: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a set but its samples.

    Args:
        dataset: name of the reader that made it.
        schema: facts and their names.
        shards: in the order of the index.
        tables: name -> SHA-256 of the rows of each table beside the shards.
        options: what it was packed with.
        source_hash: of the records, so that the same command finds its work done.
        rejected: number of images that were left out, listed in `rejected.csv`.
        converted: format -> number of images stored as PNG because DALI cannot decode that format.
        tar_folder: absolute, where the tars are when they are not beside the manifest.
        card: whether `card.html` is ours.
        former: hashes of the sets that were here before with the same splits to learn from.
    """

    dataset: str
    schema: Schema
    shards: tuple[Shard, ...]
    tables: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    source_hash: str = ""
    rejected: int = 0
    converted: Mapping[str, int] = field(default_factory=dict)
    tar_folder: str | None = None
    card: bool = False
    former: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, int]:
        """Samples per split, in the order of the index."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.samples
        return counts

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tars; of an indexed one, samples of two splits may be told apart by the index."""
        return tuple(dict.fromkeys(shard.name for shard in self.shards))

    @property
    def files(self) -> frozenset[str]:
        """Names of the files in the set's folder that packing or indexing wrote; indexed tars are not ours."""
        names = {MANIFEST, INDEX, *(index_name(shard.name) for shard in self.shards)}
        if not self.options.get("reindexed", False):
            names |= {shard.name for shard in self.shards} | {f"{table}.parquet" for table in self.tables}
        return frozenset(names | ({REJECTED} if self.rejected else set()) | ({CARD} if self.card else set()))

    @property
    def reshaped(self) -> dict[str, Any]:
        """The options of packing that changed pixels, so that pictures which come later are changed likewise."""
        return {name: value for name in RESHAPING if (value := self.options.get(name))}

    @property
    def data_hash(self) -> str:
        """64 hex digits that change if and only if the content of the set changes."""
        return self.hash_of(*self.splits)

    @property
    def training_hash(self) -> str:
        """64 hex digits that change if and only if what a run learns from and is validated on changes."""
        return self.hash_of(*LEARNED)

    def hash_of(self, *splits: str) -> str:
        """`data_hash` of a set of these splits alone."""
        told = [
            json.dumps([self.schema.to_json(), dict(self.tables)], sort_keys=True),
            *(f"{shard.split} {shard.samples} {shard.sha256}" for shard in self.shards if shard.split in splits),
            *([json.dumps(self.options["taking"], sort_keys=True)] if "taking" in self.options else []),
        ]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    @property
    def hashes(self) -> tuple[str, ...]:
        """What a run may have noted that learns from this set: `training_hash`, and what earlier versions wrote."""
        others = [split for split in self.splits if split not in LEARNED]
        fewer = [self.hash_of(*LEARNED, *others[:count]) for count in range(1, len(others) + 1)]
        return tuple(dict.fromkeys([self.training_hash, *fewer, *self.former]))

    def learned_as(self, data_hash: str) -> bool:
        """Whether a run that noted this hash learned from what the set holds now."""
        return data_hash in self.hashes

    def encoded(self) -> bytes:
        """Content of `manifest.json`, the same for equal manifests; a lone surrogate, as of file names, is escaped."""
        value = {
            "format": FORMAT,
            "dataset": self.dataset,
            "data_hash": self.data_hash,
            "splits": self.splits,
            "schema": self.schema.to_json(),
            "options": dict(self.options),
            "source_hash": self.source_hash,
            "rejected": self.rejected,
            "converted": dict(self.converted),
            "tar_folder": self.tar_folder,
            "card": self.card,
            **({"former": list(self.former)} if self.former else {}),
            "tables": dict(self.tables),
            "shards": [vars(shard) for shard in self.shards],
        }
        text = json.dumps({"content_hash": _hash(value), **value}, indent=1, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "backslashreplace")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """The manifest in `folder`.

        Raises:
            FileNotFoundError: there is none.
            InputError: it was written by another version, is a link, or a name in it leads out of the set.
            DamageError: it is not what was written.
        """
        path = folder / MANIFEST
        content = read_regular(path, "MANIFEST_BYTES")
        try:
            value = parse_object(content, "not a manifest")
            found = value.get("format", FORMAT)
            manifest = parse_dataclass(cls, value, "not a manifest") if found == FORMAT else None
        except InputError as error:
            raise DamageError(str(path), "", 0, str(error)) from None
        if manifest is None:
            raise InputError(f"{path} is in the format {str(found)[:80]!r}; this version reads {FORMAT!r}")
        if (fault := manifest._fault()) is not None:
            raise InputError(f"{path}: {fault}")
        if manifest.data_hash != value.get("data_hash"):
            raise DamageError(str(path), "", 0, "its data_hash is not that of its own shards and schema")
        if value.pop("content_hash", None) not in (None, _hash(value)):  # sets of the first edition have none
            raise DamageError(str(path), "", 0, "its content_hash is not that of what stands in it")
        for name in _TYPES.keys() & manifest.options.keys():
            parse_value(_TYPES[name], manifest.options[name], name, path)
        return manifest

    def _fault(self) -> str | None:
        """Why a manifest that was read names something that cannot be a file or a split of its set."""
        for shard in self.shards:
            parts = shard.name.split("/") if self.options.get("reindexed", False) else [shard.name]
            fault = next(filter(None, map(name_fault, parts)), None) or split_fault(shard.split)
            if fault is None and not shard.name.endswith(".tar"):
                fault = f"shard {shard.name!r} is no .tar file"
            if fault is None and not _SHA256.fullmatch(shard.sha256):
                fault = f"shard {shard.name!r} has no SHA-256"
            if fault is None and not 0 <= shard.samples <= shard.size:
                fault = f"shard {shard.name!r} has {shard.samples!r} samples in {shard.size!r} bytes"
            if fault is not None:
                return fault
        if len({(shard.name, shard.split) for shard in self.shards}) < len(self.shards):
            return "two shards of one split have one name"
        if not self.options.get("reindexed", False) and len(self.names) < len(self.shards):
            return "two shards have one name"
        for table in self.tables:
            if (fault := name_fault(table)) is not None:
                return fault
            if f"{table}.parquet" == INDEX:
                return f"table {table!r} would be the index"
        where = self.tar_folder
        if where is not None and (not where.startswith("/") or "/../" in f"{where}/"):
            return f"tar_folder {where!r} is not an absolute path without .. in it"
        return None


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fsync_files(paths: Iterable[Path]) -> None:
    """Make many files durable; side by side, because file systems commit waiting ones together."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(_fsync, paths))


def _fsync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders, and writes their names by itself
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
