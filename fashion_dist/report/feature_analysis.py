"""What a network sees, computed once with its best weights on a sample of a split, and kept beside the page.

Features are what the heads rest on: the input of the last fully connected layer. Grad-CAM (Selvaraju et al. 2017) is
captum's; t-SNE (van der Maaten & Hinton 2008) and PCA are scikit-learn's.

Legend: n sampled images, F features, C channels, P pixels of a side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashion_dist.io import OwnFiles
from fashion_dist.models.siamese import PairNetwork, pair_scores
from fashion_dist.report.run_data import RunData
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import ExampleSet
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.trainer import Trainer

SAMPLE = 1500
"""Images whose features are drawn: t-SNE of so many takes ten seconds on two slow cores."""
LOOKED_AT = 4
"""Images whose feature maps and Grad-CAM are shown, of different classes."""
LAYERS, MAPS = 4, 6
_FORMAT = 4
"""Of the kept file; another number is computed anew."""


@dataclass(frozen=True)
class Inside:
    """All that is shown of a network; images are uint8.

    Args:
        rows: int64 [n], the sampled images as rows of the split.
        tsne: [n, 2].
        pca: [n, 2], and `explained` [2], the share of the variance along each.
        explained: see `pca`.
        neighbour: int64 [n], the place of the nearest other image in the features.
        filters: float32 [C, 3, k, k] of the first convolution; empty where there is none.
        looked: int64 [m], places in `rows` of the images below.
        inputs: [m, P, P, 3].
        maps: [layers, m, MAPS, p, p], enlarged to one size.
        layers: names of those layers, as JSON.
        cams: [m, P, P, 3], Grad-CAM over the image; empty where it is not possible.
    """

    rows: np.ndarray
    tsne: np.ndarray
    pca: np.ndarray
    explained: np.ndarray
    neighbour: np.ndarray
    filters: np.ndarray
    looked: np.ndarray
    inputs: np.ndarray
    maps: np.ndarray
    layers: np.ndarray
    cams: np.ndarray


def look_inside(facts: RunData, split: str, groups: np.ndarray, kept: Path, say: Callable[[str], None]) -> Inside:
    """What the best weights of a run see in a split; read from `kept`, an .npz file, if that is of the same weights.

    The images looked at closely are of different `groups`, int [N]; `say` is told what is being done.

    Raises:
        CheckpointError: there are no best weights that can be read.
    """
    with contextlib.closing(Checkpoints(facts.run.checkpoints)) as checkpoints:
        found = checkpoints.load("best")
    key = json.dumps([_FORMAT, split, found[0].facts.get("sha256", "") if found else ""])
    if (old := _read(kept, key)) is not None:
        return old
    say("looking into the network")
    with _trainer(facts) as trainer:
        for module in trainer.state.model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # hooks keep a layer's output, to stay as it was
        made = _compute(trainer, split, groups)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, key=np.array(key), **vars(made))
    OwnFiles(kept.parent).write(kept.name, buffer.getvalue())
    return made


def _read(path: Path, key: str) -> Inside | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return Inside(**{field.name: stored[field.name] for field in dataclasses.fields(Inside)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _trainer(facts: RunData) -> Trainer:
    assert facts.shard_set is not None
    config = dataclasses.replace(facts.config, data=dataclasses.replace(facts.config.data, eval_flip=False))
    return Trainer.for_inference(OpenRun(facts.run, config, facts.shard_set))


def _compute(trainer: Trainer, split: str, groups: np.ndarray) -> Inside:
    model = trainer.state.model
    draw = np.random.default_rng(0)
    rows = np.sort(draw.permutation(len(groups))[:SAMPLE])
    looked = _of_different_groups(groups[rows])
    features: list[Tensor] = []
    images: dict[int, Tensor] = {}
    handle = _watch_features(model, features)
    try:
        with trainer.split_loader(split, ExampleSet.of_images(rows)) as loader:
            order: list[int] = []
            for batch, _ in trainer.iter_outputs(loader):
                order += batch.index.tolist()
                wanted = [(at, int(i)) for at, i in enumerate(batch.index.tolist()) if i in looked]
                images |= {i: batch.images[at].detach().clone().float() for at, i in wanted}
    finally:
        handle.remove()
    table = torch.cat(features).numpy()[np.argsort(order)]
    model = model.to("cpu")  # a few images: their maps and gradients are wanted as arrays
    chosen = torch.stack([images[int(i)].cpu() for i in looked])
    tsne, pca, explained, neighbour = embed(table)
    data = trainer.config.data
    convolutions = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    first = convolutions[0][1].weight.detach().numpy() if convolutions else np.zeros((0, 3, 1, 1), np.float32)
    names, maps = _feature_maps(model, convolutions, chosen)
    cams = _grad_cam(model, convolutions, chosen)
    shown = to_pixels(_seen(model, convolutions, chosen), data.mean, data.std)
    return Inside(
        rows=rows, tsne=tsne, pca=pca, explained=explained, neighbour=neighbour, filters=first, looked=looked,
        inputs=shown, maps=maps, layers=np.array(json.dumps(names)), cams=_overlay(shown, cams),
    )  # fmt: skip


def _of_different_groups(groups: np.ndarray) -> np.ndarray:
    """Places of the first images of the most frequent groups."""
    names, first, counts = np.unique(groups, return_index=True, return_counts=True)
    order = np.argsort(-np.where(names >= 0, counts, -1), kind="stable")[:LOOKED_AT]
    places = first[order].tolist()
    more = [i for i in range(len(groups)) if i not in places]
    return np.array([*places, *more][: min(LOOKED_AT, len(groups))], np.int64)


def _watch_features(model: nn.Module, into: list[Tensor]) -> Any:
    """Keep what the heads rest on: the backbone's output, else the last fully connected layer's input."""
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        return backbone.register_forward_hook(lambda _m, _i, output: into.append(output.detach().float().cpu()))
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return last.register_forward_pre_hook(lambda _m, given: into.append(given[0].detach().float().cpu()))


def embed(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """t-SNE [n, 2], PCA [n, 2] and its explained shares [2], and each image's nearest other one, of features [n, F]."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    _count_cores()
    scaled = StandardScaler().fit_transform(table)
    reduced = PCA(n_components=min(50, *scaled.shape), random_state=0).fit(scaled)
    points = reduced.transform(scaled)
    neighbour = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points, return_distance=False)
    itself = np.arange(len(points))
    nearest = np.where(neighbour[:, 0] == itself, neighbour[:, 1], neighbour[:, 0])
    perplexity = min(30.0, max(2.0, (len(points) - 1) / 3))
    placed = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(points)
    shares = np.pad(reduced.explained_variance_ratio_, (0, 2))[:2]
    return placed, np.pad(points, ((0, 0), (0, 2)))[:, :2], shares, nearest


def _count_cores() -> None:
    """Let joblib look for the physical cores once and in silence: without lscpu it would print a traceback."""
    from joblib.externals.loky import cpu_count  # type: ignore[import-untyped]

    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpu_count(only_physical_cores=True)


def _spread(convolutions: list[tuple[str, nn.Conv2d]]) -> list[tuple[str, nn.Conv2d]]:
    """The first, the last, and some evenly between; 1x1 convolutions only where there are no others."""
    real = [pair for pair in convolutions if max(pair[1].kernel_size) > 1] or convolutions
    if not real:
        return []
    return [real[i] for i in np.unique(np.linspace(0, len(real) - 1, LAYERS).round().astype(int)).tolist()]


def _deepest(convolutions: list[tuple[str, nn.Conv2d]]) -> nn.Conv2d:
    """The last of the widest convolutions, on which the class rests; 1x1 ones only where there are no others."""
    real = [module for _, module in convolutions if max(module.kernel_size) > 1] or [m for _, m in convolutions]
    widest = max(module.out_channels for module in real)
    return [module for module in real if module.out_channels == widest][-1]


def _seen(model: nn.Module, convolutions: list[tuple[str, nn.Conv2d]], images: Tensor) -> Tensor:
    """The images as the first convolution gets them: a network may cut them first; what it shows lies over these."""
    if not convolutions:
        return images
    given: list[Tensor] = []
    handle = convolutions[0][1].register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0]))
    try:
        with torch.inference_mode():
            model(images)
    finally:
        handle.remove()
    return given[0].clone() if given and given[0].shape == images.shape else images


def _feature_maps(
    model: nn.Module, convolutions: list[tuple[str, nn.Conv2d]], images: Tensor
) -> tuple[list[str], np.ndarray]:
    """The channels with the strongest response to each image, each stretched to its own range."""
    chosen = _spread(convolutions)
    found: dict[str, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda _m, _i, out, name=name: found.__setitem__(name, out)) for name, m in chosen
    ]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    names, shown = [], []
    for name, _ in chosen:
        if name not in found:
            continue
        maps = found[name].float().relu()
        strongest = maps.amax((2, 3)).topk(min(MAPS, maps.shape[1]), dim=1).indices
        taken = torch.stack([maps[i, strongest[i]] for i in range(len(maps))])
        taken = taken / taken.amax((2, 3), keepdim=True).clamp(min=1e-6)
        taken = F.pad(taken, (0, 0, 0, 0, 0, MAPS - taken.shape[1]))
        shown.append((F.interpolate(taken, size=(64, 64), mode="nearest") * 255).byte().numpy())
        names.append(name)
    return names, np.stack(shown) if shown else np.zeros((0, len(images), MAPS, 64, 64), np.uint8)


def _grad_cam(model: nn.Module, convolutions: list[tuple[str, nn.Conv2d]], images: Tensor) -> np.ndarray:
    """float32 [m, P, P] from 0 to 1: where the deepest convolution speaks for the answer; for pairs, for the match."""
    if not convolutions:
        return np.zeros((0, 0, 0), np.float32)
    from captum.attr import LayerAttribution, LayerGradCam

    with torch.no_grad():
        outputs = model(images)
    if isinstance(model, PairNetwork):
        rows = outputs["embedding"]
        scores = pair_scores(rows[:, None], rows[None])
        scores.fill_diagonal_(-torch.inf)
        partner = rows[scores.argmax(dim=1)]

        def answer(given: Tensor) -> Tensor:
            return pair_scores(model(given)["embedding"], partner)[:, None]

        target: Tensor = torch.zeros(len(images), dtype=torch.int64)
    else:
        name = next((n for n in ("label", "category") if n in outputs), next(iter(outputs)))

        def answer(given: Tensor) -> Tensor:
            found: Tensor = model(given)[name]
            return found

        target = outputs[name].argmax(dim=1)
    found = LayerGradCam(answer, _deepest(convolutions)).attribute(images, target=target, relu_attributions=True)
    wide = LayerAttribution.interpolate(found, tuple(images.shape[-2:]), interpolate_mode="bilinear")[:, 0]
    top = wide.amax((1, 2), keepdim=True).clamp(min=1e-9)
    return np.asarray((wide / top).detach().numpy(), np.float32)


def to_pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """uint8 [n, H, W, 3] of normalised images [n, 3, H, W]."""
    back = images * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)
    return np.ascontiguousarray((back.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())


def _overlay(images: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The images in gray, coloured where `strength` [n, P, P] is high: cividis, which colour-blind people read too."""
    if not len(strength):
        return np.zeros((0, 1, 1, 3), np.uint8)
    from matplotlib import colormaps

    gray = images.mean(axis=3, keepdims=True)
    colours = np.asarray(colormaps["cividis"](strength))[..., :3] * 255
    share = 0.15 + 0.55 * strength[..., None]
    return np.asarray(((1 - share) * gray + share * colours).round(), np.uint8)
