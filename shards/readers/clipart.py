"""The 65-category clip-art set (Office-Home's Clipart domain): class folders named by number, a flat test folder.

Facts as in `image_folder`. Class folders sort as numbers (0, 1, 2, ... 10). Names come from `classes.csv` where there
is one. Without `valid/`, a tenth of every class is held out (`--val`). Of Office-Home as it is published, a folder per
domain, `domain` says which is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shards.errors import InputError
from shards.labels import shown
from shards.readers import Reader, ReadOptions, Source, _text, image_folder
from shards.safe_io import is_there

DOMAINS = frozenset({"art", "clipart", "product", "real world", "real_world", "realworld"})
"""The folders of Office-Home, in any case."""


def read(source: Path, options: ReadOptions) -> Source:
    """The set in `source`, which holds `train/`, or a folder `clipart` or of the domain that does or holds classes."""
    inside = [path for path in sorted(source.iterdir()) if path.is_dir()] if source.is_dir() else []
    chosen = [path for path in inside if path.name.lower() == (options.domain or "clipart").lower()]
    if options.domain and not chosen:
        raise InputError(f"{source} has no domain {options.domain!r}; it has: {shown(path.name for path in inside)}")
    published = (
        options.domain or source.name.lower() in DOMAINS or {p.name.lower() for p in inside} > {"art", "clipart"}
    )
    for root in chosen if options.domain else (source, *chosen):
        if (root / "train").is_dir():
            return image_folder.read_tree(root, options, _class_names)
    if published:
        return image_folder.read_tree(chosen[0] if chosen else source, options, _class_names)
    raise InputError(f"{source} holds no {READER.layout}")


def _class_names(root: Path, folders: list[str]) -> Mapping[str, str]:
    """The class names by folder: the column `name` of `classes.csv`, or the first of its `examples`."""
    if not is_there(root / "classes.csv"):
        return {}
    header, rows = _text.rows(root / "classes.csv", ["label"])
    told = next((column for column in ("name", "examples") if column in header), None)
    if told is None:
        return {}
    names = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{root / 'classes.csv'}, line {line}: {len(cells)} cells, the header has {len(header)}")
        names[cells[header.index("label")]] = cells[header.index(told)].split(",")[0].strip()
    return {folder: names[folder] for folder in folders if names.get(folder)}


READER = Reader(
    layout="train/<class>/*, valid/<class>/* (optional) and test/* of images in class folders, or the domains of "
    "Office-Home",
    read=read,
    uses=(*image_folder.READER.uses, "domain"),
)
