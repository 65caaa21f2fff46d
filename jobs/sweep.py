"""Many trials of one task as a job array, or on this machine a few at a time.

    python jobs/sweep.py --task clipart --set optim.name=sgd,adam model.pool=max,avg --max-parallel 4
    python jobs/sweep.py --task clipart --sweep jobs/sweeps/clipart-ablation.yaml --seeds 3

The same command again submits only what is not done; with --rerun-failed also what failed.
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
    """Run many trials of a task; the same command again runs what is missing."""

    task: str
    """What to learn: a file of fashion_dist/tasks."""
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
    hold: bool = False
    """Leave the job array in the queue until scontrol release."""
    yes: bool = False
    """Go on with more than 10,000 trials."""
    dataset: str = ""
    """The shard set, a folder under HOME/shards; else the task's own."""
    model: str = ""
    """A network of ours, torchvision's or timm's; else the recipe's."""
    weights: str = ""
    """none, imagenet, or the path of a state dict; else the recipe's."""
    nodes: int = 1
    """Nodes of each trial."""
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
    """GPUs of a trial's node; locally a trial's share of those there are."""
    tasks_per_node: cli.MaybeInt = None
    """Ranks of a node; else one per GPU, or one."""
    cpus_per_task: cli.MaybeInt = None
    """CPUs of a rank; else its share of a node, at most 16."""
    mem_gb: cli.MaybeFloat = None
    """Memory of a node; else the partition's default."""
    time_min: cli.MaybeInt = None
    """Time limit of a trial's job; a trial that reaches it saves, is requeued and goes on. Else 60, locally none."""
    time_limits: int = JobOptions.time_limits
    """How many time limits a trial goes on after by itself."""
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
    """Follow the sweep to its end; exit status 1 unless every trial is done or was given up."""
    dry_run: bool = False
    """Print the trials; submit and write nothing."""
    debug: bool = False
    """Try every step of every trial in a minute: a hundredth of the data, one epoch, no W&B."""


def main(args: Args) -> cli.Result:
    """Submit what the flags describe."""
    from fashion_dist.cluster.launch import Request
    from fashion_dist.sweep import launch, outcome

    overrides = (
        "nodes", "partition", "account", "qos", "constraint", "gpus_per_node", "tasks_per_node", "cpus_per_task",
        "mem_gb", "time_min",
    )  # fmt: skip
    request = Request(
        task=args.task, dataset=args.dataset, model=args.model, weights=args.weights, home=args.home,
        cluster=args.cluster, preset=args.preset, resources={name: getattr(args, name) for name in overrides},
        debug=args.debug,
        options=JobOptions(
            stage=args.stage, cache=args.cache, bad_samples=args.bad_samples,
            wandb="off" if args.debug else args.wandb,
            peer_timeout_s=args.peer_timeout_s, time_limits=args.time_limits,
        ),
    )  # fmt: skip
    question = launch.Question(
        request, args.sweep, cli.settings(args.set), args.name, args.seeds, args.search_seed, args.max_parallel,
        args.rerun_failed, args.hold, args.yes,
    )  # fmt: skip
    draft = launch.resolve(question)
    if args.dry_run:
        return outcome.of_draft(draft)
    submitted = launch.submit(draft)
    made = outcome.of_submission(draft, submitted)
    if not args.wait:
        return made
    print(made.to_text(), file=sys.stderr, flush=True)
    return outcome.of_end(draft.sweep.folder)


if __name__ == "__main__":
    cli.run(Args, main)
