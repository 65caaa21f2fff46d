"""Train a task on one or many nodes: checks everything, submits one job, says how to follow it.

    fashion-dist launch --task deepfashion --nodes 2 --wait
    fashion-dist launch --task deepfashion --set train.epochs=3 optim.lr=0.05 --dry-run
    fashion-dist launch --resume deepfashion-82

Launching the same thing again continues it, or says that it runs or is done; so does --resume, whatever the task's
recipe has become since. A run goes on with the configuration that it began with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tyro

from fashion_dist import cli
from fashion_dist.cluster.args import RunArgs
from fashion_dist.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Args(RunArgs):
    """Train a task on one or many nodes; the same command again continues it."""

    task: str = ""
    """What to learn: a file of fashion_dist/tasks."""
    resume: str = ""
    """Go on with this run: an id, a unique beginning of one, or a folder; instead of --task and what belongs to it."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings as key=value, such as train.epochs=3; --dry-run shows all."""
    then: str = ""
    """What follows the run by itself, as jobs that wait for it: collect,report."""
    wait: bool = False
    """Follow the run to its end and exit with its status."""
    dry_run: bool = False
    """Print the configuration and the sbatch script; submit and write nothing."""
    fresh: bool = False
    """Start over, beside what is there."""
    name: str = ""
    """Call the run so; a name is taken wherever a run id is."""


def main(args: Args) -> cli.Result:
    """Launch what the flags describe."""
    from fashion_dist.cluster import launcher
    from fashion_dist.cluster.dry_run import dry_run
    from fashion_dist.monitor import chain, messages, overview  # numpy and more, which --help need not wait for
    from shards import ShardSet

    then = chain.parse(args.then)
    settings = cli.settings(args.set)
    if args.resume:
        asked = ("task", "dataset", "model", "weights", "set", "fresh", "debug")
        if given := [f"--{name}" for name in asked if getattr(args, name)]:
            raise ConfigError(f"--resume goes on with the run's own configuration, without {', '.join(given)}")
        plan = launcher.resume(replace(args.request(), name=args.name), args.resume, args.options())
    elif not args.task:
        raise ConfigError("--task is required, or --resume with a run; --help shows all options")
    else:
        plan = launcher.resolve(replace(args.request(settings, args.fresh), name=args.name))
    if "collect" in then:  # which could only fail without it
        ShardSet.open(plan.shard_set).split("test")
    if args.dry_run:
        follows_it = f"# then: {', '.join(then)}" if then else ""
        text = "\n".join(filter(None, [dry_run(plan), messages.differing(plan), follows_it]))
        return cli.Result("nothing was submitted", text=text, data={"run_id": plan.run.run_id})
    launched = launcher.launch(plan)
    jobs = [launched.job] if launched.job is not None else []
    chain.submit(launched.run.path, then, jobs[0].cluster if jobs else plan.cluster, plan.resources, jobs)
    return overview.with_links(messages.of_launch(launched, plan), launched.run, jobs, wait=args.wait)
