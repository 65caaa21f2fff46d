"""What a sweep searches: W&B's YAML, or lists of values on the command line, read into a checked `Spec`.

The words are W&B's (docs.wandb.ai, "Sweep configuration"), so that one file serves both. What needs their server or
names a program is read and not used: `program`, `command`, `entity`, `project`, `description`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fashion_dist.config import RENAMED, Config
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.settings import require_setting
from shards.safe_io import expanded
from shards.typed_json import is_sound

Kind = Literal["constant", "categorical", "int_uniform", "uniform", "log_uniform_values", "normal"]

_TOP = (
    "command", "description", "early_terminate", "entity", "method", "metric", "name", "parameters", "program",
    "project", "run_cap",
)  # fmt: skip
_METHODS = ("grid", "random", "bayes")
_KEYS: dict[Kind, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"),
}
_NUMBERS = ("min", "max", "mu", "sigma")
_MOST_RUNGS, _MOST_EPOCHS, _MOST_VALUES = 64, 1 << 40, 1_000_000
FORMER: Mapping[str, str] = {now: was for was, now in RENAMED.items()}
"""A setting that was renamed -> its first name."""
_WANDB_CHOICE = "categorical_w_probabilities"


@dataclass(frozen=True)
class Parameter:
    """One setting and what it may be.

    Args:
        key: a setting of the configuration, such as `optim.lr`.
        kind: how it is drawn.
        values: of `constant` (one) and `categorical`.
        probabilities: of the values; empty is equal ones.
        low: least value, or the mean of `normal`.
        high: largest value, or the standard deviation of `normal`.
    """

    key: str
    kind: Kind
    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def first_key(self) -> str:
        """What `key` was called first: draws and Optuna's journal go by it, so that a sweep goes on as it began."""
        return FORMER.get(self.key, self.key)

    @property
    def points(self) -> int:
        """How many values a range of whole numbers has; 0 for other kinds."""
        return int(self.high) - int(self.low) + 1 if self.kind == "int_uniform" else 0


@dataclass(frozen=True)
class HyperbandConfig:
    """W&B's `early_terminate: hyperband`: rungs at `min_iter * eta ** k` epochs, or at `max_iter / eta ** k`."""

    rungs: tuple[int, ...]
    eta: float
    strict: bool = True
    """Whether a trial is judged by its value at the rung, or by its best so far; W&B's default is the latter."""


@dataclass(frozen=True)
class Spec:
    """A sweep, whole and checked; see `parse`."""

    method: Literal["grid", "random", "bayes"]
    parameters: tuple[Parameter, ...]
    metric: str = ""
    """A metric of the validation split; empty is the task's own."""
    run_cap: int = 0
    """Largest number of trials; 0 is as many as the grid has."""
    halving: HyperbandConfig | None = None
    name: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """W&B's words for the same."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError where there is none."""
    try:
        import yaml
    except ImportError:
        raise ConfigError("sweep files need PyYAML: pip install 'fashion-dist[sweep]'") from None
    try:
        text = expanded(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--sweep {path}: {words}; allowed: a file in W&B's sweep format") from None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _require_single(root)
        loaded = loader.construct_document(root) if root is not None else None
        _require_bounded(loaded)
        values = json.loads(json.dumps(loaded, default=str))  # a bare 2026-01-31 is text
    except RecursionError:
        raise ConfigError(f"{path} is not a sweep: nested too deep") from None
    # Errors of PyYAML's own code, at odd words, among them.
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a sweep: allowed: a mapping with method and parameters")
    return values


def _require_single(root: Any) -> None:
    """Refuse a key that stands twice in a mapping, of which YAML would take the last without a word."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or isinstance(node.value, str) or id(node) in seen:
            continue
        seen.add(id(node))
        keys: list[str] = []
        for part in node.value:  # of a mapping a pair
            key, *values = part if isinstance(part, tuple) else (None, part)
            waiting += [key, *values]
            if key is not None and key.value in keys:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} stands twice there; allowed: once")
            keys += [key.value] if key is not None and isinstance(key.value, str) else []


def _require_bounded(values: Any) -> None:
    """Raises ValueError for what a few lines of YAML can be: lists of lists without end, and numbers of any length."""
    found = [values]
    for value in found:  # which grows
        if len(found) > _MOST_VALUES:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values, or a list that holds itself")
        if isinstance(value, Mapping | list | tuple | set):
            found += [*value, *value.values()] if isinstance(value, Mapping) else value
        elif type(value) is int and not is_sound(value):
            raise ValueError("a whole number takes more than 64 bits")


def from_settings(settings: Iterable[str], config: Config) -> dict[str, Any]:
    """W&B's words for `key=value` and `key=value,value` settings; what is a tuple in the configuration stays whole.

    Raises:
        ConfigError: a setting without a key or a value, or named twice.
    """
    flat = config.flat()
    parameters: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = (part.strip() for part in setting.partition("="))
        if not separator or not key:
            raise ConfigError(f"--set takes key=value or key=value,value, not {setting!r}")
        if key in parameters:
            raise ConfigError(f"--set names {key} twice; allowed: all its values in one list, {key}=a,b")
        whole = isinstance(flat.get(key), tuple)
        values = [text] if whole else [part.strip() for part in text.split(",")]
        if not all(values) and len(values) > 1:
            raise ConfigError(f"--set {setting!r} has an empty value between commas")
        parameters[key] = {"value": values[0]} if len(values) == 1 else {"values": values}
    return parameters


def parse(values: Mapping[str, Any], where: str, keys: Sequence[str]) -> Spec:
    """The sweep that W&B's words describe; `where` names the file in errors, and `keys` are the settings that there
    are.

    Raises:
        ConfigError: an unknown key, a parameter that is no setting, an empty list, a range that is none, or a random
            sweep without `run_cap`.
    """
    try:
        return _spec(values, keys)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _spec(values: Mapping[str, Any], keys: Sequence[str]) -> Spec:
    for key in values:
        if key not in _TOP:
            raise unknown("key", str(key), _TOP)
    method = values.get("method")
    if method not in _METHODS:
        raise ConfigError(f"method is {method!r}; allowed: {', '.join(_METHODS)}")
    name = values.get("name", "")
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
        raise ConfigError(f"name is {name!r}; allowed: one line of text")
    run_cap = values.get("run_cap", 0)
    if not _is_int(run_cap) or run_cap < 0 or (run_cap == 0 and "run_cap" in values):
        raise ConfigError(f"run_cap is {run_cap!r}; allowed: a whole number of 1 or more")
    if method != "grid" and not run_cap:
        raise ConfigError(f"a {method} sweep has no end without run_cap; allowed: run_cap: N with N >= 1")
    parameters = tuple(_parameters(values.get("parameters", {}), keys, ""))
    seen: set[str] = set()
    for parameter in parameters:
        if parameter.key in seen:
            raise ConfigError(f"parameter {parameter.key} is named twice, nested and with a dot")
        seen.add(parameter.key)
        if method == "grid":
            _require_countable(parameter)
    metric = _metric(values.get("metric", {}))
    halving = _halving(values["early_terminate"]) if "early_terminate" in values else None
    return Spec(method, parameters, metric, run_cap, halving, name, dict(values))


def _require_countable(parameter: Parameter) -> None:
    if parameter.kind not in ("constant", "categorical", "int_uniform") or parameter.probabilities:
        raise ConfigError(
            f"parameter {parameter.key} is {parameter.kind}, which a grid cannot count; allowed in a grid: "
            f"value, values, or whole numbers with min and max"
        )


def _metric(values: object) -> str:
    if not isinstance(values, Mapping) or any(key not in ("name", "goal") for key in values):
        raise ConfigError(f"metric is {values!r}; allowed: its name, and goal: maximize or minimize")
    if not values:
        return ""
    name, goal = values.get("name"), values.get("goal", "minimize")
    if not isinstance(name, str) or not name:
        raise ConfigError("metric has no name; allowed: a metric of the validation split, such as accuracy")
    if goal not in ("maximize", "minimize"):
        raise ConfigError(f"metric.goal is {goal!r}; allowed: maximize, minimize")
    split, _, rest = name.rpartition("/")
    if split not in ("", "val"):
        raise ConfigError(f"metric {name!r} is not one of the validation split; allowed: val/{rest} or {rest}")
    return rest


def _halving(values: object) -> HyperbandConfig:
    known = ("eta", "max_iter", "min_iter", "s", "strict", "type")
    if not isinstance(values, Mapping):
        raise ConfigError(f"early_terminate is {values!r}; allowed: type: hyperband with min_iter, eta and s")
    for key in values:
        if key not in known:
            raise unknown("key of early_terminate", str(key), known)
    if values.get("type") != "hyperband":
        raise ConfigError(f"early_terminate.type is {values.get('type')!r}; allowed: hyperband")
    eta, least, most, count = (values.get(key) for key in ("eta", "min_iter", "max_iter", "s"))
    eta = 3 if eta is None else eta
    if not is_sound(eta) or not 1 < eta <= 1000:
        raise ConfigError(f"early_terminate.eta is {eta!r}; allowed: a number above 1, at most 1000")
    for name, value in (("min_iter", least), ("max_iter", most), ("s", count)):
        if value is not None and (not _is_int(value) or not 1 <= value < _MOST_EPOCHS):
            raise ConfigError(f"early_terminate.{name} is {value!r}; allowed: a whole number of 1 or more")
    if (least is None) == (most is None) or (most is not None and count is None):
        raise ConfigError("early_terminate needs min_iter, or max_iter with s")
    steps = range(min(count or 32, _MOST_RUNGS))
    if least is not None:
        rungs = [least * eta**k for k in steps]
    else:
        assert most is not None
        rungs = [most / eta ** (k + 1) for k in steps]
    strict = values.get("strict", True)
    if not isinstance(strict, bool):
        raise ConfigError(f"early_terminate.strict is {strict!r}; allowed: true, false")
    return HyperbandConfig(tuple(sorted({int(rung) for rung in rungs if 1 <= rung < _MOST_EPOCHS})), float(eta), strict)


def require_whole(values: Mapping[str, Any], where: str) -> None:
    """Refuse what W&B would pass over in silence; for new sweeps, for those of before are read as they were.

    Raises:
        ConfigError: it has `min_iter` and `s`.
    """
    halving = values.get("early_terminate", {})
    if isinstance(halving, Mapping) and "min_iter" in halving and "s" in halving:
        raise ConfigError(
            f"{where}: early_terminate has min_iter and s, of which W&B takes s with max_iter alone; allowed: "
            f"min_iter, or max_iter with s"
        )


def by_names(values: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> Mapping[str, Any]:
    """W&B's words with the settings among `parameters`, nested ones too, that are in `names` under the names there."""
    if not isinstance(parameters := values.get("parameters"), Mapping):
        return values
    made = {}
    for name, entry in parameters.items():
        key = f"{prefix}{name}"
        new = names[key].removeprefix(prefix) if key in names else name
        made[new] = by_names(entry, names, f"{key}.") if isinstance(entry, Mapping) else entry
    return {**values, "parameters": made}


def _parameters(values: object, keys: Sequence[str], prefix: str) -> Iterable[Parameter]:
    """In W&B's order: by name, nested ones where their parent stands."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"parameters{'.' + prefix[:-1] if prefix else ''} is not a mapping")
    for name, entry in sorted(values.items(), key=lambda item: str(item[0])):
        key = f"{prefix}{name}"
        if not isinstance(entry, Mapping):
            raise ConfigError(f"parameter {key} is {entry!r}; allowed: value, values, or min and max")
        if "parameters" in entry:
            if len(entry) > 1:
                raise ConfigError(f"parameter {key} has nested parameters and {sorted(set(entry))[0]!r}")
            yield from _parameters(entry["parameters"], keys, f"{key}.")
        else:
            require_setting(key, keys)
            yield _parameter(key, entry)


def _parameter(key: str, entry: Mapping[str, Any]) -> Parameter:
    # YAML 1.1 reads 1e-3 as text, and people write it all the time.
    entry = {name: _as_number(value) if name in _NUMBERS else value for name, value in entry.items()}
    kind = _kind(key, entry)
    for name in entry:
        if name not in (*_KEYS[kind], "distribution"):
            raise ConfigError(f"parameter {key}: {unknown(f'key for {kind}', str(name), _KEYS[kind])}")
    if kind == "constant":
        if "value" not in entry:
            raise ConfigError(f"parameter {key} is constant and has no value")
        return Parameter(key, kind, (entry["value"],))
    if kind == "categorical":
        return _choice(key, entry)
    if kind == "normal":
        mean, deviation = entry.get("mu", 0.0), entry.get("sigma", 1.0)
        if not (is_sound(mean) and is_sound(deviation) and deviation >= 0):
            raise ConfigError(f"parameter {key}: mu = {mean!r}, sigma = {deviation!r}; allowed: sigma >= 0")
        return Parameter(key, kind, (), (), float(mean), float(deviation))
    low: Any = entry.get("min")
    high: Any = entry.get("max")
    good = _is_int if kind == "int_uniform" else is_sound
    if not good(low) or not good(high) or low >= high or (kind == "log_uniform_values" and low <= 0):
        least = " above 0" if kind == "log_uniform_values" else ""
        raise ConfigError(
            f"parameter {key}: min = {low!r}, max = {high!r}; allowed: numbers{least}, min below max"
            + (", whole ones" if kind == "int_uniform" else "")
        )
    return Parameter(key, kind, (), (), low, high)


def _kind(key: str, entry: Mapping[str, Any]) -> Kind:
    named = entry.get("distribution")
    if named is not None:
        kinds: dict[str, Kind] = {kind: kind for kind in _KEYS} | {_WANDB_CHOICE: "categorical"}
        if not isinstance(named, str) or named not in kinds:
            raise ConfigError(f"parameter {key}: {unknown('distribution', str(named), kinds)}")
        return kinds[named]
    if "value" in entry:
        return "constant"
    if "values" in entry:
        return "categorical"
    if "min" in entry or "max" in entry:
        return "int_uniform" if _is_int(entry.get("min")) and _is_int(entry.get("max")) else "uniform"
    raise ConfigError(f"parameter {key} has no value; allowed: value, values, min and max, or distribution")


def _choice(key: str, entry: Mapping[str, Any]) -> Parameter:
    values, odds = entry.get("values"), entry.get("probabilities", ())
    if not isinstance(values, list) or not values:
        raise ConfigError(f"parameter {key} has no values to try; allowed: a list of at least one")
    listed = isinstance(odds, list | tuple) and (not odds or len(odds) == len(values))
    if not listed or not all(is_sound(p) and p >= 0 for p in odds):
        raise ConfigError(f"parameter {key}: allowed: one probability of 0 or more for each of the values")
    if odds and not math.isclose(sum(odds), 1.0, abs_tol=1e-6):
        raise ConfigError(f"parameter {key}: its probabilities add up to {sum(odds):g}; allowed: 1")
    frozen = tuple(tuple(value) if isinstance(value, list) else value for value in values)
    return Parameter(key, "categorical", frozen, tuple(map(float, odds)))


def _as_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_int(value: object) -> bool:
    return type(value) is int and is_sound(value)
