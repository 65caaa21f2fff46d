"""Sections about classes: what is taken for what, class by class, how sure, and the worst errors in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.report import formatting, scores
from fashion_dist.report.blocks import Block, Picture, Section, Sheet, Shot, Table
from fashion_dist.report.figure_writer import BLUE, GREEN, ORANGE, SOFT, FigureWriter, heat, short
from fashion_dist.report.split_predictions import Thumbnails, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

GALLERY = 24
PAIRS = 6
"""Pairs of classes shown with images; each with at most `PER_PAIR`."""
PER_PAIR = 4
FEW = 20
"""Up to so many classes the cells of the confusion matrix show their numbers."""


@dataclass(frozen=True)
class ClassAnswers:
    """SplitPredictions about images whose class is known.

    Args:
        rows: int64 [n], the images as rows of the split.
        truth: int64 [n].
        answers: int64 [n].
        probability: [n, K].
        names: of the K classes.
        noun: what a class is called: `class` or `category`.
    """

    rows: np.ndarray
    truth: np.ndarray
    answers: np.ndarray
    probability: np.ndarray
    names: Sequence[str]

    @property
    def confidence(self) -> np.ndarray:
        """[n], the probability of the answer."""
        return np.asarray(self.probability[np.arange(len(self.answers)), self.answers])

    @property
    def right(self) -> np.ndarray:
        """Bool [n]."""
        return np.asarray(self.answers == self.truth)

    @property
    def matrix(self) -> np.ndarray:
        """int64 [K, K], rows the truth."""
        return scores.confusion(self.truth, self.answers, len(self.names))


def sections(found: ClassAnswers, album: FigureWriter, thumbs: Thumbnails) -> list[Section]:
    """All sections about classes."""
    made = [confused(found, album, thumbs), class_by_class(found, album), sureness(found, album)]
    return [*made, worst(found, thumbs)]


def confused(found: ClassAnswers, album: FigureWriter, thumbs: Thumbnails) -> Section:
    """The confusion matrix, and the most confused pairs of classes with examples."""
    matrix, names = found.matrix, found.names
    pairs = confused_pairs(matrix)
    sentences = [confusion_sentence(matrix, names, pairs[0])] if pairs else ["No class is taken for another."]
    blocks: list[Block] = [_matrix(matrix, names, album)]
    rows = [
        (names[i], names[j], int(matrix[i, j]), formatting.percent(matrix[i, j] / matrix[i].sum())) for i, j in pairs
    ]
    if rows:
        head = ("truth", "taken for", "images", "share of truth")
        blocks.append(Table("Most confused", head, rows[:15], note=_more(rows, 15)))
    for i, j in pairs[:PAIRS]:
        wrong = np.flatnonzero((found.truth == i) & (found.answers == j))
        wrong = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:PER_PAIR]
        shots = [_shot(found, place, thumbs) for place in wrong.tolist()]
        share = formatting.percent(matrix[i, j] / matrix[i].sum(), 0)
        title = f"{names[i]} taken for {names[j]}: {matrix[i, j]} of {matrix[i].sum()} ({share})"
        blocks.append(Sheet(title, shots))
    return Section("confusion", "What is taken for what", sentences, blocks)


def confused_pairs(matrix: np.ndarray) -> list[tuple[int, int]]:
    """(truth, answer) of the mistakes, the most frequent first, then the larger share of the truth."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    wrong = [(int(i), int(j)) for i, j in np.argwhere(matrix > 0) if i != j]
    return sorted(wrong, key=lambda p: (-matrix[p], -shares[p], p))


def confusion_sentence(matrix: np.ndarray, names: Sequence[str], pair: tuple[int, int]) -> str:
    """The most frequent mistake and its reverse, in words."""
    i, j = pair
    there, back = matrix[i, j] / matrix[i].sum(), matrix[j, i] / max(1, matrix[j].sum())
    errors = int(matrix.sum() - np.trace(matrix))
    return (
        f"{_capital(names[i])} is taken for {names[j]} in {formatting.percent(there, 0)} of cases and "
        f"{names[j]} for {names[i]} in {formatting.percent(back, 0)}; together that is "
        f"{formatting.percent((matrix[i, j] + matrix[j, i]) / errors, 0)} of all {formatting.count(errors, 'mistake')}."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _more(rows: Sequence[object], shown: int) -> str:
    return f"and {len(rows) - shown} more pairs, in confusion.csv" if len(rows) > shown else ""


def _matrix(matrix: np.ndarray, names: Sequence[str], album: FigureWriter) -> Picture:
    order = scores.together(matrix)
    few = len(names) <= FEW
    sorted_matrix = matrix[np.ix_(order, order)]
    shares = sorted_matrix / np.maximum(sorted_matrix.sum(axis=1, keepdims=True), 1)

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        texts = None
        if few:
            texts = [
                [
                    f"{formatting.percent(share, 0)}\n{count}" if count else ""
                    for share, count in zip(*pair, strict=True)
                ]
                for pair in zip(shares, sorted_matrix, strict=True)
            ]
        heat(axes, shares, texts, 7.5 if len(names) <= 10 else 6.5)
        places = np.arange(len(names))
        if few:
            axes.set_yticks(places, [short(names[k], 22) for k in order])
            axes.set_xticks(places, [short(names[k], 22) for k in order], rotation=45, ha="right")
        else:
            axes.set_yticks(places, [f"{short(names[k], 34)}  {n + 1}" for n, k in enumerate(order)], fontsize=6.5)
            axes.set_xticks(places, [str(n + 1) for n in places], fontsize=6)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")

    side = 5.4 if len(names) <= 10 else 8.5 if few else max(8.5, 0.145 * len(names) + 1.5)
    right = int(np.trace(matrix))
    alt = (
        f"Confusion matrix of {len(names)} classes over {int(matrix.sum()):,} images, {right:,} of them right. "
        f"Rows are the truth, sorted so that classes confused with each other are neighbours."
    )
    rows = [(names[k], *matrix[k, order].tolist()) for k in order]
    caption = (
        "Share of the row, and number of images. "
        if few
        else "The stronger a cell's colour, the larger its share of the row. "
    )
    return album.draw(
        "confusion", "Confusion matrix", alt, paint, ("truth", *(names[k] for k in order)), rows,
        size=(side * 1.12, side), wide=len(names) > 10,
        caption=caption + "Classes confused with each other stand together.",
    )  # fmt: skip


def class_by_class(found: ClassAnswers, album: FigureWriter) -> Section:
    """Precision, recall and F1 of each class."""
    counted, names = scores.per_class(found.matrix), found.names
    asked = np.flatnonzero(counted.support > 0)
    order = asked[np.argsort(counted.f1[asked], kind="stable")]
    weakest, strongest = int(order[0]), int(order[-1])
    sentences = [
        f"{_capital(names[strongest])} is recognised best (F1 {counted.f1[strongest]:.3f}), "
        f"{names[weakest]} worst (F1 {counted.f1[weakest]:.3f})."
    ]
    missing = [names[k] for k in np.flatnonzero(counted.support == 0).tolist()]
    if missing:
        sentences.append(
            f"No image of this split is of {formatting.listing(missing[:8])}{' ...' * (len(missing) > 8)}."
        )

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        places = np.arange(len(order))
        axes.hlines(places, np.minimum(counted.precision, counted.recall)[order],
                    np.maximum(counted.precision, counted.recall)[order], color=SOFT, linewidth=1)  # fmt: skip
        axes.plot(counted.precision[order], places, "o", color=BLUE, markersize=5, label="precision")
        axes.plot(counted.recall[order], places, "s", color=ORANGE, markersize=4.5, label="recall")
        axes.plot(counted.f1[order], places, "|", color=GREEN, markersize=9, markeredgewidth=2, label="F1")
        axes.set_yticks(places, [short(names[k], 30) for k in order], fontsize=8 if len(order) <= 25 else 6.5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.7, len(order) - 0.3)
        figure.legend(loc="outside upper center", ncols=3)

    rows = [
        (names[k], int(counted.support[k]), *(f"{v[k]:.4f}" for v in (counted.precision, counted.recall, counted.f1)))
        for k in order[::-1]
    ]
    head = ("class", "images", "precision", "recall", "F1")
    height = 0.9 + (0.24 if len(order) <= 25 else 0.155) * len(order)
    alt = f"Precision, recall and F1 of {len(order)} classes, from {names[strongest]} down to {names[weakest]}."
    picture = album.draw("classes", "Class by class", alt, paint, head, rows, size=(6.2, height))
    return Section("classes", "Class by class", sentences, [picture, Table("", head, rows, folded=len(rows) > 20)])


def sureness(found: ClassAnswers, album: FigureWriter) -> Section:
    """The reliability diagram."""
    counted = scores.reliability(found.confidence, found.right)
    mean, share = float(found.confidence.mean()), float(found.right.mean())
    lean = "too sure of itself" if mean > share else "less sure than it could be"
    sentence = (
        f"The network gives its answers {formatting.percent(mean)} on average and is right "
        f"in {formatting.percent(share)}: "
        f"it is {lean}. Confidence and accuracy differ by {formatting.percent(counted.error)} on average "
        f"(expected calibration error)."
    )
    if abs(mean - share) < 0.01:
        sentence = (
            f"The network gives its answers {formatting.percent(mean)} on average and is right "
            f"in {formatting.percent(share)}; "
            f"confidence and accuracy differ by {formatting.percent(counted.error)} on average (expected "
            f"calibration error)."
        )

    def paint(figure: Drawing) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        used = counted.images > 0
        left = np.arange(scores.BINS) / scores.BINS
        top.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=1, label="confidence = accuracy")
        top.bar(left[used], counted.right[used], 1 / scores.BINS, align="edge", color=BLUE, alpha=0.75,
                edgecolor=BLUE, label="accuracy")  # fmt: skip
        top.plot(
            counted.confidence[used], counted.right[used], "D", color=ORANGE, markersize=4, label="mean confidence"
        )
        top.set_xlim(0, 1)
        top.set_ylim(0, 1.02)
        top.set_ylabel("share right")
        top.legend(loc="upper left")
        bottom.bar(left, counted.images, 1 / scores.BINS, align="edge", color=SOFT)
        bottom.set_ylabel("images")
        bottom.set_xlabel("confidence, the probability of the answer")

    rows = [
        (f"{b / scores.BINS:.1f}", f"{(b + 1) / scores.BINS:.1f}", int(counted.images[b]),
         f"{counted.confidence[b]:.6f}", f"{counted.right[b]:.6f}") for b in range(scores.BINS)
    ]  # fmt: skip
    alt = f"Share of right answers in ten bins of confidence. Expected calibration error {counted.error:.4f}."
    head = ("from", "to", "images", "mean confidence", "share right")
    picture = album.draw("reliability", "Reliability", alt, paint, head, rows, size=(5.2, 4.0))
    return Section("sureness", "How sure it is", [sentence], [picture])


def worst(found: ClassAnswers, thumbs: Thumbnails) -> Section:
    """The errors that the network was surest of."""
    wrong = np.flatnonzero(~found.right)
    if not len(wrong):
        return Section("errors", "The surest errors", ["There are none: every answer is right."])
    order = wrong[np.argsort(-found.confidence[wrong], kind="stable")]
    pairs = found.truth * len(found.names) + found.answers
    shown = spread(order, pairs, each=4, most=GALLERY)
    sure = int((found.confidence[wrong] > 0.9).sum())
    first = shown[0]
    sentence = (
        f"Of {formatting.count(len(wrong), 'error')}, {sure or 'none'} {'was' if sure < 2 else 'were'} given more than "
        f"{formatting.percent(0.9, 0)}. The surest is {_a(found.names[int(found.truth[first])])} taken "
        f"for {found.names[int(found.answers[first])]} with {formatting.percent(float(found.confidence[first]))}."
    )
    sheet = Sheet(
        "", [_shot(found, place, thumbs) for place in shown], note="At most four of a kind of error are shown."
    )
    return Section("errors", "The surest errors", [sentence], [sheet])


def _a(noun: str) -> str:
    return noun if noun[:1].isupper() else f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _shot(found: ClassAnswers, place: int, thumbs: Thumbnails) -> Shot:
    truth, answer = found.names[int(found.truth[place])], found.names[int(found.answers[place])]
    sure, true = found.confidence[place], found.probability[place, found.truth[place]]
    lines = (f"{answer} {formatting.percent(float(sure), 0)}", f"is {truth} {formatting.percent(float(true), 0)}")
    return Shot(thumbs[int(found.rows[place])], f"{truth}, taken for {answer}", lines, frame="bad")
