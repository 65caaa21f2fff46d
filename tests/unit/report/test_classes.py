"""Sections about more classes than a figure shows."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fashion_dist.report import classes
from fashion_dist.report.blocks import Picture, Table
from fashion_dist.report.figure_writer import FigureWriter

COUNT = 3000


def test_of_thousands_of_classes_the_page_has_how_f1_spreads_and_the_ends_of_the_list(tmp_path: Path) -> None:
    truth = np.repeat(np.arange(COUNT), 2)
    answers = truth.copy()
    answers[: COUNT // 2 * 2 : 2] = COUNT - 1  # half of the classes are right every second time
    answers[:400] = COUNT - 1
    probability = np.broadcast_to(np.float32(0.5), (len(truth), COUNT + 7))
    found = classes.ClassAnswers(
        np.arange(len(truth)), truth, answers, probability, [f"class {k}" for k in range(COUNT + 7)]
    )
    section = classes.class_by_class(found, FigureWriter(tmp_path))
    assert "No image of this split is of class 3000, class 3001" in section.words[1]
    pictures = [block for block in section.blocks if isinstance(block, Picture)]
    assert [picture.name for picture in pictures] == ["classes-f1"], "the hundred worst have nothing to show but 0"
    assert pictures[0].caption == "200 have 0, 1,499 have 1."
    with (tmp_path / "figures" / "classes-f1.csv").open() as file:
        assert sum(int(row["classes"]) for row in csv.DictReader(file)) == COUNT
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert len(table.rows) == classes.LISTED and table.note.startswith("The 500 best and worst of 3,000")
    with (tmp_path / "figures" / "classes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == COUNT
