"""What was run, and how it went: the first sections of a run's page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.report import formatting
from fashion_dist.report.blocks import Block, Picture, Section, Table
from fashion_dist.report.figure_writer import BLUE, COLOURS, GREEN, ORANGE, SOFT, STYLES, Drawing, FigureWriter
from fashion_dist.report.run_data import RunData, plain_json
from fashion_dist.report.scores import Figure
from fashion_dist.tracking.metrics_log import PLAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATE_WORDS = {
    "done": "is done", "running": "is still going", "starting": "is starting", "queued": "waits in the queue",
    "stopped": "was stopped before its end", "cancelled": "was cancelled", "failed": "failed", "new": "has not begun",
}  # fmt: skip


def state_sentence(facts: RunData) -> str:
    """How the run stands, with the reason where it did not end well."""
    progress = facts.view.progress
    sentence = f"The run {STATE_WORDS.get(facts.view.state, facts.view.state)}"
    if facts.view.state != "done" and progress.epochs:
        sentence += f", after {min(progress.epoch, progress.epochs)} of {progress.epochs} epochs"
    return f"{sentence}: {facts.view.detail}" if facts.view.detail else f"{sentence}."


def what_was_run(facts: RunData) -> Section:
    """Command, settings, data, hardware and cost."""
    config, changed = facts.config, facts.changed
    sentences = [state_sentence(facts), _cost_sentence(facts)]
    blocks: list[Block] = []
    rows = [(key, plain_json(was), plain_json(now)) for key, (was, now) in changed.items()]
    if rows:
        blocks.append(Table("Settings that differ from the recipe", ("setting", "recipe", "this run"), rows))
    else:
        sentences.append("All settings are those of the task's recipe.")
    if facts.shard_set is not None:
        blocks.append(_data_card(facts))
    if facts.starts:
        blocks.append(_starts(facts))
    everything = [(key, plain_json(value)) for key, value in config.flat().items()]
    blocks.append(Table("All settings", ("setting", "value"), everything, folded=True))
    versions = sorted(facts.made.versions.items())
    if versions:
        blocks.append(Table("Versions", ("package", "version"), versions, folded=True))
    return Section("run", "What was run", [s for s in sentences if s], blocks)


def _cost_sentence(facts: RunData) -> str:
    if not facts.starts:
        return "No start of it is written down, so its time and cost are unknown."
    last = facts.starts[-1]
    ranks = formatting.count(last.ranks or 1, "rank")
    on = f" on {last.hardware or last.nodes or 'one machine'}"
    cpu = f", {formatting.duration(facts.cpu_s)} of CPU time" if facts.cpu_s is not None else ""
    rate = f", at {facts.samples_per_s:,.0f} training samples/s" if facts.samples_per_s else ""
    rate += f", {formatting.duration(facts.epoch_s)} an epoch" if facts.epoch_s else ""
    hours = f"{facts.node_hours:.2f}" if facts.node_hours >= 0.005 else f"{facts.node_hours:.4f}"
    return f"It took {formatting.duration(facts.wall_s)} with {ranks}{on} ({hours} node-hours{cpu}){rate}."


def _data_card(facts: RunData) -> Table:
    assert facts.shard_set is not None
    shard_set = facts.shard_set
    rows: list[tuple[object, ...]] = []
    for name, samples in shard_set.splits.items():
        split = shard_set.split(name)
        sizes = f"{int(np.median(split.width))} × {int(np.median(split.height))} px" if samples else "—"
        kilobytes = f"{split.size.mean() / 1024:.1f} KB" if samples else "—"
        rows.append((name, samples, sizes, kilobytes))
    kinds = [f"{len(found)} of {fact}" for fact, found in shard_set.schema.names.items()]
    tables = [f"{shard_set.table(name).num_rows:,} {name}" for name in shard_set.manifest.tables]
    note = f"{shard_set.manifest.dataset}, {shard_set.data_hash[:10]}. " + (
        f"Names: {formatting.listing(kinds)}. " if kinds else ""
    ) + (f"Tables: {formatting.listing(tables)}." if tables else "")  # fmt: skip
    return Table("Data", ("split", "samples", "median size", "mean file"), rows, note=note.strip())


def _starts(facts: RunData) -> Table:
    rows = []
    for start in facts.starts:
        took = formatting.duration(start.ended - start.started) if start.ended else "—"
        why = "; ".join(filter(None, [start.message, start.note]))
        where = (start.nodes or start.host, start.ranks or 1, start.hardware or "—")
        rows.append((start.attempt, *where, took, start.end or "—", why))
    return Table("Starts", ("start", "nodes", "ranks", "hardware", "took", "end", "why"), rows, folded=len(rows) > 8)


def curves(facts: RunData, album: FigureWriter) -> Section:
    """Loss, every metric, learning rate and throughput over the epochs; the best epoch and later starts marked."""
    if not facts.points:
        return Section("curves", "Curves", ["Nothing has been measured yet."])
    terms = sorted({k for p in facts.points for k in p if k.endswith("_loss")})
    names = dict.fromkeys(["loss", *terms, *facts.metrics, "lr", "gradient_norm", "samples_per_s"])
    blocks = [picture for name in names if (picture := _both(facts, album, name)) is not None]
    return Section("curves", "Curves", _curve_words(facts), blocks, compact=True)


def machines(facts: RunData, album: FigureWriter) -> Section | None:
    """What the nodes did while it trained, a picture for each figure with a line for each node, or of many nodes for
    their least, mean and most; None without any.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in (p for p in facts.points if p["split"] == "system"):
        for key, value in point.items():
            node, slash, name = key.partition("/")
            if node == "nodes":  # of many: the least, mean and most of all, see `cluster.system_metrics.summed`
                name, _, node = name.rpartition("_")
            if slash and value is not None and node != "node":  # which node that was is in metrics.jsonl
                found.setdefault(name, {}).setdefault(node, []).append((point["epoch"], value))
    if not found:
        return None
    blocks = [_of_nodes(name, nodes, album) for name, nodes in sorted(found.items())]
    return Section("machines", "What the machines did", [], blocks, compact=True)


def _of_nodes(name: str, nodes: Mapping[str, list[tuple[float, float]]], album: FigureWriter) -> Picture:
    words = re.sub(r"^gpu(\d*)_", lambda found: f"GPU {found[1]}".strip() + " ", name)
    words = words.replace("_", " ").replace("cpu", "CPU").replace(" percent", ", %")
    title = formatting.capital(words)

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        for at, (node, points) in enumerate(nodes.items()):
            line(axes, points, node, COLOURS[at % len(COLOURS)], STYLES[at // len(COLOURS) % len(STYLES)])
        epochs_below(axes)
        axes.set_ylim(bottom=0)
        if 1 < len(nodes) <= 8:
            axes.legend()

    means = [f"{node} {np.mean([value for _, value in points]):.4g}" for node, points in nodes.items()]
    more = f" and {len(means) - 8} more" if len(means) > 8 else ""
    rows = [(node, epoch, value) for node, points in nodes.items() for epoch, value in points]
    alt = f"{title} of each node over the epochs; means: {', '.join(means[:8])}{more}."
    return album.draw(f"system-{name}", title, alt, paint, ("node", "epoch", name), rows, size=(4.4, 2.8))


def _curve_words(facts: RunData) -> list[str]:
    sentences = []
    found = facts.series("val", facts.monitor)
    name = formatting.name(facts.monitor)
    if found and facts.best_epoch is not None:
        value = dict(found).get(facts.best_epoch)
        if value is not None:
            last_epoch, last = found[-1]
            sentences.append(
                f"Validation {name} was best after epoch {facts.best_epoch:g}, at {value:.4f}"
                + (f"; after the last, {last_epoch:g}, it was {last:.4f}." if last_epoch != facts.best_epoch else ".")
            )
    seen = [metric for metric in dict.fromkeys([*facts.metrics, "loss"]) if _gap(facts, metric) is not None]
    if seen:
        told = [f"{formatting.name(metric)} {_gap_words(facts, metric)}" for metric in seen]
        sentences.append(
            f"In the epoch up to it, training had {formatting.listing(told)}. Training is measured as it goes on, of "
            f"augmented images; mixed ones count by their larger share."
        )
    later = starts_after_first(facts)
    if later:
        sentences.append(f"The run was taken up again {formatting.count(len(later), 'time')}; dotted lines show where.")
    return sentences


def _gap(facts: RunData, name: str) -> tuple[float, float] | None:
    """A quantity in training, as its mean over the best epoch, and in validation after it; None without either."""
    best, val = facts.best_epoch, dict(facts.series("val", name))
    train = [value for epoch, value in facts.series("train", name) if best is not None and best - 1 < epoch <= best]
    return (float(np.mean(train)), val[best]) if best is not None and best in val and train else None


def _gap_words(facts: RunData, name: str) -> str:
    found = _gap(facts, name)
    assert found is not None
    train, val = found
    if train == val:
        return f"{train:.4f}, as validation"
    return f"{train:.4f}, {abs(train - val):.4f} {'above' if train > val else 'below'} validation's {val:.4f}"


def starts_after_first(facts: RunData) -> list[float]:
    """The epochs at which a later start took the run up."""
    train = [p for p in facts.points if p["split"] == "train"]
    pairs = itertools.pairwise(train)
    return [after["epoch"] for before, after in pairs if before.get("attempt") != after.get("attempt")]


def _both(facts: RunData, album: FigureWriter, name: str) -> Picture | None:
    """One quantity over the epochs, in training and validation, as far as it was measured."""
    lines = [(split, points) for split in ("train", "val") if (points := facts.series(split, name))]
    if not lines:
        return None
    title = (
        "Throughput, samples/s of all ranks" if name == "samples_per_s" else formatting.capital(formatting.name(name))
    )

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        for split, points in lines:
            line(axes, points, split, BLUE if split == "train" else ORANGE, "-" if split == "train" else "--")
        mark(axes, facts, lines[-1][1] if lines[-1][0] == "val" else None)
        epochs_below(axes)
        if name == "samples_per_s":
            axes.set_ylim(bottom=0)
        if len(lines) > 1 or axes.get_legend_handles_labels()[1] != [lines[0][0]]:
            axes.legend()

    told = "; ".join(f"{split} from {p[0][1]:.4g} to {p[-1][1]:.4g}" for split, p in lines)
    rows = [(split, epoch, value) for split, points in lines for epoch, value in points]
    alt = f"{title} over {lines[-1][1][-1][0]:g} epochs: {told}."
    caption = f"At the best epoch, training is {_gap_words(facts, name)}." if _gap(facts, name) is not None else ""
    return album.draw(
        f"curve-{name}", title, alt, paint, ("split", "epoch", name), rows, size=(4.4, 2.8), caption=caption
    )


def line(axes: Axes, points: Sequence[tuple[float, float]], label: str, colour: str, style: str = STYLES[0]) -> None:
    """A line through (epoch, value) points; few points are dots as well."""
    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, marker="o" if len(points) < 3 else None)


def epochs_below(axes: Axes) -> None:
    """Name the horizontal axis, and mark whole epochs where there are several."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    ends = axes.dataLim.intervalx
    if ends[0] == ends[1]:  # one point: other ticks would be of no epoch
        axes.set_xticks([ends[0]], [f"{ends[0]:g}"])
    elif axes.get_xlim()[1] > 2:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def mark(axes: Axes, facts: RunData, val: Sequence[tuple[float, float]] | None) -> None:
    """The best epoch as a dot on its curve, and the epochs where a later start took up as dotted lines."""
    for number, epoch in enumerate(starts_after_first(facts)):
        axes.axvline(epoch, color=SOFT, linewidth=0.9, linestyle=":", label="started again" if not number else None)
    best = facts.best_epoch
    if best is not None and val and best in dict(val):
        axes.plot([best], [dict(val)[best]], "D", color=GREEN, markersize=5, label=f"best, epoch {best:g}", zorder=5)


def final_figures(facts: RunData, judged: Mapping[str, Sequence[Figure]]) -> Section:
    """The figures of each judged split, with intervals where they were recomputed from predictions."""
    rows: list[tuple[object, ...]] = []
    sentences = []
    for split, figures in judged.items():
        logged = facts.at_best(split)
        known = {f.name for f in figures}
        for figure in figures:
            low_high = "—" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
            rows.append((split, formatting.name(figure.name), f"{figure.value:.4f}", low_high))
        rows += [
            (split, formatting.name(k), f"{v:.4f}", "—") for k, v in logged.items() if k not in known and k not in PLAIN
        ]
        if figures:
            first = figures[0]
            between = "" if first.low is None else f" (95 % interval {first.low:.4f} to {first.high:.4f})"
            where = "test" if split == "test" else "validation" if split == "val" else split
            sentences.append(f"On {where}, {formatting.name(first.name)} is {first.value:.4f}{between}.")
    if "val" not in judged and (measured := facts.at_best("val")):
        if not judged and facts.monitor in measured:
            value = measured[facts.monitor]
            sentences.append(
                f"On validation, the run measured a {formatting.name(facts.monitor)} of {value:.4f} at its best."
            )
        rows += [
            ("val", formatting.name(name), f"{measured[name]:.4f}", "—") for name in facts.metrics if name in measured
        ]
    if not rows:
        return Section("figures", "Final figures", ["There are no figures of a labelled split yet."])
    if "test" not in judged:
        sentences.append(no_test(facts))
    note = (
        "Intervals are the 2.5 and 97.5 % quantiles of 1,000 resamplings of the split; they say nothing of other seeds."
    )
    table = Table("", ("split", "figure", "value", "95 % interval"), rows, note=note)
    return Section("figures", "Final figures", sentences, [table])


def no_test(facts: RunData) -> str:
    """Why there are no figures of the test split."""
    if facts.shard_set is not None and "test" not in facts.shard_set.splits:
        return "The shard set has no test split."
    if not (facts.run.predictions("test")).is_dir():
        return "The test split has not been predicted yet, so these figures are of validation."
    return "The labels of the test split are not known here, so these figures are of validation."
