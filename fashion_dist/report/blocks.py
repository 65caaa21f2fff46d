"""What a page is made of. Plain values; `page` turns them into HTML, and escapes every text on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A figure in the page; `files` are (label, path relative to the page) of its PNG, SVG and CSV, all called `name`.

    `alt` says what it shows, for those who do not see it; one that is `wide` takes the whole width, and scrolls by
    itself on a narrow screen.
    """

    name: str
    title: str
    alt: str
    svg: str
    files: tuple[tuple[str, str], ...]
    wide: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; texts stand left, numbers right. `folded` tables open on a click."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    folded: bool = False
    note: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Shot:
    """One image with lines of text below it; `side` are further images of the same example."""

    uri: str
    alt: str
    lines: Sequence[str] = ()
    side: Sequence[str] = ()
    frame: str = ""
    """`good`, `bad`, or nothing: the frame's colour, whose meaning the lines say too."""


@dataclass(frozen=True)
class Sheet:
    """Images side by side."""

    title: str
    shots: Sequence[Shot]
    px: int = 104
    note: str = ""


@dataclass(frozen=True)
class Dot:
    """A point of a `Cloud`: its place in percent from the left and the top, its colour, its thumbnail, and its shape,
    of `SHAPES`.
    """

    x: float
    y: float
    colour: str
    uri: str
    label: str
    shape: str = ""


SHAPES = ("", "square", "ring")
"""Of the dots of a cloud: filled circles, squares, hollow circles."""


@dataclass(frozen=True)
class Cloud:
    """Points that show their image when pointed at, touched or reached with the keyboard."""

    title: str
    alt: str
    dots: Sequence[Dot]
    legend: Sequence[tuple[str, str, str]]
    """Label, colour and shape."""


Block = Picture | Table | Sheet | Cloud


@dataclass(frozen=True)
class Section:
    """A part of the page: its sentences, then what they are drawn from; `compact` sections have small pictures."""

    anchor: str
    title: str
    words: Sequence[str]
    blocks: Sequence[Block] = ()
    compact: bool = False


@dataclass(frozen=True)
class Page:
    """All of it. `facts` are the lines beside the title; `notes` is what is missing or damaged;
    `made` stands at its foot.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    made: str = ""
