"""Packs a raw data set into shards, checks a shard set, or indexes WebDataset tars that are already there."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home
from shards import program
from shards.portable import cpus


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Pack a raw data set into shards, or check or index what is packed."""

    dataset: str = ""
    """The source's layout: deep_fashion, polyvore_outfits, clipart, fashion_mnist, image_folder; or synthetic."""
    source: str = ""
    """The folder of the raw data set, or the folder it stands in; without one, synthetic is drawn."""
    verify: str = ""
    """Check every byte of the shard set in this folder, and nothing else."""
    reindex: str = ""
    """Make a shard set of the WebDataset tars in this folder, and nothing else."""
    out: str = ""
    """The set's folder; else HOME/shards/DATASET, or the folder of --reindex."""
    workers: int = 0
    """Processes on this machine, or of each array task; 0 is one per CPU."""
    nodes: int = 0
    """Pack as one Slurm array of this many tasks; 0 packs here."""
    preset: str = ""
    """Cluster preset of the array."""
    resize: int = 0
    """Re-encode images whose shorter side is longer than this many pixels; 0 keeps every byte."""
    shard_mb: float = 0.0
    """MB a shard; 0 chooses 64, or less for a small set."""
    seed: int = 0
    """Of the order of packing, of held-out images, and of drawing."""
    check: Literal["decode", "header"] = "decode"
    """Decode each image once, or only parse its header and look for its end."""
    skip_bad: bool = False
    """List images that do not decode in rejected.csv instead of stopping."""
    strict: bool = False
    """Stop at rows that would be counted, listed and left out."""
    replace: bool = False
    """Pack again over the set that is there, such as one of another source or with other options."""
    categories: tuple[str, ...] = ()
    """Keep these categories, numbered in this order."""
    attributes: tuple[str, ...] = ()
    """Keep these attributes, numbered in this order."""
    variant: str = ""
    """Of polyvore_outfits: disjoint (default) or nondisjoint."""
    val_fraction: float = 0.1
    """Part of the training images to hold out where the source has no validation split."""
    no_card: bool = False
    """Do not draw card.html, which decodes each image once more, small."""


def main(args: Args) -> cli.Result:
    """Does the one thing that the flags ask for."""
    asked = [name for name in ("dataset", "verify", "reindex") if getattr(args, name)]
    if len(asked) != 1:
        raise ConfigError("exactly one of --dataset NAME, --verify DIR and --reindex DIR is needed")
    if args.workers < 0:
        raise ConfigError(f"--workers {args.workers} is not possible; allowed: 0 (one per CPU) or more")
    return {"dataset": _pack, "verify": _verify, "reindex": _reindex}[asked[0]](args)


def _workers(args: Args) -> int:
    return args.workers or len(cpus())


def _pack(args: Args) -> cli.Result:
    from fashion_dist.report.dataset_card import write_card
    from shards import PackOptions, ReadOptions, pack, readers

    reader = readers.load(args.dataset)
    if not args.source and reader.draw is None:
        raise ConfigError(f"--source DIR is needed: the folder that holds {reader.layout}")
    home = Home.find(args.home)
    source = Path(args.source).expanduser().absolute() if args.source else home.raw / args.dataset
    out = Path(args.out).absolute() if args.out else home.shards / args.dataset
    options = PackOptions(args.seed, args.shard_mb, args.resize, args.check, args.skip_bad)
    read_options = ReadOptions(
        args.categories, args.attributes, args.variant, args.val_fraction, seed=args.seed, strict=args.strict
    )
    run_shards = None
    if args.nodes:
        from fashion_dist.cluster.pack_array import on_slurm

        run_shards = on_slurm(args.nodes, args.preset, args.workers)
    with cli.Progress() as progress:
        if not args.source and reader.draw is not None:
            reader.draw(source, args.seed, _workers(args), progress)
        manifest = pack(
            args.dataset,
            source,
            out,
            options,
            read_options,
            workers=_workers(args),
            run_shards=run_shards,
            replace=args.replace,
            on_progress=progress,
        )
        if not args.no_card and not (out / "card.html").exists():
            write_card(out, workers=_workers(args), on_progress=progress)
    counts = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
    card = {"card": out / "card.html"} if not args.no_card else {}
    rejected = {"rejected": out / "rejected.csv"} if manifest.rejected else {}
    return cli.Result(
        f"packed {args.dataset}: {counts} images in {len(manifest.shards)} shards"
        + (f"; {manifest.rejected} left out" if manifest.rejected else ""),
        paths={"shard set": out, **card, **rejected},
        next={**_training(args, out), "check every byte": f"{program.command('pack')} --verify {out}"},
        data={"splits": manifest.splits, "data_hash": manifest.data_hash, "rejected": manifest.rejected},
    )


def _training(args: Args, out: Path) -> dict[str, str]:
    """The command that trains on the new set, where it lies where training looks for it."""
    from fashion_dist import tasks

    own = Home.find(args.home)
    if out != own.shards / args.dataset:
        return {}
    elsewhere = f" --shards {shlex.quote(str(own.shards))}" if own.elsewhere not in (None, own.shards) else ""
    home = f" --home {args.home}" if args.home else ""
    fitting = []
    for name in tasks.names():
        with contextlib.suppress(ConfigError):  # of a task that is being written; launching it says what it lacks
            fitting += [f"--task {name}"] if tasks.load(name).recipe.dataset == args.dataset else []
    if args.dataset == "synthetic":
        fitting = ["--task deepfashion --dataset synthetic"]
    return {"train on it": f"{program.command('launch')} {fitting[0]}{home}{elsewhere}"} if fitting else {}


def _verify(args: Args) -> cli.Result:
    from shards.verify import verify

    folder = Path(args.verify).expanduser().absolute()
    with cli.Progress() as progress:
        faults = verify(folder, workers=_workers(args), on_progress=progress)
    told = "every byte is as it was packed" if not faults else f"{len(faults)} fault{'s' * (len(faults) > 1)} found"
    return cli.Result(
        f"{folder}: {told}",
        data={"faults": [vars(fault) for fault in faults]},
        text="\n".join(map(str, faults)),
        exit_status=cli.EXIT_FAILED if faults else cli.EXIT_DONE,
    )


def _reindex(args: Args) -> cli.Result:
    from shards.reindex import reindex

    folder = Path(args.reindex).expanduser().absolute()
    out = Path(args.out).expanduser().absolute() if args.out else folder
    with cli.Progress() as progress:
        manifest = reindex(folder, out, skip_bad=args.skip_bad, workers=_workers(args), on_progress=progress)
    counts = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
    facts = ", ".join(manifest.schema.columns) or "none"
    ignored = ", ".join(f"{count} {name}" for name, count in manifest.options["ignored"].items())
    return cli.Result(
        f"indexed {len(manifest.shards)} tars: {counts} images; facts: {facts}"
        + (f"; members not read: {ignored}" if ignored else ""),
        paths={"shard set": out},
        next={"check every byte": f"{program.command('pack')} --verify {out}"},
        data={"splits": manifest.splits, "data_hash": manifest.data_hash, "rejected": manifest.rejected},
    )
