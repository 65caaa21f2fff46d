"""Schemas and random facts of the data sets, as their readers give them, for tests that need no image."""

from __future__ import annotations

import numpy as np

from shards import Schema

SCHEMAS = {
    "deep_fashion": Schema(
        facts={"file_path": "str", "row": "int", "category": "int", "attributes": "ints:5"},
        names={"category": ("dress", "hat", "shirt", "skirt"), "attributes": ("red", "blue", "a, b", "plain", "worn")},
    ),
    "fashion_mnist": Schema(
        facts={"row": "int", "label": "int"}, names={"label": tuple(f"garment {i}" for i in range(10))}
    ),
    "clipart": Schema(
        facts={"file": "str", "row": "int", "label": "int"}, names={"label": tuple(f"group {i}" for i in range(65))}
    ),
}


def random_facts(schema: Schema, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`count` rows of facts that fit the schema, all labels known."""
    rng = np.random.default_rng(seed)
    facts: dict[str, np.ndarray] = {}
    for name, kind in schema.facts.items():
        if kind == "int":
            classes = len(schema.names.get(name, ()))
            facts[name] = rng.integers(classes, size=count) if classes else rng.permutation(count)
        elif kind.startswith("ints:"):
            facts[name] = rng.integers(2, size=(count, int(kind.removeprefix("ints:")))).astype(np.int32)
        elif kind == "float":
            facts[name] = rng.random(count)
        else:
            facts[name] = np.array([f"{name}/{i:03d}, {i}.jpg" for i in range(count)], dtype=object)
    return facts
