"""Everything about runs on one page: fashion-dist report RUN [RUN ...].

fashion-dist report deepfashion-82            one run: RUN/report/index.html
fashion-dist report clipart-1 clipart-2       several: HOME/reports/.../index.html
fashion-dist report deepfashion-82 --archive  and a zip to hand in
fashion-dist report deepfashion-82 --notebook assignment4.ipynb
fashion-dist report SWEEP                     the trials of a sweep, compared
fashion-dist report RUN RUN --table           only the table of results, as Markdown
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from fashion_dist import cli
from fashion_dist.cluster.run_view import answers, typed
from fashion_dist.errors import ConfigError
from fashion_dist.io import OwnFiles
from fashion_dist.paths import Home
from fashion_dist.report import formatting
from shards import program
from shards.safe_io import expanded
from shards.spreadsheet import csv_for_people

if TYPE_CHECKING:
    from fashion_dist.report.make import Made
    from fashion_dist.report.run_data import RunData


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Everything about runs on one page; several are compared."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")] = ()
    """Run ids, unique beginnings of them, or folders; a sweep stands for all its trials."""
    out: str = ""
    """Folder of the page; else the run's report/, of several runs one under HOME/reports."""
    quick: bool = False
    """Only what is written down: predict nothing, look into no network."""
    table: bool = False
    """Print the table of results as Markdown, and make no page; with --out as results.md and results.csv too."""
    archive: bool = False
    """Also one zip of code, settings, report, submissions and the best models."""
    notebook: str = ""
    """Also a notebook of one run, with its output, such as assignment4.ipynb."""
    wandb: Literal["auto", "online", "offline", "off"] = "off"
    """Show the pictures of one run in W&B too, or do not; auto as the run was launched, online where there is a key."""


def main(args: Args) -> cli.Result:
    """Report on the runs."""
    home = Home.find(args.home)
    if not args.runs:
        raise ConfigError(f"there are no runs to report on: {program.command('report')} RUN [RUN ...]")
    from fashion_dist.report.run_data import find_runs, read_facts

    folders = find_runs(home, args.runs)
    if args.table and (args.archive or args.notebook or args.wandb != "off"):
        raise ConfigError("--table makes no page, so --archive, --notebook and --wandb are not possible with it")
    if args.wandb in ("online", "offline") and len(folders) > 1:
        raise ConfigError(f"--wandb {args.wandb} shows the pictures of one run, not of {len(folders)}")
    notebook = None
    if args.notebook:
        from fashion_dist.report.notebook import require_new

        if len(folders) > 1:
            raise ConfigError(f"--notebook is of one run, not of {len(folders)}")
        notebook = require_new(expanded(args.notebook).absolute())
    damaged: dict[str, str] = {}
    found = read_facts(folders, None if args.archive or args.notebook else damaged)
    if args.archive:
        from fashion_dist.report.archive import require_archivable

        require_archivable(found)
    notes = [f"left out, because it cannot be read: {why}" for why in damaged.values()]
    for note in notes:
        cli.tell(note)
    status = cli.EXIT_FAILED if damaged else cli.EXIT_DONE
    told: dict[str, Any] = {"runs": [facts.run_id for facts in found], **({"left_out": damaged} if damaged else {})}
    if args.table:
        return _table(found, args.out, told, status)
    from fashion_dist.report import make

    out = expanded(args.out).absolute() if args.out else None
    if len(folders) > 1:
        page = out or make.folder_of(home, found)
        made = make.report_runs(found, page, notes, quick=args.quick, say=cli.tell)
        headline = f"{formatting.count(len(found), 'run')} on one page"
        result = cli.Result(headline, {"page": made.page}, data=told, exit_status=status)
        return _archived(result, found, made) if args.archive else result
    made = make.report_run(found[0], out, quick=args.quick, say=cli.tell)
    result = _of_one(found[0], made.page)
    if notebook is not None:
        from fashion_dist.report.notebook import write_notebook

        write_notebook(found[0], made.content, made.page.parent / "figures", notebook)
        result = replace(result, paths={**result.paths, "notebook": notebook})
    if args.wandb != "off":
        result = replace(result, data={**result.data, "wandb": make.share(found[0], made.album, args.wandb)})
    return _archived(result, found, made, notebook) if args.archive else result


def _archived(result: cli.Result, found: Sequence[RunData], made: Made, notebook: Path | None = None) -> cli.Result:
    from fashion_dist.report.archive import write_archive
    from fashion_dist.report.pdf import pdf_of

    document = pdf_of(made.content, made.page.parent / "figures")
    return replace(result, paths={**result.paths, "archive": write_archive(found, made.page, notebook, document)})


def _of_one(facts: RunData, page: Path) -> cli.Result:
    progress = facts.view.progress
    headline = f"{facts.run_id}: {facts.view.state}" + (f", best {progress.best_words}" if progress.best else "")
    paths: dict[str, Path | str] = {"page": page, "figures": page.parent / "figures"}
    data: dict[str, Any] = {"run": facts.run_id, "best": progress.best, "metrics": facts.at_best("val")}
    ways = answers(facts.run) if facts.view.state == "done" else {"look": typed("status", facts.run)}
    return cli.Result(headline, paths=paths, next=ways, data=data)


def _table(found: Sequence[RunData], out: str, told: dict[str, Any], status: int) -> cli.Result:
    from fashion_dist.report.table import rows_of, to_markdown

    rows = rows_of(found)
    text, paths = to_markdown(rows), {}
    if out:
        own = OwnFiles(expanded(out).absolute())
        files = {"results.md": text + "\n", "results.csv": csv_for_people(rows)}
        own.claim(*files)
        for name, content in files.items():
            own.write(name, content)
            paths[name] = own.folder / name
    told["rows"] = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    return cli.Result("", paths, text=text, data=told, exit_status=status)
