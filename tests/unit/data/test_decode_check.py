"""The self-test of a GPU's decoding: its child runs on the CPU, with differences, a crash and a hang put in."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fashion_dist.data import decode_check
from fashion_dist.data.decode_check import SIDE, Verdict, choose, compare, odd_jpegs
from fashion_dist.data.decode_record import DecodeRecord, require_possible
from fashion_dist.errors import ConfigError
from fashion_dist.paths import RunDir

BEGIN = "import sys; from fashion_dist.data import decode_check as d; gpu = sys.argv[2] == 'gpu'\n"
WRONG_PIXELS = "old = d.render; d.render = lambda *a: (x + 40 * (a[1] == 'gpu') for x in old(*a)); d.main(sys.argv[1:])"
CRASH = "import os; print('ready', flush=True); os.kill(os.getpid(), 11) if gpu else print('{}', flush=True)"
HANG = "import time; print('ready', flush=True); time.sleep(600) if gpu else print('{}', flush=True)"
NO_START = "raise SystemExit('CUDA error: all devices are busy')"
GPU = "H100; driver 580; DALI"


def child(body: str) -> list[str]:
    return [sys.executable, "-P", "-c", BEGIN + body]


def test_the_pictures_are_of_every_kind_and_what_their_names_say() -> None:
    path = Path(decode_check.__file__).with_name("odd_jpegs.zip")
    kinds: Counter[str] = Counter()
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            with Image.open(io.BytesIO(file.read(name))) as image:
                kinds.update([image.mode, f"exif {image.getexif().get(0x0112, 1)}"])
                kinds.update(["progressive"] if image.info.get("progressive") else [])
                kinds.update([f"layers {image.layer[0][1:3]}"])  # type: ignore[attr-defined]
    assert {"RGB", "L", "CMYK", "progressive", "exif 3", "exif 5", "exif 6", "exif 8"} <= set(kinds)
    assert {"layers (2, 2)", "layers (2, 1)", "layers (1, 1)"} <= set(kinds)
    names, images, sizes = odd_jpegs()
    assert 24 <= len(names) == len(images) == len(sizes) and (sizes.min(axis=1) == 1).any()
    assert path.stat().st_size < 150_000


def test_differences_are_told_by_the_picture_that_has_most_of_them() -> None:
    expected = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype(np.float32)
    names = ["a.jpg", "b.jpg", "c.jpg"]
    assert compare(names, expected + 1, expected).fault == ""
    sharp = expected.copy()
    sharp[1, :2, :2] += 30  # plain chroma upsampling: a few values, by much
    assert "of b.jpg by up to 30 and" in compare(names, sharp, expected).fault
    sharp[2] += 60
    assert "of c.jpg by up to 60 and 60.0 on average, b.jpg by" in compare(names, sharp, expected).fault
    pale = expected + 1.5  # a decoder that is a little off everywhere
    assert "1.5 on average" in compare(names, pale, expected).fault
    assert compare(names, np.roll(expected, 1, axis=0), expected).fault, "the pixels of another picture"
    assert "no numbers" in compare(names, expected * np.nan, expected).fault


def test_the_child_decodes_as_training_does_and_a_difference_takes_the_next_way(tmp_path: Path) -> None:
    way, found = choose("cpu", tmp_path / "known.json", child=child(WRONG_PIXELS))
    assert way == "gpu-whole" and found["gpu-whole"] == Verdict()
    assert "by up to 40 and 40.0 on average" in found["gpu"].fault


@pytest.mark.parametrize(
    ("body", "words", "kept"),
    [(CRASH, "was ended by SIGSEGV", True), (HANG, "did not answer within 1 s", False)],
)
def test_a_crash_and_a_hang_take_the_next_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str, kept: bool
) -> None:
    monkeypatch.setattr(decode_check, "DECODE_S", 1.0)
    monkeypatch.setattr(decode_check, "identity", lambda: GPU)
    known = tmp_path / "known.json"
    way, found = choose("cpu", known, child=child(body))
    assert way == "gpu-whole" and words in found["gpu"].fault
    assert ("gpu" in json.loads(known.read_text())[GPU]) is kept, "a busy node is no property of the card"


def test_a_verdict_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_check, "identity", lambda: GPU)
    known = tmp_path / "known.json"
    assert choose("cpu", known, ["gpu-whole"], child(CRASH))[0] == "gpu-whole"
    never = [sys.executable, "-c", "raise SystemExit('asked again')"]
    assert choose("cpu", known, ["gpu-whole"], never)[0] == "gpu-whole"
    known.write_text(json.dumps({GPU: {"gpu-whole": 3}}))
    assert "asked again" in choose("cpu", known, ["gpu-whole"], never)[1]["gpu-whole"].fault


def test_where_nothing_can_be_opened_the_cpu_decodes(tmp_path: Path) -> None:
    way, found = choose("cpu", tmp_path / "known.json", child=child(NO_START))
    assert way == "cpu" and not (tmp_path / "known.json").exists()
    assert all("all devices are busy" in verdict.fault for verdict in found.values())


@pytest.mark.parametrize(
    ("asked", "cache", "kept", "gpus", "told"),
    [
        ("gpu", "none", None, 0, "needs a CUDA GPU"),
        ("gpu-whole", "ram", None, 1, "cannot be with --cache ram"),
        ("gpu", "none", "gpu-whole", 1, "has decoded by gpu-whole"),
        ("auto", "gpu", "gpu", 1, "--cache gpu keeps the CPU's pixels"),
        ("auto", "auto", "cpu", 1, ""),
        ("cpu", "ram", None, 0, ""),
        ("gpu", "none", "gpu", None, ""),
    ],
)
def test_what_would_change_pixels_or_cannot_be_is_refused(
    asked: str, cache: str, kept: str | None, gpus: int | None, told: str
) -> None:
    record = DecodeRecord(kept) if kept else None  # type: ignore[arg-type]
    if told:
        with pytest.raises(ConfigError, match=told):
            require_possible(asked, cache, record, gpus)  # type: ignore[arg-type]
    else:
        require_possible(asked, cache, record, gpus)  # type: ignore[arg-type]


def test_a_run_without_a_record_has_none(tmp_path: Path) -> None:
    assert DecodeRecord.read(RunDir(tmp_path)) is None
