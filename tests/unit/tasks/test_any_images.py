"""The tasks for anybody's images: which column is learned, with which recipe and weights, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation import evaluated, parts
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from fashion_dist.cluster import launcher
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.monitor.sweep_messages import of_draft
from fashion_dist.sweep import launcher as sweeps
from fashion_dist.sweep.launcher import SweepRequest
from fashion_dist.tasks import classification, load, multilabel
from fashion_dist.tasks.common import own_data
from shards import Record, Schema, Split, pack, readers

NAMES = ("cat", "dog", "fox|wolf")
CLASSES = Schema({"file": "str", "label": "int"}, {"label": NAMES})
LABELS = Schema({"labels": "ints:3", "score": "float"}, {"labels": NAMES})
TRAIN = [0, 0, 0, 1, 0, 0, 0, 1]
Pack = Callable[[str, Schema, dict[str, Sequence[dict[str, Any]]]], Path]


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Packs a set of the test's own columns into HOME/shards; returns HOME."""

    def make(name: str, schema: Schema, rows: dict[str, Sequence[dict[str, Any]]]) -> Path:
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        records = [
            Record(f"{split}/{n}", file.getvalue(), columns, split)
            for split, lines in rows.items() for n, columns in enumerate(lines)
        ]  # fmt: skip
        reader = readers.Reader(
            "columns of a test", lambda root, _: readers.Source(schema, root, lambda: iter(records))
        )
        monkeypatch.setattr(readers, "load", lambda _: reader)
        pack(name, tmp_path, tmp_path / "shards" / name)
        return tmp_path

    return make


def classes(labels: Sequence[int | None], name: str = "label") -> list[dict[str, Any]]:
    return [{"file": f"{n}.png", name: label} for n, label in enumerate(labels)]


def resolved(home: Path, *settings: str, task: str = "classification", dataset: str = "own") -> Config:
    request = LaunchRequest(task, dataset=dataset, home=str(home), cluster="local", settings=settings)
    return launcher.resolve(request).config


def test_a_set_of_classes_is_found_and_its_column_stands_in_the_run(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes(TRAIN), "val": classes([0, 1])})
    found = resolved(home)
    assert found.options == {"label": "label", "class_weights": "none", "unseen": "fail"}
    assert found == resolved(home, "task.label=label")
    assert (found.train.batch_size, found.model.name) == (8, "fashionnet")
    assert resolved(home, "train.batch_size=4").train.batch_size == 4


def test_a_recipes_warm_up_that_takes_the_whole_run_is_told(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes(TRAIN), "val": classes([0, 1])})
    request = LaunchRequest("classification", dataset="own", home=str(home), cluster="local")

    def told(*settings: str, **more: Any) -> list[str]:
        plan = launcher.resolve(replace(request, settings=settings, **more))
        return [note for note in plan.notes if "warm-up" in note]

    (note,) = told("train.epochs=2")
    assert note.startswith("the recipe's warm-up of 3 epochs takes all 2 of the run") and note.count("epochs=0.2") == 1
    (note,) = told("optim.stages=adam:0.001:3,sgd:0.01:9", "train.epochs=12")
    assert "all 3 of the first stage" in note and "optim.warmup_epochs=0.3 " in note
    assert not told() and not told("train.epochs=2", "optim.warmup_epochs=0.2")
    assert not told("train.epochs=2", "optim.schedule=onecycle") and not told(debug=True)
    draft = sweeps.resolve(SweepRequest(request, settings=("train.epochs=2,4",)))
    assert sum("takes all 2 of the run" in line for line in of_draft(draft).text.splitlines()) == 1


def test_a_sweep_learns_one_column_of_several(packed: Pack) -> None:
    schema = Schema({"kind": "int", "hue": "int"}, {"kind": NAMES, "hue": ("red", "blue")})
    rows = [{"kind": n % 3, "hue": n % 2} for n in range(8)]
    home = packed("own", schema, {"train": rows, "val": rows})
    request = LaunchRequest("classification", dataset="own", home=str(home), cluster="local")
    sweep = sweeps.resolve(SweepRequest(request, settings=("task.label=hue", "optim.lr=0.1,0.2"))).sweep
    one = launcher.resolve(replace(request, settings=("task.label=hue", "optim.lr=0.2"))).run.run_id
    assert [trial and trial.run_id for trial in sweep.trials][1] == one
    with pytest.raises(ConfigError, match=r"has several columns of classes: kind, hue; --set task\.label=NAME"):
        sweeps.resolve(SweepRequest(request, settings=("optim.lr=0.1,0.2",)))
    with pytest.raises(ConfigError, match=r"trials would learn other columns \(hue, kind\).*allowed: one task\.label"):
        sweeps.resolve(SweepRequest(request, settings=("task.label=kind,hue",)))


def test_without_a_data_set_the_packed_ones_are_named(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes(TRAIN), "val": classes([0, 1])})
    with pytest.raises(ConfigError, match=r"task 'classification' needs --dataset .*; packed in .*: own$"):
        resolved(home, dataset="")
    with pytest.raises(ConfigError, match=r"none is packed in .* yet: .*pack.* --dataset image_folder --source DIR"):
        resolved(home / "elsewhere", dataset="")


def test_a_debug_run_whose_set_is_not_packed_tries_its_steps_on_drawn_images_and_says_so(packed: Pack) -> None:
    schema = Schema({"category": "int", "attributes": "ints:2"}, {"category": ["a", "b"], "attributes": ["c", "d"]})
    rows = [{"category": n % 2, "attributes": [n % 2, 1]} for n in range(64)]
    home = packed("synthetic", schema, {"train": rows, "val": rows[:16]})
    request = LaunchRequest("deepfashion", home=str(home), cluster="local", debug=True)
    plan = launcher.resolve(request)
    assert plan.config.dataset == plan.shard_set.name == "synthetic"
    assert f"deep_fashion is not packed in {home / 'shards'}: this run tries its steps on drawn" in plan.notes[0]
    for other in (
        replace(request, debug=False),
        replace(request, dataset="deep_fashion"),
        replace(request, task="clipart"),
    ):
        with pytest.raises(InputError, match="is no shard set"):
            launcher.resolve(other)
    (home / "shards" / "deep_fashion" / ".packing").mkdir(parents=True)
    with pytest.raises(InputError, match="half packed"):
        launcher.resolve(request)


@pytest.mark.parametrize(
    ("task", "schema", "settings", "words"),
    [
        ("classification", LABELS, (), r"no column of classes with names; it has labels \(ints:3\), score \(float\)"),
        ("multilabel", CLASSES, (), "no column of labels with names; .*; task classification learns others"),
        ("multilabel", LABELS, ("task.label=score",), "'score' is not possible: the column is of numbers; .*: labels"),
        ("multilabel", LABELS, ("task.label=lables",), "unknown column .*'lables'; known: labels, score"),
        ("classification", Schema({"a": "int", "b": "int"}, {"a": NAMES, "b": NAMES}), (), "several .*: a, b; --set"),
        ("classification", Schema({"a": "int", "b": "int"}, {"a": NAMES}), ("task.label=b",), "numbers; .*names: a$"),
    ],
)
def test_no_column_is_guessed(task: str, schema: Schema, settings: tuple[str, ...], words: str) -> None:
    config = load(task).recipe.override(settings)
    wanted = "classes" if task == "classification" else "labels"
    with pytest.raises(ConfigError, match=words):
        own_data.label_column(schema, config, wanted)


def test_the_recipe_is_by_the_number_of_training_images() -> None:
    recipe = classification.RECIPE
    sizes = [own_data.recipe_for(recipe, images).train.batch_size for images in (1, 5, 40, 2000)]
    assert sizes == [1, 4, 16, 16]
    assert own_data.recipe_for(recipe, 50_000) == recipe
    large = own_data.recipe_for(recipe, 1_281_167).check()
    assert (large.model.name, large.data.image_px, large.optim.name, large.train.epochs) == ("resnet50", 224, "sgd", 90)
    assert large.options == recipe.options and large.task == recipe.task


def test_classes_that_training_lacks_are_named_counted_and_can_be_skipped(packed: Pack) -> None:
    rows = {"train": classes(TRAIN), "val": classes([0, 1, 2, 2]), "test": classes([2, None])}
    home = packed("own", CLASSES, rows)
    with pytest.raises(ConfigError, match=r"2 images of split 'val' are of 1 class that .*: fox\|wolf \(2\); .*=skip"):
        resolved(home)
    found = resolved(home, "task.unseen=skip")
    assert found.options["unseen"] == "skip:2"
    labels = load("classification").targets({"label": np.array([0, 2, -1, 1])}, found)["label"]
    assert labels.tolist() == [0, -1, -1, 1]
    with pytest.raises(ConfigError, match=r"task.unseen = 'drop' is not possible; allowed: fail, skip"):
        resolved(home, "task.unseen=drop")


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ([1] * 8, [1], "all training images are of class 'dog'; allowed: 2 classes"),
        ([None] * 8, [1], "no image of split 'train' has a known 'label'"),
        (TRAIN, [None, None], "no image of split 'val' has a known 'label'"),
    ],
)
def test_what_cannot_be_learned_or_judged_is_refused(
    packed: Pack, train: list[int | None], val: list[int | None], words: str
) -> None:
    home = packed("own", CLASSES, {"train": classes(train), "val": classes(val)})
    with pytest.raises(ConfigError, match=words):
        resolved(home)


def test_too_few_and_too_many_classes_are_refused() -> None:
    config = classification.RECIPE.override(["task.label=id"])
    for count, words in ((0, "has 0 classes;"), (1, r"has 1 class \(0\);"), (200_000, "has 200,000 classes;")):
        with pytest.raises(ConfigError, match=rf"column 'id' of .* {words} allowed: 2 to 100,000"):
            own_data.require_count(config, [str(n) for n in range(count)], 2, "class")
    own_data.require_count(config, [str(n) for n in range(50_000)], 2, "class")


def test_balanced_weights_are_scikit_learns_and_the_loss_is_torchs(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes([*TRAIN, 2]), "val": classes([0, 1, 2])})
    config = resolved(home, "task.class_weights=balanced", "train.label_smoothing=0.1")
    weights = np.array([float(part) for part in str(config.options["class_weights"]).split(",")])
    np.testing.assert_allclose(
        weights, compute_class_weight("balanced", classes=np.arange(3), y=[*TRAIN, 2]), rtol=1e-5
    )
    logits, label = torch.randn(9, 3), torch.tensor([*TRAIN, 2])
    found = load("classification").loss({"label": logits}, {"label": label}, config)["loss"]
    expected = nn.CrossEntropyLoss(torch.tensor(weights).float(), label_smoothing=0.1)(logits, label)
    torch.testing.assert_close(found, expected)
    masked = torch.cat([label, torch.full((4,), -1)])
    again = load("classification").loss({"label": torch.cat([logits, torch.randn(4, 3)])}, {"label": masked}, config)
    torch.testing.assert_close(again["loss"], expected)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dog:2", "1,2,1"), ("dog:2,cat:0.5", "0.5,2,1"), ("1,1,1", "none"), ("3,0,1", "3,0,1"), ("none", "none"),
        ("balanced", "0.5,3,1"),
    ],
)  # fmt: skip
def test_weights_are_told_in_several_ways(text: str, found: str) -> None:
    there, balanced = np.array([6, 2, 0]), np.array([0.5, 3.0, 9.0])
    resolved_once = own_data.resolve_weights("task.class_weights", text, NAMES, there, balanced)
    assert resolved_once == found == own_data.resolve_weights("task.class_weights", found, NAMES, there, balanced)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2", "allowed: none, balanced, 3 numbers of 0 or more"),
        ("1,2,-3", "allowed: none"),
        ("1,2,nan", "allowed: none"),
        ("0,0,0", "allowed: none"),
        ("heavy", "allowed: none"),
        ("bird:2", r"unknown label in task.class_weights 'bird'; known: cat, dog, fox\|wolf"),
        ("fox|wolf:2", r"weighs 'fox\|wolf', which no training image has"),
        ("1,1,2", "which no training image has"),
    ],
)
def test_weights_that_cannot_be_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        own_data.resolve_weights("task.class_weights", text, NAMES, np.array([6, 2, 0]), np.ones(3))


def test_a_sweep_over_weights_resolves_each_trial(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes([*TRAIN, 2]), "val": classes([0, 1, 2])})
    request = LaunchRequest("classification", dataset="own", home=str(home), cluster="local")
    draft = sweeps.resolve(SweepRequest(request, settings=("task.class_weights=none,balanced",)))
    assert [config.options["class_weights"] for config in draft.configs] == ["none", "0.5,1.5,3"]


def multi(rows: Sequence[list[int] | None]) -> list[dict[str, Any]]:
    return [{"labels": row, "score": float(n)} for n, row in enumerate(rows)]


def test_labels_are_learned_with_torchs_positive_weights(packed: Pack) -> None:
    home = packed("own", LABELS, {"train": multi([[1, 0, 0], [1, 1, 0], [1, 0, 0], None]), "val": multi([[0, 1, 1]])})
    config = resolved(home, "task.positive_weights=balanced", "train.batch_size=4", task="multilabel")
    assert config.options["positive_weights"] == "0,2,1"  # of a label that all have, and of one that none has
    with pytest.raises(ConfigError, match=r"'fox\|wolf', which no training image has"):
        resolved(home, "task.positive_weights=fox|wolf:3", "train.batch_size=4", task="multilabel")
    config = config.override(["task.positive_weights=0.5,2,3"])
    logits, truth = torch.randn(6, 3), (torch.rand(6, 3) < 0.5).float()
    found = load("multilabel").loss({"labels": logits}, {"labels": truth}, config)["loss"]
    torch.testing.assert_close(found, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 2, 3]))(logits, truth))
    masked = load("multilabel").loss(
        {"labels": torch.cat([logits, torch.randn(2, 3)])}, {"labels": torch.cat([truth, torch.full((2, 3), -1.0)])},
        config,
    )  # fmt: skip
    torch.testing.assert_close(masked["loss"], found)


def test_labels_are_judged_as_scikit_learn_judges_them() -> None:
    task, config = load("multilabel"), multilabel.RECIPE.override(["task.label=labels"])
    split = Split("val", LABELS, Path(), Path(), (), 0, 50)
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(50, 3, generator=generator) < 0.4).float()
    logits = torch.randn(50, 3, generator=generator) + truth
    evaluator = evaluated(task, split, config, *parts({"labels": logits}, {"labels": truth}, 13))
    found, named, true = evaluator.compute(), (logits >= 0).numpy(), truth.numpy().astype(int)
    for name, average in (("micro_f1", "micro"), ("macro_f1", "macro"), ("sample_f1", "samples")):
        assert found[name] == pytest.approx(f1_score(true, named, average=average, zero_division=1.0))
    assert found["exact_match"] == pytest.approx(accuracy_score(true, named))
    head, *lines = csv.reader(io.StringIO(evaluator.tables()["labels.csv"]))
    assert head == ["label", "images", "named", "right", "f1"]
    assert [int(line[1]) for line in lines] == true.sum(axis=0).tolist()


def test_answers_are_written_by_name() -> None:
    columns: dict[str, Any] = {
        "key": np.array(["a%2Eb", "c"], object), "file": np.array(["a.b.png", None], object), "row": np.array([1, 0]),
        "probability": np.array([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3]]), "label": np.array([0, 2]),
    }  # fmt: skip
    split = Split("test", LABELS, Path(), Path(), (), 0, 2)
    config = multilabel.RECIPE.override(["task.label=labels"])
    text = load("multilabel").submission(columns, split, config)["predictions.csv"]
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[1][:3] == ["c", "", "[]"] and lines[2][:2] == ["a.b", "a.b.png"]
    assert json.loads(lines[2][2]) == ["cat", "fox|wolf"] and json.loads(lines[2][3]) == [0.9, 0.6]
    tuned = load("multilabel").submission(columns, split, config.override(["task.thresholds=1,1,0.25"]))
    assert json.loads(list(csv.reader(io.StringIO(tuned["predictions.csv"])))[1][2]) == ["fox|wolf"]

    split = Split("test", CLASSES, Path(), Path(), (), 0, 2)
    config = classification.RECIPE.override(["task.label=label"])
    text = load("classification").submission(columns, split, config)["predictions.csv"]
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == ["key", "file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert lines[2][2:] == ["cat", "0.900000", "fox|wolf", "0.600000", "dog", "0.200000"]


def test_of_very_many_classes_five_answers_are_kept() -> None:
    count = 50_000
    schema = Schema({"label": "int"}, {"label": tuple(f"n{k}" for k in range(count))})
    task, config = load("classification"), classification.RECIPE.override(["task.label=label"])
    logits = torch.zeros(2, count)
    logits[0, 7], logits[1, 49_999] = 20, 20
    rows = task.predictions({"label": logits}, config)
    assert rows.keys() == {"label", "top", "top_probability"} and rows["top"].shape == (2, 5)
    split = Split("test", schema, Path(), Path(), (), 0, 2)
    text = task.submission({**rows, "key": np.array(["a", "b"])}, split, config)["predictions.csv"]
    assert [line.split(",")[2] for line in text.splitlines()[1:]] == ["n7", "n49999"]
    with pytest.raises(ConfigError, match="more than 4,096 classes have no mean"):
        task.ensemble([rows, rows])


def test_the_direction_is_the_metrics_and_unknown_monitors_are_refused(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes(TRAIN), "val": classes([0, 1])})
    assert resolved(home, "train.monitor=loss").train.mode == "min"
    assert resolved(home, "train.monitor=loss", "train.mode=min") == resolved(home, "train.monitor=loss")
    assert resolved(home, "train.mode=max") == resolved(home)
    with pytest.raises(ConfigError, match=r"train.mode = 'max' is not possible: of loss less is better; allowed: min"):
        resolved(home, "train.monitor=loss", "train.mode=max")
    with pytest.raises(
        ConfigError, match=r"train.monitor = 'acuracy' is not measured; known: accuracy, loss, macro_f1"
    ):
        resolved(home, "train.monitor=acuracy")
    request = LaunchRequest("classification", dataset="own", home=str(home), cluster="local")
    draft = sweeps.resolve(SweepRequest(request, settings=("train.monitor=loss", "optim.lr=0.1,0.2")))
    assert [config.train.mode for config in draft.configs] == ["min", "min"]
    file = home / "sweep.yaml"
    file.write_text(
        "method: grid\nmetric: {name: loss, goal: maximize}\nparameters: {optim.lr: {values: [0.1, 0.2]}}\n"
    )
    with pytest.raises(
        ConfigError, match=r"metric.goal is 'maximize', and of loss minimum is best; allowed: goal: min"
    ):
        sweeps.resolve(SweepRequest(request, file=str(file)))
    file.write_text("method: grid\nmetric: {name: accuracy}\nparameters: {optim.lr: {values: [0.1, 0.2]}}\n")
    assert sweeps.resolve(SweepRequest(request, file=str(file))).sweep.base.train.mode == "max"


def test_classes_are_drawn_alike_where_there_is_such_a_target(packed: Pack) -> None:
    home = packed("own", CLASSES, {"train": classes(TRAIN), "val": classes([0, 1])})
    assert resolved(home, "data.class_balanced=label").data.class_balanced == "label"
    with pytest.raises(ConfigError, match=r"unknown target \(data.class_balanced\) 'species'; known: label"):
        resolved(home, "data.class_balanced=species")
    home = packed("many", LABELS, {"train": multi([[1, 0, 0], [0, 1, 0]]), "val": multi([[0, 1, 1]])})
    with pytest.raises(
        ConfigError, match=r"data.class_balanced = 'labels' is not possible; allowed: a target with one class"
    ):
        resolved(home, "data.class_balanced=labels", task="multilabel", dataset="many")
