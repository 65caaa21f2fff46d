"""Packs a raw data set into shards, checks a shard set, or indexes WebDataset tars that are already there."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home
from shards import program
from shards.manifest import LEARNED
from shards.portable import cpus
from shards.safe_io import expanded

if TYPE_CHECKING:
    from shards import ReadOptions
    from shards.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Pack a raw data set into shards, or check or index what is packed."""

    dataset: str = ""
    """The source's layout: image_folder or table; deep_fashion, polyvore_outfits, clipart, fashion_mnist; synthetic."""
    source: str = ""
    """The folder of the raw data set, or the folder it stands in; or the table; without one, synthetic is drawn."""
    name: str = ""
    """What to call the set: it goes to HOME/shards/NAME; else the name of --dataset."""
    verify: str = ""
    """Check every byte of the shard set in this folder, and nothing else."""
    reindex: tuple[str, ...] = ()
    """Make a shard set of the WebDataset tars in this folder, or of these tars (also 'DIR/a-{000..146}.tar')."""
    add: str = ""
    """SPLIT=DIR: add the pictures in DIR as a split of the set that --name names, such as test=DIR; read as the set
    was, with its class names. Runs on the set stay as they are."""
    out: str = ""
    """The set's folder; else HOME/shards/NAME, or the folder of --reindex."""
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
    """List images and names that cannot be packed in rejected.csv instead of stopping."""
    background: str = ""
    """Lay transparent pixels over this colour, such as white; else the colours stored beneath them are seen."""
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
    val: Annotated[float, tyro.conf.arg(aliases=("--val-fraction",))] = 0.1
    """Part of the training images to hold out for validation where the source has no split for it, of each class; of
    tars (--reindex) where --label says what the classes are."""
    test: float = 0.0
    """Of a table: part of the images to hold out for testing."""
    layout: Literal["", "classes", "splits"] = ""
    """Of image_folder: whether its folders are classes or splits, where they could be both."""
    class_depth: int = 1
    """Of image_folder: how many folders deep the classes' folders lie."""
    domain: str = ""
    """Of clipart: the domain of Office-Home to take, such as Art; else Clipart."""
    unlabelled: bool = False
    """Pack images without labels, of image_folder all those below the source, as the split test."""
    unknown: Literal["fail", "skip"] = "fail"
    """Stop at images of classes that training lacks, and at rows without a label; or leave them out and list them."""
    path_column: str = ""
    """Of a table: the column of paths, where it has no usual name."""
    label_column: str = ""
    """Of a table: the column of labels, where it has no usual name; A,B keeps several."""
    label_columns: str = ""
    """Of a table: columns of 0 and 1, a label each: A,B,C."""
    split_column: str = ""
    """Of a table: the column of splits, where it has no usual name."""
    group_column: str = ""
    """Of a table: rows that are alike in this column go to one split."""
    classes: str = ""
    """A file of class names, by number: one a line, a JSON list, or a JSON object of number: name."""
    label: str = ""
    """Of --reindex: where the class stands: cls, txt, a field of the json (a.b), or of img2dataset's Parquet files."""
    image: str = ""
    """Of --reindex: the whole extension of the image, such as left.png, where a sample has several."""
    prefix_keys: bool = False
    """Of --reindex: begin each key with its tar's name, for tars that number their samples anew."""
    no_card: bool = False
    """Do not draw card.html, which decodes each image once more, small."""


_OF_TARS = ("label", "image", "prefix_keys")
_USES = {
    "dataset": tuple(field.name for field in dataclasses.fields(Args) if field.name not in _OF_TARS),
    "add": ("name", "dataset", "out", "replace", "skip_bad"),
    "reindex": (*_OF_TARS, "name", "out", "classes", "unknown", "val", "seed", "skip_bad", "replace"),
    "verify": (),
}
"""What each mode takes beside the flags that change no set."""


def _refuse_unused(args: Args, mode: str) -> None:
    """Raises ConfigError where a flag is given that this mode has no use for."""
    taken = {*_USES[mode], mode, "workers", "no_card", *(field.name for field in dataclasses.fields(cli.CommonArgs))}
    given = [field.name for field in dataclasses.fields(Args) if getattr(args, field.name) != field.default]
    for name in [name for name in given if name not in taken]:
        takes = f"it takes: {', '.join(map(_flag, _USES[mode])) or '--workers'}"
        if mode == "dataset":
            takes = f"--reindex does{'; --label-column X names a column of a table' if name == 'label' else ''}"
        raise ConfigError(f"--{mode} has no use for {_flag(name)}; {takes}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main(args: Args) -> cli.Result:
    """Does the one thing that the flags ask for."""
    asked = ["add"] if args.add else [name for name in ("dataset", "verify", "reindex") if getattr(args, name)]
    if len(asked) != 1:
        raise ConfigError("exactly one of --dataset NAME, --verify DIR and --reindex DIR is needed")
    _refuse_unused(args, asked[0])
    if args.workers < 0:
        raise ConfigError(f"--workers {args.workers} is not possible; allowed: 0 (one per CPU) or more")
    return {"dataset": _pack, "add": _add, "verify": _verify, "reindex": _reindex}[asked[0]](args)


def _workers(args: Args) -> int:
    return args.workers or len(cpus())


def _pack(args: Args) -> cli.Result:
    from fashion_dist.data.dali import open_check
    from fashion_dist.report.dataset_card import write_card
    from shards import PackOptions, pack, readers

    reader = readers.load(args.dataset)
    if not args.source and reader.draw is None:
        raise ConfigError(f"--source DIR is needed: the folder that holds {reader.layout}")
    home = Home.find(args.home)
    source = expanded(args.source).absolute() if args.source else home.raw / args.dataset
    out = expanded(args.out).absolute() if args.out else home.shards / (args.name or args.dataset)
    options = PackOptions(args.seed, args.shard_mb, args.resize, args.check, args.skip_bad, args.background)
    read_options = _read_options(args, frozenset({home.path.resolve(), home.shards.resolve(), out.resolve()}))
    run_shards = None
    if args.replace:
        _require_unused(home, out)
    if args.nodes:
        from fashion_dist.cluster.pack_array import on_slurm

        run_shards = on_slurm(args.nodes, args.preset, args.workers)
    there = not args.replace and (out / "manifest.json").exists()
    with cli.Progress() as progress:
        if not args.source and reader.draw is not None:
            reader.draw(source, args.seed, _workers(args), progress)
        manifest = pack(
            args.dataset, source, out, options, read_options, workers=_workers(args), run_shards=run_shards,
            open_decoder=open_check, replace=args.replace, on_progress=progress, on_found=progress.tell,
        )  # fmt: skip
        if not args.no_card and not (out / "card.html").exists():
            write_card(out, workers=_workers(args), on_progress=progress)
    counts = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
    card = {"card": out / "card.html"} if not args.no_card else {}
    rejected = {"rejected": out / "rejected.csv"} if manifest.rejected else {}
    return cli.Result(
        f"packed {args.dataset}: {counts} images in {len(manifest.shards)} shards"
        + (f"; {manifest.rejected} left out" if manifest.rejected else "")
        + (" when it was packed: --replace packs it again and tries them anew" if manifest.rejected and there else ""),
        paths={"shard set": out, **card, **rejected},
        next=_next(args, out, manifest),
        data={"splits": manifest.splits, "data_hash": manifest.data_hash, "rejected": manifest.rejected},
    )


def _require_unused(home: Home, out: Path) -> None:
    """Refuse to replace a set that a job reads or waits to read: it would end, and could not be taken up."""
    from fashion_dist.cluster.run_view import read_run_views
    from fashion_dist.io import read_json

    of_set = [run for run in home.all_runs() if Path(read_json(run.run).get("shard_set", "")) == out]
    for view in read_run_views(of_set):
        if view.there in ("queued", "running"):
            allowed = f"another --name, or {program.command('status')} {view.run_id} --cancel first"
            raise ConfigError(f"{out} is not replaced, which run {view.run_id} trains on; allowed: {allowed}")


def _add(args: Args) -> cli.Result:
    from fashion_dist.cluster.run_view import home_flag
    from fashion_dist.data.dali import open_check
    from fashion_dist.report.dataset_card import write_card
    from shards.added import add_split

    split, is_pair, where = args.add.partition("=")
    name = args.name or args.dataset
    if not (name or args.out) or not is_pair or not split or not where:
        raise ConfigError(f"--add {args.add!r} is not possible; allowed: --name NAME --add SPLIT=DIR")
    home = Home.find(args.home)
    out = expanded(args.out).absolute() if args.out else home.shard_set(name)
    source = expanded(where).absolute()
    with cli.Progress() as progress:
        manifest = add_split(
            out, split, source, workers=_workers(args), replace=args.replace, skip_bad=args.skip_bad,
            open_decoder=open_check, on_progress=progress,
        )  # fmt: skip
        if manifest.card:
            write_card(out, workers=_workers(args), on_progress=progress)
    count = manifest.splits[split]
    predict = f"{program.command('predict')} RUN --split {split}{home_flag(home)}"
    return cli.Result(
        f"added {split} to {out.name}: {count} images; runs on {', '.join(LEARNED)} stay as they are",
        paths={"shard set": out},
        next={"predict it": predict, "check every byte": f"{program.command('pack')} --verify {shlex.quote(str(out))}"},
        data={"splits": manifest.splits, "data_hash": manifest.data_hash, "rejected": manifest.rejected},
    )


def _read_options(args: Args, exclude: frozenset[Path]) -> ReadOptions:
    from shards import ReadOptions

    def listed(text: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())

    same = {f.name: getattr(args, f.name) for f in dataclasses.fields(ReadOptions) if hasattr(args, f.name)}
    same |= {"val_fraction": args.val, "test_fraction": args.test, "labelled": not args.unlabelled, "exclude": exclude}
    same |= {"label_columns": listed(args.label_column), "label_bits": listed(args.label_columns)}
    return ReadOptions(**same | {"classes": expanded(args.classes) if args.classes else None})


def _next(args: Args, out: Path, manifest: Manifest) -> dict[str, str]:
    """What to type next: training, where there is something to learn, and checking."""
    check = f"{program.command('pack')} --verify {shlex.quote(str(out))}"
    return {**_training(args, out, manifest), "check every byte": check}


def _training(args: Args, out: Path, manifest: Manifest) -> dict[str, str]:
    """The command that trains on the new set, from wherever it lies."""
    from fashion_dist import tasks

    schema = manifest.schema
    if not manifest.splits.keys() >= {*LEARNED}:
        return {}
    fitting = ["deepfashion"] if manifest.dataset == "synthetic" else []
    for name in tasks.names():
        with contextlib.suppress(ConfigError):  # of a task that is being written; launching it says what it lacks
            fitting += [name] if tasks.load(name).recipe.dataset == manifest.dataset else []
    labels = [name for name in schema.columns if name in schema.names]
    single = [name for name in labels if schema.columns[name] == "int"]
    task = next(iter(fitting), ("classification" if single else "multilabel") if labels else "")
    if not task:
        return {}
    home = Home.find(args.home)
    usual = home.elsewhere if home.elsewhere is not None else home.shards
    words = [program.command("launch"), "--task", task]
    if task not in tasks.names() or tasks.load(task).recipe.dataset != out.name:
        words += ["--dataset", shlex.quote(out.name)]
    if not fitting and len(single or labels) > 1:
        words += ["--set", f"task.label={(single or labels)[0]}"]
    words += ["--home", shlex.quote(args.home)] if args.home else []
    words += ["--shards", shlex.quote(str(out.parent))] if out.parent != usual else []
    return {"train on it": " ".join(words)}


def _verify(args: Args) -> cli.Result:
    from shards.verify import verify

    folder = expanded(args.verify).absolute()
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
    from shards import tar_list
    from shards.labels import read_classes
    from shards.reindex import ReindexOptions, reindex
    from shards.scan import Taking

    named = [str(expanded(name)) if ":" not in name else name for name in args.reindex]
    out = expanded(args.out).absolute() if args.out else None
    if args.name:
        out = Home.find(args.home).shards / args.name
    classes = read_classes(expanded(args.classes)) if args.classes else ()
    if not args.label and (given := [n for n in ("classes", "unknown", "val") if getattr(args, n) != getattr(Args, n)]):
        raise ConfigError(f"{_flag(given[0])} is about the classes of a label: --label FIELD says where that stands")
    options = ReindexOptions(
        Taking(args.label, args.image, args.prefix_keys), classes, args.unknown, args.skip_bad, args.val, args.seed
    )
    with cli.Progress() as progress:
        manifest = reindex(named, out, options, workers=_workers(args), on_progress=progress)
    folder = (out or tar_list.find(named)[0]).absolute()
    counts = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
    facts = ", ".join(manifest.schema.columns) or "none"
    ignored = ", ".join(f"{count} {name}" for name, count in manifest.options["ignored"].items())
    dropped = ", ".join(map(repr, manifest.options["dropped_facts"]))
    classes_told = "".join(f"; {name!r} has {len(of):,} classes" for name, of in manifest.schema.names.items())
    return cli.Result(
        f"indexed {len(manifest.names)} tars: {counts} images; facts: {facts}{classes_told}"
        + (f"; facts that no column holds: {dropped}" if dropped else "")
        + (f"; members not read: {ignored}" if ignored else "")
        + (f"; {manifest.rejected} left out" if manifest.rejected else ""),
        paths={"shard set": folder, **({"rejected": folder / "rejected.csv"} if manifest.rejected else {})},
        next=_next(args, folder, manifest),
        data={"splits": manifest.splits, "data_hash": manifest.data_hash, "rejected": manifest.rejected},
    )
