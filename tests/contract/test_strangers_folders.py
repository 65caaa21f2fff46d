"""Scratch, memory, checkpoints, archives and lists with a stranger's folder or link in their way."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from strangers import MINE, ROOT, Bench, content, unlisted

from fashion_dist.data import memory
from fashion_dist.data.damage import BadSamples
from fashion_dist.data.staging import stage
from fashion_dist.errors import CheckpointError, ConfigError, DamageError
from fashion_dist.io import OwnFiles, write_text
from fashion_dist.monitor import chain
from fashion_dist.paths import Home, RunDir
from fashion_dist.report import make
from fashion_dist.report.archive import PACKAGES, write_archive
from fashion_dist.report.dataset_card import write_card
from fashion_dist.report.run_data import read_facts
from fashion_dist.results import media
from fashion_dist.results.predict import predict_run
from fashion_dist.runs import open_run
from fashion_dist.sweep import decisions
from fashion_dist.tracking.metrics_log import MetricsLogger
from fashion_dist.train.checkpoint import Checkpoints
from shards import InputError, PackOptions, pack
from shards.reindex import reindex
from shards.verify import verify


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user id")
def test_a_scratch_folder_that_another_user_made_first_is_not_used(bench: Bench) -> None:
    base = bench.folder / "scratch" / f"fashion-dist-{os.getuid()}"
    (base / bench.shard_set.data_hash[:16]).mkdir(parents=True)
    victim = bench.folder / "thesis.tex"
    victim.write_bytes(MINE)
    (base / bench.shard_set.data_hash[:16] / ".lock").symlink_to(victim)
    for path in (base / bench.shard_set.data_hash[:16], base):
        os.chown(path, 1002, 1002)
    with pytest.raises(InputError, match="belongs to another user"):
        stage(bench.shard_set.split("train"), str(bench.folder / "scratch"))
    os.chown(base, 0, 0)
    with pytest.raises(InputError, match="belongs to another user"):
        stage(bench.shard_set.split("train"), str(bench.folder / "scratch"))
    assert victim.read_bytes() == MINE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user id")
def test_shared_memory_that_another_user_made_first_is_not_used(bench: Bench) -> None:
    path = bench.folder / "block"
    path.write_bytes(bytes(8192))
    path.chmod(0o600)
    os.chown(path, 1002, 1002)
    with pytest.raises(ConfigError, match="not a block of this user's alone"):
        memory._open_shared(path, 4096, 2)


def test_going_on_with_a_run_whose_checkpoints_are_a_link_deletes_nothing(bench: Bench) -> None:
    home = bench.folder / "home-of-user"
    for name in (".ssh/id", ".config/settings", ".step-00000001.7/id", "step-00000001/thesis.tex"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(MINE)
    before = content(home)
    (bench.folder / "checkpoints").symlink_to(home)
    checkpoints = Checkpoints(bench.folder / "checkpoints", keep=0)
    with pytest.raises(InputError, match="is a symbolic link"):
        checkpoints.clean()
    with pytest.raises(CheckpointError, match="is a symbolic link"), contextlib.closing(checkpoints):
        checkpoints.save("step", 2, {}, {})
        checkpoints.wait()
    assert content(home) == before


def test_clean_removes_what_killed_writers_left(bench: Bench) -> None:
    left = bench.folder / "c" / ".step-00000001.0a1b"
    left.mkdir(parents=True)
    (left / "state.pt").write_bytes(b"half")
    with contextlib.closing(Checkpoints(bench.folder / "c")) as checkpoints:
        checkpoints.clean()
    assert not left.exists()


def test_neither_archive_nor_upload_holds_what_a_link_leads_to(bench: Bench) -> None:
    victim = bench.folder / "id_ed25519"
    victim.write_bytes(b"PRIVATE " + MINE)
    run = bench.run()
    (facts,) = read_facts([run])
    made = make.report_run(facts, quick=True)
    (run.submission).mkdir(exist_ok=True)
    (run.submission / "kept.csv").write_text("id\n")
    for name in ("report/figures/more.png", "report/more.csv", "config.json", "submission/more.csv"):
        kept = (run.path / name).read_bytes() if (run.path / name).exists() else None
        unlisted(run.path / name)
        (run.path / name).symlink_to(victim)
        with contextlib.suppress(InputError), zipfile.ZipFile(write_archive([facts], made.page)) as archive:
            inside = {name: archive.read(name) for name in archive.namelist()}
            assert any(name.endswith("submission/kept.csv") for name in inside)
            assert [name for name, content in inside.items() if b"PRIVATE" in content] == []
        if kept is not None:
            (run.path / name).unlink()
            (run.path / name).write_bytes(kept)
    opened = open_run(Home(bench.folder / "home").find_run(run.run_id))
    files = [path.name for one in media.run_media(run, opened.config, opened.shard_set).artifacts for path in one.files]
    assert "kept.csv" in files and "more.csv" not in files


def test_a_name_is_never_code_in_an_archive(bench: Bench) -> None:
    """A run's folder, a class and a key may be called anything."""
    made = bench.run()
    evil = made.path.with_name('x"""; import os; os.abort() #')
    made.path.rename(evil)
    (facts,) = read_facts([RunDir(evil)])
    page = make.report_run(facts, bench.folder / "page", quick=True).page
    with zipfile.ZipFile(write_archive([facts], page)) as archive:
        code = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py") and "code/" not in name}
    ours = {path.read_bytes() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    found = {data.replace(b"from pictures", b"from shards") for data in code.values()}  # an archive's name of these
    assert code and found <= {*ours, b""}, "a file was written for this run"


def test_a_picture_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript in a "jpg" is Ghostscript's."""
    from shards import images

    for name in ("gs", "gswin64c", "heif-convert", "convert"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    for data in (script, b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + bytes(24) + script):
        with pytest.raises(images.BadImageError, match="not an image"):
            images.prepare(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_lines_are_not_added_to_a_file_behind_a_link(kind: str, bench: Bench) -> None:
    victim = bench.folder / ".bashrc"
    victim.write_bytes(MINE)
    run = bench.run()

    def plant(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(victim) if kind == "link" else os.link(victim, path)

    plant(run.metrics)
    with pytest.raises(InputError):
        MetricsLogger(run, 10, 1)
    plant(run.logs / "then.log")
    with pytest.raises(InputError):
        list(chain._here(run.path, ["collect"]))
    plant(run.bad_samples(0))
    with pytest.raises(InputError):
        BadSamples("skip", run.bad_samples(0)).add(0, DamageError("a.tar", "k", 0, "bad"))
    sweep = Home(bench.folder).sweep_dir("s")
    sweep.path.mkdir(parents=True)
    plant(sweep.decisions)
    with pytest.raises(InputError):
        decisions.note(sweep, 0, "begins", "x")
    assert victim.read_bytes() == MINE


def test_a_temporary_name_cannot_be_guessed(bench: Bench) -> None:
    victim = bench.folder / "thesis.tex"
    victim.write_bytes(MINE)
    path = bench.folder / "state.json"
    for name in (f".state.json.{os.uname().nodename}.{os.getpid()}", f"state.json.{os.getpid()}.tmp"):
        (bench.folder / name).symlink_to(victim)
    write_text(path, "{}")
    assert path.read_text() == "{}" and victim.read_bytes() == MINE


def test_our_own_files_are_replaced_as_before(bench: Bench) -> None:
    own = OwnFiles(bench.folder / "answers")
    for text in ("one", "two"):
        assert OwnFiles(own.folder).write("test.txt", text).read_text() == text
    run = bench.run()
    (facts,) = read_facts([run])
    pages = [make.report_run(facts, quick=True).page for _ in range(2)]
    assert pages[0] == pages[1] and len(list((run.report / "figures").glob("*.png"))) > 0
    assert write_archive([facts], pages[0]) == write_archive([facts], pages[0])
    for _ in range(2):
        predict_run(open_run(Home(bench.folder / "home").find_run(run.run_id)), "val")
    assert np.asarray(list(run.predictions("val").glob("*.parquet"))).size == 1
    bench.pack()
    write_card(bench.out)
    pack("clipart", bench.source, bench.out, PackOptions(), replace=True)
    assert verify(bench.out) == [] and not (bench.out / "card.html").exists()
    write_card(bench.out)
    write_card(bench.out)


def test_what_is_read_back_is_written_by_us_alone_whatever_the_umask(bench: Bench) -> None:
    before = os.umask(0o002)  # as project folders of a group have it
    try:
        bench.pack()
        write_card(bench.out)
        reindex(bench.tars(), bench.folder / "index")
        OwnFiles(bench.folder / "answers").write("test.txt", "x")
    finally:
        os.umask(before)
    made = [
        path for name in ("out", "index", "answers") for path in [bench.folder / name, *(bench.folder / name).iterdir()]
    ]
    assert len(made) > 10
    assert [str(path) for path in made if path.stat().st_mode & 0o022] == []
