"""A file dropped into `fashion_dist/tasks` is a task: it goes from shards to its submission and a report, with no other
edit; a file that lacks something is refused in a sentence that names it. The files are those of docs/adding-a-task.md.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pages
import pytest
from PIL import Image

from shards import ShardSet

REPO = Path(__file__).parents[2]

PAGE = pages.saved_as(REPO / "docs" / "adding-a-task.md")
PHOTOS, PILES = (PAGE[f"fashion_dist/tasks/{name}.py"] for name in ("photos", "piles"))


@pytest.fixture
def edition(tmp_path: Path) -> Path:
    for part in ("fashion_dist", "shards", "jobs"):
        shutil.copytree(REPO / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(edition: Path, home: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(edition / "jobs" / f"{command}.py"), *arguments, "--home", str(home), "--json"]
    env = {**os.environ, "PYTHONPATH": str(edition)}
    return subprocess.run(script, capture_output=True, text=True, check=False, cwd=edition, env=env)


def result_of(edition: Path, home: Path, command: str, *arguments: str) -> dict[str, str]:
    done = run(edition, home, command, *arguments)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_few_lines_are_a_task_of_classes_in_folders(
    mini_home: Path, mini_set: Callable[[str], ShardSet], edition: Path
) -> None:
    classes = mini_set("clipart").split("train").columns("label")["label"]
    (edition / "fashion_dist" / "tasks" / "photos.py").write_text(PHOTOS)
    job = partial(result_of, edition, mini_home)
    job("pack", "--dataset", "image_folder", "--source", str(mini_home / "raw" / "clipart"), "--no-card")
    small = ("data.image_px=32", "train.batch_size=4")
    run_id = job("launch", "--task", "photos", "--debug", "--cluster", "local", "--wait", "--set", *small)["run_id"]
    job("collect", run_id, "--out", str(edition / "out"))
    header, *rows = csv.reader((edition / "out" / "test.csv").read_text().splitlines())
    packed = ShardSet.open(mini_home / "shards" / "image_folder")
    assert header == ["file", "class"]
    assert sorted(file for file, _ in rows) == sorted(packed.split("test").columns("file")["file"])
    assert {name for _, name in rows} <= set(packed.schema.names["label"])
    assert len(packed.schema.names["label"]) == len(set(classes.tolist()))


def test_a_toy_task_goes_from_shards_to_its_submission_and_a_report(
    mini_home: Path, mini_set: Callable[[str], ShardSet], edition: Path
) -> None:
    split = mini_set("fashion_mnist").split("test")
    (edition / "fashion_dist" / "tasks" / "piles.py").write_text(PILES)

    job = partial(result_of, edition, mini_home)
    settings = ("train.batch_size=8", "train.eval_batch_size=8")
    launch = ("--task", "piles", "--debug", "--cluster", "local", "--nodes", "2", "--wait")
    run_id = job("launch", *launch, "--set", *settings)["run_id"]
    job("collect", run_id, "--out", str(edition / "out"))
    lines = [line.split(" ") for line in (edition / "out" / "piles.txt").read_text().splitlines()]
    assert [key for key, _ in lines] == list(split.keys)
    assert {answer for _, answer in lines} <= {"0", "1"}

    job("report", run_id, "--out", str(edition / "page"))
    page = (edition / "page" / "index.html").read_text()
    for anchor in ("figures", "curves", "confusion", "classes", "sureness", "errors", "map"):
        assert f'id="{anchor}"' in page, anchor
    truth = split.columns("label")["label"] % 2
    right = sum(int(answer) == true for (_, answer), true in zip(lines, truth.tolist(), strict=True))
    assert f"Confusion matrix of 2 classes over {len(split)} images, {right} of them right" in page
    (measured,) = [
        line for line in map(json.loads, (mini_home / "runs" / run_id / "metrics.jsonl").read_text().splitlines())
        if line["split"] == "test"
    ]  # fmt: skip
    assert measured["accuracy"] == pytest.approx(right / len(split))
    assert (edition / "page" / "figures" / "confusion.csv").read_text().startswith("truth,")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "VALUE = 1\n",
            r"piles.py cannot be trained as task 'piles': it defines no subclass of fashion_dist.tasks.Task",
        ),
        ("from fashion_dist.tasks.fashion_mnist import FashionMnist\n", "it defines no subclass"),
        (re.sub(r"    def (losses|evaluator)\(", r"    def _\1(", PILES), "Piles lacks evaluator, losses"),
        (PILES.replace("    monitor = ", "    metric = "), "Piles lacks monitor"),
        (PILES + "\n\nclass Others(Piles):\n    pass\n", "it defines several tasks, Piles, Others; allowed: one"),
        (PILES.replace('task="piles"', 'task="heaps"'), "Piles.recipe is of task 'heaps', not 'piles'"),
        (
            PILES.replace(".astype(np.float32)}", ".tolist()}"),
            r"targets\(\) of task 'piles' fails \(AttributeError: 'list'",
        ),
        (
            PILES.replace('"label"] % 2', '"lable"] % 2'),
            r"targets\(\) of task 'piles' fails \(line \d+: KeyError: 'lable'\); allowed:",
        ),
        (
            PILES.replace(".astype(np.float32)}", "[:1]}"),
            r"targets\(\) of task 'piles' gives int64 \[1\] for 'odd'; allowed: NumPy",
        ),
        (PILES.replace('"classes", truth', '"bars", truth'), "unknown report view 'bars'; known: attributes, classes"),
        ("VALUE = 1\ndef broken(:\n", r"piles.py, line 2: invalid syntax"),
        ("import no_such_module\n", r"piles.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
    ids=[
        "no task",
        "another module's",
        "methods",
        "attribute",
        "several",
        "another name",
        "list",
        "key",
        "rows",
        "view",
        "syntax",
        "import",
    ],
)
def test_a_file_that_is_no_whole_task_is_refused_in_a_sentence(
    content: str, says: str, mini_home: Path, mini_set: Callable[[str], ShardSet], edition: Path
) -> None:
    mini_set("fashion_mnist")
    (edition / "fashion_dist" / "tasks" / "piles.py").write_text(content)
    runs = sorted((mini_home / "runs").glob("*")) if (mini_home / "runs").is_dir() else []
    done = run(edition, mini_home, "launch", "--task", "piles", "--cluster", "local")
    assert done.returncode == 2, done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    assert re.search(says, sentence)
    assert (sorted((mini_home / "runs").glob("*")) if (mini_home / "runs").is_dir() else []) == runs
    other = run(
        edition,
        mini_home,
        "launch",
        "--task",
        "fashion_mnist",
        "--debug",
        "--cluster",
        "local",
        "--dry-run",
        "--set",
        "train.batch_size=8",
    )
    assert other.returncode == 0, other.stderr


def test_packing_is_not_disturbed_by_a_task_that_is_being_written(edition: Path) -> None:
    (edition / "fashion_dist" / "tasks" / "piles.py").write_text("VALUE = 1\n")
    for split in ("train", "val"):
        for n in range(2):
            folder = edition / "raw" / split / f"class{n}"
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / "a.png")
    done = run(edition, edition / "home", "pack", "--dataset", "image_folder", "--source", str(edition / "raw"))
    assert done.returncode == 0, done.stderr
    assert ShardSet.open(edition / "home" / "shards" / "image_folder").splits == {"train": 2, "val": 2}
