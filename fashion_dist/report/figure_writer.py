"""Pictures: one call draws a figure, writes PNG, SVG and CSV beside the page, and gives the SVG for the page itself.

In the page the figure's ink, paper and main colours are CSS variables, so that it is light or dark as its reader likes.
Text is drawn as outlines: no label is cut because a reader's fonts are wider.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fashion_dist.io import OwnFiles
from fashion_dist.report import formatting
from fashion_dist.report.blocks import Picture
from shards.spreadsheet import csv_for_people

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#1b1f24", "#59636e", "#d5d9df", "#fffffe"
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, RED = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, RED)
"""Okabe & Ito's palette without black and pale yellow, told apart by colour-blind readers too; then a wine red."""
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

_VARIABLES = {
    INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper", BLUE: "--blue", ORANGE: "--orange",
    GREEN: "--green", PINK: "--pink", YELLOW: "--yellow", SKY: "--sky", RED: "--red",
}  # fmt: skip
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "path", "font.size": 9.0, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": RULE,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "figure.facecolor": PAPER, "axes.facecolor": "none",
    "legend.frameon": False, "legend.fontsize": 8.0, "lines.linewidth": 1.5, "savefig.facecolor": PAPER,
    "xtick.labelsize": 8.0, "ytick.labelsize": 8.0,
}  # fmt: skip
WIDTH, HEIGHT = 5.2, 3.2
"""Inches of an ordinary figure, so that its text can still be read on a screen of 400 px."""

BOXES = "Boxes stand for letters that no font of the machine that drew this has; the CSV names all."
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
Rows = Iterable[Sequence[object]]
Drawing: TypeAlias = "Figure"
"""Of matplotlib, which is imported when something is drawn."""


@functools.cache
def families() -> list[str]:
    """Matplotlib's own font, and those here that have the letters which it lacks."""
    from matplotlib import font_manager

    here = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in here)]


class FigureWriter:
    """The pictures of one page, in the order they were drawn; they go to `figures/` in its folder.

    `prefix` stands before the names of what is drawn from then on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = ""
        self.pictures: list[Picture] = []

    @property
    def paths(self) -> dict[str, Path]:
        """The PNG of each picture, by name."""
        return {picture.name: self.folder / "figures" / f"{picture.name}.png" for picture in self.pictures}

    def draw(
        self,
        name: str,
        title: str,
        alt: str,
        paint: Callable[[Figure], None],
        head: Sequence[str],
        rows: Rows,
        *,
        size: tuple[float, float] = (WIDTH, HEIGHT),
        wide: bool = False,
        caption: str = "",
    ) -> Picture:
        """The picture that `paint` makes, in colours of this module, of an empty figure of `size` inches.

        `name` is unique in the page, `head` and `rows` are its CSV: the numbers that are drawn; the rest is
        `Picture`'s.
        """
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib.figure import Figure

        name = re.sub(r"[^\w.-]", "_", self.prefix + name)
        endings = ("png", "svg", "csv")
        own = OwnFiles(self.folder / "figures")
        own.claim(*(f"{name}.{ending}" for ending in endings))
        svg, png = io.StringIO(), io.BytesIO()
        settings: Any = {**_SETTINGS, "svg.hashsalt": name, "font.family": families()}
        with mpl.rc_context(settings), warnings.catch_warnings(record=True) as told:
            warnings.filterwarnings("always", "Glyph .* missing")
            figure = Figure(figsize=size, layout="constrained")
            paint(figure)
            figure.savefig(svg, format="svg", metadata={"Date": None})
            figure.savefig(png, format="png", dpi=160 if size[0] < 8 else 110)
        lacking = any("Glyph" in str(each.message) for each in told)
        own.write(f"{name}.svg", svg.getvalue())
        own.write(f"{name}.png", png.getvalue())
        own.write(f"{name}.csv", csv_for_people([head, *rows], "\r\n"))
        links = tuple((ending.upper(), f"figures/{name}.{ending}") for ending in endings)
        caption = f"{caption} {BOXES}".strip() if lacking else caption
        picture = Picture(name, title, alt, inline(svg.getvalue(), name), links, wide, caption)
        self.pictures.append(picture)
        return picture


def inline(svg: str, name: str) -> str:
    """A figure's SVG file as markup for a page: without header, fixed size and spare ids, its colours as variables."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None
    rest = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|[A-Za-z]+Collection|'
                  r'table|spine)_\d+"', "", rest)  # fmt: skip
    ids = set(re.findall(r'\bid="([^"]+)"', rest))
    rest = re.sub(r'(\bid="|href="#|url\(#)([^")]+)',
                  lambda m: f"{m[1]}{name}-{m[2]}" if m[2] in ids else m[0], rest)  # fmt: skip
    for colour, variable in _VARIABLES.items():
        rest = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var({variable})", rest, flags=re.IGNORECASE)
    rest = re.sub(r"\n\s*", "\n", rest)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" aria-hidden="true" focusable="false">{rest}'


def shade(values: np.ndarray, colour: str = BLUE) -> np.ndarray:
    """RGBA [..., 4] of values 0 to 1 (NaN: nothing): one colour, the more opaque the larger, on any paper."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    alpha = np.nan_to_num(np.clip(values, 0, 1))
    return np.stack([np.full_like(alpha, red), np.full_like(alpha, green), np.full_like(alpha, blue), alpha], axis=-1)


def heat(axes: Axes, shares: np.ndarray, texts: Sequence[Sequence[str]] | None, fontsize: float = 7.0) -> None:
    """Draw `shares` [R, C] of 0 to 1 as a grid of cells, with texts in them if given."""
    axes.imshow(shade(shares), aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    for row, line in enumerate(texts or ()):
        for column, text in enumerate(line):
            if text:
                colour = "#ffffff" if shares[row, column] > 0.6 else INK
                axes.text(column, row, text, ha="center", va="center", fontsize=fontsize, color=colour)


def short(text: str, most: int) -> str:
    """`text`, with an ellipsis for its middle where it is longer than `most` characters; `$` cannot begin a formula."""
    return formatting.brief(text, most).replace("$", r"\$")
