"""What the runs do: a table of all of them, or one run's page; live, as JSON, or to cancel one.

python jobs/status.py                            all runs
python jobs/status.py deepfashion-82 --watch     one, live until it ends
python jobs/status.py --state failed --sort best
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fashion_dist import cli
from fashion_dist.cluster import overview
from fashion_dist.cluster.view import RunView
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Show all runs, or those named; one run alone gets a page of its own."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN ...]")] = ()
    """Run ids, unique beginnings of them, or folders."""
    watch: bool = False
    """Look again every two seconds, until nothing waits or runs."""
    cancel: bool = False
    """End the named runs' jobs; they save a checkpoint, and launching again goes on."""
    state: str = ""
    """Only runs in this state."""
    task: str = ""
    """Only runs of this task."""
    sort: Literal["run", "state", "epoch", "step", "best", "rate", "left", "tries", "job", "nodes", "updated"] = (
        "updated"
    )
    """The last change first, or by a column: names upwards, numbers downwards."""


def main(args: Args) -> cli.Result:
    """Show or cancel."""
    home = Home.find(args.home)
    named = [home.find_run(name) for name in args.runs]
    if args.cancel:
        return overview.cancel(named)
    runs = named or overview.all_runs(home)

    def look() -> list[RunView]:
        return overview.select(overview.look_at(runs or overview.all_runs(home)), args.state, args.task, args.sort)

    def draw(views: list[RunView], width: int) -> str:
        return overview.draw(named, views, home, width)

    views = overview.watch(look, draw) if args.watch and not args.json else look()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    text = "" if args.watch and sys.stdout.isatty() else draw(views, width)
    failed = args.watch and len(named) == 1 and views and views[0].state != "done"
    return cli.Result("", text=text, data={"runs": [view.to_json() for view in views]}, exit_status=int(bool(failed)))


if __name__ == "__main__":
    cli.run(Args, main)
