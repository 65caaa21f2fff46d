from __future__ import annotations

import csv
import dataclasses
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from sources import REPOSITORY, add_row, encoded, final_names, jpeg, picture, tree_hash, write_csv_source

from shards import InputError, PackOptions, ReadOptions, ShardSet, SpaceError, pack, packing, writer
from shards.locks import single_packer
from shards.manifest import Manifest
from shards.pack_plan import Plan, ShardPlan
from shards.reindex import reindex
from shards.verify import verify

SMALL = PackOptions(shard_mb=0.01)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv_source(tmp_path / "deep_fashion")


def test_what_is_read_back_is_what_the_source_says(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "out")
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.splits == {"train": 30, "val": 6, "test": 5}
    assert shard_set.schema.names == {"category": ("coat", "hat", "shoe"), "attributes": ("red", "striped")}
    first_row = 0
    for name, count in shard_set.splits.items():
        split = shard_set.split(name)
        assert (len(split), split.row0) == (count, first_row)
        first_row += count
        facts = split.columns("file_path", "row", "category", "attributes")
        with (source / f"{name}.csv").open(newline="") as file:
            told = list(csv.DictReader(file))
        assert sorted(facts["row"].tolist()) == list(range(count))
        assert facts["row"].tolist() != list(range(count))  # shuffled
        for i in range(count):
            row = told[facts["row"][i]]
            assert facts["file_path"][i] == row["file_path"]
            assert split.keys[i] == row["file_path"].removesuffix(".jpg")
            labels = [int(row.get(column, -1)) for column in ("category_label", "red", "striped")]
            assert [facts["category"][i], *facts["attributes"][i]] == labels
            with (split.tar_folder / split.shard_names[split.shard[i]]).open("rb") as tar:
                data = os.pread(tar.fileno(), int(split.size[i]), int(split.offset[i]))
            assert data == (source.parent / row["file_path"]).read_bytes()
            assert (split.width[i], split.height[i]) == (24, 18)


def test_keys_can_be_asked_one_by_one_by_slice_and_by_array(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "out")
    keys = ShardSet.open(tmp_path / "out").split("val").keys
    listed = list(keys)
    assert [keys[i] for i in range(6)] == listed == keys[:]
    assert keys[-1] == listed[-1]
    assert keys[np.array([4, 0, 4])].tolist() == [listed[4], listed[0], listed[4]]
    with pytest.raises(IndexError):
        keys[6]


def test_the_bytes_do_not_depend_on_workers_nor_on_the_order_of_the_rows(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "one", SMALL, workers=1)
    pack("deep_fashion", source, tmp_path / "two", SMALL, workers=2)
    pack("deep_fashion", source, tmp_path / "header", PackOptions(shard_mb=0.01, check="header"))
    assert len(Manifest.load(tmp_path / "one").shards) > 3
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    assert ShardSet.open(tmp_path / "one").data_hash == ShardSet.open(tmp_path / "header").data_hash


def test_the_seed_changes_the_order_and_the_hash(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "one")
    pack("deep_fashion", source, tmp_path / "two", PackOptions(seed=1))
    one, two = ShardSet.open(tmp_path / "one"), ShardSet.open(tmp_path / "two")
    assert list(one.split("train").keys) != list(two.split("train").keys)
    assert sorted(one.split("train").keys) == sorted(two.split("train").keys)
    assert one.data_hash != two.data_hash


def test_packing_again_does_nothing_and_another_source_needs_replace(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("deep_fashion", source, out, SMALL)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    pack("deep_fashion", source, out, SMALL)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (source / "train" / "new.jpg").write_bytes(jpeg(9))
    add_row(source, "train/new.jpg,1,0,1")
    with pytest.raises(InputError, match=r"already packed.*--replace"):
        pack("deep_fashion", source, out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    pack("deep_fashion", source, out, replace=True)
    assert ShardSet.open(out).splits["train"] == 31
    assert verify(out) == []  # nothing is left of the set with more shards


def test_a_run_that_was_stopped_keeps_its_finished_shards(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "whole", SMALL)
    written: list[str] = []

    def stop_after_two(plan: Plan, todo: Any, on_progress: Any) -> None:
        writer.write_shards(plan, todo[:2], lambda _: None)
        raise KeyboardInterrupt

    def remember(plan: Plan, todo: list[ShardPlan], on_progress: Any) -> None:
        written.extend(shard.name for shard in todo)
        writer.write_shards(plan, todo, lambda _: None)

    with pytest.raises(KeyboardInterrupt):
        pack("deep_fashion", source, tmp_path / "out", SMALL, run_shards=stop_after_two)
    assert final_names(tmp_path / "out") == []
    with pytest.raises(
        InputError, match=r"half packed.*python jobs/pack\.py --dataset deep_fashion --source DIR --out \S+out$"
    ):
        ShardSet.open(tmp_path / "out")
    pack("deep_fashion", source, tmp_path / "out", SMALL, run_shards=remember)
    shards = [shard.name.removesuffix(".tar") for shard in Manifest.load(tmp_path / "whole").shards]
    assert written == shards[2:]
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "whole")


def test_a_source_that_changed_meanwhile_is_packed_anew(source: Path, tmp_path: Path) -> None:
    def stop(plan: Plan, todo: Any, on_progress: Any) -> None:
        writer.write_shards(plan, todo[:3], lambda _: None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack("deep_fashion", source, tmp_path / "out", SMALL, run_shards=stop)
    for path in (source / "train").iterdir():
        path.write_bytes(jpeg(int(path.stem) + 777))
    pack("deep_fashion", source, tmp_path / "out", SMALL)
    pack("deep_fashion", source, tmp_path / "whole", SMALL)
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "whole")


def test_an_image_that_changes_during_packing_stops_it(source: Path, tmp_path: Path) -> None:
    def change(plan: Plan, todo: Any, on_progress: Any) -> None:
        (source / "val" / "0002.jpg").write_bytes(b"shorter")
        writer.write_shards(plan, todo, lambda _: None)

    with pytest.raises(InputError, match=r"val/0002\.jpg.*bytes when packing began"):
        pack("deep_fashion", source, tmp_path / "out", run_shards=change)
    assert final_names(tmp_path / "out") == []


def test_the_tasks_of_an_array_write_the_same_bytes(source: Path, tmp_path: Path) -> None:
    def in_two_ranges(plan: Plan, todo: list[ShardPlan], on_progress: Any) -> None:
        parts = packing.parts(plan, todo, 3)
        assert [name for part in parts for name in part.names] == [shard.name for shard in todo]
        for part in reversed(parts):
            packing.write_part(part)

    pack("deep_fashion", source, tmp_path / "array", SMALL, run_shards=in_two_ranges)
    pack("deep_fashion", source, tmp_path / "plain", SMALL)
    assert tree_hash(tmp_path / "array") == tree_hash(tmp_path / "plain")


def _hold(folder: str, ready: Any) -> None:
    with single_packer(Path(folder) / "lock", folder):
        ready.send(True)
        time.sleep(60)


def test_the_second_packer_is_refused_and_told_who_the_first_is(source: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    heard, ready = context.Pipe(duplex=False)
    (tmp_path / "out" / ".packing").mkdir(parents=True)
    first = context.Process(target=_hold, args=(str(tmp_path / "out" / ".packing"), ready))
    first.start()
    try:
        assert heard.poll(60)
        with pytest.raises(InputError, match=rf"is being packed by process {first.pid} on "):
            pack("deep_fashion", source, tmp_path / "out")
        first.kill()
        first.join()
        pack("deep_fashion", source, tmp_path / "out")  # a dead packer holds nothing
    finally:
        first.kill()
        first.join()
    assert verify(tmp_path / "out") == []


def test_bad_images_stop_the_packing_or_are_listed(source: Path, tmp_path: Path) -> None:
    (source / "train" / "0003.jpg").write_bytes(b"")
    (source / "train" / "0005.jpg").write_bytes(jpeg(5)[:-50])
    (source / "val" / "0001.jpg").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"/(train|val)/000[351]\.jpg \((train|val)\.csv, line \d+\): .*--skip-bad"):
        pack("deep_fashion", source, tmp_path / "out", SMALL)
    assert final_names(tmp_path / "out") == []
    manifest = pack("deep_fashion", source, tmp_path / "out", PackOptions(shard_mb=0.01, skip_bad=True))
    assert manifest.splits == {"train": 28, "val": 5, "test": 5}
    with (tmp_path / "out" / "rejected.csv").open(newline="") as file:
        rejected = {row["key"]: row["reason"] for row in csv.DictReader(file)}
    assert {key.removeprefix("deep_fashion/") for key in rejected} == {"train/0003", "train/0005", "val/0001"}
    assert "empty" in rejected["deep_fashion/train/0003"]
    assert verify(tmp_path / "out") == []


def test_a_set_of_bad_images_only_is_refused(tmp_path: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion", 2, 0, 0)
    for path in (source / "train").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="all 2 images"):
        pack("deep_fashion", source, tmp_path / "out", PackOptions(skip_bad=True))
    assert not (tmp_path / "out").exists()
    shutil.rmtree(source / "train")
    with pytest.raises(InputError, match=r"no images for deep_fashion; left out: 2, train\.csv, line 2: .* not exist"):
        pack("deep_fashion", source, tmp_path / "out", PackOptions(skip_bad=True))


def test_what_was_left_out_is_looked_at_again_when_packing_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDS_MAX_PIXELS", "100")
    (source / "val" / "0001.jpg").write_bytes(encoded(picture(1, 8, 8), "JPEG"))
    skipping = PackOptions(shard_mb=0.01, skip_bad=True)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(writer, "finish", Mock(side_effect=KeyboardInterrupt))
        pack("deep_fashion", source, tmp_path / "out", skipping)
    with pytest.raises(InputError, match="SHARDS_MAX_PIXELS raises the limit; --skip-bad"):
        pack("deep_fashion", source, tmp_path / "out", SMALL)
    monkeypatch.delenv("SHARDS_MAX_PIXELS")
    assert pack("deep_fashion", source, tmp_path / "out", skipping).splits == {"train": 30, "val": 6, "test": 5}
    assert verify(tmp_path / "out") == []


def test_formats_dali_cannot_decode_are_counted(source: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.open(source / "train" / "0001.jpg").save(source / "train" / "0001.gif")
    text = (source / "train.csv").read_text()
    (source / "train.csv").write_text(text.replace("train/0001.jpg", "train/0001.gif"))
    manifest = pack("deep_fashion", source, tmp_path / "out")
    assert manifest.converted == {"gif": 1}
    assert verify(tmp_path / "out") == []


def test_resize_is_another_set(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "out", PackOptions(resize_px=9))
    split = ShardSet.open(tmp_path / "out").split("train")
    assert (split.width == 12).all()
    assert (split.height == 9).all()
    assert verify(tmp_path / "out") == []


def test_a_disk_that_is_too_small_is_told_before_the_work_begins(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = os.statvfs_result((4096, 4096, 10, 2, 2, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: usage)  # what a nearly full disk says
    with pytest.raises(SpaceError, match=r"no space left for .*out: \d+ bytes needed, 8192 free"):
        pack("deep_fashion", source, tmp_path / "out")
    assert final_names(tmp_path / "out") == []


@pytest.mark.parametrize(("module", "name", "at"), [(np, "save", "planning"), (os, "write", "lock")])
def test_a_disk_that_is_full_from_the_start_or_by_the_order_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, at: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(SpaceError, match=rf"no space left for .*{at}: \d+ bytes needed, \d+ free"):
            pack("deep_fashion", source, tmp_path / "out")
    assert len(pack("deep_fashion", source, tmp_path / "out").shards) > 0


def test_the_command_for_a_set_that_is_not_there_makes_it(tmp_path: Path) -> None:
    for name, words in (
        ("synthetic", "--dataset synthetic"),
        ("clipart", "--dataset clipart --source DIR"),
        ("mine", "--dataset image_folder --source DIR"),
    ):
        with pytest.raises(InputError, match=rf"make it: python jobs/pack\.py {words} --out {tmp_path / name}$"):
            ShardSet.open(tmp_path / name)


def test_a_disk_that_fills_up_leaves_no_final_names_and_another_disk_works(source: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk, which only root can make (tests/faults)."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from shards import pack\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "pack('deep_fashion', Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "small")]
    told = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert "SpaceError: no space left for" in told.stderr
    assert "bytes needed" in told.stderr
    assert final_names(tmp_path / "small") == []
    pack("deep_fashion", source, tmp_path / "large")
    pack("deep_fashion", source, tmp_path / "small")
    assert tree_hash(tmp_path / "small") == tree_hash(tmp_path / "large")


def test_the_manifest_alone_opens_a_set(source: Path, tmp_path: Path) -> None:
    pack("deep_fashion", source, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        if path.name != "manifest.json":
            path.unlink()
    opened = ShardSet.open(tmp_path / "out")
    assert opened.splits["train"] == 30
    assert opened.split("train").schema.columns["attributes"] == "ints:2"


def test_opening_what_is_no_set_says_which_command_makes_one(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no shard set.*python jobs/pack\.py --dataset clipart --source DIR"):
        ShardSet.open(tmp_path / "clipart")
    pack("deep_fashion", source, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"--reindex"):
        ShardSet.open(tmp_path / "out")
    with pytest.raises(InputError, match=r"holds 4 files that no manifest there lists as ours: index\.parquet, test-"):
        pack("deep_fashion", source, tmp_path / "out")
    reindex(tmp_path / "out")
    with pytest.raises(InputError, match="no split 'dev'; it has: train, val, test"):
        ShardSet.open(tmp_path / "out").split("dev")
    with pytest.raises(InputError, match="no fact 'colour'; it has: file_path, row, category, attributes"):
        ShardSet.open(tmp_path / "out").split("val").columns("colour")


def test_a_manifest_that_was_edited_is_damage(source: Path, tmp_path: Path) -> None:
    from shards import DamageError

    pack("deep_fashion", source, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    value = json.loads(path.read_text())
    value["shards"][0]["samples"] += 1
    path.write_text(json.dumps(value))
    with pytest.raises(DamageError, match="data_hash"):
        ShardSet.open(tmp_path / "out")
    path.write_text(path.read_text()[:100])
    with pytest.raises(DamageError, match="not a manifest"):
        ShardSet.open(tmp_path / "out")


def test_the_data_hash_follows_what_a_run_would_read(source: Path, tmp_path: Path) -> None:
    hashes = set()
    pack("deep_fashion", source, tmp_path / "0")
    hashes.add(ShardSet.open(tmp_path / "0").data_hash)
    text = (source / "val.csv").read_text()
    (source / "val.csv").write_text(text.replace("0001.jpg,1", "0001.jpg,2"))
    pack("deep_fashion", source, tmp_path / "1")
    hashes.add(ShardSet.open(tmp_path / "1").data_hash)
    (source / "categories.txt").write_text("coat\nhat\nboot\n")
    pack("deep_fashion", source, tmp_path / "2", read_options=ReadOptions())
    hashes.add(ShardSet.open(tmp_path / "2").data_hash)
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("workers", "megabytes", "decodes", "encodes", "expected"),
    [
        (2, 70, True, False, (1, 2)),  # a process would start for longer than it works
        (16, 70, True, False, (1, 16)),
        (2, 5000, True, False, (1, 2)),
        (6, 5000, True, False, (2, 4)),
        (64, 5000, True, False, (16, 4)),
        (2, 70, True, True, (2, 1)),  # Pillow encodes one picture a process
        (8, 70, False, False, (1, 1)),
        (8, 5000, False, False, (8, 1)),
    ],
)
def test_processes_start_only_for_what_threads_cannot_do(
    workers: int, megabytes: int, decodes: bool, encodes: bool, expected: tuple[int, int]
) -> None:
    assert packing.division(workers, megabytes * 10**6, decodes, encodes) == expected


def test_a_decoder_starts_once_a_thread_and_sees_each_kept_picture_once(source: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []
    starts: list[int] = []

    def open_counting() -> Any:
        starts.append(1)

        def decode(files: Any, sizes: Any) -> list[None]:
            assert len(files) == len(sizes)
            seen.extend(files)
            return [None] * len(files)

        return decode

    pack("deep_fashion", source, tmp_path / "out", SMALL, workers=2, open_decoder=open_counting)
    assert len(Manifest.load(tmp_path / "out").shards) > 3
    assert sorted(seen) == sorted(path.read_bytes() for path in source.rglob("*.jpg"))
    assert 1 <= len(starts) <= 2
    for check, count in (("header", 0), ("decode", len(seen)), ("header", 0)):  # another plan in the same folder
        shutil.rmtree(tmp_path / "out")
        seen.clear()
        options = PackOptions(shard_mb=0.01, check=check)
        pack("deep_fashion", source, tmp_path / "out", options, workers=2, open_decoder=open_counting)
        assert len(seen) == count


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left for {}: 7 bytes needed, "), (errno.EDQUOT, "your quota is used up at {}: 7 bytes")],
)
def test_a_quota_is_told_from_a_full_disk(number: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceError) as caught, SpaceError.told(tmp_path / "a" / "x.tar", lambda: 7):
        raise OSError(number, "x")
    said = [str(caught.value), str(pickle.loads(pickle.dumps(caught.value)))]  # it comes from a worker process
    assert all(text.startswith(words.format(tmp_path / "a" / "x.tar")) for text in said)


def test_what_was_left_out_of_a_finished_set_is_told_with_what_tries_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fashion_dist.commands import pack as command

    for number in range(4):
        folder = tmp_path / "in" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(jpeg(number, 200 if number == 3 else 20))
    args = command.Args(
        dataset="image_folder", source=str(tmp_path / "in"), out=str(tmp_path / "out"), skip_bad=True, no_card=True,
        val=0.0, home=str(tmp_path / "home"), workers=1,
    )  # fmt: skip
    monkeypatch.setenv("SHARDS_MAX_SIDE", "100")
    assert command.main(args).headline.endswith("; 1 left out")
    monkeypatch.delenv("SHARDS_MAX_SIDE")
    told = command.main(args).headline
    assert told.endswith("; 1 left out when it was packed: --replace packs it again and tries them anew")
    assert command.main(dataclasses.replace(args, replace=True)).data["rejected"] == 0
    assert command.main(args).headline.endswith(" shards")
