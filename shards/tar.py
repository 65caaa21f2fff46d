"""Plain USTAR archives: writing headers by hand (two microseconds each) and walking foreign archives with suspicion.

The format is POSIX.1-1988 `ustar`: 512-byte headers, contents padded to 512 bytes, two zero blocks at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.errors import DamageError

BLOCK = 512
END = bytes(2 * BLOCK)

_TEMPLATE = bytearray(BLOCK)
_TEMPLATE[100:108] = b"0000644\0"
_TEMPLATE[108:116] = _TEMPLATE[116:124] = b"0000000\0"
_TEMPLATE[136:148] = b"00000000000\0"
_TEMPLATE[148:156] = b" " * 8
_TEMPLATE[156:157] = b"0"
_TEMPLATE[257:265] = b"ustar\x0000"
_TEMPLATE[329:337] = _TEMPLATE[337:345] = b"0000000\0"
_TEMPLATE_SUM = sum(_TEMPLATE)
_ZEROS = bytes(BLOCK)
_MAX_SIZE = 8**11


def header(name: bytes, size: int) -> bytes:
    """The 512 bytes before a regular file's content: mode 0644, no owner, mtime 0."""
    assert len(name) <= 100, name
    assert size < _MAX_SIZE, size
    block = bytearray(_TEMPLATE)
    digits = b"%011o\0" % size
    block[: len(name)] = name
    block[124:136] = digits
    block[148:156] = b"%06o\0 " % (_TEMPLATE_SUM + sum(name) + sum(digits))
    return bytes(block)


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
    linkname: str = ""

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + self.size + -self.size % BLOCK


KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hard link", b"2": "symbolic link", b"3": "character device",
    b"4": "block device", b"5": "folder", b"6": "FIFO", b"x": "PAX header", b"g": "PAX header", b"L": "GNU long name",
    b"K": "GNU long link", b"S": "sparse file",
}  # fmt: skip


def walk(path: Path) -> Iterator[Member]:
    """The members of an uncompressed tar in order, read header by header; nothing is extracted.

    Raises:
        DamageError: a header with a wrong checksum, content cut short, or no end; names the offset.
    """
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        position, name = 0, ""
        while True:
            file.seek(position)
            block = file.read(BLOCK)
            if len(block) < BLOCK:
                raise DamageError(path.name, name, position, "the tar ends without its two zero blocks: it was cut")
            if block == _ZEROS:
                return
            member = _parse(path, block, position)
            if member.offset + member.size > total:
                reason = f"{member.size} bytes of content announced, {max(0, total - member.offset)} there"
                raise DamageError(path.name, member.name, member.offset, reason)
            yield member
            position, name = member.end, member.name


def _parse(path: Path, block: bytes, position: int) -> Member:
    try:
        told = int(block[148:156].rstrip(b" \0") or b"0", 8)
        size = _number(block[124:136])
    except ValueError:
        raise DamageError(path.name, "", position, "not a tar header") from None
    if sum(block) - sum(block[148:156]) + 8 * 32 != told:
        raise DamageError(path.name, "", position, "not a tar header: its checksum does not match")
    name = block[:100].rstrip(b"\0")
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    full = (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")
    kind = KINDS.get(block[156:157], f"entry of type {block[156:157]!r}")
    if kind in ("symbolic link", "hard link", "character device", "block device", "folder", "FIFO"):
        size = 0
    link = block[157:257].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return Member(full.split("\0", 1)[0], kind, position + BLOCK, size, link)


def _number(text: bytes) -> int:
    if text[0] & 0x80:  # GNU's base-256 for files over 8 GiB
        return int.from_bytes(text[1:], "big")
    return int(text.strip(b" \0") or b"0", 8)
