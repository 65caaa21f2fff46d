"""A bounded part of `make fuzz`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz_run", Path(__file__).with_name("run.py"))
assert SPEC is not None and SPEC.loader is not None
fuzz = importlib.util.module_from_spec(SPEC)


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    import sys

    sys.modules["fuzz_run"] = fuzz
    SPEC.loader.exec_module(fuzz)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", sorted(path.stem for path in (Path(__file__).parent / "surfaces").glob("*.py")))
def test_damaged_input_is_read_as_it_was_or_refused(name: str) -> None:
    counts, wrong = fuzz.run(name, 0, range(300), seconds=8)
    assert not wrong, "\n".join(f"case {number}: {told}" for number, told in wrong.items())
    assert counts["refused"]
    assert sum(counts.values()) > 10
