"""A sweep's files: read back as they were, its trials' states, the best, and the tables."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_sweep import GONE, GRID, make_run, make_sweep

from fashion_dist.cluster.resources import Resources
from fashion_dist.cluster.slurm import JobRef
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.monitor import sweep_messages, sweep_table
from fashion_dist.paths import Home, SweepDir
from fashion_dist.runs import run_id
from fashion_dist.sweep import decisions, expand, gather
from fashion_dist.sweep.study import Study
from fashion_dist.sweep.sweep_record import SubmittedArray, Sweep, read_arrays, write_arrays
from fashion_dist.sweep.view import read_sweep_view
from fashion_dist.tasks import load


def test_a_sweep_and_its_submissions_are_read_back(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, name="a 'b'; rm -rf ~ 漢")
    assert Sweep.read(sweep.folder) == sweep and Sweep.read(sweep.folder).content == sweep.content
    array = SubmittedArray("slurm", 1000, (1001, 1002, 1007), Resources(setup=("a b",)), job=JobRef("slurm", "12"))
    write_arrays(sweep.folder, [array])
    assert read_arrays(sweep.folder) == [array]
    assert array.job_of(1007) == JobRef("slurm", "12_7")


def test_every_setting_that_decides_is_in_the_content(tmp_path: Path) -> None:
    one = make_sweep(tmp_path / "1")
    assert make_sweep(tmp_path / "2").content == one.content
    assert make_sweep(tmp_path / "3", {**GRID, "description": "x"}).content == one.content
    assert make_sweep(tmp_path / "4", seed=1).content != one.content
    assert make_sweep(tmp_path / "5", train__epochs=7).content != one.content
    assert make_sweep(tmp_path / "6", {"method": "grid", "parameters": {}}).content != one.content


@pytest.mark.parametrize("nested", [False, True])
def test_a_sweep_over_a_setting_that_was_renamed_goes_on_as_it_began(tmp_path: Path, nested: bool) -> None:
    entry = {"values": [0.25, 0.75]}
    parameters = {"train": {"parameters": {"mix_prob": entry}}} if nested else {"train.mix_prob": entry}
    sweep = make_sweep(tmp_path, {"method": "grid", "parameters": parameters}, train__mixup=0.2)
    run_ids = [sweep.run_of(trial).run_id for trial in map(sweep.trial, range(2)) if trial is not None]
    # As it was stored before; run ids and the content's hash have always been of the first names.
    stored = sweep.folder.sweep.read_text()
    for now, was in (("mix_prob", "mix"), ("class_balanced", "balance"), ("sample_weight", "weigh")):
        stored = stored.replace(f'{now}"', f'{was}"')
    assert "mix_prob" not in stored
    facts = [
        {"method": "grid", "parameters": json.loads(stored)["sweep"]["parameters"]},
        run_id(sweep.base, Home(tmp_path), "hash"), "none", 0, 1,
    ]  # fmt: skip
    was = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    sweep.folder.sweep.write_text(stored)
    read = Sweep.read(sweep.folder)
    assert read == sweep and read.content == was and read.varied == ["train.mix_prob"]
    for number, value in enumerate((0.25, 0.75)):
        trial = read.trial(number)
        assert trial is not None and trial.settings == {"train.mix_prob": value}
        config = read.config_of(trial.settings)
        assert config.train.mix_prob == value and run_id(config, Home(tmp_path), "hash") == run_ids[number]


def test_draws_and_searches_over_a_renamed_setting_go_by_its_first_name(tmp_path: Path) -> None:
    raw = {"method": "bayes", "run_cap": 2, "parameters": {"train.mix_prob": {"min": 0.0, "max": 1.0}}}
    sweep = make_sweep(tmp_path, raw)
    assert expand.draw(sweep.spec.parameters, 3, 5) == {"train.mix_prob": random.Random("3 5 train.mix").uniform(0, 1)}
    Study(sweep).create()
    begun = Study(sweep).begin(0)
    assert (
        '"train.mix"' in sweep.folder.journal.read_text() and '"train.mix_prob"' not in sweep.folder.journal.read_text()
    )
    path = sweep.folder.trial(0)
    path.write_text(path.read_text().replace("train.mix_prob", "train.mix"))
    assert Study(Sweep.read(sweep.folder)).begin(0) == begun


def test_states_and_the_best_trial(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    write_arrays(sweep.folder, [SubmittedArray("local", 0, (0, 1), Resources(), job=GONE)])
    make_run(sweep, 0, "done", [0.1, 0.6, 0.4])
    make_run(sweep, 1, "done", [0.7])
    view = read_sweep_view(sweep.folder)
    assert [trial.view.state for trial in view.trials] == ["done", "done", "new"]
    assert view.counts == {"done": 2, "new": 1} and not view.is_active
    assert view.best is not None and (view.best.number, view.best.value) == (1, 0.7)
    text = sweep_table.page(view, 120, sweep_messages.commands(view))
    assert "trial 1: accuracy 0.7000 with optim.lr=0.2" in text
    assert "optim.lr" in sweep_table.trials(view, 80).splitlines()[0]
    assert all(len(line) <= 80 for line in sweep_table.trials(view, 80).splitlines())
    of_all = {
        "method": "grid",
        "parameters": {"optim.lr": {"values": [0.1, 0.2, 0.3]}, "train.monitor": {"value": "loss"}},
    }
    for lower in (
        make_sweep(tmp_path / "base", train__monitor="loss"),
        make_sweep(tmp_path / "given", of_all),
    ):
        for number, value in enumerate((0.4, 0.3, 0.2)):
            make_run(lower, number, "done", [value])
        assert [trial.number for trial in read_sweep_view(lower.folder).ranked] == [2, 1, 0]


def test_a_trial_that_was_given_up_is_pruned_until_its_run_is_done(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {**GRID, "early_terminate": {"type": "hyperband", "min_iter": 1}})
    make_run(sweep, 0, "stopped", [0.1])
    decisions.note(sweep.folder, 0, "is given up", "after 1 epochs 0.1 is number 3 of 3")
    view = read_sweep_view(sweep.folder).trials[0].view
    assert (view.state, view.detail) == ("pruned", "after 1 epochs 0.1 is number 3 of 3")
    make_run(sweep, 0, "done", [0.1, 0.2])
    assert read_sweep_view(sweep.folder).trials[0].view.state == "done"


def test_a_torn_decision_is_passed_over_and_the_next_one_is_whole(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    decisions.note(sweep.folder, 0, "goes on", "first")
    with sweep.folder.decisions.open("a") as file:
        file.write('{"trial": 1, "wh')
    decisions.note(sweep.folder, 2, "is given up", "last")
    assert [value["reason"] for value in decisions.read(sweep.folder)] == ["first", "last"]
    assert decisions.given_up(sweep.folder) == {2: "last"}


def test_tables_of_all_trials_while_some_are_missing(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, name="x")
    make_run(sweep, 0, "done", [0.1, 0.6, 0.4])
    make_run(sweep, 1, "failed", [])
    found = gather.gather(sweep.folder, tmp_path / "out")
    assert found.missing == "missing: 1 failed (1); 1 new (2)"
    with (tmp_path / "out" / "trials.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["trial"], line["state"], line["optim.lr"]) for line in lines] == [
        ("0", "done", "0.1"),
        ("1", "failed", "0.2"),
        ("2", "new", "0.3"),
    ]
    assert (lines[0]["val/accuracy"], lines[0]["best_epoch"], lines[0]["epochs"]) == ("0.6", "2", "3")
    read = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert [row["val/accuracy"] for row in read] == [0.6, None, None]
    assert [row["run"] for row in read] == [line["run"] for line in lines]


def test_more_trials_than_are_done_cannot_be_averaged(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    with pytest.raises(RunError, match="no trial of sweep s is done yet; missing: 3 new"):
        gather.gather(sweep.folder, count=1)
    make_run(sweep, 0, "done", [0.1])
    with pytest.raises(ConfigError, match="--ensemble 2: 1 trials of sweep s are done; missing: 2 new"):
        gather.gather(sweep.folder, count=2)


def test_a_name_finds_a_sweep_or_a_run_but_not_both(tmp_path: Path) -> None:
    home, sweep = Home(tmp_path), make_sweep(tmp_path, name="clipart-big")
    assert home.find_sweep("clipart-b") == sweep.folder
    assert home.find_sweep(str(sweep.folder.path)) == SweepDir(sweep.folder.path)
    assert home.find_sweep("other") is None
    run = make_run(sweep, 0, "done", [0.1])
    assert home.find_sweep(run.run_id) is None and home.find_sweep("clipart-big") == sweep.folder
    with pytest.raises(ConfigError, match="'clipart' is ambiguous"):
        home.find_sweep("clipart")


def test_the_mean_of_models_answers_with_the_most_probable_class() -> None:
    one = {"probability": np.array([[0.6, 0.4], [0.1, 0.9]], np.float32), "label": np.array([0, 1])}
    two = {"probability": np.array([[0.1, 0.9], [0.3, 0.7]], np.float32), "label": np.array([1, 1])}
    found = load("clipart").ensemble([one, two])
    assert found["label"].tolist() == [1, 1]
    np.testing.assert_allclose(found["probability"], [[0.35, 0.65], [0.2, 0.8]], rtol=1e-6)


def test_the_mean_of_pair_models_scores_as_the_mean_of_their_scores() -> None:
    from fashion_dist.tasks.common.compatibility import ensemble, score_pairs

    rng = np.random.default_rng(0)
    members = [rng.normal(size=(6, width)) for width in (3, 9, 5)]
    first, second = np.array([0, 1, 2]), np.array([3, 4, 5])
    together = score_pairs(ensemble([{"embedding": rows} for rows in members])["embedding"], first, second)
    np.testing.assert_allclose(together, np.mean([score_pairs(rows, first, second) for rows in members], axis=0))
