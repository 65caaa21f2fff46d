"""What a job asks of a cluster: the presets in `presets/*.toml`, and the flags that replace parts of them."""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.errors import ConfigError, unknown

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
    """0 trains on CPUs."""
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
    """Shell lines that run on the first node before the ranks start, such as `module load`."""
    srun_args: tuple[str, ...] = ()
    """Further arguments of srun."""
    network_interface: str = ""
    """Interface of the ranks' traffic, such as `ib0`; empty is the one that routes to the first node."""

    def __post_init__(self) -> None:
        least = {"nodes": 1, "time_min": 1}
        most = {"nodes": 100_000, "gpus_per_node": 1000, "tasks_per_node": 10_000}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, high = least.get(field.name, 0), most.get(field.name, 10_000_000)
            if isinstance(value, (int, float)) and not low <= value <= high:
                allowed = f"{low} or more" if value < low else f"{low} to {high:,}"
                raise ConfigError(f"{field.name} = {value} is not possible; allowed: {allowed}")
            for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
                if not text.isprintable():
                    raise ConfigError(f"{field.name} has a control character in {text!r}")
        if self.signal_delay_s >= self.time_min * 60:
            # A short trial job: half of its time is better than a signal that never comes.
            object.__setattr__(self, "signal_delay_s", self.time_min * 30)

    @property
    def ranks_per_node(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Processes of the job."""
        return self.nodes * self.ranks_per_node

    def replace(self, **values: Any) -> Resources:
        """These resources with the values that are not None put in their places."""
        return dataclasses.replace(self, **{key: value for key, value in values.items() if value is not None})


def preset_folders() -> list[Path]:
    """Where presets lie: `$FASHION_DIST_CLUSTERS` first, then those of the project."""
    own = os.environ.get("FASHION_DIST_CLUSTERS")
    shipped = Path(__file__).parent / "presets"
    return [*([Path(own).expanduser()] if own else []), shipped]


def preset_names() -> list[str]:
    """The presets there are."""
    return sorted({path.stem for folder in preset_folders() for path in folder.glob("*.toml")})


def load_preset(name: str) -> Resources:
    """The preset of that name, or of that file when it ends in `.toml`; empty is the plain defaults.

    Raises:
        ConfigError: no such preset, or one with a key or value that cannot be; the known ones are named.
    """
    if not name:
        return Resources()
    if name.endswith(".toml"):
        candidates = [Path(name).expanduser()]
    else:
        candidates = [folder / f"{name}.toml" for folder in preset_folders()] if name in preset_names() else []
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise unknown("preset", name, preset_names())
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset {path} is not TOML: {error}") from None
    return parse(values, str(path))


def parse(values: Mapping[str, Any], where: str) -> Resources:
    """Resources from a preset's keys; raises ConfigError naming `where`, the key and what is allowed."""
    hints = typing.get_type_hints(Resources)
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: {unknown('key', key, hints)}")
        made[key] = tuple(value) if isinstance(value, list) else value
        kind = hints[key]
        good = {
            str: isinstance(value, str),
            int: isinstance(value, int) and not isinstance(value, bool),
            float: isinstance(value, (int, float)) and not isinstance(value, bool),
        }.get(kind, isinstance(value, list) and all(isinstance(item, str) for item in value))
        if not good:
            wanted = {str: "text", int: "a whole number", float: "a number"}.get(kind, "a list of text")
            raise ConfigError(f"{where}: {key} takes {wanted}, not {value!r}")
    try:
        return Resources(**made)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
