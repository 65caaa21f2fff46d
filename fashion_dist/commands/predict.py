"""Predict with a run's best weights: a split of its set, another set, or pictures that came later.

fashion-dist predict RUN --source DIR           a folder of pictures, a picture, a table, a shard set or tars
fashion-dist predict RUN --split val            a split of the set that it learned from
fashion-dist predict RUN --dataset NAME         another set of HOME/shards
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fashion_dist import cli
from fashion_dist.cluster.run_view import typed
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home, RunDir
from shards.portable import cpus
from shards.safe_io import expanded

if TYPE_CHECKING:
    from fashion_dist.results.predict import Part, Predicted, Target
    from shards import Schema


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Predict with a run's best weights: a split, another shard set, or pictures that came later."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a unique beginning of one, or a run's folder."""
    source: str = ""
    """A folder of pictures in any folders, a picture, a table of pictures, a shard set or a folder of tars."""
    dataset: str = ""
    """Another shard set of HOME/shards."""
    split: str = ""
    """The split to predict; else test of the run's own set, and every split of other data."""
    name: str = ""
    """What the predictions are called beside the run; else as the source or the split is."""
    nodes: int = 0
    """So many nodes, as one Slurm array, or processes where there is no Slurm; 0 predicts in this process."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where --nodes are: Slurm where it answers, or this machine."""
    preset: str = ""
    """Cluster preset of the array."""
    skip_bad: bool = False
    """List pictures of --source that cannot be read in rejected.csv instead of stopping."""
    path_column: str = ""
    """Of a table: the column of paths, where it has no usual name."""
    split_column: str = ""
    """Of a table: the column of splits, where it has no usual name."""
    shards: str = ""
    """Folder of shard sets, or of one, where the run's has been moved; its content must be the same."""


def main(args: Args) -> cli.Result:
    """Predict what the flags name."""
    if args.source and args.dataset:
        raise ConfigError("--source and --dataset are two kinds of data; allowed: one of them")
    if args.nodes < 0:
        raise ConfigError(f"--nodes {args.nodes} is not possible; allowed: 0 (this process) or more")
    from fashion_dist.results.predict import predict

    with cli.Progress() as progress:
        run, schema, targets, notes = _targets(args, progress)
        ranks, count = _ranks(args, run, progress)
        done = [predict(run, schema, target, ranks, count) for target in targets]
    return _result(run, done, notes)


def _targets(args: Args, progress: cli.Progress) -> tuple[RunDir, Schema, list[Target], str]:
    """The run, the schema that it learned, what it predicts, and what there is to say of that."""
    from fashion_dist.results import predict as results
    from fashion_dist.runs import learned_packing, learned_schema, own_config
    from shards import ReadOptions, ShardSet

    home = Home.find(args.home, args.shards)
    if args.name and not args.source and not args.dataset:
        raise ConfigError(
            "--name is of the predictions of --source and --dataset; those of a split are called as it is"
        )
    if not args.source and (args.skip_bad or args.path_column or args.split_column):
        raise ConfigError("--skip-bad, --path-column and --split-column are of --source; allowed: beside it")
    if not args.source and not args.dataset:
        opened, target = results.own_split(home, args.run, args.split or "test", moved=bool(args.shards))
        return opened.folder, opened.schema, [target], ""
    run = home.find_run(args.run)
    own_config(run)  # a run that cannot predict any more is refused before anything is packed
    schema = learned_schema(run, home if args.shards else None)
    if args.dataset:
        found = ShardSet.open(home.shard_set(args.dataset))
        return run, schema, results.targets_of(run, found, args.name, args.split, args.dataset), ""
    source = expanded(args.source).absolute()
    options = ReadOptions(
        val_fraction=0.0, labelled=False, skip_bad=args.skip_bad, path_column=args.path_column,
        split_column=args.split_column,
    )  # fmt: skip
    found = results.pack_source(
        home, source, schema, options, learned_packing(run, home if args.shards else None), workers=len(cpus()),
        on_progress=progress, on_found=progress.tell,
    )  # fmt: skip
    left_out = found.manifest.rejected
    notes = f"; {left_out} files left out, listed in {found.path / 'rejected.csv'}" if left_out else ""
    return run, schema, results.targets_of(run, found, args.name, args.split, str(source)), notes


def _ranks(args: Args, run: RunDir, progress: cli.Progress) -> tuple[Callable[[list[Part], int], list[int]], int]:
    """What runs the shares of a prediction, and how many there are to be."""
    import dataclasses

    from fashion_dist.results.predict import predict_here, predict_part

    if not args.nodes:
        return lambda parts, total: predict_here(parts, progress, total), 1
    from fashion_dist.cluster import placement, submitit_executor
    from fashion_dist.cluster.launcher import LaunchRequest

    cluster = placement.choose_cluster(args.cluster)
    asked = placement.resolve(LaunchRequest("", preset=args.preset, resources={"nodes": args.nodes}), cluster).resources
    if cluster == "local":
        threads = max(1, len(cpus()) // asked.ranks)
        return lambda parts, total: predict_here(
            [dataclasses.replace(part, threads=threads) for part in parts], progress, total
        ), asked.ranks

    def ranks(parts: list[Part], _total: int) -> list[int]:
        return submitit_executor.run_array(
            predict_part, parts, resources=asked.of_one_rank, folder=run.logs, name=f"predict-{run.run_id}",
            on_progress=lambda done, count: progress("array tasks", done, count),
        )  # fmt: skip

    return ranks, asked.ranks


def _result(run: RunDir, done: list[Predicted], notes: str) -> cli.Result:
    told = ", ".join(f"{one.samples:,} samples of {one.target.name}" for one in done)
    paths = {f"{one.target.name}{file.suffix}": file for one in done for file in one.files}
    paths |= {f"{one.target.name} by rank": one.folder for one in done}
    name = done[0].target.name
    own = name == "test" and not done[0].target.source
    ways = {"submission files": typed("collect", run, "" if own else f"--split {name}")}
    if not done[0].target.source and name in ("test", "val"):  # others have no place in a report
        ways["see it"] = typed("report", run)
    return cli.Result(
        f"{run.run_id}: {told} predicted{notes}",
        paths=paths,
        next=ways,
        data={
            "run": run.run_id,
            "samples": sum(one.samples for one in done),
            "predictions": [one.target.name for one in done],
        },
    )
