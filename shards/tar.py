"""Plain USTAR archives: writing headers by hand (two microseconds each) and walking foreign archives with suspicion.

The format is POSIX.1-1988 `ustar`: 512-byte headers, contents padded to 512 bytes, two zero blocks at the end.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from shards.errors import DamageError
from shards.safe_io import hole_fault, open_regular

BLOCK = 512
END = bytes(2 * BLOCK)

# The fields after the name and the size, for mode 0644, owner 0, time 0 and a regular file.
_OWNER = b"0000644\0" + 2 * b"0000000\0"
_TIME = b"00000000000\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_SUM = sum(_OWNER) + sum(_TIME) + 8 * ord(" ") + sum(_REST)
_ZEROS = bytes(BLOCK)
_MAX_SIZE = 8**11
_PACKERS = (
    (rb"\x1f\x8b", "gz", "gunzip"), (rb"BZh[1-9](1AY&SY|\x17rE8P)", "bz2", "bunzip2"), (rb"\xfd7zXZ\0", "xz", "unxz"),
    (rb"\x28\xb5\x2f\xfd", "zst", "unzstd --rm"), (rb"\x04\x22\x4d\x18", "lz4", "unlz4 --rm"),
)  # fmt: skip
_NO_TARS = (
    (rb"PK[\x03\x05]", "a zip archive", "unzip {0} -d DIR"), (rb"7z\xbc\xaf", "a 7z archive", "7z x {0} -oDIR"),
    (rb"Rar!\x1a", "a rar archive", "unrar x {0} DIR/"), (rb"version https://git-lfs", "a pointer of Git LFS", ""),
    (rb"\s*<(!DOCTYPE|html|\?xml)", "a web page, not what was to be downloaded", ""),
)  # fmt: skip
"""How other files begin (regular expressions), what they are, and what unpacks them."""


def header(name: bytes, size: int) -> bytes:
    """The 512 bytes before a regular file's content: mode 0644, no owner, mtime 0."""
    assert size < _MAX_SIZE, size
    prefix, rest = b"", _REST
    if len(name) > 100:
        cut = name.rfind(b"/", 0, 156)
        prefix, name = name[:cut], name[cut + 1 :]
        rest = _REST[:-167] + prefix.ljust(167, b"\0")
        assert cut > 0 and len(name) <= 100, name
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_SUM + sum(name) + sum(prefix) + sum(digits))
    return b"".join((name.ljust(100, b"\0"), _OWNER, digits, _TIME, checksum, rest))


def foreign(name: str, start: bytes) -> str:
    """What a file called a tar is instead, and what to type; empty where its first bytes tell nothing."""
    for begins, ending, tool in _PACKERS:
        if re.match(begins, start):
            packed = f"{name.partition('.tar')[0]}.tar.{ending}" if ".tar" in name else f"{name}.{ending}"
            return f"is compressed; `{'' if packed == name else f'mv {name} {packed} && '}{tool} {packed}`"
    for begins, what, unpack in _NO_TARS:
        if re.match(begins, start, re.IGNORECASE):
            todo = f"`{unpack.format(name)}`, and pack what comes out with --dataset" if unpack else "fetch it again"
            return f"not a tar header but {what}: {todo if 'LFS' not in what else '`git lfs pull` fetches the file'}"
    return ""


def padding(size: int) -> bytes:
    """The zeros after `size` bytes of content."""
    return _ZEROS[: -size % BLOCK]


def padded(size: int) -> int:
    """Bytes that a file of `size` bytes takes in a tar, header included."""
    return BLOCK + size + -size % BLOCK


@dataclass(frozen=True)
class Member:
    """One entry of a tar; `offset` is where its content begins."""

    name: str
    kind: str
    offset: int
    size: int


KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hard link", b"2": "symbolic link", b"3": "character device",
    b"4": "block device", b"5": "folder", b"6": "FIFO", b"x": "PAX header", b"g": "PAX header", b"L": "GNU long name",
    b"K": "GNU long link", b"S": "sparse file",
}  # fmt: skip
_WITHOUT_CONTENT = frozenset({"symbolic link", "hard link", "character device", "block device", "folder", "FIFO"})
_MAX_NAME_CONTENT = 1 << 20


class Walk:
    """The members of an uncompressed tar and their contents, read once from the first byte to the last.

    Nothing is extracted or interpreted but names: those in PAX and GNU headers are given to the member that follows.
    Iterating gives (member, content) and raises `DamageError` at a header with a wrong checksum, at content cut short
    and at a tar without an end; afterwards `sha256` and `size` are those of the whole file. The content of a member
    that is not `wanted` is empty, and goes by in pieces.

    Attributes:
        old: whether a header is older than USTAR (V7), which DALI does not read.
        second: offset of what follows the end of the tar, such as another tar; 0 where there are zeros only.
    """

    def __init__(self, path: Path, wanted: Callable[[Member], bool] = lambda _member: True) -> None:
        self.path = path
        self.size = self.second = 0
        self.old = False
        self._wanted = wanted
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """64 hex digits of what was read so far; of the whole file after iterating."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[tuple[Member, bytes]]:
        with os.fdopen(open_regular(self.path), "rb", buffering=1 << 20) as file:
            total = os.fstat(file.fileno()).st_size
            if (fault := hole_fault(file.fileno())) is not None:
                raise DamageError(self.path.name, "", 0, fault)
            long_name, last = "", ""
            while True:
                position = self.size
                block = self._read(file, BLOCK)
                if not position and (told := foreign(self.path.name, block)):
                    raise DamageError(self.path.name, "", 0, told)
                if len(block) < BLOCK:
                    reason = "the tar was cut: it has no zero blocks at its end" if total else "the tar is empty"
                    raise DamageError(self.path.name, last, position, reason)
                if block == _ZEROS:
                    self._read_rest(file)
                    return
                member = _parse(self.path, block, position)
                self.old = self.old or block[257:262] != b"ustar"
                if member.offset + member.size > total:
                    reason = f"the tar was cut: {member.size} bytes of content announced, {total - member.offset} there"
                    raise DamageError(self.path.name, member.name, member.offset, reason)
                if member.kind in ("PAX header", "GNU long name"):
                    if member.size > _MAX_NAME_CONTENT:
                        reason = f"a {member.kind} of {member.size} bytes"
                        raise DamageError(self.path.name, member.name, member.offset, reason)
                    content = self._read(file, member.size + -member.size % BLOCK)[: member.size]
                    long_name = _long_name(self.path, member, content, block[156:157]) or long_name
                    continue
                if long_name:
                    member, long_name = replace(member, name=long_name), ""
                last = member.name
                yield member, self._content(file, member)

    def _content(self, file: BinaryIO, member: Member) -> bytes:
        left = member.size + -member.size % BLOCK
        if self._wanted(member):
            return self._read(file, left)[: member.size]
        while left > 0 and (data := self._read(file, min(left, 1 << 20))):
            left -= len(data)
        return b""

    def _read_rest(self, file: BinaryIO) -> None:
        """Reads on behind the first block of zeros; anything else there is told in `second`."""
        while data := self._read(file, 1 << 20):
            if not self.second and data.count(0) < len(data):
                self.second = self.size - len(data.lstrip(b"\0"))

    def _read(self, file: BinaryIO, count: int) -> bytes:
        data = file.read(count)
        self._hash.update(data)
        self.size += len(data)
        return data


def _long_name(path: Path, member: Member, content: bytes, kind: bytes) -> str:
    """The name that a PAX or GNU header gives to the next member, if any."""
    if kind == b"L":
        return content.rstrip(b"\0").decode("utf-8", "surrogateescape")
    name = ""
    while kind == b"x" and content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or len(length) > 18 or not 0 < int(length) <= len(content):
            raise DamageError(path.name, member.name, member.offset, "a PAX header that cannot be read")
        record, content = content[len(length) + 1 : int(length) - 1], content[int(length) :]
        keyword, _, value = record.partition(b"=")
        if keyword == b"size":
            raise DamageError(path.name, member.name, member.offset, "a PAX header that overrides a size")
        if keyword == b"path":
            name = value.decode("utf-8", "surrogateescape")
    return name


def _parse(path: Path, block: bytes, position: int) -> Member:
    try:
        told = int(block[148:156].rstrip(b" \0") or b"0", 8)
        size = _number(block[124:136])
    except ValueError:
        raise DamageError(path.name, "", position, "not a tar header") from None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != told:
        raise DamageError(path.name, "", position, "not a tar header: its checksum does not match")
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    full = (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")
    kind = KINDS.get(block[156:157], f"entry of type {block[156:157]!r}")
    kind = "folder" if kind == "file" and full.endswith("/") else kind  # as V7 writes them
    return Member(full, kind, position + BLOCK, 0 if kind in _WITHOUT_CONTENT else size)


def _number(text: bytes) -> int:
    if text[0] & 0x80:  # GNU's base-256 for files over 8 GiB
        return int.from_bytes(text[1:], "big")
    return int(text.strip(b" \0") or b"0", 8)
