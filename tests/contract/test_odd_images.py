"""Every kind of picture through packing, re-indexing and training's decoder."""

from __future__ import annotations

import io
import shutil
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import odd_images
import pytest
from PIL import Image, ImageOps

from fashion_dist.data import preprocessing
from fashion_dist.data.dali import Decoder, open_check
from fashion_dist.report.dataset_card import write_card
from shards import InputError, PackOptions, ShardSet, pack
from shards.reindex import ReindexOptions, reindex
from shards.verify import verify

KINDS = odd_images.kinds()
NUMBERS = {name: number for number, name in enumerate(KINDS)}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "shard-format.md"


def write_source(folder: Path) -> Path:
    (folder / "train").mkdir(parents=True)
    lines = ["file_path,category_label"]
    for name, kind in KINDS.items():
        (folder / "train" / f"{NUMBERS[name]}.jpg").write_bytes(kind.data)
        lines.append(f"train/{NUMBERS[name]}.jpg,0")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("odd") / "source")


def packed(source: Path, out: Path, **options: object) -> dict[str, tuple[bytes, int, int]]:
    """By kind: the stored bytes, width and height."""
    chosen = PackOptions(skip_bad=True, **options)  # type: ignore[arg-type]
    pack("deep_fashion", source, out, chosen, open_decoder=open_check)
    return dict(stored(out))


def stored(out: Path) -> Iterator[tuple[str, tuple[bytes, int, int]]]:
    split = ShardSet.open(out).split("train")
    names = list(KINDS)
    for row, key in enumerate(split.keys):
        with (split.tar_folder / split.shard_names[split.shard[row]]).open("rb") as file:
            file.seek(split.offset[row])
            content = file.read(split.size[row]), int(split.width[row]), int(split.height[row])
        yield names[int(key.removeprefix("train/"))], content


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    packed(source, out)
    return out


def seen(images: dict[str, tuple[bytes, int, int]]) -> dict[str, np.ndarray]:
    """What training decodes, by kind: uint8 [height, width, 3]."""
    decoder = Decoder(len(images), 2)
    boxes = np.array([[0, 0, width, height] for _, width, height in images.values()], np.int32)
    decoder.start([np.frombuffer(data, np.uint8) for data, _, _ in images.values()], boxes)
    pixels, wrong = decoder.finish()
    names = list(images)
    assert {names[number]: told for number, told in wrong.items()} == {}
    return {name: pixels(number) for number, name in enumerate(names)}


def wanted(name: str) -> np.ndarray:
    """What is to be seen: what the table says, or Pillow's upright RGB."""
    kind = KINDS[name]
    if kind.pixels is not None:
        return kind.pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Image.open(io.BytesIO(kind.data))
        file.load()
        return np.asarray((file.convert("LA") if file.mode == "La" else upright(file)).convert("RGB"))


def upright(file: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(file)
    except Exception:
        return file


def test_each_kind_is_packed_as_the_table_says(plain: Path) -> None:
    found = dict(stored(plain))
    what = {
        name: "refused" if name not in found else "kept" if found[name][0] == kind.data else "png"
        for name, kind in KINDS.items()
    }
    assert what == {name: kind.packed for name, kind in KINDS.items()}
    listed = (plain / "rejected.csv").read_text()
    for name, kind in KINDS.items():
        assert (f"/{NUMBERS[name]}.jpg (" in listed) == (kind.packed == "refused")
    converted = ShardSet.open(plain).manifest.converted
    assert sum(converted.values()) == sum(kind.packed == "png" for kind in KINDS.values())
    assert converted["animated png"] == 2
    assert converted["animated gif"] == 1


def test_training_sees_what_pillow_shows(plain: Path) -> None:
    for name, pixels in seen(dict(stored(plain))).items():
        expected = wanted(name)
        assert pixels.shape == expected.shape, name
        assert np.abs(pixels.astype(int) - expected).max() <= 1, name


def test_the_rule_is_the_same_when_resized(source: Path, tmp_path: Path) -> None:
    small = packed(source, tmp_path / "out", resize_px=10)
    assert small.keys() == {name for name, kind in KINDS.items() if kind.packed != "refused"}
    for name, pixels in seen(small).items():
        height, width = pixels.shape[:2]
        expected = Image.fromarray(wanted(name)).resize((width, height), Image.Resampling.BICUBIC)
        lossless = small[name][0][:4] == b"\x89PNG"
        # A few values of rounding for deep gray and subsampled JPEG, where a white or black ground would be a hundred.
        assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < (2 if lossless else 12), name


def test_transparent_pixels_lie_over_the_background(source: Path, plain: Path, tmp_path: Path) -> None:
    over = packed(source, tmp_path / "out", background="white")
    kept, changed = dict(stored(plain)), set()
    for name, pixels in seen(over).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if KINDS[name].group.endswith(", damaged"):
                continue
            file = Image.open(io.BytesIO(KINDS[name].data))
            file.load()
            if over[name][0] == kept[name][0] or file.mode.startswith("I"):
                continue
            layer = (file.convert("LA") if file.mode == "La" else file).convert("RGBA")
        expected = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        assert np.abs(pixels.astype(int) - np.asarray(expected)).max() <= 1, name
        changed.add(name)
    see_through = {name for name in over if "ransparent" in name or "RGBA" in name or "alpha" in name} | {"png, LA"}
    assert see_through - changed == {"png, opaque alpha"}
    assert ShardSet.open(tmp_path / "out").manifest.options["background"] == "white"


@pytest.mark.parametrize("options", [{}, {"resize_px": 10, "background": "#00f"}])
def test_a_run_and_an_archive_see_what_training_sees(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    trained = seen(packed(source, tmp_path / "out", **options))
    for name in KINDS:
        path = source / "train" / f"{NUMBERS[name]}.jpg"
        if name not in trained:
            with pytest.raises(OSError, match=r"."):
                preprocessing.open_picture(path, {"packed": options})
            continue
        pixels = np.asarray(preprocessing.open_picture(path, {"packed": options}))
        assert pixels.shape == trained[name].shape and np.abs(trained[name].astype(int) - pixels).max() <= 1, name


def test_all_values_of_deep_gray_are_rounded_alike(tmp_path: Path) -> None:
    """One by training's decoder, by packing and by a run."""
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    file = tmp_path / "deep.png"
    Image.fromarray(pixels).save(file)
    expected = (np.rint(pixels / 257)).astype(np.uint8)
    assert (seen({"deep": (file.read_bytes(), 256, 256)})["deep"][..., 0] == expected).all()
    assert (np.asarray(preprocessing.open_picture(file))[..., 0] == expected).all()


def test_what_was_packed_verifies_and_can_be_indexed_anew(plain: Path, tmp_path: Path) -> None:
    assert verify(plain) == []
    shutil.copytree(plain, tmp_path / "again", ignore=shutil.ignore_patterns("*.json", "*.parquet", "*.idx", "*.csv"))
    reindex(tmp_path / "again")
    assert verify(tmp_path / "again") == []
    assert dict(stored(tmp_path / "again")) == dict(stored(plain))
    assert write_card(plain).is_file()


def test_tars_of_others_are_indexed_as_the_table_says(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    with tarfile.open(tmp_path / "theirs" / "train.tar", "w") as tar:
        for name, kind in KINDS.items():
            member = tarfile.TarInfo(f"train/{NUMBERS[name]}.jpg")
            member.size = len(kind.data)
            tar.addfile(member, io.BytesIO(kind.data))
    reindex(tmp_path / "theirs", options=ReindexOptions(skip_bad=True))
    taken = {name for name, kind in KINDS.items() if kind.packed == "kept" or kind.unseen}
    found = dict(stored(tmp_path / "theirs"))
    assert found.keys() == taken
    assert verify(tmp_path / "theirs") == []
    assert write_card(tmp_path / "theirs").is_file()  # though some of them do not decode


def test_the_first_bad_image_is_named_without_skip_bad(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train/\d+\.jpg \(train\.csv, line \d+\): .*--skip-bad"):
        pack("deep_fashion", source, tmp_path / "out", PackOptions(), open_decoder=open_check)


def test_the_docs_hold_the_table() -> None:
    assert odd_images.table() in DOCS.read_text()
