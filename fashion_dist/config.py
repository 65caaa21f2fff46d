"""The resolved configuration of a run: frozen dataclasses, each field with its doc beside it.

A task's recipe is a `Config`; `--set train.epochs=3` and the flags of `launch.py` replace fields of it, and the result
is validated as a whole. Everything in it decides the outcome of the run, so its hash, with the hash of the shard set,
is the run id. What does not (nodes, time limits, folders) stands in `fashion_dist.cluster` instead.

A field that is new since runs were made is declared with `added`, so that those runs keep their ids and go on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fashion_dist.errors import ConfigError
from fashion_dist.settings import (
    Scalar,
    added,
    asked_fields,
    build,
    hints_of,
    parse_value,
    renamed,
    require,
    require_setting,
)
from shards import typed_json


@dataclass(frozen=True)
class ModelConfig:
    """Which network, how it begins, and the settings that are its own."""

    name: str = "fashionnet"
    """A network of `fashion_dist.models`, else torchvision's, else timm's; `torchvision/NAME`, `timm/NAME` choose."""
    weights: str = "none"
    """`none` (from scratch), `imagenet` (the library's default weights), published ones by their tag such as
    `timm/convnext_tiny.fb_in22k`, the path of a state dict, or a run of ours, whose best backbone it then is."""
    dropout: float = 0.0
    """Probability of dropping a feature before the heads."""
    freeze: str = "none"
    """`none`, `backbone` (train the heads alone), or `epochs:N` (the backbone joins after N epochs)."""
    args: Mapping[str, Scalar] = field(default_factory=dict)
    """The network's own settings, spelt `model.NAME` on the command line: the `Args` of its module, or keyword
    arguments of timm's. Read and completed by `models.registry.resolve`; another network takes none of them over."""

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= dropout < 1")
        kind, _, count = self.freeze.partition(":")
        good = self.freeze in ("none", "backbone") or (
            kind == "epochs" and typed_json.is_count(count) and int(count) > 0
        )
        require(good, "model.freeze", self.freeze, "none, backbone or epochs:N with N >= 1")


WEIGHT_DECAYS: Mapping[str, float] = {"sgd": 5e-4, "adam": 5e-4, "adamw": 0.05}
"""What `optim.weight_decay` is for an optimiser that a recipe does not use itself. SGD and Adam add it to the gradient
(L2), so that a hundredth of AdamW's, which takes it off the weights (decoupled), does as much."""


@dataclass(frozen=True)
class Stage:
    """A part of the training with an optimiser of its own."""

    name: Literal["sgd", "adam", "adamw"]
    lr: float
    epochs: int
    weight_decay: float | None = None
    """None: `optim.weight_decay`."""

    @classmethod
    def parse(cls, text: str) -> Stage:
        """The stage that `sgd:0.005:10:0.0005` means: optimiser, learning rate, epochs and, if any, weight decay."""
        name, *numbers = text.split(":")
        try:
            lr, epochs, *decay = numbers
            stage = cls(name, float(lr), int(epochs), *map(float, decay))  # type: ignore[arg-type]
            good = name in WEIGHT_DECAYS and 0 < stage.lr < math.inf and stage.epochs >= 1
            good = good and 0 <= (stage.weight_decay or 0) < math.inf
        except (ValueError, TypeError):
            good = False
        if not good:
            raise ConfigError(
                f"optim.stages has {text!r}; allowed: NAME:LR:EPOCHS or NAME:LR:EPOCHS:DECAY such as sgd:0.005:10, "
                f"with {', '.join(WEIGHT_DECAYS)}, LR > 0, EPOCHS >= 1 and DECAY >= 0"
            )
        return stage

    def __str__(self) -> str:
        decay = "" if self.weight_decay is None else f":{self.weight_decay!r}"
        return f"{self.name}:{self.lr!r}:{self.epochs}{decay}"


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate over time."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD is with Nesterov momentum."""
    lr: float = 0.1
    """Peak learning rate, for the global batch."""
    momentum: float = 0.9
    """SGD's momentum, Adam's first beta."""
    beta2: float = 0.999
    """Adam's second beta."""
    weight_decay: float = 5e-4
    """Coupled (L2) for SGD and Adam, decoupled for AdamW; not applied to what `no_decay` says. Where `name` is not the
    recipe's and this is not set, it is that optimiser's own: `WEIGHT_DECAYS`."""
    schedule: Literal["cosine", "constant", "step", "onecycle", "plateau"] = "cosine"
    """After warm-up: half a cosine to `final_lr`; flat; tenfold down at 60 % and 85 % of the epochs; one cycle, which
    rises by itself; or flat and `plateau_factor` times as much whenever `train.monitor` stands still."""
    warmup_epochs: float = 1.0
    """Linear rise to `lr`, its first step at `lr` / steps; a fraction is fine. With onecycle there is none."""
    final_lr: float = 0.0
    """The learning rate that cosine and onecycle end at, as a fraction of `lr`."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    backbone_lr: float = 1.0
    """The backbone's learning rate as a fraction of the heads'."""
    stages: tuple[str, ...] = ()
    """Optimisers that follow each other, as NAME:LR:EPOCHS such as `sgd:0.005:10,adam:0.001:12`; the schedule runs
    over each stage, warm-up comes before the first. None: `name` and `lr` all along. A stage with another optimiser
    than `name` has that one's own weight decay, or as in `adam:0.001:12:0.0001`."""
    lr_decay: float = added(0.0, as_before=0.0)
    """Keras' `decay`: the learning rate is divided by 1 + `lr_decay` x steps; with `schedule` constant."""
    plateau_patience: int = added(3, as_before=3)
    """Evaluations in a row that are no better than the best, after which `schedule` plateau lowers the rate."""
    plateau_factor: float = added(0.1, as_before=0.1)
    """What `schedule` plateau multiplies the learning rate by."""
    layer_decay: float = added(1.0, as_before=1.0)
    """Each layer of the backbone learns at this times the rate of the one above it (Bao et al. 2022, as in timm)."""
    no_decay: Literal["vectors", "network"] = added("vectors", as_before="vectors")
    """Parameters without weight decay: `vectors`, biases and normalisation; `network`, and those that the network's
    `no_weight_decay()` names, as timm's trainer has it. The latter is what finetuning and timm's networks get."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "lr > 0")
        require(self.lr_decay >= 0, "optim.lr_decay", self.lr_decay, "lr_decay >= 0")
        flat = not self.lr_decay or self.schedule == "constant"
        require(flat, "optim.lr_decay", self.lr_decay, f"with optim.schedule=constant, not {self.schedule}")
        require(self.plateau_patience >= 0, "optim.plateau_patience", self.plateau_patience, "0 or more")
        require(0 < self.plateau_factor < 1, "optim.plateau_factor", self.plateau_factor, "0 < factor < 1")
        require(0 < self.layer_decay <= 1, "optim.layer_decay", self.layer_decay, "0 < layer_decay <= 1")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 <= momentum < 1")
        require(0 <= self.beta2 < 1, "optim.beta2", self.beta2, "0 <= beta2 < 1")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "weight_decay >= 0")
        require(self.warmup_epochs >= 0, "optim.warmup_epochs", self.warmup_epochs, "warmup_epochs >= 0")
        require(0 <= self.final_lr <= 1, "optim.final_lr", self.final_lr, "0 <= final_lr <= 1")
        require(self.clip_norm >= 0, "optim.clip_norm", self.clip_norm, "clip_norm >= 0")
        require(self.backbone_lr >= 0, "optim.backbone_lr", self.backbone_lr, "backbone_lr >= 0")
        for text in self.stages:
            Stage.parse(text)


@dataclass(frozen=True)
class DataConfig:
    """What an image goes through. Probabilities and ranges of training only; evaluation is resize and centre crop."""

    image_px: int = 112
    """Height and width of what the network sees."""
    fit: Literal["crop", "squash"] = "crop"
    """How an oblong image becomes square: by cutting, or by squashing it whole."""
    eval_resize: float = 1.14
    """Evaluation resizes the shorter side (with `squash` both) to `image_px * eval_resize`, then crops the centre."""
    eval_order: Literal["resize_crop", "crop_resize"] = added("resize_crop", as_before="crop_resize")
    """Whether evaluation resizes first, as torchvision does and as published weights expect, or crops first, as runs
    of the first edition did: the centre, `1 / eval_resize` of the sides. `fashion_dist.data.preprocessing` has both."""
    eval_flip: bool = False
    """Evaluation averages the outputs of each image and of its mirror image, at twice the cost."""
    crop_scale: tuple[float, float] = (0.25, 1.0)
    """Area of the random crop, as a fraction of the image (Szegedy et al. 2015)."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Aspect ratio (width / height) of the random crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    rotate: float = 0.0
    """Rotation drawn from [-r, r] degrees; what comes in from outside of the crop repeats its border."""
    shear: float = 0.0
    """Shear drawn from [-s, s] degrees, along both axes."""
    brightness: float = 0.0
    """Factor drawn from [1 - b, 1 + b]."""
    contrast: float = 0.0
    """Factor of the distance to middle gray, from [1 - c, 1 + c]; torchvision's is to the mean gray of the image."""
    saturation: float = 0.0
    """Factor drawn from [1 - s, 1 + s]."""
    hue: float = 0.0
    """Rotation drawn from [-h, h] degrees in YIQ's plane of colours, which keeps luma; torchvision shifts HSV's hue."""
    grayscale: float = 0.0
    """Probability of losing all colour."""
    erase: float = 0.0
    """Probability of erasing one rectangle (Zhong et al. 2017), drawn as torchvision's RandomErasing does."""
    rand_ops: int = 0
    """Colour operations picked at random for each image, in the manner of RandAugment (Cubuk et al. 2020)."""
    rand_magnitude: float = 0.5
    """Strength of those operations, 0 to 1."""
    cache_px: int = 0
    """Images are first reduced to this shorter side, which bounds the size of a cache; 0 keeps their pixels."""
    class_balanced: str = renamed("", was="balance")
    """A target of whole numbers whose classes get the same share of every epoch; empty reads every example once."""
    sample_weight: str = renamed("", was="weigh")
    """A target whose values are the weights with which examples are drawn; empty reads every example once."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per-channel mean of RGB in [0, 1]; the default is ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per-channel standard deviation of RGB in [0, 1]."""
    interpolation: Literal["bilinear", "bicubic"] = added("bilinear", as_before="bilinear")
    """How images are resized, antialiased; finetuning takes what the weights were trained with."""

    def __post_init__(self) -> None:
        require(8 <= self.image_px <= 1024, "data.image_px", self.image_px, "8 to 1024")
        require(1 <= self.eval_resize <= 4, "data.eval_resize", self.eval_resize, "1 to 4")
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "data.crop_scale", self.crop_scale, "0 < low <= high <= 1")
        low, high = self.crop_ratio
        require(0 < low <= high, "data.crop_ratio", self.crop_ratio, "0 < low <= high")
        for name in ("flip", "grayscale", "erase"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name}", value, "a probability, 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name}", value, "0 to 1")
        require(0 <= self.rand_ops <= 8, "data.rand_ops", self.rand_ops, "0 to 8")
        require(0 <= self.rand_magnitude <= 1, "data.rand_magnitude", self.rand_magnitude, "0 to 1")
        allowed = f"0, or image_px ({self.image_px}) to 4096"
        require(self.cache_px == 0 or self.image_px <= self.cache_px <= 4096, "data.cache_px", self.cache_px, allowed)
        allowed = "empty when data.class_balanced is given"
        require(not (self.class_balanced and self.sample_weight), "data.sample_weight", self.sample_weight, allowed)
        require(0 <= self.hue <= 180, "data.hue", self.hue, "0 to 180 degrees")
        require(0 <= self.rotate <= 180, "data.rotate", self.rotate, "0 to 180 degrees")
        require(0 <= self.shear <= 45, "data.shear", self.shear, "0 to 45 degrees")
        require(all(0 < s <= 100 for s in self.std), "data.std", self.std, "each above 0, at most 100")
        require(all(abs(m) <= 100 for m in self.mean), "data.mean", self.mean, "each from -100 to 100")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, in which precision, and what counts as best."""

    epochs: int = 30
    """Passes over the training split."""
    fraction: float = 1.0
    """Part of the training and validation examples to use, drawn by `seed`; at least one global batch of the former."""
    batch_size: int = 64
    """The global batch: what all ranks take together in one optimiser step."""
    accumulate: int = 1
    """Micro-batches a rank computes one after the other for one step; the global batch stays the same."""
    eval_batch_size: int = 64
    """Samples in one forward pass of evaluation; blocks of this size are dealt to the ranks whole."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast type; `auto` is bf16 where the hardware computes in it (CUDA, AMX, AVX512-BF16), else fp32."""
    label_smoothing: float = 0.0
    """Of cross-entropy (Szegedy et al. 2016)."""
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al. 2018); 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix's Beta distribution (Yun et al. 2019); 0 is off."""
    mix_prob: float = renamed(1.0, was="mix")
    """Probability that a step mixes, where `mixup` or `cutmix` is on."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and kept; 0 is off."""
    monitor: str = ""
    """The validation metric that `best` and early stopping mean; empty is the task's own."""
    mode: Literal["max", "min"] = "max"
    """Whether more of `monitor` is better; follows from the metric, and need not be set."""
    patience: int = 0
    """Epochs without a better `monitor` before training stops early; 0 never stops early."""
    seed: int = 0
    """Of the weights, the order and every augmentation."""
    compile: bool = False
    """`torch.compile` the model."""
    checkpoint_steps: int = 0
    """Optimiser steps between checkpoints within an epoch; 0 is at the ends of epochs only."""
    checkpoint_min: float = 10.0
    """Minutes after which the next step saves a checkpoint, whatever `checkpoint_steps` says."""
    keep: int = 2
    """Checkpoints kept behind the last one, for falling back."""
    on_nonfinite: Literal["fail", "skip"] = "fail"
    """What all ranks do when the loss of any of them is not finite. Steps whose gradient fp16 scaled too high are
    passed over either way; schedules and the average of the weights count the steps that were done."""
    deterministic: bool = added(False, as_before=False)
    """Two runs on the same GPUs and versions give the same bits; slower, and what has no such kernel is refused."""
    cudnn_benchmark: bool = added(True, as_before=True)
    """A GPU tries kernels for convolutions at each start and takes the fastest, which a short run may not win back."""
    sync_batchnorm: bool = added(False, as_before=False)
    """Batch normalisation takes its statistics over all ranks' images, as one rank with the whole batch would."""
    gradients: Literal["fp32", "bf16"] = added("fp32", as_before="fp32")
    """The type in which ranks exchange gradients; bf16 is half the bytes and rounds to 8 bits."""
    freeze_bn: bool = added(False, as_before=False)
    """Batch normalisation uses the statistics that it began with, in training too; its scale and shift still learn."""
    max_time_min: float = added(0.0, as_before=0.0)
    """Minutes of training, over all starts, after which the run evaluates and ends; 0 has no such end. The schedule is
    not shortened."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = added("default", as_before="default")
    """`torch.compile`'s mode; `reduce-overhead` replays a step's kernels as CUDA graphs, for GPUs that wait for the
    host, and so does `max-autotune`."""
    cuda_graph: bool = added(False, as_before=False)
    """The network's passes are replayed as CUDA graphs, for small networks whose GPU waits for the host. Nothing is
    compiled; the network has to do the same at every step."""
    predict_with: Literal["best", "last"] = added("best", as_before="best")
    """The weights that are kept to predict with: the best by `monitor`, or those of the last evaluation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"train.{name}", value, "1 or more")
        require(0 <= self.seed < 1 << 64, "train.seed", self.seed, "0 to 2**64 - 1")
        for name in ("patience", "checkpoint_steps", "keep", "checkpoint_min", "mixup", "cutmix", "max_time_min"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name}", value, "0 or more")
        require(0 < self.fraction <= 1, "train.fraction", self.fraction, "0 < fraction <= 1")
        require(0 <= self.mix_prob <= 1, "train.mix_prob", self.mix_prob, "0 to 1")
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 <= value < 1")
        require(0 <= self.ema < 1, "train.ema", self.ema, "0 <= decay < 1")

    def advise(self, accumulate: int) -> str:
        """The settings of this training in so many micro-batches, for a person; CUDA graphs take one."""
        without = " train.cuda_graph=false" * self.cuda_graph + " train.compile_mode=default" * self.compile
        return f"--set train.accumulate={accumulate}{without} with the same global batch of {self.batch_size}"


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run, next to the shard set."""

    task: str
    """Name of the module in `fashion_dist.tasks`."""
    dataset: str
    """The folder under HOME/shards."""
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    options: Mapping[str, Scalar] = field(default_factory=dict)
    """The task's own settings, spelt `task.NAME` on the command line."""

    def override(self, settings: Iterable[str]) -> Config:
        """This configuration with `key=value` settings applied, in order but for `model.name`, which comes first.

        Keys are dotted field names (`optim.lr`), `task.NAME` for the task's own options, or `model.NAME` for the
        network's, which `models.registry.resolve` reads; a network of another name begins without any. Other values
        are read by the field's type, tuples as comma-separated values.

        Raises:
            ConfigError: an unknown key (the nearest are named), or a value its field does not take.
        """
        pairs = []
        for setting in settings:
            key, separator, text = setting.partition("=")
            if not separator:
                raise ConfigError(f"--set takes key=value, not {setting!r}")
            pairs.append((key.strip(), text.strip()))
        asked = dict(pairs)
        if asked.get("optim.schedule") == "onecycle" and asked.get("optim.warmup_epochs", "0") not in ("0", "0.0"):
            raise ConfigError(
                f"optim.warmup_epochs = {asked['optim.warmup_epochs']} is not possible with optim.schedule=onecycle, "
                f"which rises by itself; allowed: leave it out, or 0"
            )
        config = self
        for key, text in sorted(pairs, key=lambda pair: pair[0] != "model.name"):
            config = config._replace(key, text)
        if "optim.weight_decay" not in asked:
            config = config._with_own_decays(self.optim.name, restage="optim.stages" in asked)
        elif (own := config.optim.stages) and all(Stage.parse(text).weight_decay is not None for text in own):
            allowed = "left out, as every stage of optim.stages has its own"
            require(False, "optim.weight_decay", asked["optim.weight_decay"], allowed)
        if "optim.warmup_epochs" in asked:
            config._require_warmup()
        return config

    def _with_own_decays(self, name: str, *, restage: bool) -> Config:
        """Optimisers other than `name`, for which `optim.weight_decay` was chosen, with their own weight decay."""
        optim = self.optim
        if optim.name != name:
            optim = dataclasses.replace(optim, weight_decay=WEIGHT_DECAYS[optim.name])
        if restage:
            stages = [Stage.parse(text) for text in optim.stages]
            own = tuple(
                text
                if stage.name == optim.name or stage.weight_decay is not None
                else str(dataclasses.replace(stage, weight_decay=WEIGHT_DECAYS[stage.name]))
                for text, stage in zip(optim.stages, stages, strict=True)
            )
            optim = dataclasses.replace(optim, stages=own)
        return self if optim == self.optim else dataclasses.replace(self, optim=optim)

    def _require_warmup(self) -> None:
        """Refuse a warm-up that leaves nothing of the run, or of its first stage, to the schedule."""
        stages = [Stage.parse(text) for text in self.optim.stages]
        epochs, warmup = stages[0].epochs if stages else self.train.epochs, self.optim.warmup_epochs
        where = "the first stage" if stages else "the run"
        allowed = f"less than the {epochs} epochs of {where}"
        require(warmup < epochs or not warmup, "optim.warmup_epochs", warmup, allowed)

    def check(self) -> Config:
        """This configuration, when its sections fit each other.

        Raises:
            ConfigError: they do not; names the settings.
        """
        stages = [Stage.parse(text) for text in self.optim.stages]
        planned = sum(stage.epochs for stage in stages)
        allowed = f"stages of {self.train.epochs} epochs together, as train.epochs says, not of {planned}"
        require(not stages or planned == self.train.epochs, "optim.stages", ",".join(self.optim.stages), allowed)
        scratch = self.model.freeze != "none" and self.model.weights == "none"
        allowed = "none when model.weights is none: a frozen backbone would keep its random weights"
        require(not scratch, "model.freeze", self.model.freeze, allowed)
        mode, allowed = self.train.compile_mode, "default without train.compile=true"
        require(self.train.compile or mode == "default", "train.compile_mode", mode, allowed)
        kind, _, count = self.model.freeze.partition(":")
        graph = "train.cuda_graph=true" if self.train.cuda_graph else f"train.compile_mode={mode}"
        allowed = f"1 with {graph}: CUDA graphs overwrite a micro-batch's gradients by the next one's"
        alone = self.train.cuda_graph or mode != "default"
        require(not alone or self.train.accumulate == 1, "train.accumulate", self.train.accumulate, allowed)
        others = {"train.compile": self.train.compile, "train.sync_batchnorm": self.train.sync_batchnorm}
        others["model.freeze=epochs:N"] = kind == "epochs"
        allowed = f"false with {', '.join(name for name, given in others.items() if given)}"
        require(not self.train.cuda_graph or not any(others.values()), "train.cuda_graph", True, allowed)
        allowed = f"epochs:N with N below train.epochs ({self.train.epochs}), or backbone, which never joins"
        require(kind != "epochs" or int(count) < self.train.epochs, "model.freeze", self.model.freeze, allowed)
        return self

    def debug(self) -> Config:
        """This configuration for trying all the steps in a minute: a hundredth of the data, one epoch of each stage,
        and one more where the backbone joins later.
        """
        stages = [dataclasses.replace(Stage.parse(text), epochs=1) for text in self.optim.stages]
        optim = dataclasses.replace(self.optim, stages=tuple(map(str, stages)))
        joins = self.model.freeze.startswith("epochs:")
        model = dataclasses.replace(self.model, freeze="epochs:1") if joins else self.model
        epochs = max(1 + joins, len(stages))
        train = dataclasses.replace(self.train, fraction=0.01, epochs=epochs, cudnn_benchmark=False)
        return dataclasses.replace(self, model=model, optim=optim, train=train)

    def _replace(self, key: str, text: str) -> Config:
        require_setting(key, self.keys())
        section, _, name = key.partition(".")
        if section == "task":
            kind = type(self.options[name])
            return dataclasses.replace(self, options={**self.options, name: parse_value(key, text, kind)})
        owner = getattr(self, section)
        hints = hints_of(type(owner))
        if section == "model" and (name not in hints or name == "args"):
            changed: dict[str, Any] = {"args": {**self.model.args, name: text}}
        else:
            changed = {name: parse_value(key, text, hints[name])}
            if key == "model.name" and text != self.model.name:
                changed["args"] = {}
        return dataclasses.replace(self, **{section: dataclasses.replace(owner, **changed)})

    def keys(self) -> list[str]:
        """Every key that `override` takes, but for those of the network's own settings that have no value yet."""
        return [*(key for key in self.flat() if key not in ("task", "dataset"))]

    def flat(self) -> dict[str, Any]:
        """All settings under their dotted keys, in the order of the fields."""
        flat: dict[str, Any] = {"task": self.task, "dataset": self.dataset}
        for section in ("model", "optim", "data", "train"):
            owner = getattr(self, section)
            flat |= {f"{section}.{f.name}": getattr(owner, f.name) for f in dataclasses.fields(owner)}
            flat |= {f"{section}.{name}": value for name, value in flat.pop(f"{section}.args", {}).items()}
        return flat | {f"task.{name}": value for name, value in self.options.items()}

    def to_json(self) -> str:
        """Indented JSON with sorted keys, the same text for equal configurations."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON reads it back, which is how a checkpoint keeps it."""
        values: dict[str, Any] = json.loads(self.to_json())
        return values

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
        """What the JSON object of any edition's `to_json` means, and the settings in it that are gone.

        Settings are gone when there is no such field, or the field does not take such a value, any more.

        Raises:
            InputError: a value is of another type, or the task's name is missing.
        """
        gone: dict[str, Any] = {}
        return build(cls, values, "", gone), gone

    def run_id(self, data_hash: str, weights: str = "") -> str:
        """`<task>-<10 hex digits>`: the same for the same configuration, shard set and weights, wherever they lie.

        `weights` identifies their content and stands for `model.weights`, which may be a path; `runs.run_id` has it.
        """
        asked = asked_fields(self)
        asked["model"] = {**asked["model"], "weights": weights or self.model.weights}
        digest = hashlib.sha256((json.dumps(asked, sort_keys=True) + data_hash).encode()).hexdigest()
        return f"{self.task}-{digest[:10]}"


RENAMED: Mapping[str, str] = {
    f"{section.name}.{f.metadata['was']}": f"{section.name}.{f.name}"
    for section in dataclasses.fields(Config)
    if dataclasses.is_dataclass(section.default)
    for f in dataclasses.fields(section.default)
    if "was" in f.metadata
}
"""What a setting was called when runs and sweeps were stored -> what it is called now."""
