"""What a run has to show, read back from the file that W&B keeps of it."""

from __future__ import annotations

import json
from pathlib import Path

from offline_run import read_offline
from report_runs import guess, make_run, with_settings

from fashion_dist.report.figure_writer import FigureWriter
from fashion_dist.results.media import run_media
from fashion_dist.tasks import deepfashion
from fashion_dist.tracking import wandb_sync
from shards import ShardSet


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
