"""Another shard set as a run sees it: what has names is numbered as the run learned it.

The same class has another number in every set. What a set says is true, and what a run answers, is brought together by
names alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from shards import Schema, ShardSet, Split


@dataclass(frozen=True)
class LearnedSet(ShardSet):
    """A shard set with the named columns of the schema `learned`; -1, unknown, where the set has not that name."""

    learned: Schema

    @classmethod
    def of(cls, shard_set: ShardSet, learned: Schema) -> ShardSet:
        """`shard_set` as it was learned; itself where its numbers mean the same."""
        own = shard_set.schema
        same = all(own.names.get(name) == words for name, words in learned.names.items())
        return shard_set if same else cls(shard_set.path, shard_set.manifest, learned)

    @property
    def schema(self) -> Schema:
        """See `ShardSet.schema`."""
        own, named = self.manifest.schema, {name: self.learned.columns[name] for name in self.learned.names}
        return Schema({**own.columns, **named}, {**own.names, **self.learned.names})

    def split(self, name: str) -> Split:
        """See `ShardSet.split`."""
        part = super().split(name)
        return _LearnedSplit(**vars(part), own=replace(part, schema=self.manifest.schema))


@dataclass(frozen=True)
class _LearnedSplit(Split):
    own: Split

    def iter_columns(self, *names: str, numbers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """As of any split; one piece."""
        del numbers
        yield self.columns(*names)

    def _fact(self, name: str) -> np.ndarray:
        own, mine = self.own, self.schema.names.get(name, ())
        theirs = own.schema.names.get(name, ())
        is_vector, alike = self._is_vector(name), self._is_vector(name) == own._is_vector(name)
        if mine == theirs and alike:
            return own.columns(name)[name]
        at = {word: number for number, word in enumerate(mine)}
        found = np.full((len(self), len(mine)) if is_vector else len(self), -1, np.int32 if is_vector else np.int64)
        if not theirs or not alike:
            return found  # numbers without names could mean anything
        values, numbers = own.columns(name)[name], np.array([at.get(word, -1) for word in theirs])
        if is_vector:
            found[:, numbers[numbers >= 0]] = values[:, numbers >= 0]
        else:
            known = (values >= 0) & (values < len(theirs))
            found[known] = numbers[values[known]]
        return found
