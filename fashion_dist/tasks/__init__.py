"""Tasks: one file each, found by file name. Dropping a file with a `TASK` into this folder is all that adds a task.

A task says what to learn from the facts of a shard set, and how to answer: everything else (loading, training,
launching, surviving) is the same for all. Torch is imported inside the functions that need it, so that reading a
recipe takes milliseconds and `launch.py` can refuse bad input at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fashion_dist.config import Config, Scalar
from fashion_dist.errors import unknown
from fashion_dist.models import registry

if TYPE_CHECKING:  # numpy takes 0.1 s, and an unknown task is refused without it
    import numpy as np
    from torch import Tensor, nn

    from shards import Schema, ShardSet, Split

Arrays = Mapping[str, "np.ndarray"]
Columns = Mapping[str, "Sequence[object] | np.ndarray"]
Ask = Callable[[], Columns]
Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Examples:
    """What one split is trained or asked on.

    Args:
        images: int64 [N, k], the images each example is made of, as rows of the split.
        targets: arrays of length N, read-only; empty where the split has no labels.
    """

    images: np.ndarray
    targets: Arrays

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> bool:
        """Whether any label is known; unknown ones are negative in every task's targets."""
        return any(bool((values >= 0).any()) for values in self.targets.values())

    @classmethod
    def of_images(cls, images: int | np.ndarray) -> Examples:
        """One example an image, without targets: of so many first rows of a split, or of these."""
        import numpy as np

        rows = np.arange(images) if isinstance(images, int) else images
        return cls(rows.astype(np.int64)[:, None], {})

    def state(self) -> dict[str, Any]:
        """The examples as tensors, for a checkpoint."""
        import numpy as np
        import torch

        targets = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in self.targets.items()}
        return {"images": torch.from_numpy(np.ascontiguousarray(self.images)), "targets": targets}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Examples:
        """What `state` was taken of."""
        return cls(state["images"].cpu().numpy(), {name: t.cpu().numpy() for name, t in state["targets"].items()})

    def sample(self, fraction: float, least: int, seed: int) -> Examples:
        """`fraction` of the examples, in their order, but not fewer than `least` where there are so many."""
        import numpy as np

        count = min(len(self), max(least, round(fraction * len(self)), 1))
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Examples(self.images[rows], {name: values[rows] for name, values in self.targets.items()})


@dataclass(frozen=True)
class Task:
    """Everything about one task. The functions are pure; `N` is a batch, `outputs` what the model returned.

    Args:
        recipe: the configuration that trains it well; `recipe.options` are the task's own settings; completed with
            the defaults of its network.
        facts: the shard set's facts that it needs.
        build_model: (config, schema) -> module whose forward takes images [N, 3, H, W] and gives named outputs.
        loss: (outputs, targets, config) -> named scalars, of which `loss` is the one to minimise.
        rows: (outputs, config) -> prediction columns, N rows each.
        submission: (columns of predictions and facts in the split's order, split, config) -> {file name: text}.
        monitor: the metric that `best` means; more is better.
        unmixable: targets that say nothing of a mixed image (mixup, CutMix); its loss takes them as unknown, -1.
        shown_metrics: the metrics that the run's curves show beside it.
        targets: (facts, config) -> arrays of one row per image, where an example is one image.
        examples: (split, config, epoch, ask) -> Examples, where it is not; the training split's may change with the
            epoch, but not their number. `ask()` gives the `rows` of all the split's images by the current weights.
        sums: (outputs, targets, config) -> float64 tensors that add up over batches and ranks.
        metrics: (added sums, schema) -> named numbers.
        judge: (split, `rows` of the whole split in its order, config) -> named numbers, where they do not add up over
            batches; replaces `sums` and `metrics`.
        tables: (added sums, schema, config) -> {file name: text}, what is measured beside the metrics.
        class_names: (schema, config) -> what the numbers of its targets and rows `label` mean, for a task of classes.
        merges: task name -> (labels of that task) -> labels of this one, whose classes are groups of that one's.
        check: (shard set, config) -> None; raises ConfigError before anything is submitted.
        tune: (split, its `rows`, config) -> options that suit that split best, such as thresholds.
        settle: (evaluated model, validation split, its `rows`, config) -> the `rows` by the model as it is afterwards,
            for what a model takes from validation, such as a calibration. Only with `judge`; it changes buffers alone.
        added: options of the recipe that were added after runs had been made, with the values that mean what those did;
            see `config.added`.
        average: (`rows` of several models, of the same samples) -> what they answer together.
    """

    recipe: Config
    facts: tuple[str, ...]
    build_model: Callable[[Config, Schema], nn.Module]
    loss: Callable[[Tensors, Tensors, Config], dict[str, Tensor]]
    rows: Callable[[Tensors, Config], dict[str, np.ndarray]]
    submission: Callable[[Columns, Split, Config], dict[str, str]]
    monitor: str
    targets: Callable[[Arrays, Config], Arrays] | None = None
    examples: Callable[[Split, Config, int, Ask], Examples] | None = None
    sums: Callable[[Tensors, Tensors, Config], dict[str, Tensor]] | None = None
    metrics: Callable[[Arrays, Schema], dict[str, float]] | None = None
    judge: Callable[[Split, Columns, Config], dict[str, float]] | None = None
    unmixable: tuple[str, ...] = ()
    shown_metrics: tuple[str, ...] = ()
    tables: Callable[[Arrays, Schema, Config], dict[str, str]] | None = None
    class_names: Callable[[Schema, Config], Sequence[str]] | None = None
    merges: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    check: Callable[[ShardSet, Config], None] | None = None
    tune: Callable[[Split, Columns, Config], Mapping[str, Scalar]] | None = None
    settle: Callable[[nn.Module, Split, Columns, Config], Columns] | None = None
    average: Callable[[Sequence[Columns]], dict[str, np.ndarray]] | None = None
    added: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", registry.resolve(self.recipe))
        assert (self.targets is None) != (self.examples is None), "a task has targets, or examples of its own"
        assert (self.judge is None) == (self.sums is not None and self.metrics is not None), "a task has one measure"
        assert self.settle is None or self.judge is not None, "`settle` is given the rows that `judge` is given"

    def make_examples(self, split: Split, config: Config, epoch: int = 0, ask: Ask | None = None) -> Examples:
        """The examples of a split: the task's own, or one per image."""
        if self.examples is not None:
            return self.examples(split, config, epoch, ask or _nobody)
        import numpy as np

        assert self.targets is not None
        return Examples(np.arange(len(split), dtype=np.int64)[:, None], self.targets(split.columns(*self.facts), config))


def _nobody() -> Columns:
    raise AssertionError("only training asks what the current weights say")


def names() -> list[str]:
    """The tasks there are: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def load(name: str) -> Task:
    """The task of the module `name`; raises ConfigError naming the known ones."""
    if name not in names():
        raise unknown("task", name, names())
    task = importlib.import_module(f"{__name__}.{name}").TASK
    assert isinstance(task, Task), f"{__name__}.{name}.TASK is not a Task"
    assert task.recipe.task == name, f"{__name__}.{name}: the recipe names task {task.recipe.task!r}"
    return task
