"""Write a run's submission files from its predictions: python jobs/collect.py RUN [--out DIR].

Refused unless every sample of the test split is predicted exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.cluster.view import typed
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Write a run's submission files from its predictions."""

    run: Annotated[str, tyro.conf.Positional]
    """A run id, a unique beginning of one, or a run's folder."""
    out: str = ""
    """Folder for the files; default: the run's own."""
    split: str = "test"
    """The split to collect."""
    task: str = ""
    """Answer as this task does, from the same predictions: polyvore_outfits from a run of polyvore_pairs."""
    wait_s: float = 30.0
    """How long to wait for files of a finished run that a network filesystem shows late."""
    tune_thresholds: bool = False
    """Choose the task's thresholds on the predictions of the validation split first."""


def main(args: Args) -> cli.Result:
    """Collect one run."""
    from fashion_dist.collect import answered_as, collect, tuned
    from fashion_dist.runs import open_run

    opened = open_run(Home.find(args.home), args.run)
    out = Path(args.out).absolute() if args.out else None
    config = answered_as(opened.config, args.task) if args.task else opened.config
    if args.tune_thresholds:
        config = tuned(opened.folder, config, opened.shard_set)
    files = collect(opened.folder, config, opened.shard_set, out, args.split, args.wait_s)
    count = opened.shard_set.splits[args.split]
    return cli.Result(
        f"{opened.folder.run_id}: {count:,} samples of {args.split}, each exactly once",
        paths={file.name: file for file in files},
        next={"see it": typed("report", opened.folder)},
        data={"run": opened.folder.run_id, "samples": count},
    )


if __name__ == "__main__":
    cli.run(Args, main)
