"""What a start took, part by part."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.start import Measured, summary

from fashion_dist.train.startup_timer import StartupTimer, format_startup


def test_parts_add_up_to_the_process_s_age() -> None:
    code = (
        "import time; time.sleep(0.3); from fashion_dist.train.startup_timer import StartupTimer; "
        "clock = StartupTimer(); "
        "time.sleep(0.2); clock.record_phase('imports'); clock.record_phase('imports'); print(clock.parts)"
    )
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    taken = time.monotonic() - began
    parts = eval(said)
    assert list(parts) == ["process", "imports"]
    assert parts["process"] >= 0.3 and parts["imports"] >= 0.2
    assert sum(parts.values()) <= taken + 0.05


def test_the_clock_imports_no_torch() -> None:
    code = "import sys, fashion_dist.train.startup_timer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


IMPORTS = """
import sys
opened = 0
def count(event, values):
    global opened
    opened += event == "open"
sys.addaudithook(count)
from fashion_dist import runs, tasks
from fashion_dist.cluster import pickled_rank, worker
from fashion_dist.train import decode_choice, distributed, startup_timer, trainer
startup_timer.import_late()
tasks.load("classification").build_model
needless = {"wandb", "pandas", "matplotlib", "sklearn", "scipy", "rich", "tyro", "timm", "torchvision", "optuna", "PIL"}
print(opened, *sorted(needless & set(sys.modules)))
"""


def test_a_rank_imports_nothing_that_it_does_not_need() -> None:
    said = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    opened, *needless = said.split()
    assert needless == []
    assert int(opened) < 3500, "files that each of 512 ranks asks the shared filesystem for; nearly all are torch's"


def test_a_line_for_the_log() -> None:
    parts = {"process": 0.42, "run folder": 0.01, "imports": 4.1, "first step": 0.77}
    assert format_startup(parts) == "first step after 5.3 s: process 0.4, imports 4.1, first step 0.8"
    assert format_startup({"process": 0.0}) == "first step after 0.0 s"


def test_marks_add_up() -> None:
    clock = StartupTimer()
    before = clock.parts["process"]
    time.sleep(0.02)
    clock.record_phase("process")
    assert clock.parts["process"] >= before + 0.019  # parts are whole milliseconds


def test_runs_are_summed_up_by_medians() -> None:
    runs = [{"imports": 4.0, "data": 1.0}, {"imports": 6.0, "data": 2.0}, {"imports": 5.0, "data": 9.0}]
    found = summary(Measured([0.9, 0.7, 0.8], runs))
    assert found["launch_s"] == 0.8
    assert found["parts_s"] == {"imports": 5.0, "data": 2.0}
    assert found["first_step_s"] == 8.0
