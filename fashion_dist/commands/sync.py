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
from fashion_dist.errors import CheckpointError, ConfigError, FashionDistError, InputError, ShardsError
from fashion_dist.paths import Home, RunDir
from shards import program
from shards.safe_io import expanded


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
    runs = list(dict.fromkeys(run for name in args.runs for run in _runs(home, name)))
    from fashion_dist.tracking import wandb_run

    if not args.to_folder:
        wandb_run.require_key()
    lines, rows, failed = [], 0, 0
    with cli.Progress(enabled=not args.json) as progress:
        for at, run in enumerate(runs):
            try:
                text, sent = _sync(run, expanded(args.to_folder).absolute() if args.to_folder else None)
            except (FashionDistError, ShardsError) as error:
                if len(runs) == 1:
                    raise
                text, sent, failed = f"error: {error}", 0, failed + 1
            lines.append(f"{run.run_id}: {text}")
            rows += sent
            progress("runs", at + 1, len(runs))
    count = len(lines) - failed
    told = f"{count} run{'s' * (count != 1)}, {rows} new rows" + f"; {failed} failed" * bool(failed)
    data = {"rows": rows, "runs": count, "failed": failed}
    return cli.Result(told, text="\n".join(lines), data=data, exit_status=int(failed > 0))


def _runs(home: Home, name: str) -> list[RunDir]:
    sweep = home.find_sweep(name)
    if sweep is None:
        return [home.find_run(name)]
    from fashion_dist.sweep.sweep_record import Sweep

    return [run for run in Sweep.read(sweep).run_dirs if run.metrics.is_file()]


def _sync(run: RunDir, folder: Path | None) -> tuple[str, int]:
    from fashion_dist.results.media import run_media
    from fashion_dist.run_status import RunState
    from fashion_dist.runs import open_run, read_config
    from fashion_dist.tracking import wandb_sync

    if not run.metrics.is_file():
        raise InputError(f"run {run.run_id} has nothing to send: {run.metrics} is not there")
    (config, _), submission, progress = read_config(run), JobRecord.read(run), RunState.read(run.state)
    group = Path(submission.sweep).name if submission is not None else ""
    shown, bare = None, ""
    if progress is not None and progress.state == "done":
        try:
            shown = run_media(run, config, open_run(run, strict=False).shard_set)
        except (InputError, CheckpointError) as error:  # the curves need no shard set, which may lie elsewhere
            bare = f", without pictures and files ({error})"
    if folder is not None:
        made = wandb_sync.replay(run, config, group, shown, folder)
        return f"{made.lines} lines in {made.where}{bare}", made.rows
    if wandb_sync.is_synced(run, shown):
        return f"nothing new{bare}", 0
    made = wandb_sync.sync(run, config, group, shown)
    return f"{made.rows} new rows of {made.lines} lines, {made.where}{bare}", made.rows
