"""What a drawing shows, line by line: where which directions run, in the drawing's own frame.

Histograms of oriented gradients (Dalal & Triggs 2005) keep the place of every line, which the pooled map of a
convolutional network gives up. Drawings of one thing agree in it from one artist to the next, even where colours,
shades and the strength of outlines differ; a network learns as much from thousands of drawings only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUND = 0.4
"""A pixel whose colour is so far from the ground's, in units of the normalised image, belongs to the drawing."""
_LIGHT = 1.2
"""Colours are counted from here, in units of the normalised image: near the ground of most drawings."""
_FAINT = 0.04
"""Gradients of about this size count half, in units of the normalised image."""


class Sketch(nn.Module):
    """Lines and colours of a drawing by place: [N, 3, H, W] -> [N, `num_features`], above a wide hidden layer.

    Args:
        cells: H and W of the map of directions.
        directions: of lines, without their sense.
        colour_cells: H and W of the map of colours.
        num_features: width of the hidden layer.
    """

    def __init__(self, cells: int = 8, directions: int = 8, colour_cells: int = 10, num_features: int = 4096) -> None:
        super().__init__()
        self.cells, self.directions, self.colour_cells = cells, directions, colour_cells
        self.num_features = num_features
        self.hidden = nn.Linear(cells * cells * directions + 3 * colour_cells * colour_cells, num_features)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, `num_features`]."""
        with torch.autocast(images.device.type, enabled=False):
            described = self.describe(images.float())
        return F.relu(self.hidden(described))

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """The map of directions, of length 10, and the map of colours, of length 5 or less, one after the other."""
        lines = F.adaptive_avg_pool2d(self._directions(images.mean(1)), self.cells)
        lines = lines / (lines.norm(dim=1, keepdim=True) + _FAINT)
        colours = F.adaptive_avg_pool2d(images, self.colour_cells).flatten(1) - _LIGHT
        colours = colours / colours.norm(dim=1, keepdim=True).clamp_min(2.0)
        return torch.cat([10 * F.normalize(lines.flatten(1)), 5 * colours], dim=1)

    def _directions(self, gray: Tensor) -> Tensor:
        """[N, H, W] -> [N, directions, H, W], each gradient's size shared between its two nearest directions."""
        padded = F.pad(gray[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
        down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
        size = (across.square() + down.square()).sqrt()[:, None]
        place = torch.atan2(down, across).remainder(math.pi)[:, None] * (self.directions / math.pi)
        lower = place.floor()
        first = lower.long() % self.directions
        maps = size.new_zeros(gray.shape[0], self.directions, *gray.shape[1:])
        maps.scatter_(1, first, size * (1 - (place - lower)))
        return maps.scatter_add_(1, (first + 1) % self.directions, size * (place - lower))


def framed(images: Tensor) -> Tensor:
    """Each image cut to the square around what differs from its ground (the middle colour of its border), as large.

    Takes and gives [N, 3, S, S]; an image of one colour stays as it is.
    """
    cut = F.grid_sample(images.float(), _places(images), padding_mode="border", align_corners=False)
    return cut.to(images.dtype)


@torch.no_grad()
def _places(images: Tensor) -> Tensor:
    """Where in its image each pixel of the cut lies, float32 [N, S, S, 2], from -1 to 1."""
    side = images.shape[-1]
    border = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    differs = (images - border.median(dim=2).values[:, :, None, None]).abs_() > _GROUND
    drawn = differs[:, 0] | differs[:, 1] | differs[:, 2]
    starts, stops = _ends(torch.stack([drawn.any(1), drawn.any(2)], dim=1))  # of the columns and of the rows, [N, 2]
    empty = stops == 0
    extent = torch.where(empty, side, stops - starts).amax(1)
    middle = torch.where(empty, 0, (starts + stops) / side - 1)
    # Torch's affine_grid takes longer than all the rest, for maps that may turn.
    steps = (torch.arange(side, device=images.device) + 0.5) * (2 / side) - 1
    places = middle[:, :, None] + (extent / side)[:, None, None] * steps
    across, down = places[:, 0, None, :].expand(-1, side, -1), places[:, 1, :, None].expand(-1, -1, side)
    return torch.stack([across, down], dim=3).float()


def _ends(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """First and behind-last true place along the last dimension of bool [..., S]; both 0 where there is none."""
    count = drawn.shape[-1]
    places = torch.arange(1, count + 1, device=drawn.device)
    stops = (drawn * places).amax(-1)
    from_behind = (drawn * places.flip(0)).amax(-1)
    return torch.where(stops > 0, count - from_behind, 0), stops
