"""Dropout (Srivastava et al. 2014) that costs little on a CPU."""

from __future__ import annotations

from torch import Tensor, empty, int64, nn, uint8
from torch.nn.functional import dropout


class Dropout(nn.Dropout):
    """`nn.Dropout` whose probability, on a CPU, is rounded to the nearest of 1/256 to 255/256 (if it is near one).

    Torch draws a number for each value there, which takes as long as the matrix product in front of it; here each
    number that is drawn decides about eight values.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Of the shape and the type of `values`."""
        threshold = round(self.p * 256)
        if not self.training or values.device.type != "cpu" or threshold in (0, 256):
            return dropout(values, self.p, self.training)
        count = values.numel()
        drawn = empty(-(-count // 8), dtype=int64).random_(-(2**63), None).view(uint8)
        kept = drawn[:count].view(values.shape) >= threshold
        return values * kept.to(values.dtype).mul_(256 / (256 - threshold))
