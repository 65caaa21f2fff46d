"""What a task is: a class with six methods of its own, and defaults for everything else.

Torch and numpy are imported inside the functions that need them, so that reading a recipe takes milliseconds and
`launch.py` can refuse bad input at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.models import registry
from fashion_dist.settings import Scalar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from fashion_dist.tasks.common.evaluators import Evaluator
    from shards import Schema, ShardSet, Split

Arrays = Mapping[str, "np.ndarray"]
Columns = Mapping[str, "Sequence[object] | np.ndarray"]
Tensors = Mapping[str, "Tensor"]
Embed = Callable[[], Columns]
ViewKind = Literal["classes", "attributes", "outfits"]


@dataclass(frozen=True)
class Monitor:
    """A metric of validation by which weights, trials and runs are ranked."""

    metric: str
    mode: Literal["max", "min"]

    def score(self, value: float | None) -> float:
        """A number that is higher the better `value` is; minus infinity where there is none, or NaN."""
        if value is None or math.isnan(value):
            return -math.inf
        return value if self.mode == "max" else -value

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether `value` is better; any number is better than NaN and than none."""
        return self.score(value) > self.score(than)


@dataclass(frozen=True)
class ExampleSet:
    """What one split is trained or evaluated on.

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
        pieces = ((v, first) for v in self.targets.values() for first in range(0, len(v), 65536))
        return any(bool((values[first : first + 65536] >= 0).any()) for values, first in pieces)

    @classmethod
    def of_images(cls, images: int | np.ndarray, targets: Arrays | None = None) -> ExampleSet:
        """One example an image: of so many first rows of a split, or of these rows int [N]."""
        import numpy as np

        rows = np.arange(images) if isinstance(images, int) else images
        return cls(rows.astype(np.int64)[:, None], targets or {})

    def state_dict(self) -> dict[str, Any]:
        """The examples as tensors, for a checkpoint."""
        import numpy as np
        import torch

        targets = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in self.targets.items()}
        return {"images": torch.from_numpy(np.ascontiguousarray(self.images)), "targets": targets}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> ExampleSet:
        """The examples that `state_dict` was called on."""
        return cls(state["images"].cpu().numpy(), {name: t.cpu().numpy() for name, t in state["targets"].items()})

    def sample(self, fraction: float, least: int, seed: int) -> ExampleSet:
        """`fraction` of the examples, in their order, but not fewer than `least` where there are so many."""
        import numpy as np

        count = min(len(self), max(least, round(fraction * len(self)), 1))
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return ExampleSet(self.images[rows], {name: values[rows] for name, values in self.targets.items()})


@dataclass(frozen=True)
class ReportView:
    """A group of sections of a run's page, and the columns that it is made of.

    Args:
        kind: `classes`, confusion, scores by class, calibration and the surest errors; `attributes`, the same for
            several yes or no answers an image; `outfits`, pairs, outfits and questions of Polyvore's tables.
        truth: the target that is the truth: int [N], of `attributes` [N, A]; negative where it is unknown.
        answer: the prediction column beside it, of the same shape; of `outfits` the embeddings.
        probability: the prediction column of probabilities: [N, K], or [N] of the second of two classes; [N, A].
        names: of the classes or attributes, or the shard set's column whose names they are; "" for the task's
            `class_names`.
    """

    kind: ViewKind
    truth: str = ""
    answer: str = ""
    probability: str = ""
    names: tuple[str, ...] | str = ""

    def __post_init__(self) -> None:
        if self.kind not in (known := get_args(ViewKind)):
            raise unknown("report view", self.kind, known)

    @property
    def predictions(self) -> tuple[str, ...]:
        """The prediction columns that it needs."""
        return tuple(name for name in (self.answer, self.probability) if name)


def over(sums: Tensors, counts: Tensors) -> dict[str, Tensor]:
    """Each sum divided by its count; 0 where nothing was counted."""
    import torch

    found = {}
    for name, value in sums.items():
        if name not in counts:
            raise ConfigError(f"losses() has the term {name!r}, which counts() has not: {', '.join(counts)}")
        count = counts[name]
        found[name] = value / torch.where(count > 0, count, torch.ones_like(count))
    return found


def sum_of(terms: Tensors) -> Tensor:
    """The terms added, in their order."""
    first, *others = terms.values()
    for value in others:
        first = first + value
    return first


def only_in_training() -> Columns:
    """The `embed` of every split but the training one."""
    raise AssertionError("only training asks what the current weights say")


class Task(ABC):
    """One task: what to learn from the columns of a shard set, and how to answer.

    A subclass sets `recipe`, `columns` and `monitor` and has the six abstract methods; the others have defaults.
    Methods are pure: a task keeps nothing between two calls. N is a batch, `outputs` what the model returned.
    """

    recipe: Config
    """The configuration that trains it well; `recipe.options` are the task's own settings."""
    columns: tuple[str, ...]
    """The shard set's columns that it needs."""
    monitor: str
    """The metric that `best` means."""
    summary_metrics: tuple[str, ...] = ()
    """The metrics that a run's curves show beside `monitor`."""
    minimize: tuple[str, ...] = ()
    """The metrics of which less is better; the losses (`loss`, and names that end in `_loss`) are known to be."""
    ignore_targets_when_mixed: tuple[str, ...] = ()
    """Targets that say nothing of a mixed image (mixup, CutMix); there its loss is given -1, unknown."""
    coarse_labels_from: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}
    """Task name -> (labels of that task) -> labels of this one, whose classes are groups of that one's."""
    images_per_example = 1
    """Images of each example that `build_examples` makes."""
    names_at_least_one = False
    """Whether an image's most probable label is named even below its threshold, where it may have any number."""
    added: Mapping[str, Scalar] = {}
    """Options of the recipe that were added after runs had been made, with the values that mean what those did; see
    `settings.added`."""

    def __init__(self) -> None:
        self.recipe = registry.resolve(type(self).recipe)

    @abstractmethod
    def build_model(self, config: Config, schema: Schema) -> nn.Module:
        """A module whose forward takes images [N, 3, H, W] and returns named outputs."""

    @abstractmethod
    def targets(self, columns: Arrays, config: Config) -> Arrays:
        """Targets, one row an image, of the shard set's `columns` of some of the images; unknown ones are -1."""

    @abstractmethod
    def losses(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """The terms of the loss, each added up over what is known in the batch: scalars by the names of `counts`.

        A loss is the mean over what is known in the whole global batch: the trainer adds sums and counts over
        micro-batches and ranks, and divides once. A task with one term calls it `loss`.
        """

    @abstractmethod
    def evaluator(self, split: Split, config: Config) -> Evaluator:
        """A new evaluator of a split."""

    @abstractmethod
    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """Prediction columns, N rows each."""

    @abstractmethod
    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """File name -> text, of the predictions and the shard set's columns in the split's order."""

    def counts(self, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """How many answers of the batch each term of `losses` is added up over, or what these weigh: scalars.

        Of the targets alone and a sum over them, so that it is known before the network is asked. The default is one
        term, `loss`, over all examples.
        """
        import torch

        first = next(iter(targets.values()))
        return {"loss": torch.full((), len(first), device=first.device)}

    def objective(self, sums: Tensors, counts: Tensors, outputs: Tensors, config: Config) -> dict[str, Tensor]:
        """What is minimised of each term, a sum again: the default is `sums`. Divided by the counts of the global batch
        and added, they are the metric `loss`. All are of one micro-batch.
        """
        return dict(sums)

    def loss(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """`loss`, what is minimised, and the means of the terms over one batch alone; 0 where nothing is known."""
        sums, counts = self.losses(outputs, targets, config), self.counts(targets, config)
        total = sum_of(over(self.objective(sums, counts, outputs, config), counts))
        return {"loss": total, **{name: mean for name, mean in over(sums, counts).items() if name != "loss"}}

    def metrics(self, schema: Schema, config: Config) -> tuple[str, ...]:
        """The metrics that its evaluator computes, any of which can be `train.monitor`."""
        return tuple(dict.fromkeys((self.monitor, *self.summary_metrics, "loss")))

    def direction(self, metric: str) -> Literal["max", "min"]:
        """Whether more or less of a metric is better."""
        return "min" if metric in self.minimize or metric == "loss" or metric.endswith("_loss") else "max"

    def monitored(self, config: Config) -> Monitor:
        """The metric that `best` and early stopping mean."""
        metric = config.train.monitor or self.monitor
        return Monitor(metric, self.direction(metric))

    def train_metrics(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """What a training batch says of the metrics that validation has: name -> [2], a numerator and a denominator,
        which are added over steps and ranks and divided once.

        Must not wait for the device: no `item`, no `nonzero`, no indexing by booleans. A mixed image counts by the
        image of which it holds the larger share.
        """
        return {}

    def recipe_for(self, shard_set: ShardSet) -> Config:
        """The recipe for a shard set; one that depends on its size, for example."""
        return self.recipe

    def resolve(self, shard_set: ShardSet, config: Config) -> Config:
        """`config` with options that depend on the shard set replaced by what they mean there; twice is as once.

        Raises:
            ConfigError: they mean nothing there.
        """
        return config

    def columns_of(self, config: Config) -> tuple[str, ...]:
        """The shard set's columns that a run of `config`, which was resolved, needs."""
        return self.columns

    def image_targets(self, split: Split, config: Config) -> Arrays:
        """The `targets` of each image of a split."""
        import numpy as np

        found: dict[str, np.ndarray] = {}
        names, first = self.columns_of(config), 0
        for columns in split.iter_columns(*names) if names else ():
            for name, values in self.targets(columns, config).items():
                found.setdefault(name, np.empty((len(split), *values.shape[1:]), values.dtype))
                found[name][first : first + len(values)] = values
            first += len(next(iter(columns.values())))
        return found or self.targets(split.columns(*names), config)

    def validate(self, shard_set: ShardSet, config: Config) -> None:  # noqa: B027
        """Check options and labels before anything is submitted; raises ConfigError if they cannot be trained on."""

    def build_examples(
        self, split: Split, config: Config, epoch: int = 0, embed: Embed = only_in_training
    ) -> ExampleSet:
        """The examples of a split: one an image. Those of training may change with the epoch, but not their number.

        In evaluation `epoch` is 0; `embed` returns the `predictions` of all the split's images by the current weights.
        """
        return ExampleSet.of_images(len(split), self.image_targets(split, config))

    def calibrate(self, model: nn.Module, evaluator: Evaluator) -> None:  # noqa: B027
        """Let the evaluated model take what it takes from the validation split, such as a temperature.

        Called between `Evaluator.reduce` and `compute`; may change buffers of the model, and what the evaluator
        gathered to what the model answers afterwards.
        """

    def tune_thresholds(self, split: Split, predictions: Columns, config: Config) -> Mapping[str, Scalar]:
        """Options that suit a labelled split best, such as thresholds; a task without has none to tune."""
        raise NotImplementedError

    def ensemble(self, members: Sequence[Columns]) -> dict[str, np.ndarray]:
        """What several models answer together, of their predictions of the same samples."""
        raise NotImplementedError

    def class_names(self, schema: Schema, config: Config) -> Sequence[str]:
        """What the numbers of target and prediction `label` mean, or the places of `labels`; none of a task without."""
        return ()

    def report_views(self) -> tuple[ReportView, ...]:
        """The groups of sections that a run's page has beside its curves."""
        return ()

    def overrides(self, method: str) -> bool:
        """Whether the task has a method of its own in place of the default."""
        return getattr(type(self), method) is not getattr(Task, method)
