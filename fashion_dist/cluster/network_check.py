"""Networks and weights looked at before anything is submitted, in a child process that imports torch for this one.

The launcher itself imports no torch: a recipe's own network has its job id within a second. What was found is kept in
HOME/networks.json by name, settings, size, weights and the libraries' versions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from fashion_dist.cluster import code_version, machine, safe_python
from fashion_dist.config import Config, ModelConfig
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.io import parse_dataclass, read_json, sha256_of
from fashion_dist.models import pretrained, registry
from fashion_dist.models.probe import Found, probe
from fashion_dist.paths import Home

TIMEOUT_S = 120.0
"""Longest wait for the child, whose imports take 3 to 10 s and may take longer from a filesystem that is busy."""


class NoAnswerError(ConfigError):
    """Nothing was found, for now."""


def require_network(config: Config, recipe: Config, home: Home) -> None:
    """Refuse a network that cannot be built at its size, or weights that are not its own.

    The recipe's network without weights is not looked at: it takes every size.

    Raises:
        ConfigError: it cannot begin; one sentence with what would be possible.
    """
    model = config.model
    is_own = model.name == recipe.model.name and registry.locate(model.name)[0] == "ours"
    if model.weights != "none" or not is_own:
        look_at(model, config.data.image_px, home)


def look_at(model: ModelConfig, image_px: int, home: Home) -> Found:
    """What `probe` finds of a network at `image_px`, where 0 is the size of its weights; asked once and kept in `home`.

    Raises:
        ConfigError: `probe`'s, or it took too long.
    """
    if (there := known(model, image_px, home)) is not None:
        return there
    model = registry.resolve_model(model)
    try:
        found = probe(model, image_px) if "torch" in sys.modules else _asked(model, image_px)
    except NoAnswerError:
        raise
    except ConfigError as error:
        refused = {"error": str(error), "code": code_version.code_hash()}
        pretrained.remember(home.networks, _key(model, image_px, home), refused)
        raise
    plain = dataclasses.asdict(found)
    for px in {image_px, found.image_px}:
        pretrained.remember(home.networks, _key(model, px, home), plain)
    if pretrained.kind(model.weights) in ("imagenet", "tag"):
        pretrained.remember(home.networks, pretrained.published_key(model), plain["published"])
    return found


def known(model: ModelConfig, image_px: int, home: Home) -> Found | None:
    """What `look_at` found before, if it did; raises what it raised."""
    answer = read_json(home.networks).get(_key(registry.resolve_model(model), image_px, home))
    # Another edition may take what one refused, or say why in better words.
    if isinstance(answer, dict) and "error" in answer and answer.get("code") == code_version.code_hash():
        raise ConfigError(str(answer["error"]))
    with contextlib.suppress(InputError):  # nobody asked, or somebody changed the answer
        return parse_dataclass(Found, answer, home.networks)
    return None


def _key(model: ModelConfig, image_px: int, home: Home) -> str:
    source, name = registry.locate(model.name)
    libraries = ("torch", "torchvision", "timm")
    versions = dict.fromkeys(libraries, "") | machine.installed(*libraries)
    code = code_version.code_hash() if source == "ours" else ""
    weights = model.weights
    if pretrained.is_file(model):
        path = pretrained.require_file(weights)
        weights = f"{path} {sha256_of(path, home.hashes)}"
    return json.dumps([source, name, dict(model.args), image_px, weights, code, versions], sort_keys=True)


def _asked(model: ModelConfig, image_px: int) -> Found:
    """`probe` in a child process."""
    size = f" at {image_px} px" if image_px else ""
    begins = "" if model.weights == "none" else f" with the weights {model.weights}"
    values = {"model": dataclasses.asdict(model), "image_px": image_px}
    return Found(**ask_child("fashion_dist.models.probe", values, f"the network {model.name}{size}{begins}"))


def ask_child(module: str, values: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """What `python -m module` answers of `what`; raises ConfigError, its own or that there was no answer."""
    print(f"looking at {what} ...", file=sys.stderr, flush=True)
    command = [*safe_python.interpreter(), "-m", module]
    environment = {**os.environ, **safe_python.search_path(os.environ), "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command, input=json.dumps(values), capture_output=True, text=True, env=environment, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"looking at {what} took longer than {TIMEOUT_S:.0f} s; try again") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NoAnswerError(f"{what} could not be looked at: {last}")
    answer: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise ConfigError(str(answer["error"]))
    return answer
