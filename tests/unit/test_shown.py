"""What comes from files and names and is shown, pasted, opened in a spreadsheet, or handed in."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from pathlib import Path

import numpy as np
import pytest

from fashion_dist import cli, tasks
from fashion_dist.cluster.run_view import typed
from fashion_dist.errors import InputError
from fashion_dist.paths import RunDir
from fashion_dist.results.media import _read_confusion
from fashion_dist.tasks.common.classification import confusion_tables
from shards import Schema, ShardSet, Split, program
from shards.readers import Rejected
from shards.spreadsheet import safe_cell, text_of
from shards.writer import rejected_csv

TITLE = "\x1b]0;PWNED\x07"
NASTY = "x; touch ran #"


def test_what_a_terminal_obeys_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = cli.Result(
        f"a{TITLE}", {"page": "\x9b2J"}, {"\u202efollow": "c\rd"}, text="t\x1b[2J\n\ttab \udcff é"
    ).to_text()
    cli.tell(f"{TITLE}\x00")
    with pytest.raises(SystemExit):
        cli.refuse(InputError(f"no run '{TITLE}'"))
    text = shown + capsys.readouterr().err
    assert not {c for c in text if not c.isprintable()} - {"\n", "\t"}
    assert r"\x1b]0;PWNED\x07" in shown and r"\x9b2J" in shown and r"\u202e" in shown and r"c\rd" in shown
    assert "\ttab \\udcff é" in shown


def test_commands_survive_pasting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir(tmp_path / "h o" / "runs" / NASTY)
    words = shlex.split(typed("collect", run), comments=True)
    assert words[-3:] == [NASTY, "--home", str(tmp_path / "h o")]
    assert shlex.split(program.command("pack", "--verify", run.path), comments=True)[-2:] == ["--verify", str(run.path)]
    (tmp_path / NASTY).mkdir()
    with pytest.raises(InputError, match=r"--source DIR --out '.*x; touch ran #'"):
        ShardSet.open(tmp_path / NASTY)


def pairs(confusion: np.ndarray) -> np.ndarray:
    """Truth, answer and how often, of all that occur."""
    return np.array([(i, j, confusion[i, j]) for i, j in np.argwhere(confusion)], np.int64)


FORMULAS = ("=cmd|' /C calc'!A0", "@SUM(1)", "+1+1", "-2+3", "\t=1")


def test_no_cell_for_people_starts_a_formula() -> None:
    rejected = rejected_csv([Rejected(name, name, name) for name in FORMULAS]).decode()
    tables = confusion_tables(pairs(np.ones((5, 5))), FORMULAS)
    for text in (rejected, *tables.values()):
        for row in csv.reader(io.StringIO(text)):
            assert not [cell for cell in row if cell.startswith(("=", "@", "+", "-", "\t"))]
    assert [text_of(str(safe_cell(name))) for name in (*FORMULAS, "'a", "-1.5", "a")] == [*FORMULAS, "'a", "-1.5", "a"]
    assert safe_cell(-1) == -1 and safe_cell("-1.5e-3") == "-1.5e-3"


def test_a_confusion_that_is_read_back_is_the_one_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "confusion.csv"
    path.write_text(confusion_tables(pairs(np.eye(5) * 3), FORMULAS)["confusion.csv"])
    assert _read_confusion(path) == (list(FORMULAS), (np.eye(5, dtype=int) * 3).tolist())
    for torn in (b"", b"truth,a\n", b"truth,a\na,x\n", b"truth,a\n\xff,1\n"):
        path.write_bytes(torn)
        assert _read_confusion(path) is None


@pytest.mark.parametrize("name", ["a,b.png", "a\nb.png", " a.png", "=1,2.png"])
def test_a_name_that_a_submission_cannot_hold_is_refused(name: str) -> None:
    task = tasks.load("clipart")
    split = Split("test", Schema({"label": "int"}), Path(), Path(), (), 0, 2)
    columns = {"file": np.array(["=good.png", name], object), "label": np.array([1, 2])}
    with pytest.raises(InputError, match=r"cannot stand in test\.txt"):
        task.submission(columns, split, task.recipe)
    good = {name: values[:1] for name, values in columns.items()}
    assert task.submission(good, dataclasses.replace(split, samples=1), task.recipe) == {
        "test.txt": "id,label\n=good, 1\n"  # never changed in what a program reads
    }
