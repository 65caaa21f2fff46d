"""Polyvore's outfits without pictures: n of them in training, as the published set has them, and one item in many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards import Manifest, Schema, ShardSet, index
from shards.manifest import INDEX, MANIFEST, Shard

SCHEMA = Schema(columns={"item_id": "str", "semantic": "int"}, names={"semantic": tuple("abcdefghijk")})
SHARES = {"train": 1.0, "val": 5000 / 53306}
ITEMS_EACH, MOST, IN_MANY = 3.7, 19, 2281 / 53306
"""Items by outfits; items of the largest outfit; the share of outfits that hold the most popular item."""


def outfits_of(split: str, count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Items, outfits, as many compatibility lines and half as many questions of one split."""
    keys = np.array([f"{split}{row}" for row in range(int(count * ITEMS_EACH))])
    sizes = rng.integers(2, 9, count)
    sizes[:3] = MOST
    made = [keys[rng.choice(len(keys), size, replace=False)].tolist() for size in sizes]
    for outfit in made[: int(count * IN_MANY)]:
        outfit[0] = str(keys[0])
    apart = (keys[rng.choice(len(keys), 5, replace=False)].tolist() for _ in made)
    drawn = [outfit if k % 2 else next(apart) for k, outfit in enumerate(made)]
    return {
        "keys": keys.tolist(), "semantic": rng.integers(11, size=len(keys)),
        "outfits": [{"split": split, "set_id": f"{split}{k}", "items": o} for k, o in enumerate(made)],
        "compatibility": [
            {"split": split, "line": k, "items": items, "references": items, "label": k % 2}
            for k, items in enumerate(drawn)
        ],
        "questions": [
            {"split": split, "row": k, "items": o[1:], "answers": [o[0], *keys[:3].tolist()], "references": o[1:],
             "answer_references": list("abcd"), "correct": 0}
            for k, o in enumerate(made[::2])
        ],
    }  # fmt: skip


def outfit_set(folder: Path, count: int) -> ShardSet:
    """A set of index and tables alone, `count` outfits in training."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = {split: outfits_of(split, max(20, int(count * share)), rng) for split, share in SHARES.items()}
    groups = []
    for split, part in parts.items():
        alike = {name: np.full(len(part["keys"]), 8) for name in index.PLACES if name not in ("key", "crc32")}
        crc32 = np.zeros(len(part["keys"]), np.uint32)
        groups.append((split, {**alike, "crc32": crc32, "key": part["keys"], "item_id": part["keys"],
                               "semantic": part["semantic"]}))  # fmt: skip
    index.write(folder / INDEX, SCHEMA, groups)
    hashes = {}
    for name in ("outfits", "compatibility", "questions"):
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([row for part in parts.values() for row in part[name]]), path)
        hashes[name] = index.table_hash(index.open_table(path).read())
    shards = tuple(Shard(f"{s}.tar", s, len(p["keys"]), 1024 * len(p["keys"]), "0" * 64) for s, p in parts.items())
    (folder / MANIFEST).write_bytes(Manifest("polyvore_outfits", SCHEMA, shards, hashes).encoded())
    return ShardSet.open(folder)


def planning(n: int, folder: Path) -> Callable[[], object]:
    """What an epoch of n outfits is made of: checked, each of all pairs with hard negatives, and validation judged."""
    from fashion_dist.tasks import load

    outfit_set(folder / "set", n)
    task = load("polyvore_pairs")
    options = {**task.recipe.options, "examples": 0, "negatives": "hard"}
    config = dataclasses.replace(task.recipe, options=options)

    def work() -> None:
        made = ShardSet.open(folder / "set")
        train, val = made.split("train"), made.split("val")
        rows = np.random.default_rng(1).standard_normal((len(train), 65)).astype(np.float32)
        task.validate(made, config)
        task.build_examples(train, config, 1, lambda: {"embedding": rows})
        evaluator = task.evaluator(val, config)
        evaluator.predictions = {"embedding": rows[: len(val)]}  # type: ignore[attr-defined]
        evaluator.compute()

    return work
