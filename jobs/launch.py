"""Train a task on one or many nodes: checks everything, submits one job, says how to follow it.

    python jobs/launch.py --task deepfashion --nodes 2 --wait
    python jobs/launch.py --task deepfashion --set train.epochs=3 optim.lr=0.05 --dry-run

Launching the same thing again continues it, or says that it runs or is done.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from fashion_dist import cli
from fashion_dist.cluster.record import JobOptions


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Train a task on one or many nodes; the same command again continues it."""

    task: str
    """What to learn: a file of fashion_dist/tasks."""
    dataset: str = ""
    """The shard set, a folder under HOME/shards; else the task's own."""
    model: str = ""
    """A network of ours, torchvision's or timm's; else the recipe's."""
    weights: str = ""
    """none, imagenet, or the path of a state dict; else the recipe's."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings as key=value, such as train.epochs=3; --dry-run shows all."""
    nodes: int = 1
    """Nodes; with --cluster local, tasks on this machine stand for them."""
    cluster: Literal["auto", "slurm", "local"] = "auto"
    """Where; auto is Slurm where it answers."""
    preset: str = ""
    """A cluster's description, slurm/clusters/NAME.toml or a file; flags replace parts of it."""
    partition: cli.MaybeStr = None
    """Slurm partition."""
    account: cli.MaybeStr = None
    """Slurm account."""
    qos: cli.MaybeStr = None
    """Slurm quality of service."""
    constraint: cli.MaybeStr = None
    """Features that the nodes must have."""
    gpus_per_node: cli.MaybeInt = None
    """GPUs; locally all there are."""
    tasks_per_node: cli.MaybeInt = None
    """Ranks of a node; else one per GPU, or one."""
    cpus_per_task: cli.MaybeInt = None
    """CPUs of a rank; else its share of a node, at most 16."""
    mem_gb: cli.MaybeFloat = None
    """Memory of a node; else the partition's default."""
    time_min: cli.MaybeInt = None
    """Time limit; a run that reaches it saves, is requeued and goes on. Else 60, locally none."""
    time_limits: int = JobOptions.time_limits
    """How many time limits it goes on after by itself."""
    stage: str = JobOptions.stage
    """Copy shards to node-local disk first: off, auto, or a folder."""
    cache: Literal["none", "ram", "gpu", "auto"] = "none"
    """Keep decoded images."""
    bad_samples: Literal["fail", "skip"] = "fail"
    """What to do with a sample that does not decode."""
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """Weights & Biases; auto is online with WANDB_API_KEY, else offline."""
    peer_timeout_s: float = JobOptions.peer_timeout_s
    """How long a rank waits for a silent peer before the job fails."""
    wait: bool = False
    """Follow the run to its end and exit with its status."""
    dry_run: bool = False
    """Print the configuration and the sbatch script; submit and write nothing."""
    fresh: bool = False
    """Start over, beside what is there."""
    group: str = ""
    """Open the run's folder to this group, for reading; else it is yours alone."""
    debug: bool = False
    """Try every step in a minute: a hundredth of the data, one epoch, no W&B."""


def main(args: Args) -> cli.Result:
    """Launch what the flags describe."""
    from fashion_dist.cluster import launch, outcome  # numpy and more, which --help need not wait for

    overrides = (
        "nodes", "partition", "account", "qos", "constraint", "gpus_per_node", "tasks_per_node", "cpus_per_task",
        "mem_gb", "time_min",
    )  # fmt: skip
    request = launch.Request(
        task=args.task, dataset=args.dataset, model=args.model, weights=args.weights,
        settings=cli.settings(args.set), home=args.home, cluster=args.cluster, preset=args.preset,
        resources={name: getattr(args, name) for name in overrides}, fresh=args.fresh, group=args.group,
        debug=args.debug,
        options=JobOptions(
            stage=args.stage, cache=args.cache, bad_samples=args.bad_samples,
            wandb="off" if args.debug else args.wandb,
            peer_timeout_s=args.peer_timeout_s, time_limits=args.time_limits,
        ),
    )  # fmt: skip
    plan = launch.resolve(request)
    if args.dry_run:
        return cli.Result("nothing was submitted", text=launch.dry_run(plan), data={"run_id": plan.run.run_id})
    launched = launch.launch(plan)
    made = outcome.of_launch(launched, plan)
    if launched.outcome == "done" or not args.wait:
        return made
    print(made.to_text(), file=sys.stderr, flush=True)
    return outcome.of_end(launched.run)


if __name__ == "__main__":
    cli.run(Args, main)
