"""Packing side by side with what people use, on the same files, in one run: ratios that hold on any machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fashion_dist.data.dali import CHECKED_AT_ONCE, open_check
from shards import PackOptions, ReadOptions, images, pack, readers
from shards.errors import InputError
from shards.images import Decode

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Timing:
    """One round of one way to pack.

    Args:
        cpu_s: processor time of it and its child processes, user and system.
    """

    wall_s: float
    cpu_s: float


class Measured(NamedTuple):
    """Rounds by the names of the ways, in the order of `WAYS`; what they worked on.

    Args:
        start_s: until a process that just began has decoded its first image; no other figure has it in it.
    """

    rounds: dict[str, list[Timing]]
    images: int
    size: int
    start_s: float


TAR, HEADER, WEBDATASET, ALONE, DECODE = WAYS = (
    "tar cf", "ours, --check header", "webdataset.ShardWriter", "decoding alone", "ours, --check decode"
)  # fmt: skip


def ratio(rounds: dict[str, list[Timing]], mine: str, other: str, of: str = "wall_s") -> float:
    """Median over the rounds of the seconds of one way over those of another in the same round."""
    pairs = zip(rounds[mine], rounds[other], strict=True)
    return float(statistics.median(getattr(own, of) / getattr(its, of) for own, its in pairs))


def run(
    dataset: str,
    source: Path,
    folder: Path,
    *,
    workers: int,
    rounds: int = 3,
    cold: bool = False,
    on_progress: Callable[[str, int, int], Any] = lambda _stage, _done, _total: None,
) -> Measured:
    """Times each way `rounds` times, in turns, writing below `folder`, which is emptied again.

    Modules are imported and decoders opened before.

    Args:
        dataset: a reader.
        source: the files; the same for every way.
        folder: on the disk to measure.
        workers: processors for ours, and threads of plain decoding.
        rounds: how often.
        cold: drop the files from the page cache before each.
        on_progress: called as (stage, done, total).
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

    paths = [path for _, path, _ in records]
    decoders = [open_check() for _ in range(workers)]
    _decode(paths[: CHECKED_AT_ONCE * workers], decoders)
    ways: dict[str, Callable[[], object]] = {
        TAR: lambda: _tar(listing, out),
        HEADER: lambda: ours("header", workers),
        WEBDATASET: lambda: _shard_writer(records, out),
        ALONE: lambda: _decode(paths, decoders),
        DECODE: lambda: ours("decode", workers),
    }
    found: dict[str, list[Timing]] = {name: [] for name in ways}
    for number in range(rounds):
        for position, (name, way) in enumerate(ways.items()):
            shutil.rmtree(out, ignore_errors=True)
            if cold:
                _forget(paths)
            found[name].append(_time(way))
            on_progress("bench", number * len(ways) + position + 1, rounds * len(ways))
    shutil.rmtree(out, ignore_errors=True)
    listing.unlink()
    return Measured(found, len(records), size, _start_s())


def _start_s() -> float:
    """Seconds until a new process has imported the decoder, made it, and decoded one image."""
    code = (
        "import time; began = time.perf_counter()\n"
        "from fashion_dist.data.dali import PROBE_JPEG, open_check\n"
        "assert open_check()([PROBE_JPEG], [(8, 8)]) == [None]\n"
        "print(time.perf_counter() - began)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout)


def _time(way: Callable[[], object]) -> Timing:
    before = os.times()
    begin = time.perf_counter()
    way()
    wall_s = time.perf_counter() - begin
    after = os.times()
    return Timing(wall_s, sum(after[:4]) - sum(before[:4]))


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


def _decode(paths: list[Path], decoders: list[Decode]) -> None:
    """Reading and decoding as training does, a thread a decoder."""

    def some(first: int) -> None:
        for start in range(first * CHECKED_AT_ONCE, len(paths), len(decoders) * CHECKED_AT_ONCE):
            files = [path.read_bytes() for path in paths[start : start + CHECKED_AT_ONCE]]
            headers = [images.inspect(data) for data in files]
            decoders[first](files, [(0, 0) if image is None else (image.width, image.height) for image in headers])

    with ThreadPoolExecutor(len(decoders)) as pool:
        list(pool.map(some, range(len(decoders))))
