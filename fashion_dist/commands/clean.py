"""Remove what runs and sweeps left behind: only what fashion-dist wrote, and nothing of a run that lives.

fashion-dist clean deepfashion-82 --keep-best       old checkpoints and copies; best weights and results stay
fashion-dist clean my-sweep --dry-run               what would go
fashion-dist clean --older 30 --keep-best           every run that has not changed for 30 days
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from fashion_dist import cli
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home


@dataclass(frozen=True, kw_only=True)
class Args(cli.CommonArgs):
    """Remove runs and sweeps, or their old checkpoints."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN|SWEEP ...]")] = ()
    """Run ids or sweeps, unique beginnings of them, or folders; without any, all runs that --older means."""
    keep_best: bool = False
    """Keep best weights, metrics, predictions and submissions."""
    older: float = 0
    """Only what has not changed for so many days."""
    dry_run: bool = False
    """Say what would be removed; touch nothing."""


def main(args: Args) -> cli.Result:
    """Remove, or say what would be."""
    from fashion_dist.monitor import chain, disk, overview

    if args.older < 0:
        raise ConfigError(f"--older {args.older:g} is not possible; allowed: 0 or more days")
    if not args.runs and not args.older:
        raise ConfigError("clean needs runs or sweeps to remove, or --older DAYS for all that have not changed since")
    home = Home.find(args.home)
    named, sweeps = overview.find(home, args.runs) if args.runs else (home.all_runs(), [])
    found = disk.clean(
        named, sweeps, chain.not_over, keep_best=args.keep_best, older_days=args.older, dry_run=args.dry_run
    )
    lines = [f"{disk.human(size):>10}  {path}" for path, size in sorted(found.paths.items())]
    lines += [f"{'kept':>10}  {what}: {why}" for what, why in found.kept.items()]
    verb = "would remove" if args.dry_run else "removed"
    data = {"removed": {str(path): size for path, size in found.paths.items()}, "kept": found.kept}
    refused = bool(args.runs) and not found.paths and bool(found.kept)
    return cli.Result(
        f"{verb} {disk.human(found.size)}; {disk.free(home.path)}", text="\n".join(lines), data=data,
        exit_status=cli.EXIT_FAILED if refused else cli.EXIT_DONE,
    )  # fmt: skip
