"""The staging folder of a set, and which files beside it are ours to replace.

Ours are the files that the set's manifest lists, and those that the list of an interrupted packing or indexing does:
it is written to `.packing/ours.json` before the old manifest goes and the first file gets its final name.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from shards.errors import DamageError, InputError
from shards.manifest import MANIFEST, Manifest, fsync_folder
from shards.safe_io import name_fault, private_folder, read_regular, some, write_whole

STAGING = ".packing"
_OURS = "ours.json"
_FILES = re.compile(
    r"lock|records\.bin|order\.npy|(plan|ours|manifest)\.json|rejected\.csv"
    r"|[A-Za-z0-9._-]+\.(tar|idx|rows\.json|parquet)|\.[A-Za-z0-9._-]+\.tmp"
)
BEFORE = "before"
"""Manifest and index as they were before a split was replaced."""
_FOLDERS = ("planning", "array", BEFORE)


def begin(out: Path) -> Path:
    """The staging folder in `out`: private, and with nothing in it that we do not put there; made if it is missing.

    Raises:
        InputError: it is a link, somebody else's, writable by others, or holds other things; nothing was touched.
    """
    staging = private_folder(out / STAGING)
    with os.scandir(staging) as entries:
        odd, lock = [], False
        for entry in entries:
            lock = lock or entry.name == "lock"
            try:
                kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
            except FileNotFoundError:  # a worker of a packer that was killed just now renamed it
                continue
            folder = kind == stat.S_IFDIR and entry.name in _FOLDERS
            if not folder and not (kind == stat.S_IFREG and _FILES.fullmatch(entry.name)):
                odd.append(entry.name)
    if odd:
        raise InputError(f"{staging} holds {some(odd)}, which no packing puts there; move the folder away")
    if not lock and any(staging.iterdir()):
        raise InputError(f"{staging} has no lock file, so no packing made it; move the folder away")
    return staging


def clear(staging: Path, keep: Collection[str] = ()) -> None:
    """Remove all but the lock, the list of what is ours, and `keep`."""
    for path in staging.iterdir():
        if path.name in ("lock", _OURS, *keep):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove(staging: Path) -> None:
    """Remove the folder; whenever that is killed, `begin` takes what is left, for the lock goes last."""
    (staging / _OURS).unlink(missing_ok=True)
    clear(staging)
    (staging / "lock").unlink(missing_ok=True)
    staging.rmdir()


def is_needed(staging: Path) -> bool:
    """Whether an interrupted packing, adding or indexing cannot be continued without the folder."""
    return any(path.exists() for path in (staging / _OURS, staging / BEFORE / MANIFEST, *staging.glob("*.rows.json")))


@contextlib.contextmanager
def removed_if_refused(staging: Path, created: Collection[Path] = ()) -> Iterator[None]:
    """Leaves neither the folder nor those `created` for it where what was asked is refused and nothing was finished."""
    try:
        yield
    except InputError:
        if not is_needed(staging):
            with contextlib.suppress(OSError):
                remove(staging)
                for folder in created:
                    folder.rmdir()
        raise


def ours(out: Path) -> set[str]:
    """Names in `out` that packing or indexing wrote; raises InputError where a manifest that would tell is damaged."""
    names: set[str] = set()
    try:
        names.update(json.loads(read_regular(out / STAGING / _OURS)))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{out / STAGING / _OURS} cannot be read; move {out / STAGING} away") from None
    if any(name_fault(name) for name in names):
        raise InputError(f"{out / STAGING / _OURS} is not a list of files; move {out / STAGING} away")
    try:
        names |= Manifest.load(out).files
    except FileNotFoundError:
        pass
    except (DamageError, InputError) as error:
        raise InputError(
            f"{error}; so nothing tells which files in {out} may be replaced: move them away or use --out DIR"
        ) from None
    return names


def refuse_strangers(out: Path, known: Collection[str], wanted: Collection[str], every_tar: bool) -> None:
    """Raise InputError where a file that is not ours has a name that we want, or where any tar is not ours."""
    there = (path.name for path in out.iterdir() if path.name not in known)
    found = [name for name in there if name in wanted or (every_tar and name.endswith(".tar"))]
    if found:
        raise InputError(
            f"{out} holds {len(found)} file{'s' * (len(found) > 1)} that no manifest there lists as ours: "
            f"{some(found)}; nothing was touched: move them away or use --out DIR"
        )


def publish(out: Path, staging: Path, names: Collection[str], *, keep_tars: bool = False) -> None:
    """Give the staged files `names` their final names, and remove what else is ours; the manifest is gone after it.

    May be killed and run again: what is already moved stays where it is.

    `names` are all files of the new set that are written by us, but its manifest; `keep_tars` leaves tars and tables of
    the old one where they are.

    Raises:
        InputError: a file that is not ours has one of the names; nothing was touched.
    """
    known = ours(out)
    same = {name for name in names if _same(staging / name, out / name)}
    refuse_strangers(out, known | same, names, every_tar=not keep_tars)
    write_whole(staging / _OURS, json.dumps(sorted({*known, *names, MANIFEST})).encode())
    fsync_folder(staging)
    (out / MANIFEST).unlink(missing_ok=True)
    for name in sorted(names):
        if (staging / name).exists():
            (staging / name).replace(out / name)
    for name in known - {*names, MANIFEST}:
        kept = keep_tars and name.endswith((".tar", ".parquet"))
        if not kept and os.path.lexists(out / name):
            (out / name).unlink()
    fsync_folder(out)


def _same(one: Path, other: Path) -> bool:
    """Whether both are there with the same bytes, so that replacing one by the other loses nothing."""
    return one.is_file() and other.is_file() and not other.is_symlink() and filecmp.cmp(one, other, shallow=False)
