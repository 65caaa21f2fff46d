"""A filesystem that remembers "no such file" for 30 s, as NFS does, under one of two ranks and under the launcher.

bindfs makes it, in a mount namespace of the process that is to see it; a preset's container is the way into rank 1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_home import Workplace, read
from slurm_cluster import SlurmCluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("bindfs") is None or not Path("/dev/fuse").exists(),
        reason="bindfs, /dev/fuse and root make the filesystem",
    ),
]
REMEMBERS_S = 30
SEES_LATE = 'bindfs -o negative_timeout={seconds} "$HOME_SEEN" "$HOME_SEEN" && exec "$@"'


def seen_late(home: Path, argv: list[str]) -> list[str]:
    """The command in a mount namespace in which `home` is the filesystem that remembers misses."""
    return ["env", f"HOME_SEEN={home}", "unshare", "--mount", "sh", "-c", SEES_LATE.format(seconds=REMEMBERS_S), "sh",
            *argv]  # fmt: skip


@pytest.mark.fault(29)
def test_two_nodes_train_and_resume_and_a_launcher_follows_within_the_usual_time(
    slurm_cluster: SlurmCluster, make_home: Callable[[], Path], tmp_path: Path
) -> None:
    place = Workplace(make_home(), cluster="slurm")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "apptainer"
    late = SEES_LATE.format(seconds=REMEMBERS_S)
    wrapper.write_text(
        '#!/bin/bash\nshift\nwhile [ "$1" = --bind ]; do shift 2; done\nshift\n'
        '[ "$SLURM_PROCID" = 1 ] || exec "$@"\n'
        f"HOME_SEEN='{place.home}' exec unshare --mount sh -c '{late}' sh \"$@\"\n"
    )
    wrapper.chmod(0o755)
    preset = place.home / "late.toml"
    preset.write_text(f'container = "none.sif"\ncontainer_python = "{sys.executable}"\n')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    argv = place.launch_argv("--nodes", "2", "--preset", str(preset), "--wait", settings=("train.epochs=1",))
    began = time.monotonic()
    said = place.do(seen_late(place.home, argv), PATH=path)
    took_s = time.monotonic() - began
    run = place.run()
    assert said.status == 0, (said.err, [path.read_text() for path in (run / "logs").glob("*.err")])
    assert json.loads(said.out.splitlines()[-1])["state"] == "done"
    (attempt,) = read(run / "attempts.json")["attempts"]
    assert attempt["ranks"] == 2 and attempt["ended"] - attempt["started"] < REMEMBERS_S
    assert read(run / "state.json")["startup"]["process group"] < 10
    assert took_s < 2 * REMEMBERS_S
    assert subprocess.run(["mountpoint", "-q", str(place.home)], check=False).returncode != 0
