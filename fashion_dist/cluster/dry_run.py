"""What `launch.py --dry-run` shows of a run that it does not launch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fashion_dist.errors import ConfigError

if TYPE_CHECKING:
    from fashion_dist.cluster.launcher import RunSpec


def dry_run(plan: RunSpec) -> str:
    """The resolved configuration and the sbatch script, or the local command; writes nothing."""
    from fashion_dist.cluster import submitit_executor

    shell = {name: where for name, where in plan.origins.items() if where.startswith("SBATCH_")}
    values = {**dataclasses.asdict(plan.resources), **plan.resources.sbatch}
    notes = [f"# {name} = {values[name]}, from {variable} of this shell" for name, variable in shell.items()]
    notes += [f"# note: {note}" for note in (*plan.notes, *_of_memory(plan))]
    if plan.cluster == "slurm":
        title, text = (
            "sbatch script",
            submitit_executor.script(plan.resources, plan.run.logs, plan.run.run_id, plan.comment),
        )
    else:
        title = f"on this machine, {plan.resources.ranks} times"
        text = submitit_executor.local_command(plan.run.logs)
    told = _of_origins(plan) + "".join(f"{note}\n" for note in notes)
    return f"# resolved configuration\n{plan.config.to_json()}\n{told}# {title}\n{text}"


def _of_memory(plan: RunSpec) -> list[str]:
    """What a step takes of memory, if the plan does not say it; looks at the network, which takes seconds once."""
    from fashion_dist.cluster import step_memory
    from shards import ShardSet

    try:
        step = step_memory.estimate(plan.config, plan.resources, ShardSet.open(plan.shard_set), plan.run.home, ask=True)
    except ConfigError as error:
        return [str(error)]
    if step is None:
        return ["what a step takes of memory is not known for this network"]
    card = step_memory.card_bytes(plan.resources, plan.cluster)
    told = (card and step.too_much(card, plan.config, plan.resources.ranks)) or step.told()
    return [told] if told not in plan.notes else []


def _of_origins(plan: RunSpec) -> str:
    """Which values are not the recipe's, and where each comes from."""
    values = plan.config.flat()
    shown = {f"{key} = {_short(values[key])}": origin for key, origin in plan.config_origins.items() if key in values}
    if not shown:
        return ""
    width = max(map(len, shown))
    lines = "".join(f"{setting:<{width}}  {origin}\n" for setting, origin in shown.items())
    return f"# not the recipe's, and where from\n{lines}\n"


def _short(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
