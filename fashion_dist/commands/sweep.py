"""Many trials of one task as a job array, or on this machine a few at a time.

    fashion-dist sweep --task clipart --set optim.name=sgd,adam model.pool=max,avg --max-parallel 4
    fashion-dist sweep --task clipart --sweep jobs/sweeps/clipart-ablation.yaml --seeds 3

The same command again submits only what is not done; with --rerun-failed also what failed.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from fashion_dist import cli
from fashion_dist.cluster.args import RunArgs


@dataclass(frozen=True, kw_only=True)
class Args(RunArgs):
    """Run many trials of a task; the same command again runs what is missing."""

    sweep: str = ""
    """A file in W&B's sweep format: grid, random or bayes."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings as key=value for all trials, or key=value,value to try each."""
    name: str = ""
    """What to call the sweep; else the file's name, or one made of the content."""
    seeds: int = 1
    """Repeats of every trial with other seeds."""
    search_seed: int = 0
    """Seed of random draws and searches."""
    max_parallel: int = 0
    """Trials at once; 0 is all of them on Slurm, and one on this machine."""
    rerun_failed: bool = False
    """Run again what failed, was cancelled or stopped."""
    max_submit: int = 0
    """Trials that one call submits, where a site limits jobs; the same command again adds more. 0 is all."""
    hold: bool = False
    """Leave the job array in the queue until status --release."""
    yes: bool = False
    """Go on with more than 10,000 trials."""
    then: str = ""
    """What follows the sweep by itself, as jobs that wait for it: collect,report."""
    wait: bool = False
    """Follow the sweep to its end; exit status 1 unless every trial is done or was given up."""
    dry_run: bool = False
    """Print the trials; submit and write nothing."""


def main(args: Args) -> cli.Result:
    """Submit what the flags describe."""
    from fashion_dist.monitor import chain, overview, sweep_messages
    from fashion_dist.sweep import launcher

    then = chain.parse(args.then)
    sweep_request = launcher.SweepRequest(
        args.request(), args.sweep, cli.settings(args.set), args.name, args.seeds, args.search_seed, args.max_parallel,
        args.rerun_failed, args.hold, args.yes, args.max_submit,
    )  # fmt: skip
    draft = launcher.resolve(sweep_request)
    if "collect" in then:
        draft.context.shard_set.split("test")
    if args.dry_run:
        return sweep_messages.of_draft(draft)
    submitted = launcher.submit(draft)
    folder, context = draft.sweep.folder, draft.context
    jobs = [array.job for array in submitted.view.arrays if array.job is not None] if submitted.view.is_active else []
    chain.submit(folder.path, then, context.cluster, context.resources, jobs)
    return overview.with_links(sweep_messages.of_submission(draft, submitted), folder, jobs, wait=args.wait)
