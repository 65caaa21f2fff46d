"""The trainers that people use, each with the same network, images and batch; and a loop with nothing but the network.

A contender is a function that trains for about the given number of images and gives how many it saw. What stands
before the function is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench._peers import CLASSES
from fashion_dist.data import Batch
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.trainer import Trainer

Contender = Callable[[], int]
Batches = Sequence[tuple[Tensor, Tensor]]
"""Images [n, 3, P, P] and which examples they stand for, int64 [n]."""
IN_MEMORY_BYTES = 2_000_000_000
"""A set of images larger than this is not put in memory whole."""


def bare_loop(
    trainer: Trainer, images: Tensor, targets: dict[str, Tensor], steps: int, compiled: bool = True
) -> Contender:
    """Model, autocast, the task's loss, backward, optimizer, on one batch in memory: the ceiling's ceiling.

    The model is the one that is trained, or with `compiled` false always the plain one.
    """
    task, config = trainer.task, trainer.config
    model = trainer.model if compiled else trainer.state.model

    def run() -> int:
        trainer.state.model.train()
        for _ in range(steps):
            trainer.state.optimizer.zero_grad(set_to_none=True)
            with trainer.autocast():
                loss = task.loss(model(images), targets, config)["loss"]
            torch.autograd.backward(loss)
            trainer.state.optimizer.step()
        synchronize(trainer.device)
        return steps * len(images)

    return run


def in_memory_loop(trainer: Trainer, whole: tuple[Tensor, dict[str, Tensor]], steps: int) -> Contender:
    """The bare loop on a tensor of all images, [N, C, P, P] on the device, in a new random order each round.

    Gray images have one channel, which the model sees three times without a copy.
    """
    task, config = trainer.task, trainer.config
    images, targets = whole
    size = config.train.batch_size
    steps = min(steps, len(images) // size)

    def run() -> int:
        trainer.state.model.train()
        order = torch.randperm(len(images), device=images.device)
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            trainer.state.optimizer.zero_grad(set_to_none=True)
            with trainer.autocast():
                outputs = trainer.model(images[rows].expand(-1, 3, -1, -1))
                loss = task.loss(outputs, {name: values[rows] for name, values in targets.items()}, config)["loss"]
            torch.autograd.backward(loss)
            trainer.state.optimizer.step()
        synchronize(trainer.device)
        return steps * size

    return run


def fits_in_memory(loader: SplitLoader, image_px: int) -> bool:
    """Whether the loader's images are squares of `image_px`, one an example, and few enough for a tensor of floats."""
    split = loader.split
    alike = bool(((split.width == image_px) & (split.height == image_px)).all())
    return alike and loader.examples.images.shape[1] == 1 and len(split) * image_px**2 * 12 <= IN_MEMORY_BYTES


def one_channel(images: Tensor) -> Tensor:
    """Images [n, 3, P, P], or [n, 1, P, P] where all are gray."""
    gray = images[:, :1]
    return gray.contiguous() if bool((images == gray).all()) else images.clone()


def timm_train(
    name: str, root: Path, image_px: int, batch_size: int, device: torch.device, workers: int, amp: bool
) -> Contender:
    """Timm's training script from the library's own parts: its dataset, loader, optimizer and channels_last.

    The loop is `train_one_epoch` of its `train.py` (timm 1.0) with that script's defaults: SGD with momentum, random
    resized crop, flip, colour jitter 0.4 and label smoothing 0.1.
    """
    import timm
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    model = timm.create_model(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
    loader = create_loader(
        create_dataset("", root=str(root), split="train"), input_size=(3, image_px, image_px), batch_size=batch_size,
        is_training=True, num_workers=workers, use_prefetcher=device.type == "cuda", device=device,
        pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    criterion = LabelSmoothingCrossEntropy(0.1)

    def run() -> int:
        model.train()
        losses, seen = AverageMeter(), 0
        for images, label in loader:
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            with _autocast(device, amp):
                loss = criterion(model(images), label.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item() if device.type == "cpu" else 0.0, len(images))
            seen += len(images)
        synchronize(device)
        return seen

    return run


def torchvision_reference(
    name: str, root: Path, image_px: int, batch_size: int, device: torch.device, workers: int, amp: bool
) -> Contender:
    """Torchvision's references/classification: ImageFolder, DataLoader, its training preset, SGD, a log per step."""
    import torchvision
    from torchvision.transforms import v2

    preset = v2.Compose(
        [
            v2.RandomResizedCrop(image_px, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        torchvision.datasets.ImageFolder(str(root), preset), batch_size=batch_size, shuffle=True, drop_last=True,
        num_workers=workers, pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def run() -> int:
        model.train()
        seen = 0
        for images, label in loader:
            images, label = images.to(device), label.to(device)
            with _autocast(device, amp):
                output = model(images)
                loss = criterion(output, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # The reference logs loss and accuracy of every step, which on a GPU waits for it.
            loss.item(), (output.topk(5, 1).indices == label[:, None]).float().sum().item()
            seen += len(images)
        synchronize(device)
        return seen

    return run


def worker_counts(cores: int) -> list[int]:
    """Worker processes to try for a peer's loader."""
    return sorted({0, 1, cores}) if cores <= 4 else [cores // 2, cores]


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _autocast(device: torch.device, amp: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp)


def random_batches(examples: int, image_px: int, trainer: Trainer, count: int) -> Batches:
    """`count` batches in memory: images [n, 3, P, P], channels_last, and int64 [n], of which `examples`."""
    size, device = trainer.config.train.batch_size, trainer.device
    draw = np.random.default_rng(0)
    dtype = torch.bfloat16 if trainer.dtype == torch.bfloat16 else torch.float32
    batches = []
    for _ in range(count):
        pixels = torch.from_numpy(draw.standard_normal((size, image_px, image_px, 3), np.float32))
        index = torch.from_numpy(draw.integers(examples, size=size))
        batches.append((pixels.to(device, dtype).permute(0, 3, 1, 2), index))
    return batches


class InMemory:
    """Takes the place of a loader: the same few batches, over and over."""

    def __init__(self, batches: Batches, steps: int) -> None:
        self._batches = batches
        self.steps = steps

    def epoch(self, epoch: int, start: int = 0, until: int = 0) -> Iterator[Batch]:
        """Batches from step `start` on."""
        del epoch, until
        for step in range(start, self.steps):
            yield Batch(*self._batches[step % len(self._batches)])

    def close(self) -> None:
        """Nothing to give back."""
