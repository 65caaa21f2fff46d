"""Draw a run's pictures: python jobs/report.py RUN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.cluster.view import typed
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Draw a run's pictures from what it measured."""

    run: Annotated[str, tyro.conf.Positional]
    """A run id, a unique beginning of one, or a run's folder."""


def main(args: Args) -> cli.Result:
    """Report on one run."""
    from fashion_dist.report.curves import best_metrics, draw_curves
    from fashion_dist.runs import open_run
    from fashion_dist.state import RunState
    from fashion_dist.tasks import load

    opened = open_run(Home.find(args.home), args.run)
    task = load(opened.config.task)
    state = RunState.read(opened.folder.state)
    best = state.best if state else {}
    names = [opened.config.train.monitor or task.monitor, *task.shown_metrics]
    written = draw_curves(opened.folder, list(dict.fromkeys(names)), best.get("epoch"))
    headline = f"{opened.folder.run_id}: {state.state if state else 'not started'}"
    if best:
        headline += f", best {best['metric']} {best['value']:.4f} at epoch {best['epoch']}"
    return cli.Result(
        headline,
        paths={"curves": written["png"], "as vectors": written["svg"], "numbers": written["csv"]},
        next={"submission": typed("collect", opened.folder)},
        data={"run": opened.folder.run_id, "best": best, "metrics": best_metrics(opened.folder, best.get("epoch"))},
    )


if __name__ == "__main__":
    cli.run(Args, main)
