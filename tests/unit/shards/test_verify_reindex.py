from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
from sources import encoded, jpeg, picture, tree_hash, write_csv_source

from shards import DamageError, InputError, PackOptions, RowsError, ShardSet, pack
from shards.reindex import ReindexOptions, reindex
from shards.verify import verify


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    source = write_csv_source(tmp_path / "deep_fashion")
    pack("deep_fashion", source, tmp_path / "set", PackOptions(shard_mb=0.02))
    return tmp_path / "set"


def foreign(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.25
            file.addfile(info, io.BytesIO(content))
    return path


def test_a_whole_set_has_no_faults(packed: Path) -> None:
    assert verify(packed) == []
    assert verify(packed, workers=2) == []


def test_a_flipped_byte_is_found_and_named_by_key(packed: Path) -> None:
    split = ShardSet.open(packed).split("train")
    path = packed / split.shard_names[split.shard[3]]
    with path.open("rb+") as file:
        file.seek(int(split.offset[3]) + int(split.size[3]) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    told = [str(fault) for fault in verify(packed)]
    assert any("SHA-256" in line for line in told)
    assert any(repr(split.keys[3]) in line and "CRC" in line for line in told)
    assert len(told) == 2


def test_a_cut_tar_names_every_sample_that_is_lost(packed: Path) -> None:
    split = ShardSet.open(packed).split("val")
    path = packed / split.shard_names[split.shard[0]]
    os.truncate(path, int(split.offset[4]) + 5)
    faults = verify(packed)
    assert {fault.key for fault in faults if fault.key} == set(split.keys[4:])
    assert any("cut" in fault.reason for fault in faults)


def test_every_other_fault_has_words_too(packed: Path) -> None:
    def faults() -> str:
        return "\n".join(map(str, verify(packed)))

    train = sorted(packed.glob("train-*.tar"))
    shutil.copy(train[0], packed / "stranger-00000.tar")
    assert "stranger-00000.tar: a tar that the manifest does not know" in faults()
    (packed / "stranger-00000.tar").unlink()

    idx = train[0].with_suffix(".idx")
    idx.write_text(idx.read_text().replace("v1.2", "v1.1"))
    assert f"{idx.name}: is not the DALI index of its tar" in faults()
    idx.unlink()
    assert f"{idx.name}: is missing" in faults()

    kept = train[1].read_bytes()
    train[1].write_bytes(train[0].read_bytes())
    words = faults()
    assert "in the index, but not in the tar" in words
    assert "in the tar, but not in the index" in words
    train[1].unlink()
    assert f"{train[1].name}: does not exist" in faults()
    train[1].write_bytes(kept)

    (packed / "index.parquet").write_bytes(b"PAR1")
    assert "index.parquet: cannot be read" in faults()
    with pytest.raises(DamageError, match=r"--reindex"):
        _ = ShardSet.open(packed).split("train").offset


def test_reindexing_our_own_tars_gives_the_same_index(packed: Path, tmp_path: Path) -> None:
    before = ShardSet.open(packed)
    files = {path.name: path.read_bytes() for path in packed.iterdir() if path.name != "manifest.json"}
    for path in packed.iterdir():
        if path.suffix != ".tar":
            path.unlink()
    reindex(packed, workers=2)
    assert {path.name: path.read_bytes() for path in packed.iterdir() if path.name != "manifest.json"} == files
    after = ShardSet.open(packed)
    assert (after.data_hash, after.schema, after.splits) == (before.data_hash, before.schema, before.splits)
    assert after.manifest.dataset == "deep_fashion"
    assert verify(packed) == []


def test_foreign_tars_become_a_set_in_place(tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    facts = [
        {"cls_name": "a", "score": 1, "box": [1, 2], "deep": {"x": 1}},
        {"score": 0.5, "flag": True, "box": [3, 4]},
    ]
    members = []
    for n in range(2):
        members += [(f"d/{n}.jpg", jpeg(n)), (f"d/{n}.json", json.dumps(facts[n]).encode()), (f"d/{n}.cls", b"7\n")]
    foreign(folder / "shop-train-000000.tar", members, tarfile.PAX_FORMAT)
    foreign(folder / "shop-valid-000000.tar", [("9.png", encoded(picture(9), "PNG")), ("9.txt", b"ein Hut")])
    before = tree_hash(folder)
    manifest = reindex(folder)
    assert manifest.splits == {"train": 2, "val": 1}
    assert manifest.schema.columns == {
        "box": "ints:2",
        "cls_name": "str",
        "flag": "int",
        "label": "int",
        "score": "float",
        "text": "str",
    }
    assert manifest.options["dropped_facts"] == ["deep"]
    train = ShardSet.open(folder).split("train").columns("score", "label", "box", "flag", "cls_name")
    assert train["score"].tolist() == [1.0, 0.5]
    assert train["label"].tolist() == [7, 7]
    assert train["box"].tolist() == [[1, 2], [3, 4]]
    assert train["flag"].tolist() == [-1, 1]
    assert train["cls_name"].tolist() == ["a", None]
    assert ShardSet.open(folder).split("val").columns("text")["text"].tolist() == ["ein Hut"]
    assert verify(folder) == []
    for name in ("index.parquet", "manifest.json", "shop-train-000000.idx", "shop-valid-000000.idx"):
        (folder / name).unlink()
    assert tree_hash(folder) == before


def test_read_only_tars_are_indexed_from_elsewhere(tmp_path: Path) -> None:
    foreign(tmp_path / "theirs" / "a.tar", [("0.jpg", jpeg(0)), ("1.jpg", jpeg(1))])
    before = tree_hash(tmp_path / "theirs")
    reindex(tmp_path / "theirs", tmp_path / "ours")
    assert tree_hash(tmp_path / "theirs") == before
    split = ShardSet.open(tmp_path / "ours").split("train")
    with (split.tar_folder / split.shard_names[0]).open("rb") as file:
        assert os.pread(file.fileno(), int(split.size[1]), int(split.offset[1])) == jpeg(1)
    assert verify(tmp_path / "ours") == []


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    canary = pickle.dumps(_Canary(tmp_path / "sang"))
    members = [
        ("0.jpg", jpeg(0)),
        *((f"0.{kind}", canary) for kind in ("pkl", "pyd", "pth", "pickle", "npy", "json.pkl")),
    ]
    foreign(tmp_path / "f" / "a.tar", members)
    manifest = reindex(tmp_path / "f")
    assert verify(tmp_path / "f") == []
    assert manifest.options["ignored"] == {"json.pkl": 1, "npy": 1, "pickle": 1, "pkl": 1, "pth": 1, "pyd": 1}
    assert not (tmp_path / "sang").exists()
    pickle.loads(canary)  # the canary would have sung
    assert (tmp_path / "sang").exists()


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (tarfile.SYMTYPE, "0.jpg", "a symbolic link"),
        (tarfile.LNKTYPE, "0.jpg", "a hard link"),
        (tarfile.CHRTYPE, "0.jpg", "a character device"),
        (tarfile.BLKTYPE, "0.jpg", "a block device"),
        (tarfile.FIFOTYPE, "0.jpg", "a FIFO"),
        (tarfile.REGTYPE, "/etc/0.jpg", "starts with /"),
        (tarfile.REGTYPE, "../0.jpg", ".. part"),
        (tarfile.REGTYPE, "a/../../0.jpg", ".. part"),
        (tarfile.REGTYPE, "a\nb.jpg", "control character"),
    ],
)
def test_members_that_are_no_plain_files_refuse_the_tar(tmp_path: Path, kind: bytes, name: str, told: str) -> None:
    (tmp_path / "f").mkdir()
    with tarfile.open(tmp_path / "f" / "a.tar", "w", format=tarfile.USTAR_FORMAT) as file:
        good = tarfile.TarInfo("good.jpg")
        good.size = len(jpeg(0))
        file.addfile(good, io.BytesIO(jpeg(0)))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(InputError) as caught:
        reindex(tmp_path / "f")
    assert told in str(caught.value)
    assert "a.tar" in str(caught.value)
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["a.tar"]


def test_bad_foreign_samples_stop_or_are_listed(tmp_path: Path) -> None:
    members = [
        ("ok.jpg", jpeg(0)),
        ("gif.gif", encoded(picture(1), "GIF")),
        ("cut.jpg", jpeg(2)[:-9]),
        ("noimage.json", b"{}"),
        ("badjson.jpg", jpeg(3)),
        ("badjson.json", b"{"),
    ]
    foreign(tmp_path / "f" / "a.tar", members)
    with pytest.raises(RowsError) as caught:
        reindex(tmp_path / "f")
    for told in ("'gif': GIF", "'cut': a cut JPEG", "'noimage': a sample without an image", "'badjson': member"):
        assert told in str(caught.value)
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["a.tar"]
    manifest = reindex(tmp_path / "f", options=ReindexOptions(skip_bad=True))
    assert (manifest.splits, manifest.rejected) == ({"train": 1}, 4)
    assert verify(tmp_path / "f") == []


@pytest.mark.fault(15)
def test_doubled_foreign_keys_and_cut_tars_are_refused(tmp_path: Path) -> None:
    foreign(tmp_path / "f" / "a-0.tar", [("x.jpg", jpeg(0))])
    foreign(tmp_path / "f" / "a-1.tar", [("X.jpg", jpeg(1))])
    with pytest.raises(RowsError, match=r"a-1\.tar, key 'X': is doubled or differs only in case; see a-0\.tar"):
        reindex(tmp_path / "f")
    os.truncate(tmp_path / "f" / "a-1.tar", 700)
    with pytest.raises(RowsError, match=r"a-1\.tar.*cut"):
        reindex(tmp_path / "f")
    with pytest.raises(InputError, match=r"holds no \.tar files"):
        (tmp_path / "none").mkdir()
        reindex(tmp_path / "none")
