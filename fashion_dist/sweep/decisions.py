"""Every decision about a trial with its reason, one JSON object a line; written under a lock, by many nodes."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Literal

from fashion_dist.cluster import run_lock
from fashion_dist.io import read_lines
from fashion_dist.paths import SweepDir
from shards.safe_io import open_regular

What = Literal["begins", "goes on", "is given up", "is the same as another"]


def note(folder: SweepDir, trial: int, what: What, reason: str, **facts: Any) -> None:
    """Add one line, on disk before this returns."""
    line = json.dumps({"trial": trial, "what": what, "reason": reason, **facts, "time": time.time()}) + "\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    with run_lock.file_lock(folder.path, "decisions"), os.fdopen(open_regular(folder.decisions, flags), "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a writer was killed in the middle
                file.write(b"\n")
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(folder: SweepDir) -> list[dict[str, Any]]:
    """All decisions, oldest first; a torn line, or one of another kind, is passed over."""
    kinds = {"trial": int, "what": str, "reason": str}
    found = read_lines(folder.decisions)
    return [value for value in found if all(isinstance(value.get(name), kind) for name, kind in kinds.items())]


def given_up(folder: SweepDir) -> dict[int, str]:
    """The trials that are not gone on with, and why."""
    ends = ("is given up", "is the same as another")
    return {value["trial"]: value["reason"] for value in read(folder) if value["what"] in ends}
