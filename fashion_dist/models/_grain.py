"""How light, how sharp and how noisy a photo is around its subject, at several scales.

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
    """A photo's border in a few numbers: [N, 3, H, W] -> [N, `num_features`], each of mean 0 and variance 1.

    There is nothing to learn here: linear layers on these numbers hold better for places never seen than deeper ones.

    Args:
        levels: of the pyramid; H and W are at least 2 ** `levels`.
        share: width of the border that is looked at, as a fraction of the photo's shorter side.
    """

    to_ycbcr: Tensor

    def __init__(self, levels: int = 5, share: float = 0.12) -> None:
        super().__init__()
        self.levels, self.share, self.num_features = levels, share, 6 + 9 * levels
        self.register_buffer("to_ycbcr", torch.tensor(_TO_YCBCR), persistent=False)
        self.norm = nn.BatchNorm1d(self.num_features, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, `num_features`]."""
        with torch.autocast(images.device.type, enabled=False):
            normed: Tensor = self.norm(self.describe(images.float()))
        return normed.clamp(-4, 4)

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Moments over the border, each of luma, Cb and Cr.

        Mean and logarithm of the standard deviation of the image; then for each level mean, standard deviation and
        skewness of the logarithms of its details' sizes.
        """
        bounds = photo_bounds(images)
        moments: list[Tensor] = []
        for _ in range(self.levels):
            coarse = F.avg_pool2d(images, 2)
            rows, columns = coarse.shape[2:]
            weights = border_weights(bounds, rows, columns, self.share).flatten(1)[:, :, None]
            if not moments:
                mean, deviation, _ = _moments(self._channels(coarse), weights)
                moments = [mean, deviation.log()]
            # One pixel of four is as good as all of them.
            details = self._channels(images[:, :, : 2 * rows : 2, : 2 * columns : 2] - coarse)
            moments += _moments(details.abs_().add_(_FAINT).log_(), weights)
            images = coarse
        return torch.cat(moments, dim=1).squeeze(2)

    def _channels(self, images: Tensor) -> Tensor:
        """RGB [N, 3, H, W] -> luma, Cb and Cr [N, 3, H * W]."""
        return torch.einsum("dc,nchw->ndhw", self.to_ycbcr, images).flatten(2)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and skewness [N, 3, 1] of values [N, 3, P] by weights [N, P, 1]."""
    mean = values @ weights
    values = values - mean
    deviation = (values.square() @ weights).clamp_min(1e-4).sqrt()
    return mean, deviation, values.pow(3) @ weights / deviation.pow(3)


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
