"""Predict a split with a run's best weights, on this machine: fashion-dist predict RUN --split test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.cluster.run_view import typed
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Predict a split with a run's best weights, on this machine."""

    run: Annotated[str, tyro.conf.Positional]
    """A run id, a unique beginning of one, or a run's folder."""
    split: str = "test"
    """The split to predict."""
    shards: str = ""
    """Folder of shard sets, or of one, where the run's has been moved; its content must be the same."""


def main(args: Args) -> cli.Result:
    """Predict one split."""
    from fashion_dist.results.predict import predict_run
    from fashion_dist.runs import open_run

    opened = open_run(Home.find(args.home, args.shards), args.run, moved=bool(args.shards))
    count = opened.shard_set.splits.get(args.split)
    opened.shard_set.split(args.split)  # an unknown split is refused before torch is imported
    predict_run(opened, args.split)
    return cli.Result(
        f"{opened.folder.run_id}: {count:,} samples of {args.split} predicted",
        paths={"predictions": opened.folder.predictions(args.split)},
        next={"submission": typed("collect", opened.folder, f"--split {args.split}")},
        data={"run": opened.folder.run_id, "samples": count},
    )
