"""What every reader promises, read back with webdataset, tarfile and DALI rather than with our own reader."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pyarrow.parquet as pq
import pytest
from layouts import Layout
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_expander

from shards import InputError, PackOptions, ReadOptions, RowsError, ShardSet, pack, readers
from shards.verify import verify

needs_photos = pytest.mark.skipif(not layouts.REAL.is_dir(), reason=f"{layouts.REAL} is not there")


@pytest.fixture(params=layouts.SMALL)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    return layouts.SMALL[request.param](tmp_path / "source" / request.param.split(",")[0])


def check_tars(out: Path, layout: Layout) -> None:
    """Keys, splits and facts by tarfile and by webdataset."""
    for split in ShardSet.open(out).splits:
        wanted = {key: facts for key, (of, facts) in layout.expected.items() if of == split}
        tars = sorted(out.glob(f"{split}-*.tar"))
        by_tarfile: dict[str, dict[str, object]] = {}
        for path in tars:
            with tarfile.open(path) as file:
                members = file.getmembers()
                assert members[0].name == "__shards__/schema.json"
                assert all((member.mtime, member.uid, member.isreg()) == (0, 0, True) for member in members)
                for image, facts in zip(members[1::2], members[2::2], strict=True):
                    key = facts.name.removesuffix(".json")
                    assert image.name.rpartition(".")[0] == key
                    content = file.extractfile(facts)
                    assert content is not None
                    by_tarfile[key] = json.loads(content.read())
        with contextlib.ExitStack() as files:  # webdataset.WebDataset itself leaves its files open
            streams = [{"url": str(path), "stream": files.enter_context(path.open("rb"))} for path in tars]
            samples = group_by_keys(tar_file_expander(iter(streams)))
            by_webdataset = {sample["__key__"]: json.loads(sample["json"]) for sample in samples}
        assert by_tarfile == by_webdataset
        assert by_tarfile.keys() == wanted.keys()
        for key, facts in wanted.items():
            assert {name: by_tarfile[key][name] for name in facts} == facts


def test_a_source_packs_to_what_it_says(small: Layout, tmp_path: Path) -> None:
    manifest = pack(small.dataset, small.source, tmp_path / "out", read_options=small.options)
    assert sum(manifest.splits.values()) == len(small.expected)
    assert manifest.rejected == 0
    check_tars(tmp_path / "out", small)
    assert verify(tmp_path / "out") == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dalis_own_reader_sees_every_sample_by_our_index(small: Layout, tmp_path: Path) -> None:
    from nvidia.dali import fn, types  # noqa: TID251 - their reader on our files is what is tested
    from nvidia.dali.pipeline import Pipeline  # noqa: TID251

    pack(small.dataset, small.source, tmp_path / "out", read_options=small.options)
    shard_set = ShardSet.open(tmp_path / "out")
    split = shard_set.split("train")
    extensions = "jpg;png;webp"
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        image, facts = fn.readers.webdataset(
            paths=[str(tmp_path / "out" / name) for name in split.shard_names if name.startswith("train")],
            index_paths=[
                str(tmp_path / "out" / name)[:-4] + ".idx" for name in split.shard_names if name.startswith("train")
            ],
            ext=[extensions, "json"],
            dtypes=[types.UINT8, types.UINT8],
        )
        pipeline.set_outputs(fn.decoders.image(image, device="cpu"), facts)
    pipeline.build()
    found = []
    for _ in range(len(split)):
        pixels, told = (output.at(0) for output in pipeline.run())
        found.append((pixels.shape[:2], json.loads(bytes(told))))
    names = list(shard_set.schema.columns)
    columns = pq.read_table(tmp_path / "out" / "index.parquet").slice(split.row0, len(split)).to_pylist()
    wanted = [((row["height"], row["width"]), {name: row[name] for name in names}) for row in columns]
    assert found == wanted


@needs_photos
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "mnist" in name else ()) for name in layouts.FULL]
)
def test_the_real_sources_pack_to_what_they_say(name: str, tmp_path: Path) -> None:
    layout = layouts.FULL[name](tmp_path)
    pack(name, layout.source, tmp_path / "out", PackOptions(check="header"), layout.options)
    check_tars(tmp_path / "out", layout)


def test_every_reader_is_found_by_its_file() -> None:
    assert {"deep_fashion", "polyvore_outfits", "clipart", "fashion_mnist", "image_folder", "synthetic"} <= set(
        readers.names()
    )
    for name in readers.names():
        assert readers.load(name).layout


def test_fashion_mnist_pixels_are_lossless_and_a_tenth_is_held_out(tmp_path: Path) -> None:
    layout = layouts.fashion_mnist(tmp_path / "source")
    manifest = pack("fashion_mnist", layout.source, tmp_path / "out", read_options=ReadOptions(val_fraction=0.25))
    assert manifest.splits == {"train": 30, "val": 10, "test": 7}
    shard_set = ShardSet.open(tmp_path / "out")
    assert sorted(shard_set.split("val").columns("label")["label"].tolist()) == list(range(10))  # stratified
    pixels = np.frombuffer(gzip.decompress((layout.source / "train-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    split = shard_set.split("val")
    rows = split.columns("row")["row"]
    for i in range(len(split)):
        data = (tmp_path / "out" / split.shard_names[split.shard[i]]).read_bytes()[split.offset[i] :][: split.size[i]]
        assert (np.asarray(Image.open(io.BytesIO(data))) == pixels.reshape(-1, 28, 28)[rows[i]]).all()


def test_idx_files_that_are_damaged_are_named(tmp_path: Path) -> None:
    source = layouts.fashion_mnist(tmp_path / "source").source
    labels = source / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    for content, told in (
        (whole[:-3], "was cut or changed"),
        (b"PK" + whole, "no IDX file"),
        (whole[:9] + b"\x0b" + whole[10:], "row 1: label 11, allowed: 0 to 9"),
        (whole[:7] + bytes([39]) + whole[8:-1], "40 images and 39 labels"),
    ):
        labels.write_bytes(content)
        with pytest.raises(InputError, match=told):
            pack("fashion_mnist", source, tmp_path / "out")
    labels.write_bytes(bytes([0, 0, 8, 1]) + (60_000).to_bytes(4, "big") + bytes(60_000))
    with pytest.raises(InputError, match="not as published: MD5"):
        list(readers.load("fashion_mnist").read(source, ReadOptions()).records())
    assert not (tmp_path / "out").exists()


def test_polyvore_tables_name_the_keys_by_the_value_of_index(tmp_path: Path) -> None:
    layout = layouts.polyvore(tmp_path / "source")
    pack("polyvore_outfits", layout.source, tmp_path / "out")
    shard_set = ShardSet.open(tmp_path / "out")
    outfits, lines, questions = (shard_set.table(n).to_pylist() for n in ("outfits", "compatibility", "questions"))
    assert outfits[0] == {
        "set_id": "900",
        "split": "train",
        "title": "Summer",
        "items": ["100", "101", "102", "103"],
        "indices": [7, 1, 3, 2],
    }
    assert lines[0] == {
        "split": "train",
        "line": 1,
        "label": 1,
        "items": ["100", "101"],
        "references": ["900_7", "900_1"],
    }
    assert lines[1]["items"] == ["103", "102", "100"]
    assert questions[2]["items"] == ["108"]
    assert questions[2]["answers"] == ["109", "110"]
    assert questions[2]["correct"] == 0
    with pytest.raises(InputError, match="no table 'pairs'; it has: compatibility, outfits, questions"):
        shard_set.table("pairs")


def test_polyvore_references_that_lead_nowhere_are_counted_and_listed(tmp_path: Path) -> None:
    source = layouts.polyvore(tmp_path / "source").source
    with (source / "disjoint" / "compatibility_test.txt").open("a") as file:
        file.write("1 902_7\n1 902_7 902_99\n")
    outfits = json.loads((source / "disjoint" / "train.json").read_bytes())
    outfits[0]["items"].append({"item_id": "777", "index": 9})
    (source / "disjoint" / "train.json").write_text(json.dumps(outfits))
    manifest = pack("polyvore_outfits", source, tmp_path / "out")
    assert manifest.rejected == 3
    told = (tmp_path / "out" / "rejected.csv").read_text()
    assert "compatibility_test.txt, line 3" in told
    assert "unknown reference '902_99'" in told
    assert "outfit 900 names item '777', which has no metadata" in told
    assert len(ShardSet.open(tmp_path / "out").table("compatibility")) == 6
    with pytest.raises(RowsError, match="3 bad rows"):
        pack("polyvore_outfits", source, tmp_path / "strict", read_options=ReadOptions(strict=True))
    assert not (tmp_path / "strict").exists()
    (source / "disjoint").rename(source / "nondisjoint")
    with pytest.raises(InputError, match="no folder disjoint; it has: nondisjoint"):
        pack("polyvore_outfits", source, tmp_path / "strict")
    pack("polyvore_outfits", source, tmp_path / "other", read_options=ReadOptions(variant="nondisjoint"))


def test_clipart_without_a_validation_folder_holds_out_a_part_of_every_class(tmp_path: Path) -> None:
    source = layouts.clipart(tmp_path / "source").source
    for path in (source / "valid" / "10").iterdir():
        path.unlink()
    (source / "valid" / "10").rmdir()
    (source / "valid").rmdir()
    manifest = pack("clipart", source, tmp_path / "out", read_options=ReadOptions(val_fraction=0.2))
    assert manifest.splits == {"train": 12, "val": 3, "test": 3}
    assert sorted(ShardSet.open(tmp_path / "out").split("val").columns("label")["label"].tolist()) == [0, 1, 2]
    assert manifest.converted == {"bmp": 3, "gif": 3}


def test_a_class_only_validation_has_is_refused(tmp_path: Path) -> None:
    source = layouts.clipart(tmp_path / "source").source
    layouts.put(source / "valid" / "11" / "0.png", layouts.image(1, "PNG"))
    layouts.put(source / "valid" / "loose.png", layouts.image(2, "PNG"))
    with pytest.raises(RowsError) as caught:
        pack("clipart", source, tmp_path / "out")
    assert "valid: 1 image of classes that the training folders lack: '11' (1); --unknown skip" in str(caught.value)
    assert "valid/loose.png: beside the class folders" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("Anno_coarse/list_category_img.txt", "   3\n", "   9\n", "line 3: category '9', allowed: 1 to 3"),
        ("Anno_coarse/list_category_img.txt", "6\n", "7\n", "announces 7 rows, there are 6"),
        ("Anno_coarse/list_category_img.txt", "6\n", "six\n", "'six' is no count of rows"),
        (
            "Anno_coarse/list_attr_img.txt",
            "  1  -1  0\n",
            "  1  -1\n",
            "line 3: 2 attributes, list_attr_cloth.txt has 3",
        ),
        ("Anno_coarse/list_attr_img.txt", "  1  -1  0\n", "  2  -1  0\n", "attribute '2', allowed: 1, -1, 0"),
        ("Anno_coarse/list_attr_img.txt", "img_00000001.jpg", "img_1.jpg", "where list_category_img.txt has"),
        ("Anno_coarse/list_bbox.txt", "  1 2 11 15", "  1 2 11", "list_bbox.txt, line 4: needs"),
        ("Eval/list_eval_partition.txt", "  val", "  dev", "line 5: 'dev', allowed: train, val, test"),
        ("Eval/list_eval_partition.txt", "img_00000005.jpg", "img_5.jpg", "is not in list_eval_partition.txt"),
    ],
)
def test_the_official_lists_are_checked_line_by_line(tmp_path: Path, file: str, old: str, new: str, told: str) -> None:
    source = layouts.benchmark(tmp_path / "source").source
    text = (source / file).read_text()
    assert old in text
    (source / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        pack("deep_fashion", source, tmp_path / "out")
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layout", "file", "line"), [
    (layouts.benchmark, "Anno_coarse/list_category_cloth.txt", 4),
    (layouts.benchmark, "Eval/list_eval_partition.txt", 5),
    (layouts.assignment, "categories.txt", 1), (layouts.polyvore, "categories.csv", 2),
    (layouts.polyvore, "disjoint/compatibility_train.txt", 1), (layouts.polyvore, "polyvore_item_metadata.json", 1),
])  # fmt: skip
def test_a_list_in_another_encoding_is_told(
    layout: Callable[[Path], layouts.Layout], file: str, line: int, tmp_path: Path
) -> None:
    """Latin-1, as older data sets have it."""
    made = layout(tmp_path / "source")
    lines = (made.source / file).read_bytes().split(b"\n")
    lines[line - 1] += b"Jean \xe9"
    (made.source / file).write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=r"not UTF-8|utf-8") as caught:
        pack(made.dataset, made.source, tmp_path / "out")
    assert Path(file).name in str(caught.value) and not (tmp_path / "out").exists()
