"""Measurements against what people use, side by side in one run: one file each, found by file name."""

from __future__ import annotations

import pkgutil


def names() -> list[str]:
    """The benches there are: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
