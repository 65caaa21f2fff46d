"""Published weights: which file a network starts from, and that file into HOME/weights before a job needs it.

Compute nodes have no network, so launching fetches on the machine that submits. The files keep the publishers'
names; a person without network there can carry them over by hand.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.io import read_own, sha256_of, write_private
from fashion_dist.models import registry
from fashion_dist.paths import Home
from shards.safe_io import SHARED_FOLDER, create, temporary

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMEOUT_S = 30.0
"""Longest silence of the server that weights are fetched from."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Published:
    """A file of weights that a library publishes for one of its networks.

    Args:
        model: the network's name.
        url: where the file is.
        file: its name under HOME/weights.
        sha256: the beginning of its SHA-256, in hexadecimal; empty where the publisher's name for it has none.
    """

    model: str
    url: str
    file: str
    sha256: str = ""


def published(model: str) -> Published:
    """What a library publishes for the network `model`: its default weights.

    Raises:
        ConfigError: a network of ours, or one that was never published with weights.
    """
    source, name = registry.locate(model)
    if source == "ours":
        raise ConfigError(f"model {model!r} is our own and has no published weights; use --weights none")
    if source == "torchvision":
        import torchvision

        return _from_url(model, str(torchvision.models.get_model_weights(name).DEFAULT.url))
    import timm

    found: Any = timm.get_pretrained_cfg(name)
    if found is not None and found.hf_hub_id:
        held = found.hf_hub_filename or "model.safetensors"
        file = f"{str(found.hf_hub_id).replace('/', '-')}{Path(held).suffix}"
        return Published(model, f"https://huggingface.co/{found.hf_hub_id}/resolve/main/{held}", file)
    if found is not None and found.url:
        return _from_url(model, str(found.url))
    raise ConfigError(f"no weights were published for model {model!r}; --weights none trains from scratch")


def _from_url(model: str, url: str) -> Published:
    """Both libraries put the beginning of the SHA-256 behind the last dash of the file's name."""
    file = url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", file)
    return Published(model, url, file, digest[1] if digest else "")


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
    fresh = temporary(path)
    try:
        digest, announced = _download(wanted.url, fresh)
        _verify(path, digest, wanted.sha256 or announced)
        _verify(path, digest, _first_seen(seen))
        _note_first(seen, digest)
        fresh.replace(path)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"the weights of {wanted.model} could not be fetched from {wanted.url} ({reason}); "
            f"fetch that file elsewhere and put it at {path}"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
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


def _download(url: str, path: Path) -> tuple[str, str]:
    """Write the content of `url` to `path`; returns its SHA-256 and the one that the server announced, if any."""
    redirects = _Redirects()
    digest = hashlib.sha256()
    with (
        urllib.request.build_opener(redirects).open(url, timeout=TIMEOUT_S) as response,
        os.fdopen(create(path), "wb") as file,
    ):
        announced = redirects.announced or _announced(response.headers)
        expected = int(response.headers.get("Content-Length") or -1)
        for chunk in _chunks(response):
            digest.update(chunk)
            file.write(chunk)
        if expected not in (-1, file.tell()):
            raise OSError(f"{file.tell()} of {expected} bytes came")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), announced


def _chunks(response: Any) -> Iterable[bytes]:
    while chunk := response.read(_CHUNK):
        yield chunk


def is_file(config: ModelConfig) -> bool:
    """Whether `model.weights` is the path of a file."""
    return config.weights not in ("none", "imagenet")


def content(config: ModelConfig, home: Home) -> str:
    """What identifies the content of the weights that `model.weights` means, wherever they lie.

    Raises:
        ConfigError: there is no such file, or nothing was published.
    """
    if config.weights == "none":
        return "none"
    if config.weights == "imagenet":
        return f"imagenet {_published_file(config.name)}"
    return f"sha256 {sha256_of(require_file(config.weights), home.hashes)}"


def require_file(weights: str) -> Path:
    """The absolute path of the weights file that was named.

    Raises:
        ConfigError: there is none.
    """
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(
            f"model.weights = {weights!r} is not a file; allowed: none, imagenet or the path of a state dict"
        )
    return path


@functools.cache
def _published_file(model: str) -> str:
    return published(model).file


def find(config: ModelConfig, folder: Path) -> Path | None:
    """The file that `model.weights` means, None for `none`.

    Raises:
        ConfigError: there is no such file; says which one to put where.
    """
    if config.weights == "none":
        return None
    if is_file(config):
        return Path(config.weights)
    wanted = published(config.name)
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


def load_initial(model: nn.Module, config: ModelConfig, folder: Path, sha256: str = "") -> None:
    """Give the model's backbone the weights that `model.weights` means; its heads stay fresh.

    Args:
        model: with a submodule `backbone`.
        config: says which.
        folder: of published weights.
        sha256: of the file, as it was when the run was launched; empty looks at none.

    Raises:
        ConfigError: no such file, another than at launch, or one that does not fit; missing and unexpected keys are
            named.
    """
    path = find(config, folder)
    if path is not None:
        load_weights(model.get_submodule("backbone"), path, sha256)


def load_weights(backbone: nn.Module, path: Path, sha256: str = "") -> None:
    """Load a state dict (.pt, .pth or .safetensors) into the backbone; the file's own classifier is left out.

    Raises:
        ConfigError: the file has another `sha256`, or does not fit; missing and unexpected keys are named.
    """
    state = _read_state_dict(path, sha256)
    own = backbone.state_dict()
    matched = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = sorted(own.keys() - matched.keys() - {key for key in own if key.endswith("num_batches_tracked")})
    unexpected = sorted(state.keys() - matched.keys())
    # A published file has the classifier that ours has not: at most one layer's weight and bias.
    if missing or len({key.rpartition(".")[0] for key in unexpected}) > 1:
        raise ConfigError(
            f"{path} does not fit the model: missing {_some(missing)}; "
            f"unexpected or of another shape {_some(unexpected)}"
        )
    backbone.load_state_dict(matched, strict=False)


def _read_state_dict(path: Path, sha256: str = "") -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"weights {path} are not a file")
    content = path.read_bytes()  # once: what is looked at is what is loaded
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"the weights {path} have changed since the run was launched; launch its task again")
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            loaded: Any = load(content)
        else:
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each means that this is no state dict
        raise ConfigError(f"weights {path} are not a state dict: {why_not_loaded(error)}") from None
    loaded = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(map(_is_entry, loaded.items())):
        raise ConfigError(f"weights {path} are not a state dict of tensors")
    if bad := sorted(key for key, value in loaded.items() if not torch.isfinite(value).all()):
        raise ConfigError(f"weights {path} hold NaN or infinity in {_some(bad)}")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def _is_entry(item: tuple[object, object]) -> bool:
    import torch

    key, value = item
    dense = isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized
    return isinstance(key, str) and dense


def why_not_loaded(error: Exception) -> str:
    """Why a file of tensors was refused, in our words: torch's advise to load what may run code."""
    words = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if found := re.search(r"GLOBAL (\S+)", words):
        return (
            f"it holds {found[1]!r}, which may run code; only tensors and plain values are loaded: save a state_dict()"
        )
    if "weights_only" in words:
        return "it holds more than tensors and plain values, and is not loaded: save a state_dict()"
    return " ".join(words.split())[:200] or type(error).__name__


def _some(names: list[str], shown: int = 6) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "nothing") + rest
