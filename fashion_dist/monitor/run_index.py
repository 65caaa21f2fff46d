"""What is known of runs that are done, in one file beside them: of ten thousand, one look at each folder remains.

A folder's time changes when a file in it is replaced, and all that a run's view is made of are files that are replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fashion_dist.cluster.queue_view import Scheduler
from fashion_dist.cluster.run_view import RunView, read_run_views
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError
from fashion_dist.io import read_notes, write_private
from fashion_dist.paths import Home, RunDir
from fashion_dist.run_status import RunState
from shards.portable import user_id

_FORMAT = 2
_RECENT_S = 2.0
"""A folder that was changed a moment ago may change again within its clock's tick."""
_WORTH = 20
"""Fewer runs that have become known are not written down."""


def index_of(home: Home) -> Path:
    """The file, each user's own; may be removed."""
    return home.path / f"status-{user_id()}.json"


def read_indexed_views(home: Home, runs: Sequence[RunDir], scheduler: Scheduler | None = None) -> list[RunView]:
    """`read_run_views` of runs of a working folder, which reads the files of those alone that were not done before."""
    known, names = _read(index_of(home)), home.names.all()
    stamps = {run.run_id: _stamp(run.path) for run in runs}
    found: dict[str, RunView] = {}
    for name, stamp in stamps.items():
        entry = known.get(name)
        if stamp and isinstance(entry, dict) and entry.get("stamp") == stamp:
            with contextlib.suppress(TypeError, KeyError, AttributeError, ConfigError):  # of another version
                found[name] = dataclasses.replace(_view(entry["view"]), name=names.get(name, ""))
    fresh = read_run_views([run for run in runs if run.run_id not in found], scheduler)
    done = [view for view in fresh if view.state == "done" and view.there == "gone" and stamps[view.run_id]]
    if len(done) >= _WORTH:
        kept = {name: known[name] for name in found}
        kept |= {view.run_id: {"stamp": stamps[view.run_id], "view": view.to_json()} for view in done}
        with contextlib.suppress(OSError):  # a working folder of somebody else
            write_private(index_of(home), json.dumps({"format": _FORMAT, "runs": kept}, default=str))
    found |= {view.run_id: view for view in fresh}
    return [found[run.run_id] for run in runs]


def _read(path: Path) -> dict[str, Any]:
    values = read_notes(path)
    runs = values.get("runs") if values.get("format") == _FORMAT else None
    return runs if isinstance(runs, dict) else {}


def _stamp(folder: Path) -> str:
    """What changes when a file of the folder is replaced; empty where that may happen unseen."""
    try:
        facts = os.stat(folder)  # noqa: PTH116 - ten thousand times
    except OSError:
        return ""
    return "" if time.time() - facts.st_mtime < _RECENT_S else f"{facts.st_ino} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def _view(values: dict[str, Any]) -> RunView:
    job, log = values["job"], values["log"]
    return RunView(**{
        **values, "progress": RunState(**values["progress"]), "job": job and JobRef(**job), "log": log and Path(log)
    })  # fmt: skip
