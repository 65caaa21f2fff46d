"""Options of sbatch by their own long names, as presets, `--sbatch` and the user's SBATCH_* variables give them.

What `Resources` has a field for goes there; everything else is handed to sbatch as it is, which alone knows all of its
options and a site's plugins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fashion_dist.errors import ConfigError
from shards.typed_json import is_count

NAMED = (
    "gres", "exclusive", "reservation", "exclude", "nodelist", "mem", "mem-per-cpu", "mem-per-gpu", "mail-type",
    "mail-user", "dependency", "licenses", "hint",
)  # fmt: skip
"""Those with flags and preset keys of their own, there with `_` for `-`."""
FIELDS = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "nodes": "nodes",
    "gpus-per-node": "gpus_per_node", "ntasks-per-node": "tasks_per_node", "cpus-per-task": "cpus_per_task",
    "time": "time_min",
}  # fmt: skip
"""sbatch's option -> the field of `Resources` that holds it."""
_OURS = {
    "array", "comment", "chdir", "error", "export", "export-file", "help", "input", "job-name", "no-requeue", "ntasks",
    "open-mode", "output", "parsable", "quiet", "requeue", "signal", "test-only", "usage", "verbose", "version", "wait",
    "wrap",
}  # fmt: skip
VARIABLES = {
    "SBATCH_ACCOUNT": "account", "SBATCH_CONSTRAINT": "constraint", "SBATCH_CPUS_PER_GPU": "cpus-per-gpu",
    "SBATCH_DISTRIBUTION": "distribution", "SBATCH_EXCLUSIVE": "exclusive", "SBATCH_GPUS": "gpus",
    "SBATCH_GPUS_PER_NODE": "gpus-per-node", "SBATCH_GPUS_PER_TASK": "gpus-per-task", "SBATCH_GRES": "gres",
    "SBATCH_HINT": "hint", "SBATCH_MEM_PER_CPU": "mem-per-cpu", "SBATCH_MEM_PER_GPU": "mem-per-gpu",
    "SBATCH_MEM_PER_NODE": "mem", "SBATCH_PARTITION": "partition", "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation", "SBATCH_TIMELIMIT": "time", "SBATCH_WCKEY": "wckey",
}  # fmt: skip
"""The user's own variables that hold for our jobs as for any other: they come after flags and before scripts."""
_GROUPS = (
    frozenset({"mem_gb", "mem", "mem-per-cpu", "mem-per-gpu"}),
    frozenset({"gpus_per_node", "gres", "gpus", "gpus-per-task", "gpus-per-socket"}),
    frozenset({"cpus_per_task", "cpus-per-gpu"}),
)
"""Names of one thing: the last that is given holds, and two at once contradict each other."""
_NAME = re.compile(r"[a-z][a-z0-9-]+")
NO_LIMIT_MIN = 60 * 24 * 365
"""What stands for no time limit."""
Layer = Mapping[str, Any]
"""Values of `Resources` by field, with all of sbatch's options in one mapping under `sbatch`."""


def pairs(words: Iterable[str]) -> dict[str, str]:
    """`key=value` words, or a bare key, as sbatch's options; raises ConfigError for what is none."""
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        found[name.removeprefix("--")] = value
    return found


def layer(options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """A layer of sbatch's options, by their long names.

    Args:
        options: name, with `-` or `_`, to a value; True and an empty text are a bare flag, False takes it away.
        where: they stand, for the error.

    Raises:
        ConfigError: a name that is none, one that is ours to give, or a value that cannot be.
    """
    fields: dict[str, Any] = {}
    kept: dict[str, str | None] = {}
    at = f"{where}: " if where else ""
    for key, value in options.items():
        name = key.replace("_", "-")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{at}unknown sbatch option {key!r}; allowed: the long names of `sbatch --help`")
        if name in _OURS:
            raise ConfigError(f"{at}the sbatch option {name} is given by fashion-dist itself and cannot be changed")
        if name == "clusters":
            raise ConfigError(
                f"{at}another cluster's jobs cannot be followed from here; launch on that one's login node"
            )
        if isinstance(value, (dict, list, float)):
            raise ConfigError(f"{at}the sbatch option {name} takes text, a whole number, true or false, not {value!r}")
        text = "" if value is True else None if value is False else str(value)
        if text is not None and not text.isprintable():
            raise ConfigError(f"{at}the sbatch option {name} has a control character in {text!r}")
        if name not in FIELDS:
            kept[name] = text
        elif name == "time":
            fields["time_min"] = minutes(str(value), f"{at}time")
        elif name == "gpus-per-node":
            fields |= gpus(value, f"{at}gpus_per_node")
        elif FIELDS[name] in ("nodes", "tasks_per_node", "cpus_per_task"):
            if not is_count(text or ""):
                raise ConfigError(f"{at}{name} takes a whole number, not {value!r}")
            fields[FIELDS[name]] = int(text or 0)
        else:
            fields[FIELDS[name]] = text or ""
    return {**fields, **({"sbatch": kept} if kept else {})}


def require_single(values: Layer, where: str = "") -> None:
    """Refuse a layer that says one thing twice, such as GPUs by `gres` and by `gpus_per_node`."""
    open_ = [name for name in ("gpus_per_node", "mem_gb", "cpus_per_task") if values.get(name) == 0]
    names = set(_names(values)).difference(open_)
    for group in _GROUPS:
        if len(both := sorted(group.intersection(names))) > 1:
            at = f"{where}: " if where else ""
            raise ConfigError(f"{at}{' and '.join(both)} say the same in two ways; allowed: one of them")


def merge(before: Layer, after: Layer) -> dict[str, Any]:
    """`before` with what `after` has in its place."""
    taken = set(_names(after))
    gone = {name for group in _GROUPS if group & taken for name in group - taken}
    options = {name: text for name, text in before.get("sbatch", {}).items() if name not in gone}
    options |= after.get("sbatch", {})
    kept = {name: value for name, value in before.items() if name not in gone}
    if "gpus_per_node" in gone:
        kept.pop("gpu_type", None)
    merged = {**kept, **after, "sbatch": {name: text for name, text in options.items() if text is not None}}
    if "environment" in after:
        merged["environment"] = {**before.get("environment", {}), **after["environment"]}
    if "export" in after:
        merged["export"] = tuple(dict.fromkeys([*before.get("export", ()), *after["export"]]))
    return merged


def _names(values: Layer) -> list[str]:
    """Everything that a layer gives; a `gres` without GPUs is no other word for GPUs."""
    options = values.get("sbatch", {}).items()
    kept = [name for name, text in options if name != "gres" or asks_for_gpus(name, text or "")]
    return [*(name for name in values if name != "sbatch"), *kept]


def asks_for_gpus(option: str, text: str) -> bool:
    """Whether an option of sbatch asks for GPUs, or for shares of some."""
    is_gres = option == "gres" or option.startswith("tres-per-")
    return option in _GROUPS[1] - {"gres"} or (is_gres and bool(re.search(r"\b(gpu|mps|shard)\b", text)))


def gives_cpus(options: Mapping[str, str]) -> bool:
    """Whether options of sbatch say how many CPUs a task has."""
    return "cpus-per-gpu" in options or "cpu" in options.get("tres-per-task", "")


def gpu_count(gres: str) -> int:
    """The GPUs of a node that `--gres` text asks for, such as 4 of `gpu:a100:4,nvme:1`."""
    counts = (part.rpartition(":")[2] for part in gpu_parts(gres))
    return sum(int(count) if is_count(count) else 1 for count in counts)


def gpu_parts(gres: str) -> list[str]:
    """The parts of GRES text that are GPUs, without their sockets: `gpu:3090:4` of `gpu:3090:4(S:0,2),nvme:1`."""
    parts = (part.strip().removeprefix("gres/") for part in re.sub(r"\([^)]*\)", "", gres).split(","))
    return [part for part in parts if part.partition(":")[0] == "gpu"]


def gpus(value: object, where: str = "--gpus-per-node") -> dict[str, Any]:
    """`gpus_per_node` and `gpu_type` of `4` or `a100:4`; raises ConfigError for anything else."""
    kind, _, count = str(value).rpartition(":")
    if isinstance(value, bool) or not is_count(count) or not (kind == "" or re.fullmatch(r"[A-Za-z0-9_.+-]+", kind)):
        raise ConfigError(f"{where} takes a number or TYPE:NUMBER, such as 4 or a100:4, not {value!r}")
    return {"gpus_per_node": int(count), "gpu_type": kind}


def minutes(text: str, where: str = "--time") -> int:
    """A time limit in sbatch's own form, in minutes, rounded up.

    That is minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, or with seconds; what means
    no limit there is a year.
    """
    form = r"(?:(N)-(N)(?::(N))?(?::(N))?|(?:(N):(?=N:))?(N)(?::(N))?)".replace("N", "[0-9]{1,9}")
    found = re.fullmatch(form, "0" if text.strip().lower() in ("unlimited", "infinite", "-1") else text.strip())
    if found is None:
        raise ConfigError(f"{where} takes sbatch's form, such as 90, 1:30:00 or 1-00:00:00, not {text!r}")
    days, of_day, of_hour, rest, hours, mins, secs = (int(part or 0) for part in found.groups())
    total = ((days * 24 + of_day + hours) * 60 + of_hour + mins) * 60 + rest + secs
    return -(-total // 60) or NO_LIMIT_MIN


def from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The layer of the user's SBATCH_* variables, and which variable each value is from."""
    options: dict[str, Any] = {}
    origins: dict[str, str] = {}
    empty = {"exclusive": True, "gpus-per-node": "0", "time": ""}  # what else is empty asks for nothing
    for variable, name in VARIABLES.items():
        if (value := environment.get(variable)) is not None:
            options[name] = value or empty.get(name, False)
            origins[FIELDS.get(name, name)] = variable
    made = layer(options, "the environment's SBATCH_* variables")
    require_single(made, "the environment's SBATCH_* variables")
    return made, origins


def lines_of(text: str, names: Iterable[str], where: str) -> dict[str, str]:
    """Where each of these names is given in a preset's text, as `FILE, line 4`."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        key = re.match(r"""\s*["']?([A-Za-z][\w-]*)["']?\s*=""", line)
        for name in names:
            option = {"time_min": "time", "tasks_per_node": "ntasks-per-node"}.get(name, name)
            if key and key[1].replace("_", "-") in (name.replace("_", "-"), option.replace("_", "-")):
                found.setdefault(name, f"{where}, line {number}")
    return found


def blamed(words: str, values: Layer, origins: Mapping[str, str]) -> str:
    """Where the options stand that sbatch's words of refusal are about; all that were given where they name none.

    `values` were asked for, by name; `origins` says where each was given: a line of a preset, a variable, a flag.
    """
    said = words.lower()
    about = {
        name: where
        for name, where in origins.items()
        if name.replace("_", "-") in said
        or name.replace("_", " ") in said
        or (len(value := str(values.get(name))) > 2 and value in words)
    }
    shown = {name: f"{name} = {values[name]}".removesuffix(" = ") for name in about or origins if name in values}
    told = [f"{text} ({origins[name]})" for name, text in shown.items()]
    return f"; asked for: {', '.join(told)}" if told else ""
