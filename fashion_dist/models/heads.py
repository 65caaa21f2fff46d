"""A backbone and one head per output; every output rests on all features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fashion_dist.models._dropout import Dropout

_PREFIX = "log_variance_"


@dataclass(frozen=True)
class Head:
    """One output of a network: so many logits, above a hidden layer of that width; 0 is none."""

    width: int
    hidden: int = 0


class Network(nn.Module):
    """A backbone and one head per output.

    Where a backbone names `independent_heads`, slices that together are all its features, each output has a head on
    each of them: their logits are given as `NAME/SLICE`, and `NAME` is their sum. With a loss of each, every slice
    learns as if it were alone; with one of the sum alone, the slice that learns fastest would leave nothing to learn to
    the others.

    Args:
        backbone: images [N, 3, H, W] -> features [N, C]; may have `independent_heads: Mapping[str, slice]`.
        num_features: C.
        heads: the outputs by name.
        dropout: probability of dropping a feature before the heads, in training.
    """

    def __init__(self, backbone: nn.Module, num_features: int, heads: Mapping[str, Head], dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = num_features
        self.outputs = dict(heads)
        self.dropout = Dropout(dropout)
        slices: Mapping[str, slice] = getattr(backbone, "independent_heads", {})
        assert not slices or sum(s.stop - s.start for s in slices.values()) == num_features, "an output rests on all"
        whole = slice(0, num_features)
        self._slices = {
            f"{name}/{part}" if part else name: features
            for name in heads
            for part, features in (slices or {"": whole}).items()
        }
        self.heads = nn.ModuleDict(
            {name: self._head(heads[name.partition("/")[0]], features) for name, features in self._slices.items()}
        )

    @staticmethod
    def _head(head: Head, features: slice) -> nn.Module:
        width_in = features.stop - features.start
        if not head.hidden:
            return nn.Linear(width_in, head.width)
        return nn.Sequential(nn.Linear(width_in, head.hidden), nn.ReLU(), nn.Linear(head.hidden, head.width))

    def features(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> what the heads see, [N, C]."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] -> logits [N, width] by the name of the head."""
        features = self.dropout(self.features(images))
        outputs = {name: head(features[:, self._slices[name]]) for name, head in self.heads.items()}
        for name, logits in list(outputs.items()):
            output, independent, _ = name.partition("/")
            if independent:
                outputs[output] = outputs[output] + logits if output in outputs else logits
        return outputs


class UncertainNetwork(Network):
    """A network that also gives each head's log variance, as `log_variance_<head>` [N], the same for all images.

    Losses are weighed by what it learns of their uncertainty (Kendall, Gal & Cipolla 2018).
    """

    def __init__(self, backbone: nn.Module, num_features: int, heads: Mapping[str, Head], dropout: float = 0.0) -> None:
        super().__init__(backbone, num_features, heads, dropout)
        self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in heads})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] -> logits [N, width] by the name of the head, and the log variances [N]."""
        variances = {f"{_PREFIX}{name}": value.expand(images.shape[0]) for name, value in self.log_variances.items()}
        return {**super().forward(images), **variances}


def weigh(loss: Tensor, count: Tensor, outputs: Mapping[str, Tensor], head: str) -> Tensor:
    """exp(-s) loss + s / 2 (their equation 10) of each of `count` answers, whose `loss` is added up; s is the log
    variance of the head, which moves only where there are answers.
    """
    log_variance = outputs[f"{_PREFIX}{head}"][0]
    return torch.exp(-log_variance) * loss + log_variance / 2 * count
