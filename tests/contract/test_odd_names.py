"""Files whose names no other tool likes: packed, read by webdataset, tarfile and DALI, or listed by --skip-bad."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from odd_images import rgb, saved
from webdataset.tariterators import group_by_keys, tar_file_expander

from shards import InputError, PackOptions, ReadOptions, ShardSet, decode_key, pack
from shards.reindex import reindex
from shards.verify import verify

NAMES = [
    b"caf\xe9", "café".encode(), "Bildschirmfoto\u202f2024".encode(), b"line\nbreak", b"tab\t", "\u3000wide".encode(),
    "👩\u200d👩".encode(), b"no\xc2\xa0break", b"100%", b"a.b.c", b"x" * 140, ("ä" * 100).encode(), b"plain",
]  # fmt: skip


def jpeg(number: int) -> bytes:
    return saved(rgb().rotate(number), "JPEG")


def write_source(folder: Path, names: list[bytes]) -> Path:
    for of_class in (b"train/__init__", b"train/\xe9t\xe9"):
        place = os.path.join(os.fsencode(folder), of_class)  # noqa: PTH118 - paths of bytes
        os.makedirs(place)  # noqa: PTH103
        for number, name in enumerate(names):
            with open(os.path.join(place, name + b".jpg"), "wb") as file:  # noqa: PTH118, PTH123
                file.write(jpeg(number))
    return folder


def test_odd_names_are_kept_by_a_rule_that_every_reader_can_live_with(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "source", NAMES), tmp_path / "out"
    pack("image_folder", source, out, PackOptions(), ReadOptions(val_fraction=0, layout="splits"))
    split = ShardSet.open(out).split("train")
    wanted = {f"train/{c}/{os.fsdecode(name)}" for c in ("__init__", "\udce9t\udce9") for name in NAMES}
    assert {decode_key(key) for key in split.keys} == wanted
    assert set(split.schema.names["label"]) == {"__init__", "\ufffdt\ufffd"}
    assert verify(out) == []
    tars = sorted(out.glob("*.tar"))
    by_tarfile: set[str] = set()
    by_webdataset: set[str] = set()
    for path in tars:
        with tarfile.open(path) as tar:
            by_tarfile |= {name.removesuffix(".jpg") for name in tar.getnames() if name.endswith(".jpg")}
        with path.open("rb") as file:
            samples = group_by_keys(tar_file_expander(iter([{"url": str(path), "stream": file}])))
            by_webdataset |= {sample["__key__"] for sample in samples if "jpg" in sample}
    assert by_tarfile == by_webdataset == set(split.keys)
    for path in [*out.glob("*.idx"), *out.glob("*.parquet"), out / "manifest.json"]:
        path.unlink()
    reindex(out)
    assert verify(out) == []
    assert set(ShardSet.open(out).split("train").keys) == set(split.keys)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dalis_own_reader_finds_long_names(tmp_path: Path) -> None:
    from nvidia.dali import fn  # noqa: TID251 - their reader on our files is what is tested
    from nvidia.dali.pipeline import Pipeline  # noqa: TID251

    pack("image_folder", write_source(tmp_path / "source", NAMES), tmp_path / "out",
         PackOptions(), ReadOptions(val_fraction=0, layout="splits"))  # fmt: skip
    tars = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    for indexes in ([tar[:-4] + ".idx" for tar in tars], []):
        pipeline = Pipeline(batch_size=2 * len(NAMES), num_threads=1, device_id=None)
        with pipeline:
            files = fn.readers.webdataset(
                paths=tars, index_paths=indexes, ext=["jpg"], missing_component_behavior="skip"
            )
            pipeline.set_outputs(files)
        pipeline.build()
        (found,) = pipeline.run()
        assert sorted(found.at(i).tobytes() for i in range(len(found))) == sorted(
            2 * [jpeg(i) for i in range(len(NAMES))]
        )


def test_names_that_fit_nowhere_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "train" / "cat"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "A.jpg", "é" * 100 + ".jpg", "k" * 245 + ".jpg"):
        (folder / name).write_bytes(jpeg(1))
    source, options = tmp_path / "source", ReadOptions(val_fraction=0, layout="splits")
    (tmp_path / "source" / "train" / "dog").mkdir()
    (tmp_path / "source" / "train" / "dog" / "b.jpg").write_bytes(jpeg(2))
    with pytest.raises(InputError, match="at most 249 fit"):
        pack("image_folder", source, tmp_path / "out", PackOptions(), options)
    manifest = pack("image_folder", source, tmp_path / "out", PackOptions(skip_bad=True), options)
    assert manifest.rejected == 2
    assert "differs from" in (tmp_path / "out" / "rejected.csv").read_text()
    assert "at most 249 fit" in (tmp_path / "out" / "rejected.csv").read_text()
    assert verify(tmp_path / "out") == []
