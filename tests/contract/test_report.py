"""A page and an archive of every task, from shards and best weights alone; the archive's model answers alike."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from cluster_home import job
from report_runs import make_run

from fashion_dist import tasks
from fashion_dist.paths import Home, RunDir
from fashion_dist.report import make
from fashion_dist.report.archive import write_archive
from fashion_dist.report.run_data import Facts, read_facts
from fashion_dist.runs import open_run
from fashion_dist.train.checkpoint import Checkpoints
from shards import ShardSet

ALONE = """
import sys
sys.modules["fashion_dist"] = sys.modules["shards"] = sys.modules["safetensors"] = None
import numpy, torch
from load import load
outputs = load()(torch.from_numpy(numpy.load(sys.argv[1])))
numpy.savez(sys.argv[2], **{name: value.detach().numpy() for name, value in outputs.items()})
"""


def untrained(task: str, shard_set: ShardSet, folder: Path, *settings: str) -> tuple[RunDir, Facts, torch.nn.Module]:
    """A run whose best weights are its first ones."""
    recipe = tasks.load(task).recipe
    config = recipe.override(["data.image_px=32", "train.epochs=1", "train.eval_batch_size=16"])
    config = dataclasses.replace(config.override(settings), dataset=shard_set.path.name)
    run = make_run(folder / "runs" / f"{task}-1", config, shard_set, {}, scores=(0.5,))
    torch.manual_seed(0)
    model = tasks.load(task).build_model(config, shard_set.schema).eval()
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save("best", 10, {"model": model.state_dict()}, {"epoch": 1})
    checkpoints.close()
    (facts,) = read_facts([run])
    return run, facts, model


def loads_alike(archive: Path, model: torch.nn.Module, folder: Path) -> None:
    """Another process, without this package, gets the same outputs from the archive."""
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        opened.extractall(folder)
    assert len((folder / "model" / "load.py").read_text().splitlines()) <= 12
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.save(folder / "images.npy", images)
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-c", ALONE, str(folder / "images.npy"), str(folder / "outputs.npz")]
    done = subprocess.run(command, cwd=folder / "model", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as outputs, torch.inference_mode():
        expected = model(torch.from_numpy(images))
        for name in outputs.files:
            assert np.allclose(outputs[name], expected[name].numpy(), atol=1e-5), name
        assert outputs.files


@pytest.mark.parametrize("task", tasks.names())
def test_every_task_has_a_page_and_an_archive(task: str, mini_set: Callable[[str], ShardSet], tmp_path: Path) -> None:
    shard_set = mini_set(tasks.load(task).recipe.dataset)
    run, facts, model = untrained(task, shard_set, tmp_path)
    made = make.report_run(facts)
    text = made.page.read_text()
    assert "cannot be shown" not in text
    assert "could not be predicted" not in text
    assert len(list(run.predictions("val").glob("*.parquet"))) == 1
    for anchor in ("figures", "curves", "map"):
        assert f'id="{anchor}"' in text
    assert any(f'id="{anchor}"' in text for anchor in ("confusion", "pairs"))
    assert not task.startswith("deepfashion") or 'id="attributes"' in text
    before = (run.report / "cache" / "inside.npz").stat().st_mtime_ns
    make.report_run(facts)
    assert (run.report / "cache" / "inside.npz").stat().st_mtime_ns == before
    archive = write_archive(facts, made.page)
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
    assert {"README.txt", "run/config.json", "report/index.html", "code/fashion_dist/train/trainer.py"} <= names
    loads_alike(archive, model, tmp_path / "elsewhere")


@pytest.mark.parametrize("network", ["resnet18", "mobilenetv3_small_050"])
def test_networks_of_libraries_load_from_an_archive(
    network: str, mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    _, facts, model = untrained("clipart", mini_set("clipart"), tmp_path, f"model.name={network}")
    made = make.report_run(facts, quick=True)
    loads_alike(write_archive(facts, made.page), model, tmp_path / "elsewhere")


def test_a_finetuned_network_stands_beside_the_same_one_from_scratch(
    mini_home: Path, mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    shard_set, network = mini_set("clipart"), "mobilenetv3_small_050"
    weights = tmp_path / "weights.pt"
    torch.manual_seed(1)
    torch.save(timm.create_model(network, num_classes=0).state_dict(), weights)
    launch = ("--task", "clipart", "--model", network, "--debug", "--cluster", "local", "--home", str(mini_home))
    small = ("train.batch_size=8", "train.eval_batch_size=8", "data.image_px=32")
    tuned, scratch = (
        str(job("launch", *launch, "--wait", "--weights", given, "--set", *small)["run_id"])
        for given in (str(weights), "none")
    )
    page = job("report", tuned, scratch, "--home", str(mini_home), "--out", str(tmp_path / "page"))["paths"]["page"]
    text = Path(page).read_text()
    assert f"Finetuned, {network} reaches" in text and f"{network}: finetuned against from scratch" in text
    rows = re.findall(rf"<td[^>]*>{network}</td>(.*?)</tr>", text, re.DOTALL)
    cells = [tuple(re.findall(r"<td[^>]*>([^<]*)</td>", row)) for row in rows if "from scratch" in row or "file" in row]
    assert sorted(cell[0] for cell in cells) == ["from a file", "from scratch"]
    model = tasks.load("clipart").build_model(open_run(Home(mini_home), scratch).config, shard_set.schema)
    parameters = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"
    assert [cell[2] for cell in cells] == [parameters] * 2
    assert cells[0][3] == cells[1][3] and re.fullmatch(r"[1-9]\d* M", cells[0][3])  # FLOPs of one image
    assert all(re.fullmatch(r"[\d,]+", cell[4]) for cell in cells)  # samples/s
