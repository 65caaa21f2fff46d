"""A task of one's own is tried on a few images before anything is submitted: the task is the one of the docs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pages
import pytest
import torch  # noqa: F401 - what is tried is tried in this process then
from PIL import Image

from fashion_dist import tasks
from fashion_dist.cluster import network_check, task_trial
from fashion_dist.errors import ConfigError
from fashion_dist.paths import Home
from shards import Record, Schema, ShardSet, pack, readers

PILES = pages.saved_as(pages.ROOT / "docs" / "adding-a-task.md")["fashion_dist/tasks/piles.py"]
Try = Callable[..., None]


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Tries the docs' task after a replacement in its file, on a set with these labels of validation."""

    def trial(before: str, after: str, labels: Sequence[int | None] = (None, 3, 4)) -> None:
        assert before in PILES
        (tmp_path / "piles.py").write_text(PILES.replace(before, after))
        monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, "fashion_dist.tasks.piles", raising=False)
        tasks.load.cache_clear()
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "PNG")
        records = [
            Record(f"{split}/{n}", file.getvalue(), {"label": label}, split)
            for split, known in (("train", range(4)), ("val", labels)) for n, label in enumerate(known)
        ]  # fmt: skip
        source = readers.Source(Schema({"label": "int"}, {"label": tuple("abcde")}), tmp_path, lambda: iter(records))
        monkeypatch.setattr(readers, "load", lambda _: readers.Reader("of a test", lambda *_: source))
        pack("own", tmp_path, tmp_path / "shards" / "own")
        task, shard_set = tasks.load("piles"), ShardSet.open(tmp_path / "shards" / "own")
        task_trial.require_task(task, task.recipe, shard_set, Home(tmp_path))

    return trial


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('reduction="sum"', 'reduction="none"', r"losses\(\) .* gives torch.float32 \[2\] for 'loss'; allowed: fin"),
        ('{"loss": F.', '{"bce": F.', r"losses\(\) of task 'piles' gives .* for 'bce'; allowed: .*the same names of"),
        ("return {\"loss\": F.", "return {}, {1: F.", r"losses\(\) of task 'piles' gives tuple; allowed: "),
        ('"sum")}', '"sum") * float("nan")}', r"losses\(\) .* gives torch.float32 nan for 'loss'"),
        ("Head(1)}", 'Head(1), "more": Head(2)}', r"losses\(\) .*: of its parameters heads.more.weight"),
        ('{"odd": Head(1)}', '{"ood": Head(1)}', r"losses\(\) of task 'piles' fails \(line \d+: KeyError: 'odd'\)"),
        ("return build_network(", "build_network(", r"build_model\(\) of task 'piles' gives NoneType; allowed: a"),
        (">= 0).sum()}", ">= 0)}", r"counts\(\) of task 'piles' gives torch.bool \[2\] for 'loss'"),
        ("(odd > 0).cpu().numpy()", "odd > 0", r"predictions\(\) of task 'piles' gives torch.bool \[2\] for 'odd'"),
        ("(odd > 0).cpu()", "(odd > 0)[:1].cpu()", r"predictions\(\) of task 'piles' gives bool \[1\] for 'odd'"),
        (".sigmoid().cpu().numpy()", ".numpy() * 1j", r"gives complex64 \[2\] for 'probability'; allowed: NumPy"),
        ('"probability": odd', '"key": odd', r"predictions\(\) .* for 'key'; allowed: .* none called index or key"),
        ("return PileEvaluator(", "PileEvaluator(", r"evaluator\(\) of task 'piles' fails \(AttributeError: "),
        ("float(sums[", "np.float32(sums[", r"evaluator\(\) .* gives float32 .* for 'accuracy'; allowed: metrics"),
        ('{"accuracy": ', '{"right": ', r"evaluator\(\) .* gives no 'accuracy'; allowed: metrics by name"),
    ],
)  # fmt: skip
def test_what_a_method_gives_wrongly_is_told_in_a_sentence(tried: Try, before: str, after: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        tried(before, after)
    assert "\n" not in str(refused.value)


def test_a_sound_task_is_tried_once_also_in_a_child(
    tried: Try, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(task_trial, "try_task", lambda config, _: asked.append(config.task))
    tried("odd", "odd")
    assert asked == ["piles"] and "piles" in (tmp_path / "networks.json").read_text()
    task, shard_set = tasks.load("piles"), ShardSet.open(tmp_path / "shards" / "own")
    task_trial.require_task(task, task.recipe, shard_set, Home(tmp_path))
    assert asked == ["piles"]
    config = tasks.load("fashion_mnist").recipe
    values = {"config": config.plain(), "shard_set": str(shard_set.path)}
    with pytest.raises(ConfigError, match="task 'fashion_mnist' needs 10 classes for the fact 'label'"):
        network_check.ask_child(task_trial.__name__, values, "the task")


def test_an_evaluator_may_need_more_than_a_split_begins_with(tried: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    one_class = '{"accuracy": int("only one class") + '
    with pytest.raises(ConfigError, match=r"evaluator\(\) of task 'piles' fails \(line \d+: ValueError"):
        tried('{"accuracy": ', one_class)
    monkeypatch.setattr(task_trial, "EXAMPLES", 2)
    tried('{"accuracy": ', one_class)


def test_a_split_without_any_label_is_refused(tried: Try) -> None:
    with pytest.raises(ConfigError, match="no image of split 'val' has a known 'label'; allowed: some do"):
        tried("odd", "odd", [None, None])


def test_our_own_tasks_are_known_and_are_not_tried() -> None:
    tasks.load.cache_clear()
    assert list(tasks.OURS) == tasks.names()
