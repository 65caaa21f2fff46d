"""Runs to W&B afterwards, from a machine with network: what is missing there, or a whole run as a folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, FashionDistError, InputError, RunError
from fashion_dist.io import OwnFiles
from fashion_dist.paths import RunDir
from fashion_dist.tracking.metrics_log import read_metrics
from fashion_dist.tracking.wandb_run import SyncLine, WandbRun, is_here, key_of, pictures_key
from shards.safe_io import refuse_link, some

if TYPE_CHECKING:
    from fashion_dist.tracking.wandb_media import Media


@dataclass(frozen=True)
class Synced:
    """What a sync did: rows sent now, lines there are, where to see them."""

    rows: int
    lines: int
    where: str


def sync(run: RunDir, config: Config, group: str, media: Media | None, offline_folder: Path | None = None) -> Synced:
    """Send W&B what it does not have of a run, or begin an offline run with all of it in a folder.

    Raises:
        ConfigError: W&B does not take its settings.
        RunError: W&B did not answer, or took not everything; what arrived is not sent again.
    """
    mode: Literal["online", "offline"] = "offline" if offline_folder else "online"
    try:
        feed, points = WandbRun(run, config, mode, group, offline_folder or run.path), read_metrics(run.metrics)
        for point in points:
            feed.log(point)
        if media is not None:
            feed.show(media)
        feed.finish()
    except InputError:
        raise
    except Exception as error:  # whatever the client raises, it means that the network or the server said no
        words = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"run {run.run_id} was not synced: {words}") from error
    return Synced(feed.rows, len(points), str(feed.wandb.url or feed.wandb.path))


def replay(run: RunDir, config: Config, group: str, media: Media | None, folder: Path) -> Synced:
    """The whole run as one offline run of W&B in `folder/<run id>`, made anew and put in place whole.

    Raises:
        InputError: something that no earlier call made has the run's name there, or lies in it.
    """
    final, new, old = (folder / name for name in (run.run_id, f".{run.run_id}.new", f".{run.run_id}.old"))
    OwnFiles(folder).claim(final.name, new.name, old.name)
    if final.exists() and (others := {path.name for path in refuse_link(final).iterdir()} - {"wandb"}):
        raise ConfigError(f"{final} is not replaced: it holds {some(others)}, which we did not write; move it away")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        made = sync(run, config, group, media, new)
    except FashionDistError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    (found,) = (final / "wandb").glob("offline-run-*")
    return replace(made, where=str(found))


def is_synced(run: RunDir, media: Media | None) -> bool:
    """Whether a sync has nothing to send: all lines and these media have arrived where it would send them."""
    wanted = {key_of(point) for point in read_metrics(run.metrics)}
    if media is not None:
        wanted |= {f"shown {media.fingerprint}", *([pictures_key(media.pictures)] if media.pictures else [])}
    lines = SyncLine.read(run.synced)
    for target, rows in {line.target: line.arrived for line in lines if line.arrived is not None}.items():
        keys = [line.key for line in lines if line.target == target and line.key is not None]
        if len(keys) == rows and wanted <= set(keys) and is_here(target):
            return True
    return False
