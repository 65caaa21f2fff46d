"""A checkpoint is committed or absent, and can run no code."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import threading
from pathlib import Path

import pytest
import torch

from fashion_dist.errors import CheckpointError
from fashion_dist.train.checkpoint import Checkpoints


def state(value: float, size: int = 1000) -> dict[str, object]:
    return {"model": {"w": torch.full((size,), value)}, "position": {"epoch": 1, "best": {}}}


def saved(folder: Path, *steps: int, keep: int = 10) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save("step", step, state(step), {"step": step})
    checkpoints.wait()
    return checkpoints


def test_the_newest_is_loaded(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "c", 5, 12)
    found = checkpoints.load()
    assert found is not None
    assert found[0].step == 12
    assert torch.equal(found[1]["model"]["w"], torch.full((1000,), 12.0))
    checkpoints.close()


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").load() is None


def test_history_is_bounded_and_best_is_one(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3, 4, keep=1)
    checkpoints.save("best", 2, state(2), {})
    checkpoints.save("best", 4, state(4), {})
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-00000004", "step-00000003", "step-00000004"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no manifest", "bad manifest"])
def test_a_damaged_one_is_passed_over_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = saved(tmp_path, 5, 12)
    newest = tmp_path / "step-00000012"
    data = bytearray((newest / "state.pt").read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        (newest / "state.pt").write_bytes(data)
    elif damage == "cut":
        (newest / "state.pt").write_bytes(data[:-7])
    elif damage == "empty":
        (newest / "state.pt").write_bytes(b"")
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        found = checkpoints.load()
    assert found is not None
    assert found[0].step == 5
    assert "step-00000012" in caplog.text
    checkpoints.close()


def test_a_full_disk_is_told_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for before, left in ((0, "there is none before it"), (1, "the one before is intact")):
        checkpoints = Checkpoints(tmp_path / "c")
        for step in range(1, before + 1):
            checkpoints.save("step", step, state(step), {})
        checkpoints.close()
        checkpoints = Checkpoints(tmp_path / "c")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            checkpoints.save("step", 9, state(9), {})
            with pytest.raises(CheckpointError, match=rf"no space for checkpoint .*9: [0-9,]+ bytes needed; {left}$"):
                checkpoints.close()


def test_a_write_that_failed_is_told_before_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("a file where the folder shall be")
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.check()
    checkpoints.save("step", 1, state(1), {})
    with pytest.raises(CheckpointError, match="could not be written"):
        while True:
            checkpoints.check()
    checkpoints.close()


def test_when_all_are_damaged_it_says_so_instead_of_starting_over(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 5)
    (tmp_path / "step-00000005" / "state.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load()
    checkpoints.close()


def test_the_state_is_that_of_the_call_and_one_copy_waits(tmp_path: Path) -> None:
    checkpoints, may = Checkpoints(tmp_path / "c"), threading.Event()
    checkpoints._writer.submit(may.wait, 30)  # a disk that is slow
    weight = torch.zeros(1000)
    checkpoints.save("best", 1, {"w": weight[:300]}, {})
    checkpoints.save("step", 1, {"w": weight, "same": weight, "list": [weight[:9]]}, {})
    weight += 1
    assert [write.size for write in checkpoints._pending] == [1200, 8036], "a small one lets the next one be copied"
    behind = threading.Thread(target=checkpoints.save, args=("step", 2, {"w": weight}, {}))
    behind.start()
    behind.join(0.05)
    assert behind.is_alive(), "two whole states in memory are enough"
    may.set()
    behind.join()
    checkpoints.wait()
    first = torch.load(tmp_path / "c" / "step-00000001" / "state.pt", weights_only=True)
    assert not first["w"].any() and not first["list"][0].any()
    assert first["same"].untyped_storage().data_ptr() == first["w"].untyped_storage().data_ptr()
    found = checkpoints.load()
    assert found is not None and bool((found[1]["w"] == 1).all())
    checkpoints.close()


def test_copies_are_made_in_memory_of_earlier_ones_while_these_become_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, may = Checkpoints(tmp_path / "c"), threading.Event()
    monkeypatch.setattr("os.fsync", lambda _: may.wait(30))  # a disk that takes long to be sure
    made = []
    copy = checkpoints._buffers.copy
    monkeypatch.setattr(checkpoints._buffers, "copy", lambda state: made.append(copy(state)) or made[-1])
    for step in (1, 2):
        checkpoints.save("step", step, {"w": torch.full((1000,), float(step)), "n": torch.tensor(step)}, {})
    assert not checkpoints._pending[0].done.done() and len(checkpoints._pending) == 2
    may.set()
    checkpoints.wait()
    first, second = ({tensor.data_ptr() for _, tensor in each.buffers} for each in made)
    assert first == second, "memory of its own takes four times as long"
    for step in (1, 2):
        saved = torch.load(tmp_path / "c" / f"step-{step:08d}" / "state.pt", weights_only=True)
        assert bool((saved["w"] == step).all()) and saved["n"] == step
    checkpoints.save("step", 3, {"other": torch.zeros(1500)}, {})
    checkpoints.wait()
    kept = [shape for _, _, shape, _ in checkpoints._buffers._free]
    assert kept == [torch.Size([1500])], "memory of a state that is gone is not kept"
    checkpoints.close()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_in_it_is_refused_and_does_not_run_it(tmp_path: Path) -> None:
    import hashlib
    import json

    folder = tmp_path / "c" / "step-00000001"
    folder.mkdir(parents=True)
    data = pickle.dumps({"model": Canary(tmp_path / "ran")})
    (folder / "state.pt").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"step": 1, "sha256": digest}))
    with pytest.raises(CheckpointError):
        Checkpoints(tmp_path / "c").load()
    assert not (tmp_path / "ran").exists()
