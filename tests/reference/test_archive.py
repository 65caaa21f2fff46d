"""An archive, opened without the project, gives every line of the run's submission files."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from report_runs import make_run

from fashion_dist.data.shard_reader import ShardFiles
from fashion_dist.report.archive import write_archive
from fashion_dist.report.run_data import read_facts
from fashion_dist.results.collect import collect, tuned
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import load
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.options import TrainerOptions
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

ALONE = """
import sys
from pathlib import Path
for name in ("fashion_dist", "shards", "safetensors", "torchvision", "timm"):
    sys.modules[name] = None
import load, torch
torch.set_num_threads(1)
model = load.Model()
names = Path(sys.argv[1]).read_text().split()
found = model.predict(torch.stack([model.preprocess(Path(sys.argv[1]).parent / name) for name in names]))
category, attributes = found["category"].argmax(1).tolist(), found["attributes"].double()
least = torch.tensor(model.settings["outputs"]["attributes"]["thresholds"], dtype=torch.float64)
chosen = (attributes >= least) | (attributes == attributes.amax(1, keepdim=True))
print("file_path, category_label")
for name, label in zip(names, category):
    print(f"{name},{label}")
print("file_path,attribute_label")
for name, row in zip(names, chosen):
    print(f"{name},{' '.join(map(str, row.nonzero()[:, 0].tolist()))}")
"""


@pytest.mark.parametrize(("order", "precision"), [("resize_crop", "bf16"), ("crop_resize", "fp32")])
def test_an_archive_gives_every_line_of_the_submission(
    order: str, precision: str, packed_home: Path, tmp_path: Path
) -> None:
    """Whatever the run trained in: predictions are in fp32."""
    task, shard_set = load("deepfashion"), ShardSet.open(packed_home / "shards" / "deep_fashion")
    settings = ("data.image_px=40", f"train.precision={precision}", f"data.eval_order={order}", "data.cache_px=100")
    config = dataclasses.replace(task.recipe.override(settings), dataset="deep_fashion")
    run = make_run(tmp_path / "runs" / "deepfashion-1", config, shard_set, {})
    torch.manual_seed(0)
    model = task.build_model(config, shard_set.schema)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save("best", 1, {"model": model.eval().state_dict()}, {"epoch": 1})
    checkpoints.close()
    options, dist = TrainerOptions(wandb="off", predict=("val", "test")), ProcessGroup(World(), torch.device("cpu"))
    with Trainer(config, task, shard_set, dist, run, options) as trainer:
        trainer.logger.open(config, 0)
        trainer.state.best = {"epoch": 1}
        trainer._predict_splits()
    by_the_run = pq.read_table(run.predictions("test"))
    with Trainer.for_inference(OpenRun(run, config, shard_set)) as trainer, trainer.split_loader("test") as loader:
        trainer.predict(loader)
    assert pq.read_table(run.predictions("test")).equals(by_the_run)
    files = collect(run, tuned(run, config, shard_set), shard_set)
    submitted = "".join(path.read_text() for path in sorted(files, key=lambda path: path.name != "category.csv"))

    run.report.mkdir()
    page = run.report / "index.html"
    page.write_text("<p>")
    (facts,) = read_facts([run])
    with zipfile.ZipFile(write_archive([facts], page)) as archive:
        archive.extractall(tmp_path / "opened")
    split = shard_set.split("test")
    names = [line.split(",")[0] for line in files[0].read_text().splitlines()[1:]]
    paths = split.columns("file_path")["file_path"].tolist()
    reader = ShardFiles(split)
    for row, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(reader.read(row).tobytes())
    reader.close()
    (tmp_path / "names.txt").write_text("\n".join(names))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "names.txt")], cwd=tmp_path / "opened" / "model",
        env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(names) == len(split) and done.stdout == submitted
