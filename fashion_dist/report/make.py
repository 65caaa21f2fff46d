"""Which sections a page has, and in which order."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist import __version__
from fashion_dist.errors import DamageError, FashionDistError, ShardsError
from fashion_dist.io import OwnFiles
from fashion_dist.paths import Home
from fashion_dist.report import formatting, run_sections, scores, views
from fashion_dist.report.blocks import Page, Section
from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.report.page import write_page
from fashion_dist.report.run_data import RunData
from fashion_dist.report.split_predictions import SPLITS, SplitPredictions, read_answers
from fashion_dist.runs import OpenRun
from fashion_dist.tracking.wandb_run import WandbMode, show_pictures
from shards import ShardSet

if TYPE_CHECKING:
    from fashion_dist.report.comparison import Group

Say = Callable[[str], None]
MOST_COMPARED = 40
"""Of more runs no two are compared image by image."""
MOST_PREDICTED = 16
"""Of so many runs or more none is predicted for their page."""


@dataclass(frozen=True)
class Made:
    """A written page, the pictures in it, and what it says."""

    page: Path
    album: FigureWriter
    content: Page


def _silent(_text: str) -> None:
    pass


def report_run(facts: RunData, out: Path | None = None, *, quick: bool = False, say: Say = _silent) -> Made:
    """Write the page of one run into `out` (default: its `report/`); `say` is told what is being done.

    `quick` uses no network: what is not predicted yet is not shown, nor is anything inside the network.
    """
    folder = out or facts.run.report
    OwnFiles(folder).claim("index.html")
    album, notes = FigureWriter(folder), list(facts.notes)
    sections = [run_sections.what_was_run(facts), run_sections.curves(facts, album)]
    found = _answers(facts, notes, quick, say)
    judged = {name: views.figures(facts, answers) for name, answers in found.items()}
    sections.insert(1, run_sections.final_figures(facts, judged))
    chosen = next(iter(found.values()), None)
    if chosen is not None:
        if chosen.note:
            notes.append(chosen.note)
        sections += views.sections(facts, chosen, album)
    if not quick and facts.shard_set is not None and _has_best(facts):
        sections += _seen(facts, facts.shard_set, album, notes, say)
    if (machines := run_sections.machines(facts, album)) is not None:
        sections.append(machines)
    if facts.view.state != "done":
        notes.insert(0, run_sections.state_sentence(facts))
    page = Page(
        title=f"{facts.config.task}: {facts.config.model.name}", subtitle=_subtitle(facts, chosen),
        sections=[s for s in sections if s.words or s.blocks], facts=_head(facts, judged), notes=notes,
        made=_made_by(),
    )  # fmt: skip
    write_page(page, folder / "index.html")
    return Made(folder / "index.html", album, page)


def _seen(facts: RunData, shard_set: ShardSet, album: FigureWriter, notes: list[str], say: Say) -> Iterator[Section]:
    """What the network sees in validation, and augmented images of training."""
    from fashion_dist.report import feature_sections

    if importlib.util.find_spec("captum") is None:
        notes.append("What the network sees is left out: captum is not installed (pip install 'fashion-dist[report]').")
    else:
        with _noting("What the network sees cannot be shown", notes):
            yield from feature_sections.sections(facts, shard_set.split("val"), album, say)
    with _noting("Augmented images cannot be shown", notes):
        yield from feature_sections.training_images(facts, shard_set.split("train"))


@contextlib.contextmanager
def _noting(what: str, notes: list[str]) -> Iterator[None]:
    """Within, an error that the page survives becomes a note; what torch says of weights goes on for pages."""
    try:
        yield
    except (FashionDistError, ShardsError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        hint = " The network's code may have changed since." if "state_dict" in first else ""
        notes.append(f"{what}: {first}{hint}")


def _made_by() -> str:
    return f"Made by fashion-dist {__version__} on {time.strftime('%Y-%m-%d %H:%M')}. Figures lie beside this page."


def _subtitle(facts: RunData, chosen: SplitPredictions | None) -> str:
    of = f"; judged on {len(chosen.rows):,} images of {chosen.split.name}" if chosen is not None else ""
    created = facts.made.created
    when = f", made {time.strftime('%Y-%m-%d %H:%M', time.localtime(created))}" if created else ""
    return f"Run {facts.titled}{when}{of}"


def _head(facts: RunData, judged: dict[str, list[scores.Figure]]) -> list[tuple[str, str]]:
    lines = [
        ("command", facts.made.command or "not written down"),
        ("state", run_sections.state_sentence(facts)),
    ]
    best = facts.view.progress.best
    if best:
        lines.append(
            ("best", f"{formatting.name(best['metric'])} {best['value']:.4f} on validation, epoch {best['epoch']}")
        )
    for split, figures in judged.items():
        lines.append((split, ", ".join(f"{formatting.name(f.name)} {f.value:.4f}" for f in figures)))
    if facts.starts:
        lines.append(("took", f"{formatting.duration(facts.wall_s)}, {facts.node_hours:.2f} node-hours"))
    return [(name, value) for name, value in lines if value]


def _has_best(facts: RunData) -> bool:
    """Whether there is a network to ask."""
    return not facts.gone and any(facts.run.checkpoints.glob("best-*"))


def _answers(facts: RunData, notes: list[str], quick: bool, say: Say) -> dict[str, SplitPredictions]:
    """The labelled splits' answers, test first; without labels there, validation is predicted with the best weights."""
    if facts.shard_set is None:
        return {}
    found: dict[str, SplitPredictions] = {}
    for name in SPLITS:
        if not facts.shard_set.splits.get(name):
            continue
        split = facts.shard_set.split(name)
        wanted = name == "val" and not found and not quick and _has_best(facts) and is_stale(facts, name)
        if wanted:
            say(f"predicting {name} with the best weights")
            from fashion_dist.results.predict import predict_run

            with _noting("Validation could not be predicted with the best weights", notes):
                predict_run(OpenRun(facts.run, facts.config, facts.shard_set), name)
        try:
            answers = read_answers(facts.run, facts.task, facts.config, split)
            if answers is None:
                continue
            notes += views.lacking(facts, answers)
            if views.has_any(facts, answers):
                found[name] = answers
        except DamageError as error:
            notes.append(f"The predictions of {name} are not shown: {error}")
    return found


def is_stale(facts: RunData, split: str) -> bool:
    """Whether a split's predictions are missing, or older than the best weights."""
    files = list(facts.run.predictions(split).glob("rank_*.parquet"))
    best = max((path.stat().st_mtime for path in facts.run.checkpoints.glob("best-*/state.pt")), default=0.0)
    return not files or min(path.stat().st_mtime for path in files) < best


def report_runs(
    found: Sequence[RunData], out: Path, notes: Sequence[str] = (), *, quick: bool = False, say: Say = _silent
) -> Made:
    """Write the page of several runs into `out`; `notes` say what is left out of it, `say` is told what is being done.

    `quick` uses no network: nothing is predicted, parameters and FLOPs are not shown.
    """
    from fashion_dist.report import ablation, comparison

    OwnFiles(out).claim("index.html")
    album, notes = FigureWriter(out), [*notes, *(f"{f.run_id}: {note}" for f in found for note in f.notes)]
    if len(found) <= MOST_COMPARED:
        read_only = quick or len(found) >= MOST_PREDICTED
        for f in found:
            told: list[str] = []
            _answers(f, told, read_only, lambda text, f=f: say(f"{f.run_id}: {text}"))  # type: ignore[misc]
            notes += [f"{f.run_id}: {note}" for note in told]
    sections: list[Section | None] = [comparison.overview(found)]
    groups, parts = comparison.group(found), comparison.by_data(found)
    for name, part in parts.items():
        mine = [g for g in groups if g.members[0] in part]
        album.prefix = f"{name}-" if len(parts) > 1 else ""
        for section in _compared(part, mine, album, quick=quick):
            if len(parts) > 1:
                section = replace(section, anchor=f"{section.anchor}-{len(sections)}", title=f"{section.title}: {name}")
            sections.append(section)
    album.prefix = ""
    if len(found) <= MOST_COMPARED:
        sections.append(ablation.tests(found))
    tasks = list(dict.fromkeys(f.config.task for f in found))
    facts = [("runs", f"{len(found)}"), ("tasks", ", ".join(tasks))]
    hours = sum(f.node_hours for f in found)
    facts.append(("took", f"{formatting.duration(sum(f.wall_s for f in found))}, {hours:.2f} node-hours"))
    shown = notes[:12] + ([f"... and {len(notes) - 12} more notes."] if len(notes) > 12 else [])
    page = Page(
        title=f"{formatting.count(len(found), 'run')} of {formatting.listing(tasks)}",
        subtitle=", ".join(f.titled for f in found[:6])
        + (f" and {len(found) - 6} more" if len(found) > 6 else ""), sections=[s for s in sections if s is not None],
        facts=facts, notes=shown, made=_made_by(),
    )  # fmt: skip
    write_page(page, out / "index.html")
    return Made(out / "index.html", album, page)


def _compared(
    found: Sequence[RunData], groups: Sequence[Group], album: FigureWriter, *, quick: bool
) -> Iterator[Section]:
    """The sections of runs on the same data."""
    from fashion_dist.report import ablation, comparison, side_by_side

    shared = comparison.shared_metrics(found)
    yield comparison.curves(groups, shared, album)
    several = [comparison.seeds(groups, shared)]
    if len(found) <= MOST_COMPARED:
        several.append(side_by_side.confusions(found, album))
        several.append(ablation.section(groups, shared, _hits(found), album))
        several.append(comparison.models(groups, shared, album, (lambda _: (0, 0)) if quick else _sizes()))
    yield from filter(None, several)


def share(facts: RunData, album: FigureWriter, mode: WandbMode) -> bool:
    """Show the page's pictures in the run's W&B page as well; not of a run that trains, which has W&B to itself."""
    if facts.view.is_active or mode == "off":
        return False
    record = facts.snapshot.record
    if mode == "auto" and record is not None:
        mode = record.options.wandb
    group = Path(record.sweep).name if record is not None else ""
    return show_pictures(facts.run, facts.config, mode, group, album.paths)


def folder_of(home: Home, found: Sequence[RunData]) -> Path:
    """Where the page of these runs lies, whatever order they are named in."""
    tasks = sorted({f.config.task for f in found})
    digest = hashlib.sha256(" ".join(sorted(f.run_id for f in found)).encode()).hexdigest()
    return home.reports / f"{tasks[0] if len(tasks) == 1 else 'tasks'}-{len(found)}-runs-{digest[:8]}"


def _hits(found: Sequence[RunData]) -> dict[str, np.ndarray]:
    """Whether each run answers each image rightly, on the first split that all of one shard set have answered."""
    sets = {f.shard_set.data_hash for f in found if f.shard_set is not None}
    if len(sets) != 1:
        return {}
    for name in SPLITS:
        hits = {f.run_id: classes.right for f, answers, classes in views.in_classes(found, name) if not answers.note}
        if len(hits) > 1 and len({len(h) for h in hits.values()}) == 1:
            return hits
    return {}


def _sizes() -> Callable[[RunData], tuple[int, int]]:
    """Measures networks; each kind once."""
    known: dict[str, tuple[int, int]] = {}

    def size(facts: RunData) -> tuple[int, int]:
        if facts.shard_set is None or facts.gone:
            return 0, 0
        key = repr((facts.config.task, facts.config.model, facts.config.data.image_px, facts.config.options))
        if key not in known:
            known[key] = _size(facts, facts.shard_set)
        return known[key]

    return size


def _size(facts: RunData, shard_set: ShardSet) -> tuple[int, int]:
    """Parameters of a run's network, and FLOPs of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    try:
        model = facts.task.build_model(facts.config, shard_set.schema).eval()
    except FashionDistError:  # of a network that today's code no longer has
        return 0, 0
    px = facts.config.data.image_px
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, px, px))
    return sum(p.numel() for p in model.parameters()), int(counter.get_total_flops())
