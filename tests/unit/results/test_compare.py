"""Two runs on the same images: counted as scikit-learn counts, judged as SciPy judges, said in one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from report_runs import write_answers
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.paths import RunDir
from fashion_dist.results.collect import collect_average
from fashion_dist.results.compare import Comparison, compare, mcnemar
from fashion_dist.results.paired import differences
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import deepfashion, fashion_mnist, fashion_mnist_binary, load
from shards import PackOptions, ReadOptions, ShardSet, pack

CLOTHING = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 5), (3, 12), (40, 61), (0, 7), (700, 640)])
def test_the_p_value_is_the_binomial_test_s(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == mcnemar(first, second)


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Fashion-MNIST's layout with 200 test images, row r of class r % 10."""
    folder = tmp_path_factory.mktemp("garments")
    raw = folder / "raw"
    raw.mkdir()
    for stem, count in (("train", 40), ("t10k", 200)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = np.zeros((count, 28, 28), np.uint8)
        for kind, array in ((f"{stem}-images-idx3-ubyte", pixels), (f"{stem}-labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / kind).write_bytes(head + array.tobytes())
    pack("fashion_mnist", raw, folder / "set", PackOptions(), ReadOptions(val_fraction=0.25), workers=1)
    return ShardSet.open(folder / "set")


def run_of(folder: Path, config: Config, shard_set: ShardSet, answers: np.ndarray) -> OpenRun:
    """A run that answered `answers`, by row of the published file, in two files and out of order."""
    run = RunDir(folder)
    split = shard_set.split("test")
    rows = split.columns("row")["row"]
    order = np.random.default_rng(0).permutation(len(split))
    run.predictions("test").mkdir(parents=True)
    for rank in (0, 1):
        part = order[rank::2]
        columns = {"index": part, "key": [split.keys[int(i)] for i in part], "label": answers[rows[part]]}
        pq.write_table(pa.table(columns), run.predictions("test") / f"rank_{rank}.parquet")
    return OpenRun(run, config, shard_set)


def test_ten_classes_binarised_against_two(shard_set: ShardSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ten = np.where(rng.random(200) < 0.7, np.arange(200) % 10, rng.integers(10, size=200))
    truth = CLOTHING[np.arange(200) % 10]
    two = np.where(rng.random(200) < 0.95, truth, 1 - truth)
    many = run_of(tmp_path / "ten", fashion_mnist.RECIPE, shard_set, ten)
    direct = run_of(tmp_path / "two", fashion_mnist_binary.RECIPE, shard_set, two)
    found = compare(many, direct)
    merged = CLOTHING[ten]
    assert found.classes == ("footwear or bag", "clothing")
    assert found.accuracies == pytest.approx((accuracy_score(truth, merged), accuracy_score(truth, two)))
    for run, answers in enumerate((merged, two)):
        assert np.array_equal(found.confusion(run), confusion_matrix(truth, answers))
    only_first = int(((merged == truth) & (two != truth)).sum())
    only_second = int(((merged != truth) & (two == truth)).sum())
    assert found.alone == (only_first, only_second)
    assert found.sentence().startswith("ten, merged to fewer classes, is right on")
    turned = compare(direct, many)
    assert turned.alone == (only_second, only_first)
    assert turned.p_value == found.p_value
    same = compare(many, many)
    assert len(same.classes) == 10
    assert same.p_value == 1.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [((0, 40), "more than chance, so first is the better choice."), ((9, 11), "no reason to prefer either.")],
)
def test_the_sentence_says_no_more_than_the_numbers(wrong: tuple[int, int], says: str) -> None:
    truth = np.zeros(1000, np.int64)
    answers = np.zeros((2, 1000), np.int64)
    answers[0, : wrong[0]] = 1
    answers[1, 500 : 500 + wrong[1]] = 1
    found = Comparison(("first", "second, merged to fewer classes,"), truth, answers, ("no", "yes"))
    assert found.sentence().endswith(says)
    assert f"only the former on {wrong[1]}, only the latter on {wrong[0]}" in found.sentence()


def test_what_cannot_be_compared_is_refused(shard_set: ShardSet, tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", fashion_mnist.RECIPE, shard_set, np.zeros(200, np.int64))
    other = dataclasses.replace(one, config=deepfashion.RECIPE)
    with pytest.raises(ConfigError, match="'fashion_mnist' and 'deepfashion' have no classes in common"):
        compare(one, other)
    twin = tmp_path / "twin"
    raw = shard_set.path.parent / "raw"
    pack("fashion_mnist", raw, twin, PackOptions(), ReadOptions(val_fraction=0.5), workers=1)
    with pytest.raises(ConfigError, match="different shard sets"):
        compare(one, dataclasses.replace(one, shard_set=ShardSet.open(twin)), "val")


def test_a_run_is_called_what_it_was_named(shard_set: ShardSet, tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs" / "mnist-0123456789", fashion_mnist.RECIPE, shard_set, np.zeros(200, np.int64))
    assert compare(run, run).names == ("mnist-0123456789",) * 2
    run.folder.home.names.give("baseline", run.folder.run_id)
    assert compare(run, run).names == ("baseline",) * 2


def test_a_split_without_labels_is_refused_with_one_that_has(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "val/a", "val/b", "test"):
        (tmp_path / "raw" / place).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((9, 9, 3), 40 * number + len(place), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / place / f"{number}.png")
    pack("image_folder", tmp_path / "raw", tmp_path / "set", PackOptions(), ReadOptions(), workers=1)
    shard_set = ShardSet.open(tmp_path / "set")
    task = load("classification")
    run = OpenRun(RunDir(tmp_path / "one"), task.resolve(shard_set, task.recipe), shard_set)
    with pytest.raises(
        ConfigError, match=r"'test' of .* has no labels to compare by; allowed: one that has, as by --split val"
    ):
        compare(run, run)


def test_runs_that_learn_other_columns_of_one_set_are_not_compared(tmp_path: Path) -> None:
    """Both columns have the same classes: the first run was judged by the second's."""
    lines = ["file,split,wool,warm,colours,parts"]
    for number in range(24):
        Image.fromarray(np.full((9, 9, 3), 9 * number, np.uint8)).save(tmp_path / f"{number}.png")
        split = ("train", "val", "test")[number % 3]
        wool, warm = ("yes" if number % k else "no" for k in (2, 5))
        several = ("red|blue" if number % 2 else "red", "hood|belt" if number % 5 else "hood")
        lines.append(",".join((f"{number}.png", split, wool, warm, *several)))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    options = ReadOptions(label_columns=("wool", "warm", "colours", "parts"))
    pack("table", tmp_path / "labels.csv", tmp_path / "set", PackOptions(), options, workers=1)
    shard_set = ShardSet.open(tmp_path / "set")
    opened = {}
    for name, columns in (("classification", ("wool", "warm")), ("multilabel", ("colours", "parts"))):
        task = load(name)
        for column in columns:
            config = dataclasses.replace(task.recipe, dataset="set", options={**task.recipe.options, "label": column})
            run = OpenRun(RunDir(tmp_path / column), task.resolve(shard_set, config), shard_set)
            run.folder.path.mkdir()
            run.folder.config.write_text(run.config.to_json())
            opened[column] = run
    told = "runs {} and {} learn other columns of .*set: {} and {}; allowed: two runs that learn the same"
    with pytest.raises(ConfigError, match=told.format(*("wool", "warm") * 2)):
        compare(opened["wool"], opened["warm"])
    with pytest.raises(ConfigError, match=told.format(*("colours", "parts") * 2)):
        differences(opened["colours"], opened["parts"])
    runs = [opened[name].folder for name in ("wool", "warm")]
    with pytest.raises(ConfigError, match=r"learn other columns \(warm, wool\), whose answers have no mean"):
        collect_average(runs, opened["wool"].config, shard_set, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    truth = shard_set.split("test").columns("colours")["colours"]
    chosen = np.random.default_rng(0).random(truth.shape) < 0.5
    write_answers(opened["colours"].folder, shard_set, "test", {"labels": chosen.astype(np.int8)})
    for found, average in zip(differences(*[opened["colours"]] * 2), ("micro", "macro", "samples"), strict=True):
        assert found.name == f"{average.removesuffix('s')}_f1"  # as the task and its curves call them
        assert found.first == found.second == pytest.approx(f1_score(truth, chosen, average=average, zero_division=0))
