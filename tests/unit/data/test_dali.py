"""DALI: the decoder, and the GPU's graph built of CPU operators."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_dist.config import DataConfig
from fashion_dist.data.augment import AugmentParams
from fashion_dist.data.backends import CachedBackend, CpuBackend, GpuBackend, Upload
from fashion_dist.data.batch_plan import BatchPlanner, Work
from fashion_dist.data.cache import Cache, GpuCache, areas
from fashion_dist.data.dali import Decoder, Graph
from fashion_dist.data.decode import CachedDecoder
from fashion_dist.data.shard_reader import ShardFiles
from shards import ShardSet

DATA = DataConfig(image_px=32, brightness=0.2, saturation=0.3, hue=20, grayscale=0.2, erase=0.4)
TURNED = replace(DATA, rotate=60, shear=20)
CPU = torch.device("cpu")


def setting(shard_set: ShardSet, data: DataConfig = DATA) -> tuple[BatchPlanner, Work, list[np.ndarray]]:
    split = shard_set.split("train")
    planner = BatchPlanner(split, np.arange(len(split))[:, None], data, True, seed=1)
    work = planner.work(np.arange(24), 0, np.zeros(24, np.int64))
    files = ShardFiles(split)
    images = [files.read(row) for row in work.rows.tolist()]
    files.close()
    return planner, work, images


def engine_result(
    engine: CpuBackend | GpuBackend | CachedBackend, work: Work, images: list[np.ndarray]
) -> torch.Tensor:
    missing = engine.missing(work.rows)
    engine.begin(work, [image if wanted else None for image, wanted in zip(images, missing, strict=True)])
    rendered = engine.finish(work)
    assert not isinstance(rendered, dict)
    return rendered.wait()


@pytest.mark.parametrize("data", [DATA, TURNED, replace(DATA, interpolation="bicubic")])
def test_the_gpu_s_graph_computes_what_the_cpu_computes(photos_set: ShardSet, data: DataConfig) -> None:
    planner, work, images = setting(photos_set, data)

    def decoder(cache: Cache | None) -> CachedDecoder:
        return CachedDecoder(24, 2, planner.stored_sizes, 0, cache)

    bicubic = data.interpolation == "bicubic"

    some = int(areas(planner.sizes[:7]).sum())
    there = GpuCache(planner.sizes, some, CPU)

    def graph(encoded: bool) -> Graph:
        return Graph(32, 24, 2, None, encoded, bicubic=bicubic)

    engines = {
        "cpu": CpuBackend(decoder(None), 32, 2, torch.float32, bicubic),
        "graph": GpuBackend(graph(True), torch.float32),
        "pixels": CachedBackend(decoder(None), graph(False), torch.float32, CPU),
        "cached": CachedBackend(
            decoder(Cache(planner.sizes, int(areas(planner.sizes).sum()))),
            graph(False),
            torch.float32,
            CPU,
        ),
        "cached there": CachedBackend(
            CachedDecoder(24, 2, planner.stored_sizes, 0, there), graph(False), torch.float32, CPU
        ),
    }  # fmt: skip
    results = {name: engine_result(engine, work, images).clone() for name, engine in engines.items()}
    assert engines["cached there"].missing(np.arange(24)).tolist() == [False] * 7 + [True] * 17
    again = engine_result(engines["cached"], work, images)
    assert torch.equal(again, engine_result(engines["cached there"], work, images))
    for engine in engines.values():
        engine.close()
    assert not (results["cpu"] - results["graph"]).abs().mean() > 0.02
    assert torch.equal(results["graph"], results["pixels"]) and torch.equal(results["graph"], results["cached"])
    assert torch.equal(again, results["cached"]) and torch.equal(again, results["cached there"])
    erased = [results[name].eq(0).all(-1) for name in ("cpu", "graph")]
    assert torch.equal(*erased)


def test_both_graphs_name_what_does_not_decode(photos_set: ShardSet) -> None:
    planner, work, images = setting(photos_set)
    images[3] = images[3][: len(images[3]) // 2]
    images[11] = np.frombuffer(b"not an image at all" * 9, np.uint8)
    for engine in (
        CpuBackend(CachedDecoder(24, 2, planner.stored_sizes, 0, None), 32, 1, torch.float32),
        GpuBackend(Graph(32, 24, 2, None, encoded=True), torch.float32),
    ):
        engine.begin(work, list(images))
        wrong = engine.finish(work)
        assert isinstance(wrong, dict) and sorted(wrong) == [3, 11]
        assert all(reason.startswith("does not decode: ") and len(reason) > 20 for reason in wrong.values())
        kept = work.without(np.isin(np.arange(24), [3, 11]))
        left = [image for i, image in enumerate(images) if i not in (3, 11)]
        assert engine_result(engine, kept, left).shape == (22, 32, 32, 3)
        engine.close()


def test_a_region_has_the_pixels_of_the_whole(photos_set: ShardSet) -> None:
    planner, work, images = setting(photos_set)
    whole = np.column_stack([np.zeros_like(planner.sizes), planner.sizes])[work.rows].astype(np.int32)
    decoder = Decoder(24, 2)
    decoder.start(images, whole)
    full, wrong = decoder.finish()
    decoder.start(images, work.draws.boxes)
    parts, wrong_parts = decoder.finish()
    assert not wrong and not wrong_parts
    for i, (left, top, width, height) in enumerate(work.draws.boxes.tolist()):
        assert np.array_equal(parts(i), full(i)[top : top + height, left : left + width])


def test_an_image_of_another_size_than_the_index_says_is_damaged(photos_set: ShardSet) -> None:
    planner, work, images = setting(photos_set)
    decoder = Decoder(24, 1)
    wrong = decoder.probe(images[0], np.array([0, 0, *(planner.sizes[0] + 1)], np.int32))
    assert wrong is not None
    assert decoder.probe(images[0], np.array([0, 0, *planner.sizes[0]], np.int32)) is None
    assert isinstance(work.draws, AugmentParams)


def test_the_reason_is_dali_s_own_and_no_line_of_ours() -> None:
    cut = setting_free_jpeg()[:120]
    decoder, box = Decoder(2, 1), np.array([[0, 0, 8, 8]], np.int32)
    for data, told in (
        (b"\xff\xd8\xff" + bytes(500), "bad code stream"),
        (b"no picture at all" * 9, "unsupported code"),
    ):
        assert told in str(decoder.probe(np.frombuffer(data, np.uint8), box[0]))
    assert (
        "dali.py" not in (reason := str(decoder.probe(np.frombuffer(cut, np.uint8), box[0]))) and "_slice" not in reason
    )


def setting_free_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def no_kernel_image(*settings: object) -> None:
    raise RuntimeError(f"no kernel image for this GPU {settings}")


def test_a_batch_of_damaged_images_is_told_apart_from_a_gpu_that_does_not_work(photos_set: ShardSet) -> None:
    _, work, images = setting(photos_set)
    two, garbage = work.part(slice(0, 2)), np.zeros(300, np.uint8)
    backend = GpuBackend(Graph(32, 24, 2, None, encoded=True), torch.float32)
    backend.begin(two, [garbage, garbage])
    wrong = backend.finish(two)
    assert isinstance(wrong, dict) and set(wrong) == {0, 1}
    broken = Graph(32, 24, 2, None, encoded=True)
    broken._build = no_kernel_image  # type: ignore[assignment]
    backend = GpuBackend(broken, torch.float32)
    with pytest.raises(RuntimeError, match="no kernel image"):
        backend.begin(two, images[:2])
    backend.drop()  # nothing was begun, and nothing else is reported
    broken.discard()


def test_images_of_the_cpu_and_of_the_device_come_as_one_batch() -> None:
    mixed = [
        np.full((2, 3, 3), 1, np.uint8),
        torch.full((1, 1, 3), 2, dtype=torch.uint8),
        np.full((4, 1, 3), 3, np.uint8),
    ]
    upload = Upload(CPU)
    assert upload([]) == []
    found = upload([np.flip(mixed[0], 0), *mixed[1:]])
    assert all(torch.equal(mine, torch.as_tensor(image)) for mine, image in zip(found, mixed, strict=True))
    assert torch.equal(upload(mixed[2:])[0], torch.as_tensor(mixed[2])), "of fewer images than before"
