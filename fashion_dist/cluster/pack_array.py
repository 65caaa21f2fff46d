"""Packing as one Slurm array: each task writes a stretch of shards, the launcher plans before and finishes after."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fashion_dist.cluster import permissions, placement, resources, slurm, submitit_executor
from fashion_dist.data.dali import open_check
from fashion_dist.errors import ConfigError
from shards.pack_plan import OnProgress, Plan, ShardPlan
from shards.packing import RunShards, parts, write_part


def on_slurm(nodes: int, preset: str, workers: int) -> RunShards:
    """What `shards.pack` takes as `run_shards` to have its shards written by an array of `nodes` tasks.

    Each has so many `workers`, 0 is one per CPU that it gets, and a node of its own as far as the cluster has them.

    Raises:
        ConfigError: no Slurm answers, or the preset is unknown.
    """
    if nodes < 1:
        raise ConfigError(f"--nodes {nodes} is not possible; allowed: 1 or more")
    try:
        slurm.require_answer()
    except slurm.NoSlurmError as error:
        raise ConfigError(f"no Slurm here ({error}); leave out --nodes to pack on this machine") from None
    asked = {"nodes": 1, "gpus_per_node": "0", "tasks_per_node": 1, "cpus_per_task": workers or None}
    values, origins = resources.given(resources.Preset.read(preset), asked, os.environ)
    values["sbatch"] = {name: text for name, text in values["sbatch"].items() if "per-gpu" not in name}
    return _run(nodes, placement.fill(resources.Resources(**values), origins, slurm.survey()).resources)


def _run(nodes: int, asked: resources.Resources) -> RunShards:
    def run(plan: Plan, todo: Sequence[ShardPlan], on_progress: OnProgress) -> None:
        folder = plan.folder / "array"  # the set's folder may be a group's to write; pickles are the user's alone
        permissions.make(folder, otherwise="--replace packs anew")
        submitit_executor.run_array(
            write_part,
            parts(plan, todo, nodes, asked.cpus_per_task, open_check),
            resources=asked,
            folder=folder,
            name=f"pack-{plan.dataset}",
            on_progress=lambda done, count: on_progress("array tasks", done, count),
        )

    return run
