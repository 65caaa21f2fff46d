"""One setting changed at a time against a base, with intervals; and tests of two runs on the same images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fashion_dist.config import WEIGHT_DECAYS
from fashion_dist.errors import FashionDistError, ShardsError
from fashion_dist.report import formatting, scores
from fashion_dist.report.blocks import Block, Section, Table
from fashion_dist.report.comparison import Group, curve_picture
from fashion_dist.report.figure_writer import BLUE, SOFT, Drawing, FigureWriter, short
from fashion_dist.report.run_data import RunData, plain_json
from fashion_dist.results.compare import compare
from fashion_dist.runs import OpenRun

Hits = Mapping[str, np.ndarray]
"""By run id whether each image of one split was answered rightly, bool [n], the same images in the same order."""


@dataclass(frozen=True)
class Step:
    """One setting changed against the base, by the runs of `group`.

    Args:
        metric: difference of the monitored metric on validation, this minus base.
        hits: the same of the share answered rightly, with its interval; None without predictions of the same images.
    """

    group: Group
    key: str
    was: object
    now: object
    metric: float
    hits: scores.Figure | None


def find_base(groups: Sequence[Group]) -> Group | None:
    """The configuration from which most others differ in exactly one setting; None unless two do."""
    counts = [sum(len(changes(base, other)) == 1 for other in groups if other is not base) for base in groups]
    best = int(np.argmax(counts)) if counts else 0
    return groups[best] if counts and counts[best] >= 2 else None


def changes(base: Group, other: Group) -> list[str]:
    """The settings in which two configurations differ, but for a weight decay that an optimizer brings by itself."""
    found = [key for key in base.settings if base.settings[key] != other.settings.get(key)]
    brought = WEIGHT_DECAYS.get(str(other.settings.get("optim.name")))
    if "optim.name" in found and other.settings.get("optim.weight_decay") == brought:
        found = [key for key in found if key != "optim.weight_decay"]
    return found


def steps(groups: Sequence[Group], base: Group, metric: str, hits: Hits) -> list[Step]:
    """The configurations one change away from the base, the most helpful first."""
    found = []
    for g in groups:
        keys = changes(base, g)
        if len(keys) == 1:
            was, now = (one.settings.get(keys[0]) for one in (base, g))
            found.append(Step(g, keys[0], was, now, g.mean(metric) - base.mean(metric), _paired(g, base, hits)))
    sign = 1 if base.members[0].task.direction(metric) == "max" else -1
    return sorted(found, key=lambda step: -sign * step.metric)


def _paired(first: Group, second: Group, hits: Hits) -> scores.Figure | None:
    """The difference in images answered rightly; of several seeds their mean answers."""
    mine, theirs = ([hits[f.run_id] for f in g.members if f.run_id in hits] for g in (first, second))
    if not mine or not theirs or len(mine[0]) != len(theirs[0]):
        return None
    return scores.difference(np.mean(mine, axis=0), np.mean(theirs, axis=0))


def section(groups: Sequence[Group], shared: Sequence[str], hits: Hits, album: FigureWriter) -> Section | None:
    """The ablation: a table, a picture of the differences, and for each setting the curves of its values."""
    base = find_base(groups)
    if base is None or not shared:
        return None
    metric = shared[0]
    found = [s for s in steps(groups, base, metric, hits) if np.isfinite(s.metric)]
    if not found:
        return None
    sentences = [_sentence(step, metric) for step in (found[0], found[-1])[: len(found)]]
    sentences.insert(0, f"Against the base ({base.members[0].called}), one setting is changed at a time.")
    rows = []
    for s in found:
        interval = "—" if s.hits is None else f"{s.hits.value:+.4f} ({s.hits.low:+.4f} to {s.hits.high:+.4f})"
        rows.append((s.key, plain_json(s.was), plain_json(s.now), f"{s.metric:+.4f}", interval, len(s.group.members)))
    head = ("setting", "base", "changed to", formatting.name(metric), "images answered rightly", "seeds")
    note = (
        "Differences are changed minus base. Intervals (95 %) resample the images; they leave out the chance of the "
        "seed, which only several seeds show."
    )
    blocks: list[Block] = [_picture(found, metric, album), Table("", head, rows, note=note, wide=True)]
    for key in dict.fromkeys(s.key for s in found):
        levels = [base, *(s.group for s in found if s.key == key)]
        shown = [replace(g, label=f"{key.rpartition('.')[2]} {plain_json(g.settings.get(key))}") for g in levels]
        title = f"{key}: {formatting.listing([plain_json(g.settings.get(key)) for g in levels])}"
        picture = curve_picture(f"ablation-{key}", metric, shown, album, title=title)
        if picture is not None:
            blocks.append(picture)
    return Section("ablation", "One setting at a time", sentences, blocks)


def _sentence(step: Step, metric: str) -> str:
    value = plain_json(step.now)
    name = formatting.name(metric)
    how = "raises" if step.metric > 0 else "lowers" if step.metric < 0 else "does not change"
    sentence = f"{step.key} = {value} instead of {plain_json(step.was)} {how} {name}"
    sentence += f" by {abs(step.metric):.4f}" if step.metric else ""
    if step.hits is not None and step.hits.low is not None and step.hits.high is not None:
        if step.hits.low <= 0 <= step.hits.high:
            sentence += ", which the choice of images alone could explain"
        else:
            sentence += ", more than the choice of images would explain"
    return f"{sentence}."


def _picture(found: Sequence[Step], metric: str, album: FigureWriter) -> Block:
    labels = [f"{s.key.rpartition('.')[2]} = {plain_json(s.now)}" for s in found]

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        places = np.arange(len(found))
        axes.axvline(0, color=SOFT, linewidth=1)
        axes.plot([s.metric for s in found], places, "o", color=BLUE, label=f"{formatting.name(metric)}, validation")
        for place, s in zip(places, found, strict=True):
            if s.hits is not None and s.hits.low is not None and s.hits.high is not None:
                axes.plot([s.hits.low, s.hits.high], [place + 0.22] * 2, color=SOFT, linewidth=2,
                          label="95 % interval of images answered rightly" if place == 0 else None)  # fmt: skip
        axes.set_yticks(places, [short(label, 34) for label in labels])
        axes.invert_yaxis()
        axes.set_xlabel("difference to the base")
        figure.legend(loc="outside upper center", ncols=1)

    told = "; ".join(f"{label} {s.metric:+.4f}" for label, s in zip(labels, found, strict=True))
    rows = [
        (s.key, plain_json(s.was), plain_json(s.now), s.metric, *((s.hits.low, s.hits.high) if s.hits else ("", "")))
        for s in found
    ]
    alt = f"Differences in {formatting.name(metric)} of single changes against the base: {told}."
    head = ("setting", "base", "changed to", metric, "low", "high")
    return album.draw(
        "ablation", "Differences to the base", alt, paint, head, rows, size=(5.4, 1.5 + 0.34 * len(found))
    )


def _worth_testing(found: Sequence[RunData], most: int = 8) -> Sequence[RunData]:
    """All of a few runs; of many the best two of each task."""
    if len(found) <= most:
        return found
    tasks = dict.fromkeys(f.config.task for f in found)
    ranked = sorted(found, key=lambda f: -f.task.monitored(f.config).score(f.view.progress.best.get("value")))
    return [f for task in tasks for f in [f for f in ranked if f.config.task == task][:2]]


def tests(found: Sequence[RunData], splits: Sequence[str] = ("test", "val"), most: int = 10) -> Section | None:
    """McNemar's test of each two runs on the same images, of one task or of two of which one merges the other's."""
    rows: list[tuple[object, ...]] = []
    sentences: list[str] = []
    tables: list[Block] = []
    for a, b in itertools.combinations(_worth_testing(found), 2):
        if len(rows) == most:
            sentences.append(f"Only the first {most} pairs are tested.")
            break
        if a.shard_set is None or b.shard_set is None:
            continue
        merged = a.config.task != b.config.task
        for split in splits:
            if not all(any(f.run.predictions(split).glob("rank_*.parquet")) for f in (a, b)):
                continue
            try:
                result = compare(OpenRun(a.run, a.config, a.shard_set), OpenRun(b.run, b.config, b.shard_set), split)
            except (FashionDistError, ShardsError):
                continue  # other classes, other images, or no labels: there is nothing to compare
            (first, second), alone = result.accuracies, result.alone
            rows.append((a.called, b.called, split, f"{first:.4f}", f"{second:.4f}", *alone, f"{result.p_value:.3g}"))
            if merged or len(found) == 2:
                sentences.append(result.sentence())
            if merged and len(result.classes) <= 4:
                for run, name in enumerate(result.names):
                    cells = result.confusion(run).tolist()
                    body = [(c, *line) for c, line in zip(result.classes, cells, strict=True)]
                    tables.append(Table(name.rstrip(","), ("truth", *result.classes), body))
            break
    if not rows:
        return None
    head = ("first", "second", "split", "accuracy", "accuracy", "only first right", "only second right", "p")
    note = "McNemar's exact test, two-sided; many tests find differences by chance: with ten, expect one below 0.1."
    sentences = sentences or [f"{formatting.count(len(rows), 'pair')} of runs answered the same images."]
    return Section(
        "tests", "Tested on the same images", sentences, [Table("", head, rows, note=note, wide=True), *tables]
    )
