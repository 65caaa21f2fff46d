"""How sharp, how noisy and how coarse a photo is around its subject, at several scales.

Light, focus and ground stay the same from one photo of a place to the next, while its subjects change. What tells them
apart lies in differences of neighbouring pixels that a photo of 64 px no longer has, so this part sees it as large as
it comes, without learned filters: the first moments of each level of a Laplacian pyramid (Burt & Adelson 1983) describe
a texture well (Portilla & Simoncelli 2000), and cost little.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashion_dist.models._sketch import ends

_FLAT = 0.1
"""A row or column whose values lie no farther apart, in units of the normalised image, is padding and not photo."""
_FAINT = 0.01
"""Added to a detail's size before its logarithm, in units of the normalised image: less than a step of 8 bits."""
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


class Grain(nn.Module):
    """Sizes of details near a photo's border: [N, 3, H, W] -> [N, `num_features`], above a hidden layer.

    Args:
        levels: of the pyramid; H and W are at least 2 ** `levels`.
        share: width of the border that is looked at, as a fraction of the photo's shorter side.
        num_features: width of the hidden layer.
    """

    to_ycbcr: Tensor

    def __init__(self, levels: int = 5, share: float = 0.12, num_features: int = 128) -> None:
        super().__init__()
        self.levels, self.share, self.num_features = levels, share, num_features
        self.register_buffer("to_ycbcr", torch.tensor(_TO_YCBCR), persistent=False)
        self.norm = nn.BatchNorm1d(9 * levels, affine=False)
        self.hidden = nn.Linear(9 * levels, num_features)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, `num_features`]."""
        with torch.autocast(images.device.type, enabled=False):
            described = self.norm(self.describe(images.float()))
        return F.relu(self.hidden(described.clamp(-4, 4)))

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Mean, standard deviation and skewness of the details' logarithms, by level, moment and channel."""
        bounds = photo_bounds(images)
        moments = []
        for _ in range(self.levels):
            coarse = F.avg_pool2d(images, 2)
            rows, columns = coarse.shape[2:]
            # One pixel of four is as good as all of them.
            details = images[:, :, : 2 * rows : 2, : 2 * columns : 2] - coarse
            details = torch.einsum("dc,nchw->ndhw", self.to_ycbcr, details).abs_().add_(_FAINT).log_().flatten(2)
            weights = border_weights(bounds, rows, columns, self.share).flatten(1)[:, :, None]
            mean = details @ weights
            details = details - mean
            deviation = (details.square() @ weights).clamp_min(1e-4).sqrt()
            skewness = details.pow(3) @ weights / deviation.pow(3)
            moments += [mean, deviation, skewness]
            images = coarse
        return torch.cat(moments, dim=1).squeeze(2)


def photo_bounds(images: Tensor) -> Tensor:
    """Left, right, top and bottom of what is not padding, float32 [4, N], as fractions; an even image is all photo."""
    found = []
    for across in (2, 3):
        values = images.amax(across) - images.amin(across)
        starts, stops = ends(values.amax(1) > _FLAT)
        size = values.shape[-1]
        found += [starts / size, torch.where(stops > 0, stops, size) / size]
    return torch.stack(found)


def border_weights(bounds: Tensor, rows: int, columns: int, share: float) -> Tensor:
    """Weights [N, rows, columns] that sum to 1: equal for every cell in the photo's border."""
    left, right, top, bottom = bounds[:, :, None]
    across = (torch.arange(columns, device=bounds.device) + 0.5) / columns
    down = (torch.arange(rows, device=bounds.device) + 0.5) / rows
    to_side = torch.minimum(across - left, right - across)[:, None, :]
    to_end = torch.minimum(down - top, bottom - down)[:, :, None]
    distance = torch.minimum(to_side, to_end)
    width = share * torch.minimum(right - left, bottom - top)[:, :, None]
    chosen = ((distance > 0) & (distance < width)).float()
    return chosen / chosen.sum((1, 2), keepdim=True).clamp_min(1)
