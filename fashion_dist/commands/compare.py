"""Compare two runs on the same images: fashion-dist compare RUN RUN [--split test].

Also of two tasks of which one merges the other's classes: ten classes of garments, binarised, against two; and of two
runs of a task of pairs or attributes, by what that measures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.io import OwnFiles
from fashion_dist.paths import Home
from shards.safe_io import expanded
from shards.spreadsheet import csv_for_people

if TYPE_CHECKING:
    from fashion_dist.results.compare import Comparison

Rows = Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Compare two runs on the same images: accuracies, confusions, and whether chance explains the difference."""

    first: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a unique beginning of one, or a run's folder."""
    second: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Another one."""
    split: str = "test"
    """The split, which both have predicted and whose labels are known."""
    out: str = ""
    """Write the table to this file too, as CSV."""


def main(args: Args) -> cli.Result:
    """Compare two runs."""
    from fashion_dist.results.compare import compare
    from fashion_dist.results.paired import differences
    from fashion_dist.runs import open_run

    home = Home.find(args.home)
    first, second = (open_run(home.find_run(name), strict=False) for name in (args.first, args.second))
    if first.folder == second.folder:
        raise ConfigError(f"both names mean run {first.folder.run_id}; allowed: two runs")
    runs, names = (first, second), (first.called, second.called)
    if scored := differences(*runs, args.split):
        lines = [found.sentence(names) for found in scored]
        table: Rows = [(s.name, s.first, s.second, s.first - s.second, s.low, s.high, "") for s in scored]
        told = {
            "runs": [run.folder.run_id for run in runs],
            "differences": [dataclasses.asdict(found) for found in scored],
        }
        return cli.Result("", _written(args.out, names, table), text="\n".join(lines), data=told)
    found = compare(*runs, args.split)
    (a, b), alone = found.accuracies, found.alone
    table = [("accuracy", a, b, a - b, "", "", found.p_value), ("only this one right", *alone, "", "", "", "")]
    data: dict[str, Any] = {
        "runs": [run.folder.run_id for run in runs],
        "images": len(found.truth),
        "accuracies": found.accuracies,
        "only_one_right": found.alone,
        "p_value": found.p_value,
        "classes": found.classes,
        "confusions": [found.confusion(run).tolist() for run in (0, 1)],
    }
    text = "\n\n".join(_shown(found, run) for run in (0, 1)) + "\n"
    return cli.Result(found.sentence(), _written(args.out, names, table), text=text, data=data)


def _written(out: str, names: tuple[str, str], rows: Rows) -> dict[str, Path | str]:
    if not out:
        return {}
    path = expanded(out).absolute()
    head = ("measure", *names, "difference", "low", "high", "p")
    return {"table": OwnFiles(path.parent).write(path.name, csv_for_people([head, *rows]))}


def _shown(found: Comparison, run: int) -> str:
    """One run's accuracy and confusion as lines; classes are numbered where there are many."""
    head = f"{found.names[run].rstrip(',')}: accuracy {found.accuracies[run]:.4f}"
    words = found.classes if len(found.classes) <= 4 else [str(number) for number in range(len(found.classes))]
    width = max(len(word) for word in (*words, "truth", str(len(found.truth))))
    rows = [("truth", *words), *((word, *row) for word, row in zip(words, found.confusion(run).tolist(), strict=True))]
    return "\n".join([head, *("  " + "  ".join(f"{cell:>{width}}" for cell in row) for row in rows)])
