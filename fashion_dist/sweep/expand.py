"""A sweep's trials, without a server: the same list for the same sweep on every machine and in every process.

A grid has W&B's order: parameters by name, the last one varying fastest. A random draw is a function of (seed, trial,
parameter), so a sweep with a larger `run_cap` begins with the trials of the smaller one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fashion_dist.errors import ConfigError
from fashion_dist.sweep.spec import Parameter, Spec

Settings = dict[str, Any]

MOST_WITHOUT_ASKING, MOST = 10_000, 1_000_000


def count(spec: Spec, seeds: int) -> int:
    """How many trials the sweep has, without making any."""
    if spec.method != "grid":
        return spec.run_cap * seeds
    points = math.prod(parameter.points or len(choices(parameter)) for parameter in spec.parameters)
    return (min(points, spec.run_cap) if spec.run_cap else points) * seeds


def require_few(spec: Spec, seeds: int, yes: bool) -> None:
    """Refuse an accident: thousands of jobs nobody meant, and what no list in memory holds."""
    if (trials := count(spec, seeds)) > (MOST if yes else MOST_WITHOUT_ASKING):
        how = "" if yes else " without --yes"
        raise ConfigError(f"this sweep has {trials:,} trials; allowed{how}: {MOST if yes else MOST_WITHOUT_ASKING:,}")


def expand(spec: Spec, seed: int) -> list[Settings]:
    """The settings of every trial of a `grid` or `random` sweep, each distinct, in order."""
    assert spec.method != "bayes", "a search knows a trial's settings when the trial starts"
    if spec.method == "grid":
        most = spec.run_cap or None  # of a list of this length, a product that is cut there sees no more
        lists = [[(parameter.key, value) for value in choices(parameter, most)] for parameter in spec.parameters]
        points: Iterable[Settings] = (dict(point) for point in itertools.product(*lists))
        return list(itertools.islice(points, spec.run_cap or None))
    drawn = (draw(spec.parameters, seed, trial) for trial in range(spec.run_cap))
    return list({repr(point): point for point in drawn}.values())


def choices(parameter: Parameter, most: int | None = None) -> list[Any]:
    """The distinct values of a parameter that can be counted, of a range the first `most`; 1.0 and 1 are one value."""
    if parameter.kind == "int_uniform":
        return list(range(int(parameter.low), int(parameter.high) + 1)[:most])
    found: dict[tuple[bool, str], Any] = {}
    for value in parameter.values:
        whole = isinstance(value, float) and value.is_integer()
        found.setdefault((isinstance(value, bool), repr(int(value) if whole else value)), value)
    return list(found.values())


def draw(parameters: Sequence[Parameter], seed: int, trial: int) -> Settings:
    """One random point."""
    return {
        parameter.key: _draw(parameter, random.Random(f"{seed} {trial} {parameter.first_key}"))
        for parameter in parameters
    }


def _draw(parameter: Parameter, generator: random.Random) -> Any:
    low, high = parameter.low, parameter.high
    if parameter.kind in ("constant", "categorical"):
        return generator.choices(parameter.values, parameter.probabilities or None)[0]
    if parameter.kind == "int_uniform":
        return generator.randint(int(low), int(high))
    if parameter.kind == "uniform":
        return generator.uniform(low, high)
    if parameter.kind == "log_uniform_values":
        return min(high, max(low, math.exp(generator.uniform(math.log(low), math.log(high)))))
    return generator.normalvariate(low, high)


def repeated(points: Sequence[Settings], seeds: int, first_seed: int) -> list[Settings]:
    """Every point with `seeds` seeds of the training, one after the other."""
    if seeds == 1:
        return list(points)
    return [{**point, "train.seed": first_seed + repeat} for point in points for repeat in range(seeds)]


def texts(settings: Mapping[str, Any]) -> list[str]:
    """The settings as `key=value`, which `Config.override` reads.

    Raises:
        ConfigError: a value that no setting can have.
    """
    return [f"{key}={_text(key, value)}" for key, value in settings.items()]


def _text(key: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_text(key, part) for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return str(value)
    raise ConfigError(f"{key} = {value!r} is not possible; allowed: a number, text, true, false, or a list of them")
