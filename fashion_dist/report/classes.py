"""Sections about classes: what is taken for what, class by class, how sure, and the worst errors in pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dist.report import formatting, scores
from fashion_dist.report.blocks import Block, Picture, Section, Sheet, Shot, Table
from fashion_dist.report.figure_writer import BLUE, GREEN, ORANGE, SOFT, Drawing, FigureWriter, heat, short
from fashion_dist.report.split_predictions import Thumbnails, spread

GALLERY = 24
PAIRS = 6
"""Pairs of classes shown with images; each with at most `PER_PAIR`."""
PER_PAIR = 4
MOST = 100
"""Classes that a figure shows: of more, those that are confused most, or recognised worst."""
LISTED = 1000
"""Rows of a table of classes: of more, half as many of the best and of the worst."""
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

    def called(self, k: int) -> str:
        """The name of a class as sentences have it; tables and CSV have it whole."""
        return formatting.brief(self.names[k])

    def matrix(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """int64 [C, C], rows the truth: of the `chosen` classes int64 [C], else of all K."""
        if chosen is None:
            return scores.confusion(self.truth, self.answers, len(self.names))
        place = np.full(len(self.names), -1)
        place[chosen] = np.arange(len(chosen))
        truth, answers = place[self.truth], place[self.answers]
        both = (truth >= 0) & (answers >= 0)
        return scores.confusion(truth[both], answers[both], len(chosen))


def sections(found: ClassAnswers, album: FigureWriter, thumbs: Thumbnails) -> list[Section]:
    """All sections about classes."""
    made = [confused(found, album, thumbs), class_by_class(found, album), sureness(found, album)]
    return [*made, worst(found, thumbs)]


def confused(found: ClassAnswers, album: FigureWriter, thumbs: Thumbnails) -> Section:
    """The confusion matrix, and the most confused pairs of classes with examples."""
    names, total = found.names, np.bincount(found.truth, minlength=len(found.names))
    pairs = scores.mistakes(found.truth, found.answers, len(names))
    sentences = [confusion_sentence(pairs, total, found.called)] if pairs else ["No class is taken for another."]
    blocks: list[Block] = [_matrix(found, pairs, album)]
    rows = [
        (found.called(i), found.called(j), count, formatting.percent(count / total[i])) for i, j, count in pairs[:15]
    ]
    if rows:
        head = ("truth", "taken for", "images", "share of truth")
        note = f"and {len(pairs) - 15} more pairs, in confusion.csv" if len(pairs) > 15 else ""
        blocks.append(Table("Most confused", head, rows, note=note))
    for i, j, count in pairs[:PAIRS]:
        wrong = np.flatnonzero((found.truth == i) & (found.answers == j))
        wrong = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:PER_PAIR]
        shots = [_shot(found, place, thumbs) for place in wrong.tolist()]
        share = formatting.percent(count / total[i], 0)
        title = f"{found.called(i)} taken for {found.called(j)}: {count} of {total[i]} ({share})"
        blocks.append(Sheet(title, shots))
    return Section("confusion", "What is taken for what", sentences, blocks)


def confusion_sentence(pairs: Sequence[tuple[int, int, int]], total: np.ndarray, called: Callable[[int], str]) -> str:
    """The most frequent of the mistakes (truth, answer, images) and its reverse, in words; `total` [K] by truth."""
    i, j, count = pairs[0]
    reverse = next((images for truth, answer, images in pairs if (truth, answer) == (j, i)), 0)
    errors = sum(images for _, _, images in pairs)
    there, back = count / total[i], reverse / max(1, total[j])
    return (
        f"{formatting.capital(called(i))} is taken for {called(j)} in {formatting.percent(there, 0)} of cases and "
        f"{called(j)} for {called(i)} in {formatting.percent(back, 0)}; together that is "
        f"{formatting.percent((count + reverse) / errors, 0)} of all {formatting.count(errors, 'mistake')}."
    )


def _most_confused(found: ClassAnswers, pairs: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """int64 [C], up to `MOST` classes in order: all, or those of the most frequent mistakes."""
    if len(found.names) <= MOST:
        return np.arange(len(found.names))
    met = dict.fromkeys(k for i, j, _ in pairs for k in (i, j))
    return np.sort(np.array([*met, *(k for k in range(MOST) if k not in met)][:MOST]))


def _matrix(found: ClassAnswers, pairs: Sequence[tuple[int, int, int]], album: FigureWriter) -> Picture:
    chosen = _most_confused(found, pairs)
    matrix, names = found.matrix(chosen), [found.names[k] for k in chosen]
    order = scores.together(matrix)
    few, whole = len(names) <= FEW, len(names) == len(found.names)
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

    side = 4.8 if len(names) <= 10 else 8.5 if few else max(8.5, 0.145 * len(names) + 1.5)
    right = int(np.trace(matrix))
    alt = (
        f"Confusion matrix of {len(names)} classes over {int(matrix.sum()):,} images, {right:,} of them right. "
        f"Rows are the truth, sorted so that classes confused with each other are neighbours."
    )
    head: tuple[str, ...] = ("truth", *(names[k] for k in order))
    rows: list[tuple[object, ...]] = [(names[k], *matrix[k, order].tolist()) for k in order]
    if not whole:
        head = ("truth", "taken for", "images")
        rows = [(found.names[i], found.names[j], count) for i, j, count in pairs]
        alt = f"Of {len(found.names)} classes, the {len(names)} that are confused most. " + alt
    caption = (
        "Share of the row, and number of images. "
        if few
        else "The stronger a cell's colour, the larger its share of the row. "
    )
    return album.draw(
        "confusion", "Confusion matrix", alt, paint, head, rows,
        size=(side * 1.12, side), wide=len(names) > 10,
        caption=caption + "Classes confused with each other stand together."
        + ("" if whole else f" Shown are the {len(names)} of {len(found.names)} classes that are confused most."),
    )  # fmt: skip


def class_by_class(found: ClassAnswers, album: FigureWriter) -> Section:
    """Precision, recall and F1 of each class."""
    counts = scores.class_counts(found.truth, found.answers, len(found.names))
    counted, names = scores.per_class(*counts), found.names
    asked = np.flatnonzero(counted.support > 0)
    order = asked[np.argsort(counted.f1[asked], kind="stable")]
    weakest, strongest = int(order[0]), int(order[-1])
    sentences = [
        f"{formatting.capital(found.called(strongest))} is recognised best (F1 {counted.f1[strongest]:.3f}), "
        f"{found.called(weakest)} worst (F1 {counted.f1[weakest]:.3f})."
    ]
    missing = [found.called(k) for k in np.flatnonzero(counted.support == 0)[:8].tolist()]
    if missing:
        lacking = int((counted.support == 0).sum())
        many = f"{lacking:,} classes, such as " * (lacking > len(missing))
        sentences.append(f"No image of this split is of {many}{formatting.listing(missing)}.")

    drawn = order[:MOST]

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        places = np.arange(len(drawn))
        axes.hlines(places, np.minimum(counted.precision, counted.recall)[drawn],
                    np.maximum(counted.precision, counted.recall)[drawn], color=SOFT, linewidth=1)  # fmt: skip
        axes.plot(counted.precision[drawn], places, "o", color=BLUE, markersize=5, label="precision")
        axes.plot(counted.recall[drawn], places, "s", color=ORANGE, markersize=4.5, label="recall")
        axes.plot(counted.f1[drawn], places, "|", color=GREEN, markersize=9, markeredgewidth=2, label="F1")
        axes.set_yticks(places, [short(names[k], 30) for k in drawn], fontsize=8 if len(drawn) <= 25 else 6.5)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.7, len(drawn) - 0.3)
        figure.legend(loc="outside upper center", ncols=3)

    rows = [
        (names[k], int(counted.support[k]), *(f"{v[k]:.4f}" for v in (counted.precision, counted.recall, counted.f1)))
        for k in order[::-1]
    ]
    head = ("class", "images", "precision", "recall", "F1")
    height = 0.9 + (0.24 if len(drawn) <= 25 else 0.155) * len(drawn)
    left_out = len(drawn) < len(order)
    caption = f"Shown are the {len(drawn)} of {len(order)} classes that are recognised worst." if left_out else ""
    alt = f"Precision, recall and F1 of {len(order)} classes, from {names[strongest]} down to {names[weakest]}."
    picture = album.draw("classes", "Class by class", alt, paint, head, rows, size=(5.4, height), caption=caption)
    blocks: list[Block] = [picture]
    if left_out:
        blocks.insert(0, _spread_of_f1(counted.f1[asked], album))
        if not counted.f1[drawn].any():  # a hundred times nothing says less
            blocks.remove(picture)
    note = f"The {LISTED // 2} best and worst of {len(rows):,}; all are in classes.csv." if len(rows) > LISTED else ""
    shown = [*rows[: LISTED // 2], *rows[-LISTED // 2 :]] if note else rows
    return Section("classes", "Class by class", sentences, [*blocks, Table("", head, shown, len(rows) > 20, note)])


def _spread_of_f1(f1: np.ndarray, album: FigureWriter) -> Picture:
    """How many classes have which F1, [C]."""
    counts, edges = np.histogram(f1, bins=20, range=(0, 1))

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        axes.bar(edges[:-1], counts, 0.05, align="edge", color=BLUE, alpha=0.75, edgecolor=BLUE)
        axes.set_xlim(0, 1)
        axes.set_xlabel("F1")
        axes.set_ylabel("classes")

    middle = float(np.median(f1))
    alt = f"Histogram of the F1 of {len(f1):,} classes; half of them have {middle:.3f} or less."
    rows = [(f"{low:.2f}", f"{low + 0.05:.2f}", int(count)) for low, count in zip(edges, counts, strict=False)]
    return album.draw("classes-f1", f"F1 of {len(f1):,} classes", alt, paint, ("from", "to", "classes"), rows,
                      caption=f"{int((f1 == 0).sum()):,} have 0, {int((f1 == 1).sum()):,} have 1.")  # fmt: skip


def sureness(found: ClassAnswers, album: FigureWriter) -> Section:
    """The reliability diagram."""
    counted = scores.reliability(found.confidence, found.right)
    mean, share = float(found.confidence.mean()), float(found.right.mean())
    lean = "too sure of itself" if mean > share else "less sure than it could be"
    then = "; confidence" if abs(mean - share) < 0.01 else f": it is {lean}. Confidence"
    sentence = (
        f"The network gives its answers {formatting.percent(mean)} on average and is right in "
        f"{formatting.percent(share)}{then} and accuracy differ by {formatting.percent(counted.error)} on average "
        f"(expected calibration error)."
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
        f"{formatting.percent(0.9, 0)}. The surest is {_a(found.called(int(found.truth[first])))} taken "
        f"for {found.called(int(found.answers[first]))} with {formatting.percent(float(found.confidence[first]))}."
    )
    sheet = Sheet(
        "", [_shot(found, place, thumbs) for place in shown], note="At most four of a kind of error are shown."
    )
    return Section("errors", "The surest errors", [sentence], [sheet])


def _a(noun: str) -> str:
    return noun if noun[:1].isupper() else f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _shot(found: ClassAnswers, place: int, thumbs: Thumbnails) -> Shot:
    truth, answer = found.called(int(found.truth[place])), found.called(int(found.answers[place]))
    sure, true = found.confidence[place], found.probability[place, found.truth[place]]
    lines = (f"{answer} {formatting.percent(float(sure), 0)}", f"is {truth} {formatting.percent(float(true), 0)}")
    return Shot(thumbs[int(found.rows[place])], f"{truth}, taken for {answer}", lines, frame="bad")
