"""The product's layers, read from its syntax trees: nothing imports upward, and there is no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("shards",),
    ("errors", "io", "settings", "config", "paths", "run_names", "run_status", "cli"),
    ("data", "models"),
    ("tasks",),
    ("runs",),
    ("tracking",),
    ("train",),
    ("results", "cluster"),
    ("sweep",),
    ("monitor",),
    ("report",),
    ("commands",),
    ("__main__",),
)
"""From the lowest up; what stands in one line may know each other, without a circle."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAX_LINES, MAX_CORE_LINES = 39_750, 20_460
"""What the house of the four data sets took 27,166 and 13,490 of: own data, strangers' files, other sites, cards and
what is handed in came since; what comes after earns its lines."""


def modules() -> dict[str, Path]:
    files = (path for folder in ("shards", "fashion_dist") for path in (ROOT / folder).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports, also inside functions; not those that only type checkers see."""
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module


def layer(module: str) -> int:
    parts = module.split(".")
    return LEVEL["shards"] if parts[0] == "shards" else LEVEL[parts[1]] if len(parts) > 1 else -1


def test_nothing_imports_upward() -> None:
    known = modules()
    wrong = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imported(path, known)
        if other != "fashion_dist" and name != "fashion_dist" and layer(other) > layer(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle() -> None:
    known = modules()
    # A package's face only hands names on.
    faces = {name for name, path in known.items() if path.name == "__init__.py"}
    graph = {name: {*imported(path, known)} - {name} - faces for name, path in known.items() if name not in faces}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_house_stays_small() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (ROOT / "jobs").rglob("*.py")}
    lines |= {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules().values()}
    core = ("shards", "fashion_dist/data", "fashion_dist/train", "fashion_dist/cluster")
    assert sum(lines.values()) <= MAX_LINES
    assert sum(n for path, n in lines.items() if path.as_posix().startswith(core)) <= MAX_CORE_LINES
