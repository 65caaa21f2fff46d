"""What stands on a terminal of 80 x 24 and of 200 x 50 while a set is packed, learned, swept, predicted and watched."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pages import ROOT
from terminal import Terminal

SMALL = ("data.image_px=32", "train.batch_size=16", "train.eval_batch_size=16")
TRY = ("--task", "deepfashion", "--debug", "--cluster", "local", "--wait")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_what_a_person_sees(columns: int, lines: int, garments: Path, tmp_path: Path) -> None:
    def typed(command: str, *words: str) -> list[str]:
        script = str(ROOT / "jobs" / f"{command}.py")
        terminal = Terminal([sys.executable, script, *words, "--home", "w"], columns, lines, tmp_path)
        status = terminal.end()
        shown = terminal.screen.text.splitlines()
        assert status == 0, terminal.screen.text
        # Sentences wrap, and whole paths are never cut, so that they can be copied; bars, tables and lines that are
        # redrawn fit.
        laid_out = [line for line in shown if re.match(r"\S*  |.*━", line)]
        assert [line for line in laid_out if len(line) > columns and str(tmp_path) not in line] == []
        # What is redrawn in place, as with --watch, is cut where a terminal would break it.
        assert not re.search(r"Warning|Traceback|joblib" + "|…" * ("--watch" not in words), terminal.screen.text)
        return shown

    packed = typed("pack", "--dataset", "deep_fashion", "--source", str(garments))
    bars = [line.split()[0] for line in packed if "━" in line]
    assert bars == ["read", "pack", "index", "card"] and all("0:00:00" in line for line in packed if "━" in line)
    assert "packed deep_fashion: train 96, val 40, test 37 images in 3 shards" in packed
    assert packed[-1].split()[:3] == ["check", "every", "byte"]

    launched = typed("launch", *TRY, "--name", "first", "--set", *SMALL)
    submitted = next(line for line in launched if line.startswith("submitted local job"))
    assert "(first), 1 rank on this machine" in submitted
    followed = [line for line in launched if line.startswith("first  ")]
    assert len(followed) == 1, "redrawn in place"
    assert re.fullmatch(r"first  done  best score \d\.\d{4} \(epoch 1\)", followed[0])
    assert [line.split()[0] for line in launched[-3:]] == ["run", "collect", "report"]

    predicted = typed("predict", "first", "--split", "val")
    assert any(line.startswith("predict ━") and "40/40" in line for line in predicted)
    assert any(line.endswith(": 40 samples of val predicted") for line in predicted)

    watched = typed("status", "first", "--watch")
    assert watched[0].split()[1] == "first" and watched[1].split() == ["state", "done"]
    assert typed("status")[0].split()[:3] == ["RUN", "NAME", "STATE"]

    if columns == 80:
        return  # a sweep's table is that of status, and has its tests
    swept = typed("sweep", *TRY, "--name", "two", "--set", *SMALL, "optim.lr=0.001,0.002")
    tables = [at for at, line in enumerate(swept) if line.startswith("TRIAL")]
    assert len(tables) == 2 and [line.split()[:2] for line in swept[tables[1] + 1 :][:2]] == [
        ["0", "done"],
        ["1", "done"],
    ]
    assert any(re.fullmatch(r"two: 2 done; best \d\.\d{4} \(trial \d\)", line) for line in swept)
