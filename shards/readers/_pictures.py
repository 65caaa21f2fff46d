"""Any folder of pictures, flat or in folders, for pictures that come later: nothing has to be labelled.

A picture's class is the folder nearest to it that is named as one of the classes; else it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from shards.errors import InputError
from shards.readers import Source, _folders
from shards.schema import Record, Schema

NAMED = ("file", "file_path")
"""Columns that hold a picture's path below the source."""


def prediction_schema(schema: Schema) -> Schema:
    """The columns of pictures to be predicted by a model of `schema`: the same, and the place of each picture."""
    return Schema({**schema.columns, "file": "str", "row": "int"}, dict(schema.names))


def read(source: Path, schema: Schema, split: str, walk: _folders.Walk, prefix: str = "") -> Source:
    """The pictures in `source`, a folder that `walk` goes through or one picture.

    All columns of `schema` but their place and class are unknown; `prefix` stands before their keys and paths.

    Raises:
        InputError: there are no pictures.
    """
    root = source if source.is_dir() else source.parent
    names = walk.images(source) if source.is_dir() else [source.name]
    walk.finish()
    if not names and not walk.problems:
        raise InputError(f"{source} holds no pictures{walk.left_out()}")

    def records() -> Iterator[Record]:
        for row, (name, key) in enumerate(zip(names, _folders.keys(names), strict=True)):
            facts: dict[str, object] = dict.fromkeys(schema.columns)
            known = dict.fromkeys(NAMED, prefix + name) | {"row": row}
            facts |= {column: value for column, value in known.items() if column in facts}
            for column, classes in schema.names.items():
                if schema.columns[column] == "int":
                    facts[column] = _class_of(name, classes)
            yield Record(prefix + key, root / name, facts, split, name)

    found = f"{source}: {len(names):,} pictures{walk.left_out()}"
    return Source(schema, root, records, problems=walk.problems, rejected=walk.rejected, total=len(names), found=found)


def as_learned(opened: Source, schema: Schema) -> Source:
    """A source without class numbers of its own, with the columns of classes of `schema`: known where a word is one."""
    kinds = {name: schema.columns[name] for name in schema.names}

    def records() -> Iterator[Record]:
        for record in opened.records():
            words = {name: str(record.columns.get(name)) for name, kind in kinds.items() if kind == "int"}
            known = {name: schema.names[name].index(w) for name, w in words.items() if w in schema.names[name]}
            yield replace(record, columns={**record.columns, **dict.fromkeys(kinds), **known})

    return replace(opened, schema=Schema({**opened.schema.columns, **kinds}, dict(schema.names)), records=records)


def _class_of(name: str, classes: tuple[str, ...]) -> int | None:
    return next((classes.index(folder) for folder in reversed(name.split("/")[:-1]) if folder in classes), None)
