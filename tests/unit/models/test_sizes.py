"""Networks at sizes that are not theirs: built, or refused with the sizes that they take."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import registry
from fashion_dist.models.backbone import build_backbone, require_built
from fashion_dist.models.state_dict import fitted

SEVEN = (
    "resnet18", "timm/resnet18", "resnet50", "timm/resnet50", "convnext_tiny", "timm/convnext_tiny",
    "vit_small_patch16_224", "swin_tiny_patch4_window7_224", "efficientnet_b0", "timm/efficientnet_b0", "fashionnet",
    "mlp",
)  # fmt: skip


@pytest.mark.parametrize("name", SEVEN)
@pytest.mark.parametrize("image_px", [64, 160])
def test_networks_take_sizes_that_are_not_theirs(name: str, image_px: int) -> None:
    assert isinstance(require_built(ModelConfig(name=name), image_px), torch.nn.Module)


def test_a_network_that_reads_tensors_as_it_is_made_is_taken() -> None:
    """Meta tensors have no values: it is made on the CPU."""
    require_built(ModelConfig(name="torchvision/regnet_y_400mf"), 64)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_outputs_that_only_training_has_are_left_out(name: str, tmp_path: Path) -> None:
    backbone = require_built(ModelConfig(name=name), 96)
    published = torchvision.models.get_model(name, weights=None, init_weights=False).state_dict()
    assert any(key.lower().startswith("aux") for key in published)
    assert fitted(backbone, published, tmp_path).keys() == backbone.state_dict().keys()


@pytest.mark.parametrize("args", [{}, {"sketch": True, "palette": False}])
def test_our_own_takes_every_size(args: dict[str, bool]) -> None:
    for image_px in (8, 9, 23, 28, 81, 127, 224):
        require_built(ModelConfig(name="fashionnet", args=args), image_px)


@pytest.mark.parametrize(
    ("name", "image_px", "words"),
    [
        ("vit_small_patch16_224", 100, "patches of 16 px would leave a border out); it takes for example 64, 96, 112"),
        ("vit_b_16", 100, "it takes for example 64, 96, 112, 128"),
        ("maxvit_t", 100, "it takes for example 224, 448"),
        ("convnext_tiny", 16, "it takes for example 32, 64, "),
        ("alexnet", 32, "it takes for example 64, 96, 112, 128"),
        ("inception_v3", 28, "it takes for example 96, 112, 128, 160"),
    ],
)
def test_what_cannot_be_built_says_which_sizes_can(name: str, image_px: int, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_built(ModelConfig(name=name), image_px)
    told = str(refused.value)
    assert f"data.image_px = {image_px}" in told and words in told and "\n" not in told


def test_a_transformer_of_timms_and_of_torchvisions_is_made_for_the_size() -> None:
    for name in ("vit_tiny_patch16_224", "vit_b_16"):
        backbone, num_features = build_backbone(ModelConfig(name=name), 32)
        with torch.no_grad():
            assert backbone.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, num_features)
    assert build_backbone(ModelConfig(name="vit_tiny_patch16_224", args={"img_size": 64}), 32)[0] is not None


@pytest.mark.parametrize(
    ("layers", "forward", "words"),
    [
        ("nn.Linear(3, 8)", "first(mean)", ""),
        ("nn.Linear(3, 8), nn.Linear(3, 8)", "first(mean)", "parameters parts.1.weight, parts.1.bias take no part"),
        ("nn.Linear(3, 8)", "first(mean).detach()", "of its parameters parts.0.weight, parts.0.bias take no part"),
        ("nn.Linear(3, 8)", "first(mean).half()", "its output is torch.float16, not torch.float32"),
        ("nn.Linear(3, 8)", "first(mean) / 0 * 0", "its output is not finite"),
        ("nn.Linear(3, 8)", "first(mean)[:1] if self.training else first(mean)", "not a tensor of 8 features"),
        ("nn.Linear(3, 8)", "first(mean) if self.training else mean", "its output in evaluation is not a tensor of 8"),
        ("nn.LazyLinear(8)", "first(mean)", "its lazy layers have no size yet"),
    ],
)  # fmt: skip
def test_a_network_of_ones_own_that_cannot_learn_is_refused(
    layers: str, forward: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "toy.py", registry._path
    path.write_text(
        f"""from torch import nn
class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([{layers}])
    def forward(self, images):
        first, mean = self.parts[0], images.mean((2, 3))
        return {forward}
def build(config, image_px):
    return Toy(), 8
"""
    )
    toy = types.ModuleType("fashion_dist.models.toy")
    exec(path.read_text(), toy.__dict__)
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(registry, "_path", lambda name: path if name == "toy" else real(name))
    if not words:
        require_built(ModelConfig(name="toy"), 8)
        monkeypatch.setattr(registry, "library_models", lambda library: {"toy"} if library == "timm" else set())
        words = "toy.py in fashion_dist/models has the name of timm's network"
    with pytest.raises(ConfigError) as refused:
        require_built(ModelConfig(name="toy"), 8)
    assert words in str(refused.value)
