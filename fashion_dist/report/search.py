"""Sections of a page of many trials of one task: settings against outcome, what matters, best so far over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.report import formatting
from fashion_dist.report.blocks import Block, Section, Table
from fashion_dist.report.comparison import SEED, differing
from fashion_dist.report.figure_writer import BLUE, ORANGE, SOFT, Album, bars, short
from fashion_dist.report.run_data import Facts, plain_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

MANY = 16
"""From so many runs of one task on, a page has the sweep view."""
TREES = 100
SHOWN = 25


def outcome(facts: Facts, metric: str) -> float | None:
    """The best value of the metric on validation, which a run that is still going may have as well."""
    values = [value for _, value in facts.series("val", metric)]
    if not values:
        return None
    return min(values) if facts.config.train.mode == "min" else max(values)


def sections(found: Sequence[Facts], album: Album) -> list[Section]:
    """The sweep view of runs of one task."""
    metric = found[0].monitor
    lower = found[0].config.train.mode == "min"
    scored = [(f, value) for f in found if (value := outcome(f, metric)) is not None]
    if len(scored) < 2:
        return [
            Section(
                "sweep", "The sweep", [f"Of {formatting.count(len(found), 'trial')}, fewer than two have a figure yet."]
            )
        ]
    scored.sort(key=lambda pair: pair[1] if lower else -pair[1])
    trials, values = [f for f, _ in scored], np.array([v for _, v in scored])
    keys = [key for key in differing(trials) if key != SEED]  # repeats are no setting to choose by
    best = trials[0]
    settings = ", ".join(f"{k} = {plain_json(best.config.flat().get(k))}" for k in keys[:8])
    sentences = [
        f"Of {formatting.count(len(found), 'trial')}, {len(scored)} have a figure. The best is {best.run_id} with "
        f"{formatting.name(metric)} {values[0]:.4f}" + (f": {settings}." if settings else "."),
        f"The middle half lies between {np.quantile(values, 0.25):.4f} and {np.quantile(values, 0.75):.4f}.",
    ]
    blocks: list[Block] = []
    if keys:
        blocks.append(_parallel(trials, values, keys, metric, lower, album))
    blocks.append(_over_time(scored, metric, lower, album))
    rows = [
        (f.run_id, f.view.state, f"{v:.4f}", *(plain_json(f.config.flat().get(k)) for k in keys[:8]))
        for f, v in scored[:SHOWN]
    ]
    head = ("run", "state", formatting.name(metric), *keys[:8])
    note = f"The best {SHOWN} of {len(scored)}; all are in parallel.csv." if len(scored) > SHOWN else ""
    blocks.append(Table("The best trials", head, rows, note=note, wide=True))
    made = [Section("sweep", "The sweep", sentences, blocks)]
    if keys and len(trials) >= 8:
        made.append(_importance(trials, values, keys, metric, album))
    return made


def columns(trials: Sequence[Facts], keys: Sequence[str]) -> tuple[np.ndarray, list[list[str]]]:
    """Settings as numbers [n, K] for a picture or a forest, and for each the names of its levels (none: numbers).

    Positive numbers that lie more evenly as logarithms are taken as those; words are numbered in order.
    """
    numbers: list[np.ndarray] = []
    levels: list[list[str]] = []
    for key in keys:
        values = [f.config.flat().get(key) for f in trials]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            column = np.array(values, float)
            numbers.append(np.log10(column) if _is_logarithmic(column) else column)
            levels.append([])
        else:
            texts = [plain_json(v) for v in values]
            names = sorted(set(texts))
            numbers.append(np.array([names.index(t) for t in texts], float))
            levels.append(names)
    return np.column_stack(numbers), levels


def _is_logarithmic(column: np.ndarray) -> bool:
    """Whether positive numbers span more than a factor of 20 and their median is nearer the middle as a logarithm."""
    low, middle, high = float(column.min()), float(np.median(column)), float(column.max())
    if low <= 0 or high <= 20 * low:
        return False
    plain, log = (middle - low) / (high - low), np.log(middle / low) / np.log(high / low)
    return bool(abs(log - 0.5) < abs(plain - 0.5))


def _parallel(
    trials: Sequence[Facts], values: np.ndarray, keys: Sequence[str], metric: str, lower: bool, album: Album
) -> Block:
    keys = list(keys)[:10]
    numbers, levels = columns(trials, keys)
    matrix = np.column_stack([numbers, values])
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    scaled = (matrix - low) / np.where(high > low, high - low, 1)
    scaled[:, high == low] = 0.5
    good = 1 - scaled[:, -1] if lower else scaled[:, -1]
    top = max(1, round(len(trials) / 10))
    jitter = np.random.default_rng(0).uniform(-0.012, 0.012, scaled.shape)  # trials of equal settings stay apart
    jitter[:, -1] = 0

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        places = np.arange(matrix.shape[1])
        for row in range(len(trials) - 1, -1, -1):
            chosen = row < top
            axes.plot(places, scaled[row] + jitter[row], color=BLUE if chosen else SOFT, zorder=2 + chosen,
                      linewidth=1.4 if chosen else 0.6,
                      alpha=0.9 if chosen else 0.08 + 0.3 * float(good[row]))  # fmt: skip
        for place in places.tolist():
            axes.axvline(place, color=SOFT, linewidth=0.8)
            _ticks(axes, place, matrix, levels, trials, keys, low, high)
        axes.set_xticks(places, [*(key.replace(".", ".\n", 1) for key in keys), formatting.name(metric)], fontsize=8)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xlim(-0.35, places[-1] + 0.75)
        axes.set_ylim(-0.06, 1.06)
        axes.grid(visible=False)
        axes.tick_params(length=0)

    rows = [
        (f.run_id, *(plain_json(f.config.flat().get(k)) for k in keys), v) for f, v in zip(trials, values, strict=True)
    ]
    alt = (
        f"Each line is one of {len(trials)} trials, through its settings ({', '.join(keys)}) to its "
        f"{formatting.name(metric)}; the best {top} are drawn strongly."
    )
    return album.draw("parallel", "Settings and outcome", alt, paint, ("run", *keys, metric), rows, wide=True,
                      size=(max(7.5, 1.35 * (len(keys) + 1)), 4.2), caption=f"The best {top} in blue.")  # fmt: skip


def _ticks(
    axes: Any, place: int, matrix: np.ndarray, levels: list[list[str]], trials: Sequence[Facts], keys: Sequence[str],
    low: np.ndarray, high: np.ndarray,
) -> None:  # fmt: skip
    """The values at the ends of an axis, or the names of its levels."""
    names = levels[place] if place < len(levels) else []
    if names and len(names) <= 8:
        marks = [(at / max(1, len(names) - 1) if len(names) > 1 else 0.5, short(n, 14)) for at, n in enumerate(names)]
    else:
        raw: list[Any] = (
            [f.config.flat().get(keys[place]) for f in trials] if place < len(keys) else list(matrix[:, place])
        )
        if names:
            raw = list(range(len(names)))
        marks = [(0.0, formatting.number(min(raw))), (1.0, formatting.number(max(raw)))]
        if low[place] == high[place]:
            marks = [(0.5, marks[0][1])]
    for height, text in marks:
        axes.text(place + 0.05, height, text, fontsize=7, va="center", zorder=5,
                  bbox={"facecolor": "#fffffe", "alpha": 0.75, "linewidth": 0, "pad": 0.8})  # fmt: skip


def _over_time(scored: Sequence[tuple[Facts, float]], metric: str, lower: bool, album: Album) -> Block:
    timed = sorted((float(f.made.get("created", 0.0)), v, f.run_id) for f, v in scored)
    values = np.array([v for _, v, _ in timed])
    best = np.minimum.accumulate(values) if lower else np.maximum.accumulate(values)

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        trials = np.arange(1, len(values) + 1)
        axes.plot(trials, values, "o", color=SOFT, markersize=3, alpha=0.6, label="a trial")
        axes.step(trials, best, where="post", color=ORANGE, label="best so far")
        axes.set_xlabel("trials, in the order they were made")
        axes.set_ylabel(formatting.name(metric))
        figure.legend(loc="outside lower center", ncols=2)

    last = int(np.argmax(best == best[-1])) + 1
    alt = f"Best {formatting.name(metric)} so far over {len(values)} trials; the last improvement was trial {last}."
    rows = [(i + 1, run_id, v, b) for i, ((_, v, run_id), b) in enumerate(zip(timed, best.tolist(), strict=True))]
    head = ("trial", "run", metric, "best so far")
    return album.draw("best-so-far", "Best so far", alt, paint, head, rows, caption=f"Last improved by trial {last}.")


def importance(numbers: np.ndarray, values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How much each of K settings moves the outcome, and the deviation over shuffles, both [K].

    By permutation (Breiman 2001) in a random forest: how far the forest's R2 falls when one column is shuffled.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(n_estimators=TREES, min_samples_leaf=2, random_state=seed).fit(numbers, values)
    found = permutation_importance(forest, numbers, values, n_repeats=10, random_state=seed)
    return np.asarray(found.importances_mean), np.asarray(found.importances_std)


def _importance(trials: Sequence[Facts], values: np.ndarray, keys: Sequence[str], metric: str, album: Album) -> Section:
    numbers, _ = columns(trials, keys)
    mean, deviation = importance(numbers, values)
    order = np.argsort(-mean, kind="stable")[:15]
    first = keys[int(order[0])]
    sentence = (
        f"In a random forest over {len(trials)} trials, {first} matters most for {formatting.name(metric)}: shuffled, "
        f"it "
        f"costs the forest {mean[order[0]]:.2f} of its R²."
    )
    if len(order) > 1:
        sentence += f" Then comes {keys[int(order[1])]} with {mean[order[1]]:.2f}."

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        bars(axes, [keys[k] for k in order], mean[order], np.stack([deviation[order]] * 2))
        axes.set_xlabel("loss of R² when shuffled")

    rows = [(keys[k], mean[k], deviation[k]) for k in order]
    alt = f"Importance of {len(order)} settings, from {first} with {mean[order[0]]:.2f} downwards."
    head = ("setting", "importance", "deviation over shuffles")
    size = (5.8, 1.0 + 0.3 * len(order))
    picture = album.draw("importance", "Importance of each setting", alt, paint, head, rows, size=size)
    return Section("importance", "What matters", [sentence], [picture])
