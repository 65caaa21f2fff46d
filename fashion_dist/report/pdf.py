"""A page as a PDF, by matplotlib, which every installation has: for archives, and to print without a browser."""

from __future__ import annotations

import base64
import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fashion_dist.report.blocks import Page, Picture, Section, Sheet, Table
from fashion_dist.report.figure_writer import INK, RULE, SOFT, families
from fashion_dist.report.page import cell_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, MARGIN = 8.27, 11.69, 0.75
"""Inches of A4."""
INNER = WIDTH - 2 * MARGIN
LETTER = 0.56
"""Mean width of a letter, as a share of the size of its font; of the widest column of a table a little more."""
MOST_ROWS, CELL = 300, 44
"""Rows of a table that are printed, and letters of a cell in a line."""


def pdf_of(page: Page, album: Path) -> bytes:
    """The page's words, tables, figures (from the folder `album`) and sheets on A4; maps are figures too."""
    from matplotlib.backends.backend_pdf import PdfPages

    file = io.BytesIO()
    with warnings.catch_warnings(), PdfPages(file, metadata={"CreationDate": None, "Title": page.title}) as pages:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts that the font does not have
        sheet = _Flow(pages)
        sheet.write(page.title, 17, bold=True)
        sheet.write(page.subtitle, 9, SOFT)
        for name, value in page.facts:
            sheet.write(f"{name}: {value}", 9)
        for note in page.notes:
            sheet.write(note, 9, SOFT)
        for section in page.sections:
            _section(sheet, section, album)
        sheet.write(page.made, 8, SOFT)
        sheet.close()
    return file.getvalue()


def _section(sheet: _Flow, section: Section, album: Path) -> None:
    sheet.space(0.18, keep=3.2)
    sheet.write(section.title, 13, bold=True)
    for sentence in section.words:
        sheet.write(sentence, 9)
    row: list[Picture] = []
    for block in section.blocks:
        if isinstance(block, Picture):
            row.append(block)
            if block.wide or len(row) == 2:
                _pictures(sheet, row, album)
                row = []
            continue
        _pictures(sheet, row, album)
        row = []
        if isinstance(block, Table):
            _table(sheet, block)
        elif isinstance(block, Sheet):
            _shots(sheet, block)
    _pictures(sheet, row, album)


class _Flow:
    """Where on which page the next thing goes; lengths in inches from the upper left."""

    def __init__(self, pages: Any) -> None:
        self._pages = pages
        self._figure: Figure | None = None
        self._down = 0.0

    def space(self, inches: float, keep: float = 0.0) -> float:
        """Take so much of the page, of the next one where that and `keep` do not fit; returns where it begins."""
        if self._figure is None or self._down + inches + keep > HEIGHT - MARGIN:
            self.close()
            from matplotlib.figure import Figure

            self._figure, self._down = Figure(figsize=(WIDTH, HEIGHT)), MARGIN
        self._down += inches
        return self._down - inches

    def close(self) -> None:
        """End the page."""
        if self._figure is not None:
            self._pages.savefig(self._figure)
        self._figure = None

    def text(self, words: str, left: float, top: float, size: float, colour: str = INK, **style: Any) -> None:
        """Words at a place of this page."""
        assert self._figure is not None
        self._figure.text(left / WIDTH, 1 - top / HEIGHT, words, fontsize=size, color=colour, va="top",
                          parse_math=False, family=families(), **style)  # fmt: skip

    def write(self, words: str, size: float, colour: str = INK, *, bold: bool = False) -> None:
        """A paragraph over the whole width."""
        if not words:
            return
        letters = int(INNER * 72 / (size * (LETTER + 0.06 * bold)))
        for text in textwrap.wrap(words, letters):
            top = self.space(size * 1.35 / 72, keep=0.3 * bold)
            self.text(text, MARGIN, top, size, colour, weight="bold" if bold else "normal")
        self.space(0.04)

    def image(self, pixels: np.ndarray, left: float, top: float, width: float, height: float) -> None:
        """An image in a box of this page."""
        assert self._figure is not None
        axes = self._figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))
        axes.imshow(pixels, aspect="auto", interpolation="none")
        axes.axis("off")

    def rule(self, top: float) -> None:
        """A line over the whole width."""
        from matplotlib.lines import Line2D

        assert self._figure is not None
        ends, height = [MARGIN / WIDTH, 1 - MARGIN / WIDTH], 1 - top / HEIGHT
        self._figure.add_artist(Line2D(ends, [height, height], color=RULE, linewidth=0.6))


def _pictures(sheet: _Flow, row: Sequence[Picture], album: Path) -> None:
    """Pictures side by side, as their PNG shows them."""
    from matplotlib.image import imread

    drawn = [(picture, imread(album / f"{picture.name}.png")) for picture in row if picture.files]
    if not drawn:
        return
    wide = any(picture.wide for picture in row)
    room = INNER if wide else (INNER - 0.25) / 2
    sizes = [min(room / image.shape[1], 8.6 / image.shape[0]) for _, image in drawn]
    captions = [textwrap.wrap(picture.caption, int(room * 72 / (7.5 * LETTER))) for picture, _ in drawn]
    tall = max(image.shape[0] * size for (_, image), size in zip(drawn, sizes, strict=True))
    top = sheet.space(tall + 0.35 + 0.14 * max(map(len, captions)))
    for at, ((picture, image), size) in enumerate(zip(drawn, sizes, strict=True)):
        left = MARGIN + at * (room + 0.25)
        sheet.text(picture.title, left, top, 9, weight="bold")
        sheet.image(image, left, top + 0.2, image.shape[1] * size, image.shape[0] * size)
        for line, words in enumerate(captions[at]):
            sheet.text(words, left, top + 0.24 + tall + 0.14 * line, 7.5, SOFT)


def _table(sheet: _Flow, table: Table) -> None:
    """All columns, in a font small enough; cells are broken over lines."""
    cells = [[textwrap.wrap(cell_text(c), CELL) or [""] for c in row] for row in (table.head, *table.rows[:MOST_ROWS])]
    widths = [max(len(line) for cell in column for line in cell) + 2 for column in zip(*cells, strict=True)]
    size = min(7.5, INNER * 72 / (sum(widths) * 0.62))
    letter, line = size * 0.62 / 72, size * 1.4 / 72
    if table.title:
        sheet.space(0.06, keep=0.6)
        sheet.write(table.title, 9, bold=True)
    for number, row in enumerate(cells):
        top = sheet.space(line * max(map(len, row)))
        left = MARGIN
        for cell, width in zip(row, widths, strict=True):
            for n, words in enumerate(cell):
                sheet.text(words, left, top + n * line, size, INK if number else SOFT)
            left += width * letter
        sheet.rule(top + line * max(map(len, row)))
    if len(table.rows) > MOST_ROWS:
        sheet.write(f"... and {len(table.rows) - MOST_ROWS:,} more rows, which are in the page", 8, SOFT)
    sheet.write(table.note, 7.5, SOFT)
    sheet.space(0.08)


def _shots(sheet: _Flow, block: Sheet) -> None:
    """Images of examples with their lines, as many in a row as fit."""
    if block.title:
        sheet.space(0.06, keep=1.2)
        sheet.write(block.title, 9, bold=True)
    side = block.px / 110
    width = max(((side + 0.04) * (1 + len(shot.side)) for shot in block.shots), default=1.0) + 0.1
    across = max(1, int(INNER / width))
    letters = max(8, int(width * 72 / (6.5 * LETTER)) - 1)
    for first in range(0, len(block.shots), across):
        part = block.shots[first : first + across]
        lines = [[piece for line in shot.lines for piece in textwrap.wrap(line, letters)] for shot in part]
        top = sheet.space(side + 0.08 + 0.12 * max(map(len, lines)))
        for at, shot in enumerate(part):
            left = MARGIN + at * width
            for n, pixels in enumerate(_decoded((shot.uri, *shot.side))):
                scale = side / max(pixels.shape[:2])
                place = left + n * (side + 0.04)
                sheet.image(pixels, place, top, pixels.shape[1] * scale, pixels.shape[0] * scale)
            for n, words in enumerate(lines[at]):
                sheet.text(words, left, top + side + 0.03 + 0.12 * n, 6.5, SOFT if n else INK)
    sheet.write(block.note, 7.5, SOFT)


def _decoded(uris: Sequence[str]) -> Iterator[np.ndarray]:
    from PIL import Image

    for uri in uris:
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            yield np.asarray(image.convert("RGB"))
