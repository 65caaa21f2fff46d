"""Which code a run was launched with: a hash of the two packages, and a copy of them for ranks that start later.

A checkout may change while a job waits in the queue, and an editable install elsewhere may be another one: the launcher
writes the hash of its own code down, and each rank compares it with that of the code it runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import fashion_dist
import shards

_SHOWN = 12


def _packages() -> list[Path]:
    return [Path(path) for package in (fashion_dist, shards) for path in package.__path__]


def code_hash() -> str:
    """SHA-256 over the names and contents of the packages' Python files, the user's tasks and models among them.

    Costs some 10 ms: about 200 files, 1.2 MB.
    """
    digest = hashlib.sha256()
    for package in _packages():
        for path in sorted(package.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package.parent).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:_SHOWN]


def difference(launched: str, running: list[str]) -> str:
    """The sentence about ranks `running` other code than was `launched`; empty where none does or nobody noted that."""
    others = sorted({code for code in running if code != launched}) if launched else []
    if not others:
        return ""
    where = "" if len(set(running)) == 1 else f" on {sum(code != launched for code in running)} of {len(running)} ranks"
    return f"this attempt ran other code than was launched{where}: {launched} -> {', '.join(others)}"


def snapshot(folder: Path) -> Path:
    """Copy both packages to `folder`/HASH, unless that is there; returns it, which goes on the ranks' PYTHONPATH."""
    made = folder / code_hash()
    if made.is_dir():
        return made
    folder.mkdir(exist_ok=True)
    half = folder / f".{made.name}.{os.getpid()}"
    for package in _packages():
        shutil.copytree(package, half / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    half.rename(made)
    return made
