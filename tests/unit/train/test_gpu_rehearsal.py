"""What is for GPUs, as far as it goes without one: operators, host reads in a step, settings, and memory's end."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_proof import drawn
from gpu_proof.ground import Ground
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fashion_dist.cluster.requirements import require_gpus, slow_precision, small_share
from fashion_dist.cluster.resources import Resources
from fashion_dist.config import Config, TrainConfig
from fashion_dist.data import dali
from fashion_dist.data.options import DECODES
from fashion_dist.errors import ConfigError, RunError
from fashion_dist.paths import RunDir
from fashion_dist.tasks import load
from fashion_dist.train import cuda_graph, memory
from fashion_dist.train.distributed import ProcessGroup, World
from fashion_dist.train.state import TrainState
from fashion_dist.train.trainer import Trainer, choose_kernels

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
TINY = ("data.image_px=32", "train.batch_size=8", "train.eval_batch_size=8", "model.name=mlp", "optim.warmup_epochs=0")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("gpu")
    drawn.write_photos(folder / "photos", 24, 6, 40)
    return Ground(CPU, True, folder, ("cpu",))


def test_dali_takes_every_operator_on_the_gpu_up_to_the_driver() -> None:
    from nvidia.dali import Pipeline  # noqa: TID251 - what the product asks of it is what is tested

    if torch.cuda.is_available():
        pytest.skip("a GPU runs the graphs themselves: tests/gpu")
    ways = ("gpu-hardware", *DECODES)
    for decode, encoded, bicubic, turned, cut in itertools.product(ways, *4 * [(False, True)]):
        pipe = Pipeline(batch_size=8, num_threads=1, device_id=None, exec_dynamic=True)
        with pipe:
            pipe.set_outputs(dali.operators("gpu", encoded, bicubic, decode, 32, turned, cut))
        with pytest.raises(RuntimeError, match="requires a CUDA-capable GPU"):
            pipe.build()


class HostReads(TorchDispatchMode):
    """Counts, by the function of ours that asks, the values of tensors that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique")):
            ours = [frame.name for frame in traceback.extract_stack() if "/fashion_dist/" in frame.filename]
            self.found.append(ours[-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings", [(), ("train.accumulate=2", "optim.clip_norm=1"), ("train.mixup=0", "train.cutmix=0")]
)
def test_a_step_reads_nothing_but_whether_a_cpu_s_gradient_is_finite(ground: Ground, settings: tuple[str, ...]) -> None:
    trainer, loader = ground.open(f"reads-{len(settings)}-{settings}"[:20], (*TINY, *settings), task="deepfashion")
    with loader, trainer:
        batches = loader.loader.epoch(0)
        micro = [[next(batches) for _ in range(trainer.config.train.accumulate)] for _ in range(2)]
        trainer.state.prepare_epoch()
        trainer.train_step(loader, micro[0])
        with HostReads() as reads:
            trainer.train_step(loader, micro[1])
    # The first is asked on CPUs alone, where it costs nothing; the count of averages is the host's own.
    assert reads.found == ["step_optimizer", *["update_parameters"] * (trainer.state.ema is not None)]


def test_batch_normalisation_over_ranks_keeps_its_state_and_needs_gpus() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    names = list(network.state_dict())
    two = World(0, 2, 0, 2)
    with pytest.raises(ConfigError, match="sync_batchnorm = True needs GPUs"):
        ProcessGroup(two, CPU).sync_batchnorm(network)
    assert ProcessGroup(World(), CPU).sync_batchnorm(network) is network
    synced = ProcessGroup(two, CUDA).sync_batchnorm(network)
    assert [type(module) for module in synced.modules()][2:] == [nn.SyncBatchNorm]
    assert list(synced.state_dict()) == names, "a checkpoint fits with and without"
    assert synced.eval()(torch.ones(2, 3, 4, 4)).shape == (2, 4, 4, 4), "one process evaluates it anywhere"


@pytest.mark.parametrize(
    ("settings", "nodes", "gpus", "told"),
    [
        (("train.batch_size=64",), 2, 8, "computes 4 images at a time"),
        (("train.batch_size=64",), 2, 8, "train.batch_size=256 or train.sync_batchnorm=true"),
        (("train.batch_size=64",), 2, 0, ""),
        (("train.batch_size=16",), 2, 0, "--set train.batch_size=32"),
        (("train.batch_size=64", "train.sync_batchnorm=true"), 2, 8, ""),
        (("train.batch_size=4",), 1, 1, ""),
    ],
)
def test_few_images_a_rank_are_told(settings: tuple[str, ...], nodes: int, gpus: int, told: str) -> None:
    config = load("deepfashion").recipe.override(settings)
    found = small_share(config, Resources(nodes=nodes, gpus_per_node=gpus))
    assert told in found and bool(told) is bool(found)
    assert "sync" not in found or gpus


@pytest.mark.parametrize("setting", ["train.cuda_graph=true", "train.sync_batchnorm=true"])
def test_what_only_a_gpu_does_is_refused_before_a_job_waits(setting: str) -> None:
    config = load("deepfashion").recipe.override([setting]).check()
    with pytest.raises(ConfigError, match=r"True needs GPUs, and none is asked for: --gpus-per-node N; allowed: false"):
        require_gpus(config, Resources(nodes=2))
    require_gpus(config, Resources(nodes=2, gpus_per_node=1))
    require_gpus(config, Resources(nodes=2, sbatch={"gpus": "2"}))
    require_gpus(load("deepfashion").recipe.override(["train.sync_batchnorm=true"]), Resources())


def test_fp16_on_a_cpu_is_told_and_done() -> None:
    fp16, auto = (load("deepfashion").recipe.override([f"train.precision={name}"]) for name in ("fp16", "auto"))
    assert "takes ten times as long; --set train.precision=auto is bf16 or fp32" in slow_precision(fp16, Resources())
    assert slow_precision(fp16, Resources(gpus_per_node=1)) == "" == slow_precision(auto, Resources())


class OnCard:
    """What is asked of a batch on a GPU before torch is."""

    device = CUDA


def test_recording_a_network_leaves_its_statistics_and_says_what_no_graph_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[0].register_forward_hook(lambda *_: caching.append(torch.is_autocast_cache_enabled()))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen, caching, autocast = torch.rand(2, 3, 4, 4), list[bool](), torch.autocast("cpu", cache_enabled=False)
    wrong: list[Exception] = []

    def record(model: nn.Module, _images: tuple[Any, ...], allow_unused_input: bool) -> None:
        assert allow_unused_input, "frozen layers have no gradient"
        assert not torch.is_autocast_enabled("cpu"), "the backward pass would round what the network keeps in fp32"
        assert {model(seen).dtype for _ in range(3)} == {torch.bfloat16}
        try:
            for error in wrong[:1]:
                raise error
        finally:
            for error in wrong[1:]:
                raise error

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    cuda_graph.record(network, OnCard(), autocast)  # type: ignore[arg-type]
    assert not any(caching), "a graph holds every cast"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network(seen).dtype == torch.bfloat16, "it replays"
    assert network.eval()(seen).dtype == torch.float32, "evaluation says for itself"
    cuda_graph.record(nn.Conv2d(3, 4, 1), OnCard(), autocast)  # type: ignore[arg-type] # without any statistics
    last = RuntimeError("operation failed due to a previous error during capture")
    for first in (RuntimeError("not permitted\nmore"), AssertionError("no hooks"), AttributeError("no tensor")):
        wrong[:] = first, last
        with pytest.raises(ConfigError, match=f"with this network, '{str(first).splitlines()[0]}'; allowed: false"):
            cuda_graph.record(nn.Conv2d(3, 4, 1), OnCard(), autocast)  # type: ignore[arg-type]
        wrong.pop()
        with pytest.raises(ConfigError, match="allowed: false"):
            cuda_graph.record(nn.Conv2d(3, 4, 1), OnCard(), autocast)  # type: ignore[arg-type]
    wrong[:] = torch.OutOfMemoryError("CUDA out of memory"), last
    with pytest.raises(torch.OutOfMemoryError) as ended:
        cuda_graph.record(nn.Conv2d(3, 4, 1), OnCard(), autocast)  # type: ignore[arg-type]
    assert memory.doing(ended.value) == "training"
    with pytest.raises(ConfigError, match="cuda_graph = True needs a GPU"):
        cuda_graph.record(network, seen, torch.autocast("cpu"))


def test_the_batch_that_is_recorded_is_one_of_training(ground: Ground) -> None:
    trainer, loader = ground.open("blank", TINY)
    with trainer, loader:
        images, blank = next(iter(loader.loader.epoch(0))).images, loader.blank_images()
    assert (images.shape, images.dtype, images.stride()) == (blank.shape, blank.dtype, blank.stride())


@pytest.mark.parametrize(
    ("setting", "watched"), [("precision=bf16", True), ("precision=fp16", False), ("on_nonfinite=skip", False)]
)
def test_a_gpu_is_not_watched_where_each_step_waits_for_its_gradient(
    ground: Ground, setting: str, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = TrainState.create
    monkeypatch.setattr(TrainState, "create", lambda model, config, _device, dtype: on_cpu(model, config, CPU, dtype))
    task, dist = load("fashion_mnist"), ProcessGroup(World(), CUDA)
    config = task.recipe.override([*TINY, "train.precision=bf16", f"train.{setting}"])
    with Trainer(config, task, ground.set_of(), dist, RunDir(ground.folder / setting)) as trainer:
        assert (trainer._idle._make_event is torch.cuda.Event) is watched


@pytest.fixture
def kernels() -> Iterator[None]:
    yield
    choose_kernels(False)


@pytest.mark.usefixtures("kernels")
def test_deterministic_runs_take_no_kernel_by_its_speed(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    trainer, loader = ground.open("deterministic", (*TINY, "train.deterministic=true"))
    loader.loader.close()
    trainer.close()
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    trainer, loader = ground.open("fast", TINY)
    loader.loader.close()
    trainer.close()
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    debug = Config("t", "d").debug().train
    choose_kernels(debug.deterministic, debug.cudnn_benchmark)
    assert not torch.backends.cudnn.benchmark, "a trial of a minute does not wait for it"


def test_settings_of_later_leave_ids_as_they_were() -> None:
    plain = Config("t", "d")
    same = plain.override(["train.deterministic=false", "train.sync_batchnorm=false", "train.gradients=fp32"])
    assert same == plain
    with pytest.raises(ConfigError, match=r"train\.gradients"):
        plain.override(["train.gradients=int8"])


def too_much(*_: object) -> None:
    torch.empty(1 << 55, dtype=torch.uint8)


@pytest.mark.parametrize(("at", "doing", "fits"), [
    ("model", "training", "train.accumulate=2 with the same global batch of 8"),
    ("val", "evaluating", "train.eval_batch_size=4"),
])  # fmt: skip
def test_a_run_out_of_memory_says_what_it_held_and_what_fits(
    ground: Ground, at: str, doing: str, fits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, loader = ground.open(f"memory-{at}", TINY, task="deepfashion", cache="ram")
    loader.loader.close()
    trainer.logger.close()  # `fit` opens its own
    if at == "model":
        trainer.state.model.register_forward_hook(too_much)
    else:
        trainer.state.evaluated_model().register_forward_hook(too_much)
        monkeypatch.setattr(trainer, "train_epoch", lambda _train: True)
    with pytest.raises(RunError) as ended:
        trainer.fit()
    told = str(ended.value)
    assert "\n" not in told and told.startswith(f"out of memory on this node, {doing} at epoch 1: model 0.0")
    assert fits in told and "--cache none" in told and "--mem" in told and "cache: ram, 24 of 24" in told


@pytest.mark.parametrize(
    ("settings", "ranks", "cached", "fits"),
    [
        ({"batch_size": 256}, 4, True, ["--cache none", "train.accumulate=2"]),
        ({"batch_size": 6, "accumulate": 1}, 2, False, ["train.accumulate=3"]),
        ({"batch_size": 4}, 4, False, ["a smaller network or data.image_px"]),
        ({"batch_size": 8, "cuda_graph": True}, 4, False, ["train.accumulate=2 train.cuda_graph=false with the same"]),
    ],
)
def test_what_fits_divides_the_batch(settings: dict[str, int], ranks: int, cached: bool, fits: list[str]) -> None:
    train = TrainConfig(**settings)  # type: ignore[arg-type]
    caches = ["cache: gpu, 9 of 9 decoded images, 1.20 GB" if cached else "cache: none"]
    held = {"model": 10**9, "optimizer": 2 * 10**9, "average of the weights": 0}
    told = memory.out_of_memory("cuda:0 (79.1 GB)", "training", 2, held, 70 * 10**9, train, ranks, caches)
    assert "model 1.00 GB, optimizer 2.00 GB, activations" in told and "up to 67.00 GB" in told
    assert all(fit in told.partition("What fits: ")[2] for fit in fits) and ("1.20 GB" in told) is cached


def test_only_an_end_of_memory_is_told_as_one() -> None:
    with pytest.raises(RuntimeError) as host:
        too_much()
    assert memory.is_out_of_memory(host.value) and memory.is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert not memory.is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))
