"""Send finished or running runs to Weights & Biases from a machine with network: fashion-dist sync RUN [RUN ...].

One W&B run for each run, however often its job was requeued; what W&B has already is not sent again. The key comes from
WANDB_API_KEY or the netrc file, the project from WANDB_PROJECT, and neither is written anywhere.

    fashion-dist sync SWEEP                         all trials of a sweep, as a group
    fashion-dist sync RUN --to-folder DIR           one offline run for `wandb sync` or `wandb leet`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.cluster.job_record import JobRecord
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home, RunDir
from shards import program


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Send runs to Weights & Biases, each line of their metrics once."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SWEEP ...")] = ()
    """Run ids or sweeps, unique beginnings of them, or folders."""
    to_folder: str = ""
    """Write offline runs into this folder instead; needs no key and no network."""


def main(args: Args) -> cli.Result:
    """Sync what is named."""
    home = Home.find(args.home)
    if not args.runs:
        raise ConfigError(f"nothing to sync: {program.command('sync')} RUN; {program.command('status')} lists the runs")
    runs = [run for name in args.runs for run in _runs(home, name)]
    from fashion_dist.tracking import wandb_run

    if not args.to_folder:
        wandb_run.require_key()
    lines, rows = [], 0
    with cli.Progress(enabled=not args.json) as progress:
        for at, run in enumerate(dict.fromkeys(runs)):
            text, sent = _sync(run, Path(args.to_folder).absolute() if args.to_folder else None)
            lines.append(f"{run.run_id}: {text}")
            rows += sent
            progress("runs", at + 1, len(runs))
    count = len(lines)
    told = f"{count} run{'s' * (count != 1)}, {rows} new rows"
    return cli.Result(told, text="\n".join(lines), data={"rows": rows, "runs": count})


def _runs(home: Home, name: str) -> list[RunDir]:
    sweep = home.find_sweep(name)
    if sweep is None:
        return [home.find_run(name)]
    from fashion_dist.sweep.sweep_record import Sweep

    return [run for run in Sweep.read(sweep).run_dirs if run.metrics.is_file()]


def _sync(run: RunDir, folder: Path | None) -> tuple[str, int]:
    from fashion_dist.results.media import run_media
    from fashion_dist.run_status import RunState
    from fashion_dist.runs import open_run
    from fashion_dist.tracking import wandb_sync

    opened, submission, progress = open_run(run, strict=False), JobRecord.read(run), RunState.read(run.state)
    group = Path(submission.sweep).name if submission is not None else ""
    done = progress is not None and progress.state == "done"
    shown = run_media(run, opened.config, opened.shard_set) if done else None
    if folder is not None:
        made = wandb_sync.replay(run, opened.config, group, shown, folder)
        return f"{made.lines} lines in {made.where}", made.rows
    if wandb_sync.is_synced(run, shown):
        return "nothing new", 0
    made = wandb_sync.sync(run, opened.config, group, shown)
    return f"{made.rows} new rows of {made.lines} lines, {made.where}", made.rows
