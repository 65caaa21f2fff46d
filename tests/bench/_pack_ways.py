"""Packing side by side with what people use, on the same files, in one run: ratios that hold on any machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.data.dali import CHECKED_AT_ONCE, open_check
from shards import PackOptions, ReadOptions, images, pack, readers
from shards.errors import InputError


@dataclass(frozen=True)
class Timing:
    """One way to pack; seconds are the best of all rounds, which is what disturbs least.

    Args:
        cpu_s: processor time of it and its child processes, user and system.
    """

    name: str
    wall_s: float
    cpu_s: float


def run(
    dataset: str,
    source: Path,
    folder: Path,
    *,
    workers: int,
    rounds: int = 3,
    cold: bool = False,
    on_progress: Callable[[str, int, int], Any] = lambda _stage, _done, _total: None,
) -> tuple[list[Timing], int, int]:
    """Times each way `rounds` times, in turns, writing below `folder`, which is emptied again.

    Args:
        dataset: a reader.
        source: the files; the same for every way.
        folder: on the disk to measure.
        workers: processes of ours, and threads of plain decoding.
        rounds: how often.
        cold: drop the files from the page cache before each.
        on_progress: called as (stage, done, total).

    Returns:
        Timings, the number of images and their bytes.
    """
    opened = readers.load(dataset).read(source, ReadOptions())
    records = [(record.key, Path(str(record.image)), dict(record.columns)) for record in opened.records()]
    if not all(path.is_file() for _, path, _ in records):
        raise InputError(
            f"{dataset} has no image files to compare with; take deep_fashion, polyvore_outfits or clipart"
        )
    size = sum(path.stat().st_size for _, path, _ in records)
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "files.txt"
    listing.write_text("".join(f"{path}\n" for _, path, _ in records))
    out = folder / "out"

    def ours(check: str, processes: int) -> None:
        pack(dataset, source, out, PackOptions(check=check), workers=processes, open_decoder=open_check)

    ways: dict[str, Callable[[], object]] = {
        "tar cf": lambda: _tar(listing, out),
        "ours, --check header": lambda: ours("header", workers),
        "webdataset.ShardWriter": lambda: _shard_writer(records, out),
        f"decoding alone, {workers} threads": lambda: _decode([path for _, path, _ in records], workers),
        "ours, --check decode": lambda: ours("decode", workers),
    }
    best: dict[str, Timing] = {}
    for number in range(rounds):
        for position, (name, way) in enumerate(ways.items()):
            shutil.rmtree(out, ignore_errors=True)
            if cold:
                _forget(path for _, path, _ in records)
            timing = _time(name, way)
            if name not in best or timing.wall_s < best[name].wall_s:
                best[name] = timing
            on_progress("bench", number * len(ways) + position + 1, rounds * len(ways))
    shutil.rmtree(out, ignore_errors=True)
    listing.unlink()
    return list(best.values()), len(records), size


def _time(name: str, way: Callable[[], object]) -> Timing:
    before = os.times()
    begin = time.perf_counter()
    way()
    wall_s = time.perf_counter() - begin
    after = os.times()
    return Timing(name, wall_s, sum(after[:4]) - sum(before[:4]))


def _forget(paths: Iterable[Path]) -> None:
    """Drops these files, and no others, from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _tar(listing: Path, out: Path) -> None:
    out.mkdir()
    subprocess.run(["tar", "cPf", out / "all.tar", "--no-recursion", "-T", listing], check=True)


def _shard_writer(records: list[tuple[str, Path, dict[str, Any]]], out: Path) -> None:
    """The loop of webdataset's documentation."""
    import webdataset

    out.mkdir()
    with webdataset.ShardWriter(str(out / "train-%06d.tar"), maxsize=64_000_000, verbose=0) as sink:
        for key, path, facts in records:
            sink.write({"__key__": key, path.suffix[1:]: path.read_bytes(), "json": json.dumps(facts).encode()})


def _decode(paths: list[Path], threads: int) -> None:
    """Reading and decoding as training does, a decoder a thread."""

    def some(first: int) -> None:
        decode = open_check()
        for start in range(first * CHECKED_AT_ONCE, len(paths), threads * CHECKED_AT_ONCE):
            files = [path.read_bytes() for path in paths[start : start + CHECKED_AT_ONCE]]
            headers = [images.inspect(data) for data in files]
            decode(files, [(0, 0) if image is None else (image.width, image.height) for image in headers])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))
