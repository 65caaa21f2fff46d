"""What a configuration, its shard set and this machine must have for a run to be launched; else one sentence."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_dist import tasks
from fashion_dist.cluster import machine, network_check, task_trial
from fashion_dist.cluster.job_record import RuntimeOptions
from fashion_dist.cluster.resources import Resources
from fashion_dist.config import Config, Stage
from fashion_dist.data.decode_record import DecodeRecord, require_possible
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.paths import Home, RunDir

if TYPE_CHECKING:
    from shards import ShardSet

ENOUGH = 16
"""Images over which batch normalisation still takes sound statistics (Wu & He 2018 see losses below)."""
DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
"""DALI's builds, of which an environment holds one."""


def require_trainable(config: Config, task: tasks.Task, shard_set: ShardSet, resources: Resources, home: Home) -> None:
    """Refuse what cannot be trained here; raises InputError, one sentence with what would be possible."""
    require_dali()
    tasks.require_monitor(config, shard_set.schema)
    network_check.require_network(config, task.recipe, home)
    task_trial.require_task(task, config, shard_set, home)
    task.validate(shard_set, config)
    require_drawn_by(config, shard_set)
    require_unmixed(task, config)
    require_divisible(config, resources)
    require_gpus(config, resources)
    samples = shard_set.splits["train"]
    if samples < config.train.batch_size:
        raise ConfigError(f"train.batch_size = {config.train.batch_size} is more than the {samples} samples of 'train'")


def require_drawn_by(config: Config, shard_set: ShardSet) -> None:
    """Refuse to draw images by a target that the task does not have, or has not in that form."""
    for key, name in (
        ("data.class_balanced", config.data.class_balanced),
        ("data.sample_weight", config.data.sample_weight),
    ):
        if not name:
            continue
        targets = tasks.load(config.task).build_examples(shard_set.split("train"), config).targets
        if name not in targets:
            raise unknown(f"target ({key})", name, targets)
        values = targets[name]
        if values.ndim != 1 or (key == "data.class_balanced" and (values.dtype.kind != "i" or not (values >= 0).any())):
            what = "one class" if key == "data.class_balanced" else "one number"
            raise ConfigError(f"{key} = {name!r} is not possible; allowed: a target with {what} per example")


def require_shards(shard_set: ShardSet) -> None:
    """Refuse tars that are not those of the index, before a job waits in a queue only to find out."""
    from fashion_dist.data.shard_reader import ShardFiles  # pyarrow with it, so only when all else is right

    for name in shard_set.splits:
        ShardFiles(shard_set.split(name)).check()


def require_decode(options: RuntimeOptions, run: RunDir, resources: Resources) -> None:
    """Refuse a way of decoding that cannot be there, or is another than the run began with."""
    require_possible(options.decode, options.cache, DecodeRecord.read(run), resources.gpus_if_known)


def require_gpus(config: Config, resources: Resources) -> None:
    """Refuse settings that only GPUs can do on ranks without."""
    train = config.train
    wanted = {"cuda_graph": train.cuda_graph, "sync_batchnorm": train.sync_batchnorm and resources.ranks > 1}
    for name in (name for name, given in wanted.items() if given and resources.gpus_if_known == 0):
        raise ConfigError(f"train.{name} = True needs GPUs, and none is asked for: --gpus-per-node N; allowed: false")


def require_unmixed(task: tasks.Task, config: Config) -> None:
    """Refuse to mix every step where a head learns from steps that do not mix."""
    train, never = config.train, ", ".join(task.ignore_targets_when_mixed)
    if never and (train.mixup or train.cutmix) and train.mix_prob == 1:
        raise ConfigError(
            f"train.mix_prob = {train.mix_prob} is not possible: task {config.task!r} learns {never} from steps that "
            f"do not mix; allowed: 0 <= mix_prob < 1, or train.mixup=0 and train.cutmix=0"
        )


def plain_name(kind: str, name: str) -> str:
    """A name that is a folder's, no path; raises ConfigError."""
    if not name.isprintable() or Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"{kind} {name!r} is not the plain name of a folder")
    return name


def require_writable(path: Path) -> None:
    """Refuse a working folder that cannot be made or written."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(f"the working folder {path} cannot be: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"the working folder {path} cannot be written: no permission for {existing}")


def require_dali() -> None:
    """Refuse to launch where DALI is missing, or both of its builds are installed."""
    how = f"pip install {DALI[1]}, or {DALI[0]} where the GPUs' driver is older than 580"
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise ConfigError(f"training needs NVIDIA DALI, which is not installed here (Linux only): {how}")
    if len(there := machine.installed(*DALI)) > 1:
        both = " and ".join(there)
        raise ConfigError(
            f"{both} are installed, whose files are in each other's place: pip uninstall both, then {how}"
        )


def require_splits(dataset: str, shard_set: ShardSet) -> None:
    """Refuse a shard set without training or validation samples."""
    for name in ("train", "val"):
        if not shard_set.splits.get(name):
            having = ", ".join(f"{split} ({count})" for split, count in shard_set.splits.items())
            raise ConfigError(
                f"shard set {dataset!r} has no samples in split {name!r}; it has {having or 'none'}"
                + ("; packing with --val 0.1, of tars with --label, too, holds some out" if name == "val" else "")
            )


def require_facts(config: Config, task: tasks.Task, shard_set: ShardSet) -> None:
    """Refuse a shard set without the columns that the task makes its targets of."""
    missing = [fact for fact in task.columns_of(config) if fact not in shard_set.schema.columns]
    if missing:
        raise ConfigError(
            f"task {config.task!r} needs the fact{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which "
            f"shard set {config.dataset!r} does not have; it has {', '.join(sorted(shard_set.schema.columns))}"
        )


def require_divisible(config: Config, resources: Resources) -> None:
    """Refuse a global batch that cannot be dealt evenly; the nearest batches and rank counts are named."""
    batch, accumulate, ranks = config.train.batch_size, config.train.accumulate, resources.ranks
    unit = ranks * accumulate
    if batch % unit == 0:
        return
    batches = sorted({size for size in (batch // unit * unit, batch // unit * unit + unit) if size > 0})
    counts = [count for count in range(1, batch + 1) if batch % (count * accumulate) == 0]
    near = sorted(sorted(counts, key=lambda count: abs(count - ranks))[:2])
    shared = f"{ranks} ranks" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
    advice = f"nearest batch sizes: {', '.join(map(str, batches))}"
    if near:
        advice += f"; nearest numbers of ranks: {', '.join(map(str, near))}"
    raise ConfigError(f"train.batch_size = {batch} does not divide over {shared}; {advice}")


def slow_precision(config: Config, resources: Resources) -> str:
    """That CPUs have no fp16 arithmetic to speak of; empty where the precision is another one, or GPUs may be there."""
    if config.train.precision != "fp16" or resources.gpus_if_known != 0:
        return ""
    return "fp16 is a GPU's: a step on a CPU takes ten times as long; --set train.precision=auto is bf16 or fp32 there"


def long_warmup(config: Config) -> str:
    """That the learning rate only rises in the run, or in its first stage; empty where the schedule gets its part."""
    optim = config.optim
    epochs = Stage.parse(optim.stages[0]).epochs if optim.stages else config.train.epochs
    if optim.schedule == "onecycle" or optim.warmup_epochs < epochs:
        return ""
    where = "first stage" if optim.stages else "run"
    return (
        f"the recipe's warm-up of {optim.warmup_epochs:g} epochs takes all {epochs} of the {where}, in which the "
        f"learning rate only rises: --set optim.warmup_epochs={epochs / 10:g} leaves the schedule its part"
    )


def small_share(config: Config, resources: Resources) -> str:
    """That each rank normalises over few images; empty where they are enough, one rank has all, or none are counted."""
    train, ranks = config.train, resources.ranks
    share = train.batch_size // (ranks * train.accumulate)
    if ranks == 1 or not 0 < share < ENOUGH or train.sync_batchnorm or train.freeze_bn:
        return ""
    or_sync = " or train.sync_batchnorm=true" if resources.gpus else ""
    larger = -(-ENOUGH // share) * train.batch_size
    return (
        f"each of {ranks} ranks computes {share} images at a time, few for the statistics of a network's batch "
        f"normalisation: --set train.batch_size={larger}{or_sync}"
    )


def left_out(examples: int, batch: int, unit: int) -> str:
    """That the last, partial batch is much of a small set; empty where it is less than a tenth of it.

    `unit`, ranks x micro-batches, divides every batch.
    """
    rest = examples % batch
    if rest * 10 < examples:
        return ""
    better = min(range(batch, batch // 2, -1), key=lambda size: (size % unit > 0, examples % size))
    fewer = better % unit == 0 and examples % better < rest
    return (
        f"{rest} of the {examples} training examples ({rest / examples:.0%}) are left out of each epoch, others each "
        f"time, because they fill no batch of {batch}"
        + (f"; of train.batch_size={better} it would be {examples % better}" if fewer else "")
    )
