"""What a tar holds, read by one worker: a summary that is kept in memory, and rows that wait on disk."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards import index
from shards.errors import DamageError, InputError
from shards.manifest import index_name
from shards.readers import _folders
from shards.safe_io import write_whole
from shards.scan import Scanned, Taking, scan
from shards.schema import Schema, split_fault, whole_characters


@dataclass(frozen=True)
class TarSummary:
    """What is kept in memory of one tar; its rows wait in the staging folder."""

    name: str
    split: str = ""
    dataset: str = ""
    samples: int = 0
    labelled: int = 0
    sha256: str = ""
    size: int = 0
    schema: Schema | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    problems: list[tuple[str, str]] = field(default_factory=list)

    def rows_file(self, fresh: Path) -> Path:
        """Where its rows wait."""
        return fresh / f"{index_name(self.name)}.rows.json"


def summarize(job: tuple[Path, str, Path, Taking], count: Callable[[int], Any]) -> TarSummary:
    """Reads one tar; leaves its rows and its DALI index in the staging folder."""
    folder, name, fresh, taking = job
    path = folder / name
    try:
        scanned = scan(path, taking, name)
        schema = None if scanned.own is None else Schema.from_json(scanned.own, f"{name}: its schema")
        split = _split(name, scanned.own)
    except OSError as error:
        return TarSummary(name, problems=[("", f"cannot be read: {error.strerror or error}")])
    except DamageError as error:
        member = f", member {error.key!r}" if error.key else ""
        return TarSummary(name, problems=[("", f"byte {error.offset}{member}: {error.reason}")])
    except InputError as error:
        return TarSummary(name, problems=[("", str(error))])
    finally:
        count(path.stat().st_size)
    if scanned.old:
        repack = f"mkdir new && tar -xf {path.name} -C new && tar --sort=name --format=ustar -cf {path.name} -C new ."
        return TarSummary(
            name, problems=[("", f"an old V7 tar, which DALI does not read; `{repack}` makes it a new one")]
        )
    if scanned.second:
        told = f"more follows its end at byte {scanned.second}, as of tars joined by cat, and readers stop at the end"
        scanned.problems.append(("", f"{told}; `tar -i -xf {path.name}` unpacks all of it"))
    if schema is not None:
        _refuse_other_facts(scanned, schema)
    elif taking.label and split != "test":
        scanned.problems += [
            (key, f"no label {taking.label!r}")
            for key, label in zip(scanned.rows["key"], scanned.labels, strict=True)
            if _blank(label)
        ]
        scanned.keep(lambda row: not _blank(scanned.labels[row]))
    summary = TarSummary(
        name=name,
        split=split,
        dataset=str((scanned.own or {}).get("dataset", "")),
        samples=len(scanned.facts),
        labelled=sum(not _blank(label) for label in scanned.labels),
        sha256=scanned.sha256,
        size=scanned.size,
        schema=schema,
        kinds=_kinds(scanned.facts),
        ignored=scanned.ignored,
        fields=frozenset(scanned.fields),
        problems=scanned.problems,
    )
    rows = {**scanned.rows, "facts": scanned.facts, "labels": scanned.labels}
    # A label of the Parquet file beside may be a date or bytes: told as no label, like any object.
    rows_text = json.dumps(rows, default=lambda value: {type(value).__name__: str(value)})
    write_whole(summary.rows_file(fresh), rows_text.encode(), durable=False)
    write_whole(fresh / index_name(name), index.dali_index(scanned.members))
    return summary


def _blank(label: object) -> bool:
    """Whether a label says nothing, as `labels.parse` has it; `[]` says that none applies."""
    nan = isinstance(label, float) and math.isnan(label)
    return label is None or nan or (isinstance(label, str) and not label.strip())


def _refuse_other_facts(scanned: Scanned, schema: Schema) -> None:
    """Notes the samples of a tar of ours whose facts do not fit its own schema, and drops them from the rows."""
    faults = [schema.fault(facts) for facts in scanned.facts]
    scanned.problems += [
        (key, fault) for key, fault in zip(scanned.rows["key"], faults, strict=True) if fault is not None
    ]
    scanned.keep(lambda row: faults[row] is None)


def _split(name: str, own: Mapping[str, Any] | None) -> str:
    if own is not None:
        told = str(own.get("split", ""))
        fault = split_fault(told)
        if fault is not None:
            raise InputError(f"{name}: {fault}")
        return told
    words = [word for part in reversed(name.split("/")) for word in re.split(r"[^a-z]+", part.lower())]
    return next((split for word in words if (split := _folders.split_of(word)) is not None), "train")


def _kinds(facts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for of_sample in facts:
        for name, value in of_sample.items():
            kinds[name] = merged(kinds.get(name, ""), kind_of(value))
    return kinds


def kind_of(value: object) -> str:
    """The type of one fact in a foreign JSON member or table; empty for null, `other` where no column holds it."""
    if value is None:
        return ""
    if isinstance(value, (bool, int)):
        return "int" if -(2**63) <= value < 2**63 else "other"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "str"
    if isinstance(value, list) and value and all(type(v) is int and -(2**31) <= v < 2**31 for v in value):
        return f"ints:{len(value)}"
    return "other"


def merged(one: str, other: str) -> str:
    """The type that holds both."""
    if one == other or not one or not other:
        return one or other
    return "float" if {one, other} == {"int", "float"} else "other"


def stored(value: object, kind: str) -> object:
    """A fact as the index holds it, in a column of that kind.

    Truths are numbers, NaN is nothing, and half a character, which has no UTF-8, is U+FFFD.
    """
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if kind == "float" and isinstance(value, (bool, int)):
        return float(value)
    return int(value) if isinstance(value, bool) else value
