"""The loaders that people use, each with the same work: a random resized crop, a flip, normalised float32 batches.

A contender is a function that runs one epoch and gives the number of images it saw; its set-up is not timed.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data.shard_reader import ShardFiles
from shards import Split

Epoch = Callable[[], int]
JPEG = b"\xff\xd8"
"""What a JPEG file begins with."""
CLASSES = 10
"""Folders that images are written to: for speed any label will do."""


@dataclass(frozen=True)
class Work:
    """What every contender does.

    Args:
        split: the images.
        data: crop, flip and normalisation; the rest is off.
        batch_size: images a batch.
        images: of the split, from its first on; webdataset reads the whole shards that hold them.
        cores: that a contender may use.
        folder: scratch space.
    """

    split: Split
    data: DataConfig
    batch_size: int
    images: int
    cores: int
    folder: Path

    @property
    def tars(self) -> list[str]:
        """The split's shards."""
        return [
            str(self.split.tar_folder / self.split.shard_names[i]) for i in np.unique(self.split.shard[: self.images])
        ]


def transform(work: Work) -> Any:
    """Torchvision v2 on PIL images, as its documentation recommends for images from files."""
    from torchvision.transforms import v2

    data = work.data
    crop: list[Any] = []
    if data.crop_scale[0] < 1:
        crop = [v2.RandomResizedCrop(data.image_px, data.crop_scale, data.crop_ratio, antialias=True)]
    return v2.Compose(
        [
            v2.ToImage(),
            *crop,
            v2.RandomHorizontalFlip(data.flip),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.mean, data.std),
        ]
    )


def write_files(split: Split, count: int, root: Path) -> None:
    """Write the first `count` images of a split into `CLASSES` folders below `root`, as ImageFolder wants them."""
    files = ShardFiles(split)
    for row in range(count):
        data = files.read(row).tobytes()
        path = root / str(row % CLASSES) / (f"{row}.jpg" if data[:2] == JPEG else f"{row}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    files.close()


def image_folder(work: Work, workers: int) -> Epoch:
    """`torchvision.datasets.ImageFolder`, v2 transforms and `DataLoader` on the same files, unpacked."""
    from torchvision.datasets import ImageFolder

    root = work.folder / "files"
    if not root.exists():
        write_files(work.split, work.images, root)
    # More workers than cores is one of the settings to try, not a slip.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        ImageFolder(str(root), transform(work)),
        batch_size=work.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )
    return lambda: sum(len(images) for images, _ in loader)


def web_dataset(work: Work, workers: int) -> Epoch:
    """`webdataset.WebDataset` with its shuffle buffer and v2 transforms, and its `WebLoader`, on the same shards."""
    import webdataset as wds

    apply = transform(work)
    dataset = (
        wds.WebDataset(work.tars, shardshuffle=100, empty_check=False, nodesplitter=None)
        .shuffle(1000)
        .decode("pil", only=["jpg", "jpeg", "png", "webp"])
        .map(lambda sample: next(apply(sample[e]) for e in ("jpg", "png", "jpeg", "webp") if e in sample))
        .batched(work.batch_size, partial=False, collation_fn=torch.stack)
    )
    loader = wds.WebLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )
    return lambda: sum(len(images) for images in loader)


def dali_reader(work: Work, threads: int) -> Epoch:
    """DALI's own WebDataset reader and graph, as in its documentation."""
    from bench._dali import reader_pipeline

    indexes = [tar.removesuffix(".tar") + ".idx" for tar in work.tars]
    pipe = reader_pipeline(work.tars, indexes, work.data, work.batch_size, threads)

    def epoch() -> int:
        batches = work.images // work.batch_size
        for _ in range(batches):
            pipe.run()
        return batches * work.batch_size

    return epoch


def decode_floor(work: Work) -> Epoch:
    """libjpeg-turbo alone on all cores: every JPEG in memory decoded whole, nothing else."""
    import simplejpeg

    files = ShardFiles(work.split)
    images = [files.read(row).tobytes() for row in range(work.images)]
    files.close()
    jpegs = [image for image in images if image[:2] == JPEG]
    parts = [jpegs[start :: work.cores] for start in range(work.cores)]

    def decode(part: Iterable[bytes]) -> int:
        return sum(len(simplejpeg.decode_jpeg(image, "RGB")) > 0 for image in part)

    pool = ThreadPoolExecutor(work.cores)
    return lambda: sum(pool.map(decode, parts))


def variants(cores: int) -> list[int]:
    """Worker counts to try."""
    return sorted({max(cores // 2, 1), cores, 2 * cores})


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    random.seed(worker)
