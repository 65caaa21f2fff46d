"""Write submission files from predictions, refused unless every sample of the test split is there exactly once.

fashion-dist collect RUN [--out DIR]
fashion-dist collect SWEEP --best             the best trial's files, and a table of all trials
fashion-dist collect SWEEP --ensemble 5       the mean of the five best
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.cluster.run_view import typed
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home, SweepDir
from shards.safe_io import expanded


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Write a run's or a sweep's submission files from predictions."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SWEEP")]
    """A run id or a sweep, a unique beginning of one, or a folder."""
    best: bool = False
    """Of a sweep: the files of its best trial; without it and --ensemble only the tables."""
    ensemble: int = 0
    """Of a sweep: the files of its so many best trials, whose probabilities are averaged."""
    out: str = ""
    """Folder for the files; default: the run's or the sweep's own."""
    split: str = "test"
    """The split, or the name of other predictions, to collect; files of others than test lie in submission/NAME."""
    task: str = ""
    """Answer as this task does, from the same predictions: polyvore_outfits from a run of polyvore_pairs."""
    wait_s: float = 30.0
    """How long to wait for files of a finished run that a network filesystem shows late."""
    tune_thresholds: bool = False
    """Choose the task's thresholds on the predictions of the validation split first."""


def main(args: Args) -> cli.Result:
    """Collect one run, or one sweep."""
    sweep = Home.find(args.home).find_sweep(args.run)
    if sweep is not None:
        return of_sweep(args, sweep)
    if args.best or args.ensemble:
        raise ConfigError(f"--best and --ensemble are of sweeps, and {args.run!r} is none")
    from fashion_dist.results.collect import answered_as, collect, open_predicted, tuned, write_names
    from fashion_dist.runs import open_run

    opened, split = open_predicted(Home.find(args.home), args.run, args.split)
    out = expanded(args.out).absolute() if args.out else None
    config = answered_as(opened.config, args.task) if args.task else opened.config
    if args.tune_thresholds:
        config = tuned(opened.folder, config, open_run(opened.folder, strict=False).shard_set)
    shard_set = opened.shard_set
    files = collect(opened.folder, config, shard_set, out, split, args.wait_s, args.split)
    paths = {file.name: file for file in files}
    if os.access(opened.folder.named(args.split, "csv").parent, os.W_OK):  # a run of somebody else's may be collected
        named = write_names(opened.folder, config, opened.schema, shard_set.split(split), args.split)
        paths |= {f"predictions/{file.name}" if file.name in paths else file.name: file for file in named}
    count = shard_set.splits[split]
    return cli.Result(
        f"{opened.folder.run_id}: {count:,} samples of {args.split}, each exactly once",
        paths=paths,
        next={"see it": typed("report", opened.folder)},
        data={"run": opened.folder.run_id, "samples": count},
    )


def of_sweep(args: Args, folder: SweepDir) -> cli.Result:
    """Collect a sweep."""
    if args.ensemble < 0 or (args.ensemble and args.best):
        raise ConfigError(f"--ensemble {args.ensemble} is not possible; allowed: 1 or more, without --best")
    if args.task or args.tune_thresholds:
        raise ConfigError("--task and --tune-thresholds are of runs; collect the best trial's run with them")
    from fashion_dist.monitor import sweep_table
    from fashion_dist.sweep import gather

    out = expanded(args.out).absolute() if args.out else None
    count = args.ensemble or int(args.best)
    found = gather.gather(folder, out, count=count, split=args.split, wait_s=args.wait_s)
    chosen = [f"trial {trial.number} ({trial.view.run_id}, {trial.value:.4f})" for trial in found.trials]
    what = {0: "the table of all trials", 1: f"the best is {''.join(chosen[:1])}"}.get(
        count, f"the mean of the {count} best, {', '.join(chosen)}"
    )
    parts = [f"sweep {folder.sweep_id}, {sweep_table.counts(found.view)}: {what}", *filter(None, [found.missing])]
    return cli.Result(
        "; ".join(parts),
        paths={file.name: file for file in found.files},
        data={
            "sweep": folder.sweep_id, "trials": [trial.to_json() for trial in found.trials],
            "counts": found.view.counts, "missing": found.missing,
        },
    )  # fmt: skip
