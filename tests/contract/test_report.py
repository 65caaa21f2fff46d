"""A page and an archive of every task, from shards and best weights alone; the archive's model answers alike."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from cluster_home import job
from minis import dataset_of
from packaging.requirements import Requirement
from PIL import Image
from report_runs import make_run

from fashion_dist import tasks
from fashion_dist.commands import predict
from fashion_dist.data.shard_reader import ShardFiles
from fashion_dist.errors import CheckpointError
from fashion_dist.io import write_json
from fashion_dist.models.heads import Network
from fashion_dist.models.siamese import pair_scores
from fashion_dist.paths import Home, RunDir
from fashion_dist.report import archive, make
from fashion_dist.report.archive import write_archive
from fashion_dist.report.run_data import RunData, read_facts
from fashion_dist.runs import OpenRun, open_run
from fashion_dist.tasks import ExampleSet
from fashion_dist.train.checkpoint import Checkpoints
from fashion_dist.train.trainer import Trainer
from shards import ShardSet

ALONE = """
import sys
for name in ("fashion_dist", "shards", "safetensors", "torchvision", "timm"):
    sys.modules[name] = None
import load, numpy, torch
model = load.Model()
tensors, pictures, out = sys.argv[1], sys.argv[2:-1], sys.argv[-1]
found = model.predict(torch.from_numpy(numpy.load(tensors)))
seen = {f"picture {n}": model.preprocess(path).numpy() for n, path in enumerate(pictures)}
numpy.savez(out, **{name: value.numpy() for name, value in found.items()}, **seen)
sys.exit(load.main(pictures[:2]))
"""
COLUMNS = {
    "label": "probability",
    "labels": "probability",
    "category": "category_probability",
    "attributes": "attribute_probability",
}
"""Outputs and the task's columns of them."""


def untrained(task: str, shard_set: ShardSet, folder: Path, *settings: str) -> tuple[RunDir, RunData]:
    """A run whose best weights are its first ones."""
    recipe = tasks.load(task).resolve(shard_set, tasks.load(task).recipe)
    config = recipe.override(["data.image_px=32", "train.epochs=1", "train.eval_batch_size=16", "train.precision=fp32"])
    config = dataclasses.replace(config.override(settings), dataset=shard_set.path.name)
    run = make_run(folder / "runs" / f"{task}-1", config, shard_set, {}, scores=(0.5,))
    torch.manual_seed(0)
    model = tasks.load(task).build_model(config, shard_set.schema).eval()
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save("best", 10, {"model": model.state_dict()}, {"epoch": 1})
    checkpoints.close()
    (facts,) = read_facts([run])
    return run, facts


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the folder `model/` of an opened archive, without this project on its path."""
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder / "model", env=environment, capture_output=True, text=True, check=False
    )


def answers_alike(zipped: Path, facts: RunData, folder: Path) -> None:
    """What is in the archive sees pictures as our loader does, and gives the probabilities that we give, without us."""
    with zipfile.ZipFile(zipped) as opened:
        assert opened.testzip() is None
        opened.extractall(folder)
    assert (folder / "model" / "load.py").read_bytes() == (Path(make.__file__).parent / "load.py").read_bytes()
    assert facts.shard_set is not None
    split = facts.shard_set.split("val")
    rows = np.arange(min(6, len(split)))
    with (
        Trainer.for_inference(OpenRun(facts.run, facts.config, facts.shard_set)) as trainer,
        trainer.split_loader("val", ExampleSet.of_images(rows)) as loader,
    ):
        found = [(batch.images.clone(), outputs) for batch, outputs in trainer.iter_outputs(loader)]
    images = torch.cat([image for image, _ in found]).contiguous()
    outputs = {name: torch.cat([given[name] for _, given in found]) for name in found[0][1]}
    expected = facts.task.predictions(outputs, facts.config)
    np.save(folder / "images.npy", images.numpy())
    pictures = []
    with contextlib.closing(ShardFiles(split)) as files:
        for row in rows.tolist():
            pictures.append(folder / f"{row}.picture")
            pictures[-1].write_bytes(files.read(row).tobytes())
    done = alone(folder, "-c", ALONE, str(folder / "images.npy"), *map(str, pictures), str(folder / "outputs.npz"))
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as answered:
        names = [name for name in answered.files if not name.startswith("picture")]
        assert names and {COLUMNS.get(name, name) for name in names} >= {"probability"} & set(expected)
        for name in names:
            assert np.abs(answered[name] - expected[COLUMNS.get(name, name)]).max() < 1e-4, name
        std = torch.tensor(facts.config.data.std).view(3, 1, 1).numpy()
        for n in range(len(rows)):
            away = np.abs(answered[f"picture {n}"] - images[n].numpy()) * std * 255
            # Decoders of JPEG differ by a few levels of 255 where colours change, others by none; resizing rounds.
            assert away.mean() < 1.5 and np.quantile(away, 0.99) < 12, (n, away.mean(), away.max())
    assert done.stdout.startswith(f"{pictures[0]}\n  ")
    if "embedding" in names:
        score = pair_scores(outputs["embedding"][0], outputs["embedding"][1]).sigmoid()
        assert float(done.stdout.split()[-1]) == pytest.approx(float(score), abs=0.05)
    else:
        first = json.loads((folder / "model" / "classes.json").read_text())[names[0]]
        told = re.search(rf"  {names[0]}  (\d\.\d+)  (.+)\n", done.stdout)
        assert told is not None and told[2] in first
        assert float(told[1]) == pytest.approx(float(expected[COLUMNS[names[0]]][0].max()), abs=0.05)


@pytest.mark.parametrize("task", tasks.names())
def test_every_task_has_a_page_and_an_archive(task: str, mini_set: Callable[[str], ShardSet], tmp_path: Path) -> None:
    shard_set = mini_set(dataset_of(task))
    settings = ["task.threshold=0.1"] if task == "multilabel" else []  # or an untrained network may name nothing
    run, facts = untrained(task, shard_set, tmp_path, *settings)
    made = make.report_run(facts)
    text = made.page.read_text()
    assert "cannot be shown" not in text
    assert "could not be predicted" not in text
    assert len(list(run.predictions("val").glob("*.parquet"))) == 1
    for anchor in ("figures", "curves", "map", "augmented"):
        assert f'id="{anchor}"' in text
    assert any(f'id="{anchor}"' in text for anchor in ("confusion", "pairs", "attributes"))
    assert task not in ("deepfashion", "multilabel") or 'id="attributes"' in text
    before = (run.report / "cache" / "inside.npz").stat().st_mtime_ns
    make.report_run(facts)
    assert (run.report / "cache" / "inside.npz").stat().st_mtime_ns == before
    zipped = write_archive([facts], made.page)
    with zipfile.ZipFile(zipped) as opened:
        names = set(opened.namelist())
    assert {"README.txt", "run/config.json", "report/index.html", "code/fashion_dist/train/trainer.py"} <= names
    answers_alike(zipped, facts, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "settings",
    [
        ("model.name=resnet18",),
        ("model.name=fashionnet", "model.sketch=true", "model.norm=group", "data.fit=crop", "data.eval_resize=1.3"),
        ("model.name=mlp", "data.cache_px=40", "data.eval_flip=false"),
    ],
)
def test_networks_and_ways_of_seeing_answer_from_an_archive(
    settings: tuple[str, ...], mini_set: Callable[[str], ShardSet], tmp_path: Path
) -> None:
    run, facts = untrained("clipart", mini_set("clipart"), tmp_path, *settings)
    write_json(run.schema, {**mini_set("clipart").schema.to_json(), "packed": {"background": "blue"}})
    made = make.report_run(facts, quick=True)
    answers_alike(write_archive([facts], made.page), facts, tmp_path / "elsewhere")
    if settings[0] == "model.name=mlp":
        Image.new("RGBA", (60, 50), (9, 80, 70, 0)).save(tmp_path / "clear.png")
        Image.new("RGB", (60, 50), "blue").save(tmp_path / "blue.png")
        both = [f"model.preprocess({str(tmp_path / name)!r})" for name in ("clear.png", "blue.png")]
        seen = alone(tmp_path / "elsewhere", "-c", f"import load; model = load.Model(); print({' - '.join(both)})")
        assert seen.stderr == "" and set(re.findall(r"[-\d.]+", seen.stdout)) <= {"0.", "..."}, seen
        wrong = alone(tmp_path / "elsewhere", "load.py", "nowhere.png")
        assert wrong.returncode == 2 and wrong.stderr.startswith("error: nowhere.png cannot be read as a picture: ")


BESIDE = """
import importlib.util, json, sys
sys.path.insert(0, "")
found = [name for name in ("fashion_dist", "shards", "pyarrow", "torch", "timm") if importlib.util.find_spec(name)]
assert found == ["torch", "timm"], found
import load, torch
pictures, out = sys.argv[1:-1], sys.argv[-1]
probabilities = {}
for folder in sorted(load.Path().glob("*/model.pt2")):
    model = load.Model(folder.parent)
    given = model.predict(torch.stack([model.preprocess(path) for path in pictures]))
    if "label" in given:
        probabilities[folder.parent.name] = given["label"].tolist()
load.Path(out).write_text(json.dumps(probabilities))
sys.exit(load.main(pictures))
"""


def torch_and_timm(folder: Path) -> Path:
    """A folder of packages with torch and timm, what these require, and nothing else."""
    folder.mkdir()
    asked, seen = ["torch", "timm"], set()
    while asked:
        name = asked.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another kind of machine
            continue
        for top in {Path(str(file)).parts[0] for file in found.files or () if ".." not in str(file)}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(found.locate_file(top)))
        needed = map(Requirement, found.requires or ())
        asked += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return folder


PAIRS = ("pairs", "mlp")


@pytest.fixture(scope="module")
def four(mini_set: Callable[[str], ShardSet], tmp_path_factory: pytest.TempPathFactory) -> list[RunData]:
    """Untrained runs of three networks that are called model-a, model-b and model-c, and one of another task, pairs."""
    home = Home(tmp_path_factory.mktemp("three"))
    home.runs.mkdir()
    runs = []
    for name, network in (("model-a", "mobilenetv3_small_050"), ("model-b", "mlp"), ("model-c", "fashionnet"), PAIRS):
        task, shard_set = ("clipart", mini_set("clipart"))
        if name == "pairs":
            task, shard_set = ("polyvore_pairs", mini_set("polyvore_outfits"))
        run, _ = untrained(task, shard_set, home.path / name, f"model.name={network}")
        runs.append(RunDir(home.runs / f"{task}-{name}"))
        run.path.rename(runs[-1].path)
        home.names.give(name, runs[-1].run_id)
        write_json(runs[-1].schema, shard_set.schema.to_json())
    return read_facts(runs)


def test_three_runs_are_one_archive_that_answers_with_torch_and_timm_alone(
    four: list[RunData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    (root / "fashion_dist" / "tasks").mkdir(parents=True)
    (root / "README.md").write_text("tracked")
    for words in (("init", "-q"), ("add", "."), ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    (root / "fashion_dist" / "tasks" / "mine.py").write_text("VALUE = 1")
    (root / "notes.txt").write_text("not handed in")
    monkeypatch.setattr(archive, "ROOT", root)
    page = make.report_runs(four, tmp_path / "hand in", quick=True).page
    made = write_archive(four, page)
    assert made == tmp_path / "hand in" / "hand in.zip"
    with zipfile.ZipFile(made) as opened:
        opened.extractall(tmp_path / "opened")
        names = set(opened.namelist())
    assert {name for name in names if name.startswith("code/")} == {
        "code/README.md", "code/fashion_dist/tasks/mine.py"
    }  # fmt: skip
    assert {f"run/{name}/config.json" for name in ("model-a", "model-b", "model-c", "pairs")} | {
        "report/index.html"
    } <= names

    folder, rng = tmp_path / "new", np.random.default_rng(0)
    folder.mkdir()
    for n, ending in enumerate(("png", "jpg", "png", "jpg")):
        pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((61 + 40 * n, 150 - 20 * n), Image.Resampling.BICUBIC).save(
            folder / f"{n}.{ending}"
        )
    pictures = sorted(folder.iterdir())
    packages = torch_and_timm(tmp_path / "packages")
    words = [sys.executable, "-S", "-c", BESIDE, *map(str, pictures), str(tmp_path / "found.json")]
    variables = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(
        words, cwd=tmp_path / "opened" / "model", env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    parts = re.split(r"^(model-[abc]|pairs):\n", done.stdout, flags=re.MULTILINE)
    assert parts[1::2] == ["model-a", "model-b", "model-c", "pairs"] and list(found) == parts[1:7:2]
    assert re.search(r" and .* go together: [01]\.\d{4}\n$", parts[-1])
    assert "of 2 tasks (clipart, polyvore_pairs)" in page.read_text()
    for facts, told in zip(four[:3], parts[2:8:2], strict=True):
        asked = predict.Args(run=facts.called, home=str(facts.run.home.path), source=str(folder))
        predict.main(asked)
        answers = pq.read_table(facts.run.predictions("new")).to_pydict()
        known = json.loads((tmp_path / "opened" / "model" / facts.called / "classes.json").read_text())["label"]
        assert len(told.splitlines()) == len(pictures) * (1 + 5)
        for n, picture in enumerate(pictures):
            ours = np.array(answers["probability"][answers["key"].index(picture.stem)])
            assert np.abs(ours - found[facts.called][n]).max() < 1e-4
            lines = told.split(f"{picture}\n")[1].splitlines()
            assert lines[0].split(maxsplit=2)[2] == known[int(ours.argmax())]


def test_a_network_that_torch_cannot_follow_is_refused(
    mini_set: Callable[[str], ShardSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, facts = untrained("clipart", mini_set("clipart"), tmp_path)
    made = make.report_run(facts, quick=True)
    monkeypatch.setattr(
        Network, "features", lambda self, images: self.backbone(images * len(images.sum().tolist() * ""))
    )
    with pytest.raises(CheckpointError, match=f"the network of run {run.run_id} cannot be exported by torch.export: "):
        write_archive([facts], made.page)
    assert not list(made.page.parent.glob("*.zip"))


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
    model = tasks.load("clipart").build_model(open_run(Home(mini_home).find_run(scratch)).config, shard_set.schema)
    parameters = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"
    assert [cell[2] for cell in cells] == [parameters] * 2
    assert cells[0][3] == cells[1][3] and re.fullmatch(r"[1-9]\d* M", cells[0][3])  # FLOPs of one image
    assert all(re.fullmatch(r"[\d,]+", cell[4]) for cell in cells)  # samples/s
