"""The prediction files of a split, read a column or a block at a time, in the split's order whatever the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fashion_dist.cluster.run_view import typed
from fashion_dist.errors import DamageError, InputError, RunError
from fashion_dist.io import read_json
from fashion_dist.paths import RunDir
from fashion_dist.run_status import RunState
from shards import Manifest, Split, index

_GROUPS_HELD = 2
"""Row groups of each file that are in memory at a time."""
_AGAIN = "predict again"


class LazyColumns(Mapping[str, np.ndarray]):
    """Named columns, each read when it is first asked for."""

    def __init__(self, read: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._read = read
        self._columns: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._columns:
            self._columns[name] = self._read[name]()
        return self._columns[name]

    def replaced(self, columns: Mapping[str, np.ndarray]) -> LazyColumns:
        """The same with some columns in place of those of their names."""
        return LazyColumns({**self._read, **{name: partial(np.asarray, column) for name, column in columns.items()}})

    def __contains__(self, name: object) -> bool:
        return name in self._read

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


class PredictionFiles:
    """What all ranks wrote of one split of N samples, as `rank_<r>.parquet` files of a folder; P rows."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder, self.split = folder, split
        paths = sorted(folder.glob("rank_*.parquet"))
        with _damage_told(folder):
            self._files = [index.open_table(path) for path in paths]
        schemas = {tuple(file.schema_arrow) for file in self._files}
        if len(schemas) != 1 or "key" not in self._files[0].schema_arrow.names:
            raise DamageError(folder.name, "", 0, f"its files in {folder} have different columns, or no keys; {_AGAIN}")
        self._groups = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._ends = np.cumsum([0, *sizes])
        self.names = tuple(self._files[0].schema_arrow.names)
        self.row_of, self._stray = self._find_rows()

    @classmethod
    def of_run(cls, run: RunDir, split: Split, name: str = "") -> PredictionFiles:
        """Those of a run; `name` is what the predictions are called, else as the split is.

        Raises:
            InputError: there are none.
            RunError: they are of other pictures than the split has now.
            DamageError: a file is not what was written.
        """
        folder = run.predictions(name or split.name)
        if not any(folder.glob("rank_*.parquet")):
            state = RunState.read(run.state)
            if state is not None and state.state == "done":
                hint = f"{typed('predict', run, f'--split {split.name}')} makes them"
            else:
                hint = f"{typed('status', run)} shows how far it is"
            raise InputError(f"run {run.run_id} has no predictions for {name or split.name!r} yet in {folder}; {hint}")
        content = read_json(run.named(name or split.name, "json")).get("content")
        if content and content != Manifest.load(split.path).hash_of(split.name):
            raise RunError(
                f"the predictions {name or split.name!r} of run {run.run_id} are of other pictures than the split "
                f"{split.name!r} of {split.path} has now; {_AGAIN}"
            )
        return cls(folder, split)

    def _find_rows(self) -> tuple[np.ndarray, list[tuple[str, list[str]]]]:
        """int64 [N], the row of each sample of the split, -1 where it has none; and what does not fit, by kind."""
        import pyarrow as pa
        import pyarrow.compute as pc

        with _damage_told(self.folder):
            columns = [file.read(columns=["key"])["key"] for file in self._files]
        keys = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
        wanted = self.split.keys.to_arrow()
        found = pc.index_in(keys, value_set=wanted).fill_null(-1).to_numpy()
        known = np.flatnonzero(found >= 0)
        counts = np.bincount(found[known], minlength=len(wanted))
        rows = np.full(len(wanted), -1, np.int64)
        rows[found[known]] = known
        strays = sorted(set(keys.take(np.flatnonzero(found < 0)).to_pylist()))
        kinds = {
            "missing": wanted.take(np.flatnonzero(counts == 0)).to_pylist(),
            "there more than once": wanted.take(np.flatnonzero(counts > 1)).to_pylist(),
            "not of this split": strays,
        }
        return rows, [(what, names) for what, names in kinds.items() if names]

    def require_complete(self) -> PredictionFiles:
        """Raise RunError unless every sample of the split is there exactly once, and nothing else is."""
        for what, names in self._stray:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise RunError(
                f"{self.folder}: {len(names)} of {len(self.split)} samples {what}: {shown}; no submission was written"
            )
        return self

    def column(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A prediction column of these rows int64 [n], else of the split's samples; read a row group at a time."""
        rows = self.row_of if rows is None else rows
        group_of = np.searchsorted(self._ends, rows, side="right") - 1
        found: np.ndarray | None = None
        for group in np.unique(group_of).tolist():
            values = self._read(group, name)
            if found is None:
                found = np.empty((len(rows), *values.shape[1:]), values.dtype)
            places = np.flatnonzero(group_of == group)
            found[places] = values[rows[places] - self._ends[group]]
        return np.empty(0) if found is None else found

    def columns(self, rows: np.ndarray | None = None) -> LazyColumns:
        """All prediction columns but key and index."""
        names = [name for name in self.names if name not in ("key", "index")]
        return LazyColumns({name: partial(self.column, name, rows) for name in names})

    def blocks(self, names: Sequence[str], size: int = 4096) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Some prediction columns of `size` samples at a time, in the split's order; a few row groups are in memory."""
        held: dict[int, dict[str, np.ndarray]] = {}
        for start in range(0, len(self.split), size):
            rows = self.row_of[start : start + size]
            group_of = np.searchsorted(self._ends, rows, side="right") - 1
            columns: dict[str, np.ndarray] = {}
            for group in np.unique(group_of).tolist():
                values = held.pop(group, None) or {name: self._read(group, name) for name in names}
                held[group] = values  # the last one used is the last one to go
                places = np.flatnonzero(group_of == group)
                for name in names:
                    if name not in columns:
                        columns[name] = np.empty((len(rows), *values[name].shape[1:]), values[name].dtype)
                    columns[name][places] = values[name][rows[places] - self._ends[group]]
            while len(held) > _GROUPS_HELD * len(self._files):
                held.pop(next(iter(held)))
            yield slice(start, start + len(rows)), columns

    def _read(self, group: int, name: str) -> np.ndarray:
        file, number = self._groups[group]
        with _damage_told(self.folder):
            values = as_array(file.read_row_group(number, columns=[name])[name])
        if len(values) != self._ends[group + 1] - self._ends[group]:
            told = f"a file in {self.folder} has other numbers of rows than it says; {_AGAIN}"
            raise DamageError(self.folder.name, "", 0, told)
        return values


@contextlib.contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DamageError(folder.name, "", 0, f"a file in {folder} cannot be read: {error}; {_AGAIN}") from None


def as_array(column: Any) -> np.ndarray:
    """A column of a table as an array [N], or [N, K] where it holds lists."""
    import pyarrow as pa

    array = column.combine_chunks()
    if isinstance(array, pa.FixedSizeListArray):
        return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(len(array), array.type.list_size)
    return np.asarray(array.to_numpy(zero_copy_only=False))
