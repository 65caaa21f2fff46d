"""Packs a raw data set into shards; checks or re-indexes shards that are already there."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home
from shards import PackOptions, ReadOptions, ShardSet, readers
from shards import pack as pack_set


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Pack a raw data set into shards."""

    dataset: str = ""
    """What the source is laid out as: deep_fashion, polyvore_outfits, clipart, fashion_mnist, image_folder, synthetic."""
    source: str = ""
    """The folder of the raw data set, or the folder it stands in."""
    out: str = ""
    """The set's folder; else HOME/shards/DATASET."""
    resize: int = 0
    """Re-encode images whose shorter side is longer than this many pixels; 0 keeps every byte."""
    workers: int = len(os.sched_getaffinity(0))
    """Processes on this machine."""
    shard_mb: float = 0.0
    """Size of a shard; 0 chooses 64, or less for a small set."""
    seed: int = 0
    """Of the order of packing."""
    check: Literal["decode", "header"] = "decode"
    """Decode each image once, or only parse its header and look for its end."""
    skip_bad: bool = False
    """List images that do not decode in rejected.csv instead of stopping."""
    replace: bool = False
    """Pack again over a set made from another source or with other options."""
    categories: tuple[str, ...] = ()
    """Keep these categories, numbered in this order."""
    attributes: tuple[str, ...] = ()
    """Keep these attributes, numbered in this order."""
    variant: str = ""
    """Of polyvore_outfits: disjoint (default) or nondisjoint."""
    val_fraction: float = 0.1
    """Part of the training images to hold out where the source has no validation split."""
    strict: bool = False
    """Stop at rows that would be counted, listed and left out."""


def main(args: Args) -> cli.Result:
    """Does what the flags say."""
    if not args.dataset:
        raise ConfigError(f"--dataset NAME is required; known: {', '.join(readers.names())}")
    reader = readers.load(args.dataset)
    if not args.source and reader.draw is None:
        raise ConfigError(f"--source DIR is required: the folder that holds {reader.layout}")
    home = Home.find(args.home)
    source = Path(args.source).expanduser().absolute() if args.source else home.raw / args.dataset
    out = Path(args.out).absolute() if args.out else home.shard_set(args.dataset)
    options = PackOptions(args.seed, args.shard_mb, args.resize, args.check, args.skip_bad)
    read_options = ReadOptions(
        args.categories, args.attributes, args.variant, args.val_fraction, seed=args.seed, strict=args.strict
    )
    with cli.Progress() as progress:
        if not args.source and reader.draw is not None:
            reader.draw(source, args.seed, args.workers, progress)
        manifest = pack_set(
            args.dataset,
            source,
            out,
            options,
            read_options,
            workers=args.workers,
            replace=args.replace,
            on_progress=progress,
        )
    counts = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
    shard_set = ShardSet.open(out)
    return cli.Result(
        f"packed {args.dataset}: {counts} images in {len(manifest.shards)} shards",
        paths={"shard set": out},
        next={"check every byte": f"python jobs/pack.py --verify {out}"},
        data={"splits": manifest.splits, "data_hash": shard_set.data_hash, "rejected": manifest.rejected},
    )


if __name__ == "__main__":
    cli.run(Args, main)
