"""The training of one run: read this file first.

    fit           resume, epochs, predictions
    train_epoch   the steps of one epoch, from any step
    train_step    forward, backward, clip, step
    evaluate      a split measured, every sample once
    predict       the predictions of a split, with keys

A loss is the mean over what is known in the global batch: sums, divided by the counts of all its parts.

Everything random is drawn from (seed, step, rank) or (seed, epoch, sample), so the state of a run is its weights and
(epoch, step): a run killed anywhere and started again goes on with the very next sample.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fashion_dist.config import Config
from fashion_dist.data import Batch
from fashion_dist.data.columns import share_arrays
from fashion_dist.data.decode_record import DecodeRecord
from fashion_dist.data.options import DECODES
from fashion_dist.errors import CheckpointError, ConfigError, RunError
from fashion_dist.models.state_dict import load_initial
from fashion_dist.paths import RunDir
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import Columns, ExampleSet, Task, load
from fashion_dist.tasks.common.base import over, sum_of
from fashion_dist.tasks.common.evaluators import Evaluator, concatenate, gather_in_order
from fashion_dist.train import cuda_graph, inference, memory, rng
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.idle_steps import IdleSteps
from fashion_dist.train.mixup import mix_batch, mixes, without_targets
from fashion_dist.train.optim import set_learning_rate
from fashion_dist.train.options import Callbacks, TrainerOptions
from fashion_dist.train.run_logger import RunLogger
from fashion_dist.train.split_loader import SplitLoader
from fashion_dist.train.state import TrainState, compute_dtype
from shards import ShardSet, Split

Outcome = Literal["done", "stopped", "pruned"]

LOG_STEPS = 20
"""Steps between two training lines in metrics.jsonl; each costs one small all-reduce."""


def build_model(config: Config, shard_set: ShardSet, weights: Path, sha256: str = "") -> nn.Module:
    """The model that a run of `config` begins with, the same on every rank; needs no peer.

    Raises:
        ConfigError: the weights it is to begin with are not in the folder `weights`, have another SHA-256 than
            `sha256` where that is given, or do not fit.
    """
    rng.seed_weights(config.train.seed)
    model = load(config.task).build_model(config, shard_set.schema)
    load_initial(model, config.model, weights, sha256)
    return model


def choose_kernels(deterministic: bool, benchmark: bool = True) -> None:
    """Let torch take the fastest kernels, or only those that give the same bits each time, in this process.

    Args:
        deterministic: the same bits; an operation without such a kernel raises RuntimeError, which names it.
        benchmark: try kernels for convolutions, which costs seconds at each start, and at the next one another may win.
    """
    torch.backends.cudnn.benchmark = benchmark and not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it begins


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
        dist: ProcessGroup,
        run: RunDir,
        options: TrainerOptions | None = None,
        callbacks: Callbacks | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.config, self.task, self.shard_set, self.dist, self.run = config, task, shard_set, dist, run
        self.options, self.callbacks = options or TrainerOptions(), callbacks or Callbacks()
        self.device = dist.device
        self.dtype = compute_dtype(config.train.precision, self.device)
        choose_kernels(config.train.deterministic, config.train.cudnn_benchmark)
        model = build_model(config, shard_set, run.home.weights) if model is None else model
        model = dist.sync_batchnorm(model) if config.train.sync_batchnorm else model
        self.state = TrainState.create(model, config, self.device, self.dtype)
        self.model: nn.Module = self.state.model
        """The model as it is trained: compiled where `train.compile` says so."""
        if config.train.compile:
            self.model = torch.compile(self.model, mode=config.train.compile_mode)  # type: ignore[assignment]
        self.ddp_model: nn.Module = self.model
        self.checkpoints = Checkpoints(run.checkpoints, config.train.keep)
        self.logger = RunLogger(run, dist, self.options, self.callbacks)
        watched = self.device.type == "cuda" and not self.state.may_skip  # else each step waits for its gradient
        self._idle = IdleSteps(torch.cuda.Event if watched else None, config.train.cuda_graph)
        self._saved_at = time.monotonic()
        self._caches: dict[str, str] = {}

    @classmethod
    def for_inference(cls, run: OpenRun, options: TrainerOptions | None = None) -> Trainer:
        """A trainer with the best weights of a run, to predict and evaluate with in this process alone, in fp32.

        Raises:
            CheckpointError: the run has no best weights yet.
        """
        # The average is a copy of the model's shape; best weights are its state, so one plain model is enough here.
        options = options or TrainerOptions()
        if (decode := DecodeRecord.read(run.folder)) is not None:
            options = dataclasses.replace(options, loader=dataclasses.replace(options.loader, decode=decode.way))
        train = dataclasses.replace(run.config.train, ema=0.0, compile=False, fraction=1.0, precision="fp32")
        config = dataclasses.replace(run.config, train=train)
        task, dist = load(config.task), ProcessGroup(World(), World().device())
        model = task.build_model(config, run.schema)
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
            RunError: the loss is not finite, or memory ran out.
            DamageError: a sample's bytes are not what was packed.
        """
        decode = self.options.loader.decode if self.device.type == "cuda" else ""
        self.logger.update_status(state="running", phase="starting", epochs=self.config.train.epochs, decode=decode)
        try:
            self.restore_checkpoint()
            self.logger.open(self.config, self.state.global_step)
            if decode:
                way = {"decode_way": float(DECODES.index(decode))}
                self.logger.log("system", self.state.global_step, self.state.epoch, way)
            self.logger.record_phase("resuming")
            outcome: Outcome = "done"
            if self.state.epoch < self.config.train.epochs:
                with self.split_loader("train") as train, self.split_loader("val") as val:
                    self._require_learnable(train)
                    self.logger.record_phase("data")
                    outcome = self._fit_epochs(train, val)
            if outcome == "done":
                self._predict_splits()
                self.logger.show_media()
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            raise RunError(self._out_of_memory(error)) from error
        finally:
            self.close()
        self.logger.update_status(state="done" if outcome == "done" else "stopped")
        return outcome

    def _out_of_memory(self, error: BaseException) -> str:
        """What was held when memory ran out, and what fits."""
        on_gpu, where, peak = isinstance(error, torch.OutOfMemoryError), "this node", None
        if on_gpu and self.device.type == "cuda":
            where = f"{self.device} ({torch.cuda.get_device_properties(self.device).total_memory / 1e9:.1f} GB)"
            peak = torch.cuda.max_memory_allocated(self.device)
        held, ranks = memory.held_by(self.state), self.dist.world.world_size
        at = memory.doing(error)
        return memory.out_of_memory(
            where, at, self.state.epoch + 1, held, peak, self.config.train, ranks, list(self._caches.values())
        )

    def _fit_epochs(self, train: SplitLoader, val: SplitLoader) -> Outcome:
        state, epochs = self.state, self.config.train.epochs
        if self.dist.world.is_main and train.loader.cache_note:
            print(train.loader.cache_note, flush=True)
        self.logger.update_status(
            phase="training", epoch=state.epoch, step=state.global_step, best=state.best,
            total_steps=train.steps * epochs,
        )  # fmt: skip
        while state.epoch < epochs and not state.is_out_of_patience() and not self._is_out_of_time():
            if self._should_prune():
                return "pruned"
            if not self.train_epoch(train):
                self.save_checkpoint()
                return "stopped"
            self.logger.update_status(phase="evaluating")
            metrics = self.evaluate(val, calibrate=True).compute()
            state.epoch, state.step_in_epoch = state.epoch + 1, 0
            self.logger.log("val", self.state.global_step, state.epoch, metrics)
            if state.update_best(metrics, self.task.monitored(self.config)):
                self.save_best(metrics)
            self.save_checkpoint()
            self.logger.update_status(phase="training", epoch=state.epoch, best=state.best)
        return "done"

    def _require_learnable(self, train: SplitLoader) -> None:
        """Refuse a term of the loss that no training example has."""
        known: Counter[str] = Counter()
        for first in range(0, len(train.examples), 1 << 14):
            piece = {name: values[first : first + (1 << 14)] for name, values in train.targets.items()}
            known.update({name: float(count) for name, count in self.task.counts(piece, self.config).items()})
        if absent := [name for name, count in known.items() if not count > 0]:
            raise ConfigError(
                f"{', '.join(absent)} cannot be learned: no training example of {self.shard_set.path} has such a label"
            )

    def train_epoch(self, train: SplitLoader) -> bool:
        """The steps of the current epoch from where it stands; False when a stop was agreed on before its end.

        Where `train.max_time_min` is over before that, the epoch ends there.
        """
        state, settings = self.state, self.config.train
        self._begin_epoch(train)
        until = 0 if self.task.overrides("build_examples") else settings.epochs
        batches = train.loader.epoch(state.epoch, state.step_in_epoch, until)
        window: list[dict[str, Tensor]] = []
        started = began = time.monotonic()
        while state.step_in_epoch < train.steps:
            asked = time.monotonic()
            micro_batches = [next(batches) for _ in range(settings.accumulate)]
            with self._idle.step(time.monotonic() - asked):
                window.append(self.train_step(train, micro_batches))
            del micro_batches
            state.step_in_epoch += 1
            state.global_step += 1
            self.logger.first_step_done(self.config.train.compile)
            if len(window) == LOG_STEPS or state.step_in_epoch == train.steps:
                rate = len(window) * settings.batch_size / (time.monotonic() - started)
                self.logger.log_window(window, state, state.epoch + state.step_in_epoch / train.steps, rate)
                window, started = [], time.monotonic()
                self._idle.forget()
            self.logger.update_status(epoch=state.epoch, step=state.global_step)
            self.checkpoints.check()
            now = time.monotonic()
            state.trained_s, began = state.trained_s + now - began, now
            stopping = self.dist.any_rank_delayed(self.callbacks.should_stop() or state.is_out_of_time())
            saving = state.step_in_epoch < train.steps and self._checkpoint_due()
            if window and (stopping or saving):
                state.require_finite(float(window[-1]["gradient_norm"]))  # on a GPU nobody has asked yet
            if stopping and self._is_out_of_time():
                if window:
                    rate = len(window) * settings.batch_size / (now - started)
                    self.logger.log_window(window, state, state.epoch + state.step_in_epoch / train.steps, rate)
                return True
            if stopping:
                return False
            if saving:
                self.save_checkpoint()
        state.require_steps(train.steps)
        if (told := self._idle.end_epoch()) and self.dist.world.is_main:
            print(told, flush=True)
        return True

    def train_step(self, train: SplitLoader, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """One optimizer step on this rank's micro-batches.

        Returns:
            on the device, the gradient's norm, this rank's part of `loss` and of the means of its terms over the global
            batch as scalars, NaN where none of the batch has a term, or any, and the task's `train_metrics` [2].
        """
        config, state, task = self.config, self.state, self.task
        rng.seed_step(config.train.seed, state.global_step, self.dist.world.rank)
        set_learning_rate(state.optimizer, state.learning_rate(train.steps))
        state.optimizer.zero_grad(set_to_none=True)
        unknown = task.ignore_targets_when_mixed if mixes(config.train, state.global_step) else ()
        targets = [without_targets(train.targets_of(batch), unknown) for batch in micro_batches]
        counts = [task.counts(each, config) for each in targets]
        whole = self.dist.begin_all_reduce_sum({
            name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]
        })  # fmt: skip
        total: dict[str, Tensor] = {}
        # A forward pass moves normalisation statistics, and one that is not finite spoils them for good.
        before = [buffer.clone() for buffer in state.model.buffers()] if state.may_skip else []
        terms: dict[str, Tensor] = {}
        for i, batch in enumerate(micro_batches):
            with self.dist.gradients(self.ddp_model, exchange=i == len(micro_batches) - 1):
                with self.autocast():
                    mixed = mix_batch(batch.images, config.train, state.global_step)
                    outputs = self.ddp_model(mixed.images)
                    sums = mixed.losses(functools.partial(self._losses, outputs), targets[i])
                    minimised = task.objective(sums, counts[i], outputs, config)
                total = total or {name: count.float() for name, count in whole().items()}
                loss = sum_of(over(minimised, total))
                # DistributedDataParallel takes the mean over the ranks, and this is a sum over them.
                torch.autograd.backward(state.scaler.scale(loss * self.dist.world.world_size))
            with torch.no_grad():
                measured = task.train_metrics(outputs, mixed.larger(targets[i]), config)
            for name, value in {**over(sums, total), "loss": loss, **measured}.items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value.detach()
        norm = state.clip_gradients()
        state.step_optimizer(norm, before, lambda: any(self.dist.gather(not bool(terms["loss"].isfinite()))))
        known = {**total, "loss": torch.stack([*total.values()]).sum()}
        absent = {name: torch.where(count > 0, terms[name], torch.nan) for name, count in known.items()}
        return {**terms, **absent, "gradient_norm": norm}

    def _losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = self.task.losses(outputs, targets, self.config)
        for name, value in terms.items():
            if not isinstance(value, Tensor) or value.ndim:
                shown = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                told = f"losses() of task {self.config.task!r} gives {shown} for {name!r}"
                raise ConfigError(f"{told}; allowed: a tensor without dimensions")
        return terms

    def autocast(self, cached: bool = True) -> torch.autocast:
        """The context that forward passes run in; `cached` casts a parameter once."""
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32, cached)

    def _begin_epoch(self, train: SplitLoader) -> None:
        """Examples, optimizer and frozen layers of the current epoch."""
        state = self.state
        if train.epoch != state.epoch and self.task.overrides("build_examples"):
            train.set_epoch(state.epoch, self._build_examples(train.split, training=True))
        if state.prepare_epoch():
            if self.config.train.cuda_graph:
                cuda_graph.record(self.model, train.blank_images(), self.autocast(cached=False))
            # DistributedDataParallel looks at what is trainable once, when it wraps.
            self.ddp_model = self.dist.wrap_ddp(self.model, self.config.train.gradients)

    def split_loader(self, name: str, examples: ExampleSet | None = None, world: World | None = None) -> SplitLoader:
        """The loader of a split: `train` is shuffled and augmented, every other split is read in order, whole.

        Args:
            name: of the split.
            examples: read these in order instead of the task's own.
            world: whose part to read, if not this rank's among the ranks of the job.
        """
        split, training = self.shard_set.split(name), name == "train" and examples is None
        if examples is None:
            examples = self._build_examples(split, training)
            arrays = {"": examples.images, **examples.targets}
            shared, _ = share_arrays(arrays, self.dist.world.local_world_size, f"{split.path} {name} targets")
            examples = ExampleSet(shared[""], {key: shared[key] for key in examples.targets})
        made = SplitLoader(
            split, examples, self.config, self.dist, training=training, dtype=self.dtype, options=self.options.loader,
            bad_log=self.run.bad_samples(self.dist.world.rank), epoch=self.state.epoch if training else 0, world=world,
        )  # fmt: skip
        self._caches[name] = made.loader.cache_note
        return made

    def _build_examples(self, split: Split, training: bool) -> ExampleSet:
        """The task's examples of a split, for the current epoch in training."""
        config, state, task = self.config, self.state, self.task
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

        examples = task.build_examples(split, config, state.epoch if training else 0, embed)
        if config.train.fraction < 1 and (
            training or (split.name == "val" and not task.evaluator(split, config).needs_whole_split)
        ):
            least = config.train.batch_size if training else 1
            examples = examples.sample(config.train.fraction, least, config.train.seed)
        if mining_s:
            state.hard_negatives = examples
            self.logger.log("train", self.state.global_step, state.epoch, {"mining_s": sum(mining_s)})
        return examples

    def iter_outputs(self, loader: SplitLoader) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
        """This rank's batches of a split with the evaluated model's outputs, in fp32."""
        model, mirror = self.state.evaluated_model(), self.config.data.eval_flip
        context = inference.full_precision if self.dtype == torch.float32 else self.autocast
        return inference.iter_outputs(model, loader.loader.epoch(0), self.dist, context, mirror)

    def embed_split(self, name: str) -> dict[str, np.ndarray]:
        """The task's columns for each image of a split by the current weights, the same bits on any number of ranks."""
        images = ExampleSet.of_images(len(self.shard_set.split(name)))
        with self.split_loader(name, images) as loader, inference.one_thread():
            return gather_in_order(concatenate(list(self.iter_predictions(loader))), self.dist, len(images))[0]

    def iter_predictions(self, loader: SplitLoader) -> Iterator[dict[str, np.ndarray]]:
        """`index` and the task's columns for the examples that this rank sees, a batch at a time."""
        for batch, outputs in self.iter_outputs(loader):
            yield {"index": batch.index.numpy(), **self.task.predictions(outputs, self.config)}

    def evaluate(self, loader: SplitLoader, calibrate: bool = False) -> Evaluator:
        """The task's evaluator after a whole split, each sample counted once whatever the number of ranks.

        Args:
            loader: of the split.
            calibrate: let the evaluated model take what it takes from the split.
        """
        evaluator = self.task.evaluator(loader.split, self.config)
        for batch, outputs in self.iter_outputs(loader):
            evaluator.update(outputs, loader.targets_of(batch), batch.index)
        evaluator.reduce(self.dist)
        if calibrate:
            self.task.calibrate(self.state.evaluated_model(), evaluator)
        return evaluator

    def predict(self, loader: SplitLoader) -> None:
        """Write the predictions of a split, `index`, `key` and the task's columns, a row per example."""
        folder = self.run.predictions(loader.split.name)
        of = inference.made_of(self.shard_set, loader.split.name)
        inference.write_predictions(folder, self.iter_predictions(loader), loader.keys, self.dist, of)

    def _predict_splits(self) -> None:
        """Predict the wanted splits with the best weights, and measure those whose labels are known."""
        self.logger.update_status(phase="predicting")
        self.checkpoints.wait()
        self.dist.barrier()
        self.load_best()
        self.dtype = torch.float32  # what is handed in does not depend on how a machine rounds
        task = self.task
        for name in self.options.predict:
            if name not in self.shard_set.splits:
                continue
            with self.split_loader(name) as loader:
                self.predict(loader)
                if task.evaluator(loader.split, self.config).needs_whole_split or loader.examples.labelled:
                    evaluator = self.evaluate(loader)
                    self.logger.log(name, self.state.global_step, self.state.best["epoch"], evaluator.compute())
                    self.logger.write_tables(name, evaluator.tables())

    def _should_prune(self) -> bool:
        """Whether the run is to end before its next epoch: the same answer on every rank."""
        prune, state = self.callbacks.should_prune, self.state
        if prune is None or state.step_in_epoch or not state.epoch:
            return False
        return any(self.dist.gather(self.dist.world.is_main and prune(state.epoch)))

    def _is_out_of_time(self) -> bool:
        """Whether `train.max_time_min` is over: the same answer on every rank."""
        if not self.config.train.max_time_min:
            return False
        return any(self.dist.gather(self.dist.world.is_main and self.state.is_out_of_time()))

    def _checkpoint_due(self) -> bool:
        settings = self.config.train
        by_steps = bool(settings.checkpoint_steps) and self.state.global_step % settings.checkpoint_steps == 0
        return by_steps or time.monotonic() - self._saved_at >= 60 * settings.checkpoint_min

    def save_checkpoint(self) -> None:
        """Commit a checkpoint of this moment."""
        if self.dist.world.is_main:
            facts = {
                "config": self.config.plain(),
                "data_hash": self.shard_set.training_hash,
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
            facts = {"metrics": dict(metrics), **self.state.best}
            self.checkpoints.save("best", self.state.global_step, weights, facts)

    def restore_checkpoint(self) -> None:
        """Take up the last whole checkpoint, if there is one.

        Raises:
            CheckpointError: it is of another shard set or recipe, or all are damaged.
        """
        if self.dist.world.is_main:
            self.checkpoints.clean()
        state = self._load_checkpoint("step")
        if state is not None:
            self.state.load_state_dict(state)

    def _load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The state of the last whole one, which rank 0 reads and hands to all."""
        found = self.checkpoints.load(name, self.device) if self.dist.world.is_main else None
        if found is not None and name == "step":
            found[0].require_own(self.config, self.shard_set.manifest)
        if not self.dist.gather(found is not None)[0]:
            return None
        return self.dist.broadcast_state(None if found is None else found[1])

    def load_best(self) -> None:
        """Give the evaluated model the best weights so far.

        Raises:
            CheckpointError: there are none yet.
        """
        state = self._load_checkpoint("best")
        if state is None:
            raise CheckpointError(f"run {self.run.run_id} has no best weights yet in {self.checkpoints.folder}")
        self.state.evaluated_model().load_state_dict(state["model"])

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
