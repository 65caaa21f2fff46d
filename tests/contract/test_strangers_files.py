"""Every path of the product that removes or replaces a file, with a stranger's file or link in its way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from minis import DRAW
from report_runs import make_run

from fashion_dist import tasks
from fashion_dist.cluster import pack_array, run_lock, submitit_executor
from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.worker import _forget_peers
from fashion_dist.data import memory
from fashion_dist.data.damage import BadSamples
from fashion_dist.data.staging import stage
from fashion_dist.errors import CheckpointError, ConfigError, DamageError
from fashion_dist.io import OwnFiles, write_text
from fashion_dist.models.pretrained import Published, fetch
from fashion_dist.monitor import chain
from fashion_dist.paths import Home, RunDir
from fashion_dist.report import make
from fashion_dist.report.archive import write_archive
from fashion_dist.report.dataset_card import write_card
from fashion_dist.report.run_data import read_facts
from fashion_dist.results import media
from fashion_dist.results.collect import _write
from fashion_dist.results.predict import predict_run
from fashion_dist.run_names import RunNames
from fashion_dist.runs import open_run
from fashion_dist.sweep import decisions
from fashion_dist.tracking import wandb_sync as syncing
from fashion_dist.tracking.metrics_log import MetricsLogger
from fashion_dist.train.checkpoint import Checkpoints
from shards import InputError, PackOptions, ShardSet, pack
from shards.locks import Lock
from shards.pack_plan import Plan
from shards.readers import synthetic
from shards.reindex import reindex
from shards.verify import verify

ROOT = Path(__file__).resolve().parents[2]
MINE = b"years of work\n"
SMALL = PackOptions(shard_mb=0.05)


@dataclasses.dataclass
class Bench:
    """A temporary folder with a small source, a packed set of it and a run."""

    folder: Path
    shard_set: ShardSet

    @property
    def source(self) -> Path:
        return self.folder / "raw" / "clipart"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def pack(self, **options: bool) -> None:
        if not self.source.is_dir():
            DRAW["clipart"](self.source)
        pack("clipart", self.source, self.out, SMALL, **options)  # type: ignore[arg-type]

    def tars(self) -> Path:
        """Somebody's tars: those of the set, without anything of ours beside them."""
        folder = self.folder / "theirs"
        if not folder.exists():
            folder.mkdir()
            for path in self.shard_set.path.glob("*.tar"):
                shutil.copy(path, folder)
        return folder

    def run(self) -> RunDir:
        recipe = tasks.load("clipart").recipe
        config = recipe.override(["data.image_px=16", "train.epochs=1", "train.eval_batch_size=16"])
        home = Home(self.folder / "home")
        home.runs.mkdir(parents=True, exist_ok=True)
        run = home.run_dir("clipart-1")
        if not run.path.exists():
            make_run(run.path, dataclasses.replace(config, dataset="clipart"), self.shard_set, {}, scores=(0.5,))
            model = tasks.load("clipart").build_model(config, self.shard_set.schema)
            with contextlib.closing(Checkpoints(run.checkpoints)) as checkpoints:
                checkpoints.save("best", 10, {"model": model.state_dict()}, {"epoch": 1})
        return run


@pytest.fixture
def bench(mini_set: Callable[[str], ShardSet], tmp_path: Path) -> Bench:
    return Bench(tmp_path, mini_set("clipart"))


Case = tuple[Path, Callable[[], object]]
"""Where the stranger's file lies, and what might harm it."""


def packing(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        bench.out.mkdir()
        return bench.out / name, bench.pack

    return case


def replacing(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        bench.pack()
        return bench.out / name, lambda: bench.pack(replace=True)

    return case


def staged(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        (bench.out / ".packing").mkdir(parents=True)
        return bench.out / ".packing" / name, bench.pack

    return case


def indexing(name: str) -> Callable[[Bench], Case]:
    return lambda bench: (bench.tars() / name, lambda: reindex(bench.tars()))


def indexing_staged(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        (bench.tars() / ".packing").mkdir()
        return bench.tars() / ".packing" / name, lambda: reindex(bench.tars())

    return case


def replaced_index(bench: Bench) -> Case:
    """The tar was there before `--reindex` was: `pack --replace` must not take it for ours."""
    tar = sorted(bench.tars().glob("*.tar"))[0]
    reindex(bench.tars())
    tar.write_bytes(MINE)
    return tar, lambda: pack("clipart", bench.source, bench.tars(), SMALL, replace=True)


def card(bench: Bench) -> Case:
    bench.pack()
    return bench.out / "card.html", lambda: write_card(bench.out)


def verifying(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        bench.pack()
        return bench.out / name, lambda: verify(bench.out)

    return case


def drawing(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        folder = bench.folder / "synthetic"
        folder.mkdir()
        (folder / "drawn.json").write_text("{}")
        return folder / name, lambda: synthetic.draw(folder, 0, 1, lambda *_: None)

    return case


def staging(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        base = bench.folder / "scratch" / f"fashion-dist-{os.getuid()}" / bench.shard_set.data_hash[:16]
        base.parent.mkdir(parents=True, mode=0o755)
        base.mkdir(mode=0o700)
        return base / name, lambda: stage(bench.shard_set.split("train"), str(bench.folder / "scratch"))

    return case


def collecting(bench: Bench) -> Case:
    out = bench.folder / "answers"
    out.mkdir()
    return out / "test.txt", lambda: _write({"test.txt": "id,label\n", "more.csv": ""}, out)


def page(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        (facts,) = read_facts([bench.run()])
        path = bench.folder / "public_html" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, lambda: make.report_run(facts, bench.folder / "public_html", quick=True)

    return case


def several(bench: Bench) -> Case:
    (facts,) = read_facts([bench.run()])
    out = bench.folder / "public_html"
    out.mkdir()
    return out / "index.html", lambda: make.report_runs([facts, facts], out, quick=True)


def archive(bench: Bench) -> Case:
    run = bench.run()
    (facts,) = read_facts([run])
    made = make.report_run(facts, bench.folder / "page", quick=True)
    return made.page.parent / f"{run.run_id}.zip", lambda: write_archive([facts], made.page)


def archived(name: str) -> Callable[[Bench], Case]:
    """What goes into the archive: a link there would hand private files over."""

    def case(bench: Bench) -> Case:
        run = bench.run()
        (facts,) = read_facts([run])
        made = make.report_run(facts, quick=True)
        (run.path / name).parent.mkdir(exist_ok=True)
        return run.path / name, lambda: write_archive([facts], made.page)

    return case


def predicting(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        run = bench.run()
        path = run.path / "predictions" / name
        path.parent.mkdir(parents=True)
        return path, lambda: predict_run(open_run(Home(bench.folder / "home"), run.run_id), "val")

    return case


def replaying(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        run = bench.run()
        path = bench.folder / "wandb" / name
        path.parent.mkdir(parents=True)
        config = open_run(Home(bench.folder / "home"), run.run_id).config
        return path, lambda: syncing.replay(run, config, "", None, bench.folder / "wandb")

    return case


def saving(name: str) -> Callable[[Bench], Case]:
    """Checkpoints are saved, rotated and cleaned beside the file."""

    def act(folder: Path) -> None:
        with contextlib.closing(Checkpoints(folder, keep=0)) as checkpoints:
            checkpoints.clean()
            for step in (1, 2, 3):
                checkpoints.save("step", step, {"w": torch.zeros(2)}, {})
                checkpoints.wait()

    def case(bench: Bench) -> Case:
        folder = bench.folder / "checkpoints"
        (folder / name).parent.mkdir(parents=True)
        return folder / name, lambda: act(folder)

    return case


def cleaning(bench: Bench) -> Case:
    run = bench.run()
    run.heartbeats.mkdir()
    return run.heartbeats / "notes.json", lambda: _forget_peers(run)


def shared_memory(bench: Bench) -> Case:
    path = bench.folder / f"fashion-dist-{os.getuid()}-1-0123456789abcdef"
    return path, lambda: memory._open_shared(path, 4096, 1)


def packing_lock(bench: Bench) -> Case:
    def take() -> None:
        with Lock(bench.folder / "lock", "set"):
            pass

    return bench.folder / "lock", take


def run_guard(bench: Bench) -> Case:
    def take() -> None:
        with run_lock.file_lock(bench.folder):
            pass

    return bench.folder / ".lock.guard", take


def naming(bench: Bench) -> Case:
    names = RunNames(bench.folder / "home" / "names", bench.run().path.parent)
    names.folder.mkdir()
    return names.folder / "best", lambda: names.give("best", "clipart-1")


def weights(bench: Bench) -> Case:
    return bench.folder / "net.pt", lambda: fetch(Published("net", "http://127.0.0.1:9/net.pt", "net.pt"), bench.folder)


CASES: dict[str, Callable[[Bench], Case]] = {
    **{f"pack {name}": packing(name) for name in (
        "train-00000.tar", "shard-00000.tar", "anything.tar", "train-00000.idx", "index.parquet", "rejected.csv",
        "card.html", "manifest.json", ".packing",
    )},
    **{f"replace {name}": replacing(name) for name in (
        "more-00000.tar", "more-00000.idx", "rejected.csv", "card.html", "notes.txt",
    )},
    "replace after reindex": replaced_index,
    **{f"pack, staged {name}": staged(name) for name in ("thesis.tex", "lock", "train-00000.tar", "planning")},
    **{f"reindex {name}": indexing(name) for name in (
        "index.parquet", "train-00000.idx", "manifest.json", ".packing", "outfits.parquet",
    )},
    **{f"reindex, staged {name}": indexing_staged(name) for name in ("thesis.tex", "lock", "train-00000.idx")},
    "card": card,
    **{f"verify {name}": verifying(name) for name in ("notes.txt", "rejected.csv", "card.html")},
    **{f"draw {name}": drawing(name) for name in ("notes.txt", "train/my.jpg", "drawn.json")},
    **{f"stage {name}": staging(name) for name in ("train-00000.tar", "notes.txt", ".lock")},
    "collect": collecting,
    **{f"report {name}": page(name) for name in ("index.html", "figures", "figures/curves.png", "figures/curves.csv")},
    "report of several": several,
    "archive": archive,
    "archive, submission": archived("submission/more.csv"),
    "archive, figure": archived("report/figures/more.png"),
    **{f"predict {name}": predicting(name) for name in ("val", "val/notes.txt", ".val.new/notes.txt")},
    **{f"sync {name}": replaying(name) for name in ("clipart-1", "clipart-1/notes.txt", ".clipart-1.new/notes.txt")},
    **{f"checkpoints {name}": saving(name) for name in (
        ".ssh", ".config/settings", ".step-notes", "step-00000001/notes.txt", "step-00000002", "step-final",
    )},
    "a start's clean-up": cleaning,
    "shared memory": shared_memory,
    "lock of a packing": packing_lock,
    "lock of a run": run_guard,
    "weights": weights,
    "a name of a run": naming,
}  # fmt: skip
FILE_CASES = {name: case for name, case in CASES.items() if name not in ("shared memory", "weights", "lock of a run")}
REFUSALS = (InputError, CheckpointError, DamageError)


def unlisted(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_symlink():
        path.unlink()


@pytest.mark.parametrize("name", CASES)
def test_a_strangers_file_stays_as_it_is(name: str, bench: Bench) -> None:
    path, act = CASES[name](bench)
    unlisted(path)
    path.write_bytes(MINE)
    path.chmod(0o644)
    with contextlib.suppress(*REFUSALS):
        act()
    assert path.read_bytes() == MINE and not path.is_symlink()


@pytest.mark.parametrize("name", CASES)
def test_what_a_link_leads_to_stays_as_it_is(name: str, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    victim = tmp_path_factory.mktemp("elsewhere") / "thesis.tex"
    victim.write_bytes(MINE)
    path, act = CASES[name](bench)
    unlisted(path)
    path.symlink_to(victim)
    with contextlib.suppress(*REFUSALS, OSError):
        act()
    assert victim.read_bytes() == MINE
    assert [p.name for p in victim.parent.iterdir()] == ["thesis.tex"]
    assert path.is_symlink() and path.resolve() == victim


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("lock of a packing", "lock of a run")])
def test_what_a_linked_folder_holds_stays(name: str, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder of the file is a link to somebody's folder, as one that is handed over may hold."""
    home = tmp_path_factory.mktemp("home")
    path, act = CASES[name](bench)
    if path.parent in (bench.folder, bench.out, bench.folder / "theirs", bench.folder / "page"):
        pytest.skip("the user's own choice of a folder")
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.symlink_to(home)
    for file in (".ssh", "notes.json", "state.json", "rank_0.json", path.name):
        (home / file).write_bytes(MINE)
    before = sorted(p.name for p in home.iterdir())
    with contextlib.suppress(*REFUSALS, OSError):
        act()
    assert all((home / name).read_bytes() == MINE for name in before)


# Attacks: folders as a stranger would make them, and the commands as a user types them.


def told(*arguments: object) -> str:
    """What `jobs/pack.py` says when it refuses, in one sentence and with exit status 2."""
    command = [sys.executable, str(ROOT / "jobs" / "pack.py"), *map(str, arguments), "--no-card"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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
    opened = open_run(Home(bench.folder / "home"), run.run_id)
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
    ours = {path.read_bytes() for path in (ROOT / "fashion_dist").rglob("*.py")}
    assert code and set(code.values()) <= ours, "a file was written for this run"


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
            images.prepare(data, decode=True)
    assert not (tmp_path / "ran").exists()


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
    with Lock(staging_folder / "lock", "set"):
        (staging_folder / "records.bin").write_bytes(MINE)
        for act in (bench.pack, lambda: reindex(bench.tars(), bench.out)):
            with pytest.raises(InputError, match="is being packed by process"):
                act()
    assert (staging_folder / "records.bin").read_bytes() == MINE


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
        predict_run(open_run(Home(bench.folder / "home"), run.run_id), "val")
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
