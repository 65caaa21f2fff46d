"""The names of the networks there are, read without importing torch.

torchvision and timm mark each network's function with `@register_model`; their sources say so in 50 ms, where
importing them takes seconds.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

# The function follows its decorators, each of which may span lines; no other `def` stands between.
_REGISTERED = re.compile(r"^@register_model\b(?:(?!^def ).)*?^def (\w+)", re.MULTILINE | re.DOTALL)


def own_models() -> list[str]:
    """Our own networks: the modules of `fashion_dist/models`, except those whose names begin with `_`."""
    modules = (Path(__file__).parent / "models").glob("*.py")
    return sorted(path.stem for path in modules if not path.stem.startswith("_"))


ALIASES = {"xception": "legacy_xception"}
"""Names of the literature that timm has given to other networks' families; the names it now uses itself."""


def library_name(name: str) -> str:
    """The name by which the library knows the network `name`."""
    return ALIASES.get(name, name)


@functools.cache
def known_models() -> frozenset[str]:
    """Every name that `model.name` takes: ours, torchvision's classification networks and timm's."""
    return frozenset(
        (*ALIASES, *own_models(), *_registered("torchvision", "models/*.py"), *_registered("timm", "models/*.py"))
    )


def _registered(package: str, pattern: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    for path in sorted(Path(spec.origin).parent.glob(pattern)):
        yield from _REGISTERED.findall(path.read_text(encoding="utf-8"))
