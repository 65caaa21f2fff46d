"""Losses of several heads weighed by what the network learns of their uncertainty (Kendall, Gal & Cipolla 2018)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fashion_dist.models.heads import Head, Network

PREFIX = "log_variance_"


class UncertainNetwork(Network):
    """A network that also gives each head's log variance, as `log_variance_<head>` [N], the same for all images."""

    def __init__(self, backbone: nn.Module, num_features: int, heads: Mapping[str, Head], dropout: float = 0.0) -> None:
        super().__init__(backbone, num_features, heads, dropout)
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in heads})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] -> logits [N, width] by the name of the head, and the log variances [N]."""
        variances = {f"{PREFIX}{name}": value.expand(images.shape[0]) for name, value in self.log_variances.items()}
        return {**super().forward(images), **variances}


def weigh(loss: Tensor, count: Tensor, outputs: Mapping[str, Tensor], head: str) -> Tensor:
    """exp(-s) loss + s / 2 (their equation 10) of each of `count` answers, whose `loss` is added up; s is the log
    variance of the head, which moves only where there are answers.
    """
    log_variance = outputs[f"{PREFIX}{head}"][0]
    return torch.exp(-log_variance) * loss + log_variance / 2 * count
