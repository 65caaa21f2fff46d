"""Sections about attributes: each one's precision, recall, F1 and average precision, and which occur together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dist.report import formatting, scores
from fashion_dist.report.blocks import Section, Sheet, Shot, Table
from fashion_dist.report.figure_writer import BLUE, GREEN, ORANGE, PINK, SOFT, Drawing, FigureWriter, heat, short
from fashion_dist.report.split_predictions import Thumbnails, spread

GALLERY = 18


@dataclass(frozen=True)
class AttributeAnswers:
    """SplitPredictions about images whose attributes are known.

    Args:
        rows: int64 [n], the images as rows of the split.
        truth: [n, A], 1, 0, or -1 where one is unknown.
        chosen: bool [n, A], the attributes that were named.
        probability: [n, A].
        names: of the A attributes.
    """

    rows: np.ndarray
    truth: np.ndarray
    chosen: np.ndarray
    probability: np.ndarray
    names: Sequence[str]


MOST_DRAWN = 100
"""Attributes of a figure: one of 1,000 took gigabytes to draw, and nobody could read it."""


def average_precisions(found: AttributeAnswers) -> np.ndarray:
    """float64 [A], NaN where the attribute does not occur."""
    from sklearn.metrics import average_precision_score

    values = []
    for a in range(len(found.names)):
        known = found.truth[:, a] >= 0
        truth = found.truth[known, a] == 1
        values.append(average_precision_score(truth, found.probability[known, a]) if truth.any() else np.nan)
    return np.array(values)


def sections(found: AttributeAnswers, album: FigureWriter, thumbs: Thumbnails) -> list[Section]:
    """All sections about attributes."""
    return [one_by_one(found, album), together(found, album), worst(found, thumbs)]


def one_by_one(found: AttributeAnswers, album: FigureWriter) -> Section:
    """Precision, recall, F1 and average precision of each attribute."""
    counted, average = scores.per_attribute(found.truth, found.chosen), average_precisions(found)
    names = found.names
    occurring = np.flatnonzero(counted.support > 0)
    if not len(occurring):
        return Section("attributes", "Attributes", ["No attribute occurs in this split."])
    order = occurring[np.argsort(counted.f1[occurring], kind="stable")]
    best, weak = int(order[-1]), int(order[0])
    sentences = [
        f"The best named attribute is {names[best]} (F1 {counted.f1[best]:.3f}), the hardest {names[weak]} "
        f"(F1 {counted.f1[weak]:.3f}, in {formatting.count(int(counted.support[weak]), 'image')}). "
        f"The mean of the average precisions is {np.nanmean(average):.3f}."
    ]

    every = order
    if len(order) > MOST_DRAWN:
        half = MOST_DRAWN // 2
        order = np.concatenate([order[:half], order[-half:]])
        sentences.append(f"The figure shows the {half} hardest and the {half} best, the table all.")

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        places = np.arange(len(order))
        axes.hlines(places, 0, 1, color=SOFT, linewidth=0.4, alpha=0.5)
        axes.plot(counted.precision[order], places, "o", color=BLUE, markersize=5, label="precision")
        axes.plot(counted.recall[order], places, "s", color=ORANGE, markersize=4.5, label="recall")
        axes.plot(counted.f1[order], places, "|", color=GREEN, markersize=9, markeredgewidth=2, label="F1")
        axes.plot(average[order], places, "D", color=PINK, markersize=4, label="average precision")
        axes.set_yticks(places, [short(names[a], 30) for a in order], fontsize=8 if len(order) <= 25 else 6.5)
        axes.set_xlim(-0.03, 1.03)
        figure.legend(loc="outside upper center", ncols=4)

    rows = [
        (names[a], int(counted.support[a]), int((found.chosen[:, a] & (found.truth[:, a] >= 0)).sum()),
         *(f"{v[a]:.4f}" for v in (counted.precision, counted.recall, counted.f1, average))) for a in every[::-1]
    ]  # fmt: skip
    head = ("attribute", "images", "named", "precision", "recall", "F1", "average precision")
    alt = (
        f"Precision, recall, F1 and average precision of {len(order)} attributes, from {names[best]} to {names[weak]}."
    )
    height = 0.9 + (0.26 if len(order) <= 25 else 0.155) * len(order)
    picture = album.draw("attributes", "Attribute by attribute", alt, paint, head, rows, size=(5.4, height))
    return Section("attributes", "Attributes", sentences, [picture, Table("", head, rows, folded=len(rows) > 20)])


def together(found: AttributeAnswers, album: FigureWriter) -> Section:
    """How often attributes occur together, in truth and among the answers."""
    true, named, names = found.truth == 1, found.chosen & (found.truth >= 0), found.names
    truth, answer = co_occurrence(true), co_occurrence(named)
    off = truth * (1 - np.eye(len(names), dtype=int))
    sentences = ["No two attributes occur together in this split."]
    if off.any():
        i, j = (int(k) for k in np.unravel_index(int(off.argmax()), off.shape))
        sentences = [
            f"{names[i]} and {names[j]} occur together most often, in {formatting.count(int(off[i, j]), 'image')}; "
            f"the network names both in {answer[i, j]:,}."
        ]
    if len(names) > MOST_DRAWN:
        shown = np.sort(np.argsort(-off.max(axis=1), kind="stable")[:MOST_DRAWN])
        names = [names[k] for k in shown.tolist()]
        truth, answer = truth[np.ix_(shown, shown)], answer[np.ix_(shown, shown)]
        sentences.append(f"Shown are the {MOST_DRAWN} that occur together with another one most often.")
    pictures = []
    for key, title, counts in (("truth", "Together in truth", truth), ("answers", "Together in the answers", answer)):
        shares = counts / np.maximum(np.diag(counts)[:, None], 1)

        def paint(figure: Drawing, shares: np.ndarray = shares, counts: np.ndarray = counts) -> None:
            axes = figure.subplots()
            few = len(names) <= 20
            texts = [[str(c) if c else "" for c in line] for line in counts] if few else None
            heat(axes, shares, texts, 5.5)
            places = np.arange(len(names))
            size = 7 if few else 5
            axes.set_yticks(places, [short(n, 22) for n in names], fontsize=size)
            axes.set_xticks(places, [short(n, 22) for n in names], rotation=90, fontsize=size)

        rows = [(name, *line) for name, line in zip(names, counts.tolist(), strict=True)]
        alt = f"{title}: of the images with the attribute of the row, how many have that of the column as well."
        side = 5.2 if len(names) <= 20 else max(6.0, 0.1 * len(names))
        pictures.append(
            album.draw(f"co-occurrence-{key}", title, alt, paint, ("attribute", *names), rows, size=(side, side * 0.92),
                       caption="Number of images; the stronger the colour, the larger the share of the row's images.")
        )  # fmt: skip
    return Section("together", "Attributes together", sentences, pictures)


def co_occurrence(present: np.ndarray) -> np.ndarray:
    """int64 [A, A] of bool [n, A]: images that have both; on the diagonal those that have the one."""
    whole = present.astype(np.int64)
    return np.asarray(whole.T @ whole)


def worst(found: AttributeAnswers, thumbs: Thumbnails) -> Section:
    """The attributes that were wrongly named or missed with the greatest certainty."""
    wrong = (found.chosen != (found.truth == 1)) & (found.truth >= 0)
    if not wrong.any():
        return Section("attribute-errors", "The surest errors of attributes", ["There are none."])
    sure = np.where(wrong, np.where(found.chosen, found.probability, 1 - found.probability), -1.0)
    flat = np.argsort(-sure, axis=None, kind="stable")[: int(wrong.sum())]
    attribute, image = flat % len(found.names), flat // len(found.names)
    kinds = attribute * 2 + found.chosen[image, attribute]
    chosen = spread(range(len(flat)), kinds, each=3, most=2 * GALLERY)
    seen: set[int] = set()
    shots: list[Shot] = []
    for k in chosen:
        n, a = int(image[k]), int(attribute[k])
        if n in seen or len(shots) == GALLERY:
            continue
        seen.add(n)
        verb = "named" if found.chosen[n, a] else "missed"
        true = [found.names[k] for k in np.flatnonzero(found.truth[n] == 1).tolist()]
        probability = formatting.percent(float(found.probability[n, a]), 0)
        lines = (f"{verb} {found.names[a]} ({probability})", f"is {', '.join(true) or 'none of them'}")
        shots.append(Shot(thumbs[int(found.rows[n])], f"{verb} {found.names[a]}", lines, frame="bad"))
    false, missed = int((wrong & found.chosen).sum()), int((wrong & ~found.chosen).sum())
    sentence = (
        f"Over {formatting.count(len(found.rows), 'image')} and {len(found.names)} attributes, "
        f"{formatting.count(false, 'attribute')} {'was' if false == 1 else 'were'} named wrongly and {missed:,} missed."
    )
    sheet = Sheet("", shots, note="At most three of a kind of error are shown.")
    return Section("attribute-errors", "The surest errors of attributes", [sentence], [sheet])
