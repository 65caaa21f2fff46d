"""Makes a shard set of WebDataset tars that are already there, without copying or changing them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards import index, staging, worker_pool
from shards.errors import InputError, RowsError
from shards.labels import natural
from shards.locks import Lock
from shards.manifest import CARD, INDEX, MANIFEST, REJECTED, Manifest, Shard, fsync_folder
from shards.pack_plan import OnProgress
from shards.readers import Rejected
from shards.safe_io import SHARED_FOLDER, name_fault, require_regular, write_whole
from shards.scan import Scanned, scan
from shards.schema import RESERVED, Schema, folded, split_fault, split_order
from shards.writer import rejected_csv

_SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
_FACT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class _Summary:
    """What is kept in memory of one tar; its rows wait in the staging folder."""

    name: str
    split: str
    dataset: str
    samples: int
    sha256: str
    size: int
    schema: Schema | None
    kinds: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def reindex(
    folder: Path,
    out: Path | None = None,
    *,
    skip_bad: bool = False,
    workers: int = 1,
    on_progress: OnProgress = lambda _stage, _done, _total: None,
) -> Manifest:
    """Writes index, DALI indices and manifest for the tars in `folder`; a set that is there stays whole until then.

    Tars of ours say themselves what facts they hold; of others, the `json` members' numbers, strings and lists of
    whole numbers become facts, `cls` the fact `label` and `txt` the fact `text`. The split is ours, or the first of
    train, val, valid, validation, dev, test in the file's name, else train.

    Args:
        folder: the tars.
        out: where to write, if not beside the tars; the tars are then found by their absolute path.
        skip_bad: leave out samples that cannot be used and list them in `rejected.csv`.
        workers: processes.
        on_progress: called as (stage, done, total).

    Raises:
        InputError: no tars, one that is a link, links or absolute names in one, a key that is doubled, samples that
            cannot be used, a table beside them that cannot be read, or a file that is not ours where one of ours goes.
        DamageError: a tar is cut.
    """
    tars = sorted(folder.glob("*.tar"), key=lambda path: natural(path.name))
    if not tars:
        raise InputError(f"{folder} holds no .tar files")
    for path in tars:
        require_regular(path)
        if (fault := name_fault(path.name)) is not None:
            raise InputError(f"{path}: {fault}; rename it")
    out = out or folder
    if not out.exists():
        out.mkdir(mode=SHARED_FOLDER, parents=True)
    if not os.access(out, os.W_OK):
        raise InputError(f"{out} cannot be written to; --out DIR puts index and manifest into another folder")
    fresh = staging.begin(out)
    with Lock(fresh / "lock", str(out)):
        if (fresh / "plan.json").exists():
            raise InputError(f"{out} is half packed; the command that began it finishes it, or move {fresh} away")
        staging.clear(fresh)
        try:
            return _reindex(tars, out, fresh, skip_bad, workers, on_progress)
        finally:
            staging.clear(fresh)
            if not staging.is_needed(fresh) or (out / MANIFEST).exists():
                staging.remove(fresh)


def _reindex(
    tars: Sequence[Path], out: Path, fresh: Path, skip_bad: bool, workers: int, on_progress: OnProgress
) -> Manifest:
    total = sum(path.stat().st_size for path in tars)
    jobs = [(path, fresh) for path in tars]
    found = worker_pool.each(_scan, jobs, workers, lambda done: on_progress("read", done, total))
    order = sorted(found, key=lambda one: (split_order(one.split), natural(one.name)))
    rejected = [Rejected(one.name, key, reason) for one in order for key, reason in one.problems]
    doubled = _doubled(order, fresh)
    if doubled or (rejected and not skip_bad):
        problems = doubled + [f"{item.where}, key {item.key!r}: {item.reason}" for item in rejected if not skip_bad]
        raise RowsError(str(tars[0].parent), problems)
    kept = [one for one in order if one.samples]
    if not kept:
        raise InputError(f"{tars[0].parent}: no sample in its {len(tars)} tars can be used")
    schema, dropped = _schema(kept)
    on_progress("index", 0, 1)
    index.write(fresh / INDEX, schema, _rows(kept, fresh, schema))
    if rejected:
        write_whole(fresh / REJECTED, rejected_csv(rejected))
    on_progress("index", 1, 1)
    ignored: dict[str, int] = {}
    for one in order:
        for name, count in one.ignored.items():
            ignored[name] = ignored.get(name, 0) + count
    here = tars[0].parent.resolve() == out.resolve()
    manifest = Manifest(
        dataset=next((one.dataset for one in kept if one.dataset), "webdataset"),
        schema=schema,
        shards=tuple(Shard(one.name, one.split, one.samples, one.size, one.sha256) for one in kept),
        tables=_tables(out),
        options={"reindexed": True, "ignored": dict(sorted(ignored.items())[:50]), "dropped_facts": dropped},
        rejected=len(rejected),
        card=CARD in staging.ours(out),
        tar_folder=None if here else str(tars[0].parent.resolve()),
    )
    write_whole(fresh / MANIFEST, manifest.encoded())
    staging.publish(out, fresh, manifest.files - {MANIFEST}, keep_tars=True)
    (fresh / MANIFEST).replace(out / MANIFEST)
    fsync_folder(out)
    return manifest


def _scan(job: tuple[Path, Path], count: Callable[[int], Any]) -> _Summary:
    """Reads one tar; leaves its rows and its DALI index in the staging folder."""
    path, fresh = job
    scanned = scan(path, lambda _: None)
    count(scanned.size)
    schema = None if scanned.own is None else Schema.from_json(scanned.own, f"{path}: its schema")
    if schema is not None:
        _refuse_other_facts(scanned, schema)
    rows = {**scanned.rows, "facts": scanned.facts}
    write_whole(fresh / f"{path.name}.rows.json", json.dumps(rows).encode(), durable=False)
    write_whole(fresh / f"{path.name.removesuffix('.tar')}.idx", index.dali_index(scanned.members))
    kinds: dict[str, str] = {}
    for facts in scanned.facts:
        for name, value in facts.items():
            kinds[name] = _merged(kinds.get(name, ""), _kind(value))
    return _Summary(
        name=path.name,
        split=_split(path.name, scanned.own),
        dataset=str((scanned.own or {}).get("dataset", "")),
        samples=len(scanned.facts),
        sha256=scanned.sha256,
        size=scanned.size,
        schema=schema,
        kinds=kinds,
        ignored=scanned.ignored,
        problems=scanned.problems,
    )


def _refuse_other_facts(scanned: Scanned, schema: Schema) -> None:
    """Notes the samples of a tar of ours whose facts do not fit its own schema, and drops them from the rows."""
    faults = [schema.fault(facts) for facts in scanned.facts]
    scanned.problems += [
        (key, fault) for key, fault in zip(scanned.rows["key"], faults, strict=True) if fault is not None
    ]
    good = [row for row, fault in enumerate(faults) if fault is None]
    if len(good) < len(faults):
        scanned.facts = [scanned.facts[row] for row in good]
        scanned.members = [scanned.members[row] for row in good]
        scanned.rows = {name: [values[row] for row in good] for name, values in scanned.rows.items()}


def _split(name: str, own: Mapping[str, Any] | None) -> str:
    if own is not None:
        split = str(own.get("split", ""))
        fault = split_fault(split)
        if fault is not None:
            raise InputError(f"{name}: {fault}")
        return split
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "train")


def _kind(value: object) -> str:
    """The type of one fact in a foreign JSON member; empty for null."""
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


def _merged(one: str, other: str) -> str:
    """The type that holds both."""
    if one == other or not one or not other:
        return one or other
    return "float" if {one, other} == {"int", "float"} else "other"


def _schema(kept: Sequence[_Summary]) -> tuple[Schema, list[str]]:
    """The schema of all tars, and the foreign facts that no column can hold.

    Raises:
        InputError: tars of ours that were packed with different facts.
    """
    own = [one for one in kept if one.schema is not None]
    if own:
        schema = own[0].schema
        assert schema is not None
        for one in kept:
            if one.schema != schema:
                raise InputError(
                    f"{one.name} and {own[0].name} hold different facts; index them in folders of their own"
                )
        return schema, []
    kinds: dict[str, str] = {}
    for one in kept:
        for name, kind in one.kinds.items():
            kinds[name] = _merged(kinds.get(name, ""), kind)
    fits = {name: kind for name, kind in sorted(kinds.items()) if _FACT_NAME.fullmatch(name) and name not in RESERVED}
    facts = {name: kind for name, kind in fits.items() if kind not in ("", "other")}
    return Schema(facts), sorted(kinds.keys() - facts.keys())[:200]


def _rows(kept: Sequence[_Summary], fresh: Path, schema: Schema) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in kept:
        rows = json.loads((fresh / f"{one.name}.rows.json").read_bytes())
        facts = rows.pop("facts")
        yield one.split, rows | {name: [stored(item.get(name)) for item in facts] for name in schema.columns}


def stored(value: object) -> object:
    """A foreign fact as the index holds it: truths as numbers, and U+FFFD for half a character, which has no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return int(value) if isinstance(value, bool) else value


def _doubled(order: Sequence[_Summary], fresh: Path) -> list[str]:
    """A sentence for each key that stands in the tars twice, at most in another case."""
    seen: dict[int, str] = {}
    found = []
    for one in order:
        for key in json.loads((fresh / f"{one.name}.rows.json").read_bytes())["key"]:
            digest = hash(folded(key))
            if digest in seen:
                found.append(f"{one.name}: key {key!r} is doubled or differs only in case; see {seen[digest]}")
            seen[digest] = one.name
    return found


def _tables(out: Path) -> dict[str, str]:
    """The tables that an earlier packing left beside the tars."""
    import pyarrow as pa

    found = {}
    for path in sorted(path for path in out.glob("*.parquet") if path.name != INDEX):
        try:
            if (fault := name_fault(path.name)) is not None:
                raise InputError(f"{path}: {fault}; rename it, or use --out DIR")
            found[path.stem] = index.table_hash(index.open_table(path).read())
        except (OSError, pa.ArrowException) as error:
            told = str(error).splitlines()[0]
            raise InputError(f"{path} cannot be read as a table: {told}; move it away, or use --out DIR") from None
    return found
