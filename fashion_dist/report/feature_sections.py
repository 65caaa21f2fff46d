"""Sections about the inside of the network, drawn from what `inside` computed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from fashion_dist.report import formatting
from fashion_dist.report.blocks import SHAPES, Block, Cloud, Dot, Picture, Section, Sheet, Shot
from fashion_dist.report.feature_analysis import Inside, look_inside, to_pixels
from fashion_dist.report.figure_writer import COLOURS, MARKERS, SOFT, Drawing, FigureWriter, short
from fashion_dist.report.run_data import RunData
from fashion_dist.report.split_predictions import Thumbnails, encode
from shards import Split

NAMED = 14
"""Classes with a colour and a mark of their own; images of others are gray."""
SEEN = 16
"""Training images that are shown."""
DOTS = 160
"""Points of the map that show their image."""
_CSS = ("--blue", "--orange", "--green", "--pink", "--yellow", "--sky", "--red")


def sections(facts: RunData, split: Split, album: FigureWriter, say: Callable[[str], None]) -> list[Section]:
    """What the best weights see in a split."""
    groups, names = _groups(facts, split)
    found = look_inside(facts, split.name, groups, album.folder / "cache" / "inside.npz", say)
    of = groups[found.rows]
    answer = (
        "likeness to the other image here that it fits best"
        if facts.task.overrides("build_examples")
        else "the network's answer"
    )
    made = [_map(found, of, names, split, album), _layers(found, of, names, answer, album)]
    return [section for section in made if section.blocks]


def _groups(facts: RunData, split: Split) -> tuple[np.ndarray, Sequence[str]]:
    """What colours the split's images: their class, else the first named fact; int [N] and the names."""
    schema, task, config = split.schema, facts.task, facts.config
    classes, targets = task.class_names(schema, config), task.image_targets(split, config)
    if classes and "label" in targets:
        return np.asarray(targets["label"]), list(classes)
    for fact in ("category", "semantic", *schema.names):
        if fact in schema.names and schema.columns.get(fact) == "int":
            return np.asarray(split.columns(fact)[fact]), list(schema.names[fact])
    return np.zeros(len(split), np.int64), [split.name]


def _map(found: Inside, of: np.ndarray, names: Sequence[str], split: Split, album: FigureWriter) -> Section:
    """t-SNE and PCA of the features, and the map with thumbnails."""
    known = of >= 0
    agree = float((of[found.neighbour] == of)[known].mean()) if known.any() else 0.0
    counts = np.bincount(of[known], minlength=len(names))
    chance = float(((counts / max(1, counts.sum())) ** 2).sum())
    sentences = [
        f"Of {formatting.count(len(found.rows), 'image')} of {split.name}, {formatting.percent(agree, 0)} have one "
        f"of their own "
        f"class as their nearest neighbour in the features of the last layer; by chance it would be "
        f"{formatting.percent(chance, 0)}."
    ]
    ranked = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]][:NAMED]
    if int((counts > 0).sum()) > NAMED:
        sentences.append(f"The {NAMED} largest of {int((counts > 0).sum())} classes are coloured.")
    pictures: list[Block] = []
    for key, title, points, axis in (
        ("tsne", "t-SNE of the features", found.tsne, ("", "")),
        ("pca", "PCA of the features", found.pca, tuple(f"component {i + 1}, {formatting.percent(s, 0)} of the variance"
                                                        for i, s in enumerate(found.explained))),
    ):  # fmt: skip
        pictures.append(_scatter(key, title, points, axis, of, ranked, names, found, album))
    pictures.append(_cloud(found, of, ranked, names, split))
    return Section("map", "How it sees the images", sentences, pictures)


def _mark(rank: int) -> tuple[str, str]:
    """Colour and shape of a class's dots in the page, another pair for each."""
    return f"var({_CSS[rank % len(_CSS)]})", SHAPES[rank // len(_CSS) % len(SHAPES)]


def _scatter(
    key: str, title: str, points: np.ndarray, axis: Sequence[str], of: np.ndarray, ranked: Sequence[int],
    names: Sequence[str], found: Inside, album: FigureWriter,
) -> Picture:  # fmt: skip
    low, high = _core(points)
    beyond = int(((points < low) | (points > high)).any(axis=1).sum())
    points = np.clip(points, low, high)
    size = float(np.clip(4000 / len(points), 11, 40))

    def paint(figure: Drawing) -> None:
        axes = figure.subplots()
        rest = ~np.isin(of, ranked)
        axes.scatter(points[rest, 0], points[rest, 1], s=5, color=SOFT, alpha=0.45, linewidths=0)
        for rank, k in enumerate(ranked):
            colour, marker = COLOURS[rank % len(COLOURS)], MARKERS[(rank + rank // len(COLOURS)) % len(MARKERS)]
            chosen = points[of == k]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=size, color=colour, marker=marker, alpha=0.75, linewidths=0,
                         label=short(names[k], 20))  # fmt: skip
        axes.set_xlabel(axis[0])
        axes.set_ylabel(axis[1])
        if not axis[0]:
            axes.set_xticks([])
            axes.set_yticks([])
        figure.legend(loc="outside lower center", ncols=3 if len(ranked) > 4 else 2, markerscale=1.6)

    rows = [
        (int(r), names[k] if k >= 0 else "", x, y) for r, k, (x, y) in zip(found.rows, of, points.tolist(), strict=True)
    ]
    shown = ", ".join(formatting.brief(names[k]) for k in ranked[:6])
    alt = f"{title} of {len(points)} images in two dimensions, coloured by class: {shown}."
    height = 4.0 + 0.2 * -(-len(ranked) // 3)
    verb = "stand" if beyond > 1 else "stands"
    caption = f"{formatting.count(beyond, 'point')} further out {verb} at the edge." if beyond else ""
    return album.draw(key, title, alt, paint, ("row", "class", "x", "y"), rows, size=(5.2, height), caption=caption)


def _core(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest place of a map [n, 2] that its scale is made for: five times as far from the median as
    the middle half of the points, so that no single point decides how small all others are.
    """
    first, middle, third = np.quantile(points, [0.25, 0.5, 0.75], axis=0)
    reach = np.where(third > first, 5 * (third - first), np.inf)
    return np.maximum(points.min(axis=0), middle - reach), np.minimum(points.max(axis=0), middle + reach)


def _cloud(found: Inside, of: np.ndarray, ranked: Sequence[int], names: Sequence[str], split: Split) -> Cloud:
    """The t-SNE map with images on demand; of large samples some of each class."""
    draw = np.random.default_rng(0)
    places = np.sort(draw.permutation(len(of))[:DOTS])
    low, high = _core(found.tsne)
    scaled = (np.clip(found.tsne, low, high) - low) / np.where(high > low, high - low, 1)
    dots = []
    with Thumbnails(split, 72) as thumbs:
        for p in places.tolist():
            k = int(of[p])
            colour, shape = _mark(ranked.index(k)) if k in ranked else ("var(--soft)", "")
            label = formatting.brief(names[k]) if k >= 0 else "unknown"
            x, y = 2 + 96 * scaled[p, 0], 98 - 96 * scaled[p, 1]
            dots.append(Dot(round(float(x), 2), round(float(y), 2), colour, thumbs[int(found.rows[p])], label, shape))
    legend = [(formatting.brief(names[k]), *_mark(rank)) for rank, k in enumerate(ranked)]
    alt = f"The t-SNE map of {len(dots)} images; each point shows its image when it is pointed at or focused."
    return Cloud("The same map: point at, touch or tab to a dot to see its image", alt, dots, legend)


def _layers(found: Inside, of: np.ndarray, names: Sequence[str], answer: str, album: FigureWriter) -> Section:
    """First filters, Grad-CAM and feature maps."""
    titles = [formatting.brief(names[int(of[i])]) if of[i] >= 0 else "unknown" for i in found.looked]
    blocks: list[Block] = []
    if len(found.filters):
        blocks.append(_filters(found.filters, album))
    if len(found.cams):
        shots = [
            Shot(_uri(image), f"{title}, as the network gets it", (title,), (_uri(cam),))
            for image, cam, title in zip(found.inputs, found.cams, titles, strict=True)
        ]
        note = f"Right: the brighter, the more the deepest convolution there speaks for {answer}."
        blocks.append(Sheet("Grad-CAM", shots, note=note))
    for layer, maps in zip(json.loads(str(found.layers)), found.maps, strict=True):
        shots = [
            Shot(_uri(image, 64), f"{title}, as the network gets it", (title,), tuple(_uri(m, 64) for m in line))
            for image, line, title in zip(found.inputs, maps, titles, strict=True)
        ]
        blocks.append(Sheet(f"Feature maps of {layer}", shots, px=64))
    looked = formatting.listing([f"an image of {title}" for title in titles])
    sentence = (
        f"Shown for {looked}: the {found.maps.shape[2]} channels of each layer that respond most. Each is stretched to "
        f"its own range, so brightness does not compare between them."
    )
    return Section("layers", "Layer by layer", [sentence] if len(found.maps) else [], blocks)


def training_images(facts: RunData, split: Split) -> list[Section]:
    """A batch of training images as the network gets them in its first epoch; nothing of an empty split."""
    from fashion_dist.data.loader import Loader

    count, data = min(SEEN, len(split)), facts.config.data
    if not count:
        return []
    rows = np.arange(len(split), dtype=np.int64)[:, None]
    with contextlib.closing(
        Loader(split, rows, data, batch_size=count, training=True, seed=facts.config.train.seed)
    ) as loader:
        batch = next(iter(loader.epoch(0, 0)))
    pixels = to_pixels(batch.images.float(), data.mean, data.std)
    keys = [str(split.keys[row]) for row in batch.index.tolist()]
    shots = [Shot(_uri(image), f"{key}, augmented", (short(key, 24),)) for image, key in zip(pixels, keys, strict=True)]
    words = [f"Images of {split.name} as the first epoch of training has them: cropped, turned, in other colours."]
    if facts.config.train.mixup or facts.config.train.cutmix:
        words.append("Mixed images (mixup, CutMix) are made of two of these.")
    return [Section("augmented", "What training sees", words, [Sheet("", shots)])]


def _uri(pixels: np.ndarray, px: int = 104) -> str:
    from PIL import Image

    return encode(Image.fromarray(pixels), px)


def _filters(weights: np.ndarray, album: FigureWriter) -> Picture:
    shown = weights[:64]
    across = 8 if len(shown) > 12 else 4
    down = -(-len(shown) // across)

    def paint(figure: Drawing) -> None:
        grid = figure.subplots(down, across, squeeze=False)
        for at, axes in enumerate(grid.flat):
            axes.axis("off")
            if at < len(shown):
                kernel = shown[at].transpose(1, 2, 0)
                low, high = kernel.min(), kernel.max()
                scaled = (kernel - low) / (high - low if high > low else 1)
                axes.imshow(scaled if scaled.shape[2] == 3 else scaled[..., 0], cmap="gray", vmin=0, vmax=1)

    side = weights.shape[-1]
    rows = [(n, *(f"{v:.6f}" for v in kernel.ravel())) for n, kernel in enumerate(shown)]
    alt = f"The {len(shown)} first of {len(weights)} filters of the first convolution, {side} by {side} pixels each."
    head = ("filter", *(f"w{i}" for i in range(shown[0].size)))
    caption = f"{len(weights)} filters of {side} × {side} pixels, each stretched to its own range."
    return album.draw("filters", "Filters of the first convolution", alt, paint, head, rows,
                      size=(4.6, 0.58 * down + 0.2), caption=caption)  # fmt: skip
