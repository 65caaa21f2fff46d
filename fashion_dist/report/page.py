"""Sections to one HTML file that needs nothing beside it: no script, no font, no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_dist.io import write_text
from fashion_dist.report.blocks import Page, Picture, Sheet, Table

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATE = Path(__file__).with_name("page.html")
_NUMBER = re.compile(r"—?|[-+−]?[\d,.]*\d(e[-+]?\d+)?(\s(%|KB|M|[smh]|min)(\s\d+\s(s|min))?)?( ± [\d.]+)?")


def write_page(page: Page, path: Path) -> None:
    """Replace `path` by the page; all texts are escaped, so that names with markup are text."""
    write_text(path, render(page))


def render(page: Page) -> str:
    """The page's HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(
        kind=lambda block: type(block).__name__, alignment=_alignment, shown=cell_text, natural=_natural, whole=_whole,
        least=_least, wraps=lambda cell: len(str(cell)) > 34, breakable=_breakable,
        turned=lambda cell: _NAME.search(str(cell)) is not None,
    )  # fmt: skip
    environment.filters["bidi"] = _isolated
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(page=page)


def cell_text(cell: object) -> str:
    """A cell of a table as it is shown."""
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def _alignment(table: Table) -> list[str]:
    """By column: `n` of numbers, `t` of texts; once a table, whose cells may be a million."""
    found = []
    for column in range(max(map(len, (table.head, *table.rows)))):
        cells = [cell_text(row[column]) for row in table.rows if column < len(row)]
        numbers = cells and all(_NUMBER.fullmatch(cell) for cell in cells) and any(cells)
        found.append("n" if numbers else "t")
    return found


def _width(picture: Picture) -> float:
    box = re.search(r'viewBox="0 0 ([\d.]+)', picture.svg)
    assert box is not None
    return float(box[1])


def _natural(picture: Picture) -> int:
    """Pixels at which a wide picture's text has the page's size."""
    return round(1.45 * _width(picture))


def _whole(sheet: Sheet) -> bool:
    """Whether a sheet needs the page's whole width."""
    return sum(1 + len(shot.side) for shot in sheet.shots) > 5


def _least(picture: Picture) -> int:
    """Pixels below which a dense picture scrolls rather than shrinks further; 0 for one that may shrink."""
    return round(1.2 * _width(picture)) if _width(picture) > 400 else 0


_RIGHT_TO_LEFT = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]"
_NAME = re.compile(rf"{_RIGHT_TO_LEFT}(?:[ \d()-]*{_RIGHT_TO_LEFT})*\)?")


def _isolated(text: object) -> Markup:
    """Text whose names in scripts from right to left do not draw the numbers beside them to their other side."""
    from markupsafe import Markup, escape

    def isolate(found: re.Match[str]) -> str:
        name = found[0] if "(" in found[0] else found[0].rstrip(")")
        return f"<bdi>{name}</bdi>{found[0][len(name) :]}"

    return Markup(_NAME.sub(isolate, str(escape(text))))


def _breakable(text: object) -> Markup:
    """A name such as `optim.weight_decay`, which may go on in the next line after a dot or an underscore."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", str(escape(text))))
