"""What training changes: model, weight average, optimizer, grad scaler and position, as one state dict."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.tasks import ExampleSet, Monitor
from fashion_dist.train.optim import (
    OptimPhase,
    WeightAverage,
    build_optimizer,
    learning_rate,
    optim_phase_at,
    plateau_scale,
)

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
        if device.type == "cuda":  # emulated, as on Turing, bf16 does without tensor cores; fp16 has them there
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if cpu_computes_bf16() else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


@dataclass
class TrainState:
    """Model, EMA, optimizer and grad scaler of a run, and where it is, with state_dict() and load_state_dict()."""

    config: Config
    model: nn.Module
    ema: WeightAverage | None
    phase: OptimPhase
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    """Epochs done."""
    step_in_epoch: int = 0
    """Optimizer steps done within `epoch`."""
    global_step: int = 0
    """Optimizer steps done in all."""
    best: dict[str, Any] = field(default_factory=dict)
    """`metric`, `value` and `epoch` of the best evaluation so far."""
    skipped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("run", "phase", "epoch"), 0))
    """Steps without a step of the optimizer, since its gradient was not finite: of the run, the phase, the epoch."""
    goodness: list[float] = field(default_factory=list)
    """The monitored metric by evaluation as `Monitor.score` has it: more is better."""
    trained_s: float = 0.0
    """Seconds of training over all starts."""
    hard_negatives: ExampleSet | None = None
    """The current epoch's examples, where the weights chose them."""
    _frozen: bool | None = None

    @classmethod
    def create(cls, model: nn.Module, config: Config, device: torch.device, dtype: torch.dtype) -> TrainState:
        """The state before the first step; every rank passes the same weights. `dtype` is that of autocast."""
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ema = WeightAverage(model, config.train.ema) if config.train.ema else None
        phase = optim_phase_at(config.optim, config.train.epochs, 0)
        scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        return cls(config, model, ema, phase, build_optimizer(model, phase.config), scaler)

    def prepare_epoch(self) -> bool:
        """Ready the model, its optimizer and its frozen layers for the current epoch.

        Returns:
            whether other parameters are trainable than before, which is so at the first call, too.
        """
        self.model.train()
        self.set_phase(self.epoch)
        if not self.step_in_epoch:
            self.skipped["epoch"] = 0
        kind, _, count = self.config.model.freeze.partition(":")
        frozen = kind == "backbone" or (kind == "epochs" and self.epoch < int(count))
        changed, self._frozen = frozen != self._frozen, frozen
        if changed:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(not (frozen and name.startswith("backbone.")))
        if frozen:
            # Frozen layers normalise with the statistics they came with.
            self.model.get_submodule("backbone").eval()
        if self.config.train.freeze_bn:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return changed

    def learning_rate(self, steps_per_epoch: int) -> float:
        """The learning rate of the next step; schedules count the steps that the optimizer did, not skipped ones."""
        phase, config = self.phase, self.phase.config
        done = self.global_step - phase.first * steps_per_epoch - self.skipped["phase"]
        rate = learning_rate(done, steps_per_epoch, phase.epochs, config)
        if config.schedule == "plateau":
            since = self.goodness[phase.first :]
            rate *= plateau_scale(since, config.plateau_patience, config.plateau_factor)
        return rate

    def set_phase(self, epoch: int) -> None:
        """Switch to the optimizer of this epoch's phase; a new optimizer starts without momentum state."""
        phase = optim_phase_at(self.config.optim, self.config.train.epochs, epoch)
        if phase != self.phase:
            self.phase = phase
            self.skipped["phase"] = 0
            self.optimizer = build_optimizer(self.model, phase.config)

    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated and kept as best: the EMA where there is one."""
        if self.ema is None:
            return self.model
        module = self.ema.module
        assert isinstance(module, nn.Module)
        return module

    @functools.cached_property
    def _parameters(self) -> list[nn.Parameter]:
        """The model's: to search its modules takes as long as some kernels of a step."""
        return list(self.model.parameters())

    def clip_gradients(self) -> Tensor:
        """Clip the gradient to `optim.clip_norm` if set; returns its norm before, a scalar on the device."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if self.config.optim.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip_norm, norm, foreach=True)
        return norm

    @property
    def may_skip(self) -> bool:
        """Whether a step whose gradient is not finite may be passed over, and the run go on."""
        return self.scaler.is_enabled() or self.config.train.on_nonfinite == "skip"

    def step_optimizer(self, norm: Tensor, buffers: list[Tensor], any_loss_overflows: Callable[[], bool]) -> None:
        """Step optimizer and EMA, unless the gradient is not finite; that is a skipped step, or ends the run.

        Args:
            norm: of the gradient, which was added over the ranks, so that all of them find the same.
            buffers: of the model before the step, put back where it is skipped.
            any_loss_overflows: whether the loss of any rank is not finite; asked where the gradient is not. In fp16
                that may just have been scaled too high: the scaler lowers its scale, and that is no failure.

        Raises:
            RunError: it is not finite, and `train.on_nonfinite` is `fail`.
        """
        # On a GPU asking waits for it: `require_finite` asks now and then, where no step may be skipped.
        finite = (norm.device.type == "cuda" and not self.may_skip) or bool(norm.isfinite())
        if finite:
            self.scaler.step(self.optimizer)
            if self.ema is not None:
                self.ema.update_parameters(self.model)
        else:
            overflows = not self.scaler.is_enabled() or any_loss_overflows()
            if overflows and self.config.train.on_nonfinite == "fail":
                raise self._not_finite()
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
            self.skipped = {name: count + 1 for name, count in self.skipped.items()}
        self.scaler.update()

    def require_finite(self, *values: float) -> None:
        """Raise RunError where losses or gradients of the last steps are not finite and the run is to fail of it."""
        if not self.may_skip and not all(math.isfinite(value) for value in values):
            raise self._not_finite()

    def require_steps(self, steps: int) -> None:
        """Raise RunError where all `steps` of an epoch were skipped."""
        if self.skipped["epoch"] >= steps:
            raise RunError(
                f"all {steps} steps of epoch {self.epoch + 1} were skipped, since no gradient was finite: lower "
                f"optim.lr, or train with --set train.precision=bf16 or fp32"
            )

    def _not_finite(self) -> RunError:
        return RunError(
            f"the gradient is not finite at epoch {self.epoch}, step {self.global_step}: lower optim.lr, "
            f"set optim.clip_norm, or pass such steps over with --set train.on_nonfinite=skip"
        )

    def update_best(self, metrics: Mapping[str, float], monitor: Monitor) -> bool:
        """Note these metrics as the best so far, if they are; returns whether. Any number is better than NaN, and with
        `predict_with` last the last evaluation than those before.

        Raises:
            ConfigError: the monitored one is not among them.
        """
        if monitor.metric not in metrics:
            known = ", ".join(sorted(metrics))
            raise ConfigError(f"train.monitor = {monitor.metric!r} is not measured; known: {known}")
        value = float(metrics[monitor.metric])
        self.goodness.append(monitor.score(value))
        always = self.config.train.predict_with == "last"
        if self.best and not always and not monitor.is_better(value, self.best["value"]):
            return False
        self.best = {"metric": monitor.metric, "value": value, "epoch": self.epoch}
        return True

    def is_out_of_patience(self) -> bool:
        """Whether the best evaluation is `train.patience` epochs old."""
        patience = self.config.train.patience
        if self.config.train.predict_with == "last":
            return bool(patience) and plateau_scale(self.goodness, patience - 1, 0.5) < 1
        return bool(patience and self.best) and self.epoch - int(self.best["epoch"]) >= patience

    def is_out_of_time(self) -> bool:
        """Whether it has trained for `train.max_time_min`."""
        limit = self.config.train.max_time_min
        return bool(limit) and self.trained_s >= 60 * limit

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on exactly; rank 0's is everybody's."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "phase_epoch": self.phase.first,
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "global_step": self.global_step,
            "best": dict(self.best),
            "goodness": list(self.goodness),
            "trained_s": self.trained_s,
            "skipped": dict(self.skipped),
            "hard_negatives": None if self.hard_negatives is None else self.hard_negatives.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the state that `state` was taken of."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.set_phase(state["phase_epoch"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.global_step, self.best = state["global_step"], state["best"]
        self.goodness, self.trained_s = list(state.get("goodness", ())), state.get("trained_s", 0.0)
        self.skipped |= state.get("skipped", {})  # a checkpoint of the first edition has none
        kept = state["hard_negatives"]
        self.hard_negatives = None if kept is None else ExampleSet.from_state_dict(kept)
