"""`make gpu-proof`, rehearsed on the CPU by the same script, with nothing but torch, NumPy and DALI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_proof import __main__ as proof
from gpu_proof import jpeg
from gpu_proof.runs import RUNS, SMALL

from fashion_dist import tasks
from fashion_dist.data.dali import Decoder

ROOT = Path(__file__).parents[2]
ABSENT = ("submitit", "wandb", "tyro", "optuna", "captum", "webdataset", "pyarrow", "rich", "psutil", "PIL", "pynvml")
HIDE = (
    "import sys\n"
    "class Hidden:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    f"        if name.split('.')[0] in {ABSENT}:\n"
    "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, Hidden())\n"
)


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "gpu_proof"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_the_whole_proof_is_rehearsed_on_a_bare_machine(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    out = tmp_path / "proof.json"
    done = run("--device", "cpu", "--out", str(out), PYTHONPATH=str(tmp_path))
    values = json.loads(out.read_text())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    ran = values["parts"]
    assert list(ran) == list(proof_parts()) and {n for n in ran if "left_out" in ran[n]} == {
        "fashion_mnist",
        "memory",
        "kernels",
        "compiled",
    }
    assert not any("failed" in part for part in ran.values())
    named = [(name, row["name"], row["value"]) for name in ran for row in ran[name]["rows"]]
    found = {(part, name): value for part, name, value in named}
    assert len(found) == len(named), "a row is found by its name"
    assert found["self_test", "ways"] == "gpu-whole cpu"
    assert found["checks", "a run"] == "holds"
    assert found["equal_bytes", "cpu: examples that differ, 2 ranks"] == 0
    assert found["decoding", "cpu"] > 0 and found["training", "ours, from JPEG, cpu"] > 0
    assert found["checkpoint", "size"] > 0
    assert found["runs", "commands"].startswith("left out: submitit, tyro, pyarrow")
    assert "ours, cached" in done.stdout and "left out: FASHION_MNIST=DIR" in done.stdout


def test_runs_by_the_command_line_are_rehearsed(tmp_path: Path) -> None:
    out = tmp_path / "proof.json"
    done = run("--device", "cpu", "--only", "runs", "--out", str(out))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = {row["name"]: row["value"] for row in json.loads(out.read_text())["parts"]["runs"]["rows"]}
    assert rows == {"deterministic": "holds", "deterministic, killed": "holds", "killed and taken up": "the same bits"}


@pytest.mark.parametrize("name", RUNS)
def test_what_a_card_is_to_run_is_possible(name: str) -> None:
    task = tasks.load("classification")
    settings = [*SMALL, *RUNS[name].settings]
    assert task.recipe.override(settings).check().train.epochs == 2


def proof_parts() -> tuple[str, ...]:
    from gpu_proof import parts

    return tuple(parts.PARTS)


@pytest.mark.parametrize(
    ("args", "told"), [(("--only", "speed"), "no part speed; known: self_test"), ((), "DEVICE=cpu rehearses it")]
)
def test_what_cannot_be_is_one_sentence(args: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = run(*args, "--out", str(tmp_path / "out.json"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_a_part_that_hangs_or_fails_is_told_and_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu-proof", "--device", "cpu"])
    args = proof.arguments()
    args.scratch = str(tmp_path)
    (tmp_path / "decoding.jsonl").write_text(
        json.dumps({"name": "cpu", "value": 1, "unit": "", "least": 2, "fault": ""})
    )
    hung = proof.child(args, "decoding", 0.05)
    assert hung["failed"] == "took longer than 0 s" and len(hung["rows"]) == 1
    assert "NOT reached" in proof.table("decoding", hung) and "FAILED" in proof.table("decoding", hung)
    failed = proof.child(args, "decoding", 100)  # nothing has been drawn
    assert "photos" in failed["failed"] and proof.is_wrong(failed)
    assert proof.is_wrong({"rows": [{"fault": "pixels differ"}]}) and not proof.is_wrong({"rows": [], "left_out": "x"})


def test_drawn_pictures_are_the_jpegs_that_they_say() -> None:
    pictures = [jpeg.drawn(97, 61, 1), jpeg.drawn(64, 48, 2), jpeg.drawn(1, 1, 3)]
    files = [np.frombuffer(jpeg.encode(p, 95, halved=i == 0), np.uint8) for i, p in enumerate(pictures)]
    decoder = Decoder(3, 1)
    decoder.start(files, np.array([[0, 0, p.shape[1], p.shape[0]] for p in pictures], np.int32))
    pixels, wrong = decoder.finish()
    assert not wrong
    assert all(abs(pixels(i).astype(int) - p).mean() < 4 for i, p in enumerate(pictures))
