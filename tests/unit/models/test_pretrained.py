"""Published weights fit the networks of their names, come whole and verified, or are refused with what to do."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.models.backbone import build_backbone, build_network
from fashion_dist.models.heads import Head
from fashion_dist.models.pretrained import Published, fetch, file_sha256, find, published
from fashion_dist.models.registry import known_models
from fashion_dist.models.state_dict import load_initial, read_state_dict
from fashion_dist.paths import Home

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves the content at /file, at /moved by way of a redirect that announces its hash, and half of it at /cut."""

    announced = DIGEST

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("X-Linked-Etag", f'"{self.announced}"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // (2 if self.path == "/cut" else 1)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_file_without_a_published_hash_stays_the_one_first_seen(tmp_path: Path) -> None:
    """Almost no network of timm has a hash to check."""
    wanted = Published("net", "http://127.0.0.1:9/net.pt", "net.pt")
    (tmp_path / "net.pt").write_bytes(CONTENT)
    assert fetch(wanted, tmp_path) == tmp_path / "net.pt"
    (tmp_path / "net.pt").write_bytes(CONTENT[::-1])
    with pytest.raises(ConfigError, match=f"not {DIGEST[:16]}; remove it"):
        fetch(wanted, tmp_path)
    (tmp_path / "net.pt.sha256").chmod(0o666)  # what others can have written is nothing to go by
    fetch(wanted, tmp_path)


def test_weights_that_changed_after_the_launch_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2)})
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, path)
    config = ModelConfig(weights=str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(config, Home(tmp_path)) == sha256
    load_initial(model, config, tmp_path, sha256)
    torch.save({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match="have changed since the run was launched"):
        load_initial(model, config, tmp_path, sha256)
    assert not model.get_submodule("backbone").weight.any()  # type: ignore[operator]


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.canary,)


def test_a_file_that_is_no_state_dict_ends_in_our_own_sentence(tmp_path: Path) -> None:
    one = torch.zeros(1)
    files: dict[str, object] = {
        "code.pt": {"a": Bomb(tmp_path / "ran")}, "whole.pt": torch.nn.Linear(1, 1), "list.pt": [one],
        "numbers.pt": {1: one}, "text.pt": {"a": "b"}, "sparse.pt": {"a": one.to_sparse()},
        "nan.pt": {"a": one / 0}, "cut.pt": b"PK\3\4", "a.safetensors": b"\x10\0\0\0\0\0\0\0{\"a\": ",
        "b.safetensors": b"",
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ConfigError) as caught:
            read_state_dict(path)
        told = str(caught.value)
        assert name in told and "\n" not in told and "\x1b" not in told and "weights_only" not in told, told
    assert not (tmp_path / "ran").exists()
    with (tmp_path / "holes.pt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"it is sparse: .*SHARDS_MAX_HOLES raises"):
        read_state_dict(tmp_path / "holes.pt")


@pytest.mark.parametrize("path", ["/file", "/moved"])
def test_weights_are_fetched_once_and_verified(site: str, path: str, tmp_path: Path) -> None:
    wanted = Published("resnet50", site + path, "resnet50-x.pth", DIGEST[:8])
    file = fetch(wanted, tmp_path / "weights")
    assert file.read_bytes() == CONTENT
    assert fetch(Published("resnet50", "http://127.0.0.1:1/gone", file.name, DIGEST[:8]), tmp_path / "weights") == file
    assert left_in(tmp_path / "weights") == [file.name, f"{file.name}.sha256"]


@pytest.mark.parametrize(("path", "digest"), [("/file", "00000000"), ("/cut", ""), ("/cut", DIGEST)])
def test_a_file_that_is_not_the_published_one_is_refused(site: str, path: str, digest: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not as published|bytes"):
        fetch(Published("resnet50", site + path, "w.pth", digest), tmp_path)
    assert left_in(tmp_path) == []


def test_the_hash_that_a_store_announces_counts(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "announced", "f" * 64)
    with pytest.raises(ConfigError, match="not as published"):
        fetch(Published("vit", site + "/moved", "w.safetensors"), tmp_path)


def test_without_network_it_says_which_file_to_put_where(tmp_path: Path) -> None:
    wanted = published("resnet50")
    unreachable = Published(wanted.model, "http://127.0.0.1:1/" + wanted.file, wanted.file, wanted.sha256)
    with pytest.raises(ConfigError) as error:
        fetch(unreachable, tmp_path)
    assert f"put it at {tmp_path / wanted.file}" in str(error.value)
    with pytest.raises(ConfigError) as error:
        find(ModelConfig(name="resnet50", weights="imagenet"), tmp_path)
    assert wanted.url in str(error.value)
    assert str(tmp_path / wanted.file) in str(error.value)


def test_a_spoilt_file_is_not_used(tmp_path: Path) -> None:
    wanted = published("resnet50")
    (tmp_path / wanted.file).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="not as published"):
        fetch(wanted, tmp_path)


def test_networks_that_nobody_published_are_refused() -> None:
    with pytest.raises(ConfigError, match="'fashionnet' is our own"):
        published("fashionnet")
    with pytest.raises(ConfigError, match="no weights were published for model 'botnet50ts_256'"):
        published("botnet50ts_256")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "xception", "vit_tiny_patch16_224"])
def test_the_publishers_own_state_dict_fits_and_its_classifier_is_replaced(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if name in ("resnet18", "mobilenet_v2"):
        import torchvision

        publisher = torchvision.models.get_model(name, weights=None)
    else:
        import timm

        publisher = timm.create_model("legacy_xception" if name == "xception" else name)
    assert name in known_models()
    config = ModelConfig(name=name, weights="imagenet")
    wanted = published(name)
    if wanted.file.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(publisher.state_dict(), tmp_path / wanted.file)
    else:
        torch.save(publisher.state_dict(), tmp_path / wanted.file)
    network = build_network(config, {"label": Head(7)}, 224)
    before = network.heads["label"].weight.clone()
    load_initial(network, config, tmp_path)
    theirs, ours = publisher.state_dict(), network.backbone.state_dict()
    assert set(ours) <= set(theirs)
    assert len(set(theirs) - set(ours)) == 2
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(before, network.heads["label"].weight)


def test_a_file_of_another_network_is_named_by_its_keys(tmp_path: Path) -> None:
    backbone, _ = build_backbone(ModelConfig(name="mobilenet_v2"), 224)
    torch.save(backbone.state_dict(), tmp_path / "wrong.pt")
    network = build_network(ModelConfig(name="resnet18"), {"label": Head(7)}, 224)
    with pytest.raises(ConfigError) as error:
        load_initial(network, ModelConfig(name="resnet18", weights=str(tmp_path / "wrong.pt")), tmp_path)
    assert "missing bn1.bias" in str(error.value)
    assert "unexpected or of another shape features.0.0.weight" in str(error.value)


def test_no_weights_leave_the_network_as_it_is(tmp_path: Path) -> None:
    network = build_network(ModelConfig(name="mlp"), {"label": Head(2)}, 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_initial(network, ModelConfig(name="mlp"), tmp_path)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
