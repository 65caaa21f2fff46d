"""The weights that a network starts from: a file, or published ones and these into HOME/weights before a job needs it.

Compute nodes have no network, so launching fetches on the machine that submits. The files keep the publishers'
names; a person without network there can carry them over by hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Literal

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError, InputError, RunError, unknown
from fashion_dist.io import parse_dataclass, read_json, read_own, sha256_of, write_json, write_private
from fashion_dist.models import registry
from fashion_dist.paths import Home
from shards.safe_io import SHARED_FOLDER, expanded, replacing

TIMEOUT_S = 30.0
"""Longest silence of the server that weights are fetched from."""


@dataclass(frozen=True)
class Published:
    """A file of weights that a library publishes for one of its networks.

    Args:
        model: the network's name.
        url: where the file is.
        file: its name under HOME/weights.
        sha256: the beginning of its SHA-256, in hexadecimal; empty where the publisher's name for it has none.
        cfg: what it was trained with, in the words of timm's pretrained_cfg: input_size, mean, std, interpolation,
            crop_pct.
    """

    model: str
    url: str
    file: str
    sha256: str = ""
    cfg: Mapping[str, Any] = field(default_factory=dict)


_FILES = ("pt", "pth", "bin", "ckpt", "safetensors", "npz")


def kind(weights: str) -> Literal["none", "imagenet", "tag", "file"]:
    """What `model.weights` names; a `tag` is one of a library's published weights, as NETWORK.TAG."""
    if weights in ("none", "imagenet"):
        return "none" if weights == "none" else "imagenet"
    network, dot, tag = weights.rpartition(".")
    if not dot or "/" in tag or tag in _FILES or not re.fullmatch(r"((timm|torchvision)/)?\w+", network):
        return "file"
    library, chosen, plain = network.rpartition("/")
    known = registry.library_models(library) if chosen else {*registry.known_models()} - {*registry.own_models()}
    return "tag" if plain in known and not Path(weights).exists() else "file"


def tagged(weights: str) -> tuple[str, str]:
    """The network of a tag and the tag: of `timm/convnext_tiny.fb_in22k` `timm/convnext_tiny` and `fb_in22k`.

    A tag in capitals is torchvision's, as `resnet50.IMAGENET1K_V1`; without a library, any other is timm's.
    """
    network, _, tag = weights.rpartition(".")
    if "/" not in network:
        network = f"{'torchvision' if tag.isupper() else 'timm'}/{network}"
    return registry.canonical(network), tag


def published(model: str, tag: str = "") -> Published:
    """What a library publishes for the network `model`: the weights named `tag`, else its default ones.

    Imports the library, which takes seconds; `published_of` asks it once.

    Raises:
        ConfigError: a network of ours, one that was never published with weights, or a tag that there is not.
    """
    source, name = registry.locate(model)
    if source == "ours":
        raise ConfigError(f"model {model!r} is our own and has no published weights; use --weights none")
    if source == "torchvision":
        import torchvision

        weights = torchvision.models.get_model_weights(name)
        if tag and tag not in weights.__members__:
            raise unknown(f"weights of torchvision's {name}", tag, weights.__members__)
        chosen = weights[tag] if tag else weights.DEFAULT
        crop = chosen.transforms()
        cfg = {
            "input_size": [3, crop.crop_size[0], crop.crop_size[0]], "mean": [*crop.mean], "std": [*crop.std],
            "interpolation": crop.interpolation.value, "crop_pct": crop.crop_size[0] / crop.resize_size[0],
        }  # fmt: skip
        return _from_url(model, str(chosen.url), cfg)
    import timm

    tags = [known.rpartition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise unknown(f"weights of timm's {name}", tag, tags)
    found: Any = timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    wanted = ("input_size", "mean", "std", "interpolation", "crop_pct")
    values = {} if found is None else {key: getattr(found, key) for key in wanted}
    cfg = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    if found is not None and found.hf_hub_id:
        held = found.hf_hub_filename or "model.safetensors"
        file = f"{str(found.hf_hub_id).replace('/', '-')}{Path(held).suffix}"
        return Published(model, f"https://huggingface.co/{found.hf_hub_id}/resolve/main/{held}", file, cfg=cfg)
    if found is not None and found.url:
        return _from_url(model, str(found.url), cfg)
    raise ConfigError(f"no weights were published for model {model!r}; --weights none trains from scratch")


def _from_url(model: str, url: str, cfg: Mapping[str, Any]) -> Published:
    """Both libraries put the beginning of the SHA-256 behind the last dash of the file's name."""
    file = url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", file)
    return Published(model, url, file, digest[1] if digest else "", cfg)


def published_of(config: ModelConfig, known: Path) -> Published:
    """`published` for the network and weights of `config`, asked once a version of the library and kept in `known`."""
    name, tag = tagged(config.weights) if kind(config.weights) == "tag" else (config.name, "")
    if registry.locate(name)[0] == "ours":
        return published(name)
    key = published_key(config)
    with contextlib.suppress(InputError):  # there is none, or somebody changed it
        kept = parse_dataclass(Published, read_json(known).get(key), known)
        if Path(kept.file).name == kept.file:
            return kept
    made = published(name, tag)
    remember(known, key, dataclasses.asdict(made))
    return made


def published_key(config: ModelConfig) -> str:
    """What `published_of` keeps an answer by."""
    name, tag = tagged(config.weights) if kind(config.weights) == "tag" else (config.name, "")
    source, plain = registry.locate(name)
    return f"published {source} {importlib.metadata.version(source)} {plain}.{tag}"


def remember(known: Path, key: str, value: Mapping[str, Any]) -> None:
    """Keep `value` in the JSON file `known`, where its folder is there and can be written."""
    if known.parent.is_dir():
        with contextlib.suppress(OSError):  # a working folder of somebody else
            write_json(known, {**read_json(known), key: value})


def fetch(wanted: Published, folder: Path) -> Path:
    """The file in `folder`, fetched when it is not there; it appears whole and verified, or not at all.

    Raises:
        ConfigError: no network, or the file is not what was published; says which file to put where.
    """
    path, seen = folder / wanted.file, folder / f"{wanted.file}.sha256"
    if path.is_file():
        digest = sha256_of(path, folder.parent / "hashes.json")
        _verify(path, digest, wanted.sha256)
        _verify(path, digest, _first_seen(seen))
        _note_first(seen, digest)
        return path
    if os.path.lexists(path):
        raise ConfigError(f"{path} is no file (a folder, or a link to nothing); move it away")
    folder.mkdir(mode=SHARED_FOLDER, parents=True, exist_ok=True)
    try:
        with replacing(path) as file:
            digest, announced = _download(wanted.url, file)
            _verify(path, digest, wanted.sha256 or announced)
            _verify(path, digest, _first_seen(seen))
            _note_first(seen, digest)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"the weights of {wanted.model} could not be fetched from {wanted.url} ({reason}); "
            f"fetch that file elsewhere and put it at {path}"
        ) from error
    return path


def _first_seen(path: Path) -> str:
    """The SHA-256 of a published file when this user first had it here; empty where that never was."""
    try:
        return read_own(path).decode("ascii", "replace").strip()
    except (FileNotFoundError, RunError):
        return ""


def _note_first(path: Path, digest: str) -> None:
    if not _first_seen(path):
        with contextlib.suppress(OSError):  # a folder of somebody else's, which they keep
            write_private(path, f"{digest}\n")


def _verify(path: Path, digest: str, expected: str) -> None:
    if expected and not digest.startswith(expected):
        raise ConfigError(f"{path} is not as published: SHA-256 {digest[:16]}, not {expected[:16]}; remove it")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Remembers the SHA-256 that a store of large files announces when it sends the client on."""

    announced = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """The next request, as the base class makes it."""
        self.announced = self.announced or _announced(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _announced(headers: Message) -> str:
    tag = (headers.get("X-Linked-Etag") or "").strip('"')
    return tag if re.fullmatch(r"[0-9a-f]{64}", tag) else ""


def _download(url: str, file: IO[bytes]) -> tuple[str, str]:
    """Write the content of `url` to `file`; returns its SHA-256 and the one that the server announced, if any."""
    redirects = _Redirects()
    digest = hashlib.sha256()
    with urllib.request.build_opener(redirects).open(url, timeout=TIMEOUT_S) as response:
        announced = redirects.announced or _announced(response.headers)
        expected = int(response.headers.get("Content-Length") or -1)
        while chunk := response.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
        if expected not in (-1, file.tell()):
            raise OSError(f"{file.tell()} of {expected} bytes came")
    return digest.hexdigest(), announced


def is_file(config: ModelConfig) -> bool:
    """Whether `model.weights` is the path of a file."""
    return kind(config.weights) == "file"


def content(config: ModelConfig, home: Home) -> str:
    """What identifies the content of the weights that `model.weights` means, wherever they lie.

    Raises:
        ConfigError: there is no such file, or nothing was published.
    """
    if config.weights == "none":
        return "none"
    if not is_file(config):
        return f"imagenet {published_of(config, home.networks).file}"
    return f"sha256 {sha256_of(require_file(config.weights), home.hashes)}"


def require_file(weights: str) -> Path:
    """The absolute path of the weights file that was named; raises ConfigError where there is none."""
    path = expanded(weights).absolute()
    if not path.is_file():
        raise ConfigError(
            f"model.weights = {weights!r} is not a file, nor a run or published weights; allowed: none, imagenet, "
            f"NETWORK.TAG such as timm/convnext_tiny.fb_in22k, the path of a state dict, or a run"
        )
    return path


def find(config: ModelConfig, folder: Path) -> Path | None:
    """The file that `model.weights` means, None for `none`; raises ConfigError that says which one to put where."""
    if config.weights == "none":
        return None
    if is_file(config):
        return Path(config.weights)
    wanted = published_of(config, folder.parent / "networks.json")
    path = folder / wanted.file
    if not path.is_file():
        raise ConfigError(f"the weights of {config.name} are not at {path}; fetch {wanted.url} and put it there")
    return path


def file_sha256(config: ModelConfig, home: Home) -> str:
    """SHA-256 of the file that `model.weights` means; empty for `none`, or where it is not there."""
    try:
        path = find(config, home.weights)
    except ConfigError:
        return ""
    return sha256_of(path, home.hashes) if path is not None else ""


def why_not_loaded(error: Exception) -> str:
    """Why a file of tensors was refused, in our words: torch's advise to load what may run code."""
    words = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if found := re.search(r"GLOBAL (\S+)", words):
        return (
            f"it holds {found[1]!r}, which may run code; only tensors and plain values are loaded: save a state_dict()"
        )
    if "weights_only" in words:
        return "it holds more than tensors and plain values, and is not loaded: save a state_dict()"
    if isinstance(error, LookupError):  # of a text, whose letters are read as instructions
        return "it is no file that torch.save wrote"
    return " ".join(words.split())[:200] or type(error).__name__
