"""From what the user typed to a configuration: a task's recipe, or the one that trained weights ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from fashion_dist import runs, tasks
from fashion_dist.cluster import network_check
from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.io import read_json
from fashion_dist.models import finetune, pretrained, registry
from fashion_dist.models.finetune import Wants
from fashion_dist.paths import Home, RunDir
from shards.safe_io import expanded
from shards.typed_json import is_count


def resolve(recipe: Config, asked: Sequence[str], home: Home, *, debug: bool) -> tuple[Config, Mapping[str, str]]:
    """The `recipe` with the settings `asked`, key=value, checked as a whole; with weights the finetuning recipe.
    And key -> where the values come from that are not the recipe's.

    Raises:
        ConfigError: a setting or the weights cannot be.
    """
    parts = [setting.partition("=") for setting in asked]
    explicit = {key.strip(): value.strip() for key, _, value in parts}
    weights = explicit.get("model.weights", recipe.model.weights)
    found: dict[str, tuple[str, str]] = {}
    begun = recipe
    if weights != "none":
        own = recipe.override(setting for setting in asked if not setting.startswith("model.weights"))
        found = _finetuned(own, weights, explicit, home)
        begun = recipe.override(f"{key}={value}" for key, (value, _) in found.items() if key not in explicit)
    config = begun.debug() if debug else begun
    config = config.override(asked)
    if weights != "none":
        config = config.override([f"model.weights={found['model.weights'][0]}"])
    elif registry.locate(config.model.name)[0] == "timm" and "optim.no_decay" not in explicit:
        found["optim.no_decay"] = ("network", "timm's networks")
        config = config.override(["optim.no_decay=network"])
    config = tasks.directed(registry.resolve(config).check(), explicit)
    return config, _origins(config, recipe, explicit, found, debug)


_DEBUG = ("train.fraction", "train.epochs")


def _origins(
    config: Config, recipe: Config, explicit: Mapping[str, str], found: Mapping[str, tuple[str, str]], debug: bool
) -> dict[str, str]:
    """Where the values of `config` come from that are set or that are not the recipe's."""
    before, origins = recipe.flat(), dict[str, str]()
    for key, value in config.flat().items():
        if key in explicit:
            origins[key] = "set by you"
        elif debug and key in _DEBUG:
            origins[key] = "--debug"
        elif key in found:
            origins[key] = found[key][1]
        elif key not in before or before[key] != value:
            named = key == "optim.weight_decay" and config.optim.name != recipe.optim.name
            network = "the network's default" if key.startswith("model.") else ""
            origins[key] = f"{config.optim.name}'s own" if named else network or "the settings beside it"
    return origins


def _finetuned(own: Config, weights: str, explicit: Mapping[str, str], home: Home) -> dict[str, tuple[str, str]]:
    """The settings that beginning with `weights` has in place of the recipe's; `explicit` are those of the user, which
    `own`, the recipe, has already.
    """
    model = own.model
    text, wants = _located(weights, home)
    network: dict[str, tuple[str, str]] = {}
    if wants is not None and wants.network:
        if "model.name" in explicit and registry.canonical(explicit["model.name"]) != wants.network:
            raise ConfigError(
                f"model.weights = {weights!r} are of {wants.network}, not of {explicit['model.name']}; allowed: "
                f"--model {wants.network}, or weights of {explicit['model.name']}"
            )
        network = {"model.name": (wants.network, wants.origin)}
        network |= {f"model.{key}": (str(value), wants.origin) for key, value in (wants.args or {}).items()}
        network |= {key: (value, wants.origin) for key, value in wants.settings.items() if key.startswith("model.")}
        model = (
            Config("", "", model=model).override(f"{k}={v}" for k, (v, _) in network.items() if k not in explicit).model
        )
    model = registry.resolve_model(dataclasses.replace(model, weights=text))
    source, name = registry.locate(model.name)
    theirs = wants.settings.get("data.image_px", "") if wants is not None else ""
    size = explicit.get("data.image_px") or theirs or (str(own.data.image_px) if source == "ours" else "0")
    seen = network_check.look_at(model, int(size) if is_count(size) else 0, home)
    if (wants is None or not wants.settings) and seen.published:
        known = f"{source}'s configuration of {name}"
        tag = pretrained.tagged(text)[1] if pretrained.kind(text) == "tag" else ""
        wants = finetune.of_cfg(seen.published["cfg"], f"{known}.{tag}" if tag else known)
    made = finetune.settings(model.name, wants, seen.folded, seen.normalised)
    return {**made, **network, "model.weights": (text, "set by you")}


def _located(weights: str, home: Home) -> tuple[str, Wants | None]:
    """`model.weights` as a configuration has it, an absolute path or a name, and what these weights want if known.

    Raises:
        ConfigError: there is no such file, run or tag.
    """
    what = pretrained.kind(weights)
    if what == "imagenet":
        return weights, None
    if what == "tag":
        network, tag = pretrained.tagged(weights)
        source, name = registry.locate(network)
        return f"{source}/{name}.{tag}", Wants(f"the weights {weights}", {}, network)
    path = expanded(weights)
    if path.is_file():
        run = RunDir(path.absolute().parents[2]) if len(path.absolute().parents) > 2 else None
        if run is not None and path.absolute().parents[1] == run.checkpoints and run.config.is_file():
            return str(path.absolute()), finetune.of_run(runs.read_config(run)[0], f"run {run.run_id}")
        return str(path.absolute()), finetune.beside(path)
    try:
        run = home.find_run(weights)
    except ConfigError:
        pretrained.require_file(weights)
        raise
    config, _ = runs.read_config(run)
    if read_json(run.state).get("state") != "done":
        raise ConfigError(
            f"run {run.run_id} is not done, so its best weights may still change; allowed: one that is done"
        )
    best = sorted(run.checkpoints.glob("best-*/state.pt"))
    if not best:
        raise ConfigError(f"run {run.run_id} has no best weights in {run.checkpoints}")
    return str(best[-1]), finetune.of_run(config, f"run {run.run_id}")
