"""`bench.py pack`: our packing beside `tar cf`, webdataset.ShardWriter and bare decoding, on the same files."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import _pack_ways
from bench._ratios import figures_file
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
    """Processors to use; 0 is one per CPU."""
    rounds: int = 5
    """Times that each way runs, in turns; medians count, and ratios are taken within a round."""
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
    out = figures_file(args.out, home, "pack")
    workers = args.workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch, cli.Progress() as progress:
        measured = _pack_ways.run(
            args.dataset,
            Path(args.source).expanduser().absolute(),
            Path(scratch),
            workers=workers,
            rounds=args.rounds,
            cold=args.cold,
            on_progress=progress,
        )
    rounds, images, size, start_s = measured
    compared = (
        (_pack_ways.HEADER, _pack_ways.TAR, "wall_s"),
        (_pack_ways.WEBDATASET, _pack_ways.HEADER, "wall_s"),
        (_pack_ways.DECODE, _pack_ways.ALONE, "wall_s"),
        (_pack_ways.DECODE, _pack_ways.ALONE, "cpu_s"),
    )
    ratios = {
        f"{mine} / {other}{', CPU' if of == 'cpu_s' else ''}": _pack_ways.ratio(rounds, mine, other, of)
        for mine, other, of in compared
    }
    values = {
        "dataset": args.dataset,
        "images": images,
        "mb": size / 1e6,
        "workers": workers,
        "cold": args.cold,
        "decoder_start_s": start_s,
        "rounds": {name: [asdict(timing) for timing in timings] for name, timings in rounds.items()},
        "ratios": ratios,
    }
    out.write_text(json.dumps(values, indent=1) + "\n")
    width = max(map(len, rounds))
    lines = [f"{'':<{width}}  wall s   CPU s  CPU us an image   images/s"]
    for name, timings in rounds.items():
        wall_s, cpu_s = (statistics.median(getattr(one, of) for one in timings) for of in ("wall_s", "cpu_s"))
        lines.append(
            f"{name:<{width}}  {wall_s:6.2f}  {cpu_s:6.2f}  {cpu_s / images * 1e6:15,.0f}  {images / wall_s:9,.0f}"
        )
    lines += ["", *(f"{ratio:5.2f}  {name}" for name, ratio in ratios.items())]
    lines.append(f"{start_s:5.2f}  s until a decoder has started, once a process, in none of the above")
    state = "cold" if args.cold else "warm"
    return cli.Result(
        f"{images} images, {size / 1e6:.1f} MB, {workers} processors, {state} page cache",
        paths={"values": out},
        data=values,
        text="\n".join(lines),
    )
