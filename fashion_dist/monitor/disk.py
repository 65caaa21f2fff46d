"""What lies where in the working folder, and what may be removed of it: files that we wrote, of runs that do not live.

A folder of a run holds names that are ours alone. Where people put files as well (submission, report) a list says which
we wrote. Everything else stays and is named; no link is followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fashion_dist.cluster import permissions, run_lock, slurm
from fashion_dist.cluster.run_view import RunView, read_run_views
from fashion_dist.errors import ConfigError
from fashion_dist.io import OwnFiles, is_listed, names_in, read_json
from fashion_dist.paths import Home, RunDir, SweepDir
from fashion_dist.sweep.view import read_sweep_view
from shards.portable import user_id
from shards.safe_io import read_regular

_OURS = {
    "config.json", "run.json", "job.json", "state.json", "attempts.json", "lock.json", "metrics.jsonl", "synced.jsonl",
    "sweep.json", "arrays.json", "queue.json", "journal.log", "journal.log.lock", "decisions.jsonl", "trials",
    "checkpoints", "errors", "heartbeats", "rendezvous", "predictions", "measures", "bad_samples", "logs", "code",
    "wandb", "tensorboard", "schema.json", "decode.json", "submission.json", "then.json", "then",
    ".then.guard", ".lock.guard", ".launch.guard",
}  # fmt: skip
_SHARED = ("submission", "report", "collected")
"""Folders in which people put files of their own; their list names ours."""
_HEAVY = ("checkpoints", "code", "wandb", "rendezvous", "heartbeats")
"""What a run that keeps its best weights does without; W&B's folders are made anew from metrics.jsonl by sync."""
Following = Callable[[Path], Sequence[str]]
"""What follows a run or a sweep and may live, by its folder; see `chain.not_over`."""
_STEP = re.compile(r"step-\d{8}|\.(step|best)-\d{8}\.[0-9a-f]+")


@dataclass
class Removal:
    """What is, or would be, removed, with its bytes; and what is kept, and why: it is not ours, or may not go."""

    paths: dict[Path, int] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(self.paths.values())


def size_of(path: Path) -> tuple[int, int]:
    """Bytes on disk and number of files of a file or a folder; links count as themselves."""
    try:
        facts = path.lstat()
    except OSError:
        return 0, 0
    size, files = facts.st_blocks * 512, 1
    if stat.S_ISDIR(facts.st_mode):
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                more, count = size_of(Path(entry.path))
                size, files = size + more, files + count
    return size, files


def human(size: float) -> str:
    """Bytes in words, such as `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def runs_of(home: Home, sweep: SweepDir) -> list[RunDir]:
    """The runs that a sweep has started; trials that are runs of their own as well are not among them."""
    return [run for run in home.all_runs() if Path(_sweep_of(run)).name == sweep.sweep_id]  # it may have been moved


def _waiting(sweeps: Iterable[SweepDir], following: Following) -> dict[str, str]:
    """Run id -> sweep id of the trials that wait or run: the folder of a sweep has what those begin with; of all of
    them where what follows the sweep is not over.
    """
    found: dict[str, str] = {}
    for view in map(read_sweep_view, sweeps):
        sweep = view.sweep.folder
        follows = following(sweep.path)
        live = [trial for trial in view.trials if follows or trial.view.is_active]
        found |= {trial.view.run_id or str(trial.number): sweep.sweep_id for trial in live}
    return found


def clean(
    runs: Sequence[RunDir], sweeps: Sequence[SweepDir], following: Following, *, keep_best: bool, older_days: float,
    dry_run: bool,
) -> Removal:  # fmt: skip
    """Remove runs, and sweeps with their trials; with `keep_best` all but best weights and what says how they went.

    Runs that changed in the last `older_days` stay, and what `following` says something of.

    Raises:
        ConfigError: a run that was named lives, or is somebody else's.
    """
    found = Removal()
    trials = {run.path: run for sweep in sweeps for run in runs_of(sweep.home, sweep)}
    every = list({**{run.path: run for run in runs}, **trials}.values())
    of_runs = {run.home.sweep_dir(Path(name).name) for run in runs if (name := _sweep_of(run))}
    waiting = _waiting({*sweeps, *(sweep for sweep in of_runs if sweep.sweep.is_file())}, following)
    staying = set()
    for run, view in zip(every, read_run_views(every), strict=True):
        if why := _why_not(run, view, older_days, following, waiting.get(run.run_id, "")):
            found.kept[run.run_id] = why
            staying.add(run.path)
        else:
            _clean_folder(run.path, found, keep_best=keep_best, dry_run=dry_run)
            if view.name and not keep_best and run.run_id not in found.kept:
                _remove([run.home.names.folder / view.name], found, dry_run=dry_run)
    for sweep in sweeps:
        alive = sum(path in staying for path in trials)
        if alive or (alive := sum(of == sweep.sweep_id for of in waiting.values())):
            found.kept[sweep.sweep_id] = f"{alive} of its trials stay"
        elif not keep_best:
            _clean_folder(sweep.path, found, keep_best=False, dry_run=dry_run)
    _remove(staged(), found, dry_run=dry_run)
    return found


def _sweep_of(run: RunDir) -> str:
    return str(read_json(run.job).get("sweep", ""))


def _why_not(run: RunDir, view: RunView, older_days: float, following: Following, waits_in: str = "") -> str:
    """Why a run stays; empty where it may go."""
    if view.state == "unreadable":
        return view.detail
    if waits_in:
        return f"sweep {waits_in} is not over"
    if view.is_active or view.there in ("queued", "running"):
        return f"{view.state}, and its job may live ({view.job})"
    if follows := following(run.path):
        return f"{', '.join(follows)} may live, which follows it"
    age = (time.time() - _changed(run)) / 86400
    return f"changed {age:.1f} days ago" if age < older_days else ""


def _changed(run: RunDir) -> float:
    """When the run's files last changed; its state says so of a copied folder too."""
    times = [path.stat().st_mtime for path in (run.state, run.job, run.metrics) if path.exists()]
    return max(times, default=run.path.stat().st_mtime)


def _clean_folder(folder: Path, found: Removal, *, keep_best: bool, dry_run: bool) -> None:
    """One run's or sweep's folder, under the lock that launching takes."""
    permissions.require_own(folder, "only its owner removes it")
    with run_lock.file_lock(folder, "launch"):
        if read_json(folder / "lock.json"):
            found.kept[folder.name] = "its lock.json says that a job holds it"
            return
        mine = list(_heavy(folder) if keep_best else _everything(folder, found))
        _remove(mine, found, dry_run=dry_run)
    if not keep_best and not dry_run:
        for name in (".launch.guard", ".lock.guard"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # with files in it that are not ours
            folder.rmdir()


def _heavy(folder: Path) -> Iterator[Path]:
    for name in _HEAVY:
        path = folder / name
        if name != "checkpoints":
            yield from [path] if os.path.lexists(path) else []
        elif path.is_dir() and not path.is_symlink():
            newest = max((entry.name for entry in path.glob("step-*")), default="")
            # Where a run goes on that is not done.
            kept = newest if read_json(folder / "state.json").get("state") != "done" else ""
            yield from (e for e in sorted(path.iterdir()) if _STEP.fullmatch(e.name) and e.name != kept)


def _everything(folder: Path, found: Removal) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in (".launch.guard", ".lock.guard"):
            continue  # held while the rest goes
        if path.name in _SHARED and path.is_dir() and not path.is_symlink():
            mine = set(_listed(path))
            yield from (path / name for name in sorted(mine) if os.path.lexists(path / name))
            others = names_in(path) - mine - {OwnFiles.LIST}
            if others:
                found.kept |= {str(path / name): "not ours" for name in sorted(others)}
            else:
                yield path
        elif path.name in _OURS:
            yield path
        else:
            found.kept[str(path)] = "not ours"


def _listed(folder: Path) -> list[str]:
    try:
        return [name for name in read_regular(folder / OwnFiles.LIST).decode().splitlines() if Path(name).name == name]
    except FileNotFoundError:
        return []


def _remove(paths: Iterable[Path], found: Removal, *, dry_run: bool) -> None:
    for path in paths:
        if any(parent in found.paths for parent in path.parents):
            continue
        found.paths[path] = size_of(path)[0]
        if dry_run:
            continue
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{path} could not be removed: {error.strerror or error}") from None


def staged() -> list[Path]:
    """Copies of shards on this machine's own disk, while no rank of this user runs here that may read them."""
    ranks = ("fashion_dist.cluster.pickled_rank", "fashion_dist.cluster.worker", "fashion_dist.sweep.trial")
    if any(slurm.find_process(module) is not None for module in ranks):
        return []
    roots = {Path(root) for root in (os.environ.get("TMPDIR"), tempfile.gettempdir()) if root}
    bases = [root / f"fashion-dist-{user_id()}" for root in roots]
    own = [base for base in bases if not base.is_symlink() and base.is_dir() and base.stat().st_uid == user_id()]
    return sorted(path for base in own for path in base.iterdir() if re.fullmatch(r"[0-9a-f]{16}", path.name))


def usage(home: Home) -> list[tuple[str, int, int]]:
    """(what, bytes, files) of everything in a working folder, the largest first."""
    parts = (home.runs, home.sweeps, home.shards, home.reports)
    paths = [folder / name for folder in parts for name in names_in(folder)]
    paths += [home.path / name for name in names_in(home.path) - {part.name for part in parts}]
    rows = [(str(path.relative_to(home.path)), *size_of(path)) for path in sorted(paths)]
    return sorted(rows, key=lambda row: -row[1])


def checkpoints_share(home: Home) -> int:
    """Bytes of the checkpoints that `clean --keep-best` would remove."""
    runs = [run for run in home.all_runs() if run.checkpoints.is_dir()]
    return sum(size_of(path)[0] for run in runs for path in _heavy(run.path))


def free(path: Path) -> str:
    """What the filesystem of a folder has left for this user, bytes and files; a quota that it shows counts."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    facts = os.statvfs(there)
    text = f"{human(facts.f_bavail * facts.f_frsize)} free of {human(facts.f_blocks * facts.f_frsize)}"
    return f"{text}, {facts.f_favail:,} files more" if facts.f_files else text


_LOOKED_AT = 50
"""Runs that are looked at for one like another: a launch has a job id within a second, however many there are."""


def needs(home: Home, task: str, model: str, count: int = 1) -> str:
    """What `count` runs of a network on a task will occupy, as one of them that is done does, and what is free."""
    sizes = []
    for run in [run for run in home.all_runs() if run.run_id.startswith(f"{task}-")][:_LOOKED_AT]:
        network = read_json(run.config).get("model", {})
        alike = isinstance(network, dict) and network.get("name") == model
        if alike and is_listed(run.state) and read_json(run.state).get("state") == "done":
            sizes.append((*size_of(run.path), run.run_id))
    if not sizes:
        return f"disk: {free(home.path)}"
    size, files, name = max(sizes)
    of = f"{count:,} runs take" if count > 1 else "a run takes"
    return f"disk: {of} about {human(count * size)} in {count * files:,} files, as {name} does; {free(home.path)}"
