"""What `make growth` measures, small: how many files are opened for n and for 4 n. Counts, never times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from growth import polyvore, rows
from growth.rows import Row

from shards import ReadOptions, ShardSet, pack

_opened: list[str] | None = None


def _note(event: str, values: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        _opened.append(str(values[0]))


sys.addaudithook(_note)  # cannot be taken away again


def opened(row: Row, n: int, folder: Path) -> int:
    """Files and folders below `folder` that the row's work opens."""
    global _opened
    folder.mkdir()
    work = row.prepare(n, folder)
    work()  # what is imported or made at the first time is not the row's
    _opened = []
    try:
        work()
        return sum(name.startswith(str(folder)) for name in _opened)
    finally:
        _opened = None


@pytest.mark.parametrize(
    ("prepare", "n", "each"),
    [(rows.opening, 20, 1), (rows.looking, 4, 8), (rows.collecting, 50, 0), (rows.searching, 4, 0),
     (rows.reading_metrics, 500, 0), (rows.targets, 10, 0), (rows.verifying, 5, 3)],
)  # fmt: skip
def test_files_opened_grow_with_the_work_alone(prepare: object, n: int, each: int, tmp_path: Path) -> None:
    row = next(row for row in rows.ROWS if row.prepare is prepare)
    few, many = (opened(row, factor * n, tmp_path / str(factor)) for factor in (1, 4))
    assert few > 0 and many - few <= each * 3 * n, f"{few} for {n} {row.of}, {many} for {4 * n}"


def test_what_is_drawn_like_polyvore_is_read_as_polyvore(tmp_path: Path) -> None:
    picture = tmp_path / "0.jpg"
    picture.write_bytes(rows.picture(8, "JPEG"))
    source = polyvore.source(tmp_path / "raw", 0.001, [picture])
    manifest = pack("polyvore_outfits", source, tmp_path / "set", read_options=ReadOptions(variant="nondisjoint"))
    assert manifest.rejected == 0 and manifest.splits["train"] == int(53 * polyvore.ITEMS_EACH)
    items = ShardSet.open(tmp_path / "set").table("outfits")["items"].to_pylist()
    assert max(map(len, items)) == polyvore.MOST and len(items) == 53 + 5 + 10
