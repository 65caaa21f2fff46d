"""Reads the samples of one tar, ours or anybody's, and never interprets a member that is not on the list.

Read are images (`jpg jpeg png webp`, and others only to say that they must be packed anew), facts (`json`, `cls`,
`txt`) and our own schema member. Every other member, pickles above all, is counted and skipped. As webdataset and DALI
do it, a member's extension is all after the first dot: `a.mask.png` is no image beside `a.png`, unless it is asked for.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards import images, index, tar
from shards.errors import InputError
from shards.limits import over
from shards.manifest import INDEX, SCHEMA_MEMBER
from shards.safe_io import is_regular
from shards.schema import is_skipped, stored_key_fault
from shards.typed_json import parse_object

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm", "pgm"})
FACTS = frozenset({"json", "cls", "txt"})
_REFUSED = "is refused: a shard holds plain files only"


@dataclass(frozen=True)
class Taking:
    """What is taken from tars of others.

    Args:
        label: where the label stands: `cls`, `txt`, or a field of the json (`a.b` for one within another) or of the
            Parquet file beside the tar, as img2dataset writes it; empty where none is wanted.
        image: the whole extension of the member that is the image; empty for the only one of an image's.
        prefix_keys: begin each key with the tar's name, for tars that number their samples anew.
    """

    label: str = ""
    image: str = ""
    prefix_keys: bool = False


@dataclass
class Scanned:
    """One tar.

    Args:
        rows: the index's columns but for the facts (`shards.index.PLACES`).
        facts: what each sample's `json`, `cls` and `txt` say, by name.
        labels: each sample's label as it stands there; None where there is none.
        members: (extension, offset, size, name) of all members of each sample, for DALI's index.
        ignored: extension -> number of members that were not read.
        fields: what a label could be taken from, at most a hundred.
        problems: (key, what is wrong) of samples that cannot be used.
        own: our schema member, if the tar is one of ours.
        old: whether it is older than USTAR.
        second: offset of what follows the end of the tar, if anything does.
    """

    name: str
    sha256: str = ""
    size: int = 0
    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in index.PLACES})
    facts: list[dict[str, Any]] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    members: list[list[tuple[str, int, int, str]]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    fields: set[str] = field(default_factory=set)
    problems: list[tuple[str, str]] = field(default_factory=list)
    own: dict[str, Any] | None = None
    old: bool = False
    second: int = 0

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Drops the samples whose row is not wanted."""
        rows = [row for row in range(len(self.facts)) if wanted(row)]
        if len(rows) < len(self.facts):
            self.facts = [self.facts[row] for row in rows]
            self.labels = [self.labels[row] for row in rows]
            self.members = [self.members[row] for row in rows]
            self.rows = {name: [values[row] for row in rows] for name, values in self.rows.items()}


@dataclass
class _Sample:
    key: str
    members: list[tuple[str, int, int, str]] = field(default_factory=list)
    images: list[tuple[tar.Member, bytes]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    label: Any = None
    problem: str = ""


def scan(path: Path, taking: Taking, name: str) -> Scanned:
    """Reads the tar at `path`, which the set calls `name`, once, from the first byte to the last.

    Raises:
        InputError: links, devices and the like; names tar and member.
        DamageError: the tar is cut or is none.
    """
    scanned = Scanned(name)
    walk = tar.Walk(path, lambda member: _is_read(member, taking) and _too_large(member) is None)
    scanning = _Scanning(scanned, taking)
    for member, content in walk:
        if member.kind == "folder":
            continue
        if member.kind != "file":
            raise InputError(f"{path}: member {member.name!r}, a {member.kind}, {_REFUSED}")
        if _plain(member.name) == SCHEMA_MEMBER:
            if (fault := _too_large(member)) is not None:
                raise InputError(f"{path}: {fault}")
            scanned.own = parse_object(content, f"{path}: member {member.name}")
            continue
        scanning.add(member, content)
    scanning.close()
    scanned.keep(lambda row: row not in scanning.apart)
    scanned.sha256, scanned.size, scanned.old, scanned.second = walk.sha256, walk.size, walk.old, walk.second
    if taking.label and any(label is None for label in scanned.labels):
        _read_side(path, scanned, taking)
    return scanned


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _split_name(name: str) -> tuple[str, str]:
    """(key, extension) of a member; the extension is empty where it belongs to no sample."""
    folder, slash, base = _plain(name).rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or is_skipped(_plain(name)):  # hidden files, files without extension, metadata
        return base, ""
    return folder + slash + stem, extension


def _is_image(extension: str, taking: Taking) -> bool:
    return extension == taking.image if taking.image else extension.lower() in IMAGES


def _is_read(member: tar.Member, taking: Taking) -> bool:
    _, extension = _split_name(member.name)
    return extension.lower() in FACTS or _is_image(extension, taking) or _plain(member.name) == SCHEMA_MEMBER


def _too_large(member: tar.Member) -> str | None:
    """Why a member that would be read is not."""
    extension = _split_name(member.name)[1].lower()
    most = "MANIFEST_BYTES" if _plain(member.name) == SCHEMA_MEMBER else "FACT_BYTES" if extension in FACTS else ""
    fault = over(most or "PICTURE_BYTES", member.size, "bytes")
    return None if fault is None else f"member {member.name!r}: {fault}"


class _Scanning:
    """Puts members together to samples.

    Attributes:
        apart: rows of samples of which further members stand elsewhere in the tar.
    """

    def __init__(self, scanned: Scanned, taking: Taking) -> None:
        self.scanned, self.taking = scanned, taking
        self.prefix = scanned.name.removesuffix(".tar") + "/" if taking.prefix_keys else ""
        self.sample: _Sample | None = None
        self.seen: dict[str, int] = {}
        self.apart: set[int] = set()

    def add(self, member: tar.Member, content: bytes) -> None:
        """Takes one member."""
        key, extension = _split_name(member.name)
        if not extension:
            self.scanned.ignored[key] += 1
            return
        if self.sample is None or self.sample.key != self.prefix + key:
            self.close()
            self.sample = _Sample(self.prefix + key)
            self.sample.problem = stored_key_fault(self.sample.key) or ""
        sample = self.sample
        if (fault := over("MEMBERS", len(sample.members) + 1, "members")) is not None:
            sample.problem = sample.problem or fault
            return
        if any(extension == other for other, *_ in sample.members):
            sample.problem = sample.problem or f"member {member.name!r} stands twice"
        sample.members.append((extension, member.offset, member.size, member.name))
        if _is_read(member, self.taking) and (fault := _too_large(member)) is not None:
            sample.problem = sample.problem or fault
        elif _is_image(extension, self.taking):
            sample.images.append((member, content))
        elif extension.lower() in FACTS:
            try:
                self._read(sample, extension.lower(), content)
                if (fault := over("FACTS", len(sample.facts), "facts")) is not None:
                    raise InputError(fault)
            except (ValueError, RecursionError) as error:
                sample.problem = sample.problem or f"member {member.name!r} cannot be read: {error}"
        else:
            self.scanned.ignored[extension] += 1

    def _read(self, sample: _Sample, extension: str, content: bytes) -> None:
        wanted, fields = self.taking.label, self.scanned.fields
        if extension == "json":
            value = json.loads(content)
            if not isinstance(value, dict):
                raise ValueError("not an object")
            sample.facts |= value
            if len(fields) < 100:
                fields.update(value, *({f"{k}.{inner}" for inner in v} for k, v in value.items() if type(v) is dict))
            if wanted not in ("", "cls", "txt"):
                sample.label = _field(value, wanted)
            return
        text = content.decode().strip() if extension == "cls" else content.decode()
        fields.add(extension)
        if wanted == extension:
            sample.label = int(text) if re.fullmatch(r"-?(0|[1-9][0-9]*)", text) else text
        if extension == "cls":
            sample.facts.setdefault("label", int(text) if re.fullmatch(r"-?[0-9]+", text) else text)
        else:
            sample.facts["text"] = text

    def close(self) -> None:
        """Adds the sample whose members are all read."""
        sample, self.sample = self.sample, None
        if sample is None:
            return
        problem = sample.problem or self._again(sample)
        self.seen.setdefault(sample.key, -1)
        if not problem:
            problem = _image_fault(sample)
        image = None
        if not problem:
            try:
                image = images.prepare(sample.images[0][1])
                if image.converted:
                    told = "which DALI does not decode as Pillow does; save it anew as a plain JPEG, PNG or WebP"
                    problem = f"{image.converted.upper()}, {told}"
            except images.BadImageError as error:
                problem = str(error)
        if problem or image is None:
            self.scanned.problems.append((sample.key, problem))
            return
        self.seen[sample.key] = len(self.scanned.facts)
        self._keep(sample, image)

    def _again(self, sample: _Sample) -> str:
        """What is wrong with a sample of whose key there was one before, if there was."""
        before = self.seen.get(sample.key)
        if before is None:
            return ""
        if sample.images and before >= 0:
            return "the key is doubled: an earlier sample of this tar has it"
        self.apart.add(before)
        return "its members do not stand together; unpack the tar and pack it with `tar --sort=name --format=ustar`"

    def _keep(self, sample: _Sample, image: images.Image) -> None:
        member, data = sample.images[0]
        place = (member.offset, member.size, zlib.crc32(data), sample.key, image.width, image.height)
        for name, value in zip(index.PLACES, place, strict=True):
            self.scanned.rows[name].append(value)
        self.scanned.facts.append(sample.facts)
        self.scanned.labels.append(sample.label)
        self.scanned.members.append(sample.members)


def _image_fault(sample: _Sample) -> str:
    """Why it cannot be told which member is the image, or nothing."""
    if len(sample.images) == 1:
        return ""
    if sample.images:
        names = " and ".join(member.name for member, _ in sample.images)
        return f"several images, {names}: --image EXTENSION takes one"
    others = [extension for extension, *_ in sample.members if extension.rpartition(".")[2].lower() in IMAGES]
    return "a sample without an image" + (f"; --image {others[0]} takes {others[0]}" if others else "")


def _field(value: Mapping[str, Any], name: str) -> Any:
    """The field `name` of a JSON object: under just this name, or `a.b` within another; None where there is none."""
    if name in value:
        found = value[name]
    else:
        first, dot, rest = name.partition(".")
        inner = value.get(first)
        found = _field(inner, rest) if dot and isinstance(inner, dict) else None
    return None if isinstance(found, float) and math.isnan(found) else found


def _read_side(path: Path, scanned: Scanned, taking: Taking) -> None:
    """Takes labels that the tar does not have from the Parquet file beside it, its columns `key` and the label's."""
    side = path.with_suffix(".parquet")
    if side.name == INDEX or not is_regular(side):
        return
    names, told = index.read_foreign(side, f", for the label {taking.label!r},", "key", taking.label)
    scanned.fields.update(names[:100])
    told_by = dict(zip(map(str, told.get("key", [])), told.get(taking.label, []), strict=True))
    for row, key in enumerate(scanned.rows["key"]):
        if scanned.labels[row] is None:
            scanned.labels[row] = told_by.get(key.removeprefix(f"{scanned.name.removesuffix('.tar')}/"))
