"""What runs and sweeps do: a table of all of them, or the page of one; live, as JSON, or to cancel one.

fashion-dist status                            all runs
fashion-dist status deepfashion-82 --watch     one, live until it ends
fashion-dist status --state failed --sort best
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.run_view import RunView
from fashion_dist.errors import ConfigError
from fashion_dist.monitor import chain, overview
from fashion_dist.monitor.overview import Overview
from fashion_dist.monitor.table import columns_named
from fashion_dist.paths import Home
from shards import program


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Show all runs and sweeps, or those named; one alone gets a page of its own."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN|SWEEP ...]")] = ()
    """Run ids or sweeps, unique beginnings of them, or folders."""
    watch: bool = False
    """Look again every two seconds, until nothing waits or runs."""
    cancel: bool = False
    """End the jobs of the named runs and sweeps; they save a checkpoint, and launching again goes on."""
    hold: bool = False
    """Keep the named runs, or trials, from starting while they wait."""
    release: bool = False
    """Let go of what was held."""
    name: str = ""
    """Call the named run so; a name is taken wherever a run id is."""
    disk: bool = False
    """What lies where in the working folder, how large, and what is free."""
    state: str = ""
    """Only runs in this state."""
    task: str = ""
    """Only runs of this task."""
    sort: str = "updated"
    """The last change first, or by a column, of --columns too: names and settings upwards, other numbers downwards."""
    columns: str = ""
    """Columns of the table of runs, such as run,state,model,optim.lr,best: settings and
    name, task, model, epoch, step, best, rate, left, tries, job, nodes."""
    where: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Only runs with these settings, as key=value such as model.name=resnet18."""


def main(args: Args) -> cli.Result:
    """Show or cancel."""
    home = Home.find(args.home)
    named, sweeps = overview.find(home, args.runs, is_waiting_found=not args.name)
    if args.hold or args.release:
        if args.hold and args.release:
            raise ConfigError("--hold and --release are opposites; allowed: one of them")
        return overview.hold(named, sweeps, release=args.release)
    if args.name:
        if len(named) != 1 or sweeps:
            raise ConfigError(
                f"--name needs the one run that is called so: {program.command('status')} RUN --name NAME"
            )
        named[0].home.names.give(args.name, named[0].run_id)
    if args.disk:
        return _disk(home)
    if args.cancel:
        return overview.cancel(named, sweeps)
    columns = [name.strip() for name in args.columns.split(",") if name.strip()]
    chosen, scheduler = bool(args.runs), Scheduler()

    def look() -> Overview:
        if chosen:
            seen = overview.look_at_named(named, sweeps, scheduler)
        else:
            seen = overview.look_at_all(home.all_runs(), home.all_sweeps(), scheduler, home)
        runs = overview.select(_having(seen.runs, cli.settings(args.where)), args.state, args.task, args.sort)
        if chosen or not (args.state or args.task or args.where):
            return Overview(runs, seen.sweeps)
        return Overview(runs, [] if args.state or args.where else [s for s in seen.sweeps if s.task == args.task])

    def draw(seen: Overview, width: int) -> str:
        height = shutil.get_terminal_size().lines if args.watch and sys.stdout.isatty() else 0
        return overview.draw(named, seen, home, width, trials=bool(args.state), height=height, columns=columns)

    seen = overview.watch(look, draw) if args.watch and not args.json else look()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    text = "" if args.watch and sys.stdout.isatty() else draw(seen, width)
    ended = [view.state == "done" for view in seen.runs] if len(named) == 1 else []
    ended += [trial.view.state in ("done", "pruned") for view in seen.sweeps for trial in view.trials if chosen]
    follows = {run.run_id: chain.to_json(run.path) for run in named}
    data = {
        "runs": [view.to_json() | follows.get(view.run_id, {}) for view in seen.runs],
        "sweeps": [view.to_json() for view in seen.sweeps],
    }
    return cli.Result("", text=text, data=data, exit_status=int(args.watch and not all(ended)))


def _having(views: Sequence[RunView], wanted: Sequence[str]) -> list[RunView]:
    """The runs whose settings are shown as these."""
    chosen = list(views)
    for setting in wanted:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--where takes key=value, not {setting!r}")
        column = columns_named([key], views)[0] if views else None
        chosen = [view for view in chosen if column is not None and _is(column.text(view), value or "-")]
    return chosen


def _is(shown: str, value: str) -> bool:
    """Whether two texts are of one value, as 0.001 and 1e-3 are."""
    try:
        return float(shown) == float(value)
    except ValueError:
        return shown == (value.lower() if value in ("True", "False") else value)


def _disk(home: Home) -> cli.Result:
    from fashion_dist.monitor import disk

    rows = [*disk.usage(home), *((str(path), *disk.size_of(path)) for path in disk.staged())]
    old = disk.checkpoints_share(home)
    lines = [f"{disk.human(size):>10}  {files:>8,} files  {what}" for what, size, files in rows]
    lines.append(f"{disk.human(sum(size for _, size, _ in rows))} in {home.path}; {disk.free(home.path)}")
    clean = program.command("clean")
    lines += [f"{disk.human(old)} are old checkpoints and copies: {clean} RUN --keep-best removes them"] if old else []
    places = [{"what": what, "bytes": size, "files": files} for what, size, files in rows]
    return cli.Result("", text="\n".join(lines), data={"places": places, "old_bytes": old})
