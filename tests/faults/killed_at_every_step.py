"""Kills what it is told to run before each of its file operations, one after the other, and runs it again.

    python killed_at_every_step.py pack|replace|reindex|draw FOLDER

Prints how many kills there were. The operations are the interpreter's audit events; writes to an open file have none.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "shards")]

from sources import tree_hash, write_csv_source  # noqa: E402

from shards import PackOptions, pack  # noqa: E402
from shards.readers import deep_fashion, synthetic  # noqa: E402, F401
from shards.reindex import reindex  # noqa: E402

STEPS = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}


def child(action: Callable[[], object], killed_before: int = 0) -> int:
    """The wait status of `action` in a forked process that is killed before that many steps, counted from 1."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    steps = 0

    def audit(event: str, values: tuple[object, ...]) -> None:
        nonlocal steps
        writes = event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in STEPS or writes:
            steps += 1
            if steps == killed_before:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        if killed_before:
            sys.addaudithook(audit)
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(what: str, work: Path) -> None:
    source, out = work / "source", work / "out"
    options = PackOptions(shard_mb=0.01)
    synthetic.COUNTS = {"train": 3, "val": 2, "test": 2}

    def packed(**more: bool) -> None:
        pack("deep_fashion", source, out, options, **more)

    def before() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out.with_name(out.name + ".tmp"), ignore_errors=True)
        if what in ("replace", "reindex"):
            packed()
        if what == "reindex":
            (out / "manifest.json").unlink()
        if what == "draw":
            synthetic.draw(out, 1, 1, lambda *_: None)

    write_csv_source(source, train=12, val=2, test=2)
    if what == "replace":
        packed()
        write_csv_source(work / "other", train=9, val=3, test=2)
    action = {
        "pack": packed,
        "replace": lambda: pack("deep_fashion", work / "other", out, options, replace=True),
        "reindex": lambda: reindex(out),
        "draw": lambda: synthetic.draw(out, 2, 1, lambda *_: None),
    }[what]
    before()
    assert child(action) == 0
    whole = tree_hash(out)
    kills = 0
    while True:
        before()
        if not os.WIFSIGNALED(child(action, kills + 1)):
            break
        kills += 1
        assert child(action) == 0, f"run again after a kill before step {kills}: refused"
        assert tree_hash(out) == whole, f"run again after a kill before step {kills}: another set"
    print(kills)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
