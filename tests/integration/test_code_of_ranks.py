"""Ranks that run other code than was launched say so; with --snapshot they run what was there at the launch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster_home import ROOT, SETTINGS, Workplace, read, until

from fashion_dist.cluster import launcher
from fashion_dist.cluster.job_record import JobRecord
from fashion_dist.cluster.launcher import LaunchRequest
from fashion_dist.cluster.resources import Resources


def test_a_rank_with_other_code_says_so_everywhere(make_home: Callable[[], Path]) -> None:
    home = make_home()
    request = LaunchRequest(
        "deepfashion", home=str(home), cluster="local", settings=(*SETTINGS, "train.epochs=1"), debug=True
    )
    plan = launcher.resolve(request)
    launcher.make_folder(plan.run)
    launcher.write_run(plan)
    JobRecord("local", Resources(), plan.options, plan.comment, code="0123456789ab").write(plan.run)
    words = [sys.executable, "-m", "fashion_dist.cluster.worker", str(plan.run.path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=home, check=False)
    assert done.returncode == 0, done.stderr
    told = "this attempt ran other code than was launched: 0123456789ab -> "
    assert told in done.stderr
    assert read(plan.run.state)["message"].startswith(told)
    (start,) = read(plan.run.attempts)["attempts"]
    assert start["note"].startswith(told) and start["end"] == "done"
    place = Workplace(home)
    assert told in place.status(plan.run.run_id).out
    assert place.do(place.argv("report", plan.run.run_id, "--quick")).status == 0
    assert told in (plan.run.path / "report" / "index.html").read_text().replace("&gt;", ">")


def test_a_snapshot_is_what_the_ranks_run(make_home: Callable[[], Path], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("fashion_dist", "shards", "jobs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (checkout / "fashion_dist" / "tasks" / "deepfashion.py").open("a") as file:
        file.write("# an experiment\n")
    home = make_home()
    words = [
        "-m",
        "fashion_dist",
        "launch",
        "--task",
        "deepfashion",
        "--home",
        str(home),
        "--cluster",
        "local",
        "--debug",
    ]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    words += ["--snapshot", "--set", *SETTINGS, "train.epochs=1"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    shutil.rmtree(checkout / "fashion_dist" / "train")  # whoever runs the checkout now, fails
    assert done.returncode == 0, done.stderr
    run = Workplace(home).run()
    until(lambda: read(run / "state.json").get("state") in ("done", "failed"), "the run ends")
    assert read(run / "state.json")["state"] == "done", read(run / "state.json")
    code = read(run / "job.json")["code"]
    assert [path.name for path in (run / "code").iterdir()] == [code]
    assert "# an experiment" in (run / "code" / code / "fashion_dist" / "tasks" / "deepfashion.py").read_text()
    (start,) = read(run / "attempts.json")["attempts"]
    assert "note" not in start
