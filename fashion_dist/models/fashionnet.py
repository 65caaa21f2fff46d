"""FashionNet: a small network for pictures of clothes and for drawings, sized for machines with few cores.

The *trunk* is a slim ResNet-D of dense 3x3 convolutions with squeeze-and-excitation (dense ones run at several times
the speed of grouped and depthwise ones on CPUs). It sees images in random colours in training and so learns shapes; the
*palette* sees their true colours: it names the colour of every pixel softly, filters it with a few small kernels,
and averages both in windows of learned size. With `model.sketch` a wide hidden layer also looks at a drawing line by
line, in the drawing's own frame; it knows an object again that another artist drew, where convolutions learn a few
thousand drawings by heart. Heads see all of it.

On pictures of up to 40 px the first convolution keeps their size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.models._sketch import Sketch, framed


@dataclass(frozen=True)
class Args:
    """The network's own settings."""

    pool: Literal["avg", "max"] = "avg"
    """Global pooling, and pooling of the shortcuts."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layer."""
    init: Literal["kaiming", "xavier", "normal", "orthogonal"] = "kaiming"
    """Weight initialisation of the trunk."""
    hue_jitter_prob: float = 0.8
    """Probability that the trunk sees a training image in other colours."""
    palette: bool = True
    """Whether the network also looks at the true colours of a photo, beside its trunk."""
    sketch: bool = False
    """Whether the network also looks at a drawing line by line, in the drawing's own frame."""

    def __post_init__(self) -> None:
        if not 0 <= self.hue_jitter_prob <= 1:
            raise ValueError(f"model.hue_jitter_prob = {self.hue_jitter_prob} is not possible; allowed: 0 to 1")


Norm = Callable[[int], nn.Module]


_NORMS: dict[str, Norm] = {
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(math.gcd(8, width), width),
    "none": nn.Identity,
}
SMALL_PX = 40


def build(config: ModelConfig, image_px: int) -> tuple[nn.Module, int]:
    """The backbone with the `Args` of `config`, and its number of features."""
    backbone = FashionNet(Args(**config.args), stem_stride=1 if image_px <= SMALL_PX else 2)  # type: ignore[arg-type]
    initialise(backbone)
    return backbone, backbone.num_features


class FashionNet(nn.Module):
    """Images [N, 3, H, W], normalised around 0 -> features [N, `num_features`]."""

    WIDTHS, DEPTHS, STEM_WIDTH = (32, 64, 128, 256), (1, 2, 2, 1), 24
    """Channels and blocks of the four stages, channels of the first convolution."""

    def __init__(self, args: Args | None = None, stem_stride: int = 2) -> None:
        super().__init__()
        self.args = args = args or Args()
        norm = _NORMS[args.norm]
        self.hue_jitter = HueJitter(args.hue_jitter_prob)
        width_in = self.WIDTHS[0]
        self.stem = nn.Sequential(
            *_conv(3, self.STEM_WIDTH, norm, stride=stem_stride), nn.ReLU(inplace=True),
            *_conv(self.STEM_WIDTH, width_in, norm, stride=2), nn.ReLU(inplace=True),
        )  # fmt: skip
        blocks: list[nn.Module] = []
        for stage, (width, depth) in enumerate(zip(self.WIDTHS, self.DEPTHS, strict=True)):
            for block in range(depth):
                blocks.append(Block(width_in, width, 2 if stage and block == 0 else 1, norm, args.pool))
                width_in = width
        self.trunk = nn.Sequential(*blocks)
        self.palette = Palette() if args.palette else None
        self.sketch = Sketch() if args.sketch else None
        shape = width_in + (self.palette.num_features if self.palette is not None else 0)
        self.num_features = shape + (self.sketch.num_features if self.sketch is not None else 0)
        # Lines are learned by heart within epochs; convolutions would be left without a gradient.
        self.independent_heads = (
            {"shape": slice(0, shape), "lines": slice(shape, self.num_features)} if args.sketch else {}
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> the trunk's pooled map, then the palette's features, then the sketch's."""
        drawings = framed(images) if self.sketch is not None else images
        maps = self.trunk(self.stem(self.hue_jitter(drawings)))
        features = [maps.mean((2, 3)) if self.args.pool == "avg" else maps.amax((2, 3))]
        if self.palette is not None:
            features.append(self.palette(images).to(maps.dtype))
        if self.sketch is not None:
            features.append(self.sketch(drawings).to(maps.dtype))
        return torch.cat(features, dim=1)


class Block(nn.Module):
    """Two 3x3 convolutions with squeeze-and-excitation, beside a shortcut that pools before it projects.

    He et al. 2019 (ResNet-D) and Hu et al. 2018. The branch begins at zero: by its last normalisation's weight, or
    without normalisation by a learned scalar (SkipInit, De & Smith 2020).
    """

    def __init__(self, width_in: int, width: int, stride: int, norm: Norm, pool: str) -> None:
        super().__init__()
        self.first = nn.Sequential(*_conv(width_in, width, norm, stride=stride))
        self.second = nn.Sequential(*_conv(width, width, norm))
        squeezed = max(8, width // 4)
        self.squeeze, self.excite = nn.Linear(width, squeezed), nn.Linear(squeezed, width)
        self.scale = nn.Parameter(torch.zeros(())) if norm is nn.Identity else None
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append((nn.MaxPool2d if pool == "max" else nn.AvgPool2d)(stride, stride, ceil_mode=True))
        if width_in != width:
            shortcut += _conv(width_in, width, norm, kernel=1)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride], rounded up."""
        y = self.second(F.relu(self.first(x)))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3))))).sigmoid()
        y = y * gate[:, :, None, None]
        if self.scale is not None:
            y = y * self.scale
        return F.relu(self.shortcut(x) + y)


class HueJitter(nn.Module):
    """Jitter the colours of each image of a training batch: hue, saturation, gain, offset; one 3x3 matrix per image.

    Draws from torch's generator, as dropout does; in evaluation it does nothing. Keeps [N, 3, H, W].
    """

    SATURATION = (0.2, 1.6)
    """Bounds of the factor."""
    GAIN, OFFSET = 0.3, 0.3
    """The factor is drawn from 1 - GAIN to 1 + GAIN; added to all channels, from -OFFSET to OFFSET, in units of the
    normalised image."""
    to_yiq: Tensor
    from_yiq: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
        self.register_buffer("to_yiq", to_yiq, persistent=False)
        self.register_buffer("from_yiq", torch.linalg.inv(to_yiq), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 3, H, W]."""
        if not self.training or not self.probability:
            return images
        count, _, height, width = images.shape
        draw = torch.rand(5, count, device=images.device)
        angle = (2 * draw[0] - 1) * math.pi
        saturation = self.SATURATION[0] + draw[1] * (self.SATURATION[1] - self.SATURATION[0])
        turn = torch.zeros(count, 3, 3, device=images.device)
        turn[:, 0, 0] = 1
        turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
        turn[:, 2, 1] = saturation * angle.sin()
        turn[:, 1, 2] = -turn[:, 2, 1]
        gain = 1 + (2 * draw[2] - 1) * self.GAIN
        matrix = self.from_yiq @ turn @ self.to_yiq * gain[:, None, None]
        offset = (2 * draw[3] - 1) * self.OFFSET
        kept = draw[4] >= self.probability
        matrix = torch.where(kept[:, None, None], torch.eye(3, device=images.device), matrix)
        offset = offset.masked_fill(kept, 0.0)
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.float().permute(0, 2, 3, 1).reshape(count, -1, 3)  # a view of channels_last images
            mixed = torch.baddbmm(offset[:, None, None].expand(count, 1, 1), pixels, matrix.transpose(1, 2))
        return mixed.view(count, height, width, 3).permute(0, 3, 1, 2).to(images.dtype)


class Pigments(nn.Module):
    """Names each pixel's colour softly and filters it: maps [N, names + filters, H / 2, W / 2] of [N, 3, H, W].

    The names are 1x1 convolutions and a softmax over learned colours; the filters are 3x3 kernels that begin as finite
    differences, of which the absolute value counts.
    """

    def __init__(self, names: int, filters: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 32, 1)
        self.name = nn.Conv2d(32, names, 1)
        self.contrast = nn.Conv2d(3, filters, 3, padding=1, bias=False)
        self.width = names + filters

    @torch.no_grad()
    def initialise(self) -> None:
        """Spread the names over the colour cube, and begin the filters as differences along four directions."""
        nn.init.normal_(self.mix.weight, std=1.0)
        assert self.mix.bias is not None and self.name.bias is not None
        nn.init.uniform_(self.mix.bias, -1.0, 1.0)
        nn.init.normal_(self.name.weight, std=0.5)
        nn.init.zeros_(self.name.bias)
        self.contrast.weight.zero_()
        neighbours = ((1, 2), (2, 1), (0, 0), (0, 2))
        for index in range(self.contrast.out_channels):
            row, column = neighbours[index % len(neighbours)]
            colour = torch.full((3,), 1 / 3) if index < len(neighbours) else torch.randn(3) / 2
            self.contrast.weight[index, :, 1, 1] = colour
            self.contrast.weight[index, :, row, column] = -colour

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, names + filters, H / 2, W / 2]."""
        texture = F.avg_pool2d(self.contrast(images).abs(), 2)
        named = self.name(F.relu(self.mix(F.avg_pool2d(images, 2)))).softmax(dim=1)
        return torch.cat([named, texture], dim=1)


def _averages(maps: Tensor, windows: Tensor) -> Tensor:
    """Means of maps [N, C, h, w] in windows [M, h * w] (each sums to 1), and their logarithms: [N, 2 * C * M]."""
    averages = (maps.flatten(2) @ windows.T).flatten(1)
    return torch.cat([4.0 * averages, 0.4 * averages.clamp_min(1e-4).log()], dim=1)


class Palette(nn.Module):
    """Colours and texture of the middle: [N, 3, H, W] -> [N, 2 * windows * (names + filters)].

    Pigments averaged inside boxes about the middle whose sizes are learned. Takes about an eighth of the network's time
    on a CPU.
    """

    HALF_SIZES = (0.16, 0.2, 0.25)
    """First half-widths of the boxes, as fractions of the image."""
    EDGE_SHARPNESS = 50.0
    """Of a window's edge: it falls from 0.73 to 0.27 over 1/25 of the image's side."""

    def __init__(self) -> None:
        super().__init__()
        self.pigments = Pigments(names=24, filters=8)
        self.log_half_size = nn.Parameter(torch.tensor(self.HALF_SIZES).log())
        self.log_aspect = nn.Parameter(torch.zeros(len(self.HALF_SIZES)))
        self.num_features = 2 * len(self.HALF_SIZES) * self.pigments.width

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] with H = W -> window averages and their logarithms."""
        side = images.shape[2]
        with torch.autocast(images.device.type, enabled=False):
            margin = side // 12 * 2  # only the middle 2/3 is looked at
            maps = self.pigments(images.float()[:, :, margin : side - margin, margin : side - margin])
            return _averages(maps, self._windows(maps.shape[2], (side - 2 * margin) / side, images.device))

    def _windows(self, cells: int, share: float, device: torch.device) -> Tensor:
        """Weights of `cells` x `cells` cells that cover the middle `share` of the image, [windows, cells * cells]."""
        centres = (torch.arange(cells, device=device) + 0.5) / cells - 0.5
        distance = (centres * share).abs()
        across = ((self.log_half_size + self.log_aspect).exp()[:, None] - distance).mul(self.EDGE_SHARPNESS).sigmoid()
        down = ((self.log_half_size - self.log_aspect).exp()[:, None] - distance).mul(self.EDGE_SHARPNESS).sigmoid()
        window = (down[:, :, None] * across[:, None, :]).flatten(1)
        return window / window.sum(1, keepdim=True).clamp_min(1e-3)


def _conv(width_in: int, width: int, norm: Norm, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, bias=norm is nn.Identity)
    return [conv, norm(width)]


@torch.no_grad()
def initialise(backbone: FashionNet) -> None:
    """Draw the trunk's weights as `init` says: kaiming, xavier, normal (std 0.01), orthogonal; the palette its own."""
    schemes: dict[str, Callable[[Tensor], Tensor]] = {
        "kaiming": functools.partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
        "xavier": nn.init.xavier_uniform_,
        "normal": functools.partial(nn.init.normal_, std=0.01),
        "orthogonal": nn.init.orthogonal_,
    }
    draw = schemes[backbone.args.init]
    for module in (*backbone.stem.modules(), *backbone.trunk.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in backbone.trunk.modules():
        if isinstance(module, Block) and isinstance(module.second[1], nn.BatchNorm2d | nn.GroupNorm):
            nn.init.zeros_(module.second[1].weight)
    if backbone.palette is not None:
        backbone.palette.pigments.initialise()
