"""What a run has to show, read back from the file that W&B keeps of it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from offline_run import read_offline
from PIL import Image
from report_runs import guess, make_run, with_settings

from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.report.split_predictions import Thumbnails
from fashion_dist.results.media import _examples, run_media
from fashion_dist.tasks import classification, deepfashion
from fashion_dist.tracking import wandb_sync
from shards import PackOptions, ReadOptions, ShardSet, pack


def test_a_run_is_read_back_from_its_wandb_file(packed_home: Path, tmp_path: Path) -> None:
    shard_set = ShardSet.open(packed_home / "shards" / "deep_fashion")
    config = with_settings(deepfashion.RECIPE)
    run = make_run(tmp_path / "runs" / "deepfashion-1", config, shard_set, {"val": guess(shard_set, "val")})
    for file, content in (
        (run.checkpoints / "best-000020" / "manifest.json", "{}"),
        (run.submission / "category.csv", "file_path, category_label\n"),
        (run.measures("val") / "confusion.csv", ",a,b\na,3,1\nb,0,4\n"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    FigureWriter(run.report).draw("curve-loss", "Loss", "A curve.", lambda _: None, ("x",), [(1,)])
    wandb_sync.replay(run, config, "", run_media(run, config, shard_set, "val"), tmp_path / "out")

    records = read_offline(tmp_path / "out")
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    sections = {name.partition("/")[0] for row in rows for name in row if "/" in name}
    assert sections >= {"train", "val", "report"}, "a section of W&B's page is a prefix"
    summary = {key: value for r in records if r["type"] == "summary" for key, value in r["summary"]["update"].items()}
    assert summary["best/score"] == 0.5 and summary["best/epoch"] == 2 and summary["val/loss"] == 2.1 / 3
    shown = {name for row in rows for name in row}
    assert {"val/examples.nrows", "report/curve-loss.path"} <= shown
    assert any(name.startswith("val/confusion_table") for name in shown)
    stored = {path.suffix for path in (tmp_path / "out").rglob("files/media/**/*") if path.is_file()}
    assert stored >= {".png", ".json"}
    artifacts = {
        r["artifact"]["name"]: json.loads(r["artifact"]["metadata"]) for r in records if r["type"] == "artifact"
        and "metadata" in r["artifact"]
    }  # fmt: skip
    shards = f"shards-deep_fashion-{shard_set.data_hash[:10]}"
    assert artifacts[shards]["data_hash"] == shard_set.data_hash
    assert artifacts["checkpoint-deepfashion-1"]["made_from"] == [shards]
    assert artifacts["predictions-val-deepfashion-1"]["made_from"] == [shards, "checkpoint-deepfashion-1"]
    assert artifacts["submission-deepfashion-1"]["made_from"] == ["predictions-val-deepfashion-1"]


def test_pictures_of_any_kind_are_shown_as_they_are_meant(tmp_path: Path) -> None:
    """Deep gray is not white, and what a camera noted as turned is upright, in W&B's examples and in the page."""
    for name in ("deep", "turned"):
        (tmp_path / "raw" / "train" / name).mkdir(parents=True)
    Image.fromarray(np.full((16, 16), 20_000, np.uint16)).save(tmp_path / "raw" / "train" / "deep" / "a.png")
    wide = Image.new("RGB", (48, 16), "red")
    exif = wide.getexif()
    exif[0x0112] = 6
    wide.save(tmp_path / "raw" / "train" / "turned" / "b.jpg", exif=exif)
    pack("image_folder", tmp_path / "raw", tmp_path / "set", PackOptions(), ReadOptions(val_fraction=0.0))
    shard_set = ShardSet.open(tmp_path / "set")
    split = shard_set.split("train")
    config = with_settings(classification.RECIPE, "task.label=label")
    answers = {"label": np.zeros(2, np.int64), "probability": np.full((2, 2), 0.5, np.float32)}
    run = make_run(tmp_path / "runs" / "classification-1", config, shard_set, {"train": answers})
    shown = [one.image for one in _examples(run, config, shard_set, "train")]
    with Thumbnails(split) as thumbs:
        shown += [Image.open(io.BytesIO(base64.b64decode(thumbs[row].partition(",")[2]))) for row in range(2)]
    for picture, name in zip(shown, [str(key) for key in split.keys] * 2, strict=True):
        if "deep" in name:
            assert abs(np.asarray(picture.convert("L")).mean() - 20_000 / 257) < 3
        else:
            assert picture.height == 3 * picture.width
