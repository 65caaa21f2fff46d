"""Drawn garments: what their attributes say was drawn, and colours alone do not tell those of shape."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_curve
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from shards import ShardSet, pack
from shards.readers import synthetic
from shards.readers.synthetic import ATTRIBUTES, CATEGORIES, COLOURS, TRAITS, draw_garment


def drawn(seed: list[int], category: str, traits: set[str] | None = None) -> tuple[np.ndarray, set[str]]:
    """int16 [px, px, 3] and the attributes."""
    data, attributes = draw_garment(np.random.default_rng(seed), category, traits)
    return np.asarray(Image.open(io.BytesIO(data)), np.int16), attributes


def garments(split: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels uint8 [N, px, px, 3], attributes bool [N, A], categories [N]."""
    categories = np.arange(count) % len(CATEGORIES)
    made = [drawn([11, split, number], CATEGORIES[category]) for number, category in enumerate(categories)]
    labels = [[name in attributes for name in ATTRIBUTES] for _, attributes in made]
    return np.array([pixels for pixels, _ in made], np.uint8), np.array(labels), categories


@pytest.fixture(scope="module")
def train() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return garments(0, 1500)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_garment_is_drawn_in_its_colours(category: str) -> None:
    pixels, attributes = drawn([5, len(category)], category)
    assert pixels.shape == (synthetic.IMAGE_PX, synthetic.IMAGE_PX, 3)
    assert attributes & set(COLOURS)
    assert ("plain" in attributes) != ("patterned" in attributes)
    assert attributes <= set(ATTRIBUTES)


@pytest.mark.parametrize(("trait", "category"), [(trait, category) for trait in TRAITS for category in TRAITS[trait]])
def test_a_trait_is_what_was_drawn_and_nothing_else_moves(trait: str, category: str) -> None:
    for seed in range(4):
        other = {"long sleeves"} if seed % 2 and trait != "long sleeves" else set()
        with_it, attributes = drawn([seed], category, {trait, *other})
        without, fewer = drawn([seed], category, other)
        assert attributes - fewer == {trait}
        changed = (np.abs(with_it - without).max(axis=2) > 30).mean()
        assert 0.002 < changed < 0.35, f"{changed:.4f} of the pixels"


def test_a_trait_is_there_in_fewer_than_half_and_tells_nothing_of_colours_and_other_traits(
    train: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    _, labels, categories = train
    traits = labels[:, -len(TRAITS) :]
    assert ((traits.mean(axis=0) > 0.15) & (traits.mean(axis=0) < 0.4)).all()
    for column, (trait, possible) in enumerate(TRAITS.items()):
        there = np.isin(categories, [CATEGORIES.index(category) for category in possible])
        assert traits[there, column].mean() == pytest.approx(0.45, abs=0.06)
        always = {"longsleeve"} if trait == "long sleeves" else set()
        found = {CATEGORIES[category] for category in categories[traits[:, column]]}
        assert found == set(possible) | always
        others = np.delete(labels[there], len(ATTRIBUTES) - len(TRAITS) + column, axis=1)
        seen = others[:, others.std(axis=0) > 0].T
        correlation = np.corrcoef(traits[there, column], seen)[0, 1:]
        assert np.abs(correlation[: len(COLOURS) + 3]).max() < 0.15, trait


def colours_alone(pixels: np.ndarray) -> np.ndarray:
    """How often each of 216 colours occurs in the image and in its middle, by every other pixel, [N, 432]."""
    bins = (pixels[:, ::2, ::2] // 43).astype(np.int64) @ [36, 6, 1]
    quarter = bins.shape[1] // 4
    places = (bins, bins[:, quarter:-quarter, quarter:-quarter])
    counted = [[np.bincount(one.ravel(), minlength=216) / one.size for one in place] for place in places]
    return np.sqrt(np.concatenate(counted, axis=1))


def best_f1(truth: np.ndarray, score: np.ndarray) -> float:
    """With the threshold that is best for this very truth."""
    precision, recall, _ = precision_recall_curve(truth, score)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-9)).max())


def test_a_network_that_sees_colours_alone_names_colours_and_no_shapes(
    train: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    pixels, labels, _ = garments(1, 400)
    scale = StandardScaler().fit(colours_alone(train[0]))
    network = MLPClassifier((64,), alpha=1.0, early_stopping=True, random_state=0)
    network.fit(scale.transform(colours_alone(train[0])), train[1].astype(int))
    scores = network.predict_proba(scale.transform(colours_alone(pixels)))
    f1 = {name: best_f1(labels[:, a], scores[:, a]) for a, name in enumerate(ATTRIBUTES)}
    assert np.mean([f1[name] for name in COLOURS]) > 0.6, f1
    assert np.mean([f1[name] for name in TRAITS]) < 0.6, f1


def test_the_seed_decides_every_byte_of_every_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 40, "val": 10, "test": 12})  # workers would not see this
    for name in ("a", "b"):
        synthetic.draw(tmp_path / name, 3, 1, lambda *_: None)
    synthetic.draw(tmp_path / "c", 4, 1, lambda *_: None)
    files = {
        path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()
    }
    assert files == {p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    assert len({data for path, data in files.items() if path.suffix == ".jpg"}) == 62
    assert files[Path("train/00001.jpg")] != (tmp_path / "c" / "train" / "00001.jpg").read_bytes()
    with (tmp_path / "a" / "test_labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert [row["file_path"] for row in labels] == (tmp_path / "a" / "test.csv").read_text().split()[1:]
    assert all(row["patterned"] != row["plain"] for row in labels)
    stamp = (tmp_path / "a" / "train.csv").stat().st_mtime_ns
    synthetic.draw(tmp_path / "a", 3, 1, lambda *_: None)
    assert (tmp_path / "a" / "train.csv").stat().st_mtime_ns == stamp
    pack("synthetic", tmp_path / "a", tmp_path / "set")
    assert ShardSet.open(tmp_path / "set").schema.names == {"category": CATEGORIES, "attributes": ATTRIBUTES}
