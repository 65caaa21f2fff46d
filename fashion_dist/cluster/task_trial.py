"""A task's methods tried on the first images of its set, before a job waits in a queue only to find out what they lack.

The targets of any task; all the rest of a user's, as ours are tried by tests, in a child that imports torch for it:

    echo '{"config": {...}, "shard_set": DIR}' | python -m fashion_dist.cluster.task_trial
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fashion_dist import tasks
from fashion_dist.cluster import code_version, network_check
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.io import read_json
from fashion_dist.models import pretrained, registry
from fashion_dist.paths import Home
from shards import ShardSet

EXAMPLES, IMAGES = 2048, 2
"""Of validation, how many are evaluated at most, and how many images they are made of, for these cost time."""


def require_task(task: tasks.Task, config: Config, shard_set: ShardSet, home: Home) -> None:
    """Refuse labels of which none is known, and a task whose methods do not give what is asked of them.

    Raises:
        ConfigError: one sentence with the method, what it gives and what is allowed.
    """
    names = task.columns_of(config)
    if not names or task.overrides("build_examples") or task.overrides("image_targets"):
        return
    for name in ("train", "val"):
        pieces = (_targets(task, config, columns) for columns in shard_set.split(name).iter_columns(*names))
        if not any(tasks.ExampleSet.of_images(0, targets).labelled for targets in pieces):
            listed = ", ".join(map(repr, names))
            raise ConfigError(f"{shard_set.path}: no image of split {name!r} has a known {listed}; allowed: some do")
    if config.task in tasks.OURS:
        return
    asked = [dict(config.options), dataclasses.asdict(config.model), config.data.image_px, config.train.monitor]
    key = json.dumps([config.task, asked, code_version.code_hash(), shard_set.training_hash], sort_keys=True)
    if key in read_json(home.networks):
        return
    if "torch" in sys.modules:
        with sys.modules["torch"].random.fork_rng(devices=()):
            try_task(config, shard_set)
    else:
        values = {"config": config.plain(), "shard_set": str(shard_set.path)}
        try:
            network_check.ask_child(__name__, values, f"the task {config.task}")
        except network_check.NoAnswerError as error:  # as where this machine has too little memory for its network
            print(f"{error}; it is submitted untried", file=sys.stderr, flush=True)
            return
    pretrained.remember(home.networks, key, {})


def _targets(task: tasks.Task, config: Config, columns: tasks.Arrays) -> tasks.Arrays:
    allowed = "NumPy arrays of numbers by name, with a row for each of the columns' rows"
    rows = next(iter(columns.values())).shape[:1]
    targets: tasks.Arrays = _tried(
        config.task, "targets", allowed, lambda: task.targets(columns, config),
        lambda _, values: values.dtype.kind in "biuf" and values.shape[:1] == rows,
    )  # fmt: skip
    return targets


def _tried(
    task: str, method: str, allowed: str, call: Callable[[], Any], fits: Callable[[str, Any], bool],
    needed: Iterable[str] = (),
) -> Any:  # fmt: skip
    """The mapping that a user's method gives, with the `needed` names, of which every item `fits`; else ConfigError."""
    try:
        found = call()
        named = found if isinstance(found, Mapping) else {"": found}
        wrong = [_shown(*item) for item in named.items() if named is not found or not fits(*item)]
        wrong += [f"no {name!r}" for name in needed if not wrong and name not in named]
        if named and not wrong:
            return found
        fault = f"gives {', '.join(wrong) or 'nothing'}"
    except InputError:
        raise
    except Exception as error:  # the file is the user's, and may do anything
        frames = traceback.extract_tb(error.__traceback__)
        line = [f"line {frame.lineno}: " for frame in frames if Path(frame.filename).stem == task] or [""]
        fault = f"fails ({line[-1]}{type(error).__name__}: {' '.join(str(error).split())[:300]})"
    raise ConfigError(f"{method}() of task {task!r} {fault}; allowed: {allowed}")


def _shown(name: object, value: Any) -> str:
    kind = f"{value.dtype} {list(value.shape) or value.item()}" if hasattr(value, "dtype") else type(value).__name__
    return f"{kind} for {name!r}" if name else kind


def try_task(config: Config, shard_set: ShardSet) -> None:
    """Refuse a task that would fail in training, validation or prediction; raises ConfigError as `require_task`."""
    import torch
    from torch import Tensor

    from fashion_dist.models.backbone import require_built, require_learning
    from fashion_dist.tasks.common.base import over, sum_of
    from fashion_dist.train.distributed import ProcessGroup, World

    task, px, check = tasks.load(config.task), config.data.image_px, partial(_tried, config.task)
    split = shard_set.split("val")
    split = dataclasses.replace(split, samples=min(len(split), EXAMPLES))
    arrays = _targets(task, config, split.columns(*task.columns_of(config)))
    known = np.any([(values.reshape(len(split), -1) >= 0).any(axis=1) for values in arrays.values()], axis=0)
    if not known.any():  # the split's known labels come later
        return
    if registry.locate(config.model.name)[0] == "ours":
        require_built(config.model, px)
    every = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
    few = {name: values[np.resize(np.flatnonzero(known), IMAGES)] for name, values in every.items()}
    monitor = task.monitored(config).metric
    images, index = torch.rand(IMAGES, 3, px, px), torch.arange(len(split))

    def fits(_: str, value: Any, *shape: int) -> bool:
        return isinstance(value, Tensor) and value.shape == shape and bool(value.isfinite().all())

    def is_output(_: str, value: Any) -> bool:
        return isinstance(value, Tensor)

    def repeated(value: Tensor) -> Tensor:
        return value[index % IMAGES] if value.shape[:1] == (IMAGES,) else value

    def is_storable(name: str, value: Any) -> bool:
        stored = isinstance(value, np.ndarray) and value.dtype.kind in "biufU" and value.dtype.isnative
        return stored and value.ndim in (1, 2) and len(value) == IMAGES and name not in ("index", "key")

    def measured() -> dict[str, float]:
        evaluator = task.evaluator(split, config)
        evaluator.update({name: repeated(value) for name, value in answers.items()}, every, index)
        evaluator.reduce(ProcessGroup(World(), torch.device("cpu")))
        try:
            metrics = evaluator.compute()
            evaluator.tables()
        except (ValueError, ArithmeticError):  # as of one class alone, with which a sorted split begins
            if len(split) == len(shard_set.split("val")):
                raise
            return {monitor: 0.0}
        return metrics

    # fmt: off
    module = "a torch module that gives tensors by name, in training and in evaluation"
    model = check("build_model", module, lambda: {"": task.build_model(config, shard_set.schema)},
                  lambda _, value: isinstance(value, torch.nn.Module))[""]
    outputs = check("build_model", module, lambda: model.train()(images), is_output)
    allowed = "finite tensors without dimensions by name, the same names of losses() and counts()"
    counts = check("counts", allowed, lambda: task.counts(few, config), fits)
    losses = check("losses", allowed, lambda: task.losses(outputs, few, config),
                   lambda name, value: fits(name, value) and name in counts, counts)
    least = check("objective", allowed, lambda: task.objective(losses, counts, outputs, config), fits)
    check("losses", "a loss that all parameters of the network take part in",
          lambda: {"": require_learning(model, sum_of(over(least, counts)))}, fits)
    check("train_metrics", "tensors [2] by name, a numerator and a denominator",
          lambda: task.train_metrics(outputs, few, config) or {"": torch.zeros(2)},
          lambda name, value: fits(name, value, 2))
    with torch.inference_mode():
        answers = check("build_model", module, lambda: model.eval()(images), is_output)
    check("predictions", "NumPy arrays [N] or [N, K] of numbers or text by name, N images, none called index or key",
          lambda: task.predictions(answers, config), is_storable)
    check("evaluator", f"metrics by name, {monitor} among them, as float() gives them",
          measured, lambda _, value: isinstance(value, (int, float)), [monitor])
    # fmt: on


def main() -> None:
    """Answer the question on stdin."""
    warnings.simplefilter("ignore")  # of few images, and a network that knows nothing
    asked, answer = json.load(sys.stdin), {}
    try:
        try_task(Config.read(asked["config"])[0], ShardSet.open(asked["shard_set"]))
    except InputError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
