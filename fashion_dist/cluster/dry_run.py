"""What `launch.py --dry-run` shows of a run that it does not launch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fashion_dist.cluster.launcher import RunSpec


def dry_run(plan: RunSpec) -> str:
    """The resolved configuration and the sbatch script, or the local command; writes nothing."""
    from fashion_dist.cluster import step_memory, submitit_executor

    shell = {name: where for name, where in plan.origins.items() if where.startswith("SBATCH_")}
    values = {**dataclasses.asdict(plan.resources), **plan.resources.sbatch}
    notes = [f"# {name} = {values[name]}, from {variable} of this shell" for name, variable in shell.items()]
    # It looks at the network, which takes seconds once.
    memory = step_memory.note(plan.config, plan.resources, plan.cluster, plan.run.home, ask=True)
    notes += [f"# note: {note}" for note in dict.fromkeys((*plan.notes, memory))]
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
