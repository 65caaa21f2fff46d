"""What the views of a task (`Task.report_views`) show of a split's answers: figures with intervals, and sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from fashion_dist.errors import ConfigError, FashionDistError, ShardsError
from fashion_dist.report import attributes, classes, outfits, scores
from fashion_dist.report.blocks import Section
from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.report.run_data import RunData
from fashion_dist.report.split_predictions import SplitPredictions, Thumbnails, read_answers
from fashion_dist.results.named import view_names
from fashion_dist.tasks import ReportView
from fashion_dist.tasks.common.attributes import names_of

Seen: TypeAlias = "classes.ClassAnswers | attributes.AttributeAnswers | SplitPredictions"
"""What a view is drawn from: of outfits the predictions as they are."""


def figures(facts: RunData, answers: SplitPredictions) -> list[scores.Figure]:
    """The metrics of all views, with intervals."""
    made: list[scores.Figure] = []
    for found in _shown(facts, answers):
        if isinstance(found, classes.ClassAnswers):
            made += scores.class_figures(found.truth, found.probability, found.answers)
        elif isinstance(found, attributes.AttributeAnswers):
            names = names_of(facts.task.metrics(answers.split.schema, facts.config))
            made += scores.attribute_figures(found.truth, found.chosen, names)
        else:
            made += outfits.figures(found)
    return made


def sections(facts: RunData, answers: SplitPredictions, album: FigureWriter) -> list[Section]:
    """The sections of all views."""
    made: list[Section] = []
    with Thumbnails(answers.split) as thumbs:
        for found in _shown(facts, answers):
            if isinstance(found, classes.ClassAnswers):
                made += classes.sections(found, album, thumbs)
            elif isinstance(found, attributes.AttributeAnswers):
                made += attributes.sections(found, album, thumbs)
            else:
                made += outfits.sections(found, facts.config, album, thumbs)
    return made


def has_any(facts: RunData, answers: SplitPredictions) -> bool:
    """Whether a view has something to show: the truth is known, and what was predicted is what it needs."""
    return next(_shown(facts, answers), None) is not None


def lacking(facts: RunData, answers: SplitPredictions) -> list[str]:
    """For each view that cannot be shown, which prediction columns are not there, in a sentence."""
    found = []
    for view in facts.task.report_views():
        if missing := [name for name in view.predictions if name not in answers.columns]:
            columns = f"column{'s' * (len(missing) > 1)} {', '.join(missing)}"
            found.append(f"The predictions of {answers.split.name} have no {columns}: {view.kind} are not shown.")
    return found


def classes_of(facts: RunData, answers: SplitPredictions) -> classes.ClassAnswers | None:
    """The answers about classes; None of a task without any, or where nothing is known."""
    for view in facts.task.report_views():
        found = _read(facts, answers, view) if view.kind == "classes" else None
        if isinstance(found, classes.ClassAnswers):
            return found
    return None


def in_classes(
    found: Sequence[RunData], split: str
) -> Iterator[tuple[RunData, SplitPredictions, classes.ClassAnswers]]:
    """The runs that answered a split in classes; why another's answers cannot be read is said where its own are."""
    for facts in found:
        if facts.shard_set is None or not facts.shard_set.splits.get(split):
            continue
        try:
            answers = read_answers(facts.run, facts.task, facts.config, facts.shard_set.split(split))
            of_classes = classes_of(facts, answers) if answers is not None else None
        except (FashionDistError, ShardsError):
            continue
        if answers is not None and of_classes is not None:
            yield facts, answers, of_classes


def _shown(facts: RunData, answers: SplitPredictions) -> Iterator[Seen]:
    for view in facts.task.report_views():
        if (found := _read(facts, answers, view)) is not None:
            yield found


def _read(facts: RunData, answers: SplitPredictions, view: ReportView) -> Seen | None:
    """What the view is drawn from; None where nothing is known or predicted."""
    if any(name not in answers.columns for name in view.predictions):
        return None
    if view.truth and view.truth not in answers.targets:
        raise ConfigError(
            f"task {facts.config.task!r}: its view {view.kind!r} needs the target {view.truth!r}; "
            f"targets() gives {', '.join(answers.targets) or 'none'}"
        )
    if view.kind == "outfits":
        return answers
    return (_classes if view.kind == "classes" else _attributes)(facts, answers, view)


def _names(facts: RunData, view: ReportView) -> Sequence[str]:
    assert facts.shard_set is not None
    found = view_names(view, facts.task, facts.shard_set.schema, facts.config)
    if not found and isinstance(view.names, str):
        whose = f"the column {view.names!r}" if view.names else "its class_names()"
        raise ConfigError(
            f"task {facts.config.task!r}: its view {view.kind!r} takes names of {whose}, which gives none"
        )
    return list(found)


def _classes(facts: RunData, answers: SplitPredictions, view: ReportView) -> classes.ClassAnswers | None:
    truth = np.asarray(answers.targets[view.truth]).astype(np.int64)
    known = truth >= 0
    if not known.any():
        return None
    probability = np.asarray(answers.columns[view.probability])
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], axis=1)
    answer = np.asarray(answers.columns[view.answer]).astype(np.int64)
    return classes.ClassAnswers(
        answers.rows[known], truth[known], answer[known],
        probability if known.all() else probability[known],  # as large as all else together
        _names(facts, view),
    )  # fmt: skip


def _attributes(facts: RunData, answers: SplitPredictions, view: ReportView) -> attributes.AttributeAnswers | None:
    truth = np.asarray(answers.targets[view.truth])
    known = (truth >= 0).any(axis=1)
    if not known.any():
        return None
    return attributes.AttributeAnswers(
        answers.rows[known], truth[known], np.asarray(answers.columns[view.answer]).astype(bool)[known],
        np.asarray(answers.columns[view.probability])[known], _names(facts, view),
    )  # fmt: skip
