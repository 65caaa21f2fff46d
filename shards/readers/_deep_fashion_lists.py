"""The official DeepFashion Category and Attribute Prediction benchmark: `list_*.txt` files.

`Anno_coarse/` (or `Anno/`) holds `list_category_cloth.txt`, `list_category_img.txt`, `list_attr_cloth.txt`,
`list_attr_img.txt` and `list_bbox.txt`; `Eval/` holds `list_eval_partition.txt`. Every file opens with a line that
counts its rows and a header line. Names of attributes may contain blanks; categories count from 1; an attribute is 1,
-1 (absent) or 0 (unknown), stored as 1, 0 and -1.

Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations, CVPR 2016.
"""

from __future__ import annotations

from pathlib import Path

from shards.readers import ReadOptions, Source

ANNOTATIONS = ("Anno_coarse", "Anno")


def found(folder: Path) -> bool:
    """Whether `folder` is laid out so."""
    return any((folder / name / "list_category_img.txt").is_file() for name in ANNOTATIONS)


def read(folder: Path, options: ReadOptions) -> Source:
    raise NotImplementedError
