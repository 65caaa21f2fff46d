"""A score for every two of several images, the same whichever comes first.

One backbone, shared by all images, and an embedding per image of two halves. The score of two images is the inner
product of their first halves, which have unit length, times a learned scale; less the L1 distance of their second
halves; plus a learned term of each. It is symmetric down to the last bit, because sums, products and distances of two
numbers are. Any number of pairs therefore costs one pass per image, and what an image contributes is a row of numbers
that can be stored.

Evaluated scores are calibrated (Platt 1999): unseen images lie closer together than those of training do, so that
logits which are balanced in training say `together` of nearly everything. Slope and shift are fitted on validation.

Siamese networks: Bromley et al. 1994; with a distance, for items of clothing: Veit et al. 2015. The inner product can
say that unlike things go together, the distance holds better for wardrobes never seen.

Legend: N examples, k images each, P = k (k - 1) / 2 pairs, C embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.models._dropout import Dropout
from fashion_dist.models.backbone import build_backbone

FIRST_SCALE = 5.0
"""Of the inner product, before training: scores begin between -5 and 5."""


class PairNetwork(nn.Module):
    """Images [N, k, 3, H, W] -> `score` [N, P], logits of the pairs (0, 1), (0, 2), ... (k-2, k-1).

    Images [N, 3, H, W] -> `embedding` [N, C + 1], from which `pair_scores` makes the same logits. C is even; the
    backbone gives features [M, `num_features`] of images [M, 3, H, W].
    """

    def __init__(self, backbone: nn.Module, num_features: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = Dropout(dropout)
        self.embedding = embedding
        self.project = nn.Linear(num_features, embedding // 2)
        self.place = nn.Linear(num_features, embedding // 2, bias=False)
        self.own = nn.Linear(num_features, 1)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())
        self.bias = nn.Parameter(torch.zeros(()))
        self.slope: Tensor
        self.shift: Tensor
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))
        nn.init.normal_(self.place.weight, std=0.01)
        nn.init.zeros_(self.own.weight)
        nn.init.zeros_(self.own.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See the class."""
        if images.ndim == 4:
            return {"embedding": self.embed(images)}
        count, k = images.shape[:2]
        rows = self.embed(images.flatten(0, 1)).reshape(count, k, -1)
        left, right = torch.triu_indices(k, k, 1, device=rows.device)  # a list would be copied there and waited for
        return {"score": pair_scores(rows[:, left], rows[:, right])}

    def embed(self, images: Tensor) -> Tensor:
        """Images [M, 3, H, W] -> rows [M, C + 1]: a scaled unit vector, a place, and the image's own term."""
        features = self.dropout(self.backbone(images))
        direction = F.normalize(self.project(features).float(), dim=1)
        own = self.own(features).float() + self.bias / 2
        rows = torch.cat([direction * (self.log_scale / 2).exp(), self.place(features).float(), own], dim=1)
        return rows if self.training else calibrated(rows, self.slope, self.shift)

    @torch.no_grad()
    def calibrate(self, slope: float, shift: float) -> None:
        """From now on let evaluated logits be `slope * logit + shift` of what they are now; `slope` is above 0."""
        self.slope.mul_(slope)
        self.shift.mul_(slope).add_(shift)


def pair_scores(first: Tensor, second: Tensor) -> Tensor:
    """Rows [..., C + 1] of two images -> logits [...] that they go together."""
    half = first.shape[-1] // 2
    alike = (first[..., :half] * second[..., :half]).sum(dim=-1)
    apart = (first[..., half:-1] - second[..., half:-1]).abs().sum(dim=-1)
    return alike - apart + (first[..., -1] + second[..., -1])


def calibrated(rows: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """Rows [..., C + 1] whose `pair_scores` are `slope` times those of `rows`, plus `shift`."""
    half = rows.shape[-1] // 2
    parts = [rows[..., :half] * slope.sqrt(), rows[..., half:-1] * slope, rows[..., -1:] * slope + shift / 2]
    return torch.cat(parts, dim=-1)


def build_pair_network(config: ModelConfig, embedding: int, image_px: int) -> PairNetwork:
    """The pair network over the backbone of `config`; raises ConfigError for an unknown one."""
    backbone, num_features = build_backbone(config, image_px)
    return PairNetwork(backbone, num_features, embedding, config.dropout)
