"""A page as a Jupyter notebook: cells that load the run and draw its curves, with their output, between what it says.

Written without Jupyter: the cells are run here, and what they print and draw is stored as Jupyter stores it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fashion_dist.errors import CheckpointError, ConfigError
from fashion_dist.report.blocks import Page, Picture, Section, Table
from fashion_dist.report.page import cell_text
from fashion_dist.report.run_data import RunData
from shards.safe_io import SHARED, write_whole
from shards.spreadsheet import markdown

LOAD = """\
import matplotlib.pyplot as plt

import fashion_dist
from fashion_dist.tracking.metrics_log import read_metrics
from shards import ShardSet

run = fashion_dist.load_run({run!r})
points = read_metrics(run.folder.metrics)
print(run)"""
DATA = """\
data = ShardSet.open({data!r})
for name, samples in data.splits.items():
    print(f"{{name}}: {{samples:,}} samples")
print("classes:", ", ".join(run.class_names[:100]) or "none")"""
MODEL = """\
print(run.model)
print(f"{sum(parameter.numel() for parameter in run.model.parameters()):,} parameters")"""
CURVES = """\
for name in {names!r}:
    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for split in ("train", "val"):
        curve = [(p["epoch"], p[name]) for p in points if p["split"] == split and p.get(name) is not None]
        if curve:
            axes.plot(*zip(*curve), ".-", label=split)
    axes.set(xlabel="epoch", title=name.replace("_", " "))
    axes.legend()"""
SUBMISSION = """\
for path in sorted(run.folder.submission.glob("[!.]*.*")):
    lines = path.read_text().splitlines()
    print(f"{path.name}, {len(lines):,} lines:", *lines[:5], sep="\\n    ")"""
MOST_ROWS = 60
"""Rows of a table that are shown; of more, these."""


def require_new(path: Path) -> Path:
    """`path`, when a notebook can be written there.

    Raises:
        ConfigError: it is no name of a notebook, or something is there: it may hold what somebody wrote.
    """
    if path.suffix != ".ipynb":
        raise ConfigError(f"--notebook {path.name} is not possible; allowed: a name that ends with .ipynb")
    if os.path.lexists(path):
        raise ConfigError(f"{path} is there already and may hold words of yours; move it away, or give another name")
    if not path.parent.is_dir():
        raise ConfigError(f"--notebook {path}: there is no folder {path.parent}")
    return path


def write_notebook(facts: RunData, page: Page, album: Path, path: Path) -> None:
    """Write the notebook of a run to `path`, where none is; `album` is the folder of its page's pictures.

    Raises:
        CheckpointError: the run has no best weights yet, or its shard set is gone.
    """
    if facts.shard_set is None:
        raise CheckpointError(f"run {facts.run_id} has no notebook without its shard set: {' '.join(facts.notes)}")
    cells = list(_cells(facts, page, album, str(facts.shard_set.path)))
    _execute(cells)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": [{**cell, "id": f"cell-{at}"} for at, cell in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(), mode=SHARED)


def _cells(facts: RunData, page: Page, album: Path, data: str) -> Iterator[dict[str, Any]]:
    said = {section.anchor: section for section in page.sections}
    yield _text(f"# {page.title}", page.subtitle, *(f"- {name}: {value}" for name, value in page.facts), *page.notes)
    yield _code(LOAD.format(run=str(facts.run.path)))
    yield _text("## Data")
    yield _code(DATA.format(data=data))
    yield _text("## Network")
    yield _code(MODEL)
    yield _text("## Training")
    yield from _section(said.pop("run"), album)
    curves = said.pop("curves")
    yield _text("### Learning curves", *curves.words)
    losses = [name for name in ("loss",) if facts.series("train", name)]
    if names := [*facts.metrics[:4], *losses]:
        yield _code(CURVES.format(names=names))
    yield _text("## Results")
    for section in said.values():
        yield from _section(section, album)
    yield _text("## Submission", "" if facts.run.submission.is_dir() else "Nothing has been collected yet.")
    yield _code(SUBMISSION)


def _section(section: Section, album: Path) -> Iterator[dict[str, Any]]:
    """A section's words, tables and pictures; images of examples are in the page alone."""
    parts, pictures = [f"### {section.title}", *section.words], {}
    for block in section.blocks:
        if isinstance(block, Table):
            parts += [f"**{block.title}**"] * bool(block.title) + [_rows(block), block.note]
        elif isinstance(block, Picture):
            file = f"{block.name}.png"
            pictures[file] = {"image/png": _base64((album / file).read_bytes())}
            parts += [f"**{block.title}**", f"![{block.name}](attachment:{file})", block.caption]
    yield _text(*parts) | ({"attachments": pictures} if pictures else {})


def _rows(table: Table) -> str:
    more = f"\n\n... and {len(table.rows) - MOST_ROWS:,} more rows" if len(table.rows) > MOST_ROWS else ""
    rows = [table.head, *table.rows[:MOST_ROWS]]
    return markdown([[_plain(cell_text(cell)) for cell in row] for row in rows]) + more


def _plain(text: str) -> str:
    """`text` as Markdown shows it and does not read it: names may be anybody's."""
    for mark in "\\|`*_<[":
        text = text.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return " ".join(text.split())


def _text(heading: str, *paragraphs: str) -> dict[str, Any]:
    kept = [part if part.startswith(("|", "!", "**", "- ")) else _plain(part) for part in paragraphs if part]
    joined = "\n\n".join([heading, *kept]).replace("\n\n- ", "\n- ").replace(f"{heading}\n- ", f"{heading}\n\n- ")
    return {"cell_type": "markdown", "metadata": {}, "source": joined}


def _code(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _execute(cells: list[dict[str, Any]]) -> None:
    """Run the cells of code in order in one namespace; fill in what they print and draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell["source"], f"<cell {number}>", "exec"), names)  # cells of this module
        cell["execution_count"] = number
        if printed.getvalue():
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
        for figure in map(plt.figure, plt.get_fignums()):
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=110)
            data = {"image/png": _base64(drawn.getvalue()), "text/plain": "a figure"}
            cell["outputs"].append({"output_type": "display_data", "data": data, "metadata": {}})
        plt.close("all")
