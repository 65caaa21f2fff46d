"""Which tars are meant: a folder with all below it, tars by name, or names with `{00..99}` and `*` in them."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.errors import InputError
from shards.labels import natural, shown
from shards.manifest import index_name
from shards.safe_io import name_fault, open_regular, require_regular
from shards.tar import BLOCK, foreign

_PACKED = re.compile(r".*\.(tar\.(gz|xz|bz2|zst)|tgz|txz|tbz2?)")
_UNPACK = {"gz": "gunzip", "tgz": "gunzip", "xz": "unxz", "txz": "unxz", "zst": "unzstd --rm"}
_MAX_TARS = 1_000_000


def find(named: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """The folder of the tars, their paths relative to it in natural order, and compressed ones that lie beside them.

    Args:
        named: a folder, or tars, also as `train-{00000..00146}.tar` or `train-*.tar`.

    Raises:
        InputError: there are none, some are missing or are links, or a name is not one that a set can have.
    """
    folders = [name for name in named if Path(name).is_dir()]
    if folders and len(named) > 1:
        raise InputError(f"{folders[0]} is a folder; allowed: one folder, or any number of .tar files")
    if folders:
        folder = Path(folders[0])
        files = [path.relative_to(folder) for path in _below(folder)]
        tars = [path.as_posix() for path in files if path.suffix == ".tar"]
        packed = sorted(path.as_posix() for path in files if _PACKED.fullmatch(path.name))
    else:
        paths = [path.absolute() for name in named for path in _expanded(name)]
        lost = [path.name for path in paths if not os.path.lexists(path)]
        if lost and lost == [Path(name).name for name in named] and ".tar" not in lost[0]:
            raise InputError(f"{named[0]} holds no .tar files: it does not exist")
        if lost:
            raise InputError(f"{paths[0].parent}: {len(lost)} of {len(paths)} tars do not exist: {shown(lost)}")
        folder = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path(named[0])
        tars = [path.relative_to(folder).as_posix() for path in paths]
        packed = [name for name in tars if _PACKED.fullmatch(name)]
        tars = sorted({*tars} - {*packed})
        if odd := [name for name in tars if not name.endswith(".tar")]:
            raise InputError(f"{folder / odd[0]} is no .tar file, nor a folder of them")
    if packed and not tars:
        raise InputError(
            f"{folder} holds no .tar files but compressed ones: {shown(packed)}; {unpacking(folder / packed[0])}"
        )
    if not tars:
        raise InputError(f"{folder} holds no .tar files")
    for name in tars:
        require_regular(folder / name)
        faults = [fault for part in name.split("/") if (fault := name_fault(part)) is not None]
        if faults:
            raise InputError(f"{folder / name}: {faults[0]}; rename it")
    flat = {index_name(name): name for name in tars}
    if len(flat) < len(tars):
        twin = next(name for name in tars if flat[index_name(name)] != name)
        raise InputError(f"{folder}: {twin} and {flat[index_name(twin)]} would share one index; rename one")
    return folder, sorted(tars, key=natural), packed


def unpacking(path: Path) -> str:
    """How to make a tar that can be read in place of one that is called compressed, by what it is."""
    start = b""
    with contextlib.suppress(InputError, OSError), os.fdopen(open_regular(path), "rb") as file:
        start = file.read(BLOCK)
    told = foreign(path.name, start)
    tool = _UNPACK.get(path.suffix[1:], "bunzip2")
    if told and f"{tool} " not in told:
        return f"{path.name} {told}"
    return f"samples are read where they lie, so unpack it: {tool} {path.name}"


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder; hidden folders and those of systems are none of it."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        odd = [name for name in folders if name.endswith(".tar")]  # refused later: no regular file
        yield from (Path(root) / name for name in [*files, *odd] if not name.startswith("."))


def _expanded(name: str) -> list[Path]:
    """The paths that a name with braces and stars in it stands for."""
    if re.match(r"(pipe|[a-z][a-z0-9+]+):", name):
        raise InputError(f"{name!r} is an address, not a file; copy the tars to a disk first")
    found: list[Path] = []
    for one in [] if os.path.lexists(name) else _braces(name):
        if glob.has_magic(one):
            matches = sorted(Path(one).parent.glob(Path(one).name), key=lambda path: natural(path.name))
            if not matches:
                raise InputError(f"{one}: no file has such a name")
            found += matches
        else:
            found.append(Path(one))
    return found or [Path(name)]  # which is there, whatever signs are in it


def _braces(text: str) -> Iterator[str]:
    """`a{0..2}` as `a0`, `a1`, `a2`, and `{a,b}` as `a`, `b`, as shells expand them."""
    match = re.search(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}", text)
    if match is None:
        yield text
        return
    first, last, words = match.groups()
    if words is None:
        low, high = int(first), int(last)
        if not low <= high < low + _MAX_TARS:
            raise InputError(f"{text!r}: {{{first}..{last}}} is no range; the lower number comes first")
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        parts = [f"{number:0{width}d}" for number in range(low, high + 1)]
    else:
        parts = words.split(",")
    for part in parts:
        yield from _braces(text[: match.start()] + part + text[match.end() :])
