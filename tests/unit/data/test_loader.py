"""What a user of the loader relies on, on real shards and through DALI."""

from __future__ import annotations

import io
import itertools
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fashion_dist.config import DataConfig
from fashion_dist.data import Batch, Loader, LoaderOptions
from fashion_dist.data.batch_plan import Work
from fashion_dist.data.decode import CachedDecoder
from fashion_dist.data.sampler import weighted_order
from fashion_dist.data.shard_reader import Encoded, Fetched, Fetcher
from fashion_dist.errors import DamageError
from shards import ShardSet

DATA = DataConfig(
    image_px=32, rotate=20, shear=5, brightness=0.2, contrast=0.2, saturation=0.2, hue=10, grayscale=0.1, erase=0.2,
    rand_ops=1,
)  # fmt: skip
Ledger = dict[tuple[int, int, int], bytes]
"""(epoch, step, example) -> the pixels it had."""


def make(
    shard_set: ShardSet, *, name: str = "train", k: int = 1, data: DataConfig = DATA, **settings: object
) -> Loader:
    split = shard_set.split(name)
    rows = np.arange(len(split))
    images = rows[:, None] if k == 1 else np.column_stack([np.roll(rows, shift) for shift in range(k)])
    chosen = {"batch_size": 16, "training": name == "train", "seed": 3} | settings
    return Loader(split, images, data, **chosen)  # type: ignore[arg-type]


def ledger(loader: Loader, epochs: int = 1, start: int = 0, accumulate: int = 1) -> Ledger:
    seen: Ledger = {}
    for epoch in range(epochs):
        first = start if epoch == 0 else 0
        for micro, batch in enumerate(loader.epoch(epoch, first, until=epochs)):
            for example, image in zip(batch.index.tolist(), batch.images, strict=True):
                assert (epoch, first + micro // accumulate, example) not in seen
                seen[epoch, first + micro // accumulate, example] = image.contiguous().numpy().tobytes()
    return seen


def pixels_of(batch: Batch) -> dict[int, bytes]:
    images = [image.contiguous().numpy().tobytes() for image in batch.images]
    return dict(zip(batch.index.tolist(), images, strict=True))


def both(loaders: list[Loader], **settings: int) -> Ledger:
    merged: Ledger = {}
    for loader in loaders:
        with loader:
            mine = ledger(loader, **settings)
        assert not mine.keys() & merged.keys()
        merged |= mine
    return merged


@pytest.fixture(scope="module")
def alone(photos_set: ShardSet) -> Ledger:
    """Three epochs on one rank."""
    return both([make(photos_set)], epochs=3)


def test_batches_are_what_a_model_wants(photos_set: ShardSet) -> None:
    with make(photos_set) as loader:
        batch = next(loader.epoch(0))
        assert batch.images.shape == (16, 3, 32, 32) and batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.index.dtype == torch.int64
        assert batch.images.isfinite().all() and 0.5 < float(batch.images.std()) < 2
    with make(photos_set, dtype=torch.bfloat16) as loader:
        half = next(loader.epoch(0))
        assert torch.equal(half.images, batch.images.to(torch.bfloat16))


def test_an_epoch_sees_every_sample_once_but_for_the_remainder(alone: Ledger) -> None:
    left_out = []
    for epoch in range(3):
        seen = [example for e, _, example in alone if e == epoch]
        assert len(seen) == len(set(seen)) == 80
        left_out.append(set(range(83)) - set(seen))
    assert len(set(map(frozenset, left_out))) == 3


@pytest.mark.parametrize(("ranks", "accumulate", "threads"), [(1, 2, 1), (2, 1, 2), (4, 1, 1), (4, 2, 3)])
def test_any_number_of_ranks_sees_the_same(
    photos_set: ShardSet, alone: Ledger, ranks: int, accumulate: int, threads: int
) -> None:
    options = LoaderOptions(threads=threads)
    loaders = [
        make(photos_set, rank=rank, world_size=ranks, accumulate=accumulate, options=options) for rank in range(ranks)
    ]
    assert both(loaders, epochs=3, accumulate=accumulate) == alone


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_run_resumed_at_any_step_goes_on_with_the_next_sample(
    photos_set: ShardSet, alone: Ledger, ranks: int
) -> None:
    loaders = [make(photos_set, rank=rank, world_size=ranks) for rank in range(ranks)]
    for start in range(loaders[0].steps + 1):
        resumed: Ledger = {}
        for loader in loaders:
            resumed |= ledger(loader, start=start)
        assert resumed == {key: pixels for key, pixels in alone.items() if key[0] == 0 and key[1] >= start}
    for loader in loaders:
        loader.close()


def test_an_iteration_left_early_leaves_no_trace(photos_set: ShardSet, alone: Ledger) -> None:
    with make(photos_set) as loader:
        for taken in (0, 1, 3):
            list(itertools.islice(loader.epoch(1), taken))
        assert ledger(loader) == {key: pixels for key, pixels in alone.items() if key[0] == 0}


def test_batches_that_are_kept_are_not_overwritten(photos_set: ShardSet) -> None:
    with make(photos_set) as loader:
        kept = list(loader.epoch(0))
        copies = [batch.images.clone() for batch in kept]
        list(loader.epoch(1))
        for batch, copy in zip(kept, copies, strict=True):
            assert torch.equal(batch.images, copy)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_evaluation_counts_each_sample_once_in_the_same_blocks(photos_set: ShardSet, ranks: int) -> None:
    blocks: dict[int, list[int]] = {}
    pixels: dict[int, bytes] = {}
    for rank in range(ranks):
        with make(photos_set, name="val", batch_size=8, rank=rank, world_size=ranks) as loader:
            batches = list(loader.epoch(0))
            assert len(batches) == loader.steps
            for batch in batches:
                blocks[int(batch.index[0])] = batch.index.tolist()
                pixels |= {
                    i: x.contiguous().numpy().tobytes() for i, x in zip(batch.index.tolist(), batch.images, strict=True)
                }
    assert [blocks[start] for start in sorted(blocks)] == [list(range(0, 8)), list(range(8, 16)), list(range(16, 21))]
    with make(photos_set, name="val", batch_size=21) as loader:
        whole = next(loader.epoch(7))
    assert pixels == pixels_of(whole)


def test_evaluation_shows_the_middle_of_the_picture(photos_set: ShardSet) -> None:
    """Against Pillow: every format, EXIF rotation, gray, PNG and progressive JPEG."""
    split = photos_set.split("val")
    data = DataConfig(image_px=32, mean=(0, 0, 0), std=(1, 1, 1), eval_resize=1.2)
    with make(photos_set, name="val", batch_size=21, data=data) as loader:
        batch = next(loader.epoch(0))
    for row, image in enumerate(batch.images):
        path = photos_set.path / split.shard_names[split.shard[row]]
        with path.open("rb") as file:
            file.seek(int(split.offset[row]))
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file.read(int(split.size[row]))))).convert("RGB")
        side = round(32 * 1.2)
        width, height = (side * length // min(picture.size) for length in picture.size)
        left, top = round((width - 32) / 2), round((height - 32) / 2)
        crop = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 32))
        difference = np.abs(image.permute(1, 2, 0).numpy() * 255 - np.asarray(crop, np.float32))
        assert difference.max() < 12 and difference.mean() < 1, split.keys[row]


def test_pairs_and_triples_come_as_one_example(photos_set: ShardSet) -> None:
    with make(photos_set, k=3, batch_size=8) as loader:
        batches = list(loader.epoch(0))
    assert batches[0].images.shape == (8, 3, 3, 32, 32)
    assert batches[0].images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    seen = torch.cat([batch.index for batch in batches])
    assert len(seen.unique()) == len(seen) == 80
    two = both_pairs(photos_set, 2)
    assert two == both_pairs(photos_set, 1)


def both_pairs(photos_set: ShardSet, ranks: int) -> Ledger:
    return both([make(photos_set, k=2, rank=rank, world_size=ranks) for rank in range(ranks)])


def test_the_same_image_in_two_examples_is_treated_anew(photos_set: ShardSet) -> None:
    split = photos_set.split("train")
    images = np.full((16, 2), 5)
    with Loader(split, images, DATA, batch_size=16, training=True) as loader:
        batch = next(loader.epoch(0))
    flat = batch.images.flatten(0, 1).flatten(1)
    assert len(flat.unique(dim=0)) == 32


def test_balanced_and_weighted_orders(photos_set: ShardSet) -> None:
    classes = np.array([0] * 60 + [1] * 20 + [2] * 3)
    with make(photos_set, classes=classes) as loader:
        index = torch.cat([batch.index for batch in loader.epoch(0)]).numpy()
    counts = np.bincount(classes[index])
    assert counts.min() >= 22  # a third of 83, less what the remainder may hold
    weights = np.zeros(83)
    weights[[4, 7]] = 1, 3
    with make(photos_set, weights=weights) as loader:
        batches = list(loader.epoch(0))
    index = torch.cat([batch.index for batch in batches]).numpy()
    assert set(index) == {4, 7} and abs(np.mean(index == 7) - 0.75) < 0.06
    fours = torch.cat([b.images for b in batches])[torch.from_numpy(index == 4)].flatten(1)
    assert len(fours.unique(dim=0)) == len(fours), "repeats of a sample are treated anew"


def test_the_next_epoch_s_order_is_made_beside_this_one(photos_set: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, str]] = []

    def recorded(weights: np.ndarray, groups: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        made.append((epoch, threading.current_thread().name.partition("_")[0]))
        return weighted_order(weights, groups, seed, epoch)

    monkeypatch.setattr("fashion_dist.data.loader.weighted_order", recorded)
    weights = np.arange(83) + 1.0
    with make(photos_set, weights=weights) as loader:
        seen = [np.concatenate([batch.index.numpy() for batch in loader.epoch(epoch)]) for epoch in (0, 1, 2, 0)]
    wanted = [weighted_order(weights, np.zeros(83, np.int64), 3, epoch)[: len(seen[0])] for epoch in (0, 1, 2, 0)]
    assert all(np.array_equal(a, b) for a, b in zip(seen, wanted, strict=True))
    assert {(0, "MainThread"), (1, "order"), (2, "order")} <= set(made)
    assert not {(1, "MainThread"), (2, "MainThread")} & set(made)


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_the_next_epoch_s_first_batches_are_begun_before_this_one_s_last_is_worked_on(
    photos_set: ShardSet, cache: Literal["none", "ram"], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    started, begun = Fetcher.start, CachedDecoder.begin

    def counted(fetcher: Fetcher, rows: np.ndarray, wanted: np.ndarray) -> Fetched:
        read.extend(rows[wanted].tolist())
        return started(fetcher, rows, wanted)

    def noted(decoder: CachedDecoder, work: Work, encoded: Sequence[Encoded | None]) -> None:
        decoded.append((work.epoch, work.index.tolist()))
        begun(decoder, work, encoded)

    decoded: list[tuple[int, list[int]]] = []
    monkeypatch.setattr(Fetcher, "start", counted)
    monkeypatch.setattr(CachedDecoder, "begin", noted)
    given: list[list[list[int]]] = []
    with make(photos_set, options=LoaderOptions(cache=cache)) as loader:
        for epoch in range(3):
            batches = loader.epoch(epoch, until=3)
            given.append([next(batches).index.tolist() for _ in range(loader.steps)])
            ahead = [examples for number, examples in decoded if number == epoch + 1]
            assert bool(ahead) is (epoch < 2), "nothing is begun behind the last epoch"
            assert len(ahead) <= 2
    assert decoded == [(epoch, examples) for epoch, each in enumerate(given) for examples in each]
    whole = [example for each in given for examples in each for example in examples]
    assert sorted(read) == sorted(whole if cache == "none" else set(whole)), "nothing is read twice"


def test_what_was_begun_for_the_next_epoch_is_left_where_another_comes(photos_set: ShardSet, alone: Ledger) -> None:
    with make(photos_set) as loader:
        first = [next(batches) for batches in [loader.epoch(0, until=3)] for _ in range(loader.steps)]
        assert len(first) == 5
        assert list(itertools.islice(loader.epoch(1, until=3), 2)), "left in the middle, it is begun anew"
        assert ledger(loader, epochs=3) == alone
        loader.show(loader._images[::-1])
        assert ledger(loader, epochs=2) != alone


def test_damage_in_the_next_epoch_s_first_batches_leaves_this_one_whole(
    own_set: ShardSet, damage: Callable[[int], str], alone: Ledger
) -> None:
    left_out = set(range(83)) - {example for epoch, _, example in alone if epoch == 0}
    soon = sorted(example for epoch, step, example in alone if epoch == 1 and step < 2 and example in left_out)
    key = damage(soon[0])
    with make(own_set, options=LoaderOptions(read_threads=1)) as loader:
        assert len(list(loader.epoch(0, until=2))) == 5
        with pytest.raises(DamageError, match="CRC-32") as caught:
            list(loader.epoch(1, until=2))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "settings",
    [
        {"options": LoaderOptions(cache="ram")},
        {"options": LoaderOptions(cache="ram", cache_gb=0.0005)},
        {"options": LoaderOptions(cache="auto")},
    ],
)
def test_a_cache_changes_nothing(photos_set: ShardSet, alone: Ledger, settings: dict[str, LoaderOptions]) -> None:
    with make(photos_set, **settings) as loader:
        assert "cache: ram" in loader.cache_note
        assert ledger(loader, epochs=3) == alone


def test_reduced_pixels_are_the_same_with_and_without_a_cache(photos_set: ShardSet, alone: Ledger) -> None:
    data = DataConfig(**{**vars(DATA), "cache_px": 40})
    ledgers = [
        both([make(photos_set, data=data, options=LoaderOptions(cache=cache))], epochs=2) for cache in ("none", "ram")
    ]
    assert ledgers[0] == ledgers[1]
    assert ledgers[0] != {key: pixels for key, pixels in alone.items() if key[0] < 2}


def test_with_a_cache_nothing_is_read_or_decoded_twice(own_set: ShardSet) -> None:
    data = DataConfig(image_px=32)
    with make(own_set, options=LoaderOptions(cache="ram"), data=data, name="val", batch_size=8) as loader:
        first = ledger(loader)
        for name in own_set.split("val").shard_names:
            (own_set.path / name).write_bytes(b"")
        assert {key[2]: p for key, p in ledger(loader).items()} == {key[2]: p for key, p in first.items()}


@pytest.mark.parametrize("rotate", [0, 90])
def test_images_of_the_right_size_take_the_short_way_to_the_same_result(tmp_path: Path, rotate: float) -> None:
    from shards import PackOptions, ReadOptions, pack

    for number in range(40):
        path = tmp_path / "raw" / "train" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    pack("image_folder", tmp_path / "raw", tmp_path / "set", PackOptions(), ReadOptions(val_fraction=0.05))
    small = ShardSet.open(tmp_path / "set")
    data = DataConfig(image_px=28, crop_scale=(1, 1), rotate=rotate, brightness=0.2, erase=0.4)
    for dtype in (torch.float32, torch.bfloat16):
        plain = both([make(small, data=data, batch_size=8, dtype=dtype)], epochs=2) if dtype == torch.float32 else None
        with make(small, data=data, batch_size=8, dtype=dtype, options=LoaderOptions(cache="ram")) as loader:
            images = torch.cat([batch.images for epoch in range(2) for batch in loader.epoch(epoch)])
            assert images.dtype == dtype
        if plain is not None:
            with make(small, data=data, batch_size=8, options=LoaderOptions(cache="ram")) as loader:
                assert ledger(loader, epochs=2) == plain


@pytest.mark.fault(14)
def test_a_flipped_byte_ends_the_run_with_its_name(own_set: ShardSet, damage: Callable[[int], str]) -> None:
    key = damage(30)
    split = own_set.split("train")
    with make(own_set) as loader, pytest.raises(DamageError, match="CRC-32") as caught:
        list(loader.epoch(0))
    assert caught.value.key == key and caught.value.shard == split.shard_names[split.shard[30]]
    assert caught.value.offset == split.offset[30]


def test_an_image_that_does_not_decode_ends_the_run_with_its_name(
    own_set: ShardSet, undecodable: Callable[[int], str]
) -> None:
    key = undecodable(33)
    with make(own_set) as loader, pytest.raises(DamageError, match="decode") as caught:
        list(loader.epoch(0))
    assert caught.value.key == key


@pytest.mark.fault(13)
def test_a_shard_cut_while_training_is_an_error_with_a_name(own_set: ShardSet) -> None:
    with make(own_set, options=LoaderOptions(read_threads=1)) as loader:
        batches = loader.epoch(0)
        next(batches)
        split = own_set.split("train")
        for number in np.unique(split.shard):
            path = own_set.path / split.shard_names[number]
            os.truncate(path, path.stat().st_size // 8)
        with pytest.raises(DamageError, match="the shard ends after") as caught:
            list(batches)
        assert caught.value.key in set(split.keys)


@pytest.mark.fault(14)
def test_skipped_samples_are_replaced_the_same_on_all_ranks_and_listed(
    own_set: ShardSet, damage: Callable[[int], str], undecodable: Callable[[int], str], tmp_path: Path
) -> None:
    bad = {5: damage(5), 6: undecodable(6), 50: damage(50)}
    options = LoaderOptions(bad_samples="skip")
    seen: dict[int, list[tuple[int, int, bytes]]] = {}
    for ranks in (1, 2):
        log = tmp_path / f"run{ranks}" / "bad_samples.jsonl"
        seen[ranks] = []
        listed: set[str] = set()
        for rank in range(ranks):
            with make(own_set, options=options, rank=rank, world_size=ranks, bad_log=log) as loader:
                for epoch in range(2):
                    for step, batch in enumerate(loader.epoch(epoch)):
                        assert len(batch.index) == 16 // ranks, "every rank stays in step"
                        pixels = [image.contiguous().numpy().tobytes() for image in batch.images]
                        seen[ranks] += [
                            (5 * epoch + step, i, p) for i, p in zip(batch.index.tolist(), pixels, strict=True)
                        ]
                listed |= {error.key for error in loader.bad_samples}
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["key"] for line in lines} == listed and all(line["reason"] and line["shard"] for line in lines)
        assert listed == set(bad.values())
    assert not {example for _, example, _ in seen[1]} & set(bad)
    assert sorted(seen[1]) == sorted(seen[2])


def test_skipped_samples_are_left_out_of_evaluation(own_set: ShardSet) -> None:
    split = own_set.split("val")
    path = own_set.path / split.shard_names[split.shard[9]]
    data = bytearray(path.read_bytes())
    data[int(split.offset[9]) + 40] ^= 0xFF
    path.write_bytes(data)
    with make(own_set, name="val", batch_size=8, options=LoaderOptions(bad_samples="skip")) as loader:
        assert [batch.index.tolist() for batch in loader.epoch(0)][1] == [8, 10, 11, 12, 13, 14, 15]


def test_a_split_of_damaged_samples_only_ends(own_set: ShardSet) -> None:
    split = own_set.split("train")
    with make(own_set, options=LoaderOptions(bad_samples="skip")) as loader:
        for number in np.unique(split.shard):
            path = own_set.path / split.shard_names[number]
            path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(DamageError):
            list(loader.epoch(0))


def test_examples_may_change_between_epochs(photos_set: ShardSet) -> None:
    pairs = np.column_stack([np.arange(83), np.roll(np.arange(83), 1)])
    with make(photos_set, k=2) as loader:
        loader.show(pairs[::-1])
        shown = ledger(loader)
    split = photos_set.split("train")
    assert shown == both([Loader(split, pairs[::-1], DATA, batch_size=16, training=True, seed=3)])
