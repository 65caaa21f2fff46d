"""What is told of a GPU that waits for its host; the events are put in."""

from __future__ import annotations

import pytest

from fashion_dist.train.idle_steps import ENOUGH, IdleSteps


class Event:
    """A CUDA event of a GPU that is done with everything at once, or with nothing."""

    idle = True

    def record(self) -> None:
        """Of nothing."""

    def query(self) -> bool:
        """Whether the GPU has come that far."""
        return self.idle


class Busy(Event):
    """Of a GPU that has work left."""

    idle = False


def epoch(watch: IdleSteps, images_s: float = 0.0, steps: int = ENOUGH + 1) -> str:
    for _ in range(steps):
        with watch.step(images_s):
            pass
    watch.forget()
    return watch.end_epoch()


def test_a_gpu_that_waits_for_its_kernels_is_told_once_and_behind_the_first_epoch() -> None:
    watch = IdleSteps(Event)
    assert epoch(watch) == "", "it fills caches and chooses kernels"
    told = epoch(watch)
    assert told.startswith(
        f"the GPU had nothing to do at the start of {ENOUGH} of {ENOUGH} steps: the host waits 0.0 ms"
    )
    assert "--set train.cuda_graph=true starts them at once, without train.accumulate, train.compile, " in told
    assert epoch(watch) == "" == epoch(watch)


@pytest.mark.parametrize(("images_s", "graphed"), [(0.1, False), (0.0, True)])
def test_one_that_waits_for_images_is_told_what_brings_them(images_s: float, graphed: bool) -> None:
    watch = IdleSteps(Event, graphed)
    epoch(watch, images_s)
    told = epoch(watch, images_s)
    assert f"waits {1000 * images_s:.1f} ms for a step's images" in told and "cuda_graph" not in told
    assert "--cache, more cores (--cpus-per-task)" in told


def test_nothing_is_told_of_a_busy_gpu_of_few_steps_and_of_a_cpu() -> None:
    busy, few, cpu = IdleSteps(Busy), IdleSteps(Event), IdleSteps(None)
    assert epoch(busy) == "" == epoch(busy)
    assert epoch(few) == "" == epoch(few, steps=ENOUGH)
    assert epoch(cpu) == "" == epoch(cpu)
