"""A run that begins with trained weights, as it is launched: looked at by a child, once, and trained to its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from cluster_home import PATIENCE_S, Workplace, until
from safetensors.torch import load_file, save_file

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A transformer's weights for 224 px, and a description that wants 48."""
    save_file(timm.create_model(NAME, num_classes=5, img_size=112).state_dict(), tmp_path / "w.safetensors")
    cfg = {"input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bicubic"}
    (tmp_path / "w.json").write_text(json.dumps({"architecture": NAME, "pretrained_cfg": cfg}))
    return tmp_path / "w.safetensors"


def test_a_transformer_at_another_size(make_home: Callable[[], Path], weights: Path) -> None:
    place = Workplace(make_home())
    argv = place.argv("launch", "--task", "deepfashion", "--cluster", "local", "--weights", str(weights), "--debug")
    argv += ["--wandb", "off", "--set", "train.batch_size=32", "train.eval_batch_size=16"]
    # Refused at a size that it does not take, before anything is written.
    said = place.do([*argv, "data.image_px=50"])
    assert said.status == 2 and "patches of 16 px would leave a border out); it takes for example 32, 64" in said.err
    assert said.err.startswith(f"looking at the network {NAME} at 50 px") and place.runs == []

    said = place.do([argv[0], "-X", "importtime", *argv[1:], "--dry-run"])
    loaded = {line.rpartition("|")[2].strip() for line in said.err.splitlines()}
    assert said.status == 0 and f"looking at the network {NAME} at 48 px" in said.err
    assert "fashion_dist.cluster.network_check" in loaded and not loaded & {"torch", "timm", "torchvision"}
    assert "data.image_px = 48 " in said.out and "  w.json" in said.out

    said = place.do([*argv, "--wait", "--json"])
    assert said.status == 0 and said.json["state"] == "done" and "looking at" not in said.err
    config = json.loads((place.run() / "config.json").read_text())
    assert (config["model"]["name"], config["data"]["image_px"], config["optim"]["layer_decay"]) == (NAME, 48, 0.75)
    assert (config["train"]["epochs"], config["model"]["freeze"]) == (1, "none")
    points = [json.loads(line) for line in (place.run() / "metrics.jsonl").read_text().splitlines()]
    assert [point["epoch"] for point in points if point["split"] == "val"] == [1]

    # Its backbone begins the next one, which has the network and the size of the run.
    said = place.do([*argv[:-3], "--set", "train.batch_size=32", "--weights", place.run().name, "--dry-run"])
    assert said.status == 0 and "data.image_px = 48 " in said.out
    assert f"  run {place.run().name}\n" in said.out


def test_weights_that_change_after_the_launch_are_not_loaded(make_home: Callable[[], Path], weights: Path) -> None:
    place = Workplace(make_home())
    flags = ("--weights", str(weights), "--debug", "--wait")
    launcher = place.start(*flags, settings=("data.image_px=48",))
    until(lambda: any((run / "run.json").is_file() for run in place.runs), "the run is noted, and not yet submitted")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    other = {name: value + 1 for name, value in load_file(weights).items() if value.is_floating_point()}
    save_file(other, weights.with_name("other"))
    weights.with_name("other").replace(weights)  # it would be loaded without a word
    out, err = launcher.communicate(timeout=PATIENCE_S)
    assert json.loads((place.run() / "run.json").read_text())["weights_sha256"] == sha256
    assert launcher.returncode == 1, out + err
    told = f"the weights {weights} have changed since run {place.run().name} was made; launch the task again"
    assert told in json.loads(out.splitlines()[-1])["message"]
    assert not list((place.run() / "checkpoints").glob("*"))
