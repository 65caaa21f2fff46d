"""The records of a source written to one file, so that a million of them take little memory."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shards import tar
from shards.errors import InputError
from shards.portable import pread
from shards.readers import Rejected, Source
from shards.safe_io import create
from shards.schema import Record, encode_key, folded, key_fault, split_fault, whole_characters

if TYPE_CHECKING:
    from shards.pack_plan import PackOptions

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class Entry(NamedTuple):
    """One spooled record; `facts` is JSON, `inline` the image where the reader made it."""

    key: str
    split: str
    size: int
    facts: str
    path: str
    where: str
    inline: bytes = b""

    @property
    def source(self) -> str:
        """How messages name it."""
        return f"{self.path or self.key} ({self.where})" if self.where else self.path or self.key


def read_entry(spool: int, offset: int, text_bytes: int, inline_bytes: int) -> Entry:
    """The record at a place of an open spool."""
    data = pread(spool, text_bytes + inline_bytes, offset)
    key, split, size, facts, path, where = data[:text_bytes].decode("utf-8", "surrogateescape").split("\0")
    return Entry(key, split, int(size), facts, path, where, data[text_bytes:])


class Spool:
    """Writes the records down and keeps some 60 bytes of each in memory."""

    def __init__(self, path: Path, source: Source, options: PackOptions) -> None:
        self.source, self.schema, self.skip_bad = source, source.schema, options.skip_bad
        self.problems: list[str] = []
        self.content = hashlib.blake2b(json.dumps([source.schema.to_json(), options.shaping]).encode())
        self.files_hash = hashlib.blake2b()
        self.seed = options.seed.to_bytes(8, "little", signed=True)
        self.file = os.fdopen(create(path), "wb", buffering=1 << 20)
        self.path = path
        self.position = 0
        self.places, self.sizes, self.splits, self.order = array("q"), array("q"), array("B"), array("Q")
        self.folded = bytearray()
        self.split_names: list[str] = []
        self.files = _Files(source.root)

    def add(self, record: Record) -> None:
        """Spools one record, or notes why it cannot be."""
        where = record.where or record.key
        fault, size, mtime = key_fault(record.key), 0, 0
        if fault is None and isinstance(record.image, bytes):
            size = len(record.image)
        elif fault is None:
            fault, size, mtime = self.files.look(str(record.image))
        if fault is not None and self.skip_bad:
            self.source.rejected.append(Rejected(where, record.key, fault))
            return
        fault = fault or self.schema.fault(record.columns) or split_fault(record.split)
        if fault is not None:
            self.problems.append(f"{where}: {fault}")
            return
        key = encode_key(record.key)
        facts = whole_characters(_ENCODE(record.columns))
        inline, path = (record.image, "") if isinstance(record.image, bytes) else (b"", str(record.image))
        content = f"{key}\0{record.split}\0{size}\0{facts}".encode()
        text = content + f"\0{path}\0{record.where}".encode("utf-8", "surrogateescape")
        self.content.update(b"%d %b%b" % (len(content), content, inline))
        self.files_hash.update(f"{path}\0{mtime}\0".encode("utf-8", "surrogateescape"))
        self.file.write(text + inline)
        self.places.extend((self.position, len(text), len(inline)))
        self.position += len(text) + len(inline)
        self.sizes.append(tar.padded(size) + tar.padded(len(facts)))
        self.splits.append(self._split(record.split))
        hashed = hashlib.blake2b(self.seed + key.encode(), digest_size=8).digest()
        self.order.append(int.from_bytes(hashed, "little"))
        self.folded += hashlib.blake2b(folded(key).encode(), digest_size=16).digest()

    def _split(self, name: str) -> int:
        if name not in self.split_names:
            if len(self.split_names) == 256:
                raise InputError(f"{self.source.root} has more than 256 splits")
            self.split_names.append(name)
        return self.split_names.index(name)

    def doubled(self) -> dict[int, Rejected]:
        """By row, each key that one before it equals, at most in case."""
        folds = np.frombuffer(bytes(self.folded), dtype="V16")
        order = np.argsort(folds.view("<u8").reshape(-1, 2)[:, 0], kind="stable")
        ordered = folds[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        found = {}
        places = np.array(self.places).reshape(-1, 3)
        with self.path.open("rb") as spool:
            for position in same.tolist():
                rows = sorted((int(order[position]), int(order[position + 1])))
                first, second = (read_entry(spool.fileno(), *places[row].tolist()) for row in rows)
                how = "is doubled" if first.key == second.key else f"differs from {first.key!r} only in case"
                told = f"key {second.key!r} {how}; see {first.where or first.source}"
                found[rows[1]] = Rejected(second.where or second.source, second.key, told)
        return found

    def close(self) -> None:
        """Makes the spool durable."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class _Files:
    """Looks at files and refuses those that are missing or lie outside of the source."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._folders: dict[str, bool] = {}

    def look(self, path: str) -> tuple[str | None, int, int]:
        """(what is wrong, size, modification time in ns)."""
        try:
            status = os.lstat(path)
            if not self._inside(path.rpartition("/")[0]):
                return f"{path} lies outside of {self.root}, behind a symbolic link; copy what it points to", 0, 0
            if stat.S_ISLNK(status.st_mode):
                status = Path(path).stat()  # fails where links go in circles
                if not Path(path).resolve().is_relative_to(self.root):
                    return f"{path} is a symbolic link out of {self.root}; copy what it points to", 0, 0
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} does not exist", 0, 0
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}", 0, 0
        except ValueError:  # NUL, or half a character
            return f"{path!r} is no path", 0, 0
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is not a file", 0, 0
        return None, status.st_size, status.st_mtime_ns

    def _inside(self, folder: str) -> bool:
        if folder not in self._folders:
            self._folders[folder] = Path(folder).resolve().is_relative_to(self.root)
        return self._folders[folder]
