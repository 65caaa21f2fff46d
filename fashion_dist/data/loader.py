"""The loader: every example exactly once an epoch, from any step on, the same whatever the number of ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from fashion_dist.config import DataConfig
from fashion_dist.data.backends import make_backend
from fashion_dist.data.batch import Batch
from fashion_dist.data.batch_plan import BatchPlanner, Work
from fashion_dist.data.columns import share_columns
from fashion_dist.data.cpu_transforms import Rendered
from fashion_dist.data.dali import lower_thread_priority
from fashion_dist.data.damage import BadSamples
from fashion_dist.data.options import LoaderOptions
from fashion_dist.data.sampler import (
    BatchPartition,
    balanced_weights,
    epoch_order,
    eval_blocks,
    occurrences,
    weighted_order,
)
from fashion_dist.data.shard_reader import Encoded, Fetcher, ShardFiles
from fashion_dist.data.staging import stage
from fashion_dist.errors import ConfigError, DamageError
from shards import Split

_PLANNED = 1024
"""Images whose treatment is computed at once, by a thread, while those before are read and decoded."""
_SUBSTITUTE = 1 << 20
"""Counted as a repeat, so that an example that stands in for another one is not treated as in its own place."""


class Loader:
    """One split on its way to one rank's model.

    Args:
        split: where the images are.
        images: int64 [N, k], the images of each example, as rows of the split.
        data: what happens to them.
        batch_size: in training the global batch; in evaluation the size of the blocks that are dealt to the ranks.
        training: shuffled, augmented and without the remainder of the last batch; or in order, each example once.
        rank, world_size: this process among all; `local_world_size` of them are on this node.
        seed: of the run.
        accumulate: micro-batches a step.
        device: where batches are wanted.
        dtype: float32 or bfloat16, of the batches.
        options: how to work.
        classes: int [N]; every class gets the same share of an epoch.
        weights: float [N]; examples are drawn in proportion. Neither: each example once.
        bad_log: file that lists skipped samples, one JSON object a line.

    Raises:
        ConfigError: settings that do not fit each other or the split.
        InputError: the shards are not those of the index.
    """

    def __init__(
        self,
        split: Split,
        images: np.ndarray,
        data: DataConfig,
        *,
        batch_size: int,
        training: bool,
        rank: int = 0,
        world_size: int = 1,
        local_world_size: int = 1,
        seed: int = 0,
        accumulate: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        options: LoaderOptions | None = None,
        classes: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        bad_log: Path | None = None,
    ) -> None:
        self._options = options = options or LoaderOptions()
        self._images = np.ascontiguousarray(images, np.int64)
        self._training, self._seed = training, seed
        self._rank, self._world_size, self._batch_size = rank, world_size, batch_size
        assert self._images.ndim == 2 and 0 <= rank < world_size
        self._weights, self._classes = _draw_weights(len(images), classes, weights)
        self._division = BatchPartition(len(images), batch_size, world_size, accumulate) if training else None
        micro_size = self._division.micro_size if self._division else min(batch_size, max(len(images), 1))
        if options.stage != "off":
            split = stage(split, options.stage)
        split, self._columns = share_columns(split, local_world_size)
        self._files = ShardFiles(split)
        own_copies = options.stage != "off"
        self._files.check(*((0, 1) if own_copies else (rank, world_size)))
        self._split = split
        self._shards = split.shard[self._images[:, 0]]
        self._planner = BatchPlanner(split, self._images, data, training, seed)
        self._bad = BadSamples(options.bad_samples, bad_log)
        self._max_images = micro_size * self._images.shape[1]
        self._engine, self.cache_note = make_backend(
            data,
            options,
            self._planner,
            max_images=self._max_images,
            device=device or torch.device("cpu"),
            dtype=dtype,
            local_world_size=local_world_size,
            name=f"{split.tar_folder} {split.name} {data.cache_px}",
        )
        self._fetcher = Fetcher(self._files, split, options.read_threads)
        self._planning = ThreadPoolExecutor(1, thread_name_prefix="plan")
        # Of 10 million weighted examples an order takes seconds.
        self._ordering = ThreadPoolExecutor(1, thread_name_prefix="order", initializer=lower_thread_priority)
        self._next_order: tuple[int, Future[tuple[np.ndarray, np.ndarray]]] | None = None
        self._examples_change = False
        self._stages: Generator[Batch] | None = None
        self._stand: tuple[int, int, int] | None = None
        """The (epoch, step, until) that the stages have begun with, where nobody has asked for it yet."""
        self._running: Generator[Batch] | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch; in evaluation the batches this rank yields."""
        if self._division:
            return self._division.steps
        return len(list(eval_blocks(len(self._images), self._batch_size, self._rank, self._world_size)))

    def show(self, images: np.ndarray) -> None:
        """From the next epoch on, let the examples be made of these images, int64 [N, k] of the same shape."""
        assert images.shape == self._images.shape, "an epoch has as many examples as the one before"
        self._images = np.ascontiguousarray(images, np.int64)
        self._shards = self._split.shard[self._images[:, 0]]
        self._planner.images = self._images
        self._examples_change, self._next_order = True, None

    @property
    def bad_samples(self) -> list[DamageError]:
        """The damaged samples this rank met and skipped."""
        return list(self._bad.found.values())

    def epoch(self, epoch: int, start: int = 0, until: int = 0) -> Iterator[Batch]:
        """This rank's micro-batches of an epoch, from optimiser step `start` on; ends an iteration not yet exhausted.

        Args:
            epoch: from 0.
            start: optimiser step.
            until: the first epoch that will not be asked for, where in training the next ones will be, with the same
                `until`: their first batches are then read, decoded and rendered behind this one's last.

        Raises:
            DamageError: a sample cannot be read or decoded and the policy is to fail; names shard, key and offset. It
                comes in the place of the sample's batch.
        """
        if self._running is not None:
            self._running.close()
        until = epoch + 1 if self._examples_change or not self._training else max(until, epoch + 1)
        if self._stages is not None and (self._examples_change or self._stand != (epoch, start, until)):
            self._stages.close()
            self._stages = None
        if self._stages is None:
            each = (self._works(number, start if number == epoch else 0) for number in range(epoch, until))
            self._stages = self._run(chain.from_iterable(each))
        self._running = self._epoch(self._stages, epoch, start, until)
        return self._running

    def _epoch(self, stages: Generator[Batch], epoch: int, start: int, until: int) -> Generator[Batch]:
        """Of the batches that the stages give, those of one epoch."""
        self._stand = None
        if self._division is None:
            yield from stages
            return
        left = (self._division.steps - start) * self._division.accumulate
        while left > 0:
            left -= 1
            self._stand = (epoch + 1, 0, until) if not left and epoch + 1 < until else None
            yield next(stages)

    def close(self) -> None:
        """Stop all threads and give memory and files back."""
        for iteration in (self._running, self._stages):
            if iteration is not None:
                iteration.close()
        self._planning.shutdown(wait=True, cancel_futures=True)
        self._ordering.shutdown(wait=False, cancel_futures=True)
        self._fetcher.close()
        self._engine.close()
        self._files.close()
        if self._columns is not None:
            self._columns.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, works: Iterator[Work]) -> Generator[Batch]:
        """Three stages, each a batch ahead of the next: reading, decoding, rendering."""
        coming = next(works, None)
        reading: deque[Work] = deque()
        decoding: Work | None = None
        rendering: deque[tuple[Work, Rendered]] = deque()
        latest = coming.epoch if coming is not None else 0
        try:
            while True:
                while coming is not None and len(reading) < self._fetcher.ahead(self._max_images):
                    if coming.epoch != latest and self._options.cache != "none":
                        # What the epoch before decodes is to be in the cache first, or it would be read twice.
                        if reading or decoding is not None:
                            break
                        for _, rendered in rendering:
                            rendered.wait()
                    latest = coming.epoch
                    reading.append(self._fetch(coming))
                    coming = next(works, None)
                if decoding is None and reading:
                    decoding = self._decode(reading.popleft())
                    continue
                if decoding is not None:
                    work, decoding = decoding, None
                    rendering.append(self._render(work))
                    # The decoder goes on with the next batch before this one is waited for.
                    decoding = self._decode(reading.popleft()) if reading else None
                    if len(rendering) < 2 and decoding is not None:
                        continue
                if not rendering:
                    return
                work, rendered = rendering.popleft()
                if len(work.index):
                    yield self._batch(work, rendered)
                del work, rendered
        except DamageError:
            while rendering:  # the batches before the damaged one, which may be the next epoch's
                yield self._batch(*rendering.popleft())
            raise
        finally:
            self._stand = None
            for work in reading:
                if work.fetched is not None:
                    work.fetched.cancel()
            self._engine.drop()
            for _, rendered in rendering:
                rendered.wait()

    def _works(self, epoch: int, start: int) -> Iterator[Work]:
        count = len(self._images)
        if not self._division:
            for block in list(eval_blocks(count, self._batch_size, self._rank, self._world_size))[start:]:
                index = np.arange(block.start, block.stop)
                yield self._planner.work(index, epoch, np.zeros_like(index))
            return
        order, repeats = self._order(epoch)
        division = self._division
        micros = [(step, micro) for step in range(start, division.steps) for micro in range(division.accumulate)]
        size = division.micro_size
        at_once = max(_PLANNED // self._max_images, 1)
        planner = self._planner

        def plan(first: int) -> Work:
            spans = [division.positions(self._rank, *where) for where in micros[first : first + at_once]]
            positions = np.concatenate([np.arange(span.start, span.stop) for span in spans])
            return planner.work(order[positions], epoch, repeats[positions])

        coming = self._planning.submit(plan, 0) if micros else None
        for first in range(0, len(micros), at_once):
            assert coming is not None
            planned = coming.result()
            if first + at_once < len(micros):
                coming = self._planning.submit(plan, first + at_once)
            for part in range(len(planned.index) // size):
                yield planned.part(slice(part * size, (part + 1) * size))

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """What an epoch reads, and how often each came before in it; the next epoch's is made beside this one."""
        ready, self._next_order = self._next_order, None
        found = ready[1].result() if ready is not None and ready[0] == epoch else self._make_order(epoch)
        if not self._examples_change:
            self._next_order = epoch + 1, self._ordering.submit(self._make_order, epoch + 1)
        return found

    def _make_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._weights is None:
            return epoch_order(self._shards, self._seed, epoch), np.zeros(len(self._images), np.int64)
        order = weighted_order(self._weights, self._classes, self._seed, epoch)
        return order, occurrences(order)

    def _fetch(self, work: Work) -> Work:
        missing = self._engine.missing(work.rows)
        if self._bad.found:
            missing &= ~np.isin(work.rows, list(self._bad.found))
        work.fetched = self._fetcher.start(work.rows, missing)
        return work

    def _decode(self, work: Work) -> Work:
        assert work.fetched is not None, "fetching comes first"
        encoded: list[Encoded | None] = [None] * len(work.rows)
        if work.fetched.parts:  # else all is cached, and looking at each image of 28 px would be a third of the work
            for position, image in enumerate(work.fetched.wait()):
                if isinstance(image, DamageError):
                    self._bad.add(int(work.rows[position]), image)
                else:
                    encoded[position] = image
        work, encoded = self._repair(work, encoded)
        self._engine.begin(work, encoded)
        work.encoded = encoded
        return work

    def _render(self, work: Work) -> tuple[Work, Rendered]:
        while isinstance(rendered := self._engine.finish(work), dict):
            for position, reason in rendered.items():
                row = int(work.rows[position])
                self._bad.add(row, self._files.damage(row, reason))
            work, encoded = self._repair(work, list(work.encoded))
            self._engine.begin(work, encoded)
            work.encoded = encoded
        return work, rendered

    def _batch(self, work: Work, rendered: Rendered) -> Batch:
        images = rendered.wait()
        k = self._images.shape[1]
        images = images.view(-1, k, *images.shape[1:]) if k > 1 else images
        order = (0, 3, 1, 2) if k == 1 else (0, 1, 4, 2, 3)
        return Batch(images.permute(order), torch.from_numpy(np.ascontiguousarray(work.index)))

    def _repair(self, work: Work, encoded: list[Encoded | None]) -> tuple[Work, list[Encoded | None]]:
        """The work without damaged images: in training others stand in, so that every rank stays in step."""
        if self._bad.first_of(work.rows) is None:
            return work, encoded
        k = self._images.shape[1]
        bad = np.array([self._bad.first_of(rows) is not None for rows in work.rows.reshape(-1, k)])
        if not self._training:
            kept = np.flatnonzero(np.repeat(~bad, k))
            return work.without(bad), [encoded[i] for i in kept]
        for position in np.flatnonzero(bad).tolist():
            other, images = self._substitute(int(work.index[position]), work.epoch)
            work = work.with_example(position, other)
            encoded[position * k : (position + 1) * k] = images
        return work, encoded

    def _substitute(self, example: int, epoch: int) -> tuple[Work, list[Encoded | None]]:
        count = len(self._images)
        # Those after it, in turn: a function of the example alone, the same on any number of ranks.
        for distance in range(1, count):
            other = (example + distance) % count
            work = self._planner.work(np.array([other]), epoch, np.array([_SUBSTITUTE]))
            if self._bad.first_of(work.rows) is not None:
                continue
            images: list[Encoded | None] = []
            for row in work.rows.tolist():
                try:
                    images.append(self._files.read(row))
                except DamageError as error:
                    self._bad.add(row, error)
                    break
            else:
                return work, images
        raise self._bad.first_of(self._images[example]) or AssertionError(example)


def _draw_weights(
    count: int, classes: np.ndarray | None, weights: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Weights [N] and groups [N] of a drawn order; no weights where each example is read once."""
    groups = np.zeros(count, np.int64)
    if classes is not None:
        if classes.ndim != 1 or not (classes >= 0).any():
            raise ConfigError("a balanced order needs one class per example, and examples that have one")
        return balanced_weights(classes), np.asarray(classes)
    if weights is None:
        return None, groups
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ConfigError("a weighted order needs one finite weight >= 0 per example, and one above 0")
    return np.asarray(weights, np.float64), groups
