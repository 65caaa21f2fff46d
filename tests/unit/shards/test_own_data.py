"""Own pictures in folders and tables: what is found, what is asked, what is refused, and what ends in the set."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import jpeg

from shards import InputError, PackOptions, ReadOptions, ShardSet, pack
from shards.errors import RowsError
from shards.readers import clipart, image_folder, table
from shards.verify import verify

HEADER = PackOptions(check="header")


def put(root: Path, *files: str) -> Path:
    """Small pictures, and side files with a word in them."""
    for number, file in enumerate(files):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number) if path.suffix in (".jpg", ".png", "") else b"beside")
    return root


def classes_of(source: Path, **options: Any) -> dict[str, dict[str, int | None]]:
    """split -> {file: label} as `image_folder` reads it; refused where there are problems."""
    return rows_of(image_folder.read(source, ReadOptions(**{"val_fraction": 0.0, **options})), "label")


def rows_of(opened: Any, fact: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in opened.records():
        found.setdefault(record.split, {})[str(record.columns["file"])] = record.columns.get(fact)
    if opened.problems:
        raise RowsError("source", opened.problems)
    return found


def refused(act: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        act(*arguments, **options)
    return str(caught.value)


# Folders


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("train_set", "valid", "TEST"),
        ("Train", "dev", "test-set"),
    ],
)
def test_folders_of_splits_have_any_usual_name(tmp_path: Path, train: str, val: str, test: str) -> None:
    source = put(tmp_path, f"{train}/cat/0.jpg", f"{train}/dog/1.jpg", f"{val}/dog/2.jpg", f"{test}/3.jpg")
    assert classes_of(source) == {
        "train": {f"{train}/cat/0.jpg": 0, f"{train}/dog/1.jpg": 1},
        "val": {f"{val}/dog/2.jpg": 1},
        "test": {f"{test}/3.jpg": None},
    }


def test_what_could_be_a_split_or_a_class_is_asked(tmp_path: Path) -> None:
    source = put(tmp_path / "a", "bus/0.jpg", "car/1.jpg", "train/inside/2.jpg", "notes/readme.txt")
    told = refused(classes_of, source)
    assert "named as splits (train) beside others (bus, car)" in told
    assert "--layout classes" in told and "--layout splits" in told
    assert classes_of(source, layout="classes") == {"train": {"bus/0.jpg": 0, "car/1.jpg": 1, "train/inside/2.jpg": 2}}
    put(source, "train/outside/3.jpg")
    assert classes_of(source, layout="splits") == {"train": {"train/inside/2.jpg": 0, "train/outside/3.jpg": 1}}
    flat = put(tmp_path / "b", "train/0.jpg", "test/1.jpg")
    assert "hold images and no class folders: --layout classes" in refused(classes_of, flat)
    assert classes_of(flat, layout="classes")["train"] == {"test/1.jpg": 0, "train/0.jpg": 1}
    twice = put(tmp_path / "c", "val/a/0.jpg", "valid/a/1.jpg", "train/a/2.jpg", "train/b/3.jpg")
    assert "val and valid both stand for val" in refused(classes_of, twice)
    assert "no folders of splits" in refused(classes_of, put(tmp_path / "d", "a/0.jpg", "b/0.jpg"), layout="splits")


@pytest.mark.parametrize("beside", ["paper.pdf", "scan.heic"])
def test_what_stands_beside_the_splits_stops_nothing(tmp_path: Path, beside: str) -> None:
    source = put(tmp_path, "train/a/0.jpg", "train/b/1.jpg", "val/a/2.jpg")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / beside).write_bytes(b"x")
    opened = image_folder.read(source, ReadOptions())
    assert {split: len(of) for split, of in rows_of(opened, "label").items()} == {"train": 2, "val": 1}
    assert opened.found.endswith("(1: docs)")
    put(source, "docs/figure.jpg")
    assert "--layout splits takes the splits alone" in refused(image_folder.read, source, ReadOptions())
    assert classes_of(source, layout="splits").keys() == {"train", "val"}


def test_a_spreadsheet_beside_the_pictures_is_none(tmp_path: Path) -> None:
    put(tmp_path, "a/0.jpg", "b/1.jpg", "b/labels.xlsx", "labels.xlsx")
    assert classes_of(tmp_path) == {"train": {"a/0.jpg": 0, "b/1.jpg": 1}}


def test_systems_folders_and_side_files_are_left_out_and_counted(tmp_path: Path) -> None:
    files = ["cat/0.jpg", "cat/0.xml", "cat/0.txt", "cat/0.json", "dog/1.jpg", "dog/Thumbs.db", "dog/._1.jpg"]
    source = put(tmp_path, *files, "__MACOSX/cat/0.jpg", "@eaDir/x.jpg", ".ipynb_checkpoints/y.jpg", "labels/0.txt")
    opened = image_folder.read(source, ReadOptions(val_fraction=0.0))
    assert rows_of(opened, "label") == {"train": {"cat/0.jpg": 0, "dog/1.jpg": 1}}
    assert opened.found == (
        f"{source}: 2 images in 2 classes (cat, dog): train 2; 2 classes of one image, which gives none for validation "
        "(cat, dog); left out: hidden or system files and folders (5: ._1.jpg, .ipynb_checkpoints, @eaDir, Thumbs.db, "
        "__MACOSX), files that are no images (4: .json 1, .txt 2, .xml 1)"
    )


def test_the_folder_that_is_written_to_is_none_of_the_source(tmp_path: Path) -> None:
    source = put(tmp_path, "cat/0.jpg", "dog/1.jpg", "workspace/shards/x.jpg")
    assert classes_of(source, exclude=frozenset({source / "workspace"}))["train"].keys() == {"cat/0.jpg", "dog/1.jpg"}


def test_images_of_one_stem_get_keys_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "in", "cat/x.jpg", "cat/x.png", "cat/x.jpg.png", "cat/y.jpg", "dog/x.jpg")
    pack("image_folder", tmp_path / "in", tmp_path / "out", HEADER, ReadOptions(val_fraction=0.0))
    keys = set(ShardSet.open(tmp_path / "out").split("train").keys)
    assert keys == {"cat/x%2Ejpg", "cat/x%2Epng", "cat/x%2Ejpg%2Epng", "cat/y", "dog/x"}
    assert verify(tmp_path / "out") == []


def test_each_class_of_two_images_trains_and_validates(tmp_path: Path) -> None:
    source = put(
        tmp_path, *(f"{name}/{n}.jpg" for name, count in (("a", 1), ("b", 2), ("c", 30)) for n in range(count))
    )
    found = classes_of(source, val_fraction=0.1)
    assert {split: sorted(labels.values()) for split, labels in found.items()} == {
        "train": [0, 1, *[2] * 27], "val": [1, 2, 2, 2]
    }  # fmt: skip
    assert classes_of(source, val_fraction=0.1) == found != classes_of(source, val_fraction=0.1, seed=1)
    assert sorted(classes_of(source, val_fraction=0.9)["train"].values()) == [0, 1, 2, 2, 2]


def test_classes_lie_as_deep_as_asked(tmp_path: Path) -> None:
    source = put(tmp_path, "Art/Bed/0.jpg", "Art/Bike/1.jpg", "Product/Bed/2.jpg")
    opened = image_folder.read(source, ReadOptions())
    assert opened.schema.names["label"] == ("Art", "Product") and "--class-depth 2" in opened.found
    assert image_folder.read(source, ReadOptions(class_depth=2)).schema.names["label"] == (
        "Art/Bed", "Art/Bike", "Product/Bed"
    )  # fmt: skip
    assert "Art/lone.jpg: above the class folders" in refused(classes_of, put(source, "Art/lone.jpg"), class_depth=2)


def test_the_domain_of_office_home_is_chosen(tmp_path: Path) -> None:
    source = put(
        tmp_path, "Art/Bed/0.jpg", "Art/Bike/1.jpg", "Clipart/Bed/2.jpg", "Clipart/Cup/3.jpg", "Product/Bed/4.jpg"
    )
    for options, names, where in (
        (ReadOptions(), ("Bed", "Cup"), source),
        (ReadOptions(domain="art"), ("Bed", "Bike"), source),
        (ReadOptions(), ("Bed", "Cup"), source / "Clipart"),
    ):
        assert clipart.read(where, options).schema.names["label"] == names
    assert "has no domain 'Photo'; it has: Art, Clipart" in refused(clipart.read, source, ReadOptions(domain="Photo"))


def test_classes_that_training_lacks_are_named_and_counted_or_left_out(tmp_path: Path) -> None:
    source = put(tmp_path, "train/a/0.jpg", "train/b/1.jpg", "test/c/2.jpg", "test/c/3.jpg", "test/a/4.jpg")
    assert "test: 2 images of classes that the training folders lack: 'c' (2); --unknown skip" in refused(
        classes_of, source
    )
    opened = image_folder.read(source, ReadOptions(unknown="skip"))
    assert rows_of(opened, "label")["test"] == {"test/a/4.jpg": 0}
    assert len(opened.rejected) == 2


def test_formats_that_nothing_reads_are_counted_with_the_way_to_convert_them(tmp_path: Path) -> None:
    source = put(tmp_path, "a/0.jpg", "b/1.jpg", "b/2.heic", "b/3.HEIC")
    told = refused(classes_of, source)
    assert "2 .heic files, the first" in told and "magick mogrify -format jpg *.heic" in told and "1 bad row" in told
    opened = image_folder.read(source, ReadOptions(skip_bad=True))
    assert len(rows_of(opened, "label")["train"]) == 2 and len(opened.rejected) == 2


def test_what_is_no_picture_of_the_source_is_told_or_left_out(tmp_path: Path) -> None:
    source = put(tmp_path / "source", "a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg", "loose.jpg")
    put(tmp_path, "stranger.jpg")
    links = {"gone": "nowhere", "loop": "loop.jpg", "out": "../../stranger.jpg", "inside": "../b/2.jpg"}
    for name, target in links.items():
        (source / "a" / f"{name}.jpg").symlink_to(target)
    (source / "a" / "folder").symlink_to("../b")
    os.mkfifo(source / "a" / "pipe.jpg")
    told = refused(pack, "image_folder", source, tmp_path / "set")
    assert "6 bad rows" in told and "a/loop.jpg cannot be read: Too many levels" in told
    packed = pack("image_folder", source, tmp_path / "set", PackOptions(skip_bad=True), ReadOptions(skip_bad=True))
    assert packed.splits == {"train": 3, "val": 2} and packed.rejected == 6 and verify(tmp_path / "set") == []
    listed = (tmp_path / "set" / "rejected.csv").read_text()
    assert all(name in listed for name in ("gone", "loop", "out", "folder", "pipe", "loose.jpg"))


def test_too_few_and_too_many_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat, one, two = (
        put(tmp_path / "0", "a.jpg"),
        put(tmp_path / "1", "a/0.jpg"),
        put(tmp_path / "2", "a/0.jpg", "b/0.jpg"),
    )
    assert "has no class folders" in refused(classes_of, flat)
    assert "1 class; allowed: 2 to 100,000" in refused(classes_of, one)
    wrapped = put(tmp_path / "3", "my pictures/a/0.jpg", "my pictures/b/0.jpg")
    assert f"one folder, of folders: --source '{wrapped}/my pictures' reads" in refused(classes_of, wrapped)
    monkeypatch.setattr("shards.labels.MAX_CLASSES", 1)
    assert "2 classes; allowed: 2 to 1" in refused(classes_of, two)


def test_images_without_classes_are_packed_where_asked_for(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "0.jpg", "deep/er/1.jpg", "deep/2.txt")
    pack("image_folder", source, tmp_path / "out", HEADER, ReadOptions(labelled=False))
    split = ShardSet.open(tmp_path / "out").split("test")
    assert split.schema.columns == {"file": "str", "row": "int"}
    assert set(split.columns("file")["file"]) == {"0.jpg", "deep/er/1.jpg"}


def test_options_that_a_reader_has_no_use_for_are_refused(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a/0.jpg", "b/1.jpg")
    told = refused(pack, "image_folder", source, tmp_path / "out", HEADER, ReadOptions(split_column="x"))
    assert told.startswith("image_folder has no use for --split-column; it takes: --val, --layout")
    told = refused(pack, "image_folder", source, tmp_path / "out", HEADER, ReadOptions(labelled=False, class_depth=2))
    assert told == "image_folder --unlabelled has no use for --class-depth; it takes: --unlabelled"
    told = refused(pack, "table", source, tmp_path / "out", HEADER, ReadOptions(labelled=False, test_fraction=0.5))
    assert told.startswith("table --unlabelled has no use for --test; it takes: --unlabelled, --path-column")
    assert not (tmp_path / "out").exists()


# Tables

NAMES = [f"i/{n}.jpg" for n in range(8)]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """A table of the rows, and a picture for each path of theirs."""
    put(folder, *NAMES)
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        sign = {".tsv": "\t", ".csv": ";" if name.startswith("semi") else ","}[path.suffix]
        lines = [sign.join(rows[0]), *(sign.join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


def labels_of(source: Path, fact: str = "label", **options: Any) -> dict[str, dict[str, Any]]:
    return rows_of(table.read(source, ReadOptions(**{"val_fraction": 0.0, **options})), fact)


def column(name: str, values: list[Any], **more: list[Any]) -> list[dict[str, Any]]:
    return [
        {"path": path, name: value, **{key: of[n] for key, of in more.items()}}
        for n, (path, value) in enumerate(zip(NAMES, values, strict=False))
    ]


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "semi.csv", "t.jsonl", "t.json", "t.parquet"])
def test_words_in_a_table_of_any_form_become_classes(tmp_path: Path, name: str) -> None:
    rows = column("label", ["hat", "boot", "hat"], price=[1.5, None, 2], size=[1, 2, 3], shop=["a", "b", "007"])
    path = write(tmp_path / "in", name, rows)
    manifest = pack("table", path, tmp_path / "out", HEADER, ReadOptions(val_fraction=0.0))
    assert manifest.schema.columns == {
        "file": "str", "row": "int", "label": "int", "price": "float", "size_": "int", "shop": "str"
    }  # fmt: skip
    assert manifest.schema.names == {"label": ("boot", "hat")}
    split = ShardSet.open(tmp_path / "out").split("train")
    facts = split.columns("file", "label", "price", "size_", "shop")
    order = np.argsort(facts["file"])
    assert facts["label"][order].tolist() == [1, 0, 1]
    assert facts["price"][order][[0, 2]].tolist() == [1.5, 2.0] and np.isnan(facts["price"][order][1])
    assert facts["shop"][order].tolist() == ["a", "b", "007"]
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("values", "kind", "names", "stored"),
    [
        ([3, 10, 3], "int", ("3", "10"), [0, 1, 0]),
        (["01", "1", "01"], "int", ("01", "1"), [0, 1, 0]),
        (["red|striped", "red", "[]"], "ints:2", ("red", "striped"), [[1, 1], [1, 0], [0, 0]]),
        (["['a', 'b']", "['b']", "['a']"], "ints:2", ("a", "b"), [[1, 1], [0, 1], [1, 0]]),
    ],
)
def test_cells_of_a_csv_say_one_class_or_several(
    tmp_path: Path, values: list[Any], kind: str, names: tuple[str, ...], stored: list[Any]
) -> None:
    rows = [{"path": path, "label": f'"{value}"'} for path, value in zip(NAMES, values, strict=False)]
    opened = table.read(write(tmp_path, "t.csv", rows), ReadOptions(val_fraction=0.0))
    assert opened.schema.columns["label"] == kind and opened.schema.names["label"] == names
    assert list(rows_of(opened, "label")["train"].values()) == stored


@pytest.mark.parametrize(
    ("values", "names", "stored"),
    [
        ([["red", "old"], [], ["old"]], ("old", "red"), [[1, 1], [0, 0], [1, 0]]),
        ([[0, 1, 1], [1, 0, 0], [0, 0, 0]], ("0", "1", "2"), [[0, 1, 1], [1, 0, 0], [0, 0, 0]]),
        ([[0, 2], [1], [2, 0]], ("0", "1", "2"), [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
    ],
)
def test_lists_and_vectors_become_a_bit_per_class(
    tmp_path: Path, values: list[Any], names: tuple[str, ...], stored: list[Any]
) -> None:
    path = write(tmp_path, "t.jsonl", column("tags", values))
    opened = table.read(path, ReadOptions(val_fraction=0.0))
    assert opened.schema.names["tags"] == names
    assert list(rows_of(opened, "tags")["train"].values()) == stored


def test_a_column_per_label_and_several_columns_of_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", column("red", [1, 0, 1], old=[0, 0, 1], label=["a", "b", "a"], cls=[5, 6, 5]))
    opened = table.read(path, ReadOptions(val_fraction=0.0, label_bits=("red", "old")))
    assert opened.schema.names == {"labels": ("red", "old")}
    assert list(rows_of(opened, "labels")["train"].values()) == [[1, 0], [0, 0], [1, 1]]
    assert "label and cls could each be the label; --label-column A" in refused(labels_of, path)
    for idle in ({"classes": ("x", "y")}, {"label_columns": ("label",)}):
        told = refused(table.read, path, ReadOptions(label_bits=("red", "old"), **idle))
        assert "--label-columns are the labels and their names; allowed without --label-column, --classes" in told
    both = table.read(path, ReadOptions(label_columns=("label", "cls")))
    assert both.schema.names == {"label": ("a", "b"), "cls": ("5", "6")}


def test_splits_by_column_by_table_and_drawn(tmp_path: Path) -> None:
    path = write(tmp_path / "c", "t.csv", column("label", ["a", "b", "a"], split=["Training", "train", "dev"]))
    assert labels_of(path) == {"train": {NAMES[0]: 0, NAMES[1]: 1}, "val": {NAMES[2]: 0}}
    write(tmp_path / "t", "train.csv", column("label", ["a", "b"]))
    (tmp_path / "t" / "test.csv").write_text(f"path\n{NAMES[5]}\n")
    (tmp_path / "t" / "sample_submission.csv").write_text("id,label\n")
    assert labels_of(tmp_path / "t") == {"train": {NAMES[0]: 0, NAMES[1]: 1}, "test": {NAMES[5]: None}}
    groups = [1, 1, 2, 2, 3, 3, 4, 4]
    path = write(tmp_path / "g", "t.csv", column("label", list("aabbaabb"), who=groups))
    found = labels_of(path, group_column="who", val_fraction=0.3, test_fraction=0.0)
    assert sorted(found["val"].values()) == [0, 0, 1, 1]
    who = dict(zip(NAMES, groups, strict=True))
    assert not {who[file] for file in found["val"]} & {who[file] for file in found["train"]}
    found = labels_of(path, val_fraction=0.25, test_fraction=0.25)
    assert {split: sorted(of.values()) for split, of in found.items()} == {
        "train": [0, 0, 1, 1], "val": [0, 1], "test": [0, 1]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"test_fraction": 0.9, "val_fraction": 0.9}, "--val 0.9 draws nothing"),
        ({"group_column": "who", "test_fraction": 0.2}, "--test 0.2 draws nothing"),
        ({"group_column": "who", "val_fraction": 0.1}, "--val 0.1 draws nothing"),
    ],
)
def test_a_part_that_draws_nothing_is_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    path = write(tmp_path, "t.csv", column("label", ["a", "a", "b", "b"], who=["x", "x", "y", "y"]))
    assert f"{told}, for no class has a second image, or group, to train on" in refused(labels_of, path, **options)
    options = {**options, "test_fraction": 0.0, "val_fraction": 0.0}
    assert labels_of(path, **options).keys() == {"train"}


def test_a_tsv_is_divided_at_tabs(tmp_path: Path) -> None:
    put(tmp_path, "0.jpg", "1.jpg")
    (tmp_path / "t.tsv").write_text("path\tlabel\ta note; or two, of it, all\n0.jpg\tx\t,\n1.jpg\ty\t;\n")
    assert labels_of(tmp_path / "t.tsv") == {"train": {"0.jpg": 0, "1.jpg": 1}}


def test_a_group_that_the_tables_own_splits_divide_is_refused(tmp_path: Path) -> None:
    splits, who = ["train", "train", "train", "test", "test", "test"], ["p1", "p2", "p3", "p2", "p3", "p4"]
    path = write(tmp_path / "a", "t.csv", column("label", list("ababab"), split=splits, who=who))
    told = refused(labels_of, path, group_column="who")
    assert (
        "column 'who': 2 groups in several splits, such as 'p2' in train and test; give the rows of a group one" in told
    )
    assert len(labels_of(path)) == 2
    write(tmp_path / "b", "train.csv", column("label", list("abab"), who=[1, 1, 2, 2]))
    (tmp_path / "b" / "test.csv").write_text(f"path,who\n{NAMES[5]},2\n")
    assert "1 group in several splits, such as '2' in train and test" in refused(
        labels_of, tmp_path / "b", group_column="who"
    )
    (tmp_path / "b" / "test.csv").write_text(f"path,who\n{NAMES[5]},\n")  # a blank cell is no group
    found = labels_of(tmp_path / "b", group_column="who", val_fraction=0.5)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 2, "val": 2, "test": 1}


def test_names_without_their_folder_are_found_below_it(tmp_path: Path) -> None:
    put(tmp_path / "images", "x.jpg", "y.jpg")
    (tmp_path / "t.csv").write_text("file_name,breed\nmissing.jpg,pug\nx.jpg,pug\ny.jpg,corgi\n")
    skipped = labels_of(tmp_path / "t.csv", "breed", label_columns=("breed",), skip_bad=True)
    assert skipped == {"train": {"images/x.jpg": 1, "images/y.jpg": 0}}
    (tmp_path / "t.csv").write_text("file_name,breed\nx.jpg,pug\ny.jpg,corgi\n")
    assert labels_of(tmp_path, "breed", label_columns=("breed",)) == {"train": {"images/x.jpg": 1, "images/y.jpg": 0}}


def test_paths_as_windows_writes_them_are_found(tmp_path: Path) -> None:
    put(tmp_path, "images/a/x.jpg", "images/b/y.jpg", "images/a\\z.jpg")
    (tmp_path / "t.csv").write_text("path,label\na\\x.jpg,a\nb\\y.jpg,b\na\\z.jpg,a\n")
    expected = {"images/a/x.jpg": 0, "images/b/y.jpg": 1, "images/a\\z.jpg": 0}
    assert labels_of(tmp_path / "t.csv") == {"train": expected}
    assert pack("table", tmp_path, tmp_path / "out", HEADER, ReadOptions(val_fraction=0.0)).splits == {"train": 3}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('["corgi", "pug", "boxer"]', None),
        ('{"0": "corgi", "1": ["n02110958", "pug"]}', None),
        ("corgi\npug\n", None),
        ("corgi\npug\npug\n", "'pug' stands twice"),
        ("corgi\nboxer\n", "1 image of classes that --classes lacks: 'pug' (1)"),
        ("corgi\n", "1 class; allowed: 2"),
        ("{}", "expected one class name a line"),
    ],
)
def test_a_file_of_classes_numbers_them(tmp_path: Path, content: str, told: str | None) -> None:
    path = write(tmp_path, "t.csv", column("label", ["pug", "corgi"]))
    classes = tmp_path / "classes.txt"
    classes.write_text(content)
    if told is not None:
        assert told in refused(labels_of, path, classes=classes)
        return
    assert list(labels_of(path, classes=classes)["train"].values()) == [1, 0]
    numbers = write(tmp_path, "n.csv", column("label", [1, 0]))
    assert list(labels_of(numbers, classes=classes)["train"].values()) == [1, 0]
    numbers = write(tmp_path, "n.csv", column("label", [1, 7]))
    assert "'7' (1)" in refused(labels_of, numbers, classes=classes)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (column("label", [0.5, 1.5]), "0.5 is a fraction; classes are words or whole numbers"),
        (column("label", ["a", "a"]), "1 class; allowed: 2 to 100,000"),
        (column("label", [None, None]), "no training image has a label"),
        (column("label", ["a", "b", None]), "1 row to train or validate on without a label; --unknown skip"),
        (column("label", [-1, 1]), "-1 is a negative number"),
        (column("label", ["a", "b", "c"], split=["train", "train", "test"]), "the training rows lack: 'c' (1)"),
        (column("colour", ["a", "b"]), "no column of labels: --label-column names it"),
        ([{"where": NAMES[0], "label": 1}], "no column of paths: --path-column names it; it has: where, label"),
        ([{"path": NAMES[0], "image": NAMES[0], "label": 1}], "path and image could each be the path"),
        (column("label", ["a", "b"], split=["train", "a b"]), "line 3: split 'a b' is not made of"),
        (
            [{"path": "https://x.org/a.jpg", "label": "a"}, {"path": NAMES[0], "label": "b"}],
            "is an address, not a file",
        ),
        ([{"path": "/etc/a.jpg", "label": "a"}, *column("label", ["b", "c"])], "lies outside of"),
        ([{"path": "../a.jpg", "label": "a"}, *column("label", ["b", "c"])], "leads out of"),
        (
            [{"path": NAMES[0], "label": "a"}, *column("label", ["b", "c"])],
            "line 3: 'i/0.jpg' is already in t.csv, line 2",
        ),
    ],
)
def test_what_a_table_gets_wrong_is_one_sentence(tmp_path: Path, rows: list[dict[str, Any]], told: str) -> None:
    path = write(tmp_path / "in", "t.csv", rows)
    assert told in refused(pack, "table", path, tmp_path / "out", HEADER)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", ["a\0.jpg", "\ud83d.jpg"])
def test_what_no_path_can_hold_is_one_sentence(tmp_path: Path, path: str) -> None:
    put(tmp_path, "0.jpg", "1.jpg")
    rows = [{"path": path, "label": "a"}, {"path": "0.jpg", "label": "a"}, {"path": "1.jpg", "label": "b"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert repr(path)[1:-5] in refused(pack, "table", tmp_path / "t.jsonl", tmp_path / "out", HEADER)
    options = ReadOptions(skip_bad=True, val_fraction=0.0)
    pack("table", tmp_path / "t.jsonl", tmp_path / "out", replace(HEADER, skip_bad=True), options)
    assert len((tmp_path / "out" / "rejected.csv").read_text().splitlines()) == 2


def test_bad_rows_are_left_out_and_listed_where_asked_for(tmp_path: Path) -> None:
    rows = [
        *column("label", ["a", "b", "a", "b", None]),
        {"path": "s3://x/y.jpg", "label": "a"}, {"path": "lost.jpg", "label": "a"}, {"path": NAMES[0], "label": "b"},
    ]  # fmt: skip
    path = write(tmp_path / "in", "t.csv", rows)
    assert "nothing was written; --skip-bad leaves such out" in refused(pack, "table", path, tmp_path / "out", HEADER)
    options = ReadOptions(val_fraction=0.0, skip_bad=True, unknown="skip")
    manifest = pack("table", path, tmp_path / "out", replace(HEADER, skip_bad=True), options)
    assert (manifest.splits, manifest.rejected) == ({"train": 4}, 4)
    listed = (tmp_path / "out" / "rejected.csv").read_text()
    assert all(f"line {line}" in listed for line in (6, 7, 8, 9))


def test_where_it_cannot_be_told_which_table_is_meant_it_is_asked(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", column("label", ["a", "b"]))
    write(tmp_path, "b.csv", column("label", ["a", "b"]))
    assert "holds 2 tables (a.csv, b.csv): --source FILE names one" in refused(labels_of, tmp_path)
    assert "holds no table" in refused(labels_of, tmp_path / "i")
    assert "is no table" in refused(labels_of, tmp_path / NAMES[0])


def test_a_table_without_labels_is_packed_where_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", [{"path": NAMES[0]}, {"path": NAMES[1]}])
    assert labels_of(path, labelled=False) == {"test": {NAMES[0]: None, NAMES[1]: None}}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.timestamp("ns"), [1, 2, 3, 4]),
        (pa.timestamp("us"), [2**62] * 4),
        (pa.date32(), [2**31 - 1] * 4),
        (pa.duration("s"), [2**62] * 4),
    ],
)
def test_times_that_python_has_no_values_for_are_a_column_that_no_set_holds(
    tmp_path: Path, kind: pa.DataType, values: list[int]
) -> None:
    put(tmp_path, "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    times, names = pa.array(values, kind), [f"{n}.jpg" for n in range(4)]
    pq.write_table(pa.table({"path": names, "label": ["a", "b"] * 2, "when": times}), tmp_path / "t.parquet")
    opened = table.read(tmp_path, ReadOptions())
    assert "when" not in opened.schema.columns and "columns that a set cannot hold: when" in opened.found
    assert "is no label" in refused(table.read, tmp_path, ReadOptions(label_columns=("when",)))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "0.jpg", "1.jpg")
    columns = [pa.array(["0.jpg", "1.jpg"]), pa.array(["a", "b"]), pa.array(["b", "a"])]
    pq.write_table(pa.table(columns, names=["path", "label", "label"]), tmp_path / "t.parquet")
    assert "two columns have one name" in refused(table.read, tmp_path, ReadOptions())


def test_labels_within_labels_are_no_traceback(tmp_path: Path) -> None:
    put(tmp_path, "0.jpg", "1.jpg")
    rows = [{"path": "0.jpg", "label": "[" * 700 + "]" * 700}, {"path": "1.jpg", "label": "b"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "is no label; labels are words" in refused(table.read, tmp_path, ReadOptions())


def table_of(sign: str, label: str = "grün", note: str = "x") -> str:
    rows = [sign.join(("path", "label", f'"{note}"')), sign.join(("a.png", label, f'"{note}"'))]
    return "\n".join([*rows, *(sign.join((f"{name}.png", "rot", f'"{note}"')) for name in "bcd")])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.csv", table_of("\t").encode("utf-16")),  # Excel's "Unicode text"
        ("excel.tsv", b"\xfe\xff" + table_of("\t").encode("utf-16-be")),
        ("commas.tsv", table_of("\t", note="a, b, c, d").replace('"', "").encode()),
        ("europe.csv", table_of(";", note="a, b, c, d").encode("utf-8-sig")),
        ("told.csv", b"sep=;\r\n" + table_of(";").encode()),
        ("lines.csv", table_of(",", note="one;\ntwo;;;").encode()),
        ("bars.csv", table_of("|").encode()),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / name).write_bytes(content)
    source = table.read(tmp_path / name, ReadOptions(val_fraction=0.0))
    assert source.schema.names["label"] == ("grün", "rot")
    assert len(list(source.records())) == 4


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", table_of(",").encode("latin-1"), "t.csv, line 1: not UTF-8: .*; save it as UTF-8, as by `iconv -f W"),
        ("t.jsonl", '{"path": "ä"}'.encode("latin-1"), "t.jsonl: not UTF-8: .*; save it as UTF-8, as by `iconv -f W"),
        ("t.csv", table_of(",").encode("utf-16")[:-1], "t.csv, line 5: not UTF-16, as it begins: truncated data"),
        ("t.csv", table_of(",", "a").encode("utf-16-le"), "t.csv, line 1: a zero byte, which no text has; save it as"),
        ("t.csv", table_of(",").encode() + b"\n" + bytes(9), "t.csv, line 6: a zero byte, which no text has"),
        ("t.jsonl", b'{"path": "a\\u0000.png", "label": 1}', "t.jsonl, line 1: 'a.x00.png' has a zero byte, which no"),
        ("t.csv", b'path,label\na.png,"5" x"\n', "t.csv, line 2: ',' expected after '\"'"),
    ],
)
def test_text_that_is_none_is_told_with_what_to_do(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    put(tmp_path, "a.png")
    (tmp_path / name).write_bytes(content)
    assert re.search(told, refused(table.read, tmp_path / name, ReadOptions()))
