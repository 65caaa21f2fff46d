"""The read side: a shard set opened, its splits, and their columns loaded when they are asked for."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from shards import index, program, readers
from shards.errors import DamageError, InputError
from shards.limits import limit, over
from shards.manifest import INDEX, MANIFEST, Manifest
from shards.safe_io import read_regular
from shards.schema import Schema
from shards.typed_json import parse_object

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class ShardSet:
    """A packed data set in the folder `path`; opening reads the manifest only."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> ShardSet:
        """The set in the folder `path`.

        Raises:
            InputError: there is none, or its packing was not finished; names the command that makes it.
            DamageError: the manifest is not what was written.
        """
        folder = Path(path).absolute()
        try:
            return cls(folder, Manifest.load(folder))
        except (FileNotFoundError, NotADirectoryError):
            pass
        dataset = _layout(folder)
        source = () if dataset == "synthetic" else ("--source", "DIR")  # which draws it
        pack = program.command("pack", "--dataset", dataset, *source)
        make = f"{pack} --out {shlex.quote(str(folder))}"  # wherever HOME and --shards are
        if (folder / ".packing" / "ours.json").is_file() and not (folder / ".packing" / "plan.json").is_file():
            raise InputError(
                f"{folder} is half indexed; `{program.command('pack')} --reindex DIR` with the same DIR finishes it"
            )
        if (folder / ".packing").is_dir():
            if (folder / ".packing" / "before").is_dir():  # a split was being added
                make = program.command("pack", "--name", folder.name, "--add", "SPLIT=DIR", "--out", folder)
            raise InputError(f"{folder} is half packed; the command that began it finishes it: {make}")
        if folder.is_dir() and any(folder.glob("*.tar")):
            index = f"`{program.command('pack', '--reindex', folder)}` makes a set of the tars as they are"
            raise InputError(f"{folder} holds tars but no {MANIFEST}; {index}, `{pack} --out DIR` packs another folder")
        if dataset != folder.name:
            beside = sorted(path.parent.name for path in folder.parent.glob(f"*/{MANIFEST}"))
            make += f"; packed in {folder.parent}: {', '.join(beside)}" if beside else ""
        raise InputError(f"{folder} is no shard set (no {MANIFEST}); make it: {make}")

    @property
    def schema(self) -> Schema:
        """Facts and names."""
        return self.manifest.schema

    @property
    def data_hash(self) -> str:
        """Changes if and only if the content of the set changes."""
        return self.manifest.data_hash

    @property
    def training_hash(self) -> str:
        """Changes if and only if what a run learns from and is validated on changes."""
        return self.manifest.training_hash

    @property
    def splits(self) -> dict[str, int]:
        """Samples per split."""
        return self.manifest.splits

    @property
    def tar_folder(self) -> Path:
        """Where the tars are: beside the manifest, unless a read-only folder was indexed from elsewhere."""
        return Path(self.manifest.tar_folder) if self.manifest.tar_folder else self.path

    def split(self, name: str) -> Split:
        """The split `name`; raises InputError naming those there are."""
        if name not in (splits := self.splits):
            told = f"it has: {', '.join(splits)}; pack --add {name}=DIR adds it"
            raise InputError(f"{self.path} has no split {name!r}; {told}")
        row0 = sum(splits[other] for other in itertools.takewhile(lambda other: other != name, splits))
        shard_names = tuple(shard.name for shard in self.manifest.shards)
        return Split(name, self.schema, self.path, self.tar_folder, shard_names, row0, splits[name])

    def table(self, name: str) -> pa.Table:
        """The table `name` beside the shards, such as outfits.

        Raises:
            InputError: there is none; names those there are.
            DamageError: its rows are not those that were packed.
        """
        import pyarrow as pa

        if name not in self.manifest.tables:
            known = ", ".join(self.manifest.tables) or "none"
            raise InputError(f"{self.path} has no table {name!r}; it has: {known}")
        path = self.path / f"{name}.parquet"
        try:
            table = index.open_table(path).read()
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise DamageError(path.name, "", 0, f"cannot be read: {error}") from None
        if index.table_hash(table) != self.manifest.tables[name]:
            raise DamageError(path.name, "", 0, "its rows are not those that were packed")
        return table


def _layout(folder: Path) -> str:
    """What `pack --dataset` takes for the set in `folder`: as the plan of a half packed one says, else as its name."""
    plan = folder / ".packing" / "plan.json"
    with contextlib.suppress(InputError, OSError):
        if (planned := parse_object(read_regular(plan), plan).get("dataset")) in readers.names():
            return str(planned)
    return folder.name if folder.name in readers.names() else "image_folder"


@dataclass(frozen=True)
class OnceReadSet(ShardSet):
    """A set that keeps the facts and tables that were read of it, for many checks of the same."""

    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, shard_set: ShardSet) -> OnceReadSet:
        """The same set, of which nothing is kept yet."""
        return cls(shard_set.path, shard_set.manifest)

    def split(self, name: str) -> Split:
        """As of any set; its `columns` are copies of what was read once."""
        if f"split {name}" not in self._kept:
            self._kept[f"split {name}"] = _OnceReadSplit(**vars(super().split(name)))
        kept: Split = self._kept[f"split {name}"]
        return kept

    def table(self, name: str) -> pa.Table:
        """As of any set."""
        if f"table {name}" not in self._kept:
            self._kept[f"table {name}"] = super().table(name)
        return self._kept[f"table {name}"]


class Keys(Sequence[str]):
    """The keys of a split, kept as one buffer; an array of rows gives an object array."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column.combine_chunks()

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: slice) -> list[str]: ...
    @overload
    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...
    def __getitem__(self, rows: int | slice | np.ndarray) -> str | list[str] | np.ndarray:
        """One key, a list of them, or (for an int array [n]) an object array [n]."""
        if isinstance(rows, slice):
            return list(self._column[rows].to_pylist())
        if isinstance(rows, np.ndarray):
            taken: np.ndarray = self._column.take(rows).to_numpy(zero_copy_only=False)
            return taken
        if not -len(self) <= rows < len(self):
            raise IndexError(f"row {rows} of {len(self)} keys")
        return str(self._column[int(rows) % len(self)].as_py())

    def to_arrow(self) -> pa.Array:
        """All of them, N strings."""
        return self._column

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 65536):
            yield from self._column[start : start + 65536].to_pylist()


def _column(name: str, kind: type[np.generic]) -> cached_property[np.ndarray]:
    return cached_property(lambda split: split._numbers(name, kind))


@dataclass(frozen=True)
class Split:
    """One split of a set; columns are read on first use, N = `len(split)`.

    Args:
        path: the set's folder.
        shard_names: file names of all tars of the set; `shard` counts in these.
        row0: first row of this split in the index, so that a sample's id is `row0` plus its row here.
    """

    name: str
    schema: Schema
    path: Path
    tar_folder: Path
    shard_names: tuple[str, ...]
    row0: int
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded columns: another process reads its own."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> Split:
        """The same split with some of its columns where the caller has put them."""
        other = replace(self)
        other.__dict__.update(columns)
        return other

    shard = _column("shard", np.int32)
    """int32 [N], positions in `shard_names`."""
    offset = _column("offset", np.int64)
    """int64 [N], of the image's first byte in its tar."""
    size = _column("size", np.int64)
    """int64 [N], bytes of the encoded image."""
    crc32 = _column("crc32", np.uint32)
    """uint32 [N], of the encoded image."""
    width, height = _column("width", np.int32), _column("height", np.int32)
    """int32 [N], pixels as shown (EXIF rotation applied)."""

    @cached_property
    def keys(self) -> Keys:
        """The stored keys; `shards.decode_key` gives back dots."""
        return Keys(self._read("key").column(0))

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Columns by name: int -> int64 [N] (unknown -1), float -> float64 [N] (NaN), str -> object [N] (None),
        ints:K -> int32 [N, K] (unknown: all -1).

        Raises:
            InputError: a fact the set does not have; names those it has.
        """
        self._require(names)
        return {name: self._fact(name) for name in names}

    def _require(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.schema.columns:
                raise InputError(f"{self.path} has no fact {name!r}; it has: {', '.join(self.schema.columns)}")

    def iter_columns(self, *names: str, numbers: int = 1 << 22) -> Iterator[dict[str, np.ndarray]]:
        """`columns` a piece of rows at a time, in order, so that vectors need not be held whole; raises as it does.

        A piece has about so many `numbers` of the widest column.
        """
        self._require(names)
        widest = max((self.schema.width(name) for name in names if self._is_vector(name)), default=1)
        rows = max(1, numbers // widest)
        for piece in self._read_pieces(names, rows):
            yield {name: self._values(name, piece.column(name)) for name in names}

    def _is_vector(self, name: str) -> bool:
        return self.schema.columns.get(name, "").startswith("ints:")

    def _fact(self, name: str) -> np.ndarray:
        if not self._is_vector(name):
            return self._values(name, self._read(name).column(0).combine_chunks())
        with self._opened([name]):  # refuses rows that the index does not have before they take memory
            vectors, first = np.empty((self.samples, self.schema.width(name)), np.int32), 0
        for piece in Split.iter_columns(self, name):
            vectors[first : first + len(piece[name])] = piece[name]
            first += len(piece[name])
        return vectors

    def _values(self, name: str, column: pa.Array) -> np.ndarray:
        kind = self.schema.columns[name]
        if kind == "str":
            values: np.ndarray = column.to_numpy(zero_copy_only=False)
            return values
        if kind in ("int", "float"):
            if column.null_count:  # else pyarrow.compute need not be imported, for a tenth of a second
                column = column.fill_null(-1 if kind == "int" else float("nan"))
            return np.array(column.to_numpy(zero_copy_only=False), np.int64 if kind == "int" else np.float64)
        vectors = np.full((len(column), self.schema.width(name)), -1, np.int32)
        known = ~np.asarray(column.is_null().to_numpy(zero_copy_only=False), bool)
        vectors[known] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.shape[1])
        return vectors

    def _too_many(self, name: str, file: pq.ParquetFile) -> str | None:
        """Why arrays of this split are larger than what the index can hold, or may be: told before they are made."""
        if file.metadata.num_rows < self.row0 + self.samples:
            return f"{file.metadata.num_rows} rows, the manifest says {self.row0 + self.samples} or more"
        width = self.schema.width(name) if self._is_vector(name) else 1
        return over("NUMBERS", self.samples * width, f"numbers of {name}") if width > 1 else None

    def _numbers(self, name: str, kind: type[np.generic]) -> np.ndarray:
        values = np.asarray(self._read(name).column(0).to_numpy(), kind)
        fault, sides = None, (1, limit("SIDE"))
        bounds = {"shard": (0, len(self.shard_names) - 1), "width": sides, "height": sides}
        if name == "size":
            fault = over("PICTURE_BYTES", int(values.max(initial=0)), "bytes of an image")
        elif name in bounds and len(values) and not bounds[name][0] <= values.min() <= values.max() <= bounds[name][1]:
            fault = f"{name} is {values.min()} to {values.max()}; allowed: {bounds[name][0]} to {bounds[name][1]}"
        if fault is not None:
            raise DamageError(INDEX, "", 0, fault)  # before a reader takes as much memory, or addresses it by these
        return values

    def _read(self, name: str) -> pa.Table:
        """One column of this split, from the row groups that hold it."""
        with self._opened((name,)) as (file, groups, before):
            table = file.read_row_groups(groups, columns=[name], use_threads=False).slice(before, self.samples)
        self._require_rows(len(table))
        return table

    def _read_pieces(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Columns of this split, at most so many rows at a time."""
        found = 0
        with self._opened(names) as (file, groups, before):
            for piece in file.iter_batches(rows, groups, list(names), use_threads=False) if groups else ():
                skipped = min(before, len(piece))
                before -= skipped
                piece = piece.slice(skipped, self.samples - found)
                found += len(piece)
                if len(piece):
                    yield piece
        self._require_rows(found)

    def _require_rows(self, found: int) -> None:
        if found != self.samples:
            raise DamageError(INDEX, "", 0, f"{found} rows of split {self.name}, the manifest says {self.samples}")

    @contextlib.contextmanager
    def _opened(self, names: Sequence[str]) -> Iterator[tuple[pq.ParquetFile, list[int], int]]:
        """The index, its row groups that hold this split, and the rows of others before it in the first of them.

        Raises:
            DamageError: a column cannot be read, also within the context.
        """
        import pyarrow as pa

        try:
            file = index.open_table(self.path / INDEX)
            known, wanted = file.schema_arrow, index.arrow_schema(self.schema)
            if odd := [name for name in names if name not in known.names or known.field(name) != wanted.field(name)]:
                raise pa.ArrowInvalid(f"it has no column {str(wanted.field(odd[0]))[len('pyarrow.Field<') : -1]}")
            if fault := next(filter(None, (self._too_many(name, file) for name in names)), None):
                raise DamageError(INDEX, "", 0, fault)
            groups: list[int] = []
            before = position = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if position < self.row0 + self.samples and position + rows > self.row0:
                    if not groups:
                        before = position
                    groups.append(group)
                position += rows
            yield file, groups, self.row0 - before
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            if isinstance(error, MemoryError):
                raise InputError(
                    f"{self.path / INDEX}: {self.samples} rows of {', '.join(names)} need more memory than this "
                    "process may have; ask for more, or train on a part of the set"
                ) from None
            if isinstance(error, OSError) and error.errno:  # of the storage, so the file may be sound
                raise DamageError(str(self.path / INDEX), "", 0, os.strerror(error.errno)) from None
            fix = f"`{program.command('pack', '--reindex', self.path)}` rebuilds it"
            raise DamageError(INDEX, "", 0, f"column {', '.join(names)} cannot be read: {error}; {fix}") from None


class _OnceReadSplit(Split):
    """A split whose facts are read once."""

    def iter_columns(self, *names: str, numbers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """As of any split; one piece."""
        del numbers
        yield self.columns(*names)

    def _fact(self, name: str) -> np.ndarray:
        kept: dict[str, np.ndarray] = self.__dict__.setdefault("_facts", {})
        if name not in kept:
            kept[name] = super()._fact(name)
        return np.array(kept[name])
