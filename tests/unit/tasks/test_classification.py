"""Tasks of one class per image: their metrics are scikit-learn's, and their files what the assignments ask for."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation import evaluated, parts
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, top_k_accuracy_score
from torch.profiler import ProfilerActivity, profile

from fashion_dist.errors import ConfigError
from fashion_dist.tasks import clipart, fashion_mnist, fashion_mnist_binary, load
from fashion_dist.tasks.common.classification import require_classes
from fashion_dist.train.distributed import ProcessGroup, World
from shards import Schema, Split

NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SCHEMA = Schema(columns={"label": "int", "row": "int"}, names={"label": NAMES})
SPLIT = Split("test", SCHEMA, Path(), Path(), (), 0, 40)
TASK, RECIPE = load("fashion_mnist"), fashion_mnist.RECIPE


def batch(count: int = 300, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(10, (count,), generator=generator)
    logits = torch.randn(count, 10, generator=generator) + 2 * torch.nn.functional.one_hot(label, 10)
    return {"label": logits}, {"label": label}


def measured(outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> dict[str, float]:
    found = evaluated(TASK, SPLIT, RECIPE, *parts(outputs, targets, 31, 100)).compute()
    return {name: value for name, value in found.items() if not name.endswith("loss")}


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_metrics_and_loss_are_scikit_learns() -> None:
    outputs, targets = batch()
    rows, true = TASK.predictions(outputs, RECIPE), targets["label"].numpy()
    found = measured(outputs, targets)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, rows["label"]))
    assert found["macro_f1"] == pytest.approx(f1_score(true, rows["label"], average="macro"))
    for best in (3, 5):
        expected = top_k_accuracy_score(true, rows["probability"], k=best)
        assert found[f"top{best}_accuracy"] == pytest.approx(expected)
    probability = outputs["label"].double().softmax(dim=1)
    expected = log_loss(true, probability, labels=range(10))
    plain = RECIPE.override(["train.label_smoothing=0"])
    assert float(TASK.loss(outputs, targets, plain)["loss"]) == pytest.approx(expected, rel=1e-5)
    both = evaluated(TASK, SPLIT, RECIPE, *parts(outputs, targets, 31, 100)).compute()
    assert both["plain_loss"] == pytest.approx(expected, rel=1e-5) and both["loss"] != both["plain_loss"]
    assert "plain_loss" not in evaluated(TASK, SPLIT, plain, (outputs, targets)).compute()


def test_unknown_labels_count_for_nothing() -> None:
    outputs, targets = batch()
    known = measured({"label": outputs["label"][:200]}, {"label": targets["label"][:200]})
    masked = {"label": targets["label"].clone()}
    masked["label"][200:] = -1
    assert measured(outputs, masked) == known
    some = TASK.loss({"label": outputs["label"][:200]}, {"label": targets["label"][:200]}, RECIPE)["loss"]
    assert float(TASK.loss(outputs, masked, RECIPE)["loss"]) == pytest.approx(float(some))
    none = TASK.loss(outputs, {"label": torch.full_like(targets["label"], -1)}, RECIPE)["loss"]
    assert float(none) == 0


def test_a_network_whose_answers_are_nan_is_right_on_nothing_known() -> None:
    outputs, targets = batch()
    outputs["label"][7] = torch.nan
    found = evaluated(TASK, SPLIT, RECIPE, *parts(outputs, targets, 31, 100)).compute()
    assert set(found) == set(TASK.metrics(SCHEMA, RECIPE)) and all(np.isnan(value) for value in found.values())
    targets["label"][7] = -1
    assert all(np.isfinite(value) for value in evaluated(TASK, SPLIT, RECIPE, (outputs, targets)).compute().values())


def test_the_tables_say_which_classes_are_confused() -> None:
    outputs, targets = batch()
    tables = evaluated(TASK, SPLIT, RECIPE, *parts(outputs, targets, 31, 100)).tables()
    expected = confusion_matrix(targets["label"], outputs["label"].argmax(dim=1), labels=range(10))
    head, *lines = read(tables["confusion.csv"])
    assert head == ["truth", *NAMES]
    assert [line[0] for line in lines] == list(NAMES)
    assert np.array_equal(np.array([line[1:] for line in lines], int), expected)
    _, *pairs = read(tables["confused.csv"])
    counts = [int(pair[2]) for pair in pairs]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == expected.sum() - np.trace(expected)
    truth, answer, count, share = pairs[0]
    row, column = NAMES.index(truth), NAMES.index(answer)
    assert int(count) == expected[row, column]
    assert float(share) == pytest.approx(expected[row, column] / expected[row].sum(), abs=1e-4)


def test_an_update_costs_what_its_batch_costs() -> None:
    """With very many classes no update but the first allocates anything of their square."""
    count, batches = 50_000, [batch_of(50_000, seed) for seed in range(3)]
    schema = Schema(columns={"label": "int"}, names={"label": tuple(map(str, range(count)))})
    evaluator = load("clipart").evaluator(Split("val", schema, Path(), Path(), (), 0, 24), clipart.RECIPE)
    evaluator.update(*batches[0], torch.arange(8))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for number, (outputs, targets) in enumerate(batches[1:], 1):
            evaluator.update(outputs, targets, torch.arange(8 * number, 8 * number + 8))
    assert 0 < sum(max(0, event.self_cpu_memory_usage) for event in seen.events()) < 200 * 8 * count
    evaluator.reduce(ProcessGroup(World(), torch.device("cpu")))
    truth = torch.cat([targets["label"] for _, targets in batches])
    answers = torch.cat([outputs["label"].argmax(dim=1) for outputs, _ in batches])
    found = evaluator.compute()
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, answers))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, answers, average="macro"))
    assert list(evaluator.tables()) == ["confused.csv"]  # no table of all against all
    _, *pairs = read(evaluator.tables()["confused.csv"])
    assert sum(int(pair[2]) for pair in pairs) == int((truth != answers).sum())


def batch_of(classes: int, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (8,), generator=generator)
    logits = torch.zeros(8, classes)
    logits[torch.arange(8), torch.where(torch.arange(8) < 5, label, 7)] = 1
    return {"label": logits}, {"label": label}


def test_the_two_classes_are_clothing_and_the_rest() -> None:
    task, recipe = load("fashion_mnist_binary"), fashion_mnist_binary.RECIPE
    assert recipe.dataset == RECIPE.dataset
    targets = task.targets({"label": np.array([*range(10), -1])}, recipe)
    clothing = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Shirt"}
    assert targets["label"].tolist() == [*(int(name in clothing) for name in NAMES), -1]


@pytest.mark.parametrize("name", ["fashion_mnist", "fashion_mnist_binary"])
def test_fashion_mnist_answers_in_the_order_of_the_published_file(name: str) -> None:
    rows = TASK.predictions(batch(40)[0], RECIPE)
    if name == "fashion_mnist_binary":
        rows = {"label": rows["label"] % 2, "probability": rows["probability"][:, :2]}
    shuffled = np.random.default_rng(0).permutation(40)
    columns = {**rows, "row": shuffled, "key": [f"test/{i}" for i in shuffled]}
    text = load(name).submission(columns, SPLIT, RECIPE)["test.csv"]
    head, *lines = read(text)
    assert head[:2] == ["id", "label"]
    assert [int(line[0]) for line in lines] == list(range(40))
    assert [int(line[1]) for line in lines] == [int(rows["label"][i]) for i in np.argsort(shuffled)]


def test_clipart_writes_names_without_endings_in_order() -> None:
    files = ["test/0010.png", "test/0002.jpg", "test/0001.v2.png"]
    columns = {"file": files, "row": np.array([2, 1, 0]), "label": np.array([7, 64, 0])}
    text = load("clipart").submission(columns, SPLIT, clipart.RECIPE)["test.txt"]
    assert text == "id,label\n0001.v2, 0\n0002, 64\n0010, 7\n"


def test_the_number_of_classes_is_checked() -> None:
    with pytest.raises(ConfigError, match="needs 10 classes for the fact 'label'; the shard set names 3"):
        TASK.build_model(RECIPE, Schema(columns={"label": "int"}, names={"label": ("a", "b", "c")}))
    with pytest.raises(ConfigError, match="needs class names"):
        load("clipart").build_model(clipart.RECIPE, Schema(columns={"label": "int"}))


@pytest.mark.parametrize(("labels", "told"), [([0, -1, 3], "k2 .* has class 3"), ([-1, -7, 2], "k1 .* has class -7")])
def test_labels_that_are_no_class_are_refused(labels: list[int], told: str) -> None:
    split = SimpleNamespace(path="set", keys=["k0", "k1", "k2"], name="train")
    with pytest.raises(ConfigError, match=rf"{told}; allowed: 0 to 2"):
        require_classes(split, np.array(labels), 3, "class")  # type: ignore[arg-type]
    require_classes(split, np.array([0, -1, 2]), 3, "class")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("init", ["kaiming", "xavier", "normal", "orthogonal"])
def test_the_perceptron_learns_with_every_switch(norm: str, init: str) -> None:
    torch.manual_seed(0)
    network = TASK.build_model(RECIPE.override([f"model.norm={norm}", f"model.init={init}"]), SCHEMA)
    images, targets = torch.randn(64, 3, 28, 28), {"label": torch.arange(64) % 10}
    images[torch.arange(64), :, targets["label"], :] += 3  # a bright line says the class
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = TASK.loss(network(images), targets, RECIPE)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
