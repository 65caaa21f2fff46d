"""The model behind `bench.py scale --plan`."""

from __future__ import annotations

import dataclasses
from dataclasses import astuple

import pytest
from bench._forecast import Machine, all_reduce_s, forecast
from bench._set_plan import set_plan

FAST = Machine(
    compute_s=0.1, batch=64, gradient_bytes=100e6, node_gbytes=200, network_gbytes=25, latency_us=10,
    loads_per_s=float("inf"), sample_bytes=100e3, filesystem_gbytes=1000, samples=1_281_167,
)  # fmt: skip


def test_one_rank_is_what_was_measured() -> None:
    alone = forecast(FAST, 1, 1)
    assert alone.samples_per_s == pytest.approx(640) and alone.efficiency == 1.0 and alone.exposed_s == 0.0
    assert alone.epoch_s == pytest.approx(1_281_167 / 640)
    assert alone.bottleneck == "computation"


def test_a_ring_moves_nearly_twice_the_bytes() -> None:
    machine = dataclasses.replace(FAST, latency_us=0.0)
    assert all_reduce_s(machine, 2, 1, 25e9) == pytest.approx(1.0)
    assert all_reduce_s(machine, 64, 1, 25e9) == pytest.approx(2 * 63 / 64)
    assert all_reduce_s(machine, 1, 8, 200e9) == pytest.approx(2 * 7 / 8)


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"network_gbytes": 0.5}, "network"),
        ({"loads_per_s": 300.0}, "loader"),
        ({"filesystem_gbytes": 1.0}, "filesystem"),
        ({}, "computation"),
    ],
)
def test_the_first_limit_is_named(change: dict[str, float], limit: str) -> None:
    assert forecast(dataclasses.replace(FAST, **change), 64, 8).bottleneck == limit  # type: ignore[arg-type]


def test_throughput_never_falls_and_efficiency_never_rises_with_nodes() -> None:
    points = [forecast(FAST, nodes, 8) for nodes in (1, 2, 4, 8, 16, 32, 64)]
    rates = [point.samples_per_s for point in points]
    assert rates == sorted(rates)
    efficiencies = [point.efficiency for point in points]
    assert efficiencies == sorted(efficiencies, reverse=True) and efficiencies[-1] > 0.9


def test_an_exchange_that_takes_the_core_that_computes_is_waited_for() -> None:
    shared = dataclasses.replace(FAST, network_gbytes=1.0, latency_us=0.0, overlap=0.0)
    assert forecast(shared, 2, 1).exposed_s == pytest.approx(all_reduce_s(shared, 2, 1, 100e6))
    hidden = dataclasses.replace(shared, overlap=1.0)
    assert forecast(hidden, 2, 1).exposed_s < forecast(shared, 2, 1).exposed_s


def test_what_a_set_costs_grows_with_its_images_bytes_shards_and_ranks_alone() -> None:
    given = {"cores": 64, "filesystem_gbytes": 10.0, "calls_per_s": 20_000.0}
    one, four = (set_plan(k * 1e6, k * 1e11, k * 8, **given) for k in (1, 4))  # type: ignore[arg-type]
    assert all(many == pytest.approx(4 * few, rel=0.01) for few, many in zip(astuple(one), astuple(four), strict=True))


def test_a_full_filesystem_gives_all_it_has() -> None:
    machine = dataclasses.replace(FAST, filesystem_gbytes=1.0)
    assert forecast(machine, 64, 8).filesystem_gbytes == pytest.approx(1.0)
