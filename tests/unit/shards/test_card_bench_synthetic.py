from __future__ import annotations

import io
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bench import _pack_ways
from PIL import Image
from sources import REPOSITORY, write_csv_source

from fashion_dist.report import near_duplicates
from fashion_dist.report.dataset_card import write_card
from shards import PackOptions, pack
from shards.readers.synthetic import CATEGORIES, draw_garment


def test_the_card_tells_counts_classes_and_what_was_left_out(tmp_path: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion", train=30, val=9, test=4)
    (source / "train" / "0003.jpg").write_bytes(b"<script>alert(1)</script>")
    photo = Image.fromarray(
        np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), np.ones((9, 9, 1), np.uint8))
    )
    photo.save(source / "train" / "0005.jpg", quality=95)
    photo.resize((60, 45)).save(source / "val" / "0002.jpg", quality=70)  # the same photo, smaller and worse
    pack("deep_fashion", source, tmp_path / "out", PackOptions(skip_bad=True))
    page = write_card(tmp_path / "out").read_text()
    assert "train 29, val 9, test 4" in page
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert ["hat", "10", "3", "0"] in cells
    assert ["(not given)", "0", "0", "4"] in cells
    assert "1 pair of near-duplicate" in page
    assert "train: deep_fashion/train/0005 | val: deep_fashion/val/0002" in page
    assert "train/0003.jpg" in page
    assert "Attributes together" in page
    assert "<script" not in page
    assert write_card(tmp_path / "out", workers=2).read_text() == page


def test_hashes_of_one_photo_are_near_and_of_two_are_far() -> None:
    def look(image: Image.Image) -> tuple[int, np.ndarray]:
        gray = image.convert("L").resize((32, 32), Image.Resampling.BOX)
        return near_duplicates.perceptual_hash(np.asarray(gray)), np.asarray(gray.reduce(2)).ravel()

    photos = [Image.open(io.BytesIO(draw_garment(np.random.default_rng(n), CATEGORIES[n])[0])) for n in range(8)]
    smaller = [photo.resize((90, 90)) for photo in photos]
    hashes, looks = zip(*(look(photo) for photo in [*photos, *smaller]), strict=True)
    total, pairs = near_duplicates.find(np.array(hashes, np.uint64), np.array(looks), np.repeat([0, 1], 8), most=99)
    assert {(pair.first, pair.second) for pair in pairs} == {(n, n + 8) for n in range(8)} and total == 8


def test_pairs_of_repeated_pictures_are_counted_without_being_held() -> None:
    each, rng = 1000, np.random.default_rng(0)
    hashes, looks = rng.integers(0, 1 << 63, 2, np.uint64), rng.integers(0, 256, (2, 256), np.uint8)
    which = np.tile([0, 1], 3 * each)
    tracemalloc.start()
    total, pairs = near_duplicates.find(hashes[which], looks[which], np.repeat([0, 1, 2], 2 * each), most=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 3 * 2 * each**2
    listed = [(pair.first, pair.second) for pair in pairs]
    assert listed == [(0, 2000), (0, 4000), (1, 2001), (1, 4001), (2000, 4000)]
    assert peak < 20e6, "a pair that is held takes 200 bytes, and these are six million"


def test_the_bench_times_every_way_on_the_same_files(tmp_path: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion")
    rounds, images, size, start_s = _pack_ways.run(
        "deep_fashion", source, tmp_path / "work", workers=1, rounds=1, cold=True
    )
    assert (images, size) == (41, sum(path.stat().st_size for path in source.rglob("*.jpg")))
    assert tuple(rounds) == _pack_ways.WAYS
    assert all(timing.wall_s > 0 for timings in rounds.values() for timing in timings)
    assert start_s > 0 and _pack_ways.ratio(rounds, _pack_ways.ALONE, _pack_ways.ALONE) == 1
    assert list((tmp_path / "work").iterdir()) == []


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "pack.py"), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "exactly one of --dataset NAME, --verify DIR and --reindex DIR"),
        (("--dataset", "clipart", "--verify", "x"), "exactly one of"),
        (("--dataset", "nothing"), "unknown dataset 'nothing'; known: clipart, deep_fashion"),
        (("--dataset", "clipart"), "--source DIR is needed: the folder that holds train/<class>/*"),
        (("--dataset", "clipart", "--source", "/nowhere"), "/nowhere does not exist"),
        (("--verify", "/nowhere"), "/nowhere is no shard set"),
        (("--reindex", "/nowhere"), "/nowhere holds no .tar files"),
        (("--reindex", "/nowhere", "--classes", "/nowhere/x.txt"), "/nowhere/x.txt cannot be read"),
        (("--dataset", "table", "--source", "/nowhere"), "/nowhere does not exist"),
        (("--dataset", "image_folder", "--source", "/", "--group-column", "x"), "has no use for --group-column"),
        (("--dataset", "synthetic", "--workers", "-1"), "--workers -1 is not possible"),
        (("--dataset", "synthetic", "--check", "maybe"), "decode"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_status_2(arguments: tuple[str, ...], told: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_packs_verifies_and_finds_damage(tmp_path: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion")
    done = command("--dataset", "deep_fashion", "--source", str(tmp_path), "--home", str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "home" / "shards" / "deep_fashion"
    assert f"python jobs/pack.py --verify {folder}" in done.stdout
    assert (folder / "card.html").is_file()
    assert command("--verify", str(folder)).returncode == 0
    path = next(folder.glob("val-*.tar"))
    path.write_bytes(path.read_bytes().replace((source / "val" / "0001.jpg").read_bytes()[-40:], bytes(40)))
    done = command("--verify", str(folder))
    assert done.returncode == 1
    assert "key 'deep_fashion/val/0001'" in done.stdout
