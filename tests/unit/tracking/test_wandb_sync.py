"""W&B gets every line once, as one run, however often the job was requeued and the sync was killed."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from made_sweep import make_run, make_sweep
from offline_run import read_offline
from PIL import Image
from wandb_server import WandbServer

from fashion_dist import cli
from fashion_dist.commands import sync
from fashion_dist.errors import ConfigError, InputError
from fashion_dist.paths import RunDir
from fashion_dist.tasks.clipart import RECIPE
from fashion_dist.tracking import trackers, wandb_run, wandb_sync
from fashion_dist.tracking.metrics_log import MetricsLogger
from fashion_dist.tracking.trackers import TrackerOptions
from fashion_dist.tracking.wandb_media import Artifact, Example, Media
from fashion_dist.tracking.wandb_run import SyncRecord, WandbRun

KEY = "f" * 40
SYSTEM = {1: (20, 60), 2: (100,), 3: (180,)}
"""Steps at which each start noted what the nodes were doing; 60 was lost with the start, and not noted again."""


def requeued_run(folder: Path) -> RunDir:
    """Killed twice, each time a while after its last checkpoint."""
    run = RunDir(folder / "runs" / "clipart-0123456789")
    run.path.mkdir(parents=True)
    starts = [{"attempt": n, "hardware": kind} for n, kind in ((1, "4 x NVIDIA A100"), (2, "1 x NVIDIA L4"), (3, ""))]
    run.attempts.write_text(json.dumps({"attempts": starts}))
    done = 0
    for attempt, last in ((1, 80), (2, 140), (3, 200)):
        tracker = MetricsLogger(run, done, attempt)
        for step in range(done // 20 * 20 + 20, last + 1, 20):
            tracker.log("train", step, step / 100, {"loss": 1 / step, "lr": 0.1})
            if step in SYSTEM[attempt]:
                tracker.log("system", step, step / 100, {"node0/cpu_percent": 60.0, "node1/cpu_percent": 70.0})
            if step % 100 == 0:
                tracker.log("val", step, step / 100, {"accuracy": step / 1000})
        tracker.close()
        done = last - 30
    return run


STEPS = [
    *(("train", step) for step in range(20, 201, 20)),
    *(("val", step) for step in (100, 200)),
    *(("system", step) for step in (20, 100, 180)),
]


def axes(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Which line of the metrics each row is."""
    kinds = {"val/accuracy": "val", "train/loss": "train", "system/node1/cpu_percent": "system"}
    return sorted((kinds[name], row["step"]) for row in rows for name in row if name in kinds)


def shown(folder: Path, pictures: Mapping[str, Path] | None = None) -> Media:
    file = folder / "test.txt"
    file.write_text("id,label\n")
    examples = [Example("a", Image.new("RGB", (8, 8)), {"key": "a", "label": "cat"})]
    confusion = {"test": (["cat", "dog"], [[3, 1], [0, 4]])}
    artifacts = [
        Artifact("shards x", "dataset", references=(folder,), is_input=True),
        Artifact("submission-x", "submission", files=(file,)),
    ]
    return Media({"best/accuracy": 0.2}, confusion, "test", examples, artifacts, "abc", pictures or {})


def test_a_run_that_was_requeued_is_one_offline_run_with_every_step_once(tmp_path: Path) -> None:
    run = requeued_run(tmp_path)
    (tmp_path / "data").mkdir()
    out = tmp_path / "out"
    first = wandb_sync.replay(run, RECIPE, "a-sweep", shown(tmp_path / "data"), out)
    again = wandb_sync.replay(run, RECIPE, "a-sweep", shown(tmp_path / "data"), out)
    assert (first.rows, first.lines) == (again.rows, again.lines) == (len(STEPS) + 1, len(STEPS))
    records = read_offline(out)
    (begun,) = [record["run"] for record in records if record["type"] == "run"]
    assert (begun["run_id"], begun["run_group"], begun["job_type"]) == (run.run_id, "a-sweep", "trial")
    assert begun["config"]["update"]["optim.lr"] == RECIPE.optim.lr
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert axes(rows) == sorted(STEPS) and [row["_step"] for row in rows] == list(range(len(STEPS) + 1))
    assert rows[-1]["test/examples.nrows"] == 1
    defined = {
        r["metric"]["glob_name"]: r["metric"]["step_metric"] for r in records if "glob_name" in r.get("metric", {})
    }
    assert defined == {"train/*": "step", "system/*": "step", "val/*": "epoch", "test/*": "epoch"}
    summary = {key: value for r in records if r["type"] == "summary" for key, value in r["summary"]["update"].items()}
    assert summary["best/accuracy"] == 0.2
    names = {record["artifact"]["name"] for record in records if record["type"] == "artifact"}
    assert {"shards-x", "submission-x"} <= names


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    client = importlib.import_module("wandb")
    client.teardown()  # it reads the environment once in a process
    yield server
    client.teardown()
    server.close()


def test_wandbs_own_command_takes_a_run_that_was_written_offline(server: WandbServer, tmp_path: Path) -> None:
    run = requeued_run(tmp_path)
    (tmp_path / "data").mkdir()
    written = wandb_sync.replay(run, RECIPE, "", shown(tmp_path / "data"), tmp_path / "out")
    command = [str(Path(sys.executable).with_name("wandb")), "beta", "sync", written.where]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = server.sent[run.run_id]
    assert len(rows) == len(STEPS) + 1 and axes(rows) == sorted(STEPS)
    assert server.summaries[run.run_id]["best/accuracy"] == 0.2


def test_the_real_client_sends_each_line_once(server: WandbServer, tmp_path: Path) -> None:
    run = requeued_run(tmp_path)

    def sync() -> int:
        return wandb_sync.sync(run, RECIPE, "", None).rows

    assert sync() == len(STEPS) and axes(server.sent[run.run_id]) == sorted(STEPS)
    assert server.summaries[run.run_id]["best/accuracy"] == 0.2 and server.summaries[run.run_id]["best/epoch"] == 2
    assert list(server.configs) == [run.run_id] and server.groups[run.run_id] == "clipart"
    assert server.configs[run.run_id]["optim.lr"]["value"] == RECIPE.optim.lr
    assert server.configs[run.run_id]["hardware"]["value"] == {"start 1": "4 x NVIDIA A100", "start 2": "1 x NVIDIA L4"}
    assert wandb_sync.is_synced(run, None)
    assert sync() == 0
    # More was trained since.
    tracker = MetricsLogger(run, 200, 4)
    tracker.log("train", 220, 2.2, {"loss": 0.1})
    tracker.log("train", 240, 2.4, {"loss": 0.1})
    tracker.close()
    assert not wandb_sync.is_synced(run, None)
    assert sync() == 2
    # The last row was noted and then did not arrive; and a server that has rows nobody noted.
    server.lose_last_row(run.run_id)
    assert sync() == 1
    run.synced.unlink()
    assert sync() == 0
    more = [("train", 220), ("train", 240)]
    assert axes(server.sent[run.run_id]) == sorted([*STEPS, *more])
    assert [row["_step"] for row in server.sent[run.run_id]] == list(range(len(STEPS) + 2))
    assert list(server.sent) == [run.run_id]
    written = [path for path in run.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert written == []


def test_a_live_run_that_is_requeued_online_sends_no_step_twice(server: WandbServer, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "clipart-live")
    run.path.mkdir(parents=True)
    for attempt, (done, last) in enumerate(((0, 60), (30, 80)), start=1):
        tracker = MetricsLogger(run, done, attempt)
        tracker.add(trackers.start("wandb", run, RECIPE, TrackerOptions("online", "a-sweep")))
        for step in range(done // 20 * 20 + 20, last + 1, 20):
            tracker.log("train", step, step / 100, {"loss": 1 / step})
        tracker.close()
    assert [row["step"] for row in server.sent[run.run_id]] == [20, 40, 60, 80]
    assert server.groups[run.run_id] == "a-sweep"
    assert wandb_sync.is_synced(run, None)


def test_pictures_and_files_arrive_once_and_large_ones_as_references(server: WandbServer, tmp_path: Path) -> None:
    run = requeued_run(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.tar").write_bytes(b"many images")
    showcase = shown(tmp_path / "data")
    assert wandb_sync.sync(run, RECIPE, "", showcase).rows == len(STEPS) + 1
    assert wandb_sync.is_synced(run, showcase)
    (row,) = [row for row in server.sent[run.run_id] if "test/examples" in row]
    assert row["test/examples"]["nrows"] == 1 and "test/confusion_table" in row
    made = {one["artifactCollectionName"]: one["id"] for one in server.artifacts.values()}
    assert {"shards-x", "submission-x"} <= made.keys() and server.used == [made["shards-x"]]
    stored = [(path, data) for path, data in server.stored if path.startswith("/storage/a")]
    assert [data for path, data in stored if path == f"/storage/{made['submission-x']}/test.txt"] == [b"id,label\n"]
    (picture,) = [data for path, data in stored if path.endswith(".png")]
    assert Image.open(io.BytesIO(picture)).size == (8, 8)
    manifests = [data for path, data in server.stored if path == "/storage/manifest"]
    assert any((tmp_path / "data" / "train-00000.tar").as_uri().encode() in data for data in manifests)
    assert not any(b"many images" in data for _, data in server.stored)
    # Killed before it could note that all has arrived: what the server has is not uploaded again.
    lines = run.synced.read_text().splitlines(keepends=True)
    run.synced.write_text("".join(line for line in lines if '"arrived"' not in line))
    assert not wandb_sync.is_synced(run, showcase)
    assert wandb_sync.sync(run, RECIPE, "", showcase).rows == 0
    assert [(path, data) for path, data in server.stored if path.startswith("/storage/a")] == stored


def test_the_pictures_of_a_report_are_sent_once_by_the_report_or_by_a_sync(server: WandbServer, tmp_path: Path) -> None:
    run = requeued_run(tmp_path)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "curve-loss.png")
    pictures = {"curve-loss": tmp_path / "curve-loss.png"}
    assert wandb_run.show_pictures(run, RECIPE, "online", "", pictures)
    assert axes(server.sent[run.run_id]) == sorted(STEPS)

    def rows() -> list[dict[str, Any]]:
        return [row["report/curve-loss"] for row in server.sent[run.run_id] if "report/curve-loss" in row]

    assert [(row["_type"], row["width"], row["height"]) for row in rows()] == [("image-file", 6, 4)]
    assert wandb_run.show_pictures(run, RECIPE, "online", "", pictures)
    assert wandb_sync.sync(run, RECIPE, "", shown(tmp_path / "data", pictures)).rows == 1 == len(rows())  # the examples
    Image.new("RGB", (8, 4)).save(tmp_path / "curve-loss.png")
    assert not wandb_sync.is_synced(run, shown(tmp_path / "data", pictures))
    assert wandb_sync.sync(run, RECIPE, "", shown(tmp_path / "data", pictures)).rows == 1
    assert [row["width"] for row in rows()] == [6, 8]
    assert wandb_sync.is_synced(run, shown(tmp_path / "data", pictures))


def test_notes_agree_with_what_the_server_has(tmp_path: Path) -> None:
    note, other = SyncRecord(tmp_path / "n", "a"), SyncRecord(tmp_path / "n", "b")
    for key in ("1", "2", "3"):
        note.add(key)
    other.add("x")
    assert note.agree(3, []) == ["1", "2", "3"]
    assert note.agree(2, []) == ["1", "2"]
    assert note.agree(4, ["1", "2", "y", "z"]) == ["1", "2", "y", "z"]
    assert note.agree(0, []) == [] and other.agree(1, []) == ["x"]


def test_a_file_in_the_current_folder_names_no_server(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's client reads `./wandb/settings`, also one that a downloaded folder holds."""
    monkeypatch.delenv("WANDB_BASE_URL")
    for name in ("wandb", ".wandb"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings").write_text(f"[default]\nbase_url = {server.url}\n")
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(wandb_run, "require_safe_server", asked.append)
    run = requeued_run(tmp_path)
    wandb_run.require_key()
    naive = importlib.import_module("wandb").Settings()
    assert asked == [naive.base_url] and Path.cwd() == tmp_path
    naive.update_from_system_settings()
    assert naive.base_url == server.url, "the trap works"
    WandbRun(run, RECIPE, "offline", "", run.path).finish()
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://wandb.example.org", "ftp://127.0.0.1", "http://localhost.example.org"])
def test_the_key_is_not_sent_in_clear(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    with pytest.raises(ConfigError, match="in clear; allowed: https"):
        wandb_run.require_key()


@pytest.mark.parametrize(("said", "asked", "mode"), [
    ("offline", "online", "offline"), ("offline", "auto", "offline"), ("disabled", "online", "off"),
    ("online", "offline", "offline"), ("", "auto", "online"), ("online", "off", "off"), ("dryrun", "auto", "offline"),
    ("Disabled", "online", "off"),
])  # fmt: skip
def test_the_environment_can_only_lessen_what_is_sent(
    said: str, asked: wandb_run.WandbMode, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", said)
    assert wandb_run.allowed_mode(asked) == mode
    if mode != "online" and said not in ("", "online"):
        with pytest.raises(ConfigError, match=f"WANDB_MODE={said} forbids"):
            wandb_run.require_key()


@pytest.mark.parametrize(("kept", "mode"), [("offline", "offline"), ("disabled", "off"), ("online", "online")])
def test_the_users_own_settings_lessen_what_is_sent_too(
    kept: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings").write_text(f"[default]\nmode = {kept}\n")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "")
    client = importlib.import_module("wandb")
    client.teardown()
    try:
        assert wandb_run.allowed_mode("auto") == mode
        if mode != "online":
            with pytest.raises(ConfigError, match=r"the mode in ~/\.config/wandb/settings forbids to send"):
                wandb_run.require_key()
    finally:
        client.teardown()


def test_what_wandb_does_not_take_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = requeued_run(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    assert wandb_sync.replay(run, RECIPE, "", None, tmp_path / "out").rows == len(STEPS)
    with pytest.raises(ConfigError, match="WANDB_MODE=nonsense is not possible; allowed: online, offline, disabled"):
        wandb_run.require_key()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    with pytest.raises(ConfigError, match=r"W&B does not take its settings .*Invalid project name 'a/b'"):
        wandb_sync.replay(run, RECIPE, "", None, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".fashion-dist"]


def test_a_run_whose_metrics_are_gone_is_refused(tmp_path: Path) -> None:
    run = make_run(make_sweep(tmp_path), 0, "done", [0.1])
    run.metrics.unlink()
    with pytest.raises(InputError, match=rf"run {run.run_id} has nothing to send: .*metrics\.jsonl is not there"):
        sync.main(sync.Args(home=str(tmp_path), runs=(run.run_id,), to_folder=str(tmp_path / "there")))
    assert not (tmp_path / "there").exists()


def test_one_run_that_cannot_be_read_keeps_no_other_from_being_sent(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    runs = [make_run(sweep, at, state, [0.1, 0.2]) for at, state in enumerate(("failed", "failed", "done"))]
    runs[0].config.write_text("{")

    def synced(*names: str) -> cli.Result:
        return sync.main(sync.Args(runs=names, home=str(tmp_path), to_folder=str(tmp_path / "out")))

    result = synced(sweep.folder.sweep_id)
    assert (result.exit_status, result.data) == (1, {"rows": 4, "runs": 2, "failed": 1})
    assert "offline-run" in result.text and ", without pictures and files (" in result.text, "whose shard set is gone"
    assert result.text.count("\n") == 2 and f"{runs[0].run_id}: error: the configuration of run" in result.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".fashion-dist", *(run.run_id for run in runs[1:])}
    with pytest.raises(InputError, match="the configuration of run"):
        synced(runs[0].run_id)


def test_what_one_project_has_is_not_what_another_has(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = requeued_run(tmp_path)
    (tmp_path / "data").mkdir()
    bare = Media({}, {}, "test", [], shown(tmp_path / "data").artifacts[:1], "f")
    assert wandb_sync.sync(run, RECIPE, "", bare).rows == len(STEPS) + 1
    assert wandb_sync.is_synced(run, bare)
    more = Media({}, {}, "test", [], shown(tmp_path / "data").artifacts, "g")
    assert not wandb_sync.is_synced(run, more), "files that were made since"
    assert wandb_sync.sync(run, RECIPE, "", more).rows == 1 and wandb_sync.is_synced(run, more)
    monkeypatch.setenv("WANDB_PROJECT", "another")
    assert not wandb_sync.is_synced(run, more)


def test_without_a_key_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=r"no key for W&B at wandb\.example\.org: set WANDB_API_KEY"):
        wandb_run.require_key()
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password secret\n")
    wandb_run.require_key()
