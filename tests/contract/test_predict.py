"""Pictures that come later: any folder, shard set or split, by one rank or several, answered by name."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from report_runs import make_run

import shards
from fashion_dist import cli, load_run, tasks
from fashion_dist.commands import collect, launch, pack, predict, sweep
from fashion_dist.data.preprocessing import open_picture
from fashion_dist.errors import ConfigError, InputError, RunError
from fashion_dist.io import write_json
from fashion_dist.paths import Home, RunDir
from fashion_dist.results.prediction_files import PredictionFiles
from fashion_dist.train import inference
from fashion_dist.train.checkpoint import Checkpoints
from shards import PackOptions, ReadOptions, ShardSet
from shards import pack as pack_set


@pytest.fixture
def run(mini_set: Callable[[str], ShardSet], tmp_path: Path) -> RunDir:
    """A run of clip art whose best weights are its first ones, in a working folder of its own."""
    return untrained("clipart", mini_set("clipart"), tmp_path / "home")


def untrained(task: str, shard_set: ShardSet, home: Path) -> RunDir:
    shutil.copytree(shard_set.path, home / "shards" / shard_set.path.name)
    shard_set = ShardSet.open(home / "shards" / shard_set.path.name)
    recipe = tasks.load(task).recipe
    config = recipe.override(["data.image_px=32", "train.epochs=1", "train.eval_batch_size=4", "train.precision=fp32"])
    config = tasks.load(task).resolve(shard_set, dataclasses.replace(config, dataset=shard_set.path.name))
    run = make_run(home / "runs" / f"{task}-0123456789", config, shard_set, {}, scores=(0.5,))
    write_json(run.schema, shard_set.schema.to_json())
    torch.manual_seed(0)
    model = tasks.load(task).build_model(config, shard_set.schema).eval()
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save("best", 10, {"model": model.state_dict()}, {"epoch": 1})
    checkpoints.close()
    return run


def predicted(run: RunDir, **flags: Any) -> cli.Result:
    return predict.main(predict.Args(run=run.run_id, home=str(run.home.path), **flags))


def lines(path: Path | str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def new_pictures(run: RunDir, folder: Path) -> Path:
    """Those of the validation split as they came: two in folders of classes, one in none, with files beside them."""
    raw = Path(run.home.path).parent / "raw"
    part = ShardSet.open(run.home.shards / "clipart").split("val")
    label, keys = part.columns("label")["label"], list(part.keys)
    for place, row in enumerate((0, 3, 5)):
        name = ("3", "a/b", "")[place]
        (folder / name).mkdir(parents=True, exist_ok=True)
        with (part.tar_folder / part.shard_names[part.shard[row]]).open("rb") as tar:
            tar.seek(int(part.offset[row]))
            (folder / name / f"{place}.png").write_bytes(tar.read(int(part.size[row])))
    (folder / "notes.txt").write_text("mine")
    assert raw and len(label) == len(keys)
    return folder


def test_a_folder_is_answered_by_name(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ShardSet.open(run.home.shards / "clipart").schema.names["label"]
    source = new_pictures(run, tmp_path / "new pictures")
    said = predicted(run, source=str(source))
    table = lines(said.paths["new-pictures.csv"])
    assert [line["file"] for line in table] == ["2.png", "3/0.png", "a/b/1.png"]
    assert {line["true_class"] for line in table} == {"3", "unknown"}
    assert "3 pictures; left out: files that are no images (1: .txt 1)" in capsys.readouterr().err
    for line in table:
        best = [line["class"], *(line[f"class_{n}"] for n in range(2, 6))]
        values = [float(line["probability"]), *(float(line[f"probability_{n}"]) for n in range(2, 6))]
        assert len(set(best)) == 5 and set(best) <= set(names) and sorted(values, reverse=True) == values
    parquet = pq.read_table(said.paths["new-pictures.parquet"])
    assert parquet.column_names == list(table[0]) and parquet["class"].to_pylist() == [one["class"] for one in table]
    # What the run learned from may be gone: it keeps its names.
    shutil.rmtree(run.home.shards)
    assert predicted(run, source=str(source)).data == said.data
    files = collect_source(run, said)
    assert [line.split(", ")[0] for line in files.read_text().splitlines()[1:]] and not (
        run.submission / "test.txt"
    ).exists()


def test_new_pictures_are_changed_as_those_were_that_the_run_learned_from(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "raw" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (40, 30), (41, 1, number, 0)).save(tmp_path / "raw" / str(number % 2) / f"{number}.png")
    shards.pack("image_folder", tmp_path / "raw", tmp_path / "white", PackOptions(background="white", resize_px=24))
    run = untrained("clipart", ShardSet.open(tmp_path / "white"), tmp_path / "home")
    assert first_pixel(run, tmp_path / "raw") == (32, 24, (255, 255, 255))
    learned = ShardSet.open(run.home.shards / "white")
    write_json(run.schema, {**learned.schema.to_json(), "packed": learned.manifest.reshaped})  # as launching does
    shutil.rmtree(run.home.shards)
    assert first_pixel(run, tmp_path / "raw") == (32, 24, (255, 255, 255))
    settings = load_run(run.path, run.home.path).settings
    assert settings["packed"] == {"background": "white", "resize_px": 24}
    picture = open_picture(tmp_path / "raw" / "0" / "0.png", settings)
    assert picture.size == (32, 24) and picture.getpixel((0, 0)) == (255, 255, 255)
    write_json(run.schema, {**learned.schema.to_json(), "packed": {"resize_px": "wide"}})
    with pytest.raises(InputError, match=r"packed, in .*schema\.json: resize_px = 'wide' is not possible"):
        load_run(run.path, run.home.path)
    write_json(run.schema, {**learned.schema.to_json(), "packed": {}})
    assert first_pixel(run, tmp_path / "raw")[:2] == (40, 30)


def first_pixel(run: RunDir, source: Path) -> tuple[int, int, Any]:
    """Width, height and upper left pixel of the first of the pictures of a source, as they are predicted."""
    predicted(run, source=str(source))
    made = ShardSet.open(Path(json.loads(run.named("raw", "json").read_text())["shard_set"])).split("pictures")
    with (made.tar_folder / made.shard_names[0]).open("rb") as tar:
        tar.seek(int(made.offset[0]))
        image = Image.open(io.BytesIO(tar.read(int(made.size[0])))).convert("RGB")
    return image.width, image.height, image.getpixel((0, 0))


def test_a_table_of_pictures_says_what_it_knows(run: RunDir, tmp_path: Path) -> None:
    new_pictures(run, tmp_path / "new")
    (tmp_path / "new" / "list.csv").write_text("path,label\n3/0.png,5\n2.png,a word\n")
    said = predicted(run, source=str(tmp_path / "new" / "list.csv"))
    table = lines(said.paths["list.csv"])
    assert {line["file"]: line["true_class"] for line in table} == {"3/0.png": "5", "2.png": "unknown"}
    assert collect_source(run, said).is_file()
    (tmp_path / "new" / "list.csv").write_text("where,part,label\n3/0.png,test,5\n2.png,train,5\n")
    with pytest.raises(InputError, match="has no column of paths: --path-column names it"):
        predicted(run, source=str(tmp_path / "new" / "list.csv"))
    columns = {"path_column": "where", "split_column": "part"}
    said = predicted(run, source=str(tmp_path / "new" / "list.csv"), split="test", name="parted", **columns)
    assert [line["file"] for line in lines(said.paths["parted.csv"])] == ["3/0.png"]
    with pytest.raises(InputError, match=r"--path-column and --split-column are of a table, and .*new is none"):
        predicted(run, source=str(tmp_path / "new"), **columns)
    with pytest.raises(ConfigError, match="--skip-bad, --path-column and --split-column are of --source"):
        predicted(run, dataset="clipart", **columns)


def collect_source(run: RunDir, said: cli.Result) -> Path:
    """The submission file of what was predicted, by the command that the hint says."""
    words = said.next["submission files"].split()
    args = cli.parse(collect.Args, words[words.index(run.run_id) :])
    return Path(collect.main(args).paths["test.txt"])


def test_two_ranks_say_what_one_says_and_a_changed_source_is_read_anew(run: RunDir, tmp_path: Path) -> None:
    one = predicted(run, split="val")
    alone = Path(one.paths["val.csv"]).read_text()
    both = predicted(run, split="val", nodes=2, cluster="local")
    assert Path(both.paths["val.csv"]).read_text() == alone
    assert len(list(Path(both.paths["val by rank"]).glob("rank_*.parquet"))) == 2
    other = predicted(run, dataset="clipart", split="val", name="again")
    assert Path(other.paths["again.csv"]).read_text() == alone
    source = new_pictures(run, tmp_path / "new")
    first = Path(predicted(run, source=str(source)).paths["new.csv"]).read_text()
    packed = {path: path.stat().st_mtime_ns for path in run.home.sources.rglob("*.tar")}
    assert Path(predicted(run, source=str(source)).paths["new.csv"]).read_text() == first
    assert {path: path.stat().st_mtime_ns for path in run.home.sources.rglob("*.tar")} == packed
    shutil.copy(source / "2.png", source / "9.png")
    assert len(lines(predicted(run, source=str(source)).paths["new.csv"])) == 4


def of_classes(folder: Path, name: str, classes: str) -> ShardSet:
    """A set of two pictures of each class in each split."""
    colours = {word: (60 * place, 200 - 50 * place, 90) for place, word in enumerate("abcd")}
    for split in ("train", "val", "test"):
        for word in classes:
            for number in (0, 1):
                path = folder / "raw" / split / word / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40 + number + len(split)), colours[word]).save(path)
    pack_set("image_folder", folder / "raw", folder / name, PackOptions(), ReadOptions(), workers=1)
    return ShardSet.open(folder / name)


def test_another_set_is_answered_and_judged_by_names(tmp_path: Path) -> None:
    """The numbers of its classes are others: `b` is 1 here and 0 there, and `d` is none that the run knows."""
    run = untrained("classification", of_classes(tmp_path / "one", "mine", "abc"), tmp_path / "home")
    own = {line["file"]: line for line in lines(predicted(run, split="test").paths["test.csv"])}
    theirs = of_classes(tmp_path / "two", "theirs", "bcd")
    shutil.copytree(theirs.path, run.home.shards / "theirs")
    by_name = predicted(run, dataset="theirs", split="test")
    by_path = predicted(run, source=str(theirs.path), name="there")
    for said, csv_name in ((by_name, "theirs.csv"), (by_path, "there-test.csv")):
        table = lines(said.paths[csv_name])
        assert [line["true_class"] for line in table] == ["b", "b", "c", "c", "unknown", "unknown"]
        for line in table[:4]:  # the same pictures, and so the same answers
            assert line["class"] == own[line["file"]]["class"] and line["class_3"] == own[line["file"]]["class_3"]
        words = said.next["submission files"].split()
        args = cli.parse(collect.Args, words[words.index(run.run_id) :])
        name = csv_name.removesuffix(".csv")
        handed_in = lines(collect.main(dataclasses.replace(args, split=name)).paths["predictions.csv"])
        assert [line["class"] for line in handed_in] == [line["class"] for line in table]
        assert [line["true_class"] for line in lines(run.named(name, "csv"))] == [line["true_class"] for line in table]


def test_collecting_is_not_begun_for_a_set_without_a_test_split(tmp_path: Path) -> None:
    of_classes(tmp_path / "one", "mine", "ab")
    shutil.rmtree(tmp_path / "one" / "raw" / "test")
    pack_set("image_folder", tmp_path / "one" / "raw", tmp_path / "shards" / "mine", PackOptions(), ReadOptions())
    flags: dict[str, Any] = {"task": "classification", "dataset": "mine", "model": "mlp", "then": "collect,report"}
    flags |= {"home": str(tmp_path), "cluster": "local"}
    told = "no split 'test'; it has: train, val; pack --add test=DIR adds it"
    with pytest.raises(InputError, match=told):
        launch.main(launch.Args(**flags))
    with pytest.raises(InputError, match=told):
        sweep.main(sweep.Args(**flags, seeds=2))
    assert not (tmp_path / "runs").exists()


def test_the_working_folder_is_none_of_the_source(run: RunDir, tmp_path: Path) -> None:
    new_pictures(run, run.home.path.parent / "here")
    moved = run.home.path.rename(run.home.path.parent / "here" / "workspace")
    (moved / "runs" / run.run_id / "report").mkdir()
    shutil.copy(moved.parent / "2.png", moved / "runs" / run.run_id / "report" / "figure.png")
    run = RunDir(moved / "runs" / run.run_id)
    said = predicted(run, source=str(moved.parent))
    assert [line["file"] for line in lines(said.paths["here.csv"])] == ["2.png", "3/0.png", "a/b/1.png"]


def test_a_tar_is_answered_as_a_folder_of_tars_is(run: RunDir, tmp_path: Path) -> None:
    new_pictures(run, tmp_path / "new")
    with tarfile.open(tmp_path / "later.tar", "w") as archive:
        archive.add(tmp_path / "new" / "a" / "b" / "1.png", "1.png")
    said = predicted(run, source=str(tmp_path / "later.tar"))
    assert [line["key"] for line in lines(said.paths["later.csv"])] == ["1"]


def test_a_test_split_that_comes_later_is_predicted_with_the_run_as_it_is(run: RunDir, tmp_path: Path) -> None:
    home = str(run.home.path)
    args = {"dataset": "clipart", "add": f"later={new_pictures(run, tmp_path / 'new') / 'a'}", "home": home}
    with pytest.raises(InputError, match="holds no train/<class>"):
        pack.main(pack.Args(**args))
    said = pack.main(pack.Args(**{**args, "add": f"later={tmp_path / 'new' / 'a' / 'b'}"}))
    words = said.next["predict it"].replace("RUN", run.run_id).split()
    predict.main(cli.parse(predict.Args, words[words.index(run.run_id) :]))
    assert [line["file"] for line in lines(run.named("later", "csv"))] == ["later/1.png"]
    shutil.copy(tmp_path / "new" / "2.png", tmp_path / "new" / "a" / "b" / "1.png")
    pack.main(pack.Args(**{**args, "add": f"later={tmp_path / 'new' / 'a' / 'b'}", "replace": True}))
    with pytest.raises(
        RunError, match=r"the predictions 'later' of run .* are of other pictures than the split 'later'"
    ):
        collect.main(collect.Args(run=run.run_id, home=home, split="later"))
    predicted(run, split="later")
    assert collect.main(collect.Args(run=run.run_id, home=home, split="later")).paths


def test_no_predictions_take_others_place(run: RunDir, tmp_path: Path) -> None:
    val, train = (predicted(run, dataset="clipart", split=split) for split in ("val", "train"))
    assert len(lines(val.paths["clipart.csv"])) == 24 and "clipart.csv" not in train.paths
    again = predicted(run, dataset="clipart", split="train")
    assert again.paths.keys() == train.paths.keys()
    source = new_pictures(run, tmp_path / "holdout")
    predicted(run, source=str(source))
    pack.main(pack.Args(dataset="clipart", add=f"holdout={source / 'a' / 'b'}", home=str(run.home.path)))
    with pytest.raises(ConfigError, match=r"has predictions 'holdout' of .*holdout; allowed: a split of another name"):
        predicted(run, split="holdout")
    shutil.rmtree(run.predictions("holdout"))
    assert [line["file"] for line in lines(predicted(run, split="holdout").paths["holdout.csv"])] == ["holdout/1.png"]
    with pytest.raises(ConfigError, match=r"--name val: run .* keeps 'val' for its split; allowed: another name"):
        predicted(run, source=str(source), name="val")
    with pytest.raises(ConfigError, match=r"--name clipart: run .* has 'clipart' of other pictures; allowed"):
        predicted(run, source=str(source), name="clipart")
    with pytest.raises(ConfigError, match="--name is of the predictions of --source and --dataset"):
        predicted(run, split="val", name="mine")


def test_what_a_run_predicts_at_its_end_is_what_is_shown(run: RunDir) -> None:
    predicted(run, split="val")
    named = run.named("val", "csv")
    assert named.is_file()
    shard_set = ShardSet.open(run.home.shards / "clipart")
    inference.begin_predictions(run.predictions("val"))
    inference.publish_predictions(run.predictions("val"), inference.made_of(shard_set, "val"))
    assert not named.exists() and not run.named("val", "parquet").exists(), "these were of the predictions before"


def test_collecting_a_split_touches_no_others_files(run: RunDir) -> None:
    for split in ("test", "val"):
        predicted(run, split=split)
    home = str(run.home.path)
    collect.main(collect.Args(run=run.run_id, home=home))
    of_test = (run.submission / "test.txt").read_bytes()
    said = collect.main(collect.Args(run=run.run_id, home=home, split="val"))
    assert (run.submission / "test.txt").read_bytes() == of_test
    assert Path(said.paths["test.txt"]) == run.submission / "val" / "test.txt"
    assert {line["true_class"] == line["class"] for line in lines(said.paths["val.csv"])} <= {True, False}


def test_predictions_stream_in_the_order_of_the_split(run: RunDir) -> None:
    predicted(run, split="val", nodes=3, cluster="local")
    part = ShardSet.open(run.home.shards / "clipart").split("val")
    files = PredictionFiles.of_run(run, part).require_complete()
    whole = files.column("probability")
    assert whole.shape == (24, 12) and np.allclose(whole.sum(axis=1), 1, atol=1e-5)
    blocks = [columns["probability"] for _, columns in files.blocks(["probability"], 5)]
    assert np.array_equal(np.concatenate(blocks), whole)
    (run.predictions("val") / "rank_2.parquet").rename(run.predictions("val") / "rank_9.parquet")
    assert np.array_equal(PredictionFiles.of_run(run, part).column("probability"), whole)
    (run.predictions("val") / "rank_9.parquet").unlink()
    with pytest.raises(RunError, match=r"8 of 24 samples missing: .* and 3 more; no submission was written"):
        PredictionFiles.of_run(run, part).require_complete()


def test_attributes_are_named_too(mini_set: Callable[[str], ShardSet], tmp_path: Path) -> None:
    run = untrained("deepfashion", mini_set("deep_fashion"), tmp_path / "home")
    (line, *_) = lines(predicted(run, split="val").paths["val.csv"])
    names = mini_set("deep_fashion").schema.names
    assert line["class"] in names["category"] and line["label_1"] in names["attributes"]
    assert set(filter(None, line["labels"].split("|"))) <= set(names["attributes"])
    assert line["file"].startswith("val/") and line["true_class"] in names["category"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"source": "nowhere"}, "nowhere does not exist; allowed: a folder"),
        ({"source": "x", "dataset": "y"}, "two kinds of data"),
        ({"split": "tset"}, "no split 'tset'; it has: train, val, test"),
        ({"nodes": -1}, "--nodes -1 is not possible"),
        ({"dataset": "other"}, "is no shard set"),
    ],
)
def test_what_cannot_be_predicted_is_refused_at_once(run: RunDir, flags: dict[str, Any], message: str) -> None:
    before = sorted(run.home.path.rglob("*"))
    with pytest.raises(InputError, match=message):
        predicted(run, **flags)
    assert sorted(run.home.path.rglob("*")) == before


def test_predictions_of_other_pictures_are_never_replaced(run: RunDir, tmp_path: Path) -> None:
    one, two = new_pictures(run, tmp_path / "one" / "test"), new_pictures(run, tmp_path / "two" / "test")
    names = {str(predicted(run, source=str(source)).data["predictions"][0]) for source in (one, two, one)}
    assert len(names) == 2 and all(name.startswith("test-") for name in names)
    predicted(run, source=str(one), name="mine")
    with pytest.raises(ConfigError, match="--name mine: run clipart-0123456789 has 'mine' of other"):
        predicted(run, source=str(two), name="mine")
    assert Home(run.home.path).sources.is_dir()
