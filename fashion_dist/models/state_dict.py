"""State dicts that others or our own runs saved: read without running code, fitted to a backbone, and recognised."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import registry
from fashion_dist.models.pretrained import find, why_not_loaded
from shards.safe_io import read_source

if TYPE_CHECKING:
    from torch import Tensor, nn

_OWN = "backbone."
"""What the names of a backbone's tensors begin with in the state of a whole network of ours."""
_HOLDERS = ("state_dict", "model", "model_state_dict")
"""Where checkpoints of others keep their state dict."""
_WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")
"""What DistributedDataParallel, torch.compile and modules of Lightning put before the names of a network's tensors."""


def load_initial(model: nn.Module, config: ModelConfig, folder: Path, sha256: str = "") -> None:
    """Give the model's backbone the weights that `model.weights` means; its heads stay fresh.

    Published ones lie in `folder`. `sha256` is the file's when the run was launched; empty looks at none.

    Raises:
        ConfigError: no such file, another than at launch, or one that does not fit; missing and unexpected keys are
            named.
    """
    path = find(config, folder)
    if path is not None:
        backbone = model.get_submodule("backbone")
        backbone.load_state_dict(fitted(backbone, read_state_dict(path, sha256), path), strict=False)


def read_state_dict(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a file (.pt, .pth or .safetensors) by name; of the state of a run of ours, those of its backbone.

    Raises:
        ConfigError: the file has another `sha256`, or is no state dict; says what it is.
    """
    if not path.is_file():
        raise ConfigError(f"weights {path} are not a file")
    content = read_source(path)  # once: what is looked at is what is loaded
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"the weights {path} have changed since the run was launched; launch its task again")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            loaded: Any = load(content)
        else:
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many kinds; each means that this is no state dict
        raise ConfigError(f"weights {path} are not a state dict: {why_not_loaded(error)}") from None
    held = [name for name in _HOLDERS if isinstance(loaded, dict) and name in loaded]
    loaded = loaded[held[0]] if held else loaded
    if not isinstance(loaded, dict) or not all(map(_is_entry, loaded.items())):
        raise ConfigError(f"weights {path} are not a state dict of tensors")
    if bad := sorted(key for key, value in loaded.items() if not torch.isfinite(value).all()):
        raise ConfigError(f"weights {path} hold NaN or infinity in {_some(bad)}")
    state = {_WRAPPERS.sub("", key): value for key, value in loaded.items()}
    own = {key.removeprefix(_OWN): value for key, value in state.items() if key.startswith(_OWN)}
    return own or state


def _is_entry(item: tuple[object, object]) -> bool:
    key, value = item
    dense = (
        isinstance(value, torch.Tensor) and value.layout is torch.strided and not (value.is_quantized or value.is_meta)
    )
    return isinstance(key, str) and dense


def fitted(backbone: nn.Module, state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of `state` for the backbone, resampled to its size; raises ConfigError naming keys that differ."""
    state = _adapted(backbone, state)
    own = backbone.state_dict()
    matched = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    # Tables of positions are computed from the image size, not learned: a file may lack or have them.
    computed = ("num_batches_tracked", "relative_position_index", "attn_mask")
    missing = sorted(key for key in own.keys() - matched.keys() if not key.endswith(computed))
    unexpected = sorted(key for key in state.keys() - matched.keys() if not key.endswith(computed))
    # A published file has the classifier that ours has not: at most one layer's weight and bias.
    if missing or len({key.rpartition(".")[0] for key in unexpected}) > 1:
        raise ConfigError(
            f"{path} does not fit the model: missing {_some(missing)}; "
            f"unexpected or of another shape {_some(unexpected)}"
        )
    return matched


def _adapted(backbone: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`state` as the library itself reads it into this network: older names, positions of another image size."""
    module = type(backbone).__module__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries about their own code
            if module.startswith("timm."):
                adapt = getattr(sys.modules[module], "checkpoint_filter_fn", None)
                return state if adapt is None else dict(adapt(dict(state), backbone))
            if module == "torchvision.models.vision_transformer":
                from torchvision.models.vision_transformer import interpolate_embeddings

                size: Any = backbone
                return dict(interpolate_embeddings(size.image_size, size.patch_size, dict(state)))
            if module in ("torchvision.models.googlenet", "torchvision.models.inception"):
                return {key: value for key, value in state.items() if not key.lower().startswith("aux")}
    except Exception:  # it is of another network, which is told by its names
        return state
    return state


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "nothing") + rest


def is_folded(state: Mapping[str, Tensor]) -> bool:
    """Whether the batch normalisation was folded into the convolutions: its layers have mean 0 and variance 1."""
    means = [value for key, value in state.items() if key.endswith("running_mean")]
    variances = [value for key, value in state.items() if key.endswith("running_var")]
    return bool(means) and all(not m.any() for m in means) and all(bool((v == 1).all()) for v in variances)


_FAMOUS = (
    "resnet18", "resnet50", "resnet34", "resnet101", "convnext_tiny", "convnext_small", "convnext_base",
    "efficientnet_b0", "efficientnet_b3", "tf_efficientnet_lite0", "efficientnet_v2_s", "mobilenet_v2",
    "mobilenetv2_100", "mobilenet_v3_large", "mobilenet_v3_small", "mobilenetv3_large_100", "vit_tiny_patch16_224",
    "vit_small_patch16_224", "vit_base_patch16_224", "vit_b_16", "deit_small_patch16_224", "swin_t",
    "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224", "densenet121", "vgg16", "regnety_016", "alexnet",
    "regnet_y_400mf", "wide_resnet50_2", "resnext50_32x4d", "legacy_xception", "inception_v3", "squeezenet1_0",
    "shufflenet_v2_x1_0",
)  # fmt: skip
"""Networks whose weights people have, which are tried when a file does not fit."""


def whose(state: Mapping[str, Tensor], named: str) -> str:
    """The network that a state dict is of, as `--model` takes it; empty where none of those tried within 20 s.

    The network of the name that it was taken for, in the other library, is tried first.
    """
    from fashion_dist.models.backbone import build_backbone

    end = time.monotonic() + 20
    for name in _candidates(named):
        if time.monotonic() > end:
            break
        try:
            with torch.device("meta"):
                backbone, _ = build_backbone(ModelConfig(name=name), 224)
            fitted(backbone, state, Path())
        except Exception:  # one that cannot be built here, or another, is not the one
            continue
        return name
    return ""


def _candidates(named: str) -> Iterator[str]:
    plain = named.rpartition("/")[2]
    for name in dict.fromkeys((plain, *_FAMOUS, *registry.own_models())):
        for library in ("torchvision", "timm"):
            if name in registry.library_models(library):
                yield registry.canonical(f"{library}/{name}")
        if name in registry.own_models():
            yield name
