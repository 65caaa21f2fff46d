"""Folders of tars as a stranger would make them, and packing and indexing as a user types them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from minis import DRAW
from strangers import MINE, ROOT, SMALL, Bench, content

from fashion_dist.cluster import pack_array, submitit_executor
from fashion_dist.cluster.resources import Resources
from fashion_dist.data.staging import stage
from fashion_dist.errors import ConfigError, DamageError
from shards import InputError, PackOptions, ShardSet, pack
from shards.added import add_split
from shards.locks import single_packer
from shards.pack_plan import Plan
from shards.reindex import reindex
from shards.verify import verify


def told(*arguments: object) -> str:
    """What `jobs/pack.py` says when it refuses, in one sentence and with exit status 2."""
    command = [sys.executable, str(ROOT / "jobs" / "pack.py"), *map(str, arguments), "--no-card"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_packing_into_a_folder_of_tars_names_them_and_touches_nothing(bench: Bench) -> None:
    bench.out.mkdir()
    for number in range(8):
        (bench.out / f"shard-{number:05d}.tar").write_bytes(MINE)
    DRAW["clipart"](bench.source)
    before = content(bench.out)
    words = told("--dataset", "clipart", "--source", bench.source, "--out", bench.out)
    assert f"{bench.out} holds 8 files that no manifest there lists as ours: shard-00000.tar, " in words
    assert "and 3 more" in words
    assert content(bench.out) == before and not (bench.out / ".packing").exists()


def test_replacing_an_indexed_set_keeps_the_tars_it_was_made_of(bench: Bench) -> None:
    DRAW["clipart"](bench.source)
    folder = bench.tars()
    tars = content(folder)
    reindex(folder)
    words = told("--dataset", "clipart", "--source", bench.source, "--out", folder, "--replace")
    assert "that no manifest there lists as ours" in words and next(iter(tars)) in words
    assert {name: data for name, data in content(folder).items() if name.endswith(".tar")} == tars
    assert verify(folder) == [], "and it is still a set"


@pytest.mark.parametrize("name", ["lock", "train-00000.idx", "train-00000.tar.rows.json", "ours.json", "index.parquet"])
def test_links_in_the_staging_of_a_downloaded_folder_lead_nowhere(name: str, bench: Bench) -> None:
    victim = bench.folder / ".bashrc"
    victim.write_bytes(MINE)
    folder = bench.tars()
    (folder / ".packing").mkdir()
    (folder / ".packing" / name).symlink_to(victim)
    assert f"holds {name}, which no packing puts there" in told("--reindex", folder)
    assert victim.read_bytes() == MINE
    assert not (folder / "manifest.json").exists()


def test_a_linked_staging_folder_is_refused(bench: Bench) -> None:
    (bench.folder / "elsewhere").mkdir()
    folder = bench.tars()
    (folder / ".packing").symlink_to(bench.folder / "elsewhere")
    assert "is a symbolic link, not a folder" in told("--reindex", folder)
    assert not list((bench.folder / "elsewhere").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user id")
def test_a_staging_folder_of_somebody_else_is_refused(bench: Bench) -> None:
    folder = bench.tars()
    (folder / ".packing").mkdir()
    os.chown(folder / ".packing", 1002, 1002)
    assert "belongs to another user (uid 1002)" in told("--reindex", folder)
    os.chown(folder / ".packing", 0, 0)
    (folder / ".packing").chmod(0o777)
    assert "can be written to by other users" in told("--reindex", folder)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_regular_files_are_tars(kind: str, bench: Bench) -> None:
    folder = bench.tars()
    path = folder / "train-00001.tar"
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(bench.shard_set.path / "train-00000.tar")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert "where only a regular file is taken" in told("--reindex", folder)


def edited(folder: Path, change: Callable[[dict], None]) -> Path:  # type: ignore[type-arg]
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))
    return folder


EVIL = {
    "shard up": lambda v: v["shards"][0].update(name="../../victim.tar"),
    "shard absolute": lambda v: v["shards"][0].update(name="/etc/passwd.tar"),
    "shard ..": lambda v: v["shards"][0].update(name=".."),
    "shard no tar": lambda v: v["shards"][0].update(name="authorized_keys"),
    "shard number": lambda v: v["shards"][0].update(name=5),
    "shard list": lambda v: v.update(shards=[[]]),
    "sizes": lambda v: v["shards"][0].update(size="9"),
    "split up": lambda v: v["shards"][0].update(split="../val"),
    "split list": lambda v: v["shards"][0].update(split=["val"]),
    "tar_folder up": lambda v: v.update(tar_folder="../.."),
    "tar_folder through": lambda v: v.update(tar_folder="/tmp/../etc"),
    "tar_folder number": lambda v: v.update(tar_folder=5),
    "table up": lambda v: v.update(tables={"../../victim": "0"}),
    "table index": lambda v: v.update(tables={"index": "0"}),
}


@pytest.mark.parametrize("name", EVIL)
def test_a_manifest_leads_nowhere_but_into_its_own_folder(name: str, bench: Bench) -> None:
    folder = bench.folder / "set"
    shutil.copytree(bench.shard_set.path, folder)
    edited(folder, EVIL[name])
    for act in (lambda: ShardSet.open(folder), lambda: verify(folder), lambda: bench_pack(folder)):
        with pytest.raises((InputError, DamageError)):
            act()
    assert content(folder).keys() == content(bench.shard_set.path).keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"taking": 5}, "taking = 5 is not possible; allowed: an object"),
        ({"reindexed": "yes"}, "reindexed = 'yes' is not possible; allowed: true, false"),
        ({"read": [1]}, "read = .* is not possible; allowed: an object"),
        ({"seed": "x"}, "seed = 'x' is not possible; allowed: a whole number"),
    ],
)
def test_options_of_a_manifest_have_their_types(options: dict[str, Any], words: str, bench: Bench) -> None:
    folder = bench.folder / "set"
    shutil.copytree(bench.shard_set.path, folder)
    made = dataclasses.replace(bench.shard_set.manifest, options={**bench.shard_set.manifest.options, **options})
    (folder / "manifest.json").write_bytes(made.encoded())
    with pytest.raises(InputError, match=f"manifest.json.*{words}"):
        verify(folder)


@pytest.mark.parametrize(
    ("taking", "faults"),
    [
        ({"label": "label", "column": "nowhere"}, []),
        ({"label": 5}, ["label = 5 is not possible; allowed: text"] * 3),
    ],
)
def test_how_labels_were_taken_ends_no_verifying(taking: dict[str, Any], faults: list[str], bench: Bench) -> None:
    folder = bench.folder / "set"
    shutil.copytree(bench.shard_set.path, folder)
    told = {**bench.shard_set.manifest.options, "taking": taking}
    (folder / "manifest.json").write_bytes(dataclasses.replace(bench.shard_set.manifest, options=told).encoded())
    found = verify(folder)
    assert len(found) == len(faults) and all(told in str(fault) for fault, told in zip(found, faults, strict=True))


def test_a_split_is_added_by_options_of_their_types_alone(bench: Bench) -> None:
    folder = bench.folder / "set"
    shutil.copytree(bench.shard_set.path, folder)
    told = {**bench.shard_set.manifest.options, "shard_mb": "x"}
    (folder / "manifest.json").write_bytes(dataclasses.replace(bench.shard_set.manifest, options=told).encoded())
    with pytest.raises(InputError, match="shard_mb = 'x' is not possible; allowed: a number"):
        add_split(folder, "more", bench.source / "test")


def bench_pack(folder: Path) -> None:
    pack("clipart", folder.parent / "raw" / "clipart", folder, SMALL, replace=True)


@pytest.mark.parametrize("name", ["train-00000.tar", "index.parquet"])
def test_a_set_is_not_read_through_links(name: str, bench: Bench) -> None:
    folder = bench.folder / "set"
    shutil.copytree(bench.shard_set.path, folder)
    (folder / name).unlink()
    (folder / name).symlink_to(bench.shard_set.path / name)
    with pytest.raises(InputError, match="is a symbolic link, where only a regular file is taken"):
        stage(ShardSet.open(folder).split("train"), str(bench.folder / "scratch"))
    assert not list((bench.folder / "scratch").rglob("*.tar"))


def add_sample(tar: Path, key: str, caption: str) -> None:
    with tarfile.open(tar, "w") as file:
        image = b"\xff\xd8"
        from io import BytesIO

        from PIL import Image

        buffer = BytesIO()
        Image.new("RGB", (9, 9)).save(buffer, "JPEG")
        image = buffer.getvalue()
        for name, data in ((f"{key}.jpg", image), (f"{key}.json", caption.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, BytesIO(data))


def test_half_a_character_in_a_caption_is_indexed_and_verifies(bench: Bench) -> None:
    folder = bench.folder / "theirs"
    folder.mkdir()
    add_sample(folder / "a.tar", "0", '{"caption": "cut \\ud83d", "\\ud83d": 1}')
    manifest = reindex(folder)
    assert manifest.options["dropped_facts"] == ["\ud83d"]
    facts = ShardSet.open(folder).split("train").columns("caption")
    assert facts["caption"].tolist() == ["cut \N{REPLACEMENT CHARACTER}"]
    assert verify(folder) == []


def test_a_re_index_that_fails_leaves_a_good_set_good(bench: Bench) -> None:
    folder = bench.tars()
    reindex(folder)
    (folder / "outfits.parquet").write_bytes(b"PAR1half")
    before = content(folder)
    assert "outfits.parquet cannot be read as a table" in told("--reindex", folder)
    assert content(folder) == before and verify(folder) == []
    (folder / "outfits.parquet").unlink()
    reindex(folder)
    assert verify(folder) == []


def test_a_re_index_keeps_somebody_elses_index(bench: Bench) -> None:
    folder = bench.tars()
    (folder / "train-00000.idx").write_bytes(MINE)
    assert "holds 1 file that no manifest there lists as ours: train-00000.idx" in told("--reindex", folder)
    assert (folder / "train-00000.idx").read_bytes() == MINE
    assert not (folder / ".packing").exists()
    reindex(folder, bench.folder / "index")
    assert verify(bench.folder / "index") == []


class Killed(BaseException):
    pass


def test_a_replacing_that_is_killed_between_names_is_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards import writer

    bench.pack()
    old = set(content(bench.out))

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(writer, "commit", die)
        with pytest.raises(Killed):
            pack("clipart", bench.source, bench.out, PackOptions(), replace=True)
    assert not (bench.out / "manifest.json").exists()
    with pytest.raises(InputError, match="half packed"):
        ShardSet.open(bench.out)
    bench.pack()  # with the first options again: what the killed one moved is still known as ours
    assert verify(bench.out) == []
    assert set(content(bench.out)) == old


def test_a_re_index_that_is_killed_between_names_is_finished(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards import staging as shards_staging

    folder = bench.tars()
    publish = shards_staging.publish

    def die(*arguments: object, **named: object) -> None:
        publish(*arguments, **named)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shards_staging, "publish", die)
        with pytest.raises(Killed):
            reindex(folder)
    with pytest.raises(InputError, match="half indexed"):
        ShardSet.open(folder)
    (folder / "index.parquet").write_bytes(b"the killed one may have been writing")
    reindex(folder)
    assert verify(folder) == [] and not (folder / ".packing").exists()


def test_a_second_packer_leaves_the_first_ones_staging_alone(bench: Bench) -> None:
    DRAW["clipart"](bench.source)
    staging_folder = bench.out / ".packing"
    staging_folder.mkdir(parents=True)
    with single_packer(staging_folder / "lock", "set"):
        (staging_folder / "records.bin").write_bytes(MINE)
        for act in (bench.pack, lambda: reindex(bench.tars(), bench.out)):
            with pytest.raises(InputError, match="is being packed by process"):
                act()
    assert (staging_folder / "records.bin").read_bytes() == MINE


def test_the_pickles_of_a_packing_array_are_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a project folder that a group may write, under an open umask; a folder that others may write is refused."""
    source, out = tmp_path / "source", tmp_path / "out"
    DRAW["clipart"](source)
    seen: list[int] = []

    def run_array(function: Callable[[object], None], shares: list[object], *, folder: Path, **_: object) -> None:
        seen.append(folder.stat().st_mode & 0o777)
        for share in shares:
            function(share)

    monkeypatch.setattr(submitit_executor, "run_array", run_array)
    umask = os.umask(0o002)
    try:
        tmp_path.chmod(0o2775)
        pack("clipart", source, out, SMALL, run_shards=pack_array._run(2, Resources(cpus_per_task=1)))
    finally:
        os.umask(umask)
    assert seen == [0o700] and verify(out) == []

    def opened(plan: Plan, *words: object) -> None:
        (plan.folder / "array").mkdir()
        (plan.folder / "array").chmod(0o777)
        pack_array._run(2, Resources(cpus_per_task=1))(plan, *words)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="others may write to "):
        pack("clipart", source, tmp_path / "again", SMALL, run_shards=opened)
    assert seen == [0o700]
