"""Sections about pairs and outfits: ROC curves, scores of what goes together and what does not, and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dist.config import Config
from fashion_dist.report import formatting, scores
from fashion_dist.report.blocks import Block, Section, Sheet, Shot, Table
from fashion_dist.report.figure_writer import BLUE, ORANGE, SOFT, Drawing, FigureWriter
from fashion_dist.report.split_predictions import SplitPredictions, Thumbnails
from fashion_dist.tasks.common import compatibility
from fashion_dist.tasks.common.evaluators import area_under_roc
from fashion_dist.tasks.common.wardrobe import wardrobe_of
from fashion_dist.tasks.polyvore_outfits import THRESHOLDS, conclusion

PER_CONCLUSION = 4
QUESTIONS = 6


@dataclass(frozen=True)
class Judged:
    """What a run says of a split's pairs, outfits and questions; only of items that were predicted.

    Args:
        exam: what is asked: P pairs, O outfits, Q questions.
        rows: [I, C + 1] of all items.
        pair_score: [P], probabilities.
        outfit_score: [O], mean probabilities.
        answers: int [Q], positions of the chosen answers.
        correct: int [Q].
    """

    exam: compatibility.Exam
    rows: np.ndarray
    pair_score: np.ndarray
    outfit_score: np.ndarray
    answers: np.ndarray
    correct: np.ndarray


def judge(answers: SplitPredictions) -> Judged:
    """Scores of everything that is asked of the split, as the task itself computes them."""
    there = np.zeros(len(answers.split), bool)
    there[answers.rows] = True
    exam = compatibility.exam_of(wardrobe_of(answers.split), there)
    rows = np.full((len(answers.split), answers.columns["embedding"].shape[1]), np.nan)
    rows[answers.rows] = answers.columns["embedding"]
    logits = compatibility.score_pairs(rows, exam.pairs[:, 0], exam.pairs[:, 1])
    return Judged(
        exam, rows, compatibility.sigmoid(logits), compatibility.score_outfits(rows, exam.outfits),
        compatibility.choose_answers(rows, exam.questions),
        np.array([question.correct for question in exam.questions], int),
    )  # fmt: skip


def figures(answers: SplitPredictions) -> list[scores.Figure]:
    """The task's metrics with intervals: those of pairs over their items, which pairs share."""
    found = judge(answers)
    made = scores.pair_figures(found.exam.pairs, found.pair_score, found.exam.truth)
    if len(found.outfit_score):
        made.append(scores.auc_figure("outfit_auc", found.outfit_score, found.exam.labels, area_under_roc))
    if len(found.answers):
        credits = compatibility.credits_of(found.rows, found.exam.questions)
        made.append(scores.mean_figure("fill_in_blank", credits))
    return made


def sections(answers: SplitPredictions, config: Config, album: FigureWriter, thumbs: Thumbnails) -> list[Section]:
    """All sections about pairs and outfits."""
    found = judge(answers)
    made = [_pairs(found, album, thumbs)]
    if len(found.outfit_score):
        made.append(_outfits(found, config, album, thumbs))
    if len(found.answers):
        made.append(_questions(found, thumbs))
    return made


def _pairs(found: Judged, album: FigureWriter, thumbs: Thumbnails) -> Section:
    area = area_under_roc(found.pair_score, found.exam.truth)
    right = float(((found.pair_score > 0.5) == found.exam.truth).mean())
    sentence = (
        f"Of {formatting.count(len(found.exam.pairs), 'pair')}, of which {int(found.exam.truth.sum()):,} share an "
        f"outfit, the network judges {formatting.percent(right)} rightly. A pair of one outfit scores above one of "
        f"strangers in {formatting.percent(area)} of cases (AUC {area:.3f})."
    )
    blocks: list[Block] = [
        _roc("pairs", "ROC of pairs", found.pair_score, found.exam.truth, album),
        _histogram(
            "pairs", "Scores of pairs", found.pair_score, found.exam.truth, ("strangers", "share an outfit"), album
        ),
    ]
    order = np.argsort(found.pair_score, kind="stable")
    for title, truth, places in (
        ("Of one outfit, highest scores", 1, order[::-1]), ("Strangers, lowest scores", 0, order),
        ("Strangers, highest scores", 0, order[::-1]), ("Of one outfit, lowest scores", 1, order),
    ):  # fmt: skip
        chosen = [int(p) for p in places if found.exam.truth[p] == truth][:6]
        blocks.append(Sheet(title, [_pair_shot(found, place, thumbs) for place in chosen]))
    return Section("pairs", "Pairs", [sentence], blocks)


def _pair_shot(found: Judged, place: int, thumbs: Thumbnails) -> Shot:
    a, b = found.exam.pairs[place].tolist()
    truth = "share an outfit" if found.exam.truth[place] else "strangers"
    line = f"{formatting.percent(float(found.pair_score[place]), 0)}, {truth}"
    right = (found.pair_score[place] > 0.5) == found.exam.truth[place]
    return Shot(thumbs[a], f"two items, {truth}", (line,), (thumbs[b],), "good" if right else "bad")


def _roc(name: str, title: str, score: np.ndarray, truth: np.ndarray, album: FigureWriter) -> Block:
    from sklearn.metrics import roc_curve

    false, true, cut = roc_curve(truth, score)
    area = area_under_roc(score, truth)

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "--", color=SOFT, linewidth=1, label="chance")
        axes.plot(false, true, color=BLUE, label=f"area {area:.3f}")
        axes.set_xlabel("share of the false ones accepted")
        axes.set_ylabel("share of the true ones accepted")
        axes.set_aspect("equal")
        axes.legend(loc="lower right")

    rows = [(f"{f:.6f}", f"{t:.6f}", f"{c:.6f}") for f, t, c in zip(false, true, cut, strict=True)]
    alt = f"{title}: receiver operating characteristic with an area of {area:.3f} under it; chance is 0.5."
    head = ("false positive rate", "true positive rate", "threshold")
    return album.draw(f"roc-{name}", title, alt, paint, head, rows, size=(4.4, 4.0))


def _histogram(
    name: str, title: str, score: np.ndarray, truth: np.ndarray, labels: tuple[str, str], album: FigureWriter,
    marks: Sequence[float] = (),
) -> Block:  # fmt: skip
    edges = np.linspace(0, 1, 26)
    counts = [np.histogram(score[truth == kind], edges)[0] for kind in (0, 1)]

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        axes.stairs(counts[0], edges, fill=True, alpha=0.45, color=ORANGE, hatch="///", label=labels[0])
        axes.stairs(counts[1], edges, fill=True, alpha=0.45, color=BLUE, label=labels[1])
        for number, mark in enumerate(marks):
            axes.axvline(mark, color=SOFT, linestyle=":", label=None if number else "thresholds")
        axes.set_xlabel("score")
        axes.set_ylabel(name)
        figure.legend(loc="outside upper center", ncols=3)

    rows = [(f"{edges[i]:.2f}", f"{edges[i + 1]:.2f}", int(counts[0][i]), int(counts[1][i])) for i in range(25)]
    means = [float(score[truth == kind].mean()) if (truth == kind).any() else 0.0 for kind in (0, 1)]
    alt = f"{title}: on average {means[1]:.2f} where they go together and {means[0]:.2f} where they do not."
    return album.draw(f"scores-{name}", title, alt, paint, ("from", "to", *labels), rows)


def _outfits(found: Judged, config: Config, album: FigureWriter, thumbs: Thumbnails) -> Section:
    options = {**THRESHOLDS, **config.options}
    low, high = (float(options[name]) for name in THRESHOLDS)
    said = np.array([conclusion(float(score), low, high) for score in found.outfit_score])
    area = area_under_roc(found.outfit_score, found.exam.labels)
    kinds = ("Positive", "Undecided", "Negative")
    head = ("conclusion", "outfits", "of them true", "of them mixed")
    rows = []
    for kind in kinds:
        chosen = said == kind
        true = int(found.exam.labels[chosen].sum())
        rows.append((kind, int(chosen.sum()), true, int(chosen.sum()) - true))
    sentence = (
        f"Of {formatting.count(len(said), 'outfit')}, {rows[0][1]} are concluded Positive, {rows[1][1]} Undecided and "
        f"{rows[2][1]} Negative. A true outfit scores above a mixed one in {formatting.percent(area)} of cases "
        f"(AUC {area:.3f})."
    )
    blocks: list[Block] = [
        _roc("outfits", "ROC of outfits", found.outfit_score, found.exam.labels, album),
        _histogram("outfits", "Scores of outfits", found.outfit_score, found.exam.labels, ("mixed", "true"), album,
                   marks=(low, high)),
        Table("Conclusions", head, rows, note=f"Negative up to {low:g}, Positive above {high:g}."),
    ]  # fmt: skip
    for kind in kinds:
        places = np.flatnonzero(said == kind)
        middle = (low + high) / 2
        far = -np.abs(found.outfit_score[places] - middle) * (1 if kind != "Undecided" else -1)
        chosen = places[np.argsort(far, kind="stable")][:PER_CONCLUSION]
        if len(chosen):
            blocks.append(Sheet(kind, [_outfit_shot(found, int(p), thumbs) for p in chosen]))
    return Section("outfits", "Outfits", [sentence], blocks)


def _outfit_shot(found: Judged, place: int, thumbs: Thumbnails) -> Shot:
    items = found.exam.outfits[place].tolist()
    true = bool(found.exam.labels[place])
    right = (found.outfit_score[place] > 0.5) == true
    line = f"{found.outfit_score[place]:.2f}, {'a true outfit' if true else 'mixed from several'}"
    frame = "good" if right else "bad"
    return Shot(thumbs[items[0]], "an outfit", (line,), tuple(thumbs[i] for i in items[1:8]), frame)


def _questions(found: Judged, thumbs: Thumbnails) -> Section:
    right = found.answers == found.correct
    offered = [len(question.answers) for question in found.exam.questions]
    chance = float(np.mean([1 / count for count in offered]))
    sentence = (
        f"{int(right.sum()):,} of {formatting.count(len(right), 'question')} are answered rightly "
        f"({formatting.percent(float(right.mean()))}); guessing would give {formatting.percent(chance)}."
    )
    blocks: list[Block] = []
    for title, places in (("Answered rightly", np.flatnonzero(right)), ("Answered wrongly", np.flatnonzero(~right))):
        shots = []
        for place in places[: QUESTIONS // 2].tolist():
            question = found.exam.questions[place]
            shots.append(Shot(thumbs[int(question.items[0])], "the outfit's other items",
                              (f"question {place + 1}: the outfit",),
                              tuple(thumbs[int(i)] for i in question.items[1:6])))  # fmt: skip
            for number, item in enumerate(question.answers.tolist()):
                told = [word for word, said in (("chosen", number == found.answers[place]),
                                                ("right", number == found.correct[place])) if said]  # fmt: skip
                frame = ("good" if number == found.correct[place] else "bad") if told else ""
                shots.append(Shot(thumbs[item], "an answer on offer", (" and ".join(told) or "offered",), frame=frame))
        if shots:
            blocks.append(Sheet(title, shots))
    return Section("questions", "Fill in the blank", [sentence], blocks)
