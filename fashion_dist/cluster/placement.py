"""Where a run goes and with which resources: what was asked for, filled from the cluster and held against it.

What the cluster's own answers show to be wrong is refused, and what nobody here can know (a plugin that chooses
partitions, a QOS that lifts limits) is left to sbatch and said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fashion_dist.cluster import sbatch_options, slurm
from fashion_dist.cluster.resources import Preset, Resources, given
from fashion_dist.cluster.slurm import Cluster, Partition
from fashion_dist.errors import ConfigError, RunError, unknown

if TYPE_CHECKING:
    from fashion_dist.cluster.launcher import LaunchRequest

_OF_THE_QUEUE = ("partition", "account", "qos", "constraint", "mem_gb")
_RANKS_OF_A_NODE = frozenset({"partition", "gpus_per_node", "tasks_per_node"})


@dataclass(frozen=True)
class Placement:
    """Resources for a cluster, where each was asked for, and what the user should know."""

    resources: Resources
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_cluster(wanted: Literal["auto", "slurm", "local"]) -> Cluster:
    """For `auto` Slurm where there is one, else this machine.

    Raises:
        ConfigError: Slurm is asked for, and there is none.
        RunError: there is one that does not answer; training on a login node is no way out.
    """
    if wanted == "local":
        return "local"
    try:
        slurm.require_answer()
    except slurm.NoSlurmError as error:
        if wanted == "auto":
            return "local"
        raise ConfigError(f"no Slurm here ({error}); use --cluster local, or a machine of the cluster") from None
    except RunError as error:
        raise RunError(
            f"Slurm does not answer ({error}), and nothing was submitted; try again, or --cluster local trains here"
        ) from None
    return "slurm"


def resolve(request: LaunchRequest, cluster: Cluster, before: Resources | None = None) -> Placement:
    """The preset with the user's variables and flags in it, and what was left open filled from the cluster.

    What a run that goes on had `before` stands for the preset.

    Raises:
        ConfigError: it cannot be; the possible is named.
        RunError: Slurm does not answer.
    """
    flags = request.resources
    shell = dict(os.environ) if cluster == "slurm" else {}
    values, origins = given(Preset.read(request.preset), flags, shell, before)
    if before is not None and not _RANKS_OF_A_NODE.isdisjoint(k for k, v in flags.items() if v is not None):
        values["cpus_per_task"] = 0  # its share of a node is another now
    resources = Resources(**values)
    lacking = [name for name in resources.export if name not in os.environ]
    if typed := [name for name in flags.get("export") or () if name in lacking]:
        raise ConfigError(
            f"--export {typed[0]}: this shell exports no such variable; allowed: one that it does, or a value in the "
            f"[environment] of a preset"
        )
    if cluster == "local":
        placed = _here(resources, flags, before)
    else:
        placed = fill(resources, origins, slurm.survey(), is_limit_asked="time_min" in values)
    told = f"export: the job does not get {', '.join(lacking)}, which this shell does not export"
    return replace(placed, notes=(*placed.notes, told)) if lacking else placed


def _here(resources: Resources, flags: Mapping[str, Any], before: Resources | None) -> Placement:
    typed = {name: value for name, value in flags.items() if value is not None}
    typed |= {"sbatch": {}} | sbatch_options.layer(typed.get("sbatch", {}))
    asked = resources.time_min if "time_min" in typed else before.time_min if before is not None else None
    if resources.container:
        raise ConfigError("container is for jobs of Slurm; --cluster local runs the ranks as they are, without it")
    there = local_gpus()
    if "gpus_per_node" not in typed:
        resources = resources.replace(gpus_per_node=there, gpu_type="", sbatch={})
    elif resources.gpus_per_node > there:
        raise ConfigError(f"--gpus-per-node {resources.gpus_asked}: this machine has {there}")
    options = [name for name, text in typed["sbatch"].items() if text is not None]
    queued = [f"--{name.replace('_', '-')}" for name in [*filter(typed.__contains__, _OF_THE_QUEUE), *options]]
    notes = (f"{', '.join(queued)}: for Slurm's queue, and nothing on this machine",) if queued else ()
    return Placement(resources.replace(time_min=asked or sbatch_options.NO_LIMIT_MIN), notes=notes)


def fill(
    resources: Resources, origins: Mapping[str, str], known: Sequence[Partition], *, is_limit_asked: bool = True
) -> Placement:
    """Resources held against a cluster's partitions."""
    notes: list[str] = []
    names = [name for name in resources.partition.split(",") if name]
    chosen = [part for part in known if part.name in names] if names else [part for part in known if part.is_default]
    if missing := [name for name in names if name not in {part.name for part in known}]:
        if (plugins := slurm.configuration().get("JobSubmitPlugins", "(null)")) == "(null)":
            at = origins.get("partition", "--partition")
            by = "" if at.startswith("--") else f" ({at})"
            raise ConfigError(f"{unknown('partition', missing[0], [part.name for part in known])}{by}")
        notes.append(f"sinfo knows no partition {missing[0]}; the cluster's {plugins} plugin may, so sbatch decides")
    elif not chosen:
        notes.append("the cluster has no default partition and none was given: sbatch decides, unchecked")
    where = f"partition {resources.partition!r}" if names else "the default partition"
    if chosen and not missing and resources.nodes > (there := max(part.nodes for part in chosen)):
        raise ConfigError(f"--nodes {resources.nodes} is more than the {there} of {where}; the job would wait for ever")
    if not resources.cpus_per_task and not sbatch_options.gives_cpus(resources.sbatch):
        share = min((part.cpus for part in chosen or known), default=1) // resources.ranks_per_node
        resources = resources.replace(cpus_per_task=max(1, min(16, share)))
    limits = [part.limit_min for part in chosen]
    bound = max((limit for limit in limits if limit is not None), default=0) if None not in limits else 0
    if bound and resources.time_min > bound and not missing:
        if is_limit_asked:
            notes.append(
                f"the time limit of {resources.time_min} min is above the {bound} of {where}: unless a QOS lifts that, "
                f"the job waits for ever"
            )
        else:
            resources = resources.replace(time_min=bound)
            notes.append(f"the time limit is the {bound} min of {where}; a run that reaches it goes on by itself")
    cards = next((part for part in chosen or known if part.gpus), None)
    if resources.gpus_if_known is None and not resources.tasks_per_node:
        notes.append("sbatch gives the GPUs, of which a node's one rank uses one: --tasks-per-node N starts N ranks")
    if cards is not None and resources.gpus_if_known == 0:
        notes.append(
            f"this run trains on CPUs, while nodes of partition {cards.name!r} have {cards.gres}: "
            f"--gpus-per-node {cards.gpus} trains on their GPUs, one rank each"
        )
    return Placement(resources, origins, tuple(notes))


def local_gpus() -> int:
    """How many GPUs of this machine are for us."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])


def told(placement: Resources, cluster: Cluster) -> str:
    """Ranks, nodes and the device they train on, such as `2 ranks on 2 nodes, on CPUs`."""
    ranks = f"{placement.ranks} rank{'s' * (placement.ranks > 1)}"
    nodes = f"{placement.nodes} node{'s' * (placement.nodes > 1)}" if cluster == "slurm" else "this machine"
    if placement.gpus:
        kind = f" {placement.gpu_type}" if placement.gpu_type else ""
        device = f"{placement.gpus}{kind} GPU{'s' * (placement.gpus > 1)}{' each' * (placement.nodes > 1)}"
    else:
        device = "GPUs as sbatch gives them" if placement.gpus_if_known is None else "CPUs"
    return f"{ranks} on {nodes}, on {device}"
