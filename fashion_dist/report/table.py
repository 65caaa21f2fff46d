"""Runs as a Markdown table, rebuilt from their folders: settings, command, seed, epochs, cost, figures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fashion_dist.report import formatting
from fashion_dist.report.comparison import differing
from fashion_dist.report.run_data import RunData, plain_json
from fashion_dist.tracking.metrics_log import PLAIN
from shards.spreadsheet import markdown

NONE = "—"
SHOWN = 4
"""Figures of a split in a cell."""


def rows_of(found: Sequence[RunData]) -> list[tuple[str, ...]]:
    """Head and rows: the run, the settings that are not the same in all, what it cost and its figures.

    A figure that was not measured is a dash.
    """
    keys = differing(found)
    head = ("run", "task", *keys, "command", "seed", "epochs", "wall", "CPU", "validation", "test")
    return [head, *(_row(f, keys) for f in found)]


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the head first, as a Markdown table; what is a name or typed stands as code."""
    head, *body = rows
    code = [name in ("run", "task", "command") for name in head]
    cells = [[f"`{_cell(c)}`" if k and c != NONE else _cell(c) for c, k in zip(r, code, strict=True)] for r in body]
    return markdown([head, *cells])


def _row(facts: RunData, keys: Sequence[str]) -> tuple[str, ...]:
    progress, flat = facts.view.progress, facts.config.flat()
    done = f"{progress.epoch} of {facts.config.train.epochs}"
    epochs = f"{facts.config.train.epochs}" if facts.view.state == "done" else f"{done}, {facts.view.state}"
    if facts.best_epoch is not None:
        epochs += f" (best {facts.best_epoch:g})"
    cpu = formatting.duration(facts.cpu_s) if facts.cpu_s is not None else NONE
    settings = [plain_json(flat[key]) if key in flat else NONE for key in keys]
    return (
        facts.run_id, facts.config.task, *settings, command_of(facts) or NONE, str(facts.config.train.seed), epochs,
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
    return ", ".join(f"{formatting.name(name)} {measured[name]:.4f}" for name in names) or NONE
