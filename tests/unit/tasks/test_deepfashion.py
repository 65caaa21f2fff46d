"""The metrics of the DeepFashion task are scikit-learn's, and its files are what the assignment asks for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation import evaluated, parts
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from fashion_dist.tasks import load
from fashion_dist.tasks.deepfashion import RECIPE
from shards import Schema, Split

TASK = load("deepfashion")
SCHEMA = Schema(
    columns={"category": "int", "attributes": "ints:15"},
    names={"category": tuple("abcdefghij"), "attributes": tuple("ABCDEFGHIJKLMNO")},
)


def batch(count: int = 200, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    category = torch.randint(10, (count,), generator=generator)
    attributes = (torch.rand(count, 15, generator=generator) < 0.15).float()
    outputs = {
        "category": torch.randn(count, 10, generator=generator) + 2 * torch.nn.functional.one_hot(category, 10),
        "attributes": torch.randn(count, 15, generator=generator) + 3 * attributes - 2,
    }
    return outputs, {"category": category, "attributes": attributes}


def measured(outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> dict[str, float]:
    found = evaluated(
        TASK, Split("val", SCHEMA, Path(), Path(), (), 0, 200), RECIPE, *parts(outputs, targets, 60)
    ).compute()
    return {name: value for name, value in found.items() if "loss" not in name}


def test_metrics_are_scikit_learns() -> None:
    outputs, targets = batch()
    rows = TASK.predictions(outputs, RECIPE)
    found = measured(outputs, targets)
    true, scores = targets["category"].numpy(), outputs["category"].numpy()
    assert found["accuracy"] == pytest.approx(accuracy_score(true, rows["category"]))
    assert found["top3_accuracy"] == pytest.approx(top_k_accuracy_score(true, scores, k=3))
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(true, scores, k=5))
    attributes = targets["attributes"].numpy().astype(int)
    f1 = f1_score(attributes, rows["attributes"].astype(int), average="samples", zero_division=0)
    assert found["attribute_f1"] == pytest.approx(f1)
    macro = f1_score(attributes, rows["attributes"].astype(int), average="macro")
    assert found["attribute_class_f1"] == pytest.approx(macro)


def test_unknown_labels_count_for_nothing() -> None:
    outputs, targets = batch()
    known = measured({k: v[:150] for k, v in outputs.items()}, {k: v[:150] for k, v in targets.items()})
    masked = {key: value.clone() for key, value in targets.items()}
    masked["category"][150:] = -1
    masked["attributes"][150:] = -1
    assert measured(outputs, masked) == pytest.approx(known)
    terms = TASK.loss(outputs, masked, RECIPE)
    expected = TASK.loss({k: v[:150] for k, v in outputs.items()}, {k: v[:150] for k, v in targets.items()}, RECIPE)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx({k: float(v) for k, v in expected.items()})


def test_every_image_has_an_attribute_and_attribute_zero_counts() -> None:
    outputs, _ = batch(50)
    outputs["attributes"] -= 30
    outputs["attributes"][0, 0] += 10
    rows = TASK.predictions(outputs, RECIPE)
    assert (rows["attributes"].sum(axis=1) == 1).all()
    columns = {**rows, "row": np.arange(50)[::-1], "file_path": [f"deep_fashion/test/{i}.jpg" for i in range(50)]}
    files = TASK.submission(columns, SCHEMA, RECIPE)
    assert files["category.csv"].startswith("file_path, category_label")
    read = {name: list(csv.reader(io.StringIO(text), skipinitialspace=True)) for name, text in files.items()}
    assert read["category.csv"][0] == ["file_path", "category_label"]
    assert read["attribute.csv"][0] == ["file_path", "attribute_label"]
    for lines in read.values():
        assert [line[0] for line in lines[1:]] == [f"deep_fashion/test/{i}.jpg" for i in range(49, -1, -1)]
    assert read["attribute.csv"][-1] == ["deep_fashion/test/0.jpg", "0"]
    assert [int(line[1]) for line in read["category.csv"][1:]] == list(rows["category"][::-1])


def test_names_with_commas_and_quotes_survive_the_csv() -> None:
    outputs, _ = batch(1)
    files = TASK.submission(
        {**TASK.predictions(outputs, RECIPE), "row": [0], "file_path": ['a, "b".jpg']}, SCHEMA, RECIPE
    )
    assert list(csv.reader(io.StringIO(files["category.csv"])))[1][0] == 'a, "b".jpg'
