"""Tables for people: CSV, which they open with a program that takes some texts for formulas, and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_STARTS = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: object) -> object:
    """`value`, behind an apostrophe where it is text that starts a formula and is no number; or that looks so made."""
    if not isinstance(value, str) or not value.lstrip("'").startswith(_STARTS):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def text_of(cell: str) -> str:
    """The text that `safe_cell` made harmless."""
    return cell[1:] if cell.startswith("'") and safe_cell(cell[1:]) == cell else cell


def csv_for_people(lines: Iterable[Sequence[object]], line_end: str = "\n") -> str:
    """Lines as CSV; cells that start a formula are harmless. What another program reads is not written by this."""
    return csv_text((map(safe_cell, line) for line in lines), line_end)


def csv_text(lines: Iterable[Iterable[object]], line_end: str = "\n") -> str:
    """Lines as CSV; fields are quoted where they must be."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=line_end).writerows(lines)
    return text.getvalue()


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the head first, as a Markdown table; what Markdown would read in a cell is the caller's to escape."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
