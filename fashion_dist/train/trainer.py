"""The training of one run: read this file first.

    fit           resume, epochs, predictions
    train_epoch   the steps of one epoch, from any step
    train_step    forward, backward, clip, step
    evaluate      the metrics of a split, every sample once
    predict       the predictions of a split, with keys

Everything random is drawn from (seed, step, rank) or (seed, epoch, sample), so the state of a run is its weights and
(epoch, step): a run killed anywhere and started again goes on with the very next sample.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fashion_dist.config import Config
from fashion_dist.data import Batch
from fashion_dist.errors import CheckpointError, ConfigError, RunError
from fashion_dist.models.pretrained import load_initial
from fashion_dist.paths import RunDir
from fashion_dist.runs import OpenRun, differences, parse_config
from fashion_dist.tasks import Columns, Examples, Task, load
from fashion_dist.train import inference
from fashion_dist.train.checkpoint import Checkpoints, Saved
from fashion_dist.train.distributed import Link, World
from fashion_dist.train.mixup import mix_batch
from fashion_dist.train.optim import learning_rate, set_learning_rate
from fashion_dist.train.options import Callbacks, TrainerOptions
from fashion_dist.train.run_logger import RunLogger
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.state import TrainState, compute_dtype
from shards import ShardSet, Split

Outcome = Literal["done", "stopped", "pruned"]

LOG_STEPS = 20
"""Steps between two training lines in metrics.jsonl; each costs one small all-reduce."""


def build_model(config: Config, shard_set: ShardSet, weights: Path) -> nn.Module:
    """The model that a run of `config` begins with, the same on every rank; needs no peer.

    Raises:
        ConfigError: the weights it is to begin with are not in the folder `weights`, or do not fit.
    """
    torch.manual_seed(config.train.seed)
    model = load(config.task).build_model(config, shard_set.schema)
    load_initial(model, config.model, weights)
    return model


class Trainer:
    """One run in this rank; only rank 0's trainer writes anything but its own predictions.

    Args:
        config: what to train.
        task: of `config`.
        shard_set: on what.
        dist: the ranks of the job.
        run: the run's folder, which this job alone writes to.
        options: what may differ between two starts.
        callbacks: what to ask of whoever started this.
        model: what `build_model` made, where that was done before the ranks met.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        shard_set: ShardSet,
        dist: Link,
        run: RunDir,
        options: TrainerOptions | None = None,
        callbacks: Callbacks | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.config, self.task, self.shard_set, self.dist, self.run = config, task, shard_set, dist, run
        self.options, self.callbacks = options or TrainerOptions(), callbacks or Callbacks()
        self.device = dist.device
        self.dtype = compute_dtype(config.train.precision, self.device)
        torch.backends.cudnn.benchmark = True  # sizes seldom change; on a GPU bits may, from one start to the next
        model = build_model(config, shard_set, run.home.weights) if model is None else model
        self.state = TrainState.create(model, config, self.device, self.dtype)
        self.model: nn.Module = torch.compile(self.state.model) if config.train.compile else self.state.model  # type: ignore[assignment]
        """The model as it is trained: compiled where `train.compile` says so."""
        self.ddp_model: nn.Module = self.model
        self.checkpoints = Checkpoints(run.checkpoints, config.train.keep)
        self.logger = RunLogger(run, dist, self.options, self.callbacks)
        self._saved_at = time.monotonic()

    @classmethod
    def for_inference(cls, run: OpenRun, options: TrainerOptions | None = None) -> Trainer:
        """A trainer with the best weights of a run, to predict and evaluate with in this process alone.

        Raises:
            CheckpointError: the run has no best weights yet.
        """
        # The average is a copy of the model's shape; best weights are its state, so one plain model is enough here.
        config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, ema=0.0, compile=False))
        task, dist = load(config.task), Link(World(), World().device())
        model = task.build_model(config, run.shard_set.schema)
        trainer = cls(config, task, run.shard_set, dist, run.folder, options, model=model)
        try:
            trainer.load_best()
        except CheckpointError:
            trainer.close()
            raise
        return trainer

    def fit(self) -> Outcome:
        """Train from where the run stands to its end, and predict with its best weights.

        Returns:
            `done`, `stopped` when `callbacks.should_stop` ended it and a later start is to go on, or `pruned`.

        Raises:
            ConfigError: the batch does not divide over the ranks, or a split, the monitored metric or the weights do
                not exist.
            CheckpointError: the checkpoint is of another shard set or recipe, or cannot be written.
            RunError: the loss is not finite.
            DamageError: a sample's bytes are not what was packed.
        """
        self.logger.update_status(state="running", phase="starting", epochs=self.config.train.epochs)
        try:
            self.restore_checkpoint()
            self.logger.open(self.config, self.state.global_step)
            self.logger.record_phase("resuming")
            outcome: Outcome = "done"
            if self.state.epoch < self.config.train.epochs:
                with self.split_loader("train") as train, self.split_loader("val") as val:
                    self.logger.record_phase("data")
                    outcome = self._fit_epochs(train, val)
            if outcome == "done":
                self._predict_splits()
                self.logger.show_media()
        finally:
            self.close()
        self.logger.update_status(state="done" if outcome == "done" else "stopped")
        return outcome

    def _fit_epochs(self, train: SplitLoader, val: SplitLoader) -> Outcome:
        state, epochs = self.state, self.config.train.epochs
        if self.dist.world.is_main and train.loader.cache_note:
            print(train.loader.cache_note, flush=True)
        self.logger.update_status(
            phase="training", epoch=state.epoch, step=state.global_step, best=state.best,
            total_steps=train.steps * epochs,
        )  # fmt: skip
        while state.epoch < epochs and not self._out_of_patience():
            if self._should_prune():
                return "pruned"
            if not self.train_epoch(train):
                self.save_checkpoint()
                return "stopped"
            self.logger.update_status(phase="evaluating")
            metrics = self.evaluate(val)
            state.epoch, state.step_in_epoch = state.epoch + 1, 0
            self.logger.log("val", self.state.global_step, state.epoch, metrics)
            if self._is_best(metrics):
                self.save_best(metrics)
            self.save_checkpoint()
            self.logger.update_status(phase="training", epoch=state.epoch, best=state.best)
        return "done"

    def train_epoch(self, train: SplitLoader) -> bool:
        """The steps of the current epoch from where it stands; False when a stop was agreed on before its end."""
        state, settings = self.state, self.config.train
        self._begin_epoch(train)
        batches = train.loader.epoch(state.epoch, state.step_in_epoch)
        window: list[dict[str, Tensor]] = []
        started = time.monotonic()
        while state.step_in_epoch < train.steps:
            window.append(self.train_step(train, [next(batches) for _ in range(settings.accumulate)]))
            state.step_in_epoch += 1
            state.global_step += 1
            self.logger.first_step_done(self.config.train.compile)
            if len(window) == LOG_STEPS or state.step_in_epoch == train.steps:
                rate = len(window) * settings.batch_size / (time.monotonic() - started)
                self._log_window(window, state.epoch + state.step_in_epoch / train.steps, rate)
                window, started = [], time.monotonic()
            self.logger.update_status(epoch=state.epoch, step=state.global_step)
            self.checkpoints.check()
            stopping = self.dist.any_so_far(self.callbacks.should_stop())
            saving = state.step_in_epoch < train.steps and self._checkpoint_due()
            if window and (stopping or saving):
                self._require_finite(float(window[-1]["gradient_norm"]))  # on a GPU nobody has asked yet
            if stopping:
                return False
            if saving:
                self.save_checkpoint()
        return True

    def train_step(self, train: SplitLoader, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """One optimizer step on this rank's micro-batches; returns the loss terms' means as scalars on the device."""
        config, state = self.config, self.state
        # Dropout draws from (seed, step, rank): a resumed run draws what the undisturbed one did.
        torch.manual_seed((config.train.seed * 1_000_003 + state.global_step) * 65_536 + self.dist.world.rank)
        phase = state.phase
        lr = learning_rate(state.global_step - phase.first * train.steps, train.steps, phase.epochs, phase.config)
        set_learning_rate(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        # A forward pass moves normalisation statistics, and one that is not finite spoils them for good.
        skips = config.train.on_nonfinite == "skip"
        before = [buffer.clone() for buffer in state.model.buffers()] if skips else []
        terms: dict[str, Tensor] = {}
        for i, batch in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            with self.dist.gradients(self.ddp_model, exchange=last):
                with self.autocast():
                    mixed = mix_batch(batch.images, config.train, state.global_step)
                    outputs = self.ddp_model(mixed.images)
                    loss = functools.partial(self._loss, outputs)
                    found = mixed.loss(loss, train.targets_of(batch), self.task.unmixable)
                torch.autograd.backward(state.scaler.scale(found["loss"] / len(micro_batches)))
            for name, value in found.items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value.detach() / len(micro_batches)
        norm = state.clip_gradients()
        if self._worth_a_step(norm):
            state.scaler.step(state.optimizer)
            if state.ema is not None:
                state.ema.update_parameters(state.model)
        if before and not bool(norm.isfinite()):
            for buffer, value in zip(state.model.buffers(), before, strict=True):
                buffer.copy_(value)
        state.scaler.update()
        return {**terms, "gradient_norm": norm}

    def _loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.task.loss(outputs, targets, self.config)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def _begin_epoch(self, train: SplitLoader) -> None:
        """Examples, optimizer and frozen layers of the current epoch."""
        state = self.state
        if train.epoch != state.epoch and self.task.examples is not None:
            train.set_epoch(state.epoch, self._make_examples(train.split, training=True))
        if state.prepare_epoch():
            # DistributedDataParallel looks at what is trainable once, when it wraps.
            self.ddp_model = self.dist.wrap(self.model)

    def _worth_a_step(self, norm: Tensor) -> bool:
        """Whether the gradient is finite. It was added over the ranks, so all of them find the same."""
        policy = self.config.train.on_nonfinite
        if self.state.scaler.is_enabled():
            return True  # the scaler finds overflows itself, skips the step and lowers its scale
        if norm.device.type == "cuda" and policy == "fail":
            return True  # asking would wait for the GPU at every step; _log_window asks every LOG_STEPS
        if bool(norm.isfinite()):
            return True
        if policy == "fail":
            raise self._not_finite()
        return False

    def _require_finite(self, norm: float) -> None:
        """Raise RunError where the gradients of the last steps are not finite and the run is to fail of it."""
        must_be_finite = self.config.train.on_nonfinite == "fail" and not self.state.scaler.is_enabled()
        if must_be_finite and not math.isfinite(norm):
            raise self._not_finite()

    def _not_finite(self) -> RunError:
        return RunError(
            f"the gradient is not finite at epoch {self.state.epoch}, step {self.state.global_step}: lower optim.lr, "
            f"set optim.clip_norm, or pass such steps over with --set train.on_nonfinite=skip"
        )

    def split_loader(self, name: str, examples: Examples | None = None) -> SplitLoader:
        """The loader of a split: `train` is shuffled and augmented, every other split is read in order, whole.

        Args:
            name: of the split.
            examples: read these in order instead of the task's own.
        """
        split, training = self.shard_set.split(name), name == "train" and examples is None
        if examples is None:
            examples = self._make_examples(split, training)
        return SplitLoader(
            split, examples, self.config, self.dist, training=training, dtype=self.dtype, options=self.options.loader,
            bad_log=self.run.bad_samples(self.dist.world.rank), epoch=self.state.epoch if training else 0,
        )  # fmt: skip

    def _make_examples(self, split: Split, training: bool) -> Examples:
        """The task's examples of a split, for the current epoch in training."""
        config, state = self.config, self.state
        if training and state.hard_negatives is not None and state.step_in_epoch:
            return state.hard_negatives  # what the weights at the epoch's beginning chose; today's are others
        if training:
            state.hard_negatives = None
        mining_s: list[float] = []

        def embed() -> Columns:
            started = time.monotonic()
            rows = self.embed_split(split.name)
            mining_s.append(time.monotonic() - started)
            return rows

        examples = self.task.make_examples(split, config, state.epoch if training else 0, embed)
        if config.train.fraction < 1 and (training or (split.name == "val" and self.task.judge is None)):
            least = config.train.batch_size if training else 1
            examples = examples.sample(config.train.fraction, least, config.train.seed)
        if mining_s:
            state.hard_negatives = examples
            self.logger.log("train", self.state.global_step, state.epoch, {"mining_s": sum(mining_s)})
        return examples

    def iter_outputs(self, loader: SplitLoader) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """This rank's batches of a split with the evaluated model's outputs, in fp32."""
        model, mirror = self.state.evaluated_model(), self.config.data.eval_flip
        return inference.iter_outputs(model, loader.loader.epoch(0), self.dist, self.autocast, mirror)

    def gather_predictions(self, loader: SplitLoader) -> dict[str, np.ndarray]:
        """The task's columns for every example of a split, in its order, on every rank."""
        return inference.gather_rows(self._own_rows(loader), self.dist)

    def _own_rows(self, loader: SplitLoader) -> dict[str, np.ndarray]:
        return inference.collect_rows(self.iter_outputs(loader), lambda outputs: self.task.rows(outputs, self.config))

    def embed_split(self, name: str) -> dict[str, np.ndarray]:
        """The task's columns for each image of a split by the current weights, the same bits on any number of ranks."""
        images = Examples.of_images(len(self.shard_set.split(name)))
        with self.split_loader(name, images) as loader, inference.one_thread():
            return self.gather_predictions(loader)

    def evaluate(self, loader: SplitLoader) -> dict[str, float]:
        """The task's metrics of the validation split, each sample counted once; and what the model takes from them."""
        task, config = self.task, self.config
        if task.judge is None or task.settle is None:
            return self.measure(loader)[0]
        rows = self.gather_predictions(loader)
        return task.judge(loader.split, task.settle(self.state.evaluated_model(), loader.split, rows, config), config)

    def measure(self, loader: SplitLoader) -> tuple[dict[str, float], dict[str, str]]:
        """The task's metrics and loss terms over a split, each sample counted once whatever the number of ranks; and
        the task's tables of the same samples as {file name: text}.
        """
        task, config = self.task, self.config
        if task.judge is not None:
            return task.judge(loader.split, self.gather_predictions(loader), config), {}
        assert task.sums is not None and task.metrics is not None
        totals: dict[str, Tensor] = {}
        for batch, outputs in self.iter_outputs(loader):
            targets = loader.targets_of(batch)
            sums = dict(task.sums(outputs, targets, config))
            terms = task.loss(outputs, targets, config)
            sums |= {f"sum:{name}": value * len(batch.index) for name, value in terms.items()}
            totals = {name: totals[name] + value if totals else value.double() for name, value in sums.items()}
        totals = self.dist.sum_unequal(totals)
        means = {
            name.removeprefix("sum:"): float(totals.pop(name)) / len(loader.examples)
            for name in [*totals]
            if name.startswith("sum:")
        }
        arrays, schema = {name: value.cpu().numpy() for name, value in totals.items()}, self.shard_set.schema
        tables = task.tables(arrays, schema, config) if task.tables is not None else {}
        return {**task.metrics(arrays, schema), **means}, tables

    def predict(self, loader: SplitLoader) -> None:
        """Write the predictions of a split, `index`, `key` and the task's columns, a row per example."""
        folder = self.run.predictions(loader.split.name)
        inference.write_predictions(folder, lambda: self._own_rows(loader), loader.keys, self.dist)

    def _predict_splits(self) -> None:
        """Predict the wanted splits with the best weights, and measure those whose labels are known."""
        self.logger.update_status(phase="predicting")
        self.checkpoints.wait()
        self.dist.barrier()
        self.load_best()
        for name in self.options.predict:
            if name not in self.shard_set.splits:
                continue
            with self.split_loader(name) as loader:
                self.predict(loader)
                if self.task.judge is not None or loader.examples.labelled:
                    metrics, tables = self.measure(loader)
                    self.logger.log(name, self.state.global_step, self.state.best["epoch"], metrics)
                    self.logger.write_tables(name, tables)

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether these metrics are the best so far, which is then noted.

        Raises:
            ConfigError: `train.monitor` is not measured.
        """
        metric, state = self.config.train.monitor or self.task.monitor, self.state
        if metric not in metrics:
            raise ConfigError(f"train.monitor = {metric!r} is not measured; known: {', '.join(sorted(metrics))}")
        value, best = metrics[metric], state.best
        higher = self.config.train.mode == "max"
        if best and not (value > best["value"] if higher else value < best["value"]):
            return False
        state.best = {"metric": metric, "value": value, "epoch": state.epoch}
        return True

    def _out_of_patience(self) -> bool:
        patience, best = self.config.train.patience, self.state.best
        return bool(patience and best) and self.state.epoch - int(best["epoch"]) >= patience

    def _should_prune(self) -> bool:
        """Whether the run is to end before its next epoch: the same answer on every rank."""
        prune, state = self.callbacks.should_prune, self.state
        if prune is None or state.step_in_epoch or not state.epoch:
            return False
        return any(self.dist.gather(self.dist.world.is_main and prune(state.epoch)))

    def _checkpoint_due(self) -> bool:
        settings = self.config.train
        by_steps = bool(settings.checkpoint_steps) and self.state.global_step % settings.checkpoint_steps == 0
        return by_steps or time.monotonic() - self._saved_at >= 60 * settings.checkpoint_min

    def save_checkpoint(self) -> None:
        """Commit a checkpoint of this moment."""
        if self.dist.world.is_main:
            facts = {
                "config": self.config.plain(),
                "data_hash": self.shard_set.data_hash,
                "torch": torch.__version__,
                "precision": str(self.dtype),
                "world_size": self.dist.world.world_size,
            }
            self.checkpoints.save("step", self.state.global_step, self.state.state_dict(), facts)
        self._saved_at = time.monotonic()

    def save_best(self, metrics: Mapping[str, float]) -> None:
        """Commit the evaluated weights as the best so far."""
        if self.dist.world.is_main:
            weights = {"model": self.state.evaluated_model().state_dict()}
            self.checkpoints.save(
                "best", self.state.global_step, weights, {"metrics": dict(metrics), **self.state.best}
            )

    def restore_checkpoint(self) -> None:
        """Take up the last whole checkpoint, if there is one.

        Raises:
            CheckpointError: it is of another shard set or recipe, or the ranks do not see the same one.
        """
        if self.dist.world.is_main:
            self.checkpoints.clean()
        self.dist.barrier()
        found = self.checkpoints.load("step", self.device)
        if not self.dist.all_agree(str(found and found[0].path.name)):
            raise CheckpointError(f"{self.checkpoints.folder}: the ranks do not see the same last checkpoint")
        if found is None:
            return
        saved, state = found
        self._require_own(saved)
        self.state.load_state_dict(state)

    def _require_own(self, saved: Saved) -> None:
        if saved.facts["data_hash"] != self.shard_set.data_hash:
            raise CheckpointError(f"checkpoint {saved.path} is of another shard set; --fresh starts over beside it")
        config, gone = parse_config(json.dumps(saved.facts["config"]))
        if other := [*gone, *differences(config, self.config)]:
            raise CheckpointError(
                f"checkpoint {saved.path} is of another recipe ({', '.join(other)}); --fresh starts over beside it"
            )

    def load_best(self) -> None:
        """Give the evaluated model the best weights so far.

        Raises:
            CheckpointError: there are none yet.
        """
        found = self.checkpoints.load("best", self.device)
        if found is None:
            raise CheckpointError(f"run {self.run.run_id} has no best weights yet in {self.checkpoints.folder}")
        self.state.evaluated_model().load_state_dict(found[1]["model"])

    def _log_window(self, window: list[dict[str, Tensor]], epoch: float, samples_per_s: float) -> None:
        means = {name: torch.stack([terms[name].float() for terms in window]).mean() for name in window[0]}
        added = self.dist.sum(means)
        values = {name: float(value) / self.dist.world.world_size for name, value in added.items()}
        self._require_finite(values["gradient_norm"])
        lr = max(group["lr"] for group in self.state.optimizer.param_groups)
        self.logger.log("train", self.state.global_step, epoch, {**values, "lr": lr, "samples_per_s": samples_per_s})
        self.logger.log_system(self.state.global_step, epoch)
        self.logger.update_status(samples_per_s=samples_per_s)

    def close(self) -> None:
        """Wait for the last checkpoint, and end the record."""
        try:
            self.checkpoints.close()
        finally:
            self.logger.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
