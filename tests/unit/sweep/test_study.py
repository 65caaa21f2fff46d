"""Searching and stopping early over Optuna's journal, by many processes that die and come back."""

from __future__ import annotations

import json
import math
import random
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from made_sweep import make_run, make_sweep
from recorded_sweep import DROP, EPOCHS, RATE, axes, curves, surface
from scipy import stats

from fashion_dist.paths import RunDir
from fashion_dist.sweep import decisions, expand, spec
from fashion_dist.sweep.study import Study, goes_on, sampler, suggest
from fashion_dist.sweep.sweep_record import Sweep
from fashion_dist.sweep.view import read_sweep_view
from fashion_dist.tasks import Monitor
from fashion_dist.tasks.clipart import RECIPE

ACCURACY = Monitor("accuracy", "max")

SPACE = {
    "optim.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.05},
    "model.dropout": {"min": 0.0, "max": 0.6},
    "model.pool": {"values": ["max", "avg"]},
    "train.label_smoothing": {"value": 0.1},
}


def bayes(home: Path, trials: int, seed: int = 0, **more: Any) -> Sweep:
    raw = {
        "method": "bayes",
        "run_cap": trials,
        "metric": {"name": "accuracy", "goal": "maximize"},
        "parameters": SPACE,
    }
    sweep = make_sweep(home, {**raw, **more}, seed=seed)
    Study(sweep).create()
    return sweep


def test_a_trial_begun_again_is_the_same_and_none_is_doubled(tmp_path: Path) -> None:
    sweep = bayes(tmp_path, 6)
    first = Study(sweep).begin(4)
    assert Study(Sweep.read(sweep.folder)).begin(4) == first
    # Killed between Optuna's journal and our own file.
    sweep.folder.trial(4).unlink()
    assert Study(sweep).begin(4) == first
    others = [Study(sweep).begin(number) for number in (0, 1, 2, 3, 5)]
    assert len({trial.run_id for trial in (*others, first)}) == 6
    assert all(0.0001 <= trial.settings["optim.lr"] <= 0.05 for trial in others)
    assert {trial.settings["train.label_smoothing"] for trial in others} == {0.1}


def test_a_search_finds_more_than_chance_in_four_of_five_seeds() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parameters = spec.parse({"method": "bayes", "run_cap": 40, "parameters": SPACE}, "test", RECIPE.keys()).parameters
    wins = 0
    for seed in range(20):
        study = optuna.create_study(direction="maximize")
        found: list[float] = []
        begun: list[tuple[optuna.trial.Trial, float]] = []
        for number in range(40):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*experimental.*")
                study.sampler = sampler(seed, number)
            trial = study.ask()
            found.append(surface({parameter.key: suggest(trial, parameter) for parameter in parameters}))
            begun.append((trial, found[-1]))
            if len(begun) == 4:  # four run at once
                study.tell(*begun.pop(0))
        drawn = [surface(expand.draw(parameters, seed, number)) for number in range(40)]
        wins += max(found) > max(drawn)
    assert wins >= 16


def test_every_choice_of_a_search_has_its_reason(tmp_path: Path) -> None:
    sweep = bayes(tmp_path, 13)
    for number in range(13):
        trial = Study(sweep).begin(number)
        make_run(sweep, number, "done", [surface(trial.settings)])
    reasons = [decision["reason"] for decision in decisions.read(sweep.folder)]
    assert reasons[0].startswith("drawn at random: 0 of the 10") and reasons[-1].startswith("chosen by TPE from 12")


@pytest.mark.parametrize("order", range(4))
def test_halving_saves_epochs_and_keeps_a_good_trial(tmp_path: Path, order: int) -> None:
    rates, drops = axes()
    raw = {
        "method": "grid", "parameters": {RATE: {"values": rates}, DROP: {"values": drops}},
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 3},
    }  # fmt: skip
    sweep = make_sweep(tmp_path, raw, train__epochs=EPOCHS)
    Study(sweep).create()
    recorded = [curves()[trial.settings[RATE], trial.settings[DROP]] for trial in sweep.trials if trial is not None]
    trials, epochs = len(recorded), EPOCHS
    assert trials == 27
    generator = random.Random(order)
    reached = dict.fromkeys(range(trials), 0)
    waiting, running = list(range(trials)), []
    generator.shuffle(waiting)
    while waiting or running:
        while waiting and len(running) < 4:
            running.append(waiting.pop())
            Study(sweep).begin(running[-1])
        number = generator.choice(running)
        if generator.random() < 0.1:  # killed and started again: its last epoch is asked about anew
            Study(sweep).begin(number)
        else:
            reached[number] += 1
        run = make_run(sweep, number, "running", recorded[number][: reached[number]])
        if reached[number] == epochs:
            make_run(sweep, number, "done", recorded[number])
            running.remove(number)
        elif reached[number] and Study(sweep).prune(number, reached[number], run):
            assert Study(sweep).prune(number, reached[number], run)  # and it stays so
            running.remove(number)
    assert sum(reached.values()) <= 0.45 * trials * epochs
    finished = [max(recorded[number]) for number in range(trials) if reached[number] == epochs]
    assert max(finished) >= 0.995 * max(map(max, recorded))
    counts = read_sweep_view(sweep.folder).counts
    assert counts["done"] == len(finished) and counts["done"] + counts["pruned"] == trials


def test_what_is_nan_goes_on_only_alone_and_nothing_is_worse() -> None:
    assert goes_on(math.nan, [], 3, ACCURACY)[0]
    assert not goes_on(math.nan, [0.1, math.nan], 3, ACCURACY)[0]
    assert goes_on(0.1, [math.nan] * 5, 3, ACCURACY) == (True, 1, 2)
    assert goes_on(0.1, [0.2, 0.3], 3, Monitor("loss", "min"))[:2] == (True, 1)


def test_the_rule_is_optunas(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3, min_early_stopping_rate=0)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    generator = random.Random(3)
    values: list[float] = []
    for _ in range(30):
        value = generator.random()
        trial = study.ask()
        trial.report(value, 1)
        assert trial.should_prune() is not goes_on(value, values, 3, ACCURACY)[0]
        values.append(value)


def test_only_rungs_are_looked_at_and_every_decision_has_its_reason(tmp_path: Path) -> None:
    raw = {
        "method": "grid", "parameters": {"optim.lr": {"values": [0.1, 0.2, 0.3, 0.4]}},
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
    }  # fmt: skip
    sweep = make_sweep(tmp_path, raw, train__epochs=9)
    Study(sweep).create()

    def reach(number: int, value: float, epochs: int) -> bool:
        Study(sweep).begin(number)
        run: RunDir = make_run(sweep, number, "running", [value] * epochs)
        return Study(sweep).prune(number, epochs, run)

    assert not reach(0, 0.1, 1) and not sweep.folder.decisions.exists()
    assert not reach(0, 0.5, 2)
    assert reach(1, 0.4, 2)
    assert not reach(2, 0.6, 2) and not reach(3, 0.55, 2)
    said = [json.loads(line) for line in sweep.folder.decisions.read_text().splitlines()]
    assert [(line["trial"], line["what"]) for line in said] == [
        (0, "goes on"), (1, "is given up"), (2, "goes on"), (3, "goes on"),
    ]  # fmt: skip
    assert said[1]["reason"] == "after 2 epochs 0.4 is number 2 of 2 that got so far; one goes on"
    assert decisions.given_up(sweep.folder) == {1: said[1]["reason"]}


@pytest.mark.parametrize(
    "line", [b"\n", b"torn {\n", b"[]\n", b'{"op_code": 99}\n', b'{"op_code": 5, "worker_id": 1}\n', b"\xff"]
)
def test_a_line_of_something_else_in_the_journal_ends_no_trial(line: bytes, tmp_path: Path) -> None:
    sweep = bayes(tmp_path, 3)
    first = Study(sweep).begin(0)
    with sweep.folder.journal.open("ab") as file:
        file.write(line)
    assert Study(sweep).begin(1) != first
    sweep.folder.trial(1).unlink()
    again = Study(sweep)
    assert again.begin(1) == Study(sweep).begin(1)  # what was written behind the line is read
    assert len(again._open(0).trials) == 3


def test_not_strict_judges_a_trial_by_its_best_so_far(tmp_path: Path) -> None:
    kept = {}
    for strict in (True, False):
        raw = {
            "method": "grid", "parameters": {"optim.lr": {"values": [0.1, 0.2]}},
            "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2, "strict": strict},
        }  # fmt: skip
        sweep = make_sweep(tmp_path / str(strict), raw, train__epochs=9)
        Study(sweep).create()
        pruned = []
        for number, values in enumerate(([0.4, 0.5], [0.6, 0.3])):
            Study(sweep).begin(number)
            pruned.append(Study(sweep).prune(number, 2, make_run(sweep, number, "running", values)))
        kept[strict] = pruned
    assert kept == {True: [False, True], False: [False, False]}


def test_a_search_draws_normal_and_weighted_values_as_given() -> None:
    entries = {
        "optim.lr": {"distribution": "normal", "mu": 5.0, "sigma": 0.1},
        "model.pool": {"values": ["max", "avg", "x"], "probabilities": [0.9, 0.05, 0.05]},
    }
    parameters = spec.parse({"method": "bayes", "run_cap": 9, "parameters": entries}, "test", RECIPE.keys()).parameters
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    points = []
    for _ in range(600):
        trial = study.ask()
        points.append({parameter.key: suggest(trial, parameter) for parameter in parameters})
    rates = [point["optim.lr"] for point in points]
    assert stats.kstest(rates, stats.norm(5, 0.1).cdf).pvalue > 0.01
    assert sum(point["model.pool"] == "max" for point in points) / 600 == pytest.approx(0.9, abs=0.04)


def test_a_search_takes_any_seed() -> None:
    assert len({sampler(seed, 3)._rng.rng.random() for seed in (0, 1700000000, 2**63 - 1)}) == 3


def test_a_beginning_reads_no_file_of_trials_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = bayes(tmp_path, 8, parameters={"model.pool": {"values": ["max", "avg"]}})
    for number in range(7):
        Study(sweep).begin(number)
    study = Study(sweep)._open(0)
    for frozen in study.trials[:7]:
        study._storage.set_trial_state_values(frozen._trial_id, optuna.trial.TrialState.COMPLETE, [0.5])
    asked: list[int] = []
    trial = Sweep.trial
    monkeypatch.setattr(Sweep, "trial", lambda self, number: asked.append(number) or trial(self, number))
    Study(sweep).begin(7)
    assert set(asked) == {7}, "its own, and none of the others"
    doubled = [note for note in decisions.read(sweep.folder) if note["what"] == "is the same as another"]
    assert 7 in {note["trial"] for note in doubled}  # there are two settings for eight trials
