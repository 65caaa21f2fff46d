"""Makes a shard set of WebDataset tars that are already there, without copying or changing them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from shards import index, staging, tar_list, worker_pool
from shards.errors import InputError, RowsError, ShardsError
from shards.labels import Observed, UnknownLabelError, natural, shown, told_unknown
from shards.locks import single_packer
from shards.manifest import CARD, INDEX, MANIFEST, REJECTED, Manifest, Shard, fsync_folder, index_name
from shards.pack_plan import OnProgress
from shards.readers import Rejected, _folders
from shards.readers._tables import column_name
from shards.safe_io import SHARED_FOLDER, name_fault, write_whole
from shards.scan import Taking
from shards.schema import FACT_NAME, RESERVED, Schema, folded, split_order
from shards.tar_summary import TarSummary, merged, stored, summarize
from shards.writer import rejected_csv


@dataclass(frozen=True)
class ReindexOptions:
    """What is made of tars of others.

    Args:
        taking: which members are taken; with a label in it, that becomes a column with class names.
        classes: class names, by number, where the tars do not name them.
        unknown: whether samples of classes that training lacks `fail`, or are left out (`skip`).
        skip_bad: leave out tars and samples that cannot be used and list them in `rejected.csv`.
        val_fraction: part of the labelled training samples, of each class, that becomes the split val, where no tar is
            of that split; the index alone says so.
        seed: of that choice.
    """

    taking: Taking = field(default_factory=Taking)
    classes: tuple[str, ...] = ()
    unknown: str = "fail"
    skip_bad: bool = False
    val_fraction: float = 0.0
    seed: int = 0


def reindex(
    tars: Path | Sequence[str],
    out: Path | None = None,
    options: ReindexOptions | None = None,
    *,
    workers: int = 1,
    on_progress: OnProgress = lambda _stage, _done, _total: None,
) -> Manifest:
    """Writes index, DALI indices and manifest for tars that are there; a set that is there stays whole until then.

    Tars of ours say themselves what facts they hold; of others, the `json` members' numbers, strings and lists of
    whole numbers become facts, `cls` the fact `label` and `txt` the fact `text`. The split is ours, or the first of
    the usual names of splits in the tar's name, else in its folder's, else train.

    `tars` are their folder, or names of them (`shards.tar_list.find`). With `out` index and manifest go elsewhere than
    into the tars' folder; the tars are then found by their absolute path.

    Raises:
        InputError: no tars, one that is a link, is cut, has links or absolute names in it, a key that is doubled,
            samples that cannot be used, labels that cannot be classes, a table beside them that cannot be read, `out`
            is a packed set of other tars, or has a file that is not ours where one of ours goes. A set that was
            there is as it was.
    """
    folder, names, packed = tar_list.find([str(tars)] if isinstance(tars, Path) else tars)
    out = out or folder
    made = [one for one in (out, *out.parents) if not one.exists()]
    out.mkdir(mode=SHARED_FOLDER, parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise InputError(f"{out} cannot be written to; --out DIR puts index and manifest into another folder")
    fresh = staging.begin(out)
    with single_packer(fresh / "lock", str(out)):
        if (fresh / "plan.json").exists():
            raise InputError(f"{out} is half packed; the command that began it finishes it, or move {fresh} away")
        staging.clear(fresh)
        try:
            if out.resolve() != folder.resolve() and _is_packed(out):
                raise InputError(f"{out} is a packed set: --name or --out puts the index elsewhere, or remove it first")
            reading = _Reindex(folder, out, fresh, options or ReindexOptions())
            reading.rejected = [Rejected(name, "", tar_list.unpacking(folder / name)) for name in packed]
            return reading.run(names, workers, on_progress)
        finally:
            staging.clear(fresh)
            if not staging.is_needed(fresh) or (out / MANIFEST).exists():
                staging.remove(fresh)
            with contextlib.suppress(OSError):  # where it was refused, the folders are empty
                for one in made:
                    one.rmdir()


def _is_packed(out: Path) -> bool:
    """Whether a folder has the manifest of a set that was packed there."""
    with contextlib.suppress(FileNotFoundError, ShardsError):  # a damaged one is refused where files are replaced
        return not Manifest.load(out).options.get("reindexed", False)
    return False


class _Reindex:
    """One re-indexing: scans, judges, and writes."""

    def __init__(self, folder: Path, out: Path, fresh: Path, options: ReindexOptions) -> None:
        self.folder, self.out, self.fresh, self.options = folder, out, fresh, options
        self.rejected: list[Rejected] = []

    def run(self, names: Sequence[str], workers: int, on_progress: OnProgress) -> Manifest:
        """Does it all."""
        total = sum((self.folder / name).stat().st_size for name in names)
        jobs = [(self.folder, name, self.fresh, self.options.taking) for name in names]
        found = worker_pool.each(summarize, jobs, workers, lambda done: on_progress("read", done, total))
        order = sorted(found, key=lambda one: (split_order(one.split), natural(one.name)))
        taking = self.options.taking
        self.rejected += [Rejected(one.name, key, reason) for one in order for key, reason in one.problems]
        if taking.label and not any(one.labelled for one in order) and self._unlabelled():
            fields = shown(sorted({name for one in order for name in one.fields}, key=natural)) or "none"
            raise InputError(f"{self.folder}: no sample has the label {taking.label!r}; --label can be: {fields}")
        dropped = self._doubled(order)
        self._refuse()
        kept = [one for one in order if one.samples]
        if not kept:
            raise InputError(f"{self.folder}: no sample in its {len(names)} tars can be used")
        schema, left_out = _schema(kept)
        told: dict[str, Any] = {}
        if taking.label:
            schema, told = self._label(kept, schema, dropped)
        kept = [one for one in (self._settled(one, dropped.get(one.name, set())) for one in kept) if one.samples]
        held = self._held_out(kept, schema, told)
        if taking != Taking():
            told = {"taking": asdict(taking) | told}
        told["dropped_facts"] = [n for n in left_out if n != taking.label and n not in schema.columns]
        return self._written(order, self._divided(kept, held), schema, told, on_progress)

    def _unlabelled(self) -> bool:
        """Whether labels are what samples lack, and nothing else keeps all of them, or a tar, from being read."""
        lacking = f"no label {self.options.taking.label!r}" in {item.reason for item in self.rejected}
        return not self.rejected or (lacking and all(item.key for item in self.rejected))

    def _held_out(self, kept: Sequence[TarSummary], schema: Schema, told: dict[str, Any]) -> set[str]:
        """Keys of the training samples that are held out for validation, which `told` then tells of."""
        fraction, seed, column = self.options.val_fraction, self.options.seed, told.get("column", "")
        if not (fraction and column) or any(one.split == "val" for one in kept):
            return set()
        of_class: dict[object, list[str]] = {}
        for one in (one for one in kept if one.split == "train"):
            rows = self._rows(one)
            for facts, key in zip(rows["facts"], rows["key"], strict=True):
                label = facts.get(column)
                if label is not None:
                    of_class.setdefault(label if schema.columns[column] == "int" else "", []).append(key)
        held = _folders.held_out(of_class.values(), fraction, seed)
        if held:
            digest = hashlib.sha256(json.dumps(sorted(held)).encode()).hexdigest()
            told["held_out"] = {"val": fraction, "seed": seed, "keys": digest}
        return held

    def _divided(self, kept: Sequence[TarSummary], held: set[str]) -> list[tuple[TarSummary, Sequence[int]]]:
        """Each tar with its rows; one of which some are held out stands twice, as training's and as validation's."""
        parts: list[tuple[TarSummary, Sequence[int]]] = []
        for one in kept:
            if not held or one.split != "train":
                parts.append((one, range(one.samples)))
                continue
            rows: dict[str, list[int]] = {"train": [], "val": []}
            for row, key in enumerate(self._rows(one)["key"]):
                rows["val" if key in held else "train"].append(row)
            parts += [(replace(one, split=split, samples=len(of)), of) for split, of in rows.items() if of]
        return sorted(parts, key=lambda part: split_order(part[0].split))

    def _refuse(self) -> None:
        """Stops at what cannot be used, unless it is to be left out."""
        if self.rejected and not self.options.skip_bad:
            problems = [f"{one.where}{one.key and f', key {one.key!r}'}: {one.reason}" for one in self.rejected]
            raise RowsError(str(self.folder), problems, skippable=True)

    def _doubled(self, order: Sequence[TarSummary]) -> dict[str, set[int]]:
        """Rows of each tar whose key stands in the tars before, at most in another case; the first is kept."""
        seen: dict[int, str] = {}
        dropped: dict[str, set[int]] = {}
        for one in order:
            for row, key in enumerate(self._rows(one)["key"] if one.samples else []):
                digest = hash(folded(key))
                if digest in seen:
                    told = f"is doubled or differs only in case; see {seen[digest]}"
                    told += "; --prefix-keys tells tars apart" if seen[digest] != one.name else ""
                    self.rejected.append(Rejected(one.name, key, told))
                    dropped.setdefault(one.name, set()).add(row)
                seen.setdefault(digest, one.name)
        return dropped

    def _rows(self, one: TarSummary) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = json.loads(one.rows_file(self.fresh).read_bytes())
        return rows

    def _label(
        self, kept: Sequence[TarSummary], schema: Schema, dropped: dict[str, set[int]]
    ) -> tuple[Schema, dict[str, Any]]:
        """The schema with the label's column, and how it came about; samples of unknown classes are dropped."""
        label = self.options.taking.label
        if own := next((one.name for one in kept if one.schema is not None), None):
            raise InputError(f"{own} was packed here and says what its labels are; --label is for tars of others")
        observed = Observed(f"{self.folder}, label {label!r}")
        for one in [one for one in kept if one.split == "train"] or kept:
            for row, value in enumerate(self._rows(one)["labels"]):
                if row not in dropped.get(one.name, ()):
                    observed.add(value)
        coding = observed.coding(self.options.classes)
        plain = label if label in schema.columns else label.rpartition(".")[2]
        last = {"cls": "label", "txt": "text"}.get(label, plain)
        column = column_name(last, {*schema.columns} - {label, "label", "text"})
        unknown: Counter[str] = Counter()
        digest = hashlib.sha256()
        for one in kept:
            rows = self._rows(one)
            for row, value in enumerate(rows["labels"]):
                if row in dropped.get(one.name, ()):
                    continue
                try:
                    rows["facts"][row][column] = coding.encode(value)
                except UnknownLabelError as error:
                    unknown[error.label] += 1
                    self.rejected.append(Rejected(one.name, rows["key"][row], str(error)))
                    dropped.setdefault(one.name, set()).add(row)
                except ValueError as error:
                    raise InputError(f"{one.name}, key {rows['key'][row]!r}: {error}") from None
            digest.update(json.dumps([facts.get(column) for facts in rows["facts"]]).encode())
            write_whole(one.rows_file(self.fresh), json.dumps(rows).encode(), durable=False)
        if unknown and self.options.unknown == "fail":
            lacking = "--classes lacks" if self.options.classes else "the training tars lack"
            raise InputError(told_unknown(observed.where, unknown, lacking))
        told = {"column": column, **coding.to_json(), "labels": digest.hexdigest()}
        return Schema({**schema.columns, column: coding.kind}, {column: coding.names}), told

    def _settled(self, one: TarSummary, dropped: set[int]) -> TarSummary:
        """A tar without the rows that were dropped, here and in its DALI index."""
        if not dropped:
            return one
        rows = {
            name: [value for row, value in enumerate(values) if row not in dropped]
            for name, values in self._rows(one).items()
        }
        write_whole(one.rows_file(self.fresh), json.dumps(rows).encode(), durable=False)
        idx = self.fresh / index_name(one.name)
        _, *lines = idx.read_bytes().split(b"\n")[:-1]
        lines = [line for row, line in enumerate(lines) if row not in dropped]
        write_whole(idx, b"\n".join([f"v1.2 {len(lines)}".encode(), *lines, b""]))
        return replace(one, samples=len(rows["key"]))

    def _written(
        self,
        order: Sequence[TarSummary],
        parts: Sequence[tuple[TarSummary, Sequence[int]]],
        schema: Schema,
        told: Mapping[str, Any],
        on_progress: OnProgress,
    ) -> Manifest:
        on_progress("index", 0, 1)
        index.write(self.fresh / INDEX, schema, self._indexed(parts, schema))
        kept = [one for one, _ in parts]
        if self.rejected:
            write_whole(self.fresh / REJECTED, rejected_csv(self.rejected))
        on_progress("index", 1, 1)
        ignored = sum((Counter(one.ignored) for one in order), Counter[str]())
        here = self.folder.resolve() == self.out.resolve()
        manifest = Manifest(
            dataset=next((one.dataset for one in kept if one.dataset), "webdataset"),
            schema=schema,
            shards=tuple(Shard(one.name, one.split, one.samples, one.size, one.sha256) for one in kept),
            tables=_tables(self.out) if kept[0].schema is not None else {},
            options={"reindexed": True, "ignored": dict(sorted(ignored.items())[:50]), **told},
            rejected=len(self.rejected),
            card=CARD in staging.ours(self.out),
            tar_folder=None if here else str(self.folder.resolve()),
        )
        write_whole(self.fresh / MANIFEST, manifest.encoded())
        staging.publish(self.out, self.fresh, manifest.files - {MANIFEST}, keep_tars=True)
        (self.fresh / MANIFEST).replace(self.out / MANIFEST)
        fsync_folder(self.out)
        return manifest

    def _indexed(
        self, parts: Sequence[tuple[TarSummary, Sequence[int]]], schema: Schema
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for one, chosen in parts:
            rows = {name: [values[row] for row in chosen] for name, values in self._rows(one).items()}
            facts = rows.pop("facts")
            yield (
                one.split,
                rows
                | {name: [stored(item.get(name), kind) for item in facts] for name, kind in schema.columns.items()},
            )


def _schema(kept: Sequence[TarSummary]) -> tuple[Schema, list[str]]:
    """The schema of all tars, and foreign facts that no column holds; raises InputError for ours of different facts."""
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
            kinds[name] = merged(kinds.get(name, ""), kind)
    fits = {name: kind for name, kind in sorted(kinds.items()) if FACT_NAME.fullmatch(name) and name not in RESERVED}
    facts = {name: kind for name, kind in fits.items() if kind not in ("", "other")}
    return Schema(facts), sorted(kinds.keys() - facts.keys())[:200]


def _tables(out: Path) -> dict[str, str]:
    """The tables that an earlier packing left beside the tars."""
    import pyarrow as pa

    found = {}
    for path in sorted(path for path in out.glob("*.parquet") if path.name != INDEX):
        try:
            if (fault := name_fault(path.name)) is not None:
                raise InputError(f"{path}: {fault}; rename it, or use --out DIR")
            found[path.stem] = index.table_hash(index.open_table(path).read())
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            told = str(error).splitlines()[0]
            raise InputError(f"{path} cannot be read as a table: {told}; move it away, or use --out DIR") from None
    return found
