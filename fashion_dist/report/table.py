"""Runs as a Markdown table, rebuilt from their folders: task, command, seed, epochs, cost and figures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fashion_dist.report import formatting
from fashion_dist.report.run_data import PLAIN, RunData

HEAD = ("task", "command", "seed", "epochs", "wall", "CPU", "validation", "test")
SHOWN = 4
"""Figures of a split in a cell."""


def markdown(found: Sequence[RunData]) -> str:
    """The table of the runs, in the order they are given; a figure that was not measured is a dash."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(f) for f in found)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(facts: RunData) -> tuple[str, ...]:
    progress = facts.view.progress
    done = f"{progress.epoch} of {facts.config.train.epochs}"
    epochs = f"{facts.config.train.epochs}" if facts.view.state == "done" else f"{done}, {facts.view.state}"
    if facts.best_epoch is not None:
        epochs += f" (best {facts.best_epoch:g})"
    cpu = formatting.duration(facts.cpu_s) if facts.cpu_s is not None else "—"
    command = _cell(command_of(facts))
    return (
        f"`{facts.config.task}`", f"`{command}`" if command else "—", str(facts.config.train.seed), epochs,
        formatting.duration(facts.wall_s), cpu, _figures(facts, "val"), _figures(facts, "test"),
    )  # fmt: skip


def command_of(facts: RunData) -> str:
    """The command that made the run, without the folder it was made in."""
    return re.sub(r" --(home|wait|json)(?=[ =]|$)((?<=home)[ =]('[^']*'|\S+))?", "", facts.made.command)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("`", "'").replace("\n", " ")


def _figures(facts: RunData, split: str) -> str:
    """What was measured at the best epoch, the monitored metric first; each with its name."""
    measured = facts.at_best(split)
    names = [name for name in facts.metrics if name in measured and name not in PLAIN][:SHOWN]
    return ", ".join(f"{formatting.name(name)} {measured[name]:.4f}" for name in names) or "—"
