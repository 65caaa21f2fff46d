"""Packing, killed at random moments, on a disk that fills up, and with a million records."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards import ShardSet, pack
from shards.verify import verify

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "shards"))
from sources import final_names, tree_hash, write_csv_source  # noqa: E402 - beside the unit tests of the same package

pytestmark = pytest.mark.fault(11)


def command(source: Path, out: Path, *flags: str) -> list[str]:
    job = [sys.executable, str(ROOT / "jobs" / "pack.py"), "--dataset", "deep_fashion", "--source", str(source)]
    return [*job, "--out", str(out), "--shard-mb", "0.05", *flags]


def processes_of_session(session: int) -> list[int]:
    """Those that still run, of /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, belongs = path.read_text().rpartition(")")[2].split()[:4]
            if int(belongs) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("workers", [("1",), ("2",), ("2", "--resize", "12")], ids=" ".join)
def test_killed_at_random_moments_and_run_again_gives_the_same_bytes(tmp_path: Path, workers: tuple[str]) -> None:
    """One thread of decoding, two, and two processes, which Pillow's encoding takes."""
    source = write_csv_source(tmp_path / "deep_fashion", train=900, val=60, test=60)
    begin = time.monotonic()
    subprocess.run(command(source, tmp_path / "whole", "--workers", *workers), check=True, capture_output=True)
    usual_s = time.monotonic() - begin
    whole = tree_hash(tmp_path / "whole")
    randomly = random.Random(len(workers))
    reached = set()
    for attempt in range(6):
        out = tmp_path / f"out{attempt}"
        process = subprocess.Popen(
            command(source, out, "--workers", *workers), start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(randomly.uniform(0.1, 1.05) * usual_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 10
        while left := processes_of_session(process.pid):
            assert time.monotonic() < deadline, f"processes {left} outlive the packer"
            time.sleep(0.05)
        finished = sorted((out / ".packing").glob("*.rows.json")) if (out / ".packing").is_dir() else []
        reached.add("packed" if (out / "manifest.json").exists() else "shards" if finished else "before")
        before = {path: path.stat().st_mtime_ns for path in finished}
        again = subprocess.run(command(source, out, "--workers", *workers), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert tree_hash(out) == whole
        assert all(not path.exists() for path in before)  # the staging folder is gone
        shutil.rmtree(out)
    print("killed", sorted(reached))


@pytest.mark.parametrize("what", ["replace", "reindex", "draw"])
def test_killed_before_any_file_operation_and_run_again(tmp_path: Path, what: str) -> None:
    program = ROOT / "tests" / "faults" / "killed_at_every_step.py"
    told = subprocess.run([sys.executable, program, what, tmp_path], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not possible here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("filler_kb", [0, 200, 330, 396])
def test_a_full_disk_says_so_and_leaves_no_final_names(tmp_path: Path, small_disk: Path, filler_kb: int) -> None:
    """The filler makes the disk full at different steps; it is written after the check of the free space."""
    source = write_csv_source(tmp_path / "deep_fashion", train=300, val=20, test=20)
    (small_disk / "filler").write_bytes(bytes(filler_kb * 1024))
    told = subprocess.run(command(source, small_disk / "set"), capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].startswith(f"error: no space left for {small_disk / 'set'}")
    assert " bytes needed, " in told.stderr
    assert final_names(small_disk / "set") == []
    subprocess.run(command(source, tmp_path / "elsewhere"), check=True, capture_output=True)
    assert verify(tmp_path / "elsewhere") == []


def test_a_disk_that_fills_up_while_packing_is_told_as_well(tmp_path: Path, small_disk: Path) -> None:
    source = write_csv_source(tmp_path / "deep_fashion", train=300, val=20, test=20)
    code = (
        "import sys; from pathlib import Path; import shards.packing as p; from shards import pack, PackOptions\n"
        "p.check_space = lambda out, todo: None  # somebody else fills the disk after the check\n"
        "pack('deep_fashion', Path(sys.argv[1]), Path(sys.argv[2]), PackOptions(shard_mb=0.05))"
    )
    process = [sys.executable, "-c", code, str(source), str(small_disk / "set")]
    told = subprocess.run(process, capture_output=True, text=True, cwd=ROOT)
    assert "SpaceError: no space left for" in told.stderr
    assert final_names(small_disk / "set") == []
    pack("deep_fashion", source, tmp_path / "elsewhere")
    assert ShardSet.open(tmp_path / "elsewhere").splits["train"] == 300


@pytest.mark.slow
def test_memory_of_packing_grows_by_less_than_500_bytes_a_record(tmp_path: Path) -> None:
    """Planning, packing and indexing tiny images made by a reader, in one process."""
    code = """
import sys
from pathlib import Path
from shards import PackOptions, Record, Schema, ShardSet, pack, readers
from shards.readers import Reader, Source
from shards.readers.fashion_mnist import gray_png
import numpy as np
image, count, folder = gray_png(np.zeros((1, 1), np.uint8)), int(sys.argv[1]), Path(sys.argv[2])
def records():
    for n in range(count):
        yield Record(f"folder/{n:07d}", image, {"label": n % 10, "row": n}, "train" if n % 10 else "val")
source = Source(Schema({"label": "int", "row": "int"}), folder, records)
readers.load = lambda name: Reader("", lambda path, options: source)
pack("many", folder, folder / "out", PackOptions(check="header"))
# Not getrusage's: its maximum begins with that of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
split = ShardSet.open(folder / "out").split("train")
assert split.columns("row")["row"].shape == (9 * count // 10,) == split.offset.shape
"""

    def peak_kib(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        told = subprocess.run(
            [sys.executable, "-c", code, str(count), folder], capture_output=True, text=True, cwd=ROOT
        )
        assert told.returncode == 0, told.stderr
        return int(told.stdout)

    few, many = peak_kib(100_000), peak_kib(400_000)
    print(f"peak {few >> 10} and {many >> 10} MiB")
    assert (many - few) * 1024 / 300_000 < 500
