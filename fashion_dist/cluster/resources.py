"""What a job asks of a cluster: the presets in `presets/*.toml`, and the flags that replace parts of them."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashion_dist.cluster import sbatch_options
from fashion_dist.errors import ConfigError, unknown
from shards.safe_io import expanded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Resources:
    """What one job asks for; the defaults suit a cluster nobody described.

    Values reach `#SBATCH` lines, so text with control characters is refused here, once for all.
    """

    description: str = ""
    """Which cluster this is, for people."""
    partition: str = ""
    """Empty is the cluster's default partition."""
    account: str = ""
    """Empty is the user's default account."""
    qos: str = ""
    """Quality of service; empty is the default."""
    constraint: str = ""
    """Features that the nodes must have."""
    nodes: int = 1
    """Nodes of the job."""
    gpus_per_node: int = 0
    """0 trains on CPUs, unless `sbatch` has a `gres` with GPUs."""
    gpu_type: str = ""
    """Their type, as the cluster calls it, such as `a100`; empty is any."""
    gpu_mem_gb: float = 0
    """Memory of one, in 10^9 bytes; 0 is not known. Nothing is asked of Slurm by it."""
    tasks_per_node: int = 0
    """Ranks of a node; 0 is one per GPU, or one without GPUs."""
    cpus_per_task: int = 0
    """0 is what the nodes of the partition have per rank, at most 16."""
    mem_gb: float = 0
    """Of a node; 0 is the partition's default."""
    time_min: int = 60
    """Time limit; a job that reaches it saves, is requeued and goes on."""
    signal_delay_s: int = 120
    """How long before the time limit the job is told to save."""
    setup: tuple[str, ...] = ()
    """Shell commands that run on the first node before the ranks start, such as `module load`; one that fails ends the
    job."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of srun."""
    network_interface: str = ""
    """Interface of the ranks' traffic, such as `ib0`; empty is the one that routes to the first node."""
    sbatch: Mapping[str, str] = field(default_factory=dict)
    """Further options of sbatch by their long names; an empty value is a bare flag."""
    export: tuple[str, ...] = ()
    """Variables of the launching shell that the job gets besides the usual ones; their values are written nowhere."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the job gets with these values."""
    container: str = ""
    """Image in which the ranks run: Apptainer's file or URI, or `pyxis:IMAGE`; empty is none."""
    container_python: str = "python3"
    """Python in the image."""

    def __post_init__(self) -> None:
        least = {"nodes": 1, "time_min": 1}
        most = {"nodes": 100_000, "gpus_per_node": 1000, "tasks_per_node": 10_000}
        for entry in dataclasses.fields(self):
            name, value = entry.name, getattr(self, entry.name)
            low, high = least.get(name, 0), most.get(name, 10_000_000)
            if isinstance(value, (int, float)) and not low <= value <= high:
                allowed = f"{low} or more" if value < low else f"{low} to {high:,}"
                raise ConfigError(f"{name} = {value} is not possible; allowed: {allowed}")
            texts = value.items() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
            for text in (" ".join(text) if isinstance(text, tuple) else text for text in texts):
                if isinstance(text, str) and not text.isprintable():
                    raise ConfigError(f"{name} has a control character in {text!r}")
        _require_variables(self.export, self.environment)
        if line := next((line for line in self.setup if line.lstrip().startswith("#SBATCH")), ""):
            raise ConfigError(f"setup runs shell commands, and {line!r} is none; options of sbatch go into [sbatch]")
        if self.signal_delay_s >= self.time_min * 60:
            # A short trial job: half of its time is better than a signal that never comes.
            object.__setattr__(self, "signal_delay_s", self.time_min * 30)

    @property
    def ranks_per_node(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(1, self.gpus)

    @property
    def gpus(self) -> int:
        """GPUs of a node."""
        return self.gpus_per_node or sbatch_options.gpu_count(self.sbatch.get("gres", ""))

    @property
    def gpus_if_known(self) -> int | None:
        """GPUs of a node; None where options of sbatch ask for some whose number only Slurm knows."""
        return self.gpus or (
            None if any(sbatch_options.asks_for_gpus(*option) for option in self.sbatch.items()) else 0
        )

    @property
    def of_one_rank(self) -> Resources:
        """The same for one rank, with one GPU if any."""
        options = {name: text for name, text in self.sbatch.items() if not sbatch_options.asks_for_gpus(name, text)}
        return self.replace(nodes=1, tasks_per_node=1, gpus_per_node=int(self.gpus_if_known != 0), sbatch=options)

    @property
    def ranks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.ranks_per_node

    @property
    def gpus_asked(self) -> str:
        """GPUs per node as sbatch takes them, such as `a100:4`; empty without."""
        return f"{self.gpu_type}:{self.gpus_per_node}".lstrip(":") if self.gpus_per_node else ""

    def replace(self, **values: Any) -> Resources:
        """These resources with the values that are not None put in their places."""
        return dataclasses.replace(self, **{key: value for key, value in values.items() if value is not None})


def preset_folders() -> list[Path]:
    """Where presets lie: `$FASHION_DIST_CLUSTERS` first, then those of the project."""
    own = os.environ.get("FASHION_DIST_CLUSTERS")
    shipped = Path(__file__).parent / "presets"
    return [*([expanded(own)] if own else []), shipped]


def preset_names() -> list[str]:
    """The presets there are."""
    return sorted({path.stem for folder in preset_folders() for path in folder.glob("*.toml")})


@dataclass(frozen=True)
class Preset:
    """A preset as it stands in its file.

    Args:
        path: the file; None is none, the plain defaults.
        text: its content.
        values: what it gives, by field of `Resources`.
    """

    path: Path | None = None
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> Preset:
        """The preset of that name, or of that file when it ends in `.toml`; empty is none.

        Raises:
            ConfigError: no such preset, or one with a key or value that cannot be; the known ones are named.
        """
        if not name:
            return cls()
        if name.endswith(".toml"):
            candidates = [expanded(name)]
        else:
            candidates = [folder / f"{name}.toml" for folder in preset_folders()] if name in preset_names() else []
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise unknown("preset", name, preset_names())
        try:
            text = path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"preset {path} is not TOML: {error}") from None
        return cls(path, text, parse(values, str(path)))


def parse(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A preset's keys by field of `Resources`; raises ConfigError naming `where`, the key and what is allowed."""
    hints = typing.get_type_hints(Resources)
    options = {key: values[key] for key in values if key.replace("_", "-") in (*sbatch_options.NAMED, "time")}
    made: dict[str, Any] = {}
    table: dict[str, Any] = {}
    for key, value in values.items():
        if key in options:
            continue
        if key not in hints or key == "gpu_type":
            named = [option.replace("-", "_") for option in sbatch_options.NAMED]
            raise ConfigError(f"{where}: {unknown('key', key, [*hints, *named, 'time'])}")
        if key == "sbatch":
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: sbatch takes a table, [sbatch], not {value!r}")
            table = value
        elif key == "gpus_per_node":
            made |= sbatch_options.gpus(value, f"{where}: {key}")
        else:
            made[key] = _value(key, value, hints[key], where)
    names = [key.replace("_", "-") for key in (*options, *table)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where}: {', '.join(twice)} stands twice; allowed: once, at the top or in [sbatch]")
    options |= table
    if "time" in options and "time_min" in made:
        raise ConfigError(f"{where}: time and time_min say the same in two ways; allowed: one of them")
    layer = sbatch_options.layer(options, where)
    if twice := sorted(layer.keys() & made.keys()):
        raise ConfigError(f"{where}: {', '.join(twice)} stands twice, once in [sbatch]; allowed: once")
    made |= layer
    sbatch_options.require_single(made, where)
    made = sbatch_options.merge({}, made)
    try:
        Resources(**made)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return made


def _value(key: str, value: Any, kind: Any, where: str) -> Any:
    """A preset's value as the field has it."""
    if key == "environment":
        if not isinstance(value, dict) or not all(isinstance(item, (str, int)) for item in value.values()):
            raise ConfigError(f"{where}: environment takes a table of text, [environment], not {value!r}")
        return {name: str(item) for name, item in value.items()}
    good = {
        str: isinstance(value, str),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, (int, float)) and not isinstance(value, bool),
    }.get(kind, isinstance(value, list) and all(isinstance(item, str) for item in value))
    if not good:
        wanted = {str: "text", int: "a whole number", float: "a number"}.get(kind, "a list of text")
        raise ConfigError(f"{where}: {key} takes {wanted}, not {value!r}")
    return tuple(value) if isinstance(value, list) else value


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)


def _require_variables(export: tuple[str, ...], environment: Mapping[str, str]) -> None:
    for name in (*export, *environment):
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(f"a variable is not called {name!r}; allowed: letters, digits and _")
    if secret := next((name for name in environment if _SECRET.search(name)), ""):
        raise ConfigError(
            f"[environment] is written into files, and {secret} sounds like a secret; --export {secret} (export = "
            f'["{secret}"]) hands it on from the shell and writes it nowhere'
        )


def given(
    preset: Preset, flags: Mapping[str, Any], variables: Mapping[str, str], before: Resources | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What is asked for, and where each of it was given: a preset, replaced by the user's SBATCH_* variables, replaced
    by flags, as sbatch does with scripts.

    `flags` are fields of `Resources`, with sbatch's options under `sbatch`; None replaces nothing. What a run that goes
    on had `before` stands for the preset.

    Raises:
        ConfigError: a flag or a variable that cannot be.
    """
    base = dict(preset.values)
    where = str(preset.path) if preset.path is not None else ""
    origins = sbatch_options.lines_of(preset.text, [*base, *base.get("sbatch", {})], where)
    if before is not None:
        base, origins = {f.name: getattr(before, f.name) for f in dataclasses.fields(before)}, {}
    from_shell, of_shell = sbatch_options.from_environment(variables)
    typed = {key: value for key, value in flags.items() if value is not None and value != ()}
    if "gpus_per_node" in typed:
        typed |= sbatch_options.gpus(typed["gpus_per_node"])
    options = sbatch_options.layer(typed.pop("sbatch", {}))
    if twice := sorted(options.keys() & typed.keys()):
        raise ConfigError(f"{', '.join(twice)} is given twice, once as an option of sbatch; allowed: once")
    typed |= options
    sbatch_options.require_single(typed)
    values = sbatch_options.merge(sbatch_options.merge(base, from_shell), typed)
    names = [*(name for name in typed if name not in ("sbatch", "gpu_type")), *typed.get("sbatch", {})]
    origins |= of_shell | {name: f"--{name.replace('_', '-')}" for name in names}
    held = {**values, **values["sbatch"]}
    return values, {name: where for name, where in origins.items() if name in held}
