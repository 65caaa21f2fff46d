"""The Markdown pages of the repository as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced code blocks of a page that name `language`; those that name none are the shell's."""
    return [code for named, code in _FENCE.findall(page.read_text(encoding="utf-8")) if named == language]


def spans(page: Path) -> list[str]:
    """The code spans of a page's prose and tables."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [span.replace("\\|", "|") for span in _SPAN.findall(prose)]


def saved_as(page: Path) -> dict[str, str]:
    """Path -> content of the files that a page has the reader save: "Saved as `PATH`:" and a block of Python."""
    text = page.read_text(encoding="utf-8")
    return dict(re.findall(r"^Saved as `([^`]+)`:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
