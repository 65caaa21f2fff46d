"""State dicts of others and of our own runs: what fits, what is resampled, and whose they are where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import state_dict
from fashion_dist.models.backbone import build_backbone, build_network
from fashion_dist.models.heads import Head
from fashion_dist.models.probe import probe


def saved(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def refusal(model: str, weights: str, image_px: int = 64) -> str:
    with pytest.raises(ConfigError) as refused:
        probe(ModelConfig(name=model, weights=weights), image_px)
    assert "\n" not in str(refused.value) and "\x1b" not in str(refused.value)
    return str(refused.value)


def test_weights_of_another_network_say_whose_they_are(tmp_path: Path) -> None:
    of_timm = saved(tmp_path / "timm.pt", timm.create_model("convnext_tiny").state_dict())
    assert "has the weights of timm/convnext_tiny (--model timm/convnext_tiny), not of convnext_tiny: " in refusal(
        "convnext_tiny", of_timm
    )
    of_torchvision = saved(tmp_path / "tv.pt", torchvision.models.mobilenet_v2().state_dict())
    assert "has the weights of mobilenet_v2 (--model mobilenet_v2), not of fashionnet: " in refusal(
        "fashionnet", of_torchvision
    )
    larger = saved(tmp_path / "larger.pt", torchvision.models.resnet34().state_dict())
    assert "has the weights of resnet34 (--model resnet34), not of resnet18: " in refusal("resnet18", larger)
    assert refusal("resnet18", saved(tmp_path / "odd.pt", {"weight": torch.ones(3)})).startswith(
        f"{tmp_path / 'odd.pt'} does not fit the model: missing bn1.bias"
    )


def test_what_is_no_state_dict_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    assert "not a state dict: it is no file that torch.save wrote" in refusal("resnet18", str(tmp_path / "text.pt"))
    whole = saved(tmp_path / "whole.pt", torchvision.models.resnet18())
    assert (
        f"weights {whole} are not a state dict: it holds 'torchvision.models.resnet.ResNet', which may run"
        in refusal("resnet18", whole)
    )
    for name, content in (("a.pt", b"no pickle"), ("b.safetensors", b"no header"), ("c.pth", b"")):
        (tmp_path / name).write_bytes(content)
        assert f"weights {tmp_path / name} are not a state dict: " in refusal("resnet18", str(tmp_path / name))
    for nothing in ([1, 2], {"weight": torch.ones(3, device="meta")}):
        assert "are not a state dict of tensors" in refusal("resnet18", saved(tmp_path / "d.pt", nothing))


def test_a_network_of_ours_gives_its_backbone(tmp_path: Path) -> None:
    network = build_network(ModelConfig(name="mlp"), {"label": Head(7)}, 8)
    path = tmp_path / "state.pt"
    torch.save({"model": network.state_dict()}, path)
    other = build_network(ModelConfig(name="mlp"), {"label": Head(3)}, 8)
    state_dict.load_initial(other, ModelConfig(name="mlp", weights=str(path)), tmp_path)
    found = other.backbone.state_dict()
    assert all(torch.equal(value, network.backbone.state_dict()[key]) for key, value in found.items())


@pytest.mark.parametrize("holder", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_checkpoints_of_the_usual_loops_are_read(tmp_path: Path, holder: str, wrapper: str) -> None:
    state = torchvision.models.resnet18().state_dict()
    wrapped = {f"{wrapper}{key}": value for key, value in state.items()}
    path = Path(saved(tmp_path / "w.pt", {holder: wrapped, "epoch": 3} if holder else wrapped))
    backbone, _ = build_backbone(ModelConfig(name="resnet18"), 32)
    fitted = state_dict.fitted(backbone, state_dict.read_state_dict(path), path)
    assert fitted.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in fitted.items())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "vit_b_16"])
def test_positions_are_resampled_to_another_size(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    library = torchvision.models.get_model(name) if name == "vit_b_16" else timm.create_model(name)
    path = Path(saved(tmp_path / "w.pt", library.state_dict()))
    backbone, _ = build_backbone(ModelConfig(name=name), 96)
    model = torch.nn.ModuleDict({"backbone": backbone})
    state_dict.load_initial(model, ModelConfig(name=name, weights=str(path)), tmp_path)
    same = [key for key, value in backbone.state_dict().items() if torch.equal(value, library.state_dict()[key])]
    assert len(backbone.state_dict()) - len(same) <= 30  # positions and tables of offsets


def test_folded_normalisation_is_seen() -> None:
    norm = torch.nn.BatchNorm2d(3)
    assert state_dict.is_folded(norm.state_dict())
    norm(torch.randn(4, 3, 2, 2))
    assert not state_dict.is_folded(norm.state_dict())
    assert not state_dict.is_folded(torch.nn.LayerNorm(3).state_dict())
