"""What several runs take for what on the same images: their confusion matrices side by side, at one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fashion_dist.report import formatting, scores, views
from fashion_dist.report.blocks import Section
from fashion_dist.report.classes import ClassAnswers
from fashion_dist.report.figure_writer import Drawing, FigureWriter, heat, short
from fashion_dist.report.run_data import RunData
from fashion_dist.report.split_predictions import SPLITS

MOST, WIDEST = 6, 70
"""Runs of which matrices are drawn, and classes."""


def confusions(found: Sequence[RunData], album: FigureWriter) -> Section | None:
    """The matrices of the runs that answered the same images in the same classes; None unless there are two."""
    named = _answered(found)
    if len(named) < 2:
        return None
    (_, first), *_ = named
    names = first.names
    order = scores.together(np.sum([answers.matrix() for _, answers in named], axis=0))
    rows = [(run, names[k], *answers.matrix()[k, order].tolist()) for run, answers in named for k in order]
    columns = min(3, len(named))
    lines = -(-len(named) // columns)
    few = len(names) <= 20

    def paint(figure: Drawing) -> None:
        for at, (run, answers) in enumerate(named):
            axes = figure.add_subplot(lines, columns, at + 1)
            matrix = answers.matrix()[np.ix_(order, order)]
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            heat(axes, shares, None)
            axes.set_title(f"{short(run, 34)}: {answers.right.mean():.3f}")
            places = range(len(order)) if few else []
            axes.set_xticks(places, [short(names[order[n]], 14) for n in places], rotation=90, fontsize=6.5)
            shown = places if at % columns == 0 else []
            axes.set_yticks(shown, [short(names[order[n]], 18) for n in shown], fontsize=6.5)

    told = "; ".join(f"{run} is right on {answers.right.mean():.1%}" for run, answers in named)
    picture = album.draw(
        "confusions", "Confusion matrices, one scale", f"Of {len(first.truth):,} images {told}.", paint,
        ("run", "truth", *(names[k] for k in order)), rows, size=(3.4 * columns, 3.9 * lines), wide=True,
        caption="Share of the row, from 0 to 1 in every matrix; rows are the truth, in the same order everywhere.",
    )  # fmt: skip
    sentences = [f"Of the same {len(first.truth):,} images {told}."]
    worst = [(run, _worst(answers)) for run, answers in named]
    sentences += [f"{run} most often takes {words}." for run, words in worst if words]
    if len(found) > len(named):
        sentences.append(f"Shown are {formatting.listing([run for run, _ in named])}.")
    return Section("confusions", "What each takes for what", sentences, [picture])


def _worst(answers: ClassAnswers) -> str:
    wrong = answers.matrix()
    np.fill_diagonal(wrong, 0)
    truth, answer = divmod(int(wrong.argmax()), len(wrong))
    count = int(wrong[truth, answer])
    return f"{answers.called(truth)} for {answers.called(answer)} ({count} times)" if count else ""


def _answered(found: Sequence[RunData]) -> list[tuple[str, ClassAnswers]]:
    """Names or ids of runs, and answers, of the first split on which two runs can be compared."""
    for split in SPLITS:
        named: list[tuple[str, ClassAnswers]] = []
        for f, _, answers in views.in_classes(found, split):
            if len(answers.names) > WIDEST:
                continue
            same = not named or (
                list(named[0][1].names) == list(answers.names)
                and np.array_equal(named[0][1].rows, answers.rows)
                and np.array_equal(named[0][1].truth, answers.truth)  # else they learned other columns
            )
            if same:
                named.append((f.called, answers))
        if len(named) > 1:
            return named[:MOST]
    return []
