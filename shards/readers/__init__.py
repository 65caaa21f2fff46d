"""Readers of raw data sets: one file each, found by file name. Dropping a file with a `READER` here adds a data set.

A reader checks the whole source and streams its images as `Record`s; it never decodes an image and writes nothing.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import InputError, import_file
from shards.schema import Record, Schema

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ReadOptions:
    """What a user may choose about a source; a reader refuses what it has no use for.

    Args:
        categories: keep these categories, numbered in this order.
        attributes: keep these attributes, numbered in this order.
        variant: which of a source's several ways to split it.
        val_fraction: part of the training images to hold out where the source has no validation split.
        seed: of that choice, and of whatever a reader draws.
        strict: rows that would be counted and left out stop the packing.
        skip_bad: files and rows that cannot be used are counted and left out instead of stopping.
        labelled: whether there have to be labels; without, any images are taken.
        exclude: resolved folders inside of the source that are none of it, such as the one that is written to.
        layout: whether folders are `classes` or `splits`, where both are possible.
        class_depth: how many folders deep the classes' folders lie; a class is named by its path.
        domain: which of a source's several collections.
        unknown: whether images of labels that the training images lack `fail` or are left out (`skip`).
        path_column, label_columns, split_column, group_column: names in a table, where they are not the usual ones.
        label_bits: columns of 0 and 1, a label each.
        classes: class names, by number, or a file of them.
        test_fraction: part to hold out where the source has no test split.
        added: whether this becomes a split of a set, which has the classes: one is enough, and rows may be without.
    """

    categories: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    variant: str = ""
    val_fraction: float = 0.1
    seed: int = 0
    strict: bool = False
    skip_bad: bool = False
    labelled: bool = True
    exclude: frozenset[Path] = frozenset()
    layout: str = ""
    class_depth: int = 1
    domain: str = ""
    unknown: str = "fail"
    path_column: str = ""
    label_columns: tuple[str, ...] = ()
    label_bits: tuple[str, ...] = ()
    split_column: str = ""
    group_column: str = ""
    classes: Path | tuple[str, ...] | None = None
    test_fraction: float = 0.0
    added: bool = False

    def chosen(self) -> dict[str, Any]:
        """What is not as by default, as JSON holds it: what another split of the same set is read with."""
        of_this_source = ("seed", "strict", "skip_bad", "exclude", "labelled")
        found = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {k: str(v) if isinstance(v, Path) else v for k, v in found.items() if k not in of_this_source}

    @classmethod
    def of_chosen(cls, chosen: Mapping[str, Any], **others: Any) -> ReadOptions:
        """The options that `chosen` told, with others."""
        told: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in chosen.items()}
        return cls(**{**told, **others})

    def refuse_unused(self, used: Collection[str], dataset: str) -> None:
        """Raises InputError where something is chosen that a reader has no use for."""
        if not self.labelled:
            used, dataset = [name for name in used if name not in _OF_LABELS], f"{dataset} --unlabelled"
        for option in fields(self):
            everywhere = option.name in ("seed", "strict", "skip_bad", "exclude")
            if not everywhere and option.name not in used and getattr(self, option.name) != option.default:
                takes = ", ".join(map(_flag, used)) or "none of these"
                raise InputError(f"{dataset} has no use for {_flag(option.name)}; it takes: {takes}")


_OF_LABELS = (
    "val_fraction", "test_fraction", "layout", "class_depth", "unknown", "label_columns", "label_bits", "classes",
)  # fmt: skip
"""What says nothing where images are packed without their labels."""


def _flag(option: str) -> str:
    """How the command line calls an option."""
    names = {
        "val_fraction": "val", "test_fraction": "test", "labelled": "unlabelled", "label_columns": "label-column",
        "label_bits": "label-columns",
    }  # fmt: skip
    return f"--{names.get(option, option.replace('_', '-'))}"


@dataclass(frozen=True)
class Rejected:
    """Something that was left out: a line of `rejected.csv`."""

    where: str
    key: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A raw data set, opened.

    Args:
        schema: the facts of every record.
        root: the folder that no file may lie outside of.
        records: streams the images, once.
        tables: name -> rows of tables beside the shards, such as outfits; asked for after the records.
        problems: filled while the records are streamed, one sentence a bad row; any of them stops the packing.
        rejected: filled likewise with what is counted, listed and left out.
        total: number of records, where it is known before.
        found: what there is, in words, where that is known before.
    """

    schema: Schema
    root: Path
    records: Callable[[], Iterator[Record]]
    tables: Callable[[], Mapping[str, pa.Table]] = dict
    problems: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    total: int = 0
    found: str = ""


@dataclass(frozen=True)
class Reader:
    """One raw data set's layout.

    Args:
        layout: one sentence on what the source folder holds, for messages.
        read: (source folder, options) -> the opened source; raises `InputError` when it is not laid out so.
        draw: for data sets that are drawn instead of found: (folder to draw into, seed, workers, on_progress).
        uses: the `ReadOptions` that change anything here, beside seed, strict, skip_bad and exclude.
    """

    layout: str
    read: Callable[[Path, ReadOptions], Source]
    draw: Callable[[Path, int, int, Callable[[str, int, int], Any]], None] | None = None
    uses: tuple[str, ...] = ()


def names() -> list[str]:
    """The data sets that can be packed: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Reader:
    """The reader of the module `name`; raises InputError naming the known ones."""
    if name not in names():
        raise InputError(f"unknown dataset {name!r}; known: {', '.join(names())}")
    reader = import_file(f"{__name__}.{name}").READER
    assert isinstance(reader, Reader), f"{__name__}.{name}.READER is not a Reader"
    return reader


def require_there(source: Path) -> None:
    """Refuse a source that is not there, whatever its layout would be."""
    if not source.exists():
        raise InputError(f"{source} does not exist")


def select(kind: str, wanted: tuple[str, ...], known: list[str]) -> list[int]:
    """Positions of `wanted` in `known`, or all of them; raises InputError naming the known ones."""
    unknown = [name for name in wanted if name not in known]
    if unknown:
        shown = ", ".join(known[:60]) + (" ..." if len(known) > 60 else "")
        raise InputError(f"unknown {kind} {unknown[0]!r}; known: {shown or 'none'}")
    if len(set(wanted)) < len(wanted):
        raise InputError(f"a {kind} is named twice in {', '.join(wanted)}")
    return [known.index(name) for name in wanted] if wanted else list(range(len(known)))
