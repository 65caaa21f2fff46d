"""README's first commands, word for word but for settings that shorten the training, from a folder of pictures."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from pages import ROOT

from shards.readers.synthetic import CATEGORIES, draw_garment

SHORT = {
    "launch": "--cluster local --set train.epochs=1 data.image_px=32 train.batch_size=16 train.eval_batch_size=16",
    "predict": "--cluster local",
}


def commands() -> list[str]:
    """The commands of README's first section, without comments."""
    section = (
        (ROOT / "README.md").read_text().partition("## Your pictures")[2].partition("```\n")[2].partition("```")[0]
    )
    lines = [line.partition("#")[0].strip() for line in section.splitlines()]
    return [line for line in lines if line.startswith("fashion-dist")]


def test_from_a_folder_to_predictions_of_new_pictures_in_four_commands(tmp_path: Path) -> None:
    for folder, count in (("pictures", 12), ("new_pictures", 0)):
        for at, name in enumerate(CATEGORIES[:3]):
            (tmp_path / folder / (name if count else "")).mkdir(parents=True, exist_ok=True)
            for number in range(count or 2):
                data, _ = draw_garment(np.random.default_rng([count, at, number]), name)
                inside = f"{name}/{number}.jpg" if count else f"{name}-{number}.jpg"
                (tmp_path / folder / inside).write_bytes(data)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASHION_DIST_HOME": "workspace", "WANDB_MODE": "disabled"}
    first = commands()
    assert [line.split()[1] for line in first] == ["pack", "launch", "predict", "report"]
    run = ""
    for line in first:
        words = shlex.split(f"{line.replace('RUN', run)} {SHORT.get(line.split()[1], '')}")
        told = [sys.executable, "-m", "fashion_dist", *words[1:]]
        done = subprocess.run(told, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        if " launch " in line:
            (run,) = (path.name for path in (tmp_path / "workspace" / "runs").iterdir())
    folder = tmp_path / "workspace" / "runs" / run
    with (folder / "predictions" / "new_pictures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == sorted(path.name for path in (tmp_path / "new_pictures").iterdir())
    assert {row["class"] for row in rows} <= set(CATEGORIES[:3])
    page = (folder / "report" / "index.html").read_text()
    assert all(name in page for name in CATEGORIES[:3])
