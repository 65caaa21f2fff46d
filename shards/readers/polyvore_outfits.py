"""Polyvore Outfits: items as images, and outfits, compatibility lines and questions as tables that name item keys.

Facts of an item: `item_id` (also its key), `category_id` (as the source numbers it; None where it is empty),
`category` (0-based position of the category_id among the sorted ones) and `semantic` (0-based position of the semantic
category), with names for both. Each image is stored once, in the first of train, val, test whose outfits name it; in
the disjoint variant no other does.

Tables, one row each, in the source's order; references `<set_id>_<index>` are resolved by the value of `index`:

    outfits        set_id, split, title, items (keys), indices
    compatibility  split, line (from 1), label (1 compatible), items (keys), references
    questions      split, row (from 0), items, references, answers, answer_references, blank_position, correct (position
                   of the answer that comes from the question's own set, -1 if none does)

Vasileva et al., Learning Type-Aware Embeddings for Fashion Compatibility, ECCV 2018.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import InputError
from shards.readers import Reader, ReadOptions, Rejected, Source, _text
from shards.safe_io import is_there, read_source
from shards.schema import Record, Schema, whole_characters
from shards.typed_json import is_count

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = {"train": "train", "val": "valid", "test": "test"}
VARIANTS = ("disjoint", "nondisjoint")
METADATA = "polyvore_item_metadata.json"


def read(source: Path, options: ReadOptions) -> Source:
    """The data set in `source`, which holds the metadata file, or a folder `polyvore_outfits` that does."""
    variant = options.variant or VARIANTS[0]
    if variant not in VARIANTS:
        raise InputError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    root = next((r for r in (source, source / "polyvore_outfits") if is_there(r / METADATA)), None)
    if root is None:
        raise InputError(f"{source} holds no {READER.layout}")
    if not (root / variant).is_dir():
        found = [name for name in VARIANTS if (root / name).is_dir()]
        raise InputError(f"{root} has no folder {variant}; it has: {', '.join(found) or 'neither variant'}")
    return _Outfits(root, variant, options).source()


class _Outfits:
    """The files of one variant, read once."""

    def __init__(self, root: Path, variant: str, options: ReadOptions) -> None:
        self.root, self.variant = root, variant
        self.problems: list[str] = []
        self.rejected: list[Rejected] = []
        self.strict, self.skip_bad = options.strict, options.skip_bad
        self.items: Mapping[str, Mapping[str, Any]] = _json(root / METADATA, dict)
        titles = root / "polyvore_outfit_titles.json"
        self.titles: Mapping[str, Mapping[str, Any]] = _json(titles, dict) if is_there(titles) else {}
        self.ids = sorted({int(i["category_id"]) for i in self.items.values() if _is_number(i.get("category_id"))})
        self.semantics = sorted(
            {str(i["semantic_category"]) for i in self.items.values() if i.get("semantic_category")}
        )
        self.key_of: dict[str, str] = {}
        self.outfits: list[dict[str, Any]] = []
        self.split_of: dict[str, str] = {}
        self.stored: dict[tuple[str, str], str] = {}

    def source(self) -> Source:
        """Reads the outfits, so that the items' splits are known before the first record."""
        if not (self.root / "images").is_dir():
            raise InputError(f"{self.root / 'images'} does not exist")
        with os.scandir(self.root / "images") as entries:
            self.images = {entry.name for entry in entries if entry.name.endswith(".jpg")}
        for split in SPLITS:
            self._read_outfits(split)
        names = {"category": tuple(self._category_names()), "semantic": tuple(self.semantics)}
        facts = {"item_id": "str", "category_id": "int", "category": "int", "semantic": "int"}
        return Source(
            schema=Schema(facts, names),
            root=self.root,
            records=self._records,
            tables=self._tables,
            problems=self.problems,
            rejected=self.rejected,
            total=len(self.stored),
        )

    def _note(self, where: str, key: str, reason: str) -> None:
        """Counts and lists something; with --strict it stops the packing."""
        if self.strict:
            self.problems.append(f"{where}: {reason}")
        else:
            self.rejected.append(Rejected(where, key, reason))

    def _key(self, item: str, split: str) -> str:
        """The key of an item in a split: its id, or, where an earlier split has it as well, the split before it."""
        if self.split_of.setdefault(item, split) == split:
            return self.stored.setdefault((item, split), item)
        return self.stored.setdefault((item, split), f"{split}/{item}")

    def _category_names(self) -> list[str]:
        names: dict[int, str] = {}
        path = self.root / "categories.csv"
        for _, line in _text.lines(path) if is_there(path) else ():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) >= 2 and _is_number(cells[0]):
                names.setdefault(int(cells[0]), cells[1])
        return [names.get(number, str(number)) for number in self.ids]

    def _read_outfits(self, split: str) -> None:
        path = self.root / self.variant / f"{SPLITS[split]}.json"
        for number, outfit in enumerate(_json(path, list)):
            where = f"{path.name}, outfit {number}"
            try:
                set_id = str(outfit["set_id"])
                listed = [(int(item["index"]), str(item["item_id"])) for item in outfit["items"]]
                if not all(-(2**31) <= index < 2**31 for index, _ in listed):
                    raise ValueError
            except (KeyError, TypeError, ValueError, OverflowError):
                self.problems.append(f"{where}: needs set_id and items, each with item_id and a whole index")
                continue
            known = []
            for index, item in listed:
                if item not in self.items or f"{item}.jpg" not in self.images:
                    lacks = "metadata" if item not in self.items else "image"
                    self._note(where, f"{set_id}_{index}", f"outfit {set_id} names item {item!r}, which has no {lacks}")
                    continue
                known.append((index, self._key(item, split)))
                self.key_of[f"{set_id}_{index}"] = self._key(item, split)
            if len(known) < 2 and self.skip_bad:
                self._note(where, set_id, f"outfit {set_id} is left out: fewer than 2 of its items have an image")
                continue
            title = self.titles.get(set_id, {})
            self.outfits.append(
                {
                    "set_id": set_id,
                    "split": split,
                    "title": whole_characters(str(title.get("title") or title.get("url_name") or "")),
                    "items": [item for _, item in known],
                    "indices": [index for index, _ in known],
                }
            )

    def _records(self) -> Iterator[Record]:
        number_of = {number: position for position, number in enumerate(self.ids)}
        semantic_of = {name: position for position, name in enumerate(self.semantics)}
        for (item, split), key in self.stored.items():
            told = self.items[item]
            category = int(told["category_id"]) if _is_number(told.get("category_id")) else None
            if category is None and told.get("category_id"):
                self.problems.append(f"{METADATA}, item {item}: category_id {told['category_id']!r} is no number")
            facts = {
                "item_id": item,
                "category_id": category,
                "category": None if category is None else number_of[category],
                "semantic": semantic_of.get(str(told.get("semantic_category") or "")),
            }
            yield Record(key, self.root / "images" / f"{item}.jpg", facts, split, f"{METADATA}, item {item}")
        self._lines, self._questions = self._read_lines(), self._read_questions()

    def _keys(self, where: str, references: list[str], least: int) -> list[str] | None:
        unknown = [reference for reference in references if reference not in self.key_of]
        if unknown:
            self._note(where, unknown[0], f"unknown reference {unknown[0]!r}")
        elif len(references) < least:
            told = references[0] if references else ""
            self._note(
                where, told, f"{len(references)} item{'s' * (len(references) != 1)}, at least {least} are needed"
            )
        else:
            return [self.key_of[reference] for reference in references]
        return None

    def _read_lines(self) -> list[dict[str, Any]]:
        lines = []
        for split, name in SPLITS.items():
            path = self.root / self.variant / f"compatibility_{name}.txt"
            for number, line in _text.lines(path) if is_there(path) else ():
                label, *references = line.split() or [""]
                where = f"{path.name}, line {number}"
                if not line.strip():
                    continue
                if label not in ("0", "1"):
                    self.problems.append(f"{where}: begins with {label!r}, allowed: 0, 1")
                    continue
                keys = self._keys(where, references, 2)
                if keys is not None:
                    lines.append(
                        {"split": split, "line": number, "label": int(label), "items": keys, "references": references}
                    )
        return lines

    def _read_questions(self) -> list[dict[str, Any]]:
        questions = []
        for split, name in SPLITS.items():
            path = self.root / self.variant / f"fill_in_blank_{name}.json"
            for number, item in enumerate(_json(path, list) if is_there(path) else []):
                where = f"{path.name}, question {number}"
                try:
                    asked, offered = [str(r) for r in item["question"]], [str(r) for r in item["answers"]]
                    blank = int(item["blank_position"])
                except (KeyError, TypeError, ValueError, OverflowError):
                    self.problems.append(f"{where}: needs question, answers and blank_position")
                    continue
                keys, answers = self._keys(where, asked, 1), self._keys(where, offered, 2)
                if keys is None or answers is None:
                    continue
                own = asked[0].rpartition("_")[0]
                right = [i for i, reference in enumerate(offered) if reference.rpartition("_")[0] == own]
                questions.append(
                    {"split": split, "row": number, "items": keys, "references": asked, "answers": answers,
                     "answer_references": offered, "blank_position": blank, "correct": right[0] if right else -1}
                )  # fmt: skip
        return questions

    def _tables(self) -> Mapping[str, pa.Table]:
        import pyarrow as pa

        text, texts = pa.string(), pa.list_(pa.string())
        outfits = pa.schema(
            [("set_id", text), ("split", text), ("title", text), ("items", texts), ("indices", pa.list_(pa.int32()))]
        )
        lines = pa.schema(
            [("split", text), ("line", pa.int32()), ("label", pa.int32()), ("items", texts), ("references", texts)]
        )
        questions = pa.schema(
            [("split", text), ("row", pa.int32()), ("items", texts), ("references", texts), ("answers", texts),
             ("answer_references", texts), ("blank_position", pa.int32()), ("correct", pa.int32())]
        )  # fmt: skip
        return {
            "outfits": pa.Table.from_pylist(self.outfits, outfits),
            "compatibility": pa.Table.from_pylist(self._lines, lines),
            "questions": pa.Table.from_pylist(self._questions, questions),
        }


def _is_number(text: object) -> bool:
    return is_count(str(text or "").strip())


def _json(path: Path, kind: type) -> Any:
    try:
        value: Any = json.loads(read_source(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} holds no {'object' if kind is dict else 'list'} at its top")
    if isinstance(value, dict) and (odd := [name for name, inner in value.items() if not isinstance(inner, dict)]):
        raise InputError(f"{path}: {odd[0]!r} is no object")
    return value


READER = Reader(
    layout=f"{METADATA}, images/<item_id>.jpg, and disjoint/ or nondisjoint/ with train.json, valid.json, test.json",
    read=read,
    uses=("variant",),
)
