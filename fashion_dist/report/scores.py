"""Arithmetic over truth and predictions: pure functions of arrays, equal to scikit-learn's where it has the same.

Legend: n examples, K classes, A attributes, B bootstrap draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fashion_dist.tasks.common.evaluators import macro_f1

DRAWS = 1000
"""Of the bootstrap (Efron 1979); the 2.5 and 97.5 % quantiles of so many vary by about a twentieth of their width."""
PAIR_DRAWS = 300
"""Of the bootstrap over the items of pairs, whose areas take longer."""
BINS = 10
"""Of equal width, in reliability diagrams."""
_ROWS = 4096
"""Examples whose probabilities are ranked at a time."""
_DRAWN_AT_ONCE = 1 << 23
"""Numbers of bootstrap samples in memory: 96 MB while they are drawn."""


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % bootstrap interval; `None` bounds where it is not resampled."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PerClass:
    """Precision, recall, F1 float64 [K] and the number of true ones int64 [K]; 0 where nothing is to divide by."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def confusion(truth: np.ndarray, answers: np.ndarray, count: int) -> np.ndarray:
    """int64 [K, K], rows the truth, of labels int [n]."""
    cells: np.ndarray = np.bincount(truth * count + answers, minlength=count * count)
    return cells.reshape(count, count)


def class_counts(truth: np.ndarray, answers: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 [K] each: examples answered rightly, answered so, and of the class; of labels int [n]."""
    right = np.bincount(truth[answers == truth], minlength=count)
    return right, np.bincount(answers, minlength=count), np.bincount(truth, minlength=count)


def per_class(right: np.ndarray, named: np.ndarray, true: np.ndarray) -> PerClass:
    """Of how often each was named rightly, was named, and is true, [K]."""
    hits = right.astype(float)
    return PerClass(_ratio(hits, named), _ratio(hits, true), _ratio(2 * hits, named + true), true)


def mistakes(truth: np.ndarray, answers: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """(truth, answer, examples) of what is taken for what: the most frequent first, then the larger share of the truth.

    Takes what the examples take, never the square of the K classes.
    """
    wrong = answers != truth
    cells, examples = np.unique(truth[wrong] * count + answers[wrong], return_counts=True)
    shares = examples / np.bincount(truth, minlength=count)[cells // count]
    order = np.lexsort((cells, -shares, -examples))
    return [(*divmod(int(cells[k]), count), int(examples[k])) for k in order]


def ranks(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """int64 [n]: how many of the K classes stand before the true one; of equals the lower class does, as in topk."""
    found = np.empty(len(truth), np.int64)
    columns = np.arange(probability.shape[1])
    for start in range(0, len(truth), _ROWS):
        rows, true = probability[start : start + _ROWS], truth[start : start + _ROWS, None]
        own = np.take_along_axis(rows, true, axis=1)
        found[start : start + _ROWS] = ((rows > own) | ((rows == own) & (columns < true))).sum(axis=1)
    return found


def per_attribute(truth: np.ndarray, chosen: np.ndarray) -> PerClass:
    """Of truth [n, A] (1, 0, or -1: unknown) and answers bool [n, A]."""
    known, true = truth >= 0, truth == 1
    return per_class((chosen & true).sum(axis=0), (chosen & known).sum(axis=0), true.sum(axis=0))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    divided: np.ndarray = np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom) > 0)
    return divided


def weights(count: int, seed: int = 0, draws: int = DRAWS) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn in each of B bootstrap samples: float32 [b, n] at a time."""
    rng = np.random.default_rng(seed)
    share = np.full(count, 1 / count)
    at_once = max(1, _DRAWN_AT_ONCE // max(1, count))
    for first in range(0, draws, at_once):
        yield rng.multinomial(count, share, size=min(at_once, draws - first)).astype(np.float32)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of [B] values."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def class_figures(truth: np.ndarray, probability: np.ndarray, answers: np.ndarray) -> list[Figure]:
    """Accuracy, macro F1 and, of enough classes, top-3 and top-5 accuracy, as the tasks measure them: of truth int [n],
    none unknown, probabilities [n, K] and answers int [n].
    """
    count, n = probability.shape[1], len(truth)
    rank = ranks(probability, truth)
    hits = {"accuracy": answers == truth}
    hits |= {f"top{best}_accuracy": rank < best for best in (3, 5) if count > best}
    values = np.stack([hit.astype(np.float32) for hit in hits.values()], axis=1)
    means, f1 = [], []
    for drawn in weights(n):
        means.append(drawn @ values / n)
        for times in drawn:
            right = np.bincount(truth, times * values[:, 0], minlength=count)
            named, true = (np.bincount(labels, times, minlength=count) for labels in (answers, truth))
            f1.append(macro_f1(right, named, true))
    samples = np.concatenate(means)
    shares = [Figure(name, float(hit.mean()), *interval(samples[:, at])) for at, (name, hit) in enumerate(hits.items())]
    whole = Figure("macro_f1", macro_f1(*class_counts(truth, answers, count)), *interval(np.array(f1)))
    return [shares[0], whole, *shares[1:]]


def attribute_figures(truth: np.ndarray, chosen: np.ndarray, names: Mapping[str, str]) -> list[Figure]:
    """F1 of all answers, averaged over attributes and over images, of truth [n, A] and answers bool [n, A]: those of
    `attributes.names_of`, by these names.
    """
    asked = (truth >= 0).any(axis=1)
    named, true = (chosen & (truth >= 0))[asked], truth[asked] == 1
    right, either = (named & true).astype(np.float32), named.astype(np.float32) + true
    hits, both = 2 * right.sum(axis=1), either.sum(axis=1)
    per_image = np.where(both > 0, _ratio(hits, both), 1.0).astype(np.float32)
    sums = [(drawn @ right, drawn @ either, drawn @ per_image) for drawn in weights(len(per_image))]
    hit_a, both_a, image_sums = (np.concatenate(parts) for parts in zip(*sums, strict=True))
    macro = macro_f1(right.sum(axis=0), named.sum(axis=0), true.sum(axis=0))
    found = {
        "micro_f1": (float(_ratio(hits.sum(), both.sum())), _ratio(2 * hit_a.sum(axis=1), both_a.sum(axis=1))),
        "macro_f1": (macro, _ratio(_ratio(2 * hit_a, both_a).sum(axis=1), (both_a > 0).sum(axis=1))),
        "sample_f1": (float(per_image.astype(float).mean()), image_sums / len(per_image)),
    }
    return [Figure(shown, found[name][0], *interval(found[name][1])) for name, shown in names.items()]


def mean_figure(name: str, values: np.ndarray) -> Figure:
    """The mean of [n] values with its interval."""
    values = values.astype(np.float32)
    sums = np.concatenate([drawn @ values for drawn in weights(len(values))])
    return Figure(name, float(values.astype(float).mean()), *interval(sums / len(values)))


def auc_figure(name: str, scores: np.ndarray, truth: np.ndarray, area: Callable[..., float]) -> Figure:
    """The area under the ROC curve, by the task's own function, of scores [n] against truth [n], 1 or 0."""
    rng, n = np.random.default_rng(0), len(scores)
    samples = [area(scores[rows], truth[rows]) for rows in rng.integers(n, size=(300, n))]
    return Figure(name, area(scores, truth), *interval(np.array(samples)))


def pair_figures(pairs: np.ndarray, score: np.ndarray, truth: np.ndarray) -> list[Figure]:
    """`pair_auc` and `pair_accuracy` of probabilities [n] that pairs of items int [n, 2] go together; truth is 1 or 0.

    Pairs that share an item do not err independently, so items are drawn, not pairs: a pair is there as often as one of
    its items times as often as the other (the vertex bootstrap of Snijders & Borgatti 1999).
    """
    from sklearn.metrics import roc_auc_score

    items, place = np.unique(pairs, return_inverse=True)
    first, second = place.reshape(pairs.shape).T
    hit = (score > 0.5) == truth
    areas, right = [], []
    for times in itertools.chain.from_iterable(weights(len(items), draws=PAIR_DRAWS)):
        weight = times[first] * times[second]
        there = weight > 0
        if 0 < truth[there].mean() < 1 if there.any() else False:
            areas.append(roc_auc_score(truth[there], score[there], sample_weight=weight[there]))
            right.append(np.average(hit, weights=weight))
    area = float(roc_auc_score(truth, score)) if 0 < truth.mean() < 1 else 0.5
    limits = [interval(np.array(values)) if values else (None, None) for values in (areas, right)]
    return [Figure("pair_auc", area, *limits[0]), Figure("pair_accuracy", float(hit.mean()), *limits[1])]


def difference(first: np.ndarray, second: np.ndarray) -> Figure:
    """How much the mean of `first` [n] is above that of `second` [n] on the same examples, with its interval."""
    return mean_figure("difference", first.astype(float) - second.astype(float))


@dataclass(frozen=True)
class Reliability:
    """Of each of `BINS` bins of confidence: images, mean confidence, share right, all [BINS]; and the mean gap."""

    images: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    error: float


def reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017) of confidences [n] in (0, 1] and hits [n]."""
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(place, minlength=BINS)
    mean = _ratio(np.bincount(place, confidence, minlength=BINS), images)
    share = _ratio(np.bincount(place, right.astype(float), minlength=BINS), images)
    return Reliability(images, mean, share, float((images * np.abs(mean - share)).sum() / max(1, images.sum())))


def together(matrix: np.ndarray) -> np.ndarray:
    """An order of the K classes, int [K], in which those confused with each other stand side by side.

    Average linkage over the shares in which two classes are taken for each other, leaves ordered so that neighbours
    are near (Bar-Joseph et al. 2001).
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = _ratio(matrix.astype(float), np.broadcast_to(matrix.sum(axis=1, keepdims=True), matrix.shape))
    near = (shares + shares.T) / 2
    distance = 1 - near
    np.fill_diagonal(distance, 0)
    return np.asarray(leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)))
