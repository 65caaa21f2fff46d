"""Whether a network can be built at a size and begin with its weights, and what these were trained with.

Run as a child of the launcher, which imports no torch:

    echo '{"model": {...}, "image_px": 96}' | python -m fashion_dist.models.probe

The answer is the last line of stdout: `Found` as JSON, or `{"error": "one sentence"}`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import pretrained, registry


@dataclass(frozen=True)
class Found:
    """What there is to know of a network before a job is submitted.

    Args:
        image_px: the size that it was built at.
        step: see `step_cost`; empty where it is not known.
        normalised: it has layers that normalise.
        published: fields of the `Published` that it begins with, or whose network it is; empty for a network of ours.
        folded: the batch normalisation of its weights is folded into the convolutions.
    """

    image_px: int
    step: Mapping[str, int]
    normalised: bool
    published: Mapping[str, Any] = field(default_factory=dict)
    folded: bool = False


def probe(model: ModelConfig, image_px: int) -> Found:
    """What there is to know of `model` at `image_px`, or at the size of its weights where that is 0.

    Raises:
        ConfigError: it cannot be built, or its weights are another network's; says whose.
    """
    from fashion_dist.models.backbone import require_built
    from fashion_dist.models.step_cost import step_cost

    what, theirs = pretrained.kind(model.weights), None
    if what in ("imagenet", "tag"):
        name, tag = pretrained.tagged(model.weights) if what == "tag" else (model.name, "")
        theirs = pretrained.published(name, tag)
    elif what == "file" and registry.locate(model.name)[0] != "ours":
        with contextlib.suppress(ConfigError):  # nothing was published; the file may be anybody's
            theirs = pretrained.published(model.name)
    size = image_px or (int(theirs.cfg["input_size"][-1]) if theirs is not None and theirs.cfg else 224)
    backbone = require_built(model, size)
    folded = False
    if what == "file":
        from fashion_dist.models import state_dict

        path = Path(model.weights)
        state = state_dict.read_state_dict(path)
        folded = state_dict.is_folded(state)
        try:
            state_dict.fitted(backbone, state, path)
        except ConfigError as error:
            other = state_dict.whose(state, model.name)
            told = f"{path} has the weights of {other} (--model {other}), not of {model.name}: " if other else ""
            raise ConfigError(f"{told}{error}") from error
    kinds = {type(layer).__name__.lower() for layer in backbone.modules()}
    normalised = any("norm" in kind and "normfree" not in kind for kind in kinds)
    known = {} if theirs is None else dataclasses.asdict(theirs)
    return Found(size, step_cost(backbone, size), normalised, known, folded)


def main() -> None:
    """Answer the question on stdin."""
    asked = json.load(sys.stdin)
    try:
        answer: Mapping[str, Any] = dataclasses.asdict(probe(ModelConfig(**asked["model"]), asked["image_px"]))
    except ConfigError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
