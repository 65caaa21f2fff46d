"""Two runs on the same examples by what their task measures: paired bootstrap (Efron & Tibshirani 1993) of differences.

Both runs are measured on the same draws: of images for classes and attributes; of items for pairs, which share them
(Snijders & Borgatti 1999); of outfits and of questions.

Legend: n examples, B draws, A attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fashion_dist.results.collect import ordered_predictions
from fashion_dist.results.compare import no_labels, require_same_images
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import ReportView, load
from fashion_dist.tasks.common import compatibility
from fashion_dist.tasks.common.attributes import names_of
from fashion_dist.tasks.common.base import Arrays
from fashion_dist.tasks.common.wardrobe import wardrobe_of
from shards import Split

DRAWS, PAIR_DRAWS = 1000, 200
Measure = Callable[[np.ndarray], float]
"""A figure when example i is there so many times, weights [n]; NaN where it is not defined."""


@dataclass(frozen=True)
class Difference:
    """One figure of two runs, and the 95 % interval of the first's less the second's."""

    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def by_chance(self) -> bool:
        """Whether the choice of examples could explain the difference."""
        return not (self.low > 0 or self.high < 0)

    def sentence(self, names: tuple[str, str]) -> str:
        """What follows, in words."""
        end = "the choice of examples could explain it" if self.by_chance else "more than the choice of examples"
        return (
            f"{self.name}: {names[0]} {self.first:.4f}, {names[1]} {self.second:.4f}, difference "
            f"{self.first - self.second:+.4f} (95 % interval {self.low:+.4f} to {self.high:+.4f}), {end}"
        )


def differences(first: OpenRun, second: OpenRun, split: str = "test") -> list[Difference]:
    """What both measure on a split, of runs whose answers are not classes alone; empty for others.

    Raises:
        ConfigError: they are of different shard sets, or there are no labels.
        InputError: one has not predicted the split yet.
    """
    views = load(first.config.task).report_views()
    alone = all(view.kind == "classes" and view.truth == "label" for view in views)
    if alone or load(second.config.task).report_views() != views:
        return []
    require_same_images(first, second, split)
    part = first.shard_set.split(split)
    task = load(first.config.task)
    targets, names = task.image_targets(part, first.config), names_of(task.metrics(part.schema, first.config))
    answers = [ordered_predictions(run.folder, part) for run in (first, second)]
    found: list[Difference] = []
    for view in views:
        measures = [dict(_measures(view, columns, targets, part, names)) for columns in answers]
        for name, (count, measure) in measures[0].items():
            found += _difference(name, count, measure, measures[1][name][1])
    if not found:
        raise no_labels(part)
    return found


def _difference(name: str, count: int, first: Measure, second: Measure) -> list[Difference]:
    """One difference; none where the figure is not defined on this split."""
    whole = np.ones(count)
    if not count or not np.isfinite(first(whole)):
        return []
    rng, share = np.random.default_rng(0), np.full(count, 1 / count)
    # One draw at a time: all of a million images at once would be 8 GB.
    drawn = (rng.multinomial(count, share) for _ in range(PAIR_DRAWS if "auc" in name else DRAWS))
    sampled = np.array([first(times) - second(times) for times in drawn])
    sampled = sampled[np.isfinite(sampled)]
    low, high = np.quantile(sampled, [0.025, 0.975]).tolist() if len(sampled) else (float("nan"),) * 2
    return [Difference(name, first(whole), second(whole), low, high)]


def _measures(
    view: ReportView, columns: Arrays, targets: Arrays, part: Split, names: Mapping[str, str]
) -> Iterator[tuple[str, tuple[int, Measure]]]:
    """(name, (number of examples to draw from, measure)) of one view."""
    answer = np.asarray(columns[view.answer])
    if view.kind == "outfits":
        yield from _of_pairs(answer, part)
        return
    truth = np.asarray(targets[view.truth]) if view.truth in targets else np.full(len(answer), -1)
    known = (truth >= 0).reshape(len(truth), -1).any(axis=1)
    truth, answer = truth[known], answer[known]
    if view.kind == "classes":
        yield f"{view.truth} accuracy", (len(truth), _mean(truth == answer))
    elif view.kind == "attributes":
        named = answer.astype(bool) & (truth >= 0)
        hits, both = (named & (truth == 1)).astype(float), named.astype(float) + (truth == 1)
        top, bottom = 2 * hits.sum(axis=1), both.sum(axis=1)
        measures: dict[str, Measure] = {
            "micro_f1": lambda times: float(times @ top / max(1.0, times @ bottom)),
            "macro_f1": lambda times: _class_f1(times @ hits, times @ both),
            "sample_f1": _mean(np.where(bottom > 0, top / np.maximum(bottom, 1), 1.0)),
        }
        for name, shown in names.items():
            yield shown, (len(truth), measures[name])


def _of_pairs(rows: np.ndarray, part: Split) -> Iterator[tuple[str, tuple[int, Measure]]]:
    wardrobe = wardrobe_of(part)
    pairs, truth = compatibility.asked_pairs(wardrobe)
    logits = compatibility.score_pairs(rows, pairs[:, 0], pairs[:, 1])
    items, places = np.unique(pairs, return_inverse=True)
    one, other = places.reshape(pairs.shape).T
    area, right = _area(logits, truth), _mean((logits > 0) == truth)
    yield "pair_auc", (len(items), lambda times: area(times[one] * times[other]))
    yield "pair_accuracy", (len(items), lambda times: right(times[one] * times[other]))
    outfits = compatibility.score_outfits(rows, wardrobe.lines)
    yield "outfit_auc", (len(outfits), _area(outfits, wardrobe.labels))
    credits = compatibility.credits_of(rows, wardrobe.questions)
    yield "fill_in_blank", (len(credits), _mean(credits))


def _mean(values: np.ndarray) -> Measure:
    return lambda times: float(times @ values / times.sum()) if times.sum() else float("nan")


def _class_f1(hits: np.ndarray, both: np.ndarray) -> float:
    occurs = both > 0
    return float((2 * hits[occurs] / both[occurs]).mean()) if occurs.any() else float("nan")


def _area(score: np.ndarray, truth: np.ndarray) -> Measure:
    from sklearn.metrics import roc_auc_score

    def area(times: np.ndarray) -> float:
        there = times > 0
        if not there.any() or not 0 < truth[there].mean() < 1:
            return float("nan")
        return float(roc_auc_score(truth[there], score[there], sample_weight=times[there]))

    return area
