"""Two runs on the same images: which is right more often, and whether chance explains the difference.

The runs may be of one task, or of two of which one's classes are groups of the other's (`Task.coarse_labels_from`): ten
classes of garments, of which each is clothing or not, against training for clothing or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.results.collect import ordered_predictions
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import Task, load
from shards import Split

CONFIDENT = 0.05
"""The p-value below which a difference is not put down to chance."""


@dataclass(frozen=True)
class Comparison:
    """What two runs answered on the same N images.

    Args:
        names: the runs, with what was done to their answers.
        truth: int64 [N].
        answers: int64 [2, N].
        classes: what the K numbers mean.
    """

    names: tuple[str, str]
    truth: np.ndarray
    answers: np.ndarray
    classes: tuple[str, ...]

    @property
    def right(self) -> np.ndarray:
        """Bool [2, N]."""
        return np.asarray(self.answers == self.truth)

    @property
    def accuracies(self) -> tuple[float, float]:
        """The share of images that each is right on."""
        first, second = self.right.mean(axis=1).tolist()
        return first, second

    @property
    def alone(self) -> tuple[int, int]:
        """On how many images only the first, and only the second, is right."""
        first, second = self.right
        return int((first & ~second).sum()), int((second & ~first).sum())

    @property
    def p_value(self) -> float:
        """That chance alone parts the images on which one is right at least so unevenly."""
        return mcnemar(*self.alone)

    def confusion(self, run: int) -> np.ndarray:
        """int64 [K, K] of run 0 or 1, rows the truth."""
        from sklearn.metrics import confusion_matrix

        return np.asarray(confusion_matrix(self.truth, self.answers[run], labels=range(len(self.classes))))

    def sentence(self) -> str:
        """What follows, in words."""
        (a, b), (only_a, only_b) = self.accuracies, self.alone
        facts = (
            f"{self.names[0]} is right on {a:.2%} of the {len(self.truth):,} images and {self.names[1]} on {b:.2%}; "
            f"only the former on {only_a}, only the latter on {only_b} (McNemar's exact test, p = {self.p_value:.2g})"
        )
        if self.p_value >= CONFIDENT:
            return f"{facts}: chance explains the difference, so these runs give no reason to prefer either."
        better = self.names[0 if only_a > only_b else 1].split(",")[0]
        return f"{facts}: more than chance, so {better} is the better choice."


def compare(first: OpenRun, second: OpenRun, split: str = "test") -> Comparison:
    """The comparison of two runs' predictions of `split`, in the coarser of their classes.

    Raises:
        ConfigError: their classes have nothing in common, they are of different shard sets, or there are no labels.
        InputError: one has not predicted the split yet.
    """
    require_same_images(first, second, split)
    tasks = (load(first.config.task), load(second.config.task))
    part = first.shard_set.split(split)
    target, config, truth = _common(tasks, (first, second), part)
    known = truth >= 0
    if not known.any():
        raise no_labels(part)
    answers, names = [], []
    for run, task in zip((first, second), tasks, strict=True):
        merge = None if task is target else target.coarse_labels_from[task.recipe.task]
        label = np.asarray(ordered_predictions(run.folder, part)["label"])
        answers.append(label if merge is None else merge(label))
        names.append(run.called + ("" if merge is None else ", merged to fewer classes,"))
    stacked = np.stack(answers)[:, known]
    classes = tuple(target.class_names(part.schema, config))
    return Comparison((names[0], names[1]), truth[known], stacked, classes)


def no_labels(part: Split) -> ConfigError:
    """The refusal to compare two runs by a split without labels."""
    return ConfigError(
        f"split {part.name!r} of {part.path} has no labels to compare by; allowed: one that has, as by --split val"
    )


def require_same_images(first: OpenRun, second: OpenRun, split: str) -> None:
    """Refuse two runs of which a split has not the same samples, or that learned other columns of them."""
    first.shard_set.split(split)
    if first.shard_set.manifest.hash_of(split) != second.shard_set.manifest.hash_of(split):
        raise ConfigError(
            f"runs {first.folder.run_id} and {second.folder.run_id} are of different shard sets; "
            f"allowed: two runs on the same images"
        )
    asked = [load(run.config.task).columns_of(run.config) for run in (first, second)]
    if first.config.task == second.config.task and asked[0] != asked[1]:
        raise ConfigError(
            f"runs {first.folder.run_id} and {second.folder.run_id} learn other columns of {first.shard_set.path}: "
            f"{', '.join(asked[0])} and {', '.join(asked[1])}; allowed: two runs that learn the same"
        )


def _common(tasks: tuple[Task, Task], runs: tuple[OpenRun, OpenRun], part: Split) -> tuple[Task, Config, np.ndarray]:
    """The task whose classes both can answer in, the configuration of its run, and the truth in these, int64 [N]."""
    names = [task.recipe.task for task in tasks]
    for at in (1, 0):
        target, other, config = tasks[at], tasks[1 - at], runs[at].config
        classes = target.class_names(part.schema, config)
        same = other is target and list(other.class_names(part.schema, runs[1 - at].config)) == list(classes)
        if classes and (same or names[1 - at] in target.coarse_labels_from):
            targets = target.image_targets(part, config)
            if "label" in targets:
                return target, config, np.asarray(targets["label"])
    raise ConfigError(
        f"tasks {names[0]!r} and {names[1]!r} have no classes in common; allowed: two runs of one task of classes, or "
        f"of two of which one merges the other's classes, as fashion_mnist_binary does fashion_mnist's"
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test (1947): the smaller of two counts, were each as likely as the other."""
    from scipy.stats import binomtest

    trials = only_first + only_second
    return float(binomtest(only_first, trials).pvalue) if trials else 1.0
