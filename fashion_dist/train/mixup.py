"""Mixup and CutMix on a batch, drawn from (seed, step) so that every rank and every resumed run mixes alike.

A sample's partner is its neighbour in the global batch (0 with 1, 2 with 3, ...): as long as each rank's slice is even,
the pairs do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fashion_dist.config import TrainConfig

Losses = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Mixed:
    """A batch of which each image may hold a share of its partner's.

    Args:
        images: [n, ..., 3, H, W].
        partner: int64 [n], or None where nothing was mixed.
        share: the fraction of its own image that each sample kept.
    """

    images: Tensor
    partner: Tensor | None = None
    share: float = 1.0

    def losses(self, losses: Losses, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`losses` of the batch: those of its own targets and of its partners', weighted by their shares.

        Partners are the same targets in another order, so what the losses are sums over counts as often as before.
        """
        if self.partner is None:
            return losses(targets)
        own, other = losses(targets), losses(self._of_partner(targets))
        return {name: self.share * value + (1 - self.share) * other[name] for name, value in own.items()}

    def larger(self, targets: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The targets of whichever image each sample holds the larger share of."""
        return self._of_partner(targets) if self.share < 0.5 else targets

    def _of_partner(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[self.partner] for name, values in targets.items()}


def mixes(settings: TrainConfig, step: int) -> bool:
    """Whether the batches of a step are mixed."""
    drawn = bool(settings.mixup or settings.cutmix)
    return drawn and np.random.default_rng((settings.seed, step)).random() < settings.mix_prob


def without_targets(targets: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """`targets`, those of `names` unknown (-1): they say nothing of a mixed image."""
    return {name: torch.full_like(value, -1) if name in names else value for name, value in targets.items()}


def mix_batch(images: Tensor, settings: TrainConfig, step: int) -> Mixed:
    """Mix `images` [n, ..., 3, H, W] as `settings` says; with both mixup and CutMix on, a step takes one of them."""
    if not settings.mixup and not settings.cutmix:
        return Mixed(images)
    draw = np.random.default_rng((settings.seed, step))
    if draw.random() >= settings.mix_prob:
        return Mixed(images)
    cut = bool(settings.cutmix) and (not settings.mixup or draw.random() < 0.5)
    alpha = settings.cutmix if cut else settings.mixup
    share = float(draw.beta(alpha, alpha))
    index = torch.arange(len(images), device=images.device)
    partner = (index ^ 1).clamp(max=len(images) - 1)
    if not cut:
        return Mixed(torch.lerp(images[partner], images, share), partner, share)
    height, width = images.shape[-2:]
    top, bottom, left, right = cut_box(height, width, share, draw)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
    area = (bottom - top) * (right - left) / (height * width)
    return Mixed(mixed, partner, 1 - area)


def cut_box(height: int, width: int, share: float, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of about 1 - share of the area, centred anywhere and cut at the edges."""
    side = (1 - share) ** 0.5
    y, x = int(draw.integers(height)), int(draw.integers(width))
    half_y, half_x = int(height * side) // 2, int(width * side) // 2
    return max(0, y - half_y), min(height, y + half_y), max(0, x - half_x), min(width, x + half_x)
