"""A split that comes later: the set grows, and runs on it stay what they are."""

from __future__ import annotations

import hashlib
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
    with pytest.raises(InputError, match="half packed"):
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
