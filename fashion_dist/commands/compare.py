"""Compare two runs on the same images: fashion-dist compare RUN RUN [--split test].

Also of two tasks of which one merges the other's classes: ten classes of garments, binarised, against two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from fashion_dist import cli
from fashion_dist.paths import Home

if TYPE_CHECKING:
    from fashion_dist.results.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Compare two runs on the same images: accuracies, confusions, and whether chance explains the difference."""

    first: Annotated[str, tyro.conf.Positional]
    """A run id, a unique beginning of one, or a run's folder."""
    second: Annotated[str, tyro.conf.Positional]
    """Another one."""
    split: str = "test"
    """The split, which both have predicted and whose labels are known."""


def main(args: Args) -> cli.Result:
    """Compare two runs."""
    from fashion_dist.results.compare import compare
    from fashion_dist.runs import open_run

    home = Home.find(args.home)
    runs = open_run(home, args.first, strict=False), open_run(home, args.second, strict=False)
    found = compare(*runs, args.split)
    data = {
        "runs": [run.folder.run_id for run in runs],
        "images": len(found.truth),
        "accuracies": found.accuracies,
        "only_one_right": found.alone,
        "p_value": found.p_value,
        "classes": found.classes,
        "confusions": [found.confusion(run).tolist() for run in (0, 1)],
    }
    return cli.Result(found.sentence(), text="\n\n".join(_shown(found, run) for run in (0, 1)) + "\n", data=data)


def _shown(found: Comparison, run: int) -> str:
    """One run's accuracy and confusion as lines; classes are numbered where there are many."""
    head = f"{found.names[run].rstrip(',')}: accuracy {found.accuracies[run]:.4f}"
    words = found.classes if len(found.classes) <= 4 else [str(number) for number in range(len(found.classes))]
    width = max(len(word) for word in (*words, "truth", str(len(found.truth))))
    rows = [("truth", *words), *((word, *row) for word, row in zip(words, found.confusion(run).tolist(), strict=True))]
    return "\n".join([head, *("  " + "  ".join(f"{cell:>{width}}" for cell in row) for row in rows)])
