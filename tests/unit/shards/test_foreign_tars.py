"""Tars of others: which member is the image, where the label stands, and what is told and got round of what is odd."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import re
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from sources import jpeg, tree_hash

from fashion_dist.commands import pack as command
from fashion_dist.data import staging
from fashion_dist.data.shard_reader import ShardFiles
from shards import InputError, Manifest, ShardSet, pack
from shards.reindex import ReindexOptions, reindex
from shards.scan import Taking, scan
from shards.tar import Walk
from shards.verify import verify

SKIP = ReindexOptions(skip_bad=True)


def write(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def samples(*labels: Any, kind: str = "json", first: int = 0) -> list[tuple[str, bytes]]:
    """A picture each, and its label beside it."""
    found: list[tuple[str, bytes]] = []
    for number, label in enumerate(labels, first):
        found.append((f"{number:04d}.jpg", jpeg(number)))
        if label is not ...:
            content = json.dumps(label) if kind == "json" else str(label)
            found.append((f"{number:04d}.{kind}", content.encode()))
    return found


def labelled(label: str, **options: Any) -> ReindexOptions:
    return ReindexOptions(Taking(label), **options)


def column(folder: Path, name: str, split: str = "train") -> list[Any]:
    """A column, with the class names in place of their numbers."""
    shard_set = ShardSet.open(folder)
    names = shard_set.schema.names[name]
    values = shard_set.split(split).columns(name)[name].tolist()
    told = [[names[n] for n, bit in enumerate(v) if bit] if isinstance(v, list) else names[v] for v in values]
    assert verify(folder) == []
    return told


def reindexed(folder: Path) -> Path:
    reindex(folder)
    return folder


def refused(folder: Path, options: ReindexOptions | None = None) -> str:
    """The words with which indexing refuses; the folder is as it was."""
    before = tree_hash(folder)
    with pytest.raises(InputError) as caught:
        reindex(folder, options=options)
    assert tree_hash(folder) == before and not (folder / ".packing").exists()
    return str(caught.value)


# Labels


@pytest.mark.parametrize(
    ("label", "kind", "values", "name", "told"),
    [
        ("cls", "cls", ["cat", "dog", "cat"], "label", ["cat", "dog", "cat"]),
        ("cls", "cls", [7, 10, 7], "label", ["7", "10", "7"]),
        ("txt", "txt", ["cat\n", "dog", "cat"], "text", ["cat", "dog", "cat"]),
        ("kind", "json", [{"kind": "cat"}, {"kind": "dog"}], "kind", ["cat", "dog"]),
        ("a.b", "json", [{"a": {"b": 3}}, {"a": {"b": 5}}], "b", ["3", "5"]),
        ("a.b", "json", [{"a.b": 3}, {"a": {"b": 5}}], "b", ["3", "5"]),
        ("tags", "json", [{"tags": ["x", "y"]}, {"tags": []}, {"tags": ["y"]}], "tags", [["x", "y"], [], ["y"]]),
        ("hot", "json", [{"hot": [0, 1, 1]}, {"hot": [1, 0, 0]}], "hot", [["1", "2"], ["0"]]),
        ("size", "json", [{"size": "big"}, {"size": "small"}], "size_", ["big", "small"]),
    ],
)
def test_labels_in_words_numbers_and_lists_become_classes(
    tmp_path: Path, label: str, kind: str, values: list[Any], name: str, told: list[Any]
) -> None:
    write(tmp_path / "a.tar", samples(*values, kind=kind))
    reindex(tmp_path, options=labelled(label))
    assert column(tmp_path, name) == told


def test_what_webdataset_writes_is_a_set_and_the_command_says_how_to_train(tmp_path: Path) -> None:
    (tmp_path / "sets" / "pets").mkdir(parents=True)
    for split, labels in (("train", ["cat", "dog"] * 4), ("val", ["dog", "cat"])):
        with webdataset.ShardWriter(
            str(tmp_path / "sets" / "pets" / f"{split}-%04d.tar"), maxcount=5, verbose=0
        ) as sink:
            for number, label in enumerate(labels):
                sink.write({"__key__": f"{split}{number}", "jpg": jpeg(number), "cls": label.encode()})
    args = command.Args(reindex=(str(tmp_path / "sets" / "pets"),), label="cls", workers=1, home=str(tmp_path / "home"))
    done = command.main(args)
    assert "train 8, val 2 images; facts: label; 'label' has 2 classes" in done.headline
    where = f"--home {tmp_path / 'home'} --shards {tmp_path / 'sets'}"
    assert done.next["train on it"].endswith(f"--task classification --dataset pets {where}")
    assert column(tmp_path / "sets" / "pets", "label", "val") == ["dog", "cat"]
    (tmp_path / "sets" / "pets" / "val-0000.tar").unlink()
    assert "train on it" not in command.main(replace(args, val=0.0)).next, "launching would refuse it"


def test_classes_may_be_named_by_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples(1, 0, 1, kind="cls"))
    reindex(tmp_path, options=labelled("cls", classes=("cat", "dog")))
    assert column(tmp_path, "label") == ["dog", "cat", "dog"]
    write(tmp_path / "a.tar", samples(1, 0, 2, kind="cls"))
    assert "of classes that --classes lacks: '2' (1)" in refused(tmp_path, labelled("cls", classes=("cat", "dog")))


def test_img2datasets_side_tables_are_read_where_a_label_stands_there(tmp_path: Path) -> None:
    write(tmp_path / "00000.tar", samples(..., ..., ...))
    rows = {
        "key": ["0002", "0000", "0001"],
        "breed": ["pug", "corgi", "pug"],
        "caption": ["it"] * 3,
    }
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    manifest = reindex(tmp_path, options=labelled("breed"))
    assert column(tmp_path, "breed") == ["corgi", "pug", "pug"] and manifest.tables == {}
    before = manifest.data_hash
    pq.write_table(pa.table({**rows, "breed": ["corgi", "corgi", "pug"]}), tmp_path / "00000.parquet")
    assert reindex(tmp_path, options=labelled("breed")).data_hash != before
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 half of it")
    reindex(tmp_path)  # nothing of it is needed
    assert "00000.parquet, for the label 'breed', cannot be read" in refused(tmp_path, labelled("breed"))
    assert verify(tmp_path) == []


def test_labels_that_are_missing_or_unknown_are_told_and_got_round(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", samples({"x": "a"}, {"y": 1}, {"x": "b"}, {"x": float("nan")}))
    write(tmp_path / "test.tar", samples({"x": "c"}, {"y": 1}, first=9))
    assert "no sample has the label 'species'; --label can be: x, y" in refused(tmp_path, labelled("species"))
    told = refused(tmp_path, labelled("x"))
    assert "train.tar, key '0001': no label 'x'" in told and "key '0003'" in told and "2 bad rows" in told
    assert "that the training tars lack: 'c' (1); --unknown skip" in refused(tmp_path, labelled("x", skip_bad=True))
    manifest = reindex(tmp_path, options=labelled("x", skip_bad=True, unknown="skip"))
    assert (manifest.splits, manifest.rejected) == ({"train": 2, "test": 1}, 3)
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("label", "kind", "values", "column_of"),
    [
        ("txt", "txt", ["cat\n", "\n", "dog"], "text"),
        ("cls", "cls", ["cat\n", "\n", "dog"], "label"),
        ("y", "json", [{"y": "cat"}, {"y": " "}, {"y": "dog"}], "y"),
        ("y", "parquet", ["cat", " ", "dog"], "y"),
        ("y", "parquet", [0.0, float("nan"), 1.0], "y"),
    ],
)
def test_a_blank_label_is_none_wherever_it_stands(
    tmp_path: Path, label: str, kind: str, values: list[Any], column_of: str
) -> None:
    write(tmp_path / "train.tar", samples(*([...] * 3 if kind == "parquet" else values), kind=kind))
    write(tmp_path / "test.tar", samples(values[1], kind=kind, first=9) if kind != "parquet" else samples(..., first=9))
    if kind == "parquet":
        pq.write_table(pa.table({"key": ["0000", "0001", "0002"], label: values}), tmp_path / "train.parquet")
    told = refused(tmp_path, labelled(label))
    assert "1 bad row" in told and f"train.tar, key '0001': no label {label!r}" in told
    reindex(tmp_path, options=labelled(label, skip_bad=True))
    shard_set = ShardSet.open(tmp_path)
    assert shard_set.splits == {"train": 2, "test": 1} and len(column(tmp_path, column_of)) == 2
    assert shard_set.split("test").columns(column_of)[column_of].tolist() == [-1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([{"x": 0.5}, {"x": 1.5}], "1 times 0.5 is a fraction"),
        ([{"x": "a"}, {"x": "a"}], "1 class; allowed: 2 to 100,000"),
        ([{"x": {"y": 1}}, {"x": "a"}], "is no label; labels are words"),
        ([{"x": "[" * 700 + "]" * 700}, {"x": "a"}], "is no label; labels are words"),
    ],
)
def test_what_cannot_be_classes_is_refused(tmp_path: Path, values: list[Any], told: str) -> None:
    write(tmp_path / "a.tar", samples(*values))
    assert told in refused(tmp_path, labelled("x"))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([1, 2], pa.date32()), "{'date': '1970-01-02'}"),
        (pa.array([2**62] * 2, pa.timestamp("us")), "{'TimestampType': 'timestamp[us]'}"),  # after the year 9999
        (pa.array([b"a", b"b"]), "is no label; labels are words"),
    ],
)
def test_what_a_parquet_file_beside_has_and_json_has_not_is_no_label(
    tmp_path: Path, column: pa.Array, told: str
) -> None:
    write(tmp_path / "train.tar", samples(..., ...))
    pq.write_table(pa.table({"key": ["0000", "0001"], "x": column}), tmp_path / "train.parquet")
    assert told in refused(tmp_path, labelled("x"))


def test_half_a_character_in_a_label_is_one_class_that_verifies(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples({"x": "\ud800a"}, {"x": "b"}, {"x": "\ud800a"}))
    reindex(tmp_path, options=labelled("x"))
    assert column(tmp_path, "x") == ["\ufffda", "b", "\ufffda"] and verify(tmp_path) == []


# Images


def test_the_image_is_the_member_that_webdataset_takes(tmp_path: Path) -> None:
    members = [
        ("a.mask.png", jpeg(1)),
        ("a.jpg", jpeg(2)),
        ("a.json", b"{}"),
        ("b.depth.png", jpeg(3)),
        ("b.jpg", jpeg(4)),
    ]
    write(tmp_path / "a.tar", members)
    reindex(tmp_path)
    split = ShardSet.open(tmp_path).split("train")
    with tarfile.open(tmp_path / "a.tar") as file:
        offsets = {member.name: member.offset_data for member in file}
    assert split.offset.tolist() == [offsets["a.jpg"], offsets["b.jpg"]]


def test_several_images_of_a_sample_are_asked_about(tmp_path: Path) -> None:
    pairs = [(f"{n}.{side}.png", jpeg(10 * n + k)) for n in range(2) for k, side in enumerate(("left", "right"))]
    path = write(tmp_path / "a" / "a.tar", pairs)
    assert "a sample without an image; --image left.png takes left.png" in refused(path.parent)
    reindex(path.parent, options=ReindexOptions(Taking(image="right.png")))
    split = ShardSet.open(path.parent).split("train")
    with tarfile.open(path) as file:
        assert split.offset.tolist() == [file.getmember(f"{n}.right.png").offset_data for n in range(2)]
    assert verify(path.parent) == []
    write(path, [*pairs, ("0.cls", b"0"), ("1.cls", b"1")])
    told = refused(path.parent, labelled("cls"))
    assert "--image left.png takes left.png" in told and "--label can be" not in told, "the label is there"
    path = write(tmp_path / "b" / "a.tar", [("0.jpg", jpeg(0)), ("0.png", jpeg(1)), ("1.jpg", jpeg(2))])
    assert "several images, 0.jpg and 0.png: --image EXTENSION takes one" in refused(path.parent)


def test_members_that_nothing_needs_are_not_held(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [("0.jpg", jpeg(0)), ("0.npy", bytes(3 << 20)), ("0.seg.png", bytes(99))])
    largest = 0
    walk = Walk(path, lambda member: member.name == "0.jpg")
    read = walk._read

    def measured(file: Any, count: int) -> bytes:
        nonlocal largest
        largest = max(largest, count)
        return read(file, count)

    walk._read = measured  # type: ignore[method-assign]
    assert [len(content) for _, content in walk] == [len(jpeg(0)), 0, 0]
    assert largest <= 1 << 20
    assert scan(path, Taking(), path.name).sha256 == walk.sha256


# What is odd


def odd(folder: Path, kind: str) -> None:
    """A good tar, and one that is odd."""
    write(folder / "a.tar", samples(*[{"x": n} for n in range(3)]))
    other = samples({"x": 5}, {"x": 6}, first=5)
    path = write(folder / "b.tar", other)
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[:1300])
    elif kind == "no tar":
        path.write_bytes(b"<html>" + bytes(600))
    elif kind == "gzip inside":
        path.write_bytes(b"\x1f\x8b\x08\0" + bytes(600))
    elif kind == "gzip":
        path.rename(folder / "b.tar.gz")
    elif kind == "joined":
        path.write_bytes(content + write(folder / "c.tmp", samples(7, first=7)).read_bytes())
        (folder / "c.tmp").unlink()
    elif kind == "v7":
        members = "".join(f"{name}\n" for name, _ in other)
        for name, data in other:
            (folder / name).write_bytes(data)
        subprocess.run(["tar", "--format=v7", "-cf", path, "-C", folder, *members.split()], check=True)
        for name, _ in other:
            (folder / name).unlink()
    elif kind == "apart":
        write(path, sorted(other, key=lambda member: member[0].rpartition(".")[2], reverse=True))
    elif kind == "doubled inside":
        write(path, [*other, ("x.jpg", jpeg(9)), *other[:2]])
    elif kind == "doubled":
        write(path, samples({"x": 0}, {"x": 6}, {"x": 7}, first=2))
    elif kind == "link":
        with tarfile.open(path, "a") as file:
            info = tarfile.TarInfo("9.jpg")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(info)
    elif kind == "name":
        write(path, [*other, ("a\nb.jpg", jpeg(9)), ("\udcff.jpg", jpeg(8))], tarfile.GNU_FORMAT)
    elif kind == "no schema":
        write(path, [("__shards__/schema.json", b"{"), *other])


@pytest.mark.parametrize(
    ("kind", "told", "left"),
    [
        ("empty", "b.tar: byte 0: the tar is empty", 3),
        ("cut", "b.tar: byte 512, member '0005.jpg': the tar was cut", 3),
        ("no tar", "b.tar: byte 0: not a tar header", 3),
        ("gzip inside", "is compressed; `mv b.tar b.tar.gz && gunzip b.tar.gz`", 3),
        ("gzip", "b.tar.gz: samples are read where they lie, so unpack it: gunzip b.tar.gz", 3),
        ("joined", "b.tar: more follows its end at byte", 5),
        ("v7", "b.tar: an old V7 tar, which DALI does not read", 3),
        (
            "apart",
            "b.tar, key '0005': its members do not stand together; unpack the tar and pack it with `tar --sort",
            3,
        ),
        ("doubled inside", "b.tar, key '0005': the key is doubled: an earlier sample of this tar has it", 6),
        ("doubled", "b.tar, key '0002': is doubled or differs only in case; see a.tar; --prefix-keys", 5),
        ("link", "member '9.jpg', a symbolic link, is refused", 3),
        ("name", "has a control character", 5),
        ("no schema", "Expecting property name", 3),
    ],
)
def test_what_is_odd_is_told_with_its_tar_and_left_out_where_asked_for(
    tmp_path: Path, kind: str, told: str, left: int
) -> None:
    odd(tmp_path, kind)
    words = refused(tmp_path)
    assert told in words and "nothing was written; --skip-bad leaves such out" in words
    manifest = reindex(tmp_path, options=SKIP)
    assert sum(manifest.splits.values()) == left and manifest.rejected > 0
    assert "b.tar" in (tmp_path / "rejected.csv").read_text()
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "begins", "told"),
    [
        ("b.tar", lzma.compress(b"x"), "b.tar: byte 0: is compressed; `mv b.tar b.tar.xz && unxz b.tar.xz`"),
        ("b.tar", bz2.compress(b"x"), "b.tar: byte 0: is compressed; `mv b.tar b.tar.bz2 && bunzip2 b.tar.bz2`"),
        ("b.tar", b"\x28\xb5\x2f\xfd", "b.tar: byte 0: is compressed; `mv b.tar b.tar.zst && unzstd --rm b.tar.zst`"),
        (
            "b.tar",
            b"PK\x03\x04",
            "not a tar header but a zip archive: `unzip b.tar -d DIR`, and pack",
        ),
        (
            "b.tar",
            b"7z\xbc\xaf\x27\x1c",
            "not a tar header but a 7z archive: `7z x b.tar -oDIR`, and pack",
        ),
        ("b.tar", b"Rar!\x1a\x07\0" + bytes(600), "not a tar header but a rar archive: `unrar x b.tar DIR/`, and pack"),
        (
            "b.tar",
            b"\n<!doctype html>",
            "not a tar header but a web page, not what",
        ),
        (
            "b.tar",
            b"version https://git-lfs.github.com",
            "not a tar header but a pointer of Git LFS: `git lfs pull`",
        ),
        ("b.tar.gz", b"\x28\xb5\x2f\xfd", "b.tar.gz is compressed; `mv b.tar.gz b.tar.zst && unzstd --rm b.tar.zst`"),
        ("b.tgz", b"PK\x03\x04", "b.tgz not a tar header but a zip archive: `unzip b.tgz -d DIR`"),
    ],
)
def test_another_file_with_a_tars_name_is_told_as_what_it_is(
    tmp_path: Path, name: str, begins: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(begins)
    assert told in refused(tmp_path)


def test_the_advice_for_old_tars_works(tmp_path: Path) -> None:
    for kind in ("v7", "apart"):
        folder = tmp_path / kind
        odd(folder, kind)
        advice = "mkdir new && tar -xf b.tar -C new && tar --sort=name --format=ustar -cf b.tar -C new ."
        assert kind == "apart" or advice in refused(folder)
        subprocess.run(f"{advice} && rm -r new", shell=True, cwd=folder, check=True)
        assert reindex(folder).splits == {"train": 5}
        assert verify(folder) == []


def test_tars_that_number_their_samples_anew_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.tar", samples({"x": "u"}, {"x": "v"}))
    assert "--prefix-keys" in refused(tmp_path)
    reindex(tmp_path, options=ReindexOptions(Taking("x", prefix_keys=True)))
    assert list(ShardSet.open(tmp_path).split("train").keys) == ["a/0000", "a/0001", "b/0000", "b/0001"]
    assert column(tmp_path, "x") == ["u", "v", "u", "v"]


def test_what_is_told_of_keys_and_labels_is_so(tmp_path: Path) -> None:
    members = [("__a.jpg", jpeg(0)), ("__meta__/0.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("B.jpg", jpeg(3))]
    write(tmp_path / "train.tar", members)
    told = refused(tmp_path)
    assert "key 'B': is doubled or differs only in case; see train.tar" in told and "--prefix-keys" not in told
    write(tmp_path / "train.tar", members[:3])
    assert list(ShardSet.open(reindexed(tmp_path)).split("train").keys) == ["__a", "b"]  # as webdataset takes them
    both = [(f"{n}.{kind}", text) for n in "ab" for kind, text in (("cls", n.encode()), ("json", b'{"label": 1}'))]
    odd = write(tmp_path / "o[d]d {a,b}" / "train.tar", sorted([*both, ("a.jpg", jpeg(0)), ("b.jpg", jpeg(1))]))
    args = command.Args(reindex=(str(odd),), label="cls", home=str(tmp_path / "home"), workers=1)
    assert command.main(args).headline.endswith("facts: label; 'label' has 2 classes")


def test_odd_facts_verify(tmp_path: Path) -> None:
    facts = [{"f": float("nan"), "i": True, "m": 2**62 + 1, "s": "cut \ud83d"}, {"f": 1, "i": 3, "m": 0.5, "s": "x"}]
    write(tmp_path / "a.tar", samples(*facts))
    manifest = reindex(tmp_path)
    assert manifest.schema.columns == {"f": "float", "i": "int", "m": "float", "s": "str"}
    assert verify(tmp_path) == []


# Which tars


def test_tars_by_name_by_braces_and_in_folders(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"train-{number:03d}.tar", samples(..., first=10 * number))
    write(tmp_path / "more" / "val" / "0.tar", samples(..., ..., first=90))
    everything = reindex(tmp_path)
    assert everything.splits == {"train": 4, "val": 2}
    assert everything.shards[-1].name == "more/val/0.tar" and (tmp_path / "more--val--0.idx").is_file()
    assert verify(tmp_path) == [] and Manifest.load(tmp_path) == everything
    for names, count in (
        ([str(tmp_path / "train-{001..002}.tar")], 2),
        ([str(tmp_path / "train-{001,003}.tar"), str(tmp_path / "train-000.tar")], 3),
        ([str(tmp_path / "train-*.tar")], 4),
    ):
        manifest = reindex(names, tmp_path / "out")
        assert manifest.splits == {"train": count}
        assert verify(tmp_path / "out") == []
    for name, told in (
        (str(tmp_path / "train-{000..009}.tar"), "6 of 10 tars do not exist: train-004.tar"),
        (str(tmp_path / "train-000.tar.gz"), "1 of 1 tars do not exist"),
        ("https://x.org/a.tar", "is an address, not a file"),
    ):
        with pytest.raises(InputError, match=told):
            reindex([name], tmp_path / "new" / "out")
    with pytest.raises(InputError, match="no sample has the label 'x'"):
        reindex(tmp_path, tmp_path / "new" / "out", labelled("x"))
    assert not (tmp_path / "new").exists()


def test_a_set_in_folders_is_staged_whole(tmp_path: Path) -> None:
    write(tmp_path / "in" / "deep" / "0.tar", samples(..., ...))
    reindex(tmp_path / "in")
    split = ShardSet.open(tmp_path / "in").split("train")
    (tmp_path / "disk").mkdir()
    staged = staging.stage(split, str(tmp_path / "disk"))
    assert (staged.tar_folder / "deep" / "0.tar").read_bytes() == (tmp_path / "in" / "deep" / "0.tar").read_bytes()


def test_validation_is_held_out_of_tars_that_have_none(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    words = ["cat", "dog", "cat", "hen", "cat", "dog", "cat", "dog"] * 3
    write(tars / "a-000.tar", samples(*words[:14], kind="cls"))
    write(tars / "a-001.tar", samples(*words[14:], kind="cls", first=14))
    before = tree_hash(tars)
    out = [tmp_path / name for name in ("out", "again", "other")]
    made = [
        reindex(tars, folder, labelled("cls", val_fraction=0.25, seed=seed))
        for folder, seed in zip(out, (0, 0, 1), strict=True)
    ]
    assert tree_hash(tars) == before and made[0].names == ("a-000.tar", "a-001.tar")
    assert made[0].data_hash == made[1].data_hash != made[2].data_hash
    assert [shard.split for shard in Manifest.load(out[0]).shards] == ["train", "train", "val", "val"]
    held, kept = column(out[0], "label", "val"), column(out[0], "label")
    assert sorted(held) == ["cat", "cat", "cat", "dog", "dog", "hen"] and len(held) + len(kept) == 24
    there = [ShardSet.open(folder) for folder in out]
    keys = [[*one.split(split).keys] for one in there for split in ("train", "val")]
    assert not {*keys[0]} & {*keys[1]} and keys[1] == keys[3] != keys[5]
    for name in ("train", "val"):
        ShardFiles(there[0].split(name)).check()
    split = staging.stage(there[0].split("val"), str(tmp_path))
    with (split.tar_folder / split.shard_names[split.shard[0]]).open("rb") as file:
        file.seek(int(split.offset[0]))
        assert file.read(int(split.size[0])) == jpeg(int(keys[1][0]))
    tars.rename(tmp_path / "gone")
    advice = f"--reindex {tars} --out {out[2]} --label cls --val 0.25 --seed 1 makes a fitting index"
    with pytest.raises(InputError, match=re.escape(advice)):
        ShardFiles(there[2].split("train")).check()
    (tmp_path / "gone").rename(tars)
    assert reindex(tars, tmp_path / "whole", labelled("cls")).splits == {"train": 24}
    write(tars / "val.tar", samples("dog", kind="cls", first=90))
    assert reindex(tars, tmp_path / "own", labelled("cls", val_fraction=0.25)).splits["val"] == 1


def test_a_packed_set_is_not_replaced_by_an_index(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "raw" / name / f"{number}.jpg").write_bytes(jpeg(number))
    pack("image_folder", tmp_path / "raw", tmp_path / "set")
    write(tmp_path / "tars" / "a.tar", samples("cat", "dog", "cat", kind="cls"))
    before = tree_hash(tmp_path / "set")
    with pytest.raises(InputError, match=r"set is a packed set: --name or --out puts the index elsewhere"):
        reindex(tmp_path / "tars", tmp_path / "set")
    assert tree_hash(tmp_path / "set") == before
    for _ in range(2):  # an index takes an index's place, and a set's own tars are indexed beside themselves
        reindex(tmp_path / "tars", tmp_path / "index")
        reindex(tmp_path / "set")
    assert verify(tmp_path / "index") == verify(tmp_path / "set") == []
