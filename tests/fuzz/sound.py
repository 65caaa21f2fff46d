"""Whether what was read of a file is what its types say: the oracle of files whose content has no checksum."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def require_sound(value: Any, hint: Any = Any, at: str = "") -> None:
    """AssertionError where a value or anything in it is of another type than its hint, NaN or infinite."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None) or value is None]
        if value is not None:
            assert kinds, at
            for kind in kinds:
                try:
                    return require_sound(value, kind, at)
                except AssertionError:
                    continue
        assert value is None and type(None) in inner, f"{at} = {value!r}, not {hint}"
    elif origin is typing.Literal:
        assert isinstance(value, str) and value in inner, f"{at} = {value!r}, not one of {inner}"
    elif hint in (int, str, bool):
        assert type(value) is hint, f"{at} = {value!r}, no {hint.__name__}"
    elif hint is float:
        assert type(value) in (int, float) and math.isfinite(value), f"{at} = {value!r}, no finite number"
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        for f in dataclasses.fields(value):
            require_sound(getattr(value, f.name), hints[f.name], f"{at}.{f.name}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            require_sound(item, inner[1] if len(inner) == 2 else Any, f"{at}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        of_all = inner[0] if inner and (origin is not tuple or inner[-1] is Ellipsis) else None
        for number, item in enumerate(value):
            kind = of_all if of_all is not None else inner[number] if number < len(inner) else Any
            require_sound(item, kind, f"{at}[{number}]")
    else:
        assert not isinstance(value, float) or math.isfinite(value), f"{at} = {value!r}"
        assert hint is Any or not isinstance(hint, type) or isinstance(value, hint) or hint is Path, f"{at} = {value!r}"
