"""Every task as a user tries it: `launch.py --debug` on two ranks, predicted again by one, collected, read back."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster_home import job
from minis import dataset_of

from fashion_dist import tasks
from fashion_dist.paths import Home
from fashion_dist.results.collect import ordered_predictions
from fashion_dist.results.predict import predict_run
from fashion_dist.runs import open_run
from fashion_dist.tracking.metrics_log import read_metrics
from shards import ShardSet
from shards.readers.synthetic import ATTRIBUTES

REPO = Path(__file__).parents[2]


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, skipinitialspace=True))


def check_deepfashion(folder: Path, items: int) -> None:
    for name, column in (("category.csv", "category_label"), ("attribute.csv", "attribute_label")):
        head, *lines = table(folder / name)
        assert head == ["file_path", column]
        assert [line[0] for line in lines] == [f"test/{n}.jpg" for n in range(items)]
        assert all(part.isdigit() for line in lines for part in line[1].split(" "))


def check_numbers(folder: Path, items: int) -> None:
    head, *lines = table(folder / "test.csv")
    assert head[:2] == ["id", "label"]
    assert [int(line[0]) for line in lines] == list(range(items))
    assert all(0 <= int(line[1]) < 10 for line in lines)


def check_clipart(folder: Path, items: int) -> None:
    head, *lines = (folder / "test.txt").read_text().splitlines()
    assert head == "id,label"
    assert [line.split(", ")[0] for line in lines] == [f"{n:04d}" for n in range(1, items + 1)]
    assert all(0 <= int(line.split(", ")[1]) < 12 for line in lines)


def check_categories(folder: Path, items: int) -> None:
    lines = [line.split(" ") for line in (folder / "category.txt").read_text().splitlines()]
    assert sorted(int(item) for item, _ in lines) == list(range(1068, 1068 + items))
    assert {category for _, category in lines} <= {"3", "21", "41", "55"}


def check_pairs(folder: Path, items: int) -> None:
    lines = [line.split(" ") for line in (folder / "compatibility.txt").read_text().splitlines()]
    assert len(lines) == 2 * 5 * 6
    assert sum(true == "1" for _, _, _, true, _ in lines) == 5 * 6
    for first, second, predicted, true, score in lines:
        assert ((int(first) - 1000) // 4 == (int(second) - 1000) // 4) == (true == "1")
        assert 0 <= float(score) <= 1
        assert predicted in ("0", "1")


def check_outfits(folder: Path, items: int) -> None:
    lines = [line.split(" ") for line in (folder / "outfits.txt").read_text().splitlines()]
    assert [len(line) - 2 for line in lines] == [4, 3] * 5
    assert lines[0][2:] == ["17_1", "17_2", "17_3", "17_4"]
    for word, score, *_ in lines:
        right = "Negative" if float(score) <= 0.45 else "Undecided" if float(score) <= 0.55 else "Positive"
        assert word == right
    assert len((folder / "fill_in_blank.txt").read_text().splitlines()) == 5


def check_by_class(folder: Path, items: int) -> None:
    head, *lines = table(folder / "predictions.csv")
    assert head == ["key", "file", "class", "probability", *(f"{w}_{n}" for n in (2, 3, 4, 5) for w in head[2:4])]
    assert [line[1] for line in lines] == [f"test/{n:04d}.png" for n in range(1, items + 1)]
    assert [line[0] for line in lines] == [line[1].removesuffix(".png") for line in lines]
    for line in lines:
        assert len(set(line[2::2])) == 5 and set(line[2::2]) <= {str(n) for n in range(12)}
        assert [float(p) for p in line[3::2]] == sorted((float(p) for p in line[3::2]), reverse=True)


def check_by_label(folder: Path, items: int) -> None:
    head, *lines = table(folder / "predictions.csv")
    assert head == ["key", "file", "labels", "probabilities"]
    assert [line[0] for line in lines] == [f"test/{n}" for n in range(items)]
    for line in lines:
        labels, shares = ([part for part in cell.split("|") if part] for cell in line[2:])
        assert set(labels) <= set(ATTRIBUTES) and len(labels) == len(shares)
        assert all(float(share) >= 0.5 for share in shares)


CHECKS: dict[str, Callable[[Path, int], None]] = {
    "classification": check_by_class,
    "multilabel": check_by_label,
    "deepfashion": check_deepfashion,
    "fashion_mnist": check_numbers,
    "fashion_mnist_binary": check_numbers,
    "clipart": check_clipart,
    "polyvore_category": check_categories,
    "polyvore_pairs": check_pairs,
    "polyvore_outfits": check_outfits,
}


SEEN_TRAINING = {"polyvore_pairs": "pair_accuracy", "polyvore_outfits": "pair_accuracy", "multilabel": "micro_f1"}
SEEN_TRAINING = {name: SEEN_TRAINING.get(name, "accuracy") for name in tasks.names()}
"""What a training line says beside the losses."""


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_goes_from_shards_to_its_submission(
    name: str, mini_home: Path, mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    shard_set = mini_set(dataset_of(name))
    settings = ("train.batch_size=8", "train.eval_batch_size=8", "data.image_px=32")
    launch = (
        "--task",
        name,
        "--dataset",
        dataset_of(name),
        "--debug",
        "--nodes",
        "2",
        "--cluster",
        "local",
        "--home",
        str(mini_home),
        "--wait",
    )
    run_id = str(job("launch", *launch, "--set", *settings)["run_id"])
    run = open_run(Home(mini_home).find_run(run_id))
    assert (run.config.train.epochs, run.config.train.fraction) == (1, 0.01)
    points = read_metrics(run.folder.metrics)
    (trained,), (judged,) = ([point for point in points if point["split"] == split] for split in ("train", "val"))
    assert trained["step"] == 1
    assert {"loss", SEEN_TRAINING[name]} <= trained.keys() & judged.keys() and 0 <= trained[SEEN_TRAINING[name]] <= 1
    labelled = dataset_of(name) not in ("deep_fashion", "clipart")
    assert len([point for point in points if point["split"] == "test"]) == labelled
    assert (run.folder.measures("test") / "confusion.csv").is_file() == (
        labelled and name not in ("polyvore_pairs", "polyvore_outfits")
    )
    split = shard_set.split("test")
    by_two = ordered_predictions(run.folder, split)
    predict_run(run, "test")
    by_one = ordered_predictions(run.folder, split)
    assert by_two.keys() == by_one.keys()
    assert all(np.array_equal(values, by_one[column]) for column, values in by_two.items() if column != "index")
    for whole in ("train", "val"):  # the run saw a hundredth of both
        predict_run(run, whole)
        assert len(ordered_predictions(run.folder, shard_set.split(whole))["key"]) == shard_set.splits[whole]
    job("collect", run_id, "--home", str(mini_home), "--out", str(tmp_path / "out"))
    CHECKS[name](tmp_path / "out", len(split))


def test_a_run_over_pairs_answers_outfits_with_tuned_thresholds(
    mini_home: Path, mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    mini_set("polyvore_outfits")
    settings = ("train.batch_size=8", "data.image_px=32", "model.name=mlp")
    launch = ("--task", "polyvore_pairs", "--debug", "--cluster", "local", "--home", str(mini_home), "--wait")
    run_id = str(job("launch", *launch, "--set", *settings)["run_id"])
    as_outfits = (run_id, "--home", str(mini_home), "--task", "polyvore_outfits")
    job("collect", *as_outfits, "--out", str(tmp_path / "plain"))
    check_outfits(tmp_path / "plain", 20)
    job("predict", run_id, "--home", str(mini_home), "--split", "val")
    job("collect", *as_outfits, "--tune-thresholds", "--out", str(tmp_path / "tuned"))
    plain, tuned = ((tmp_path / name / "outfits.txt").read_text() for name in ("plain", "tuned"))
    assert [line.split(" ")[1:] for line in plain.splitlines()] == [line.split(" ")[1:] for line in tuned.splitlines()]
