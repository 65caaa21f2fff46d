from __future__ import annotations

import os
from pathlib import Path

import pytest
from sources import add_row, final_names, jpeg, write_csv_source

from shards import InputError, ReadOptions, RowsError, ShardSet, pack


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv_source(tmp_path / "deep_fashion", train=4, val=2, test=2)


def refused(source: Path, out: Path, dataset: str = "deep_fashion", options: ReadOptions | None = None) -> str:
    """The words with which packing refuses; nothing may be left behind."""
    with pytest.raises(InputError) as caught:
        pack(dataset, source, out, read_options=options)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("name", ["test.csv", "val.csv", "categories.txt"])
def test_a_file_that_may_be_lacking_is_not_left_out_for_being_something_else(
    source: Path, tmp_path: Path, name: str
) -> None:
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to("moved-away")
    assert f"{name} is a symbolic link to no file" in refused(source, tmp_path / "out")
    (source / name).unlink()
    (source / name).mkdir()
    assert f"{name} is a folder, where only a regular file is taken" in refused(source, tmp_path / "out")


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("deep_fashion/train/9999.jpg,1,0,1", "train/9999.jpg does not exist"),
        ("deep_fashion/train/0000.jpg,1,0,1", "'deep_fashion/train/0000.jpg' is already in train.csv, line 2"),
        ("deep_fashion/train/new.jpg,3,0,1", "category_label is '3', allowed: 0 to 2"),
        ("deep_fashion/train/new.jpg,-1,0,1", "category_label is '-1', allowed: 0 to 2"),
        ("deep_fashion/train/new.jpg,,0,1", "category_label is '', allowed: 0 to 2"),
        ("deep_fashion/train/new.jpg,1.0,0,1", "category_label is '1.0'"),
        ("deep_fashion/train/new.jpg,1,2,1", "attribute red is '2', allowed: 0, 1"),
        ("deep_fashion/train/new.jpg,1,0,", "attribute striped is '', allowed: 0, 1"),
        ("deep_fashion/train/new.jpg,1,0", "3 cells, 4 columns"),
        ("../../etc/passwd,1,0,1", "leads out of"),
        ("train/../../x.jpg,1,0,1", "leads out of"),
        ("/etc/passwd,1,0,1", "leads out of"),
        (f"train/{'k' * 250}.jpg,1,0,1", "at most 249 fit"),
        ("train/0000.JPG,1,0,1", "train/0000.JPG does not exist"),
        ("train/folder.jpg,1,0,1", "is not a file"),
        ("train/link.jpg,1,0,1", "is a symbolic link out of"),
        ("linked/0001.jpg,1,0,1", "behind a symbolic link"),
        ("train/loop.jpg,1,0,1", "cannot be read"),
        ("train/NEW.jpg,1,0,1", "differs from 'deep_fashion/train/new' only in case"),
        ("train/new.png,1,0,1", "is doubled"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(source: Path, tmp_path: Path, row: str, told: str) -> None:
    for name in ("new.jpg", "new.png", "NEW.jpg"):
        (source / "train" / name).write_bytes(jpeg(5))
    (source / "train" / "folder.jpg").mkdir()
    (source / "train" / "link.jpg").symlink_to("/etc/hostname")
    (source / "train" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "0001.jpg").write_bytes(jpeg(6))
    (source / "linked").symlink_to(tmp_path / "outside")
    if "only in case" in told or "doubled" in told:
        add_row(source, "deep_fashion/train/new.jpg,0,0,0")
        row = f"deep_fashion/{row}"
    line = add_row(source, row)
    words = refused(source, tmp_path / "out")
    assert told in words
    assert f"train.csv, line {line}" in words
    assert "1 bad row, nothing was written" in words


def test_all_bad_rows_are_counted_and_the_first_twenty_listed(source: Path, tmp_path: Path) -> None:
    for number in range(30):
        add_row(source, f"train/missing{number}.jpg,1,0,1")
    words = refused(source, tmp_path / "out")
    assert "30 bad rows, nothing was written; --skip-bad leaves such out and lists them\n" in words
    assert "missing0.jpg" in words
    assert "missing19.jpg" in words
    assert "missing20.jpg" not in words
    assert "and 10 more" in words


def test_links_inside_of_the_source_are_fine(source: Path, tmp_path: Path) -> None:
    (source / "train" / "link.jpg").symlink_to(source / "train" / "0001.jpg")
    add_row(source, "train/link.jpg,1,0,1")
    pack("deep_fashion", source, tmp_path / "out")
    assert ShardSet.open(tmp_path / "out").splits["train"] == 5


def test_a_source_that_is_itself_a_link_is_fine(source: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(source)
    pack("deep_fashion", tmp_path / "alias", tmp_path / "out")
    assert ShardSet.open(tmp_path / "out").splits["train"] == 4


@pytest.mark.fault(15)
def test_csv_dialects_are_read_right(source: Path, tmp_path: Path) -> None:
    """A byte-order mark, CRLF, quoted commas, blank lines, another order of columns."""
    name = 'odd, "name" v1.0.jpg'
    (source / "train" / name).write_bytes(jpeg(7))
    lines = ["striped,file_path,red,category_label", '1,"train/odd, ""name"" v1.0.jpg",0,2', "", "0,train/0001.jpg,1,0"]
    (source / "train.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")
    pack("deep_fashion", source, tmp_path / "out")
    split = ShardSet.open(tmp_path / "out").split("train")
    facts = split.columns("file_path", "category", "attributes")
    found = {facts["file_path"][i]: (facts["category"][i], facts["attributes"][i].tolist()) for i in range(2)}
    assert found == {f"train/{name}": (2, [1, 0]), "train/0001.jpg": (0, [0, 1])}
    assert sorted(split.keys) == ["train/0001", 'train/odd,%20"name"%20v1%2E0']


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (
            "train.csv",
            "path,category_label,red\n",
            "train.csv lacks the column file_path; it has: path, category_label",
        ),
        ("train.csv", "file_path,red\n", "lacks the column category_label"),
        ("train.csv", "", "lacks the columns file_path, category_label; it has: none"),
        ("val.csv", "file_path,category_label,red\n", "val.csv lacks the column striped"),
        ("val.csv", "file_path,category_label,red,striped,blue\n", "has the column 'blue', which train.csv lacks"),
        ("test.csv", "file\n", "test.csv lacks the column file_path"),
        ("train.csv", "file_path,category_label,red,red\n", "has the column 'red' twice"),
        ("train.csv", 'file_path,category_label\n"a,1\n', "unexpected end of data"),
    ],
)
def test_bad_columns_are_named(source: Path, tmp_path: Path, file: str, content: str, told: str) -> None:
    (source / file).write_text(content)
    assert told in refused(source, tmp_path / "out")


def test_a_csv_that_is_not_utf8_is_named_by_line(source: Path, tmp_path: Path) -> None:
    path = source / "val.csv"
    path.write_bytes(path.read_bytes() + "deep_fashion/val/é.jpg,1,0,1\n".encode("latin-1"))
    assert "val.csv, line" in refused(source, tmp_path / "out")


def test_sources_that_are_none_say_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for dataset in ("deep_fashion", "clipart", "fashion_mnist", "polyvore_outfits", "image_folder"):
        assert str(tmp_path / "empty") in refused(tmp_path / "empty", tmp_path / "out", dataset)
    assert "known: clipart, deep_fashion" in refused(tmp_path, tmp_path / "out", "deepfashion")


def test_a_csv_without_rows_is_told(source: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        path = source / f"{split}.csv"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    assert "holds no images" in refused(source, tmp_path / "out")


def test_unknown_categories_and_attributes_list_the_known(source: Path, tmp_path: Path) -> None:
    words = refused(source, tmp_path / "out", options=ReadOptions(categories=("coat", "sock")))
    assert "unknown category 'sock'; known: coat, hat, shoe" in words
    words = refused(source, tmp_path / "out", options=ReadOptions(attributes=("blue",)))
    assert "unknown attribute 'blue'; known: red, striped" in words


def test_chosen_categories_and_attributes_are_renumbered(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "out", read_options=ReadOptions(("shoe", "coat"), ("striped",)))
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.schema.names == {"category": ("shoe", "coat"), "attributes": ("striped",)}
    facts = shard_set.split("train").columns("row", "category", "attributes")
    assert dict(zip(facts["row"].tolist(), facts["category"].tolist(), strict=True)) == {0: 1, 2: 0, 3: 1}
    assert facts["attributes"].shape == (3, 1)


def test_rows_error_is_the_users_mistake_with_a_list() -> None:
    error = RowsError("x.csv", ["line 2: bad"])
    assert isinstance(error, InputError)
    assert str(error) == "x.csv: 1 bad row, nothing was written\n  line 2: bad"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(source: Path, tmp_path: Path) -> None:
    (source / "train" / "0001.jpg").chmod(0)
    with pytest.raises(InputError, match=r"0001\.jpg.*cannot be read"):
        pack("deep_fashion", source, tmp_path / "out")
    assert final_names(tmp_path / "out") == []
