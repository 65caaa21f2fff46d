"""Train a task on one or many nodes: checks everything, submits one job, says how to follow it.

    python jobs/launch.py --task deepfashion --nodes 2 --wait
    python jobs/launch.py --task deepfashion --set train.epochs=3 optim.lr=0.05 --dry-run

Launching the same thing again continues it, or says that it runs or is done.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from fashion_dist import cli
from fashion_dist.cluster.args import RunArgs


@dataclass(frozen=True, kw_only=True)
class Args(RunArgs):
    """Train a task on one or many nodes; the same command again continues it."""

    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings as key=value, such as train.epochs=3; --dry-run shows all."""
    wait: bool = False
    """Follow the run to its end and exit with its status."""
    dry_run: bool = False
    """Print the configuration and the sbatch script; submit and write nothing."""
    fresh: bool = False
    """Start over, beside what is there."""


def main(args: Args) -> cli.Result:
    """Launch what the flags describe."""
    from fashion_dist.cluster import launcher
    from fashion_dist.monitor import messages  # numpy and more, which --help need not wait for

    plan = launcher.resolve(args.request(cli.settings(args.set), args.fresh))
    if args.dry_run:
        return cli.Result("nothing was submitted", text=launcher.dry_run(plan), data={"run_id": plan.run.run_id})
    launched = launcher.launch(plan)
    made = messages.of_launch(launched, plan)
    if launched.outcome == "done" or not args.wait:
        return made
    print(made.to_text(), file=sys.stderr, flush=True)
    return messages.of_end(launched.run)


if __name__ == "__main__":
    cli.run(Args, main)
