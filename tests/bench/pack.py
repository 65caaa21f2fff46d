"""`bench.py pack`: our packing beside `tar cf`, webdataset.ShardWriter and bare decoding, on the same files."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import _pack_ways
from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Measure packing against what people use; writes below HOME, so that is the disk measured."""

    dataset: str = "deep_fashion"
    """A data set of image files."""
    source: str = ""
    """The folder of the raw data set, or the folder it stands in."""
    workers: int = 0
    """Processes; 0 is one per CPU."""
    rounds: int = 3
    """Times that each way runs, in turns; the best counts."""
    cold: bool = False
    """Drop the files from the page cache before each run."""
    out: str = ""
    """Where the JSON goes; else HOME/bench/pack.json."""


def main(args: Args) -> cli.Result:
    """Measures, prints the table, writes the JSON."""
    if not args.source:
        raise ConfigError("--source DIR is needed: the folder of the raw data set")
    if args.rounds < 1 or args.workers < 0:
        raise ConfigError("--rounds must be 1 or more, --workers 0 or more")
    home = Home.find(args.home)
    out = Path(args.out).expanduser().absolute() if args.out else home.path / "bench" / "pack.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    workers = args.workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, cli.Progress() as progress:
        timings, images, size = _pack_ways.run(
            args.dataset,
            Path(args.source).expanduser().absolute(),
            Path(scratch),
            workers=workers,
            rounds=args.rounds,
            cold=args.cold,
            on_progress=progress,
        )
    tar, ours, writer, decoding, checked = timings
    ratios = {
        "ours, --check header / tar cf": ours.wall_s / tar.wall_s,
        "webdataset.ShardWriter / ours, --check header": writer.wall_s / ours.wall_s,
        "ours, --check decode / decoding alone": checked.wall_s / decoding.wall_s,
    }
    values = {
        "dataset": args.dataset,
        "images": images,
        "mb": size / 1e6,
        "workers": workers,
        "cold": args.cold,
        "timings": [asdict(timing) for timing in timings],
        "ratios": ratios,
    }
    out.write_text(json.dumps(values, indent=1) + "\n")
    width = max(len(timing.name) for timing in timings)
    lines = [f"{'':<{width}}  wall s   CPU s   images/s"]
    lines += [f"{t.name:<{width}}  {t.wall_s:6.2f}  {t.cpu_s:6.2f}  {images / t.wall_s:9,.0f}" for t in timings]
    lines += ["", *(f"{ratio:5.2f}  {name}" for name, ratio in ratios.items())]
    state = "cold" if args.cold else "warm"
    return cli.Result(
        f"{images} images, {size / 1e6:.1f} MB, {workers} processes, {state} page cache",
        paths={"values": out},
        data=values,
        text="\n".join(lines),
    )
