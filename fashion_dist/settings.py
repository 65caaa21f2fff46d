"""How settings are read, from words and from what was stored, and which of them tell one run from another."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fashion_dist.errors import ConfigError, unknown
from shards import typed_json

Scalar = bool | int | float | str
T = TypeVar("T")


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError, which says what is allowed, where a setting's value does not meet a condition."""
    if not condition:
        raise ConfigError(f"{key} = {value!r} is not possible; allowed: {allowed}")


def added(default: T, *, as_before: T) -> T:
    """A field of a section that is added after runs have been made.

    Args:
        default: its default from now on.
        as_before: the value that means what runs did before there was the field. A configuration with it has the run id
            that it had without the field, and a stored configuration without the field is read as having it.
    """
    return field(default=default, metadata={"as_before": as_before})


def renamed(default: T, *, was: str) -> T:
    """A field that had another name when runs were made: they are read by it, and keep their ids."""
    return field(default=default, metadata={"was": was})


RETIRED = {
    "data.balance": "data.balance is now called data.class_balanced",
    "data.weigh": "data.weigh is now called data.sample_weight",
    "train.mix": "train.mix is now called train.mix_prob",
    "model.recolour": "model.recolour is now called model.hue_jitter_prob",
    "model.frame": "model.frame is gone: no part of a network looks at a place that only some photos share",
    "model.grain": "model.grain is gone: no part of a network looks at what tells one photographer from another",
    "model.name=dense": "the network dense is now called mlp",
    "data.start_px": "data.start_px is gone: all epochs have images of data.image_px",
    "data.grow_until": "data.grow_until is gone: all epochs have images of data.image_px",
}
"""Settings of earlier editions: what to say to those who use them."""


def gone_settings(gone: Mapping[str, Any]) -> str:
    """`model.grain = true, which is gone`, of any number of settings that are."""
    told = [f"{key} = {json.dumps(value)}" for key, value in gone.items()]
    shown = ", ".join(told[:4]) + (f" and {len(told) - 4} more" if len(told) > 4 else "")
    return f"{shown}, which {'is' if len(told) == 1 else 'are'} gone"


def asked_fields(owner: Any) -> dict[str, Any]:
    """The fields of a dataclass that decide a run id: without those `added` later that are as before."""
    asked: dict[str, Any] = {}
    for f in dataclasses.fields(owner):
        value = getattr(owner, f.name)
        if "as_before" in f.metadata and value == f.metadata["as_before"]:
            continue
        if not dataclasses.is_dataclass(value):
            asked[f.metadata.get("was", f.name)] = _plain(value)
        elif section := asked_fields(value):
            asked[f.name] = section
    return asked


def _plain(value: Any) -> Any:
    """`value` for JSON, where 3 and 3.0 are the same: a recipe has the one, the command line makes the other."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def require_setting(key: str, keys: Iterable[str]) -> None:
    """Refuse a key that is none of `keys` and cannot be a setting of the network's own.

    Raises:
        ConfigError: says what became of it, or names the nearest keys.
    """
    if key in (known := list(keys)):
        return
    if key in RETIRED:
        raise ConfigError(RETIRED[key])
    section, _, name = key.partition(".")
    if section != "model" or not name.isidentifier():
        raise unknown("setting", key, known, limit=8)


_hints = functools.cache(get_type_hints)


def hints_of(kind: Any) -> dict[str, Any]:
    """The types of a section's fields; evaluating them costs more than everything else that a setting takes."""
    return _hints(kind)


def build(kind: type[T], values: Mapping[str, Any], prefix: str, gone: dict[str, Any]) -> T:
    """A `kind` of stored `values`; what it does not take is put into `gone` under its dotted key."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'the configuration'} is {values!r}, not a mapping of settings")
    hints = hints_of(kind)
    fields = dataclasses.fields(typing.cast("Any", kind))
    made: dict[str, Any] = {f.name: f.metadata["as_before"] for f in fields if "as_before" in f.metadata}
    args: dict[str, Any] = {}
    names = {f.metadata["was"]: f.name for f in fields if "was" in f.metadata}
    for stored, value in values.items():
        key = names.get(stored, stored)
        hint = hints.get(key)
        if dataclasses.is_dataclass(hint):
            made[key] = build(typing.cast("type[Any]", hint), value, f"{prefix}{key}.", gone)
        elif prefix + key in RETIRED:
            if value and (key != "grow_until" or values.get("start_px")):  # else it was switched off
                gone[prefix + key] = value
        elif hint is None and "args" in hints and "args" not in values:
            args[key] = value  # of the first edition, where a network's own settings stood beside the others
        elif hint is None or (get_origin(hint) is Literal and type(value) is str and value not in get_args(hint)):
            gone[prefix + key] = value
        else:
            made[key] = typed_json.parse_value(hint, value, prefix + key, "the configuration")
    if args:
        made["args"] = typed_json.parse_value(hints["args"], args, f"{prefix}args", "the configuration")
    for f in fields:
        if f.name not in made and f.default is f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"the configuration has no {prefix}{f.name}")
    try:
        return kind(**made)
    except ConfigError:
        refused = [name for name, value in made.items() if not _takes(kind, name, value)]
        if not refused:
            raise
    gone |= {prefix + name: made.pop(name) for name in refused}
    return kind(**made)


def _takes(kind: type[T], name: str, value: Any) -> bool:
    try:
        kind(**{name: value})
    except ConfigError:
        return False
    return True


def parse_value(key: str, text: str, hint: Any) -> Any:
    """`text` as a value of the type `hint`; raises ConfigError naming what the key takes."""
    origin = get_origin(hint)
    if origin is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        if text not in choices:
            raise ConfigError(f"{key} = {text!r} is not possible; allowed: {', '.join(choices)}")
        return choices[text]
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",")]
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis:
            parts = [part for part in parts if part]
            kinds = kinds[:1] * len(parts)
        if len(parts) != len(kinds):
            raise ConfigError(f"{key} takes {len(kinds)} comma-separated values, not {text!r}")
        return tuple(parse_value(key, part, kind) for part, kind in zip(parts, kinds, strict=True))
    assert not isinstance(hint, types.UnionType), f"no reading of {hint} for {key}"
    if hint is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ConfigError(f"{key} takes true or false, not {text!r}")
        return words[text.lower()]
    if hint is str:
        if not text.isprintable():
            raise ConfigError(f"{key} has a control character in {text!r}")
        return text
    try:
        value = hint(text)
    except ValueError:
        article = "a whole number" if hint is int else "a number"
        raise ConfigError(f"{key} takes {article}, not {text!r}") from None
    if not typed_json.is_sound(value):
        raise ConfigError(f"{key} takes a finite number of at most 64 bits, not {text!r}")
    return value
