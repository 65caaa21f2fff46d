"""A split that comes later: the set grows, and runs on it stay what they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from sources import jpeg, tree_hash, write_csv_source

from shards import InputError, PackOptions, ReadOptions, ShardSet, pack, staging
from shards.added import add_split
from shards.verify import verify

SMALL = PackOptions(shard_mb=0.002)


def write_tree(folder: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """A folder per class with so many pictures each."""
    for at, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            (folder / name / f"{n:03}.jpg").write_bytes(jpeg(10_000 * seed + 100 * at + n))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_tree(tmp_path / "raw", {"cat": 10, "dog": 10, "owl": 10})
    pack("image_folder", tmp_path / "raw", tmp_path / "set", SMALL)
    return tmp_path / "set"


def tars(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def test_a_test_split_is_added_and_nothing_else_changes(out: Path, tmp_path: Path) -> None:
    before, set_before = tars(out), ShardSet.open(out)
    rows = {name: list(set_before.split(name).keys) for name in ("train", "val")}
    add_split(out, "test", write_tree(tmp_path / "new", {"dog": 3, "owl": 2}, seed=1))
    after = ShardSet.open(out)
    assert after.splits == {**set_before.splits, "test": 5} and before.items() <= tars(out).items()
    assert {name: list(after.split(name).keys) for name in rows} == rows
    test = after.split("test")
    named = dict(zip(test.columns("file")["file"], test.columns("label")["label"].tolist(), strict=True))
    assert named["test/dog/000.jpg"] == 1 and named["test/owl/001.jpg"] == 2  # the set's numbers, not the folder's
    assert verify(out) == [] and not (out / ".packing").exists()
    assert after.data_hash != set_before.data_hash and after.training_hash == set_before.training_hash


def test_what_runs_have_noted_stays_valid(out: Path, tmp_path: Path) -> None:
    """Also what they noted when the whole set was part of a run, test split included."""
    noted = [ShardSet.open(out).data_hash]
    for seed in (1, 2, 3):
        add_split(out, "test", write_tree(tmp_path / f"t{seed}", {"dog": seed}, seed), replace=seed > 1)
        noted.append(ShardSet.open(out).data_hash)
    assert len(set(noted)) == 4 and all(ShardSet.open(out).manifest.learned_as(one) for one in noted)
    write_tree(tmp_path / "raw", {"cat": 11, "dog": 10, "owl": 10})
    pack("image_folder", tmp_path / "raw", out, SMALL, replace=True)
    assert not any(ShardSet.open(out).manifest.learned_as(one) for one in noted)


def test_packing_anew_with_another_test_split_orphans_nobody(tmp_path: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion")
    noted = pack("deep_fashion", source, tmp_path / "set").data_hash
    (source / "test" / "0001.jpg").write_bytes(jpeg(77))
    pack("deep_fashion", source, tmp_path / "set", replace=True)
    assert ShardSet.open(tmp_path / "set").manifest.learned_as(noted)
    (source / "train" / "0001.jpg").write_bytes(jpeg(78))
    pack("deep_fashion", source, tmp_path / "set", replace=True)
    assert not ShardSet.open(tmp_path / "set").manifest.learned_as(noted)


def test_a_flat_folder_has_no_labels(out: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for n in range(4):
        (tmp_path / "new" / f"{n}.jpg").write_bytes(jpeg(500 + n))
    add_split(out, "later", tmp_path / "new")
    later = ShardSet.open(out).split("later")
    assert sorted(later.columns("file")["file"]) == [f"later/{n}.jpg" for n in range(4)]
    assert set(later.columns("label")["label"].tolist()) == {-1}


def test_of_a_whole_source_the_split_of_that_name_is_taken(tmp_path: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion", test=0)
    pack("deep_fashion", source, tmp_path / "set")
    assert "test" not in ShardSet.open(tmp_path / "set").splits
    write_csv_source(tmp_path / "again" / "deep_fashion", test=5)
    add_split(tmp_path / "set", "test", tmp_path / "again" / "deep_fashion")
    whole = pack("deep_fashion", tmp_path / "again" / "deep_fashion", tmp_path / "whole")
    assert ShardSet.open(tmp_path / "set").data_hash == whole.data_hash


@pytest.mark.parametrize("moment", ["tars", "index"])
def test_killed_while_a_split_is_replaced_it_goes_on(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    add_split(out, "test", write_tree(tmp_path / "old", {"dog": 6}, seed=1))
    add_split(out, "zoo", write_tree(tmp_path / "zoo", {"cat": 4}, seed=3))
    real, count = Path.replace, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal count
        if Path(target).parent == out and Path(target).name != "manifest.json":
            count += 1
            if (Path(target).name == "index.parquet") if moment == "index" else count == 2:
                real(self, target)
                raise KeyboardInterrupt
        return real(self, target)

    new = write_tree(tmp_path / "new", {"owl": 3, "cat": 2}, seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            add_split(out, "test", new, replace=True)
    with pytest.raises(InputError, match=rf"half packed.* --name {out.name} --add SPLIT=DIR --out {out}$"):
        ShardSet.open(out)
    add_split(out, "test", new, replace=True)
    assert ShardSet.open(out).splits == {"train": 27, "val": 3, "zoo": 4, "test": 5} and verify(out) == []


@pytest.mark.parametrize(
    ("split", "classes", "message"),
    [
        ("Test", {"dog": 1}, "lower case"),
        ("val", {"dog": 1}, "has a split 'val' of 3 images; --replace"),
        ("test", {"fox": 1}, "label has fox, which the set has not; it has cat, dog, owl"),
    ],
)
def test_what_is_refused_changes_nothing(
    out: Path, tmp_path: Path, split: str, classes: dict[str, int], message: str
) -> None:
    before = tree_hash(out)
    with pytest.raises(InputError, match=message):
        add_split(out, split, write_tree(tmp_path / "new", classes, seed=1))
    assert tree_hash(out) == before


def test_what_runs_learn_from_is_not_replaced_and_no_set_does_not_grow(out: Path, tmp_path: Path) -> None:
    new = write_tree(tmp_path / "new", {"dog": 1})
    with pytest.raises(InputError, match="runs learn from 'val'"):
        add_split(out, "val", new, replace=True)
    with pytest.raises(InputError, match="no packed set"):
        add_split(tmp_path / "nothing", "test", new)
    assert not (tmp_path / "nothing").exists() and staging.BEFORE not in {p.name for p in out.iterdir()}


def table_set(folder: Path, rows: list[str], **options: Any) -> Path:
    """A set of a table whose first line names its columns; each row's picture is the first cell."""
    pack("table", table_of(folder, rows), folder / "set", SMALL, ReadOptions(**options))
    return folder / "set"


def table_of(folder: Path, rows: list[str], seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, row in enumerate(rows[1:]):
        (folder / row.partition(",")[0]).write_bytes(jpeg(1000 * seed + n))
    (folder / "t.csv").write_text("\n".join(rows))
    return folder / "t.csv"


def test_class_names_are_the_sets_whatever_their_file_says_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("cat\ndog\neel\n")
    rows = ["path,label", *(f"{n}.jpg,{n % 2}" for n in range(8))]
    folder = table_set(tmp_path / "raw", rows, classes=Path("names.txt"))
    new = table_of(tmp_path / "new", ["path,label", "0.jpg,1", "1.jpg,0", "2.jpg,2"], seed=1)
    Path("names.txt").write_text("dog\ncat\neel\n")
    add_split(folder, "test", new)
    Path("names.txt").unlink()
    add_split(folder, "later", new)
    for split in ("test", "later"):
        told = ShardSet.open(folder).split(split).columns("file", "label")
        assert dict(zip(told["file"], told["label"].tolist(), strict=True)) == {
            f"{split}/0.jpg": 1, f"{split}/1.jpg": 0, f"{split}/2.jpg": 2,
        }  # fmt: skip


TAGS = ["path,tags,price", "0.jpg,x|y,0.5", "1.jpg,x,1.5", "2.jpg,y,2.5", "3.jpg,x|y,3.5"]
ONE = ["path,label,price", *(f"{n}.jpg,{'ab'[n % 2]},{n}.5" for n in range(4))]


@pytest.mark.parametrize(
    ("rows", "new", "label", "told"),
    [
        (TAGS, ["path,tags,price", "0.jpg,y,1", "1.jpg,x,2"], "tags", [[0, 1], [1, 0]]),
        (TAGS, ["path,tags,price", "0.jpg,,1", "1.jpg,,2"], "tags", [[-1, -1], [-1, -1]]),
        (TAGS, ["path,price", "0.jpg,1.5", "1.jpg,2"], "tags", [[-1, -1], [-1, -1]]),
        (ONE, ["path,label,price", "0.jpg,b,1.5", "1.jpg,b,2"], "label", [1, 1]),
        (ONE, ["path,label,price", "0.jpg,,1.5", "1.jpg,a,2"], "label", [-1, 0]),
        (ONE, ["path,price", "0.jpg,1.5", "1.jpg,2.5"], "label", [-1, -1]),
        (ONE, ["path,label,price,split", "8.jpg,,1,train", "9.jpg,b,2,test"], "label", [1]),
    ],
)
def test_a_table_that_comes_later_is_read_as_the_set_was(
    tmp_path: Path, rows: list[str], new: list[str], label: str, told: list[Any]
) -> None:
    folder = table_set(tmp_path / "raw", rows)
    add_split(folder, "test", table_of(tmp_path / "new", new, seed=1))
    found = ShardSet.open(folder).split("test").columns("row", label, "price")
    assert [value for _, value in sorted(zip(found["row"].tolist(), found[label].tolist(), strict=True))] == told
    assert verify(folder) == []


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (["path,label,price,hue", "0.jpg,a,cheap,3"], "price (str here, float in the set), hue (int here, none in the"),
        (["path,label", "0.jpg,a"], "t.csv has other columns than the set: price (none here, float in the set)"),
        (["path,label,price", "0.jpg,a|b,1"], "label (ints:2 here, int in the set)"),
        (["path,label,price", "0.jpg,c,1"], "label has c, which the set has not; it has a, b"),
    ],
)
def test_a_table_that_does_not_fit_is_told_by_what_differs(tmp_path: Path, new: list[str], told: str) -> None:
    folder = table_set(tmp_path / "raw", ONE)
    before = tree_hash(folder)
    with pytest.raises(InputError, match=re.escape(told)):
        add_split(folder, "test", table_of(tmp_path / "new", new, seed=1))
    assert tree_hash(folder) == before


def test_a_source_that_is_not_there_is_told_of_any_layout(out: Path, tmp_path: Path) -> None:
    rows = ["path,label", *(f"{n}.jpg,{'cat' if n % 2 else 'dog'}" for n in range(8))]
    pack("table", table_of(tmp_path / "old", rows), tmp_path / "table")
    for there in (out, tmp_path / "table"):
        with pytest.raises(InputError, match=r"nowhere does not exist$"):
            add_split(there, "test", tmp_path / "nowhere")


def test_labels_in_columns_may_be_absent_and_a_set_without_labels_grows(tmp_path: Path) -> None:
    bits = table_set(tmp_path / "bits", ["path,x,y", "0.jpg,1,0", "1.jpg,0,1"], label_bits=("x", "y"), val_fraction=0)
    none = table_set(tmp_path / "none", ["path,hue", "0.jpg,3", "1.jpg,4"], labelled=False)
    new = table_of(tmp_path / "new", ["path", "0.jpg"], seed=1)
    add_split(bits, "test", new)
    assert ShardSet.open(bits).split("test").columns("labels")["labels"].tolist() == [[-1, -1]]
    add_split(none, "later", table_of(tmp_path / "newer", ["path,hue", "0.jpg,5"], seed=2))
    assert ShardSet.open(none).split("later").columns("hue")["hue"].tolist() == [5]


def test_a_readme_beside_pictures_is_left_out_and_a_table_is_not(out: Path, tmp_path: Path) -> None:
    new = write_tree(tmp_path / "new", {"": 2}, seed=1)
    (new / "readme.txt").write_text("released")
    add_split(out, "test", new)
    assert ShardSet.open(out).splits["test"] == 2
    (new / "labels.csv").write_text("path,label")
    with pytest.raises(InputError):
        add_split(out, "later", new)


def test_what_is_left_out_again_is_counted_once(out: Path, tmp_path: Path) -> None:
    new = write_tree(tmp_path / "new", {"": 2}, seed=1)
    (new / "bad.jpg").write_bytes(b"none")
    for replace, count in ((False, 1), (True, 1), (True, 2)):
        add_split(out, "test", new, replace=replace, skip_bad=True)
        assert ShardSet.open(out).manifest.rejected == count == len((out / "rejected.csv").read_text().splitlines()) - 1
        if replace:
            (new / "worse, by far.jpg").write_bytes(b"none")
    assert verify(out) == []


def test_one_class_in_a_source_of_folders(out: Path, tmp_path: Path) -> None:
    add_split(out, "test", write_tree(tmp_path / "new" / "test", {"dog": 2}, seed=1).parent)
    assert ShardSet.open(out).split("test").columns("label")["label"].tolist() == [1, 1]
