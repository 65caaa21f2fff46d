"""Every path formula of the working folder. Nothing else in the project joins these paths.

HOME/                              --home, else $FASHION_DIST_HOME, else ./workspace
  shards/<dataset>/                a shard set (docs/shard-format.md), unless --shards or $FASHION_DIST_SHARDS says
  sources/<name>/                  shard sets of pictures that were predicted; may be removed
  hashes.json                      SHA-256 of large files by path, size and mtime; may be removed
  status-<uid>.json                what is known of runs that are done; may be removed
  networks.json                    what is known of libraries' networks and weights; may be removed
  decoders.json                    which ways of decoding are right on which GPU, driver and DALI; may be removed
  raw/                             data sets that were drawn rather than found
  weights/                         published weights that launching fetched for nodes without network
  sweeps/<sweep id>/               mode 0700
    sweep.json                     what was asked for and every trial of it; never changes
    arrays.json                    every submission: its job array or local queue, and the trials in it
    queue.json                     what the local queue has started
    journal.log                    Optuna's journal, where trials are searched for or stopped early
    decisions.jsonl                every decision about a trial, with its reason
    trials/<n>.json                what a searched trial was given when it started
    collected/                     tables of all trials, the best one's and the ensemble's submission
    logs/                          as a run's
  reports/<name>/                  pages of several runs
  names/<name>                     the id of the run that was given this name
  runs/<run id>/                   mode 0700
    config.json                    the resolved configuration with which the run began
    run.json                       shard set, its hash, the weights', versions, the command that made the run
    job.json                       the last submission: cluster, job id, nodes
    state.json                     what the run is doing now: state, epoch, step, best metric, samples/s
    lock.json                      the job that may write here
    attempts.json                  every start of the run and how it ended
    rendezvous/attempt-<n>.json    where the ranks of one start find each other
    heartbeats/                    rank_<r>.json, a rank's sign of life; node_<n>.json, what its machine was doing
    decode.json                    by which way the run decodes for GPUs, from its beginning
    metrics.jsonl                  one line per measured point; the truth about the run
    checkpoints/                   step-<step>/ folders, best/ ; see fashion_dist.train.checkpoint
    errors/rank_<r>.json           a failing rank's own exception
    bad_samples/rank_<r>.jsonl     damaged samples that a rank skipped
    schema.json                    columns and class names of the shard set that the run learned from
    predictions/<split>/rank_<r>.parquet
    predictions/<split>.parquet, .csv, .json    the same with class names; and which pictures those were
    measures/<split>/              tables of a labelled split, such as its confusion matrix
    submission/                    the task's submission files; of other splits than test in submission/<split>/
    submission.json                how those of test were made: task, split, and options such as tuned thresholds
    report/                        pictures and the page
    then.json, then/<link>.json    what follows the run by itself, and how that ended; a sweep has them, too
    code/<hash>/                   the packages as they were at a launch with --snapshot; a sweep has it, too
    logs/                          stdout, stderr and job files of every submission
    wandb/, tensorboard/
    synced.jsonl                   which lines of metrics.jsonl a W&B server has been sent
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.errors import ConfigError, unknown
from fashion_dist.io import read_json
from fashion_dist.run_names import RunNames
from shards import program
from shards.safe_io import expanded


class Below:
    """Attribute of a folder's class: the path of what has this name in the folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Any, kind: type) -> Path:
        return Path(folder.path, self.name)


class Each:
    """Method of a folder's class: the path of what has this name there, of one start, rank, node, split or trial."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Any, kind: type) -> Callable[[int | str], Path]:
        return lambda of: Path(folder.path, self.name.format(of))


@dataclass(frozen=True)
class _Made:
    """A folder that launching makes, two levels below the working folder."""

    path: Path
    code = Below("code")
    logs = Below("logs")

    @property
    def home(self) -> Home:
        """The working folder that it belongs to."""
        return Home(self.path.parent.parent)


@dataclass(frozen=True)
class RunDir(_Made):
    """The folder of one run."""

    config = Below("config.json")
    run = Below("run.json")
    job = Below("job.json")
    state = Below("state.json")
    decode = Below("decode.json")
    lock = Below("lock.json")
    metrics = Below("metrics.jsonl")
    synced = Below("synced.jsonl")
    checkpoints = Below("checkpoints")
    attempts = Below("attempts.json")
    heartbeats = Below("heartbeats")
    errors = Below("errors")
    report = Below("report")
    submission = Below("submission")
    submitted = Below("submission.json")
    tensorboard = Below("tensorboard")
    schema = Below("schema.json")
    rendezvous = Each("rendezvous/attempt-{}.json")
    heartbeat = Each("heartbeats/rank_{}.json")
    node_figures = Each("heartbeats/node_{}.json")
    error = Each("errors/rank_{}.json")
    bad_samples = Each("bad_samples/rank_{}.jsonl")
    measures = Each("measures/{}")
    predictions = Each("predictions/{}")

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    def submission_of(self, split: str) -> Path:
        """Folder of a split's submission files: `test`'s is `submission`, every other split has its own below it."""
        return self.submission if split == "test" else self.submission / split

    def named(self, split: str, ending: str) -> Path:
        """A split's predictions with class names as `parquet` or `csv`, or as `json` which pictures those were."""
        return self.path / "predictions" / f"{split}.{ending}"


@dataclass(frozen=True)
class SweepDir(_Made):
    """The folder of one sweep."""

    sweep = Below("sweep.json")
    arrays = Below("arrays.json")
    queue = Below("queue.json")
    journal = Below("journal.log")
    decisions = Below("decisions.jsonl")
    trial = Each("trials/{}.json")
    collected = Below("collected")

    @property
    def sweep_id(self) -> str:
        """The folder's name."""
        return self.path.name


@dataclass(frozen=True)
class Home:
    """The working folder."""

    path: Path
    elsewhere: Path | None = None
    """Where shard sets lie that may be anyone's: a folder of them, or one set; nothing is written there."""
    shards = Below("shards")
    sources = Below("sources")
    raw = Below("raw")
    runs = Below("runs")
    weights = Below("weights")
    hashes = Below("hashes.json")
    decoders = Below("decoders.json")
    networks = Below("networks.json")
    sweeps = Below("sweeps")
    reports = Below("reports")

    @classmethod
    def find(cls, home: str | None = None, shards: str | None = None) -> Home:
        """`home`, else `$FASHION_DIST_HOME`, else `./workspace`; made absolute, not created.

        `shards`, else `$FASHION_DIST_SHARDS`, is `elsewhere`.
        """
        chosen = expanded(home or os.environ.get("FASHION_DIST_HOME") or "workspace").absolute()
        text = str(chosen)
        if not text.isprintable() or "%" in text or "\\" in text:
            # Slurm and submitit expand % in file names, \\ keeps Slurm from it, and values reach #SBATCH lines.
            raise ConfigError(f"the working folder {text!r} may not have a %, \\ or control character in its path")
        found = shards or os.environ.get("FASHION_DIST_SHARDS")
        return cls(chosen, expanded(found).absolute() if found else None)

    @property
    def names(self) -> RunNames:
        """Names that were given to runs."""
        return RunNames(self.path / "names", self.runs)

    def shard_set(self, dataset: str) -> Path:
        """The folder of a dataset's shard set; it need not exist. Raises ConfigError where `elsewhere` is no folder."""
        if self.elsewhere is None:
            return self.shards / dataset
        if not self.elsewhere.is_dir():
            raise ConfigError(f"{self.elsewhere} is no folder of shard sets (--shards, $FASHION_DIST_SHARDS)")
        is_set = (self.elsewhere / "manifest.json").is_file()
        return self.elsewhere if is_set else self.elsewhere / dataset

    def run_dir(self, run_id: str) -> RunDir:
        """The folder of one run; it need not exist."""
        return RunDir(self.runs / run_id)

    def sweep_dir(self, sweep_id: str) -> SweepDir:
        """The folder of one sweep; it need not exist."""
        return SweepDir(self.sweeps / sweep_id)

    def all_runs(self) -> list[RunDir]:
        """Every run of the working folder, by their ids."""
        try:
            with os.scandir(self.runs) as entries:
                return [self.run_dir(name) for name in sorted(entry.name for entry in entries if entry.is_dir())]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def all_sweeps(self) -> list[SweepDir]:
        """Every sweep of the working folder, those that others have closed as well."""
        found = self.sweeps.iterdir() if self.sweeps.is_dir() else []
        return [SweepDir(path) for path in sorted(found) if _may_be_file(SweepDir(path).sweep)]

    def find_sweep(self, name: str) -> SweepDir | None:
        """The sweep that `name` means, a folder, a sweep id or a unique beginning of one; None where there is none.

        Raises:
            ConfigError: it begins several sweeps, or a sweep and a run.
        """
        if name and _may_be_file(SweepDir(Path(name)).sweep):
            return SweepDir(Path(name).absolute())
        if name in ("", ".", "..") or any(_may_be_file(run.config) for run in (RunDir(Path(name)), self.run_dir(name))):
            return None
        if _may_be_file(self.sweep_dir(name).sweep):
            return self.sweep_dir(name)
        if self.names.run_id(name):
            return None
        matches = [sweep for sweep in self.all_sweeps() if sweep.sweep_id.startswith(name)]
        runs = [f"run {run.run_id}" for run in self.all_runs() if run.run_id.startswith(name)]
        if len(matches) > 1 or (matches and runs):
            raise _ambiguous(repr(name), self.path, [*(f"sweep {sweep.sweep_id}" for sweep in matches), *runs])
        return matches[0] if matches else None

    def find_run(self, name: str, *, is_waiting_found: bool = False) -> RunDir:
        """The run that `name` means: a folder, a run id, a name that was given to it, or a unique beginning of an id.

        With `is_waiting_found` it is also the folder that a trial which has not started will have.

        Raises:
            ConfigError: no such run (the nearest are named) or several.
        """
        if _may_be_file(RunDir(Path(name)).config):
            return RunDir(Path(name).absolute())
        ids = [run.run_id for run in self.all_runs()]
        if name in ids:
            return self.run_dir(name)
        if named := self.names.run_id(name):
            return self.run_dir(named)
        matches = [run_id for run_id in ids if name and run_id.startswith(name)]
        if len(matches) == 1:
            return self.run_dir(matches[0])
        waiting = {} if matches else self.trials(name)
        if len(waiting) == 1:
            ((run_id, [(sweep, number), *_]),) = waiting.items()
            if is_waiting_found:
                return self.run_dir(run_id)
            raise ConfigError(
                f"run {name!r} is trial {number} of sweep {sweep.sweep_id} and has not started; "
                f"{program.command('status')} {run_id} says where it stands"
            )
        if matches := matches or list(waiting):
            raise _ambiguous(f"run {name!r}", self.runs, matches)
        if not ids:
            raise ConfigError(
                f"no run {name!r}: {self.runs} has no runs yet; {program.command('launch')} --task NAME makes one"
            )
        raise unknown("run", name, [*self.names.all().values(), *ids])

    def trials(self, name: str) -> dict[str, list[tuple[SweepDir, int]]]:
        """Run id -> its sweeps and its number in each, of the trials of that id; else of those whose ids begin so."""
        found: dict[str, list[tuple[SweepDir, int]]] = {}
        for sweep in self.all_sweeps() if name else []:
            trials = read_json(sweep.sweep).get("trials", [])
            for number, trial in enumerate(trials if isinstance(trials, list) else []):
                run_id = trial.get("run_id") if isinstance(trial, dict) else None
                if isinstance(run_id, str) and Path(run_id).name == run_id and run_id.startswith(name):
                    found.setdefault(run_id, []).append((sweep, number))
        return {name: found[name]} if name in found else found


def _ambiguous(what: str, folder: Path, found: list[str]) -> ConfigError:
    return ConfigError(f"{what} is ambiguous in {folder}: {', '.join(found[:8])}{' ...' * (len(found) > 8)}")


def _may_be_file(path: Path) -> bool:
    """Whether a file is there, or may be in a folder that is closed to this user."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
