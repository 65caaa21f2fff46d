"""A run's notebook: valid, with the output of its cells, which run again in a process of their own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_report import untrained

from fashion_dist.commands.report import Args, main
from fashion_dist.errors import ConfigError
from shards import ShardSet

PNG = b"\x89PNG"


def test_a_notebook_holds_the_page_and_runs(mini_set: Callable[[str], ShardSet], tmp_path: Path) -> None:
    run, facts = untrained("deepfashion", mini_set("deep_fashion"), tmp_path)
    run.submission.mkdir()
    (run.submission / "category.csv").write_text("file_path, category_label\ntest/0.jpg,3\n")
    path = tmp_path / "assignment4.ipynb"
    main(Args(runs=(str(run.path),), notebook=str(path), quick=True, home=str(tmp_path)))
    content = json.loads(path.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    cells = content["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    headings = [cell["source"].splitlines()[0] for cell in cells if cell["cell_type"] == "markdown"]
    for wanted in ("## Data", "## Network", "## Training", "### Learning curves", "## Results", "## Submission"):
        assert wanted in headings
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    printed = "".join(o["text"] for cell in code for o in cell["outputs"] if o["output_type"] == "stream")
    assert "train: 60 samples" in printed and "parameters" in printed and "category.csv, 2 lines:" in printed
    drawn = [o["data"]["image/png"] for cell in code for o in cell["outputs"] if "data" in o]
    assert len(drawn) == len([*facts.metrics[:4], "loss"]) and all(base64.b64decode(p)[:4] == PNG for p in drawn)
    told = "".join(cell["source"] for cell in cells)
    assert "| train | 60 |" in told

    script = "import matplotlib; matplotlib.use('Agg')\n" + "\n".join(cell["source"] for cell in code)
    alone = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed

    with pytest.raises(ConfigError, match="is there already and may hold words of yours"):
        main(Args(runs=(str(run.path),), notebook=str(path), quick=True, home=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"allowed: a name that ends with \.ipynb"):
        main(Args(runs=(str(run.path),), notebook="a.txt", quick=True, home=str(tmp_path)))
