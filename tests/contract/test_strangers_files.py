"""Every path of the product that removes or replaces a file, with a stranger's file or link in its way."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from strangers import MINE, SMALL, Bench, unlisted

from fashion_dist.cluster import run_lock
from fashion_dist.cluster.worker import _forget_peers
from fashion_dist.data import memory
from fashion_dist.data.staging import stage
from fashion_dist.errors import CheckpointError, DamageError
from fashion_dist.models.pretrained import Published, fetch
from fashion_dist.paths import Home
from fashion_dist.report import make
from fashion_dist.report.archive import write_archive
from fashion_dist.report.dataset_card import write_card
from fashion_dist.report.run_data import read_facts
from fashion_dist.results.collect import _write
from fashion_dist.results.predict import predict_run
from fashion_dist.run_names import RunNames
from fashion_dist.runs import open_run
from fashion_dist.tracking import wandb_sync as syncing
from fashion_dist.train.checkpoint import Checkpoints
from shards import InputError, pack
from shards.locks import single_packer
from shards.readers import synthetic
from shards.reindex import reindex
from shards.verify import verify

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
        return path, lambda: predict_run(open_run(Home(bench.folder / "home").find_run(run.run_id)), "val")

    return case


def replaying(name: str) -> Callable[[Bench], Case]:
    def case(bench: Bench) -> Case:
        run = bench.run()
        path = bench.folder / "wandb" / name
        path.parent.mkdir(parents=True)
        config = open_run(Home(bench.folder / "home").find_run(run.run_id)).config
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
        with single_packer(bench.folder / "lock", "set"):
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
