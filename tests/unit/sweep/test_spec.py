"""W&B's sweep files and lists of settings: what is read, what is refused, and which trials they mean."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fashion_dist.errors import ConfigError, InputError
from fashion_dist.models import registry
from fashion_dist.sweep import expand, spec
from fashion_dist.sweep.sweep_record import parse_ranges, ranges, sweep_id
from fashion_dist.tasks.clipart import RECIPE

KEYS = RECIPE.keys()


def parse(values: dict[str, Any]) -> spec.Spec:
    return spec.parse(values, "s.yaml", KEYS)


def grid(**parameters: Any) -> dict[str, Any]:
    return {"method": "grid", "parameters": {key.replace("__", "."): value for key, value in parameters.items()}}


def test_a_grid_is_every_combination_with_the_last_parameter_fastest() -> None:
    found = expand.expand(
        parse(grid(optim__name={"values": ["sgd", "adam"]}, model__pool={"values": ["max", "avg"]})), 0
    )
    assert found == [
        {"model.pool": "max", "optim.name": "sgd"},
        {"model.pool": "max", "optim.name": "adam"},
        {"model.pool": "avg", "optim.name": "sgd"},
        {"model.pool": "avg", "optim.name": "adam"},
    ]


def test_nested_parameters_are_dotted_settings() -> None:
    nested = {"optim": {"parameters": {"name": {"values": ["sgd", "adam"]}, "lr": {"value": 0.1}}}}
    assert [p.key for p in parse({"method": "grid", "parameters": nested}).parameters] == ["optim.lr", "optim.name"]


def test_a_grid_counts_whole_numbers_and_equal_values_once() -> None:
    found = parse(grid(train__epochs={"min": 2, "max": 4}, optim__lr={"values": [1, 1.0, 0.5]}))
    assert expand.count(found, seeds=1) == 6
    assert [point["train.epochs"] for point in expand.expand(found, 0)] == [2, 3, 4, 2, 3, 4]
    assert expand.count(found, seeds=3) == 18
    assert len(expand.expand(parse({**grid(train__epochs={"min": 2, "max": 40}), "run_cap": 5}), 0)) == 5


def random(run_cap: int, **parameters: Any) -> spec.Spec:
    return parse({**grid(**parameters), "method": "random", "run_cap": run_cap})


DRAWN: dict[str, Any] = {
    "optim__lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
    "model__dropout": {"min": 0.0, "max": 0.5},
    "train__epochs": {"distribution": "int_uniform", "min": 3, "max": 9},
    "optim__weight_decay": {"distribution": "normal", "mu": 5.0, "sigma": 0.1},
    "model__pool": {"values": ["max", "avg"], "probabilities": [0.9, 0.1]},
}


def test_random_draws_are_the_same_again_and_a_longer_sweep_begins_with_the_shorter() -> None:
    long, short = expand.expand(random(300, **DRAWN), 0), expand.expand(random(20, **DRAWN), 0)
    assert long[:20] == short and long == expand.expand(random(300, **DRAWN), 0)
    assert expand.expand(random(20, **DRAWN), 1) != short
    rates = sorted(point["optim.lr"] for point in long)
    assert rates[0] >= 1e-4 and rates[-1] <= 1e-1 and 1e-3 < rates[150] < 1e-2  # the median of a log-uniform one
    assert {point["train.epochs"] for point in long} == set(range(3, 10))
    assert 0.4 < sum(point["model.dropout"] for point in long) / 300 / 0.5 < 0.6
    assert all(4 < point["optim.weight_decay"] < 6 for point in long)
    assert 230 < sum(point["model.pool"] == "max" for point in long) < 300


def test_repeats_differ_in_the_seed_alone() -> None:
    found = expand.repeated([{"optim.lr": 0.1}, {"optim.lr": 0.2}], 3, 5)
    assert [(point["optim.lr"], point["train.seed"]) for point in found] == [
        (rate, seed) for rate in (0.1, 0.2) for seed in (5, 6, 7)
    ]


def test_the_settings_of_a_trial_are_read_back_by_the_configuration() -> None:
    point = {"data.crop_scale": (0.5, 1.0), "train.compile": True, "optim.lr": 1e-05, "model.pool": "max"}
    config = RECIPE.override(expand.texts(point))
    assert (config.data.crop_scale, config.train.compile) == ((0.5, 1.0), True)
    assert (config.optim.lr, registry.resolve(config).model.args["pool"]) == (1e-5, "max")
    with pytest.raises(ConfigError, match=r"optim\.lr = None is not possible"):
        expand.texts({"optim.lr": None})


def test_settings_on_the_command_line_are_lists_but_tuples_stay_whole() -> None:
    found = spec.from_settings(["optim.name=sgd,adam", "data.crop_scale=0.5,1.0", "train.epochs=3"], RECIPE)
    assert found == {
        "optim.name": {"values": ["sgd", "adam"]},
        "data.crop_scale": {"value": "0.5,1.0"},
        "train.epochs": {"value": "3"},
    }


def test_early_terminate_is_a_list_of_rungs() -> None:
    def halving(**values: Any) -> spec.HyperbandConfig | None:
        return parse({**grid(optim__lr={"value": 1}), "early_terminate": {"type": "hyperband", **values}}).halving

    assert halving(min_iter=2, eta=3, s=3) == spec.HyperbandConfig((2, 6, 18), 3.0)
    assert halving(max_iter=27, s=3) == spec.HyperbandConfig((1, 3, 9), 3.0)
    found = halving(min_iter=1)
    assert found is not None and found.rungs[:4] == (1, 3, 9, 27)


def test_trials_and_rungs_are_counted_before_they_are_made() -> None:
    huge = parse(grid(train__seed={"min": 0, "max": 10**13}, optim__lr={"values": [0.1, 0.2]}))
    assert expand.count(huge, 1) == 2 * (10**13 + 1)
    for yes in (False, True):
        with pytest.raises(ConfigError, match=r"20,000,000,000,002 trials; allowed"):
            expand.require_few(huge, 1, yes)
    capped = parse({**grid(train__seed={"min": 0, "max": 10**13}, optim__lr={"values": [0.1, 0.2]}), "run_cap": 3})
    assert [point["train.seed"] for point in expand.expand(capped, 0)] == [0, 1, 2]
    rungs = {"type": "hyperband", "min_iter": 1, "eta": 2, "s": 10**8}
    found = parse({**grid(optim__lr={"value": 1}), "early_terminate": rungs}).halving
    assert found is not None and found.rungs[:3] == (1, 2, 4) and len(found.rungs) <= 64


def test_a_file_that_is_nested_too_deep_is_no_sweep(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "a: " + "{b: " * 50_000, "x: 9" + "9" * 5000):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"s\.yaml"):
            parse(spec.read_yaml(tmp_path / "s.yaml"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": ["grid"]}, "method is ['grid']"),
        (grid(optim__lr={"distribution": ["x"]}), "unknown distribution"),
        ({**grid(optim__lr={"values": [1], "probabilities": 5}), "method": "random", "run_cap": 1}, "one probability"),
        (grid(train__seed={"min": 0, "max": 2**70}), "allowed: numbers"),
        ({"method": "random", "run_cap": 2**70, "parameters": {}}, "run_cap is"),
        (
            {**grid(optim__lr={"value": 1}), "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1e300}},
            "eta",
        ),
        ({"method": "gird"}, "method is 'gird'; allowed: grid, random, bayes"),
        ({**grid(), "metrc": {}}, "unknown key 'metrc'; known: "),
        (grid(optim__name={"values": []}), "optim.name has no values to try"),
        (grid(optim__lrr={"value": 1}), "unknown setting 'optim.lrr'; nearest: optim.lr"),
        ({**grid(optim__lr={"values": [1]}), "method": "random"}, "a random sweep has no end without run_cap"),
        ({**grid(optim__lr={"values": [1]}), "run_cap": 0}, "run_cap is 0; allowed: a whole number of 1 or more"),
        (grid(optim__lr={"min": 0.1, "max": 0.2}), "optim.lr is uniform, which a grid cannot count"),
        (grid(optim__lr={"vals": [1]}), "optim.lr has no value; allowed: value, values"),
        (grid(optim__lr={"value": 1, "max": 2}), "unknown key for constant 'max'; known: value"),
        (grid(optim__lr={"distribution": "beta"}), "unknown distribution 'beta'; known: "),
        (grid(train__epochs={"min": 5, "max": 5}), "min = 5, max = 5; allowed: numbers, min below max, whole ones"),
        (grid(optim__lr=[1, 2]), "parameter optim.lr is [1, 2]; allowed: value, values"),
        ({**grid(optim__lr={"value": 1}), "metric": {"name": "x", "goal": "up"}}, "metric.goal is 'up'"),
        ({**grid(optim__lr={"value": 1}), "metric": {"name": "test/x"}}, "allowed: val/x or x"),
        ({**grid(optim__lr={"value": 1}), "early_terminate": {"type": "median"}}, "allowed: hyperband"),
        ({**grid(optim__lr={"value": 1}), "early_terminate": {"type": "hyperband"}}, "min_iter, or max_iter with s"),
        (
            {**grid(optim__lr={"values": [1, 2], "probabilities": [0.5, 0.6]}), "method": "random", "run_cap": 2},
            "add up to 1.1",
        ),
        (grid(optim={"parameters": {"lr": {"value": 1}}}, optim__lr={"value": 2}), "named twice"),
    ],
)
def test_what_cannot_be_is_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(values)
    assert str(refused.value).startswith("s.yaml: ") and words in str(refused.value)


def test_a_file_that_is_no_sweep(tmp_path: Path) -> None:
    for text, words in (
        ("- a", "not a sweep"),
        ("a: [", "is not YAML"),
        ("a: &b [*b]", "a list that holds itself"),
        ("a:\n  b: {value: 1}\n  b: {value: 2}", "line 3: b stands twice"),
        (None, "No such file"),
    ):
        path = tmp_path / "x.yaml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            spec.read_yaml(path)
    with pytest.raises(InputError, match=r"~nobody-of-that-name/x\.yaml: ~nobody-of-that-name is no user's home"):
        spec.read_yaml(Path("~nobody-of-that-name/x.yaml"))


def test_what_json_has_not_is_the_text_that_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("project: 2026-01-31\ncommand: {1: a, b: c}\nparameters: {a: &v {value: 1e-3}, b: *v, c: {<<: *v}}")
    assert spec.read_yaml(path) == {
        "project": "2026-01-31",
        "command": {"1": "a", "b": "c"},
        "parameters": {key: {"value": "1e-3"} for key in "abc"},
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("&v [*v]", "a list that holds itself"),
        ("[&a [1, 2, 3, 4, 5, 6, 7, 8, 9], "
         + ", ".join(f"&{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in pairwise("abcdefghi")) + "]",
         "more than 1,000,000 values"),
        (f"[0x{'f' * 4000}]", "more than 64 bits"),
        (f"[{':'.join(['59'] * 300)}.5]", "int too large"),
        ("[!!timestamp x]", "is not YAML"),
        ("[!!float x]", "is not YAML"),
    ],
)  # fmt: skip
def test_what_few_lines_of_yaml_can_be_is_one_sentence(tmp_path: Path, values: str, words: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"method: grid\nparameters: {{train.seed: {{values: {values}}}}}\n")
    with pytest.raises(ConfigError, match=words):
        spec.read_yaml(path)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "method: random\nrun_cap: 3\nparameters: {optim.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}}"
    )
    (parameter,) = parse(spec.read_yaml(path)).parameters
    assert (parameter.low, parameter.high) == (1e-4, 1e-1)


def test_ten_thousand_trials_ask() -> None:
    large = parse(grid(train__epochs={"min": 1, "max": 10_001}))
    with pytest.raises(ConfigError, match="10,001 trials; allowed without --yes: 10,000"):
        expand.require_few(large, 1, yes=False)
    expand.require_few(large, 1, yes=True)


def test_any_name_makes_a_plain_folder_of_its_own() -> None:
    names = ["a b", "a-b", "a'b", "; rm -rf ~", "ñandú", "$(id)", "...", "a/../b", "x" * 200]
    ids = [sweep_id(name) for name in names]
    assert len(set(ids)) == len(names) and ids[1] == "a-b"
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") for one in ids)
    assert all(not one.startswith(("-", ".")) and len(one) < 80 for one in ids)


@pytest.mark.parametrize(("numbers", "text"), [([0, 1, 2, 5], "0-2,5"), ([7], "7"), ([], ""), ([1, 3], "1,3")])
def test_slurms_way_to_write_numbers(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text and parse_ranges(text) == numbers
