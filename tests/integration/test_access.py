"""The folder of a run or a sweep is its owner's alone, or a group's to read; the umask is respected."""

from __future__ import annotations

import grp
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_home import Workplace

SMALL = ("model.name=mlp", "data.image_px=16", "train.epochs=1")
GROUP = grp.getgrgid(sorted(os.getgroups() or [os.getegid()])[-1]).gr_name


def inside(folder: Path) -> list[tuple[Path, int]]:
    """The permissions of all that is in a folder, links left out."""
    return [(path, stat.S_IMODE(path.stat().st_mode)) for path in folder.rglob("*") if not path.is_symlink()]


def assert_open(folder: Path) -> None:
    """A group may read all of it and write nothing."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2750
    group = grp.getgrnam(GROUP).gr_gid
    assert folder.stat().st_gid == group
    readable = [(path, mode) for path, mode in inside(folder) if not path.name.endswith(".guard")]
    assert readable and [path for path, mode in readable if not mode & 0o040 or path.stat().st_gid != group] == []
    assert [path for path, mode in readable if path.is_dir() and not mode & 0o010] == []
    assert [path for path, mode in inside(folder) if mode & 0o027] == []


def launch(place: Workplace, umask: str, *flags: str) -> None:
    """Run to the end under a umask."""
    argv = place.launch_argv("--nodes", "2", "--wait", *flags, settings=SMALL)
    said = place.do(["bash", "-c", f"umask {umask}; {shlex.join(argv)}"])
    assert said.status == 0, said.err


def test_without_a_group_the_folder_is_closed_and_the_umask_stands(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    launch(place, "027")
    assert stat.S_IMODE(place.run().stat().st_mode) == 0o700
    assert [path for path, mode in inside(place.run()) if mode & 0o027] == []


def test_a_group_may_read_everything_and_write_nothing(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    launch(place, "077", "--group", GROUP)
    assert_open(place.run())


def test_a_sweep_and_its_trials_are_open_to_the_group(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    flags = ("--task", "deepfashion", "--cluster", "local", "--wandb", "off", "--wait", "--group", GROUP)
    argv = place.argv("sweep", *flags, "--set", *SMALL, "train.batch_size=32", "optim.lr=0.001,0.002")
    said = place.do(["bash", "-c", f"umask 077; {shlex.join(argv)}"])
    assert said.status == 0, said.err
    assert len(place.runs) == 2
    for folder in (*place.runs, *(place.home / "sweeps").iterdir()):
        assert_open(folder)


def test_a_group_that_is_not_there_is_refused(packed_home: Path) -> None:
    said = Workplace(packed_home).launch("--group", "no-such-group")
    assert said.status == 2 and "group 'no-such-group' is unknown; yours: " in said.err
    assert Workplace(packed_home).runs == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(make_home: Callable[[], Path]) -> None:
    place = Workplace(make_home())
    said = place.launch("--dry-run", settings=SMALL)
    run = place.home / "runs" / said.json["run_id"]
    run.mkdir(parents=True)
    os.chown(run, 12345, -1)
    said = place.launch(settings=SMALL)
    assert said.status == 2 and f"{run} belongs to 12345" in said.err
    assert list(run.iterdir()) == []
