"""What there is to see of a run beside its curves: figures, confusions, examples with pictures, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Example:
    """One sample's key and picture, and named plain values of it, the same names for all examples."""

    key: str
    image: Image.Image
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Artifact:
    """Something that the run read or made; `references` stay where they are."""

    name: str
    type: str
    files: Sequence[Path] = ()
    references: Sequence[Path] = ()
    is_input: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Media:
    """All of it.

    Args:
        summary: the best metrics and other figures of the whole run.
        confusions: split -> (class names, counts with a row for each true class).
        split: whose predictions the examples are.
        examples: evenly over the split.
        artifacts: the shard set, the best checkpoint, the submission.
        fingerprint: another one when any of it but the pictures has changed.
        pictures: of the report's page, by name, where one was made.
    """

    summary: Mapping[str, Any]
    confusions: Mapping[str, tuple[Sequence[str], Sequence[Sequence[int]]]]
    split: str
    examples: Sequence[Example]
    artifacts: Sequence[Artifact]
    fingerprint: str
    pictures: Mapping[str, Path] = field(default_factory=dict)
