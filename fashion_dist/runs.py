"""Runs that exist: their id, and their folder, configuration and shard set together."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_dist import tasks
from fashion_dist.config import Config
from fashion_dist.errors import CheckpointError, ConfigError, InputError
from fashion_dist.io import parse_dataclass, read_object
from fashion_dist.models import pretrained
from fashion_dist.paths import Home, RunDir
from fashion_dist.settings import gone_settings

if TYPE_CHECKING:
    from shards import Manifest, Schema, ShardSet


@dataclass(frozen=True)
class OpenRun:
    """A run's folder, the configuration with which it began, and the shard set it learns from.

    Args:
        gone: settings that it was made with and that are gone; its network cannot be built.
        learned: the schema of what it learned from, where `shard_set` is other data; None is that of `shard_set`.
    """

    folder: RunDir
    config: Config
    shard_set: ShardSet
    gone: Mapping[str, Any] = field(default_factory=dict)
    learned: Schema | None = None

    @property
    def called(self) -> str:
        """The name that the run was given, else its id."""
        return self.folder.home.names.all().get(self.folder.run_id, self.folder.run_id)

    @property
    def schema(self) -> Schema:
        """Columns and class names that its network was built for."""
        return self.learned or self.shard_set.schema


def run_id(config: Config, home: Home, data_hash: str) -> str:
    """The id of a run: a hash of what is asked for, and of the content of the data and the weights that it uses.

    `home` keeps hashes of large files; `data_hash` is of the splits that it learns from.

    Raises:
        ConfigError: the weights are not there, or were never published.
    """
    added = tasks.load(config.task).added
    options = {name: value for name, value in config.options.items() if name not in added or added[name] != value}
    return dataclasses.replace(config, options=options).run_id(data_hash, pretrained.content(config.model, home))


def id_on(config: Config, home: Home, manifest: Manifest) -> str:
    """`run_id` on a shard set: of its training hash, or as an earlier version named a run that is there."""
    ids = [run_id(config, home, noted) for noted in manifest.hashes]
    return next((found for found in ids if home.run_dir(found).path.exists()), ids[0])


def parse_config(values: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """`Config.read` with the task's own options: those `added` later are as before, and unknown ones are gone.

    Raises:
        InputError: it cannot be read, or its task is gone.
    """
    config, gone = Config.read(values)
    if config.task not in tasks.names():
        raise ConfigError(f"its task {config.task!r} is gone; known: {', '.join(tasks.names())}")
    task = tasks.load(config.task)
    gone |= {f"task.{name}": value for name, value in config.options.items() if name not in task.recipe.options}
    kept = {name: value for name, value in config.options.items() if name in task.recipe.options}
    return dataclasses.replace(config, options={**task.recipe.options, **task.added, **kept}), gone


def read_config(run: RunDir) -> tuple[Config, dict[str, Any]]:
    """The configuration with which a run began, and the settings in it that are gone.

    Raises:
        ConfigError: it cannot be read, or its task is gone; names the run and the file.
    """
    try:
        if values := read_object(run.config):
            return parse_config(values)
        raise ConfigError("it is not there, or empty")
    except InputError as error:
        raise ConfigError(f"the configuration of run {run.run_id}, {run.config}: {error}") from None


@dataclass(frozen=True)
class RunFacts:
    """What a run was made from: the content of run.json.

    Args:
        weights: what identifies the content of the weights that it began with; empty where that was not noted.
        weights_sha256: of their file, where there is one and that was noted.
        command: what the user typed.
        created: Unix time.
        versions: of Python and the libraries.
    """

    shard_set: str
    data_hash: str
    weights: str = ""
    weights_sha256: str = ""
    run_id: str = ""
    command: str = ""
    created: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


def read_facts(run: RunDir) -> RunFacts:
    """What a run was made from; raises InputError where that cannot be read: `FILE: why`."""
    values = read_object(run.run)
    if not values:
        raise ConfigError(f"{run.run}: not there, or empty")
    return parse_dataclass(RunFacts, values, run.run)


def own_config(run: RunDir) -> Config:
    """The configuration with which a run began, when it can be trained further.

    Raises:
        ConfigError: settings of it are gone, and so is what they did; or `read_config`'s.
    """
    config, gone = read_config(run)
    require_none_gone(run, gone)
    return config


def require_none_gone(run: RunDir, gone: Mapping[str, Any]) -> None:
    """Refuse a run that was made with settings that are gone."""
    if gone:
        raise ConfigError(
            f"run {run.run_id} was made with {gone_settings(gone)}: it cannot go on nor predict; status, report and "
            f"collect read what it left, and launching its task without them makes a new run"
        )


def taken_up(run: RunDir, config: Config) -> Config:
    """The configuration to train a run with: the one that it began with, else `config`, whose id the run has.

    Its weights are where `config` says: their content is the same, their place may be another.

    Raises:
        ConfigError: see `own_config`; or somebody has changed what is stored.
    """
    if not run.config.is_file():
        return config
    own = own_config(run)
    own = dataclasses.replace(own, model=dataclasses.replace(own.model, weights=config.model.weights))
    if run_id(own, run.home, "") != run_id(config, run.home, ""):
        changed = ", ".join(differences(own, config))
        raise ConfigError(
            f"{run.config} was changed by somebody ({changed}); --fresh starts over beside run {run.run_id}"
        )
    return own


def differences(own: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Key -> (`own` value, `other` value) where they differ; where a file of weights lies makes no difference."""
    mine, theirs = own.flat(), other.flat()
    found = {
        key: (mine.get(key), theirs.get(key))
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key)
    }
    if pretrained.is_file(own.model) and pretrained.is_file(other.model):
        found.pop("model.weights", None)
    return found


def open_run(folder: RunDir, *, strict: bool = True, moved: Home | None = None) -> OpenRun:
    """The run of a folder, checked to still have the shard set it was made with; that may be in another home, `moved`.

    `strict` refuses settings that are gone, which are nothing to who needs only its predictions.

    Raises:
        ConfigError: it cannot be read, or with `strict` has settings that are gone.
        InputError: its shard set is gone.
        CheckpointError: the splits that it learned from have been packed anew with other content.
    """
    from shards import ShardSet

    config, gone = read_config(folder)
    if strict:
        require_none_gone(folder, gone)
    made = read_facts(folder)
    shard_set = ShardSet.open(set_of(folder, config, made) if moved is None else moved.shard_set(config.dataset))
    if not shard_set.manifest.learned_as(made.data_hash):
        raise CheckpointError(
            f"{shard_set.path}: train or val has changed since run {folder.run_id} was made; launch the task again for "
            f"a run on it"
        )
    return OpenRun(folder, config, shard_set, gone)


def set_of(folder: RunDir, config: Config, made: RunFacts) -> Path:
    """Where a run's shard set lies: where it did, or here, where the working folder was moved or copied with it. Its
    hash tells whether it is the same.
    """
    path, here = Path(made.shard_set), folder.home.shard_set(config.dataset)
    return here if not path.is_dir() and here.is_dir() else path


def learned_schema(folder: RunDir, moved: Home | None = None) -> Schema:
    """Columns and class names that a run learned, also where its shard set is gone.

    Raises:
        InputError: an earlier version made the run, and its shard set is gone.
    """
    from shards import Schema

    if folder.schema.is_file():
        return Schema.from_json(read_object(folder.schema), folder.schema)
    return open_run(folder, strict=False, moved=moved).shard_set.schema


def learned_packing(folder: RunDir, moved: Home | None = None) -> dict[str, Any]:
    """The options that changed the pixels of what a run learned from when that was packed (`Manifest.reshaped`).

    Raises:
        InputError: what the run notes of it is none.
    """
    from shards import PackOptions
    from shards.manifest import RESHAPING

    noted = read_object(folder.schema).get("packed") if folder.schema.is_file() else None
    if noted is None:  # a run of an earlier version, of which nothing is known where its shard set is gone
        with contextlib.suppress(InputError, CheckpointError):
            noted = open_run(folder, strict=False, moved=moved).shard_set.manifest.reshaped
    options = parse_dataclass(PackOptions, noted or {}, f"packed, in {folder.schema}")
    return {name: value for name in RESHAPING if (value := getattr(options, name))}


def require_weights(run: OpenRun) -> None:
    """Refuse, with ConfigError, to begin with other weights than those that a run was made with."""
    made = read_facts(run.folder)
    if made.weights and pretrained.content(run.config.model, run.folder.home) != made.weights:
        raise ConfigError(
            f"the weights {run.config.model.weights} have changed since run {run.folder.run_id} was made; "
            f"launch the task again for a run with them"
        )
