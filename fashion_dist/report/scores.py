"""Arithmetic over truth and predictions: pure functions of arrays, equal to scikit-learn's where it has the same.

Legend: n examples, K classes, A attributes, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fashion_dist.tasks.common.evaluators import macro_f1

DRAWS = 1000
"""Of the bootstrap (Efron 1979); the 2.5 and 97.5 % quantiles of so many vary by about a twentieth of their width."""
PAIR_DRAWS = 300
"""Of the bootstrap over the items of pairs, whose areas take longer."""
BINS = 10
"""Of equal width, in reliability diagrams."""


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


def per_class(matrix: np.ndarray) -> PerClass:
    """Of a confusion matrix [K, K]."""
    right = np.diag(matrix).astype(float)
    named, true = matrix.sum(axis=0), matrix.sum(axis=1)
    return PerClass(_ratio(right, named), _ratio(right, true), _ratio(2 * right, named + true), true)


def per_attribute(truth: np.ndarray, chosen: np.ndarray) -> PerClass:
    """Of truth [n, A] (1, 0, or -1: unknown) and answers bool [n, A]."""
    known, true = truth >= 0, truth == 1
    hits = (chosen & true).sum(axis=0).astype(float)
    named, real = (chosen & known).sum(axis=0), true.sum(axis=0)
    return PerClass(_ratio(hits, named), _ratio(hits, real), _ratio(2 * hits, named + real), real)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    divided: np.ndarray = np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom) > 0)
    return divided


def weights(count: int, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """float32 [B, n]: how often each of n examples is drawn in each bootstrap sample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float32)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of [B] values."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def class_figures(truth: np.ndarray, probability: np.ndarray, answers: np.ndarray) -> list[Figure]:
    """Accuracy, macro F1 and, of enough classes, top-3 and top-5 accuracy; as the tasks measure them.

    Args:
        truth: int [n], none unknown.
        probability: [n, K].
        answers: int [n].
    """
    count, n = probability.shape[1], len(truth)
    drawn = weights(n)
    found = [_mean_figure("accuracy", (answers == truth).astype(np.float32), drawn)]
    matrix = confusion(truth, answers, count)
    flat = np.stack([np.bincount(truth * count + answers, w, minlength=count * count) for w in drawn])
    samples = [_macro_f1(cells.reshape(count, count)) for cells in flat]
    found.append(Figure("macro_f1", _macro_f1(matrix), *interval(np.array(samples))))
    # A stable order puts the lower class first among equals, as torch's topk does on the CPU.
    ranked = np.argsort(-probability, axis=1, kind="stable")[:, :5] == truth[:, None]
    for best in (3, 5):
        if count > best:
            hit = ranked[:, :best].any(axis=1).astype(np.float32)
            found.append(_mean_figure(f"top{best}_accuracy", hit, drawn))
    return found


def _macro_f1(matrix: np.ndarray) -> float:
    return macro_f1(np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1))


def attribute_figures(truth: np.ndarray, chosen: np.ndarray) -> list[Figure]:
    """F1 of the attributes averaged over images and over attributes, of truth [n, A] and answers bool [n, A]."""
    known, true = truth >= 0, truth == 1
    asked = known.any(axis=1)
    named = chosen & known
    hits, both = (named & true).sum(axis=1), named.sum(axis=1) + true.sum(axis=1)
    per_image = np.where(both > 0, _ratio(2.0 * hits, both), 1.0)[asked].astype(np.float32)
    drawn = weights(int(asked.sum()))
    hit_a = drawn @ (named & true)[asked].astype(np.float32)
    both_a = drawn @ (named[asked].astype(np.float32) + true[asked].astype(np.float32))
    f1 = np.where(both_a > 0, 2 * hit_a / np.maximum(both_a, 1), np.nan)
    whole = per_attribute(truth, chosen)
    occurs = (named.sum(axis=0) + true.sum(axis=0)) > 0
    value = float(whole.f1[occurs].mean()) if occurs.any() else 0.0
    samples = np.nanmean(np.where(np.isnan(f1).all(axis=1, keepdims=True), 0.0, f1), axis=1)
    return [
        _mean_figure("attribute_f1", per_image, drawn),
        Figure("attribute_class_f1", value, *interval(samples)),
    ]


def _mean_figure(name: str, values: np.ndarray, drawn: np.ndarray) -> Figure:
    return Figure(name, float(values.astype(float).mean()), *interval(drawn @ values / len(values)))


def mean_figure(name: str, values: np.ndarray) -> Figure:
    """The mean of [n] values with its interval."""
    return _mean_figure(name, values.astype(np.float32), weights(len(values)))


def auc_figure(name: str, scores: np.ndarray, truth: np.ndarray, area: Callable[..., float]) -> Figure:
    """The area under the ROC curve of scores [n] against truth [n], 1 or 0, with its interval.

    Args:
        name: of the figure.
        scores: the higher the likelier.
        truth: 1 or 0.
        area: computes the area itself, as the task does.
    """
    rng, n = np.random.default_rng(0), len(scores)
    samples = [area(scores[rows], truth[rows]) for rows in rng.integers(n, size=(300, n))]
    return Figure(name, area(scores, truth), *interval(np.array(samples)))


def pair_figures(pairs: np.ndarray, score: np.ndarray, truth: np.ndarray) -> list[Figure]:
    """`pair_auc` and `pair_accuracy` of probabilities [n] that the items of pairs go together.

    Pairs that share an item do not err independently, so items are drawn, not pairs: a pair is there as often as one of
    its items times as often as the other (the vertex bootstrap of Snijders & Borgatti 1999).

    Args:
        pairs: int [n, 2], the items.
        score: the probabilities.
        truth: 1 or 0.
    """
    from sklearn.metrics import roc_auc_score

    items, place = np.unique(pairs, return_inverse=True)
    first, second = place.reshape(pairs.shape).T
    hit, drawn = (score > 0.5) == truth, weights(len(items), draws=PAIR_DRAWS)
    areas, right = [], []
    for times in drawn:
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
