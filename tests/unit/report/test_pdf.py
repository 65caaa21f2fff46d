"""A page as PDF: every word of it is there, on as many pages as it takes."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fashion_dist.report import pdf
from fashion_dist.report.blocks import Page, Section, Sheet, Shot, Table
from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.report.split_predictions import encode


def test_a_page_as_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MOST_ROWS", 40)
    album = FigureWriter(tmp_path)
    picture = album.draw("curve", "A curve", "alt", lambda _: None, ("x",), [(1,)], caption="what it shows " * 20)
    uris = [encode(Image.new("RGB", (40, 30), (n, 9, 9)), 104) for n in range(30)]
    shots = [Shot(uri, "alt", ("a shirt", f"sure of {n}")) for n, uri in enumerate(uris)]
    rows = [(f"class $_{n}^", n, "a long cell " * 12) for n in range(45)]
    sections = [
        Section("a", "First", ["A sentence with $signs_ and % that is no formula."], [picture, picture, picture]),
        Section("b", "Second", [], [Table("Rows", ("name", "number", "note"), rows), Sheet("Shots", shots)]),
        Section("c", "名前 and שם", ["Nothing else."]),
    ]
    page = Page("A title", "a subtitle", sections, [("state", "done")], ["a note"], "made by hand")
    made = pdf.pdf_of(page, tmp_path / "figures")
    assert made.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b(?!s)", made)) > 3
    assert made.count(b"/Subtype /Image") >= len(shots) + 3
    streams = [
        zlib.decompressobj().decompress(found)
        for found in re.findall(rb"stream\r?\n(x.*?)\r?\nendstream", made, re.DOTALL)
    ]
    drawn = sum(stream.count(b"Tj") + stream.count(b"TJ") for stream in streams)
    assert drawn > 40 * 5 + 2 * len(shots)  # a row is a name, a number and three lines of the long cell
