"""Small files that other processes read while they are written: replaced whole, or not at all.

No link is followed, and in folders that people use as well only files that we wrote there are replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fashion_dist.errors import ConfigError
from shards.safe_io import open_regular, read_regular, refuse_link, some, write_whole


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step; readers see the old or the new content, never a part."""
    write_whole(path, text.encode(), durable=False)


def append(path: Path) -> IO[str]:
    """`path` opened to add text at its end, made where there is none; raises InputError for a link."""
    return os.fdopen(open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a")


class OwnFiles:
    """What our commands wrote into a folder, whose names stand in its file `.fashion-dist`.

    Args:
        folder: of a run, or one that the user chose; made by the first `claim`.

    Raises:
        InputError: the folder is a symbolic link.
    """

    LIST = ".fashion-dist"

    def __init__(self, folder: Path) -> None:
        self.folder = refuse_link(folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file, where a folder is to be; move it away, or give another folder")

    def claim(self, *names: str) -> None:
        """Note that files of these names are ours to write and to replace from now on.

        Raises:
            ConfigError: something that we did not write has such a name; nothing was touched.
        """
        try:
            known = set(read_regular(self.folder / self.LIST).decode().splitlines())
        except FileNotFoundError:
            known = set()
        new = [name for name in names if name not in known]
        others = [name for name in new if os.path.lexists(self.folder / name)]
        if others:
            raise ConfigError(
                f"{self.folder} holds {some(others)}, which our commands did not write there; nothing was touched: "
                "move it away, or give another folder"
            )
        if new:
            self.folder.mkdir(parents=True, exist_ok=True)
            with append(self.folder / self.LIST) as file:
                file.write("".join(f"{name}\n" for name in new))

    def write(self, name: str, content: str | bytes) -> Path:
        """Replace or make the file `name`, in one step; raises as `claim` does."""
        self.claim(name)
        write_whole(self.folder / name, content.encode() if isinstance(content, str) else content, durable=False)
        return self.folder / name


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace `path` by `values` as indented JSON, in one step."""
    write_text(path, json.dumps(dict(values), indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no file, or none that can be read as one."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a torn one is passed over."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
