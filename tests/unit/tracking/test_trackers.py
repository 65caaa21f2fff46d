"""Trackers by name: TensorBoard's own reader reads what metrics.jsonl has; one that fails ends nothing but itself."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fashion_dist.errors import ConfigError
from fashion_dist.paths import RunDir
from fashion_dist.tasks.fashion_mnist import RECIPE
from fashion_dist.tracking import metrics_log, trackers
from fashion_dist.tracking.metrics_log import PLAIN, MetricsLogger, read_metrics
from fashion_dist.tracking.trackers import TrackerOptions
from fashion_dist.tracking.wandb_media import Artifact, Example, Media

OFF = TrackerOptions("off")


def log_some(run: RunDir, resumed: int, last: int, attempt: int, names: str) -> None:
    metrics = MetricsLogger(run, resumed, attempt)
    metrics.add(trackers.start(names, run, RECIPE, OFF))
    for step in range(resumed + 1, last + 1):
        metrics.log("train", step, step / 4, {"loss": math.nan if step == 2 else 1 / step, "lr": 0.1})
        if step % 4 == 0:
            metrics.log("val", step, step / 4, {"accuracy": step / 10})
    picture = Image.new("RGB", (8, 6), (200, 30, 30))
    example = Example("a|b", picture, {"answer": "shirt"})
    shown = Artifact("weights", "model", [run.path / "x"])
    confusions = {"val": (["a", "b"], [[3, 1], [0, 4]])}
    metrics.show(lambda: Media({"best/accuracy": 0.8}, confusions, "val", [example], [shown], "f"))
    metrics.close()


def test_tensorboard_reads_what_metrics_has(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator as reader

    run = RunDir(tmp_path / "runs" / "r-1")
    run.path.mkdir(parents=True)
    log_some(run, 0, 6, 1, "tensorboard")
    log_some(run, 4, 8, 2, "tensorboard")  # steps 5 and 6 were lost, and are done again
    found = reader.EventAccumulator(str(run.tensorboard), {"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    points = read_metrics(run.metrics)
    values = [(f"{p['split']}/{name}", p["step"], p[name]) for p in points for name in p if name not in PLAIN]
    counts = Counter(tag for tag, _, _ in values)
    assert {tag: len(found.Scalars(tag)) for tag in found.Tags()["scalars"]} == counts
    for tag in counts:
        mine = [(step, value) for name, step, value in values if name == tag]
        theirs = [(event.step, event.value) for event in found.Scalars(tag)]
        assert [step for step, _ in theirs] == [step for step, _ in mine] == sorted(step for step, _ in mine)
        assert theirs[-1][1] == pytest.approx(mine[-1][1])
        pairs = zip(mine, theirs, strict=True)
        assert all(math.isnan(b) if a is None else b == pytest.approx(a) for (_, a), (_, b) in pairs)
    assert len(found.Images("val/examples/0")) == 1
    texts = {tag.removesuffix("/text_summary"): found.Tensors(tag)[0] for tag in found.Tags()["tensors"]}
    assert {"settings", "summary", "val/confusion", "val/examples", "artifacts"} <= texts.keys()
    assert rb"a\|b" in texts["val/examples"].tensor_proto.string_val[0]


def test_an_own_tracker_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "dropped"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, path): self.path = path\n"
        "    def log(self, line):\n"
        "        with self.path.open('a') as file: print(line['split'], line['step'], file=file)\n"
        "        if line['step'] == 3: raise OSError('the disk is full')\n"
        "    def show(self, media): pass\n"
        "    def finish(self): pass\n\n"
        "def start(run, config, options):\n"
        "    return Mine(run.path / 'mine.txt')\n"
    )
    (folder / "broken.py").write_text("def start(run, config, options):\n    raise ValueError('no server')\n")
    monkeypatch.setattr(trackers, "__path__", [*trackers.__path__, str(folder)])
    run = RunDir(tmp_path / "runs" / "r-1")
    run.path.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        log_some(run, 0, 4, 1, "broken,mine")
    told = caplog.text
    assert (run.path / "mine.txt").read_text() == "train 1\ntrain 2\ntrain 3\n"
    assert "broken did not start (no server)" in told and "mine failed (the disk is full); training goes on" in told
    assert len(read_metrics(run.metrics)) == 5
    assert trackers.parse("mine, wandb,mine") == ["mine", "wandb"] and trackers.parse("none") == []
    with pytest.raises(ConfigError, match=r"unknown tracker \(--track\) 'tensorbord'"):
        trackers.parse("tensorbord")


class Slow:
    """A tracker that takes nothing until it may."""

    def __init__(self) -> None:
        self.may, self.told = threading.Event(), [""][:0]

    def log(self, line: Mapping[str, Any]) -> None:
        assert self.may.wait(30)
        self.told.append(f"{line['step']} in {line['attempt']}")

    def show(self, media: Media) -> None:
        self.told.append(media.split)

    def finish(self) -> None:
        self.told.append("finish")


def test_a_resumed_run_does_not_wait_until_its_trackers_know_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDir(tmp_path / "runs" / "r-1")
    run.path.mkdir(parents=True)
    first = MetricsLogger(run, 0, 1)
    for step in (1, 2, 3):
        first.log("train", step, step / 4, {"loss": 1.0})
    first.close()

    slow = Slow()
    second = MetricsLogger(run, 2, 2)
    second.add({"slow": slow})
    second.log("train", 3, 0.75, {"loss": 1.0})
    second.show(lambda: Media({}, {}, "val", [], [], "f"))
    assert not slow.told and len(read_metrics(run.metrics)) == 3
    slow.may.set()
    second.close()
    assert slow.told == ["1 in 1", "2 in 1", "3 in 2", "val", "finish"]

    monkeypatch.setattr(metrics_log, "CLOSE_S", 0.01)
    monkeypatch.setattr(metrics_log, "DONE_S", 0.02)
    for name, is_done in (("stuck", False), ("wandb", True)):
        stuck = Slow()
        stopped = MetricsLogger(run, 3, 3)
        stopped.add({name: stuck})
        if is_done:
            stopped.show(lambda: Media({}, {}, "val", [], [], "f"))
        stopped.close()
        assert not stuck.told and f"{name} was not told all lines when the run stopped" in caplog.text
        stuck.may.set()
    assert "stopped; the next start tells it all" in caplog.text
    assert "stopped; the command sync can replay metrics.jsonl later" in caplog.text
