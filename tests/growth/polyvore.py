"""Polyvore's outfits drawn by chance, as many as the published set has: raw, or as an index and tables alone."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import Manifest, Schema, ShardSet, index
from shards.manifest import INDEX, MANIFEST, Shard

SCHEMA = Schema(columns={"item_id": "str", "semantic": "int"}, names={"semantic": tuple("abcdefghijk")})
OUTFITS = {"train": 53_306, "val": 5_000, "test": 10_000}
FILES = {"train": "train", "val": "valid", "test": "test"}
ITEMS_EACH, MOST, IN_MANY = 3.675, 19, 2281 / 53306
"""Items by outfits; items of the largest outfit; the share of outfits that hold the most popular item."""


@dataclass(frozen=True)
class Drawn:
    """One split. A place is an item in an outfit, counted through all outfits.

    Args:
        items: the item of each place.
        references: `<set_id>_<index>` of each place.
        outfits: places of each outfit.
        lines: label and places of each compatibility line.
        questions: places that are asked about, and of the answers, of which the first is right.
    """

    split: str
    items: list[str]
    references: list[str]
    outfits: list[range]
    lines: list[tuple[int, list[int]]]
    questions: list[tuple[list[int], list[int]]]

    @property
    def keys(self) -> list[str]:
        """Each item once."""
        return list(dict.fromkeys(self.items))


def draw(split: str, count: int, rng: np.random.Generator) -> Drawn:
    """`count` outfits, as many compatibility lines, of which half go together, and half as many questions."""
    items, sizes = [f"{split}{row}" for row in range(int(count * ITEMS_EACH))], rng.integers(2, 9, count)
    sizes[-3:] = MOST
    rows = np.concatenate([np.arange(len(items)), rng.integers(len(items), size=max(0, sizes.sum() - len(items)))])
    taken = np.split(rng.permutation(rows)[: sizes.sum()], np.cumsum(sizes)[:-1])
    popular = int(count * IN_MANY)
    parts = [list(dict.fromkeys([*([0] * (k < popular)), *part.tolist()])) for k, part in enumerate(taken)]
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    outfits = [range(*ends[k : k + 2]) for k, part in enumerate(parts) if len(part) > 1]
    places = [items[row] for part in parts for row in part]
    references = [f"{split}{k}_{index}" for k, part in enumerate(parts) for index in range(1, len(part) + 1)]
    named = np.concatenate([np.array(outfit) for outfit in outfits])
    apart = named[rng.integers(len(named), size=(len(outfits), 5))].tolist()
    lines = [(k % 2, list(outfit) if k % 2 else apart[k]) for k, outfit in enumerate(outfits)]
    questions = [(list(outfit[1:]), [outfit[0], *apart[k][:3]]) for k, outfit in enumerate(outfits[::2])]
    return Drawn(split, places, references, outfits, lines, questions)


def source(folder: Path, share: float, pictures: list[Path]) -> Path:
    """The published set's layout and numbers, or a share of them; items are links to `pictures`."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "nondisjoint").mkdir()
    told: dict[str, dict[str, str]] = {}
    for split, count in OUTFITS.items():
        drawn, name = draw(split, int(count * share), rng), FILES[split]
        for item in drawn.keys:
            os.link(pictures[len(told) % len(pictures)], folder / "images" / f"{item}.jpg")
            told[item] = {"category_id": str(len(told) % 150), "semantic_category": "abcdefghijk"[len(told) % 11]}
        outfits = [
            {"set_id": drawn.references[places[0]].partition("_")[0],
             "items": [{"item_id": drawn.items[place], "index": n} for n, place in enumerate(places, 1)]}
            for places in drawn.outfits
        ]  # fmt: skip
        named = [" ".join(drawn.references[place] for place in places) for _, places in drawn.lines]
        lines = [f"{label} {words}" for (label, _), words in zip(drawn.lines, named, strict=True)]
        questions = [
            {"question": [drawn.references[place] for place in asked], "blank_position": 1,
             "answers": [drawn.references[place] for place in answers]}
            for asked, answers in drawn.questions
        ]  # fmt: skip
        (folder / "nondisjoint" / f"{name}.json").write_text(json.dumps(outfits))
        (folder / "nondisjoint" / f"compatibility_{name}.txt").write_text("\n".join(lines) + "\n")
        (folder / "nondisjoint" / f"fill_in_blank_{name}.json").write_text(json.dumps(questions))
    (folder / "polyvore_item_metadata.json").write_text(json.dumps(told))
    return folder


def tables_of(drawn: Drawn) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The tables of a packed set, by name."""

    def keys(places: list[int] | range) -> list[str]:
        return [drawn.items[place] for place in places]

    def references(places: list[int]) -> list[str]:
        return [drawn.references[place] for place in places]

    split = drawn.split
    yield "outfits", [{"split": split, "set_id": str(k), "items": keys(o)} for k, o in enumerate(drawn.outfits)]
    yield (
        "compatibility",
        [
            {"split": split, "line": k, "items": keys(line), "references": references(line), "label": label}
            for k, (label, line) in enumerate(drawn.lines)
        ],
    )
    yield "questions", [
        {"split": split, "row": k, "items": keys(asked), "answers": keys(answers), "references": references(asked),
         "answer_references": references(answers), "correct": 0}
        for k, (asked, answers) in enumerate(drawn.questions)
    ]  # fmt: skip


def outfit_set(folder: Path, count: int) -> ShardSet:
    """A set of index and tables alone, `count` outfits in training."""
    folder.mkdir(parents=True)
    rng, groups = np.random.default_rng(0), []
    parts = [draw(name, max(20, count * OUTFITS[name] // OUTFITS["train"]), rng) for name in ("train", "val")]
    for part in parts:
        keys, semantic = part.keys, rng.integers(11, size=len(part.keys))
        columns: dict[str, Any] = {name: np.full(len(keys), 8) for name in index.PLACES if name != "key"}
        columns["crc32"] = np.zeros(len(keys), np.uint32)
        groups.append((part.split, {**columns, "key": keys, "item_id": keys, "semantic": semantic}))
    index.write(folder / INDEX, SCHEMA, groups)
    hashes, tables = {}, [dict(tables_of(part)) for part in parts]
    for name in tables[0]:
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([row for table in tables for row in table[name]]), path)
        hashes[name] = index.table_hash(index.open_table(path).read())
    shards = tuple(Shard(f"{s}.tar", s, len(g["key"]), 1024 * len(g["key"]), "0" * 64) for s, g in groups)
    (folder / MANIFEST).write_bytes(Manifest("polyvore_outfits", SCHEMA, shards, hashes).encoded())
    return ShardSet.open(folder)


def examples_of(folder: Path, negatives: str) -> Callable[[], object]:
    """What an epoch of all pairs of a set is made of, with the hard negatives or those of a category."""
    from fashion_dist.tasks import load

    task = load("polyvore_pairs")
    options = {**task.recipe.options, "examples": 0, "negatives": negatives}
    config, made = dataclasses.replace(task.recipe, options=options), ShardSet.open(folder)
    rows = np.random.default_rng(1).standard_normal((made.splits["train"], 65)).astype(np.float32)
    return lambda: task.build_examples(made.split("train"), config, 1, lambda: {"embedding": rows})


def planning(n: int, folder: Path) -> Callable[[], object]:
    """What an epoch of n outfits is made of: checked, each of all pairs with hard negatives, and validation judged."""
    from fashion_dist.tasks import load

    outfit_set(folder / "set", n)
    task, examples = load("polyvore_pairs"), examples_of(folder / "set", "hard")

    def work() -> None:
        made = ShardSet.open(folder / "set")
        val = made.split("val")
        task.validate(made, task.recipe)
        examples()
        evaluator = task.evaluator(val, task.recipe)
        rows = np.random.default_rng(2).standard_normal((len(val), 65)).astype(np.float32)
        evaluator.predictions = {"embedding": rows}  # type: ignore[attr-defined]
        evaluator.compute()

    return work
