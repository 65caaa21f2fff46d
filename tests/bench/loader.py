"""`bench.py loader`: our loader beside ImageFolder, webdataset, DALI's own reader and bare decoding.

All contenders do the same work on the same images and cores, in alternating runs; the table shows medians over the
rounds.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import storage

from bench._ratios import Measured, cores, cpu_name, cpu_ratio, fastest, figures_file, measure, ratio
from fashion_dist import cli
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import Home

if TYPE_CHECKING:
    import torch

    from bench._peers import Epoch, Work

FIRST, LATER = "ours, first epoch", "ours, later epochs"
FLOOR = "libjpeg-turbo alone"


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure the loader against what people use."""

    shards: str = ""
    """Folder of a shard set; else one of HOME/shards."""
    split: str = "train"
    """Split of the set."""
    image_px: int = 224
    """Height and width of the training crops."""
    whole: bool = False
    """No random resized crops: images have `image_px` already, such as Fashion-MNIST's 28."""
    batch_size: int = 64
    """Images a batch."""
    images: int = 4096
    """Images of the split that an epoch reads."""
    rounds: int = 5
    """Times that each contender runs; the table shows medians."""
    alone: bool = False
    """Measure ours only."""
    slow_read_ms: float = 0.0
    """Measure instead what is left of our first epoch's speed where each read of a shard takes so much longer."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/loader.json."""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if args.rounds < 1 or args.batch_size < 1:
        raise ConfigError("--rounds and --batch-size must be 1 or more")
    home = Home.find(args.home)
    folder = _shard_set(args.shards, home)
    out = figures_file(args.out, home, "loader")
    if args.slow_read_ms:
        return _slowed(args, folder, out)
    from bench._dali import thread_clock

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as closing, cli.Progress() as progress:
        work = work_of(args, folder, Path(scratch))
        clock = closing.enter_context(thread_clock())
        results = measure(_contenders(work, not args.alone, closing, progress), args.rounds, progress, clock)
    values = _values(results, args, folder, work.cores, work.images)
    out.write_text(json.dumps(values, indent=1) + "\n")
    headline = f"{values['images']} images of {folder.name} to {args.image_px} px on {work.cores} cores"
    return cli.Result(headline, paths={"figures": out}, data=values, text=_table(results))


def _slowed(args: Args, folder: Path, out: Path) -> cli.Result:
    """Our first epoch on slow storage against that on this one, in turns, each in a process of its own."""
    if storage.compiler() is None:
        raise ConfigError("--slow-read-ms needs a C compiler (cc), which makes the slow storage")
    rates: dict[float, list[float]] = {0.0: [], args.slow_read_ms: []}
    with tempfile.TemporaryDirectory() as scratch, cli.Progress() as progress:
        library, figures = storage.build(Path(scratch)), Path(scratch) / "figures.json"
        words = [sys.executable, sys.argv[0], "loader", "--alone", "--rounds", "1", "--shards", str(folder)]
        words += ["--split", args.split, "--image-px", str(args.image_px), "--batch-size", str(args.batch_size)]
        words += ["--images", str(args.images), "--out", str(figures), *(["--whole"] if args.whole else [])]
        for turn in range(2 * args.rounds):
            read_ms = args.slow_read_ms if turn % 2 else 0.0
            slow = storage.Storage(library, [folder.resolve()], read_ms=read_ms).environment()
            done = subprocess.run(words, env={**os.environ, **slow}, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RunError(f"an epoch on slow storage failed: {done.stderr.strip()[-500:]}")
            rates[read_ms].append(json.loads(figures.read_text())["contenders"][FIRST]["images_per_s"])
            progress("epochs", turn + 1, 2 * args.rounds)
    left = statistics.median(slow / plain for plain, slow in zip(*rates.values(), strict=True))
    values = {"images_per_s": {str(ms): found for ms, found in rates.items()}, "of_the_speed": round(left, 4)}
    out.write_text(json.dumps(values, indent=1) + "\n")
    headline = f"with {args.slow_read_ms:g} ms more a read our first epoch has {left:.2f} of its speed"
    return cli.Result(headline, paths={"figures": out}, data=values)


def _shard_set(chosen: str, home: Home) -> Path:
    if chosen:
        return Path(chosen).expanduser().absolute()
    sets = sorted(path.parent for path in home.shards.glob("*/manifest.json"))
    if not sets:
        raise ConfigError(
            f"no shard set in {home.shards}; make one: python jobs/pack.py --dataset synthetic, or --shards DIR"
        )
    return next((path for path in sets if path.name == "deep_fashion"), sets[0])


def work_of(args: Args, folder: Path, scratch: Path) -> Work:
    """What the contenders do with the shard set in `folder`.

    Raises:
        ConfigError: the set has fewer images than a batch, or not the size that `--whole` says.
        InputError: it is no shard set.
    """
    from bench._peers import Work
    from fashion_dist.config import DataConfig
    from shards import ShardSet

    split = ShardSet.open(folder).split(args.split)
    data = DataConfig(image_px=args.image_px, crop_scale=(0.25, 1.0) if not args.whole else (1.0, 1.0))
    if args.whole and not ((split.width == args.image_px) & (split.height == args.image_px)).all():
        raise ConfigError(f"--whole needs images of {args.image_px} x {args.image_px} pixels, and {folder} has others")
    if min(len(split), args.images) < args.batch_size:
        raise ConfigError(
            f"--batch-size {args.batch_size} is more than the {len(split)} images of {args.split}, or --images"
        )
    images = min(args.images, len(split)) // args.batch_size * args.batch_size
    return Work(split, data, args.batch_size, images, cores(), scratch)


def ours(work: Work, closing: ExitStack, cache: str, device: torch.device | None = None) -> Epoch:
    """Our loader, which gives its batches on `device`, else on the CPU; its first epoch fills the cache."""
    import numpy as np
    import torch

    from fashion_dist.data import Loader, LoaderOptions

    device = device or torch.device("cpu")
    loader = closing.enter_context(
        Loader(
            work.split,
            np.arange(work.images)[:, None],
            work.data,
            batch_size=work.batch_size,
            training=True,
            device=device,
            options=LoaderOptions(cache=cache, threads=work.cores),  # type: ignore[arg-type]
        )
    )
    epochs = iter(range(1 << 30))

    def epoch() -> int:
        images = sum(len(batch.index) for batch in loader.epoch(next(epochs)))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return images

    return epoch


def _contenders(work: Work, peers: bool, closing: ExitStack, progress: cli.Progress) -> dict[str, tuple[Epoch, str]]:
    """Name -> the epoch to time, and the setting that was best for it."""
    from bench import _peers

    made: dict[str, tuple[Epoch, str]] = {}
    if peers:
        # First, because their worker processes are forked: before any thread of ours exists.
        tuned: list[tuple[str, Callable[[Work, int], Epoch]]] = [
            ("ImageFolder + DataLoader", _peers.image_folder),
            ("webdataset + WebLoader", _peers.web_dataset),
        ]
        for number, (name, make) in enumerate(tuned):
            made[name] = tune(make, work, progress, number, len(tuned))
        made["DALI's own reader"] = _peers.dali_reader(work, work.cores), f"{work.cores} threads"
        if _has_jpegs(work):
            made[FLOOR] = _peers.decode_floor(work), f"{work.cores} threads"
    made[FIRST] = ours(work, closing, "none"), f"{work.cores} threads"
    made[LATER] = ours(work, closing, "ram"), "cache: ram"
    return made


def _has_jpegs(work: Work) -> bool:
    from bench._peers import JPEG
    from fashion_dist.data.shard_reader import ShardFiles

    files = ShardFiles(work.split)
    first = files.read(0)[:2].tobytes()
    files.close()
    return first == JPEG


def tune(
    make: Callable[[Work, int], Epoch], work: Work, progress: cli.Progress, number: int, peers: int
) -> tuple[Epoch, str]:
    """The peer with the number of workers that is fastest in one warm epoch."""
    from bench._peers import variants

    counts = variants(work.cores)
    done = itertools.count(number * len(counts) + 1)
    return fastest(partial(make, work), counts, lambda: progress("tuning peers", next(done), peers * len(counts)))


def _values(results: dict[str, Measured], args: Args, folder: Path, cores: int, images: int) -> dict[str, Any]:
    peers = ["ImageFolder + DataLoader", "webdataset + WebLoader"]
    return {
        "set": str(folder),
        "images": images,
        "image_px": args.image_px,
        "batch_size": args.batch_size,
        "cores": cores,
        "cpu": cpu_name(),
        "contenders": {
            name: {
                **result.to_json(),
                "calling_thread_share_outside_dali": round(statistics.median(result.host), 4),
            }
            for name, result in results.items()
        },
        "cpu_time_of_best_peer_over_first_epoch": cpu_ratio(results, FIRST, peers),
        "cpu_time_of_best_peer_over_later_epochs": cpu_ratio(results, LATER, peers),
        "cpu_time_of_decode_floor_over_first_epoch": cpu_ratio(results, FIRST, [FLOOR]),
        "first_epoch_over_best_peer": ratio(results, FIRST, peers),
        "later_epochs_over_best_peer": ratio(results, LATER, peers),
        "first_epoch_over_decode_floor": ratio(results, FIRST, [FLOOR]),
        "first_epoch_over_dali_reader": ratio(results, FIRST, ["DALI's own reader"]),
    }


def _table(results: dict[str, Measured]) -> str:
    titles = f"{'images/s':>10}{'first epoch is':>16}{'later ones are':>16}{'CPU ms/image':>14}{'host':>7}"
    lines = [f"{'':28}{titles}   setting"]
    for name, result in results.items():
        row = f"{name:28}{result.images_per_s:>10,.0f}"
        for mine in (FIRST, LATER):
            faster = ratio(results, mine, [name])
            row += f"{f'{faster:.2f} x' if name not in (FIRST, LATER) else '':>16}"
        row += f"{statistics.median(result.cpu_ms):>14.3f}{statistics.median(result.host):>7.1%}"
        lines.append(f"{row}   {result.setting}")
    lines.append("host: share of the time in which the calling thread works outside of DALI")
    return "\n".join(lines)
