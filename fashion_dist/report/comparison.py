"""Sections of a page of several runs: what differs, the curves together, seeds folded, models side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fashion_dist.models.registry import own_models
from fashion_dist.report import formatting
from fashion_dist.report.blocks import Picture, Section, Table
from fashion_dist.report.figure_writer import COLOURS, MARKERS, SOFT, STYLES, Drawing, FigureWriter, short
from fashion_dist.report.run_data import RunData, plain_json
from fashion_dist.report.run_sections import epochs_below
from fashion_dist.tasks import Monitor

SEED = "train.seed"
LINES = 14
"""Runs whose curves have a colour and a name of their own in a picture; of more, the best have."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Args:
        label: the run's name, else the settings that differ between groups, in short, or the run's id.
        settings: those settings, by key.
        members: the runs.
        place: among those of the page, by which it has its colour in every picture.
    """

    label: str
    settings: Mapping[str, Any]
    members: Sequence[RunData]
    place: int = 0

    def values(self, metric: str) -> list[float]:
        """A metric of each member on validation at its best epoch, of those that have one."""
        return [v for f in self.members if (v := f.at_best("val").get(metric)) is not None]

    def mean(self, metric: str) -> float:
        """The mean of `values`; NaN where there is none."""
        found = _mean(self.values(metric))
        return float("nan") if found is None else found

    @property
    def epochs_to_best(self) -> float | None:
        """The mean over members of the epoch with the best value."""
        return _mean([f.best_epoch for f in self.members])

    @property
    def epoch_s(self) -> float | None:
        """Seconds of an epoch, the mean over members."""
        return _mean([f.epoch_s for f in self.members])

    def score(self, metric: str) -> float:
        """A number that is higher the better `mean` is."""
        return Monitor(metric, self.members[0].task.direction(metric)).score(self.mean(metric))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def differing(found: Sequence[RunData]) -> list[str]:
    """The settings that are not the same in all runs, in the order of the configuration."""
    flats = [f.config.flat() for f in found]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    return [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]


def group(found: Sequence[RunData]) -> list[Group]:
    """The runs, folded over seeds, in the order of their first appearance."""
    keys = [key for key in differing(found) if key != SEED]
    folded: dict[str, list[RunData]] = {}
    for f in found:
        flat = f.config.flat()
        folded.setdefault(repr([*(flat.get(key) for key in keys), data_of(f)]), []).append(f)
    made = []
    for members in folded.values():
        flat = members[0].config.flat()
        settings = {key: flat.get(key) for key in keys}
        label = members[0].view.name if len(members) == 1 else ""
        made.append(Group(label or _label(settings, members[0]), settings, members))
    labels = [g.label for g in made]
    made = [
        g if labels.count(g.label) == 1 else replace(g, label=f"{g.label} ({g.members[0].run_id[-6:]})") for g in made
    ]
    shared = shared_metrics(found)
    ranked = sorted(range(len(made)), key=lambda at: -made[at].score(shared[0])) if shared else range(len(made))
    places = {at: place for place, at in enumerate(ranked)}
    return [replace(g, place=places[at]) for at, g in enumerate(made)]


def data_of(facts: RunData) -> tuple[str, str]:
    """The hash of what a run learns from and is measured on, and the column that it learns, of a task with one."""
    asked = facts.task.columns_of(facts.config)
    digest = facts.shard_set.training_hash if facts.shard_set is not None else facts.made.data_hash
    return digest, asked[0] if len(asked) == 1 else ""


def by_data(found: Sequence[RunData]) -> dict[str, list[RunData]]:
    """The runs of each shard set and column by its name, with digits of the hash and the column where these differ."""
    parts: dict[tuple[str, str], list[RunData]] = {}
    for f in found:
        parts.setdefault(data_of(f), []).append(f)
    named = {}
    for (digest, column), part in parts.items():
        name = part[0].config.dataset
        alike = [data for data, other in parts.items() if other[0].config.dataset == name]
        digits = (digest[:6] or "unknown",) * (len({d for d, _ in alike}) > 1)
        more = ", ".join((*digits, *(column or "other columns",) * (len({c for _, c in alike}) > 1)))
        named[f"{name} ({more})" if more else name] = part
    return named


def _label(settings: Mapping[str, Any], facts: RunData) -> str:
    if not settings:
        return facts.called
    parts = []
    for key, value in settings.items():
        if value is None:
            continue
        plain = plain_json(value).rpartition("/")[2]
        named = key in ("task", "model.name", "optim.name", "dataset")
        parts.append(plain if named else f"{key.rpartition('.')[2]} {plain}")
    label = ", ".join(parts)
    return label if len(label) <= 60 else facts.run_id


def shared_metrics(found: Sequence[RunData]) -> list[str]:
    """Validation metrics that all runs with any have, the first run's monitored one first."""
    measured = [f.metrics for f in found if f.metrics]
    return [m for m in measured[0] if all(m in other for other in measured)] if measured else []


def overview(found: Sequence[RunData]) -> Section:
    """The runs sorted by what they share first, with only the settings that differ."""
    shared, keys = shared_metrics(found), differing(found)
    metric = shared[0] if shared else ""
    parts = {name: sorted(part, key=lambda f: -f.score(metric)) for name, part in by_data(found).items()}
    sentences = []
    if len(parts) > 1:
        sentences.append(f"The runs are on different data ({', '.join(parts)}), and ranked among those on the same.")
    tasks = sorted({f.config.task for f in found})
    if len(tasks) > 1:
        what = formatting.listing([formatting.name(m) for m in shared]) or "nothing that was measured"
        sentences.append(
            f"The runs are of {len(tasks)} tasks ({', '.join(tasks)}) and compared in what they share: {what}."
        )
    for name, order in parts.items():
        if not metric or len(order) < 2:
            continue
        first, second = (f.at_best("val").get(metric) for f in order[:2])
        if first is not None:
            on = f"On {name}, " if len(parts) > 1 else ""
            name = formatting.name(metric)
            sentence = f"{on}{order[0].called} has the best validation {name}, {first:.4f}"
            alike = [f.called for f in order if f.at_best("val").get(metric) == first]
            if len(alike) > 1:
                who = formatting.listing(alike) if len(alike) < 7 else f"{len(alike)} runs"
                sentence = f"{on}{who} share the best validation {name}, {first:.4f}"
            elif second is not None:
                sentence += f", before {order[1].called} with {second:.4f}"
            sentences.append(f"{sentence}.")
    unfinished = [f for f in found if f.view.state != "done"]
    if unfinished:
        states = [f.view.state for f in unfinished]
        told = [f"{f.called} ({f.view.state})" for f in unfinished]
        if len(told) > 12:
            told = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        sentences.append(f"Not done: {formatting.listing(told)}.")
    beside = keys[:12] if len(found) > 6 or len(keys) <= len(found) + 1 else []
    rows = []
    for name, f in ((name, f) for name, order in parts.items() for f in order):
        flat, best = f.config.flat(), f.at_best("val")
        figures = [f"{best[m]:.4f}" if m in best else "—" for m in shared[:4]]
        if not shared:
            figures = [f"{formatting.name(f.monitor)} {best[f.monitor]:.4f}" if f.monitor in best else "—"]
        epoch = f"{f.best_epoch:g}" if f.best_epoch is not None else "—"
        settings = [plain_json(flat[key]) if key in flat else "—" for key in beside]
        data = (name,) * (len(parts) > 1)
        rows.append((f.called, f.view.state, *data, *figures, epoch, formatting.duration(f.wall_s), *settings))
    named = [formatting.name(m) for m in shared[:4]] or ["its own figure"]
    head = ("run", "state", *("data",) * (len(parts) > 1), *named, "best epoch", "took", *beside)
    more = f"{len(keys) - 12} more settings differ; report --table has them." if beside and len(keys) > 12 else ""
    note = f"Figures are of validation, after each run's best epoch. {more}".strip()
    table = Table("", head, rows, folded=len(rows) > 40, note=note, wide=True)
    if beside or not keys:
        return Section("runs", "The runs", sentences, [table])
    order = [f for part in parts.values() for f in part]
    body = [(key, *(plain_json(f.config.flat().get(key, "—")) for f in order)) for key in keys]
    settings_of = Table("Settings that differ", ("setting", *(f.called for f in order)), body, wide=True)
    return Section("runs", "The runs", sentences, [table, settings_of])


def curves(groups: Sequence[Group], shared: Sequence[str], album: FigureWriter) -> Section:
    """The curves of all runs together; seeds of a group share a colour, and their mean is the strong line."""
    names = list(dict.fromkeys([*shared[:3], "loss"]))
    pictures = [p for name in names if (p := curve_picture(f"together-{name}", name, groups, album)) is not None]
    if not pictures:
        return Section("curves", "Curves together", ["Nothing has been measured yet."])
    metric = shared[0] if shared else "loss"
    ranked = sorted(groups, key=lambda g: -g.score(metric))
    sentences = []
    if shared and len(groups) > 1 and np.isfinite(ranked[0].mean(metric)) and not _tie(ranked, metric):
        sentences.append(
            f"Best in validation {formatting.name(metric)} is {ranked[0].label}, at {ranked[0].mean(metric):.4f}."
        )
    if any(len(g.members) > 1 for g in groups):
        sentences.append("Thin lines are single seeds, strong ones their means.")
    if len(groups) > LINES:
        sentences.append(f"The best {LINES} of {len(groups)} have colours, the rest are gray.")
    return Section("curves", "Curves together", sentences, pictures)


def curve_picture(
    name: str, metric: str, groups: Sequence[Group], album: FigureWriter, title: str = ""
) -> Picture | None:
    """One metric of all groups on validation over the epochs; None where nobody has measured it."""
    drawn = [(g, [s for f in g.members if (s := f.series("val", metric))]) for g in groups]
    drawn = [(g, series) for g, series in drawn if series]
    if not drawn:
        return None
    ranked = sorted(drawn, key=lambda pair: -pair[0].score(metric if metric != "loss" else pair[0].members[0].monitor))
    named = sorted(ranked[:LINES], key=lambda pair: pair[0].place)

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        for _, series in ranked[LINES:]:
            for points in series:
                axes.plot(*zip(*points, strict=True), color=SOFT, linewidth=0.6, alpha=0.35)
        for g, series in named:
            at = g.place
            colour, style = COLOURS[at % len(COLOURS)], STYLES[at // len(COLOURS) % len(STYLES)]
            if len(series) > 1:
                for points in series:
                    axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=0.7, alpha=0.5)
            strong = _mean_line(series)
            marker = MARKERS[at % len(MARKERS)] if len(strong) < 12 else None
            axes.plot(
                *zip(*strong, strict=True), style, color=colour, label=short(g.label, 44), marker=marker, markersize=4
            )
        epochs_below(axes)
        figure.legend(loc="outside lower center", ncols=1 if max(len(g.label) for g, _ in named) > 24 else 2)

    shown = title or f"{formatting.capital(formatting.name(metric))}, validation"
    told = "; ".join(f"{g.label} ends at {_mean_line(series)[-1][1]:.4g}" for g, series in named[:6])
    rows = [(f.run_id, g.label, e, v) for g, _ in drawn for f in g.members for e, v in f.series("val", metric)]
    lines = len(named) if max(len(g.label) for g, _ in named) > 24 else (len(named) + 1) // 2
    alt = f"{shown} over the epochs of {len(drawn)} configurations: {told}."
    return album.draw(name, shown, alt, paint, ("run", "label", "epoch", metric), rows, size=(5.4, 3.3 + 0.19 * lines))


def _tie(ranked: Sequence[Group], metric: str) -> bool:
    """Whether the first two are as good as each other."""
    return len(ranked) > 1 and ranked[0].mean(metric) == ranked[1].mean(metric)


def _mean_line(series: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over runs at the epochs that all of them have; one run is itself."""
    if len(series) == 1:
        return list(series[0])
    shared = sorted(set.intersection(*(set(dict(points)) for points in series)))
    tables = [dict(points) for points in series]
    return [(epoch, float(np.mean([table[epoch] for table in tables]))) for epoch in shared] or list(series[0])


def seeds(groups: Sequence[Group], shared: Sequence[str]) -> Section | None:
    """Mean and deviation over seeds, where a configuration was run with several."""
    several = [g for g in groups if len(g.members) > 1]
    if not several or not shared:
        return None
    rows: list[tuple[object, ...]] = []
    for g in sorted(several, key=lambda g: -g.score(shared[0])):
        cells = []
        for metric in shared[:4]:
            values = g.values(metric)
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}" if values else "—")
        rows.append((g.label, len(g.members), *cells))
    first = max(several, key=lambda g: g.score(shared[0]))
    values = first.values(shared[0])
    spread = f", with a standard deviation of {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    words = [
        f"Over {formatting.count(len(values), 'seed')}, {first.label} reaches {np.mean(values):.4f} in "
        f"{formatting.name(shared[0])}{spread}."
    ] if values else []  # fmt: skip
    head = ("configuration", "seeds", *(formatting.name(m) for m in shared[:4]))
    return Section("seeds", "Seeds folded", words, [Table("", head, rows, wide=True)])


def models(
    groups: Sequence[Group], shared: Sequence[str], album: FigureWriter, size: Callable[[RunData], tuple[int, int]]
) -> Section | None:
    """Networks side by side: accuracy, parameters, FLOPs, time per epoch, epochs to best; pretrained or not.

    `size` gives the parameters of a run's network, and the FLOPs of one image.
    """
    kinds = {(g.members[0].config.model.name, g.members[0].config.model.weights) for g in groups}
    if len(kinds) < 2 or not shared or not any(g.values(shared[0]) for g in groups):
        return None
    rows: list[tuple[object, ...]] = []
    sized = []
    for g in sorted(groups, key=lambda g: -g.score(shared[0])):
        parameters, flops = size(g.members[0])
        values, rate = g.values(shared[0]), [m.samples_per_s for m in g.members if m.samples_per_s]
        sized.append((g, parameters))
        rows.append((
            g.members[0].config.model.name, _start(g), f"{np.mean(values):.4f}" if values else "—",
            f"{parameters / 1e6:.2f} M" if parameters else "—", f"{flops / 1e6:,.0f} M" if flops else "—",
            f"{np.mean(rate):,.0f}" if rate else "—", formatting.duration(g.epoch_s) if g.epoch_s else "—",
            f"{g.epochs_to_best:g}" if g.epochs_to_best else "—", g.label,
        ))  # fmt: skip
    best = sized[0]
    smallest = min((s for s in sized if s[0].values(shared[0])), key=lambda s: s[1] or float("inf"))
    sentences = [f"{best[0].label} is best, with {formatting.name(shared[0])} {best[0].mean(shared[0]):.4f}."]
    if _tie([g for g, _ in sized], shared[0]):
        sentences = [f"None is better than all others in {formatting.name(shared[0])}."]
    if smallest is not best and smallest[1]:
        away = smallest[0].mean(shared[0]) - best[0].mean(shared[0])
        sentences.append(
            f"The smallest, {smallest[0].label}, has {smallest[1] / 1e6:.2f} million parameters and reaches "
            f"{abs(away):.4f} {'more' if away > 0 else 'less'}."
        )
    head = ("network", "weights", formatting.name(shared[0]), "parameters", "FLOPs per image", "samples/s",
            "time per epoch", "epochs to best", "settings")  # fmt: skip
    pairs = _tuned_pairs([g for g in groups if g.values(shared[0])])
    pictures = [p for a, b in pairs if (p := _tuned_picture(a, b, shared[0], album)) is not None]
    sentences += [_tuned_sentence(a, b, shared[0], several=len(pairs) > 1) for a, b in pairs]
    sentences += _advantage(sized, shared[0])
    note = (
        "FLOPs count a multiplication and an addition as two, in one forward pass of one image. The time of an epoch "
        "is that of training and validation, the median; of a single epoch training alone."
    )
    return Section("models", "Models side by side", sentences, [Table("", head, rows, note=note, wide=True), *pictures])


def _start(g: Group) -> str:
    weights = g.members[0].config.model.weights
    return {"none": "from scratch", "imagenet": "ImageNet"}.get(weights, "from a file")


def _advantage(sized: Sequence[tuple[Group, int]], metric: str) -> list[str]:
    """What the best pretrained network has over the best of the user's own kind, (group, parameters), best first."""
    tuned = [s for s in sized if s[0].members[0].config.model.weights != "none"]
    custom = [s for s in sized if s not in tuned and s[0].members[0].config.model.name in own_models()]
    if not tuned or not custom or not all(np.isfinite(s[0].mean(metric)) for s in (tuned[0], custom[0])):
        return []
    (a, large), (b, small) = tuned[0], custom[0]
    one, other = a.mean(metric), b.mean(metric)
    words = (
        f"What is the advantage of the pretrained network over the custom one? {a.label} "
        f"({a.members[0].config.model.name}, {_start(a)}) reaches {formatting.name(metric)} {one:.4f}, "
        f"{_away(one, other)} {b.label} ({b.members[0].config.model.name}, from scratch)"
    )
    if a.epochs_to_best and b.epochs_to_best:
        words += f"; it is at its best after epoch {a.epochs_to_best:g}, the custom one after {b.epochs_to_best:g}"
    if a.epoch_s and b.epoch_s:
        words += f"; an epoch takes {formatting.duration(a.epoch_s)} against {formatting.duration(b.epoch_s)}"
    if large and small:
        words += f"; it has {large / 1e6:.2f} million parameters against {small / 1e6:.2f}"
    gains = "brings an advantage" if a.score(metric) > b.score(metric) else "brings no advantage"
    return [f"{words}. In {formatting.name(metric)}, pretraining {gains} here."]


def _tuned_pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """(finetuned, from scratch) of the same network."""
    pairs = []
    for a, b in itertools.permutations(groups, 2):
        one, other = a.members[0].config.model, b.members[0].config.model
        if one.name == other.name and one.weights != "none" and other.weights == "none":
            pairs.append((a, b))
    return pairs[:4]


def _tuned_picture(tuned: Group, scratch: Group, metric: str, album: FigureWriter) -> Picture | None:
    name = tuned.members[0].config.model.name
    title = f"{name}: finetuned against from scratch, {formatting.name(metric)}"
    return curve_picture(f"tuned-{name}-{tuned.place}-{scratch.place}", metric, (tuned, scratch), album, title=title)


def _tuned_sentence(tuned: Group, scratch: Group, metric: str, *, several: bool) -> str:
    a, b = tuned.mean(metric), scratch.mean(metric)
    than = f"{_away(a, b)} from scratch" + f" ({b:.4f})" * (a != b)
    which = f" ({tuned.label}; {scratch.label})" * several
    return f"Finetuned, {tuned.members[0].config.model.name} reaches {a:.4f}, {than}{which}."


def _away(value: float, other: float) -> str:
    """`0.1000 more than`, or `as much as`."""
    return "as much as" if value == other else f"{abs(value - other):.4f} {'more' if value > other else 'less'} than"
