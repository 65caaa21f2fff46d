"""Reads the samples of one tar, ours or anybody's, and never interprets a member that is not on the list.

Read are images (`jpg jpeg png webp`, and others only to say that they must be packed anew), facts (`json`, `cls`,
`txt`) and our own schema member. Every other member, pickles above all, is counted and skipped.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards import images, tar
from shards.errors import InputError
from shards.manifest import SCHEMA_MEMBER
from shards.schema import stored_key_fault
from shards.typed_json import parse_object

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm", "pgm"})
FACTS = frozenset({"json", "cls", "txt"})
_REFUSED = "is refused: a shard holds plain files only"


@dataclass
class Scanned:
    """One tar.

    Args:
        rows: the index's columns but for the facts (`shards.index.PLACES`).
        facts: what each sample's `json`, `cls` and `txt` say, by name.
        members: (extension, offset, size, name) of all members of each sample, for DALI's index.
        ignored: extension -> number of members that were not read.
        problems: samples that cannot be used, one sentence each.
        own: our schema member, if the tar is one of ours.
    """

    name: str
    sha256: str = ""
    size: int = 0
    rows: dict[str, list[Any]] = field(
        default_factory=lambda: {name: [] for name in ("offset", "size", "crc32", "key", "width", "height")}
    )
    facts: list[dict[str, Any]] = field(default_factory=list)
    members: list[list[tuple[str, int, int, str]]] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    own: dict[str, Any] | None = None


@dataclass
class _Sample:
    key: str
    members: list[tuple[str, int, int, str]] = field(default_factory=list)
    image: tuple[tar.Member, bytes] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def scan(path: Path, count: Callable[[int], Any]) -> Scanned:
    """Reads the tar at `path` once, from the first byte to the last.

    Raises:
        InputError: links, devices, absolute names and the like; names tar and member.
        DamageError: the tar is cut or is none.
    """
    scanned = Scanned(path.name)
    walk = tar.Walk(path)
    sample: _Sample | None = None
    for member, content in walk:
        if member.kind == "folder":
            continue
        if member.kind != "file":
            raise InputError(f"{path}: member {member.name!r}, a {member.kind}, {_REFUSED}")
        name = member.name.removeprefix("./")
        folder, slash, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if name == SCHEMA_MEMBER:
            scanned.own = parse_object(content, f"{path}: member {name}")
            continue
        if not stem or not dot or name.startswith("__"):  # hidden files, files without extension, metadata
            scanned.ignored[base] = scanned.ignored.get(base, 0) + 1
            continue
        key = folder + slash + stem
        if sample is None or sample.key != key:
            _close(scanned, sample, count)
            fault = stored_key_fault(key)
            if fault is not None:
                raise InputError(f"{path}: member {member.name!r}: {fault}")
            sample = _Sample(key)
        sample.members.append((extension, member.offset, member.size, member.name))
        _take(scanned, sample, member, extension.lower(), content)
    _close(scanned, sample, count)
    scanned.sha256, scanned.size = walk.sha256, walk.size
    return scanned


def _take(scanned: Scanned, sample: _Sample, member: tar.Member, extension: str, content: bytes) -> None:
    kind = extension.rpartition(".")[2]
    if kind in IMAGES:
        if sample.image is None:
            sample.image = (member, content)
        else:
            scanned.ignored[extension] = scanned.ignored.get(extension, 0) + 1
    elif extension in FACTS:
        try:
            if extension == "json":
                value = json.loads(content)
                if not isinstance(value, dict):
                    raise ValueError("not an object")
                sample.facts |= value
            elif extension == "cls":
                sample.facts["label"] = int(content)
            else:
                sample.facts["text"] = content.decode()
        except (ValueError, RecursionError) as error:
            sample.problem = f"member {member.name!r} cannot be read: {error}"
    else:
        scanned.ignored[extension] = scanned.ignored.get(extension, 0) + 1


def _close(scanned: Scanned, sample: _Sample | None, count: Callable[[int], Any]) -> None:
    """Adds a sample whose members are all read."""
    if sample is None:
        return
    count(1)
    problem = sample.problem
    if sample.image is None:
        problem = problem or "a sample without an image"
    else:
        member, data = sample.image
        try:
            image = images.prepare(data)
            if image.converted:
                problem = (
                    problem or f"{image.converted.upper()}, which DALI cannot decode; store it as JPEG, PNG or WebP"
                )
        except images.BadImageError as error:
            problem = problem or str(error)
    if problem or sample.image is None:
        scanned.problems.append((sample.key, problem))
        return
    place = {
        "offset": member.offset,
        "size": member.size,
        "crc32": zlib.crc32(data),
        "key": sample.key,
        "width": image.width,
        "height": image.height,
    }
    for name, value in place.items():
        scanned.rows[name].append(value)
    scanned.facts.append(sample.facts)
    scanned.members.append(sample.members)
