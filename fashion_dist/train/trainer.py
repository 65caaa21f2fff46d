"""The training of one run, from its folder to its best checkpoint: read this file first.

    fit           set up, resume, epochs, predictions
    train_epoch   the steps of one epoch, from any step
    train_step    forward, backward, clip, step
    evaluate      a split's metrics, every sample once

Everything random is drawn from (seed, step, rank) or (seed, epoch, sample), so the state of a run is its weights and
(epoch, step): a run killed anywhere and started again goes on with the very next sample.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fashion_dist.config import Config
from fashion_dist.data import Batch
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import RunDir
from fashion_dist.run_status import StateFile
from fashion_dist.tasks import load
from fashion_dist.tracking.metrics_log import Tracker
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import Link
from fashion_dist.train.inference import forward_all, gather_rows, predict
from fashion_dist.train.mixup import mix_batch
from fashion_dist.train.optim import learning_rate, set_learning_rate
from fashion_dist.train.session import FitOptions, Session, SplitFeed
from fashion_dist.train.state import Learner
from fashion_dist.weights import load_initial
from shards import ShardSet

if TYPE_CHECKING:
    from fashion_dist.tracking.wandb_media import Showcase

Outcome = Literal["done", "stopped", "pruned"]

LOG_STEPS = 20
"""Steps between two training lines in metrics.jsonl; each costs one small all-reduce."""


def fit(
    folder: RunDir,
    config: Config,
    shard_set: ShardSet,
    link: Link,
    options: FitOptions = FitOptions(),  # noqa: B008  frozen, so shared defaults are safe
    stop: Callable[[], bool] = lambda: False,
    model: nn.Module | None = None,
) -> Outcome:
    """Train the run in `folder` from where it stands to its end, and predict with its best weights.

    Args:
        folder: the run's folder, which this job alone writes to.
        config: what to train.
        shard_set: on what.
        link: the ranks of the job.
        options: what may differ between two starts.
        stop: asked at every step; True on any rank ends the run at a step that all ranks agree on, checkpointed.
        model: what `first_model` made, where that was done before the ranks met.

    Returns:
        `done`, `stopped` when `stop` ended it and a later start is to go on, or `pruned` when `options.prune` did.

    Raises:
        ConfigError: the batch does not divide over the ranks, or a split, the monitored metric or the weights do not
            exist.
        CheckpointError: the checkpoint is of another shard set or recipe, or cannot be written.
        RunError: the loss is not finite.
        DamageError: a sample's bytes are not what was packed.
    """
    state_file = StateFile(folder.state, options.attempt) if link.world.is_main else None
    if state_file is not None:
        state_file.update(state="running", phase="starting", epochs=config.train.epochs)
    task = load(config.task)
    model = first_model(config, shard_set, folder.home.weights) if model is None else model
    learner = Learner(model, config, link)
    checkpoints = Checkpoints(folder.checkpoints, config.train.keep)
    session = Session(folder, config, task, shard_set, link, learner, checkpoints, options, stop, state_file=state_file)
    try:
        session.resume()
        if link.world.is_main:
            done = session.position.total
            session.tracker = Tracker(folder, config, done, options.attempt, options.wandb, options.group)
        outcome: Outcome = "done"
        session.mark("resuming")
        if session.position.epoch < config.train.epochs:
            with SplitFeed(session, "train") as train, SplitFeed(session, "val") as val:
                session.mark("data")
                outcome = _epochs(session, train, val)
        if outcome == "done":
            _predict(session)
            if session.tracker is not None:
                session.tracker.show(functools.partial(_showcase, session))
    finally:
        checkpoints.close()
        if session.tracker is not None:
            session.tracker.close()
    session.tell(state="done" if outcome == "done" else "stopped")
    return outcome


def first_model(config: Config, shard_set: ShardSet, weights: Path) -> nn.Module:
    """The model that a run of `config` begins with, the same on every rank; needs no peer.

    Raises:
        ConfigError: the weights it is to begin with are not in the folder `weights`, or do not fit.
    """
    torch.manual_seed(config.train.seed)
    model = load(config.task).build_model(config, shard_set.schema)
    load_initial(model, config.model, weights)
    return model


def _showcase(session: Session) -> Showcase:
    from fashion_dist.tracking.wandb_media import showcase  # pictures, which only W&B is shown

    return showcase(session.folder, session.config, session.shard_set)


def _epochs(session: Session, train: SplitFeed, val: SplitFeed) -> Outcome:
    """Train epoch by epoch until the last one, early stopping, a stop, or the end of a trial that is not worth it."""
    settings, position = session.config.train, session.position
    metric = settings.monitor or session.task.monitor
    total_steps = train.loader.steps * settings.epochs
    if session.link.world.is_main and train.loader.cache_note:
        print(train.loader.cache_note, flush=True)
    session.tell(
        phase="training", epoch=position.epoch, step=position.total, best=position.best, total_steps=total_steps
    )
    while position.epoch < settings.epochs and not _no_better_for(session, settings.patience):
        if session.is_pruned():
            return "pruned"
        px = session.config.data.px_at(position.epoch, settings.epochs)
        train.begin(position.epoch, px)
        val.begin(position.epoch, px)
        if not train_epoch(session, train):
            session.save()
            return "stopped"
        session.tell(phase="evaluating")
        found = evaluate(session, val)
        if metric not in found:
            raise ConfigError(f"train.monitor = {metric!r} is not measured; known: {', '.join(sorted(found))}")
        position.epoch, position.step = position.epoch + 1, 0
        session.log("val", position.epoch, found)
        # Weights of smaller images do badly on full ones (Touvron et al. 2019): they are never best.
        if px == session.config.data.image_px and _is_better(found[metric], position.best, settings.mode):
            position.best = {"metric": metric, "value": found[metric], "epoch": position.epoch}
            session.save_best(found)
        session.save()
        session.tell(phase="training", epoch=position.epoch, best=position.best)
    return "done"


def _is_better(value: float, best: Mapping[str, float], mode: Literal["max", "min"]) -> bool:
    return not best or (value > best["value"] if mode == "max" else value < best["value"])


def _no_better_for(session: Session, patience: int) -> bool:
    best = session.position.best
    return bool(patience and best) and session.position.epoch - int(best["epoch"]) >= patience


def train_epoch(session: Session, train: SplitFeed) -> bool:
    """The steps of the current epoch from `position.step` on; False when a stop was agreed on before its end."""
    position, settings, learner = session.position, session.config.train, session.learner
    steps = train.loader.steps
    learner.train(position.epoch)
    batches = train.loader.epoch(position.epoch, position.step)
    window: list[dict[str, Tensor]] = []
    started = time.monotonic()
    while position.step < steps:
        window.append(train_step(session, train, [next(batches) for _ in range(settings.accumulate)]))
        position.step += 1
        position.total += 1
        session.first_step_done()
        if len(window) == LOG_STEPS or position.step == steps:
            rate = len(window) * settings.batch_size / (time.monotonic() - started)
            _log_window(session, window, position.epoch + position.step / steps, rate)
            window, started = [], time.monotonic()
        session.tell(epoch=position.epoch, step=position.total)
        session.checkpoints.check()
        stopping = session.link.any_so_far(session.stop())
        saving = position.step < steps and _checkpoint_due(session)
        if window and (stopping or saving):
            _require_finite(session, float(window[-1]["gradient_norm"]))  # on a GPU nobody has asked yet
        if stopping:
            return False
        if saving:
            session.save()
    return True


def _checkpoint_due(session: Session) -> bool:
    settings = session.config.train
    by_steps = bool(settings.checkpoint_steps) and session.position.total % settings.checkpoint_steps == 0
    return by_steps or time.monotonic() - session.saved_at >= 60 * settings.checkpoint_min


def train_step(session: Session, train: SplitFeed, micro_batches: list[Batch]) -> dict[str, Tensor]:
    """One optimiser step on this rank's micro-batches; returns the loss terms' means as scalars on the device."""
    config, learner, link, position = session.config, session.learner, session.link, session.position
    # Dropout draws from (seed, step, rank): a resumed run draws what the undisturbed one did.
    torch.manual_seed((config.train.seed * 1_000_003 + position.total) * 65_536 + link.world.rank)
    leg, steps = learner.leg, train.loader.steps
    lr = learning_rate(position.total - leg.first * steps, steps, leg.epochs, leg.config)
    set_learning_rate(learner.optimizer, lr)
    learner.optimizer.zero_grad(set_to_none=True)
    # A forward pass moves normalisation statistics, and one that is not finite spoils them for good.
    before = [buffer.clone() for buffer in learner.model.buffers()] if config.train.on_nonfinite == "skip" else []
    terms: dict[str, Tensor] = {}
    for i, batch in enumerate(micro_batches):
        last = i == len(micro_batches) - 1
        with link.gradients(learner.parallel, exchange=last):
            with learner.autocast():
                mixed = mix_batch(batch.images, config.train, position.total)
                outputs = learner.parallel(mixed.images)
                found = mixed.loss(
                    functools.partial(_loss, session, outputs), train.targets_of(batch), session.task.unmixable
                )
            torch.autograd.backward(learner.scaler.scale(found["loss"] / len(micro_batches)))
        for name, value in found.items():
            terms[name] = terms.get(name, torch.zeros_like(value)) + value.detach() / len(micro_batches)
    norm = learner.clip_gradients()
    if _worth_a_step(session, norm):
        learner.scaler.step(learner.optimizer)
        if learner.average is not None:
            learner.average.update_parameters(learner.model)
    if before and not bool(norm.isfinite()):
        for buffer, value in zip(learner.model.buffers(), before, strict=True):
            buffer.copy_(value)
    learner.scaler.update()
    return {**terms, "gradient_norm": norm}


def _loss(session: Session, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return session.task.loss(outputs, targets, session.config)


def _worth_a_step(session: Session, norm: Tensor) -> bool:
    """Whether the gradient is finite. It was added over the ranks, so all of them find the same."""
    learner, policy = session.learner, session.config.train.on_nonfinite
    if learner.scaler.is_enabled():
        return True  # the scaler finds overflows itself, skips the step and lowers its scale
    if norm.device.type == "cuda" and policy == "fail":
        return True  # asking would wait for the GPU at every step; _log_window asks every LOG_STEPS
    if bool(norm.isfinite()):
        return True
    if policy == "fail":
        raise _not_finite(session)
    return False


def _require_finite(session: Session, norm: float) -> None:
    """Raise RunError where the gradients of the last steps are not finite and the run is to fail of it."""
    must_be_finite = session.config.train.on_nonfinite == "fail" and not session.learner.scaler.is_enabled()
    if must_be_finite and not math.isfinite(norm):
        raise _not_finite(session)


def _not_finite(session: Session) -> RunError:
    at = session.position
    return RunError(
        f"the gradient is not finite at epoch {at.epoch}, step {at.total}: lower optim.lr, set optim.clip_norm, "
        f"or pass such steps over with --set train.on_nonfinite=skip"
    )


def _log_window(session: Session, window: list[dict[str, Tensor]], epoch: float, samples_per_s: float) -> None:
    link, learner = session.link, session.learner
    means = {name: torch.stack([terms[name].float() for terms in window]).mean() for name in window[0]}
    added = link.sum(means)
    values = {name: float(value) / link.world.world_size for name, value in added.items()}
    _require_finite(session, values["gradient_norm"])
    lr = max(group["lr"] for group in learner.optimizer.param_groups)
    session.log("train", epoch, {**values, "lr": lr, "samples_per_s": samples_per_s})
    session.log_nodes(epoch)
    session.tell(samples_per_s=samples_per_s)


def evaluate(session: Session, feed: SplitFeed) -> dict[str, float]:
    """The task's metrics over the validation split, each sample counted once; and what the model takes from them."""
    task, config = session.task, session.config
    if task.judge is None or task.settle is None:
        return measure(session, feed)[0]
    model, rows = session.learner.evaluated_model(), gather_rows(session, feed)
    return task.judge(feed.split, task.settle(model, feed.split, rows, config), config)


def measure(session: Session, feed: SplitFeed) -> tuple[dict[str, float], dict[str, str]]:
    """The task's metrics and loss terms over a split, each sample counted once whatever the number of ranks; and the
    task's tables of the same samples as {file name: text}.
    """
    task, config = session.task, session.config
    if task.judge is not None:
        return task.judge(feed.split, gather_rows(session, feed), config), {}
    assert task.sums is not None and task.metrics is not None
    totals: dict[str, Tensor] = {}
    for batch, outputs in forward_all(session.learner, feed.loader):
        targets = feed.targets_of(batch)
        sums = dict(task.sums(outputs, targets, config))
        terms = task.loss(outputs, targets, config)
        sums |= {f"sum:{name}": value * len(batch.index) for name, value in terms.items()}
        totals = {name: totals[name] + value if totals else value.double() for name, value in sums.items()}
    totals = session.link.sum_unequal(totals)
    means = {
        name.removeprefix("sum:"): float(totals.pop(name)) / len(feed.examples)
        for name in [*totals]
        if name.startswith("sum:")
    }
    arrays, schema = {name: value.cpu().numpy() for name, value in totals.items()}, session.shard_set.schema
    tables = task.tables(arrays, schema, config) if task.tables is not None else {}
    return {**task.metrics(arrays, schema), **means}, tables


def _predict(session: Session) -> None:
    """Predict the wanted splits with the best weights, and measure those whose labels are known."""
    session.tell(phase="predicting")
    session.checkpoints.wait()
    session.link.barrier()
    session.load_best()
    for name in session.options.predict:
        if name in session.shard_set.splits:
            with SplitFeed(session, name) as feed:
                predict(session, feed, name)
                if feed.labelled:
                    metrics, tables = measure(session, feed)
                    session.log(name, session.position.best["epoch"], metrics)
                    session.write_measures(name, tables)
