"""The networks there are and the settings that each takes, read without importing torch.

Ours are the files of this folder with a function `build`; what only one of them understands it declares as

    @dataclass(frozen=True)
    class Args:
        pool: Literal["avg", "max"] = "avg"

which is set as `model.pool`. `Args` is read from the file's source, with the standard library alone, so that launching
takes milliseconds; its `__post_init__` raises ValueError for what is out of range. A field added after runs have
been made is `field(default=..., metadata={"added": True})`: at its default it is left out of configurations, so that
earlier runs keep their ids. torchvision and timm mark each network's function with `@register_model`; their sources say
so in 50 ms, where importing them takes seconds.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from fashion_dist.config import Config, ModelConfig
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.settings import RETIRED, Scalar, parse_value

Source = Literal["ours", "torchvision", "timm"]

ALIASES = {"xception": "legacy_xception"}
"""Names of the literature that timm has given to other networks' families; the names it now uses itself."""
TIMM_RESERVED = ("num_classes", "in_chans", "features_only", "out_indices", "pretrained", "checkpoint_path")
"""Keyword arguments of timm's networks that are not the user's: heads and weights are ours."""
COMMON = [f"model.{field.name}" for field in dataclasses.fields(ModelConfig) if field.name not in ("name", "args")]
"""Settings that every network takes."""
# The function follows its decorators, each of which may span lines; no other `def` stands between.
_REGISTERED = re.compile(r"^@register_model\b(?:(?!^def ).)*?^def (\w+)", re.MULTILINE | re.DOTALL)
_BUILD = re.compile(r"^def build\(", re.MULTILINE)


def own_models() -> list[str]:
    """Our own networks."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py") if _has_build(path))


def _has_build(path: Path) -> bool:
    return _BUILD.search(path.read_text(encoding="utf-8", errors="replace")) is not None


def known_models() -> list[str]:
    """Every plain name that `model.name` takes."""
    return sorted({*own_models(), *library_models("torchvision"), *library_models("timm"), *ALIASES})


@functools.cache
def library_models(package: str) -> frozenset[str]:
    """The names of a library's classification networks."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return frozenset()
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return frozenset(name for path in files for name in _REGISTERED.findall(path.read_text(encoding="utf-8")))


def locate(name: str) -> tuple[Source, str]:
    """Whose network `name` is, and its name there: ours, else torchvision's, else timm's; a prefix `timm/` chooses.

    Raises:
        ConfigError: there is no such network, or the file of that name is none.
    """
    library, chosen, plain = name.rpartition("/")
    if chosen:
        if library not in ("torchvision", "timm"):
            raise ConfigError(f"unknown model {name!r}; allowed before a slash: torchvision, timm")
        plain = ALIASES.get(plain, plain) if library == "timm" else plain
        if plain not in library_models(library):
            raise unknown(f"model of {library}", plain, library_models(library))
        return ("timm" if library == "timm" else "torchvision"), plain
    if (retired := f"model.name={name}") in RETIRED:
        raise ConfigError(RETIRED[retired])
    if name.isidentifier() and not name.startswith("_") and (path := _path(name)).is_file():
        if not _has_build(path):
            raise ConfigError(f"{path} is not a network: it has no function build(config, image_px)")
        return "ours", name
    plain = ALIASES.get(name, name)
    if plain in library_models("torchvision"):
        return "torchvision", plain
    if plain in library_models("timm"):
        return "timm", plain
    raise unknown("model", name, known_models())


def _path(name: str) -> Path:
    return Path(__file__).parent / f"{name}.py"


def canonical(name: str) -> str:
    """The one spelling of a network's name: without the library, unless a bare name would mean another's."""
    source, plain = locate(name)
    return plain if locate(plain) == (source, plain) else f"{source}/{plain}"


def resolve(config: Config) -> Config:
    """`config` with the settings of its network read, checked and completed; equal networks are equal then.

    Raises:
        ConfigError: an unknown network, or a setting that it does not take; says what it takes.
    """
    model = resolve_model(config.model)
    return config if model == config.model else dataclasses.replace(config, model=model)


def resolve_model(model: ModelConfig) -> ModelConfig:
    """As `resolve`. Of timm's networks nothing is completed: which defaults hold only building one would show."""
    source, name = locate(model.name)
    if source == "ours":
        args = _own_args(name, model.args)
    else:
        refused = set(model.args) if source == "torchvision" else set(model.args) & set(TIMM_RESERVED)
        if refused:
            other = f", or as timm/{name} what timm's takes" if name in library_models("timm") else ""
            raise _not_taken(f"{name!r} of {source}", refused, [], other if source == "torchvision" else "")
        args = {key: _guessed(f"model.{key}", model.args[key]) for key in sorted(model.args)}
    return dataclasses.replace(model, name=canonical(model.name), args=args)


def _not_taken(network: str, keys: Iterable[str], own: Iterable[str], other: str = "") -> ConfigError:
    named = sorted(f"model.{key}" for key in keys)
    for key in named:
        if key in RETIRED:
            return ConfigError(RETIRED[key])
    taken = ", ".join([*COMMON, *(f"model.{key}" for key in own)])
    return ConfigError(f"the network {network} does not take {', '.join(named)}; it takes {taken}{other}")


def _own_args(name: str, given: Mapping[str, Any]) -> dict[str, Scalar]:
    """The network's `Args` as a mapping, with `given` in their place."""
    path = _path(name)
    args, hints = read_args(path, path.stat().st_mtime_ns)
    if unasked := given.keys() - hints.keys():
        raise _not_taken(repr(name), unasked, hints)
    if args is None:
        return {}
    values = {key: parse_value(f"model.{key}", str(value), hints[key]) for key, value in given.items()}
    try:
        made = args(**values)
    except Exception as error:  # the file is the user's, and may do anything
        told = " ".join(str(error).split())
        is_told = isinstance(error, ValueError) and told
        raise ConfigError(told if is_told else f"the class Args of {path}: {type(error).__name__}: {told}") from error
    asked = [f for f in dataclasses.fields(made) if not f.metadata.get("added") or getattr(made, f.name) != f.default]
    return {f.name: getattr(made, f.name) for f in asked}


@functools.lru_cache(maxsize=64)
def read_args(path: Path, mtime_ns: int) -> tuple[Any, Mapping[str, Any]]:
    """`Args` out of a network's source, of which nothing else runs, and the types of its fields; None without any.

    Raises:
        ConfigError: the source is not Python, or `Args` needs more than the standard library.
    """
    del mtime_ns  # a changed file is another entry of the cache
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}, is not Python: {error.msg}") from error
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Args"), None)
    if found is None:
        return None, {}
    # A dataclass looks its module up by name; that of this module will do.
    namespace: dict[str, Any] = {"__name__": __name__}
    try:
        imports = [node for node in tree.body if _is_light(node)]
        exec(compile(ast.Module([*imports, found], []), str(path), "exec"), namespace)
        args = namespace["Args"]
        hints = get_type_hints(args, namespace)
        assert all(hint in (bool, int, float, str) or get_origin(hint) is Literal for hint in hints.values()), "types"
        args()
    except Exception as error:  # the file is the user's, and may do anything
        raise ConfigError(
            f"the class Args of {path} cannot be read ({error}); allowed: a dataclass of bool, int, float, str and "
            f"Literal, each with a default, that needs nothing but the standard library"
        ) from error
    if not dataclasses.is_dataclass(args):
        raise ConfigError(f"the class Args of {path} is not a dataclass")
    if common := {"name", "args", *(key.removeprefix("model.") for key in COMMON)} & hints.keys():
        names = ", ".join(sorted(common))
        raise ConfigError(f"the class Args of {path} has {names}, of which every network has its own; allowed: others")
    return args, {field.name: hints[field.name] for field in dataclasses.fields(args)}


def _is_light(node: ast.stmt) -> bool:
    """Whether a statement imports from the standard library only."""
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and (node.module or "").partition(".")[0] in sys.stdlib_module_names
    return isinstance(node, ast.Import) and all(
        alias.name.partition(".")[0] in sys.stdlib_module_names for alias in node.names
    )


def _guessed(key: str, value: Scalar) -> Scalar:
    """A value of a keyword argument whose type nobody declares: true or false, a number, or text."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            parsed: Scalar = parse_value(key, value, kind)
        except ConfigError:
            continue
        return parsed
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not value or not value.isprintable():
        raise ConfigError(f"{key} = {value!r} is not possible; allowed: true, false, a number, or text")
    return value
