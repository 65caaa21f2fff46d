"""What a run learns with: model, its average, optimiser, scaler; and the state of it all that a checkpoint keeps."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fashion_dist.config import Config
from fashion_dist.train.distributed import Link
from fashion_dist.train.optim import WeightAverage, build_optimizer, leg_at

_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


@functools.cache
def cpu_computes_bf16() -> bool:
    """Whether the CPU has bf16 arithmetic (AMX or AVX512-BF16); emulated, bf16 is slower than fp32."""
    try:
        return any(flag in Path("/proc/cpuinfo").read_text() for flag in _BF16_FLAGS)
    except OSError:
        return False


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The autocast type that `train.precision` means on this hardware."""
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_computes_bf16()
        return torch.bfloat16 if fast else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


class Learner:
    """The model on its device with everything that changes it.

    Args:
        model: the task's model, fresh; every rank passes the same weights (same seed).
        config: the run's configuration.
        link: the ranks.
    """

    def __init__(self, model: nn.Module, config: Config, link: Link) -> None:
        self.config = config
        self.link = link
        self.device = link.device
        self.dtype = compute_dtype(config.train.precision, self.device)
        torch.backends.cudnn.benchmark = True  # sizes seldom change; on a GPU bits may, from one start to the next
        self.model: nn.Module = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.model, config.train.ema) if config.train.ema else None
        self.leg = leg_at(config.optim, config.train.epochs, 0)
        self.optimizer = build_optimizer(self.model, self.leg.config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.compiled: nn.Module = self.model
        """The model as it is trained: compiled where `train.compile` says so."""
        if config.train.compile:
            self.compiled = cast(nn.Module, torch.compile(self.model))
        self._frozen: bool | None = None
        self.parallel: nn.Module = self.compiled

    def train(self, epoch: int) -> None:
        """Make the model ready to train in `epoch`: `optim.stages` give it an optimiser, `model.freeze` freezes."""
        self.model.train()
        self._begin_leg(epoch)
        kind, _, count = self.config.model.freeze.partition(":")
        frozen = kind == "backbone" or (kind == "epochs" and epoch < int(count))
        if frozen != self._frozen:
            self._frozen = frozen
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(not (frozen and name.startswith("backbone.")))
            # DistributedDataParallel looks at what is trainable once, when it wraps.
            self.parallel = self.link.wrap(self.compiled)
        if frozen:
            # Frozen layers normalise with the statistics they came with.
            self.model.get_submodule("backbone").eval()

    def _begin_leg(self, epoch: int) -> None:
        """Take up the optimiser of `epoch`'s leg; one that is taken up anew knows nothing of the steps before."""
        leg = leg_at(self.config.optim, self.config.train.epochs, epoch)
        if leg != self.leg:
            self.leg = leg
            self.optimizer = build_optimizer(self.model, leg.config)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated and kept as best: the average where there is one."""
        if self.average is None:
            return self.model
        module = self.average.module
        assert isinstance(module, nn.Module)
        return module

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on exactly; rank 0's is everybody's."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "optimizer_epoch": self.leg.first,
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become the learner that `state` was taken of."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._begin_leg(state["optimizer_epoch"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def clip_gradients(self) -> Tensor:
        """Clip the gradient to `optim.clip_norm` if set; returns its norm before, a scalar on the device."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if self.config.optim.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip_norm, norm, foreach=True)
        return norm
