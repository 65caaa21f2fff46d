"""Pairs are symmetric, negatives are strangers, outfits are the mean of their pairs, and files are as asked for."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation import evaluated, parts
from PIL import Image
from report_runs import make_run
from sklearn.metrics import roc_auc_score
from torch import nn

from fashion_dist.config import Config, ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models.siamese import PairNetwork, build_pair_network, pair_scores
from fashion_dist.results.paired import differences
from fashion_dist.runs import OpenRun
from fashion_dist.tasks import load, polyvore_category, polyvore_outfits
from fashion_dist.tasks.common import compatibility, mates
from fashion_dist.tasks.common.compatibility import (  # fmt: skip
    asked_pairs,
    choose_negatives,
    relations,
    score_outfits,
    score_pairs,
)
from fashion_dist.tasks.common.evaluators import Evaluator, area_under_roc
from fashion_dist.tasks.common.wardrobe import Question, Wardrobe
from fashion_dist.train.distributed import ProcessGroup, World
from shards import PackOptions, ReadOptions, ShardSet, Split, pack

RECIPE = polyvore_outfits.RECIPE
KINDS = ("3", "21", "41")
SEMANTIC = {"3": "all-body", "21": "tops", "41": "shoes", "": ""}


def pack_outfits(folder: Path, outfits: dict[str, list[list[str]]], **files: Any) -> ShardSet:
    """A shard set of outfits by split, each a list of item ids; `files` replaces what is written beside them."""
    raw = folder / "raw"
    (raw / "images").mkdir(parents=True)
    (raw / "disjoint").mkdir()
    items = sorted({item for made in outfits.values() for outfit in made for item in outfit})
    for item in items:
        Image.new("RGB", (8, 8), (int(item) % 256, 0, 0)).save(raw / "images" / f"{item}.jpg")
    category = {item: KINDS[int(item) % 3] for item in items} | files.get("category", {})
    metadata = {i: {"category_id": c, "semantic_category": SEMANTIC[c]} for i, c in category.items()}
    (raw / "polyvore_item_metadata.json").write_text(json.dumps(metadata))
    (raw / "categories.csv").write_text("3,dress,all-body\n21,shirt,tops\n41,shoes,shoes\n")
    for split, made in outfits.items():
        listed = [
            {"set_id": f"{split}{n}", "items": [{"item_id": item, "index": k + 1} for k, item in enumerate(outfit)]}
            for n, outfit in enumerate(made)
        ]
        (raw / "disjoint" / f"{split}.json").write_text(json.dumps(listed))
        last = len(made) - 1
        lines = [f"1 {' '.join(f'{split}0_{k + 1}' for k in range(len(made[0])))}", f"0 {split}0_1 {split}{last}_2"]
        (raw / "disjoint" / f"compatibility_{split}.txt").write_text("\n".join(files.get("lines", lines)) + "\n")
        question = {
            "question": [f"{split}0_1"], "blank_position": 2,
            "answers": files.get("answers", [f"{split}{last}_1", f"{split}0_2"]),
        }  # fmt: skip
        (raw / "disjoint" / f"fill_in_blank_{split}.json").write_text(json.dumps([question]))
    pack("polyvore_outfits", raw, folder / "set", PackOptions(), ReadOptions(), workers=1)
    return ShardSet.open(folder / "set")


def outfits(first: int, count: int, size: int = 3) -> list[list[str]]:
    return [[str(first + size * n + k) for k in range(size)] for n in range(count)]


PLAIN = {"train": outfits(100, 14), "valid": outfits(200, 3), "test": outfits(300, 4)}


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    # Items 100 and 103 meet in the second outfit: those they come from are related.
    first, *rest = PLAIN["train"]
    train = [first, ["100", "103"], *rest]
    return pack_outfits(tmp_path_factory.mktemp("outfits"), {**PLAIN, "train": train})


@pytest.fixture
def config() -> Config:
    return RECIPE.override(["train.batch_size=8", "data.image_px=32"])


def network(seed: int = 0) -> PairNetwork:
    torch.manual_seed(seed)
    return build_pair_network(ModelConfig(name="fashionnet"), 16, 32).eval()


def test_a_pair_s_score_is_the_same_whichever_comes_first() -> None:
    made = network()
    with torch.no_grad():
        made.own.weight.normal_()
        pairs = torch.randn(6, 2, 3, 32, 32)
        rows = made.embed(pairs.flatten(0, 1)).reshape(6, 2, -1)
        assert torch.equal(pair_scores(rows[:, 0], rows[:, 1]), pair_scores(rows[:, 1], rows[:, 0]))
        torch.testing.assert_close(made(pairs)["score"], made(pairs.flip(1))["score"])
        single = made(pairs[:, 0])["embedding"].numpy(), made(pairs[:, 1])["embedding"].numpy()
    stacked, index = np.concatenate(single), np.arange(6)
    forth, back = score_pairs(stacked, index, index + 6), score_pairs(stacked, index + 6, index)
    assert np.array_equal(forth, back)
    np.testing.assert_allclose(forth, made(pairs)["score"].detach().squeeze(1), rtol=1e-4, atol=1e-4)


def test_items_that_are_far_apart_score_lower() -> None:
    rows = torch.zeros(3, 5)
    rows[1, 2:4], rows[2, 2:4] = torch.tensor([0.5, -0.25]), torch.tensor([2.0, 2.0])
    assert pair_scores(rows[0], rows).tolist() == [0.0, -0.75, -4.0]
    assert score_pairs(rows.numpy(), np.zeros(3, int), np.arange(3)).tolist() == [0.0, -0.75, -4.0]


def test_four_images_give_six_pairs_in_order() -> None:
    made = network()
    with torch.no_grad():
        images = torch.randn(2, 4, 3, 32, 32)
        scores = made(images)["score"]
        for column, (i, j) in enumerate(itertools.combinations(range(4), 2)):
            torch.testing.assert_close(scores[:, column], made(images[:, [i, j]])["score"][:, 0])


@pytest.mark.parametrize("name", ["mobilenet_v2", "xception"])
def test_other_backbones_fit(name: str) -> None:
    made = build_pair_network(ModelConfig(name=name), 8, 64)
    assert made(torch.randn(2, 2, 3, 64, 64))["score"].shape == (2, 1)


def test_examples_are_an_outfit_s_pair_and_strangers(shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("train")
    wardrobe = Wardrobe(split)
    outfit_of: dict[str, set[int]] = {}
    for number, outfit in enumerate([*PLAIN["train"], ["100", "103"]]):
        for item in outfit:
            outfit_of.setdefault(item, set()).add(number)
    keys = list(split.keys)
    config = config.override(["task.listed=0", "task.examples=0", "task.negatives=random"])
    found = load("polyvore_outfits").build_examples(split, config, 0)
    assert len(found) == len(wardrobe.positives) == 14 * 3 + 1
    for rows, labels in zip(found.images.tolist(), found.targets["compatible"].tolist(), strict=True):
        a, b, c, d = (outfit_of[keys[row]] for row in rows)
        assert a & b
        assert c & d
        assert labels == [
            _truth(keys[rows[i]], keys[rows[j]], outfit_of) for i, j in itertools.combinations(range(4), 2)
        ]
        assert labels[1] == 0  # a and c are strangers
    assert set(map(frozenset, found.images[:, :2].tolist())) == set(map(frozenset, wardrobe.positives.tolist()))


def _truth(first: str, second: str, outfit_of: dict[str, set[int]]) -> int:
    """1 if two items share an outfit, -1 if an item shares one with each or they are one, else 0."""
    if first == second:
        return -1
    if outfit_of[first] & outfit_of[second]:
        return 1
    between = [item for item, inside in outfit_of.items() if inside & outfit_of[first] and inside & outfit_of[second]]
    return -1 if between else 0


def test_mates_are_those_of_sets_and_take_what_pairs_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mates, "_AT_ONCE", 50)
    rng, items = np.random.default_rng(0), 90
    drawn_items = [rng.integers(70, size=rng.integers(1, 5)).tolist() for _ in range(40)]
    outfits = [np.unique([*drawn, 7]) if n < 20 else np.unique(drawn) for n, drawn in enumerate(drawn_items)]
    of = [set[int]() for _ in range(items)]
    for outfit in outfits:
        for row in outfit.tolist():
            of[row] |= set(outfit.tolist()) - {row}
    related = [{row}.union(others, *(of[other] for other in others)) for row, others in enumerate(of)]
    graph = mates.Mates(outfits, items)
    first, second = (each.ravel() for each in np.indices((items, items)))
    assert graph.are_mates(first, second).tolist() == [b in of[a] for a in range(items) for b in range(items)]
    assert graph.are_related(first, second).tolist() == [b in related[a] for a in range(items) for b in range(items)]
    assert graph.positives.tolist() == [[a, b] for a in range(items) for b in sorted(of[a]) if a < b]
    assert graph._keys.nbytes == 16 * len(graph.positives), "an item of many outfits costs its own pairs alone"
    candidates = rng.integers(items, size=(items, 3))
    strangers = [[c not in related[a] for c in row] for a, row in enumerate(candidates.tolist())]
    wanted = [row.index(True) if any(row) else -1 for row in strangers]
    assert graph.first_stranger(np.arange(items), candidates).tolist() == wanted and -1 in wanted
    share = rng.random(items)
    drawn = [sorted(of[a])[int(share[a] * len(of[a]))] if of[a] else a for a in range(items)]
    assert graph.draw(np.arange(items), share).tolist() == drawn
    none = mates.Mates([np.array([1])], 3)
    assert not none.are_mates(np.array([1]), np.array([1])).any() and none.draw(
        np.array([2]), np.zeros(1)
    ).tolist() == [2]


def test_every_epoch_draws_anew_and_listed_negatives_are_used(shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("train")
    made = [load("polyvore_pairs").build_examples(split, config, epoch).images for epoch in (0, 1, 0)]
    assert np.array_equal(made[0], made[2])
    assert not np.array_equal(made[0], made[1])
    listed = Wardrobe(split).listed_negatives
    assert len(listed) == 1  # the one line that makes no outfit names two items
    always = load("polyvore_pairs").build_examples(split, config.override(["task.listed=1"]), 0)
    assert (always.images[:, [0, 2]] == listed[0]).all()
    assert (always.targets["compatible"][:, 1] == 0).all()


def test_hard_negatives_are_the_hardest_beyond_the_margin(shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("train")
    wardrobe, kinds = Wardrobe(split), split.columns("semantic")["semantic"]
    rows = np.random.default_rng(0).standard_normal((len(split), 9)).astype(np.float32)
    anchors = wardrobe.positives
    config = config.override(["task.candidates=500", "task.margin=0.5"])
    hard = choose_negatives(wardrobe, anchors, kinds, config, np.random.default_rng(1), rows)
    soft = choose_negatives(wardrobe, anchors, kinds, config, np.random.default_rng(1))
    beyond = 0
    for (a, b), chosen in zip(anchors.tolist(), hard.tolist(), strict=True):
        alike = np.flatnonzero(kinds == kinds[b])
        pool = alike[~wardrobe.mates.are_related(np.full(len(alike), a), alike)].tolist()
        assert chosen in pool
        scores = score_pairs(rows, np.full(len(pool), a), np.array(pool))
        limit = score_pairs(rows, np.array([a]), np.array([b]))[0] - 0.5
        if scores.max() >= limit:
            beyond += 1
            assert chosen == pool[int(np.argmax(scores))]
    assert 0 < beyond < len(anchors)
    assert not np.array_equal(hard, soft)
    asked: list[int] = []

    def ask() -> dict[str, np.ndarray]:
        asked.append(1)
        return {"embedding": rows}

    config = config.override(["task.negatives=hard"])
    for epoch in (0, 1):
        load("polyvore_pairs").build_examples(split, config, epoch, ask)
    assert len(asked) == 1  # not before the first epoch


def test_every_seed_is_asked_the_same(shard_set: ShardSet, config: Config) -> None:
    split, rows = shard_set.split("val"), np.random.default_rng(0)
    embedding = rows.standard_normal((len(split), int(config.options["embedding"]) + 1)).astype(np.float32)
    figures, files = set(), set()
    for seed in range(20):
        seeded = config.override([f"train.seed={seed}"])
        evaluator = load("polyvore_pairs").evaluator(split, seeded)
        assert isinstance(evaluator, compatibility.CompatibilityEvaluator)
        evaluator.predictions = {"embedding": embedding}
        figures.add(tuple(evaluator.compute().items()))
        files |= set(load("polyvore_pairs").submission({"embedding": embedding}, split, seeded).items())
    assert len(figures) == len(files) == 1


def test_items_that_cannot_be_read_are_asked_nothing(shard_set: ShardSet, config: Config) -> None:
    """Skipped where they are damaged: the others keep their places, and are judged as scikit-learn judges them."""
    split, task = shard_set.split("val"), load("polyvore_pairs")
    rows = rows_of_wardrobes(shard_set, "val") + np.random.default_rng(1).normal(0, 1, (len(split), 1))
    there = np.ones(len(split), bool)
    there[[0, len(split) - 1]] = False
    evaluator = task.evaluator(split, config)
    assert isinstance(evaluator, compatibility.CompatibilityEvaluator)
    index = np.flatnonzero(there)
    for part in (index[::2], index[1::2]):
        evaluator.update({"embedding": torch.from_numpy(rows[part])}, {}, torch.from_numpy(part))
    evaluator.reduce(ProcessGroup(World(), torch.device("cpu")))
    assert np.array_equal(evaluator.there, there)
    found, (pairs, truth) = evaluator.compute(), asked_pairs(Wardrobe(split))
    asked = there[pairs].all(axis=1)
    logits = compatibility.score_pairs(rows.astype(np.float32), *pairs[asked].T)
    assert 0 < asked.sum() < len(asked)
    assert found["pair_auc"] == pytest.approx(roc_auc_score(truth[asked], logits))
    assert found["pair_accuracy"] == pytest.approx(((logits > 0) == truth[asked]).mean())
    kept = [q for q in Wardrobe(split).questions if there[q.items].all() and there[q.answers].all()]
    assert found["fill_in_blank"] == pytest.approx(compatibility.credits_of(rows.astype(np.float32), kept).mean())
    assert np.isfinite(list(found.values())).all()


def test_a_network_that_answers_nan_is_worth_nan(shard_set: ShardSet, config: Config) -> None:
    """So that any other is better; nothing is fitted to it."""
    split = shard_set.split("val")
    evaluator = evaluator_of(split, np.full((len(split), 65), np.nan, np.float32), config)
    model = load("polyvore_pairs").build_model(config, shard_set.schema)
    load("polyvore_pairs").calibrate(model, evaluator)
    assert isinstance(model, PairNetwork) and float(model.slope) == 1
    found = evaluator.compute()
    assert all(np.isnan(found[name]) for name in ("score", "pair_auc", "pair_accuracy", "fill_in_blank", "loss"))


def test_the_loss_weighs_both_kinds_alike_and_leaves_out_the_unknown(config: Config) -> None:
    config = config.override(["train.label_smoothing=0"])
    score = torch.tensor([[2.0, -1.0, 0.5], [0.3, 1.0, -2.0]])
    labels = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, -1.0]])
    task = load("polyvore_pairs")
    terms = task.loss({"score": score}, {"compatible": labels}, config)
    together = torch.nn.functional.softplus(torch.tensor(-2.0))
    apart = torch.nn.functional.softplus(torch.tensor([-1.0, 0.3, 1.0])).mean()
    assert float(terms["loss"]) == pytest.approx(float((together + apart) / 2))
    changed = score.clone()
    changed[:, 2] += 5
    assert float(task.loss({"score": changed}, {"compatible": labels}, config)["loss"]) == float(terms["loss"])


def test_asked_pairs_are_balanced_and_true(shard_set: ShardSet) -> None:
    wardrobe = Wardrobe(shard_set.split("test"))
    pairs, truth = asked_pairs(wardrobe)
    assert truth.sum() * 2 == len(truth) == 24
    assert len(set(map(frozenset, pairs.tolist()))) == len(pairs)
    assert ((relations(wardrobe, np.column_stack([pairs, pairs]))[:, 0] == 1) == truth).all()


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_area_under_the_curve_is_scikit_learns(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores, truth = rng.integers(levels, size=200) / levels, rng.integers(2, size=200)
    assert area_under_roc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert area_under_roc(scores, np.ones(200, int)) == 0.5


def rows_of_wardrobes(shard_set: ShardSet, split: str) -> np.ndarray:
    """Rows by which items of one outfit go together and others do not."""
    wardrobe = Wardrobe(shard_set.split(split))
    rows = np.zeros((len(wardrobe.split), 2 * len(wardrobe.outfits) + 1), np.float32)
    for number, outfit in enumerate(wardrobe.outfits):
        rows[outfit, number] = 4
    rows[:, -1] = -4
    return rows


def evaluator_of(split: Split, rows: np.ndarray, config: Config) -> Evaluator:
    embedding = torch.from_numpy(rows)
    return evaluated(load("polyvore_pairs"), split, config, *parts({"embedding": embedding}, {}, 2))


def calibrated(model: nn.Module, split: Split, rows: np.ndarray, config: Config) -> np.ndarray:
    evaluator = evaluator_of(split, rows, config)
    load("polyvore_pairs").calibrate(model, evaluator)
    assert isinstance(evaluator, compatibility.CompatibilityEvaluator)
    return evaluator.predictions["embedding"]


def test_whoever_knows_the_wardrobes_has_the_perfect_score(shard_set: ShardSet, config: Config) -> None:
    found = evaluator_of(shard_set.split("test"), rows_of_wardrobes(shard_set, "test"), config).compute()
    losses = {name: found.pop(name) for name in ("loss", "together_loss", "apart_loss")}
    assert found == pytest.approx(dict.fromkeys(found, 1.0))
    smoothing = config.train.label_smoothing
    least = -(1 - smoothing / 2) * np.log(1 - smoothing / 2) - smoothing / 2 * np.log(smoothing / 2)
    assert all(np.isfinite(value) and value >= least - 1e-6 for value in losses.values())
    assert losses["loss"] == pytest.approx((losses["together_loss"] + losses["apart_loss"]) / 2)


def test_calibrated_probabilities_mean_what_they_say(shard_set: ShardSet, config: Config) -> None:
    made, split = network(), shard_set.split("val")
    pairs, truth = asked_pairs(Wardrobe(split))
    images = torch.randn(len(split), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    noise = np.random.default_rng(0).normal(0, 2, rows_of_wardrobes(shard_set, "val").shape)
    rows = (rows_of_wardrobes(shard_set, "val") + noise).astype(np.float32)
    rows[:, -1] += 9  # as if all went together

    moved = calibrated(made, split, rows, config)
    logits, before = score_pairs(moved, *pairs.T), score_pairs(rows, *pairs.T)
    assert before.mean() > 9
    assert compatibility.sigmoid(logits).mean() == pytest.approx(truth.mean(), abs=1e-3)
    np.testing.assert_allclose(logits, float(made.slope) * before + float(made.shift), rtol=1e-4, atol=1e-3)
    found, plain = (evaluator_of(split, each, config).compute()["pair_auc"] for each in (moved, rows))
    assert found == pytest.approx(plain)

    # Evaluated scores are moved, trained ones are not; and what is moved stays.
    with torch.no_grad():
        plain_logits = torch.from_numpy(score_pairs(network()(images)["embedding"].numpy(), *pairs.T))
        moved_logits = torch.from_numpy(score_pairs(made(images)["embedding"].numpy(), *pairs.T))
        torch.testing.assert_close(moved_logits, plain_logits * made.slope + made.shift, rtol=1e-4, atol=1e-3)
        assert torch.equal(made.train().embed(images), network().train().embed(images))
    again = network()
    calibrated(again, split, moved, config)
    assert (float(again.slope), float(again.shift)) == pytest.approx((1, 0), abs=1e-2)
    before_all_alike = float(again.slope), float(again.shift)
    calibrated(again, split, np.zeros_like(rows), config)
    assert (float(again.slope), float(again.shift)) == before_all_alike


def test_whoever_cannot_tell_answers_apart_has_a_quarter_of_the_credit() -> None:
    question = Question(np.array([0, 1]), np.array([2, 3, 4, 5]), ("a", "b", "c", "d"), correct=0)
    rows = np.ones((6, 5))
    assert compatibility.credits_of(rows, [question]) == 0.25
    rows[2, -1] += 1
    assert compatibility.credits_of(rows, [question]) == 1
    rows[3, -1] += 1
    assert compatibility.credits_of(rows, [question]) == 0.5
    rows[3, -1] += 1
    assert compatibility.credits_of(rows, [question]) == 0


def test_an_outfit_s_score_is_the_mean_of_its_pairs() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 7))
    pairs = [1 / (1 + np.exp(-score_pairs(rows, np.array([i]), np.array([j]))[0])) for i, j in ((0, 1), (0, 3), (1, 3))]
    outfits = [np.array([0, 1, 3]), np.array([1, 2]), np.array([3, 0, 1])]
    assert score_outfits(rows, outfits)[::2] == pytest.approx(np.mean(pairs))


def test_figures_of_a_split_are_those_of_brute_force(shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("test")
    wardrobe = Wardrobe(split)
    rows = np.random.default_rng(0).standard_normal((len(split), 9)).astype(np.float32)
    found, tensors = evaluator_of(split, rows, config).compute(), torch.from_numpy(rows)

    def together(*pairs: tuple[int, int]) -> float:
        return float(np.mean([float(pair_scores(tensors[a], tensors[b]).sigmoid()) for a, b in pairs]))

    pairs, truth = asked_pairs(wardrobe)
    assert found["pair_auc"] == pytest.approx(roc_auc_score(truth, [together((a, b)) for a, b in pairs.tolist()]))
    outfits = [together(*itertools.combinations(line.tolist(), 2)) for line in wardrobe.lines]
    assert found["outfit_auc"] == pytest.approx(roc_auc_score(wardrobe.labels, outfits))
    right = [
        np.argmax([together(*((item, answer) for item in q.items.tolist())) for answer in q.answers.tolist()])
        == q.correct for q in wardrobe.questions
    ]  # fmt: skip
    assert right and found["fill_in_blank"] == pytest.approx(np.mean(right))


def test_the_three_files(shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("test")
    columns = {"embedding": rows_of_wardrobes(shard_set, "test")}
    files = load("polyvore_outfits").submission(columns, split, config)
    assert files["outfits.txt"].splitlines()[0].split(" ")[0] == "Positive"
    assert [line.split(" ")[2:] for line in files["outfits.txt"].splitlines()] == [
        ["test0_1", "test0_2", "test0_3"],
        ["test0_1", "test3_2"],
    ]
    assert files["outfits.txt"].splitlines()[1].split(" ")[0] == "Negative"
    assert files["fill_in_blank.txt"] == "test0_2\n"
    (text,) = load("polyvore_pairs").submission(columns, split, config).values()
    for line in text.splitlines():
        first, second, predicted, true, score = line.split(" ")
        same = any({first, second} <= set(outfit) for outfit in PLAIN["test"])
        assert (true == "1") == (predicted == "1") == (float(score) > 0.5) == same


@pytest.mark.parametrize(
    ("score", "says"),
    [(0.0, "Negative"), (0.45, "Negative"), (0.4501, "Undecided"), (0.55, "Undecided"), (0.5501, "Positive")],
)
def test_conclusions(score: float, says: str) -> None:
    assert polyvore_outfits.conclusion(score, 0.45, 0.55) == says


def test_tuned_thresholds_do_not_cross_and_part_the_outfits(shard_set: ShardSet, config: Config) -> None:
    split = shard_set.split("val")
    rows = rows_of_wardrobes(shard_set, "val")
    rows[:, -1] = 0.5  # all scores are high: the thresholds of the recipe would call everything positive
    tuned = dict(load("polyvore_outfits").tune_thresholds(split, {"embedding": rows}, config))
    low, high = polyvore_outfits.check_thresholds(dataclasses.replace(config, options={**config.options, **tuned}))
    scores = score_outfits(rows, Wardrobe(split).lines)
    assert scores[1] < (low + high) / 2 < scores[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["task.undecided_from=0.6"], "task.undecided_from = 0.6 and task.positive_from = 0.55 are not possible"),
        (["task.negatives=easy"], "task.negatives = 'easy' is not possible; allowed: random, semantic, hard"),
        (["task.listed=1.5"], "task.listed = 1.5 is not possible; allowed: 0 to 1"),
        (["train.batch_size=64"], "train.batch_size = 64 is more than the 43 examples of an epoch"),
    ],
)
def test_options_that_cannot_be_are_refused(
    settings: list[str], message: str, shard_set: ShardSet, config: Config
) -> None:
    load("polyvore_outfits").validate(shard_set, config)
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        load("polyvore_outfits").validate(shard_set, config.override(settings))


def test_tables_that_cannot_be_answered_are_refused(tmp_path: Path, config: Config) -> None:
    lonely = pack_outfits(tmp_path / "lonely", {**PLAIN, "train": [*PLAIN["train"], ["999"]]}, lines=["1 x_1"])
    with pytest.raises(ConfigError, match="outfit train14 of split 'train' has 1 item; allowed: 2 or more"):
        load("polyvore_pairs").validate(lonely, config)
    wrong = pack_outfits(tmp_path / "wrong", PLAIN, answers=["test1_1", "test2_1"])
    with pytest.raises(ConfigError, match=r"question 0 of split 'train' has no right answer: none of test1_1, test2_1"):
        load("polyvore_pairs").validate(wrong, config)


def test_categories_are_written_as_the_source_numbers_them(tmp_path: Path) -> None:
    made = pack_outfits(tmp_path, PLAIN, category={"300": ""})
    task, recipe = load("polyvore_category"), polyvore_category.RECIPE
    split = made.split("test")
    columns = {**split.columns("item_id", "category"), "label": split.columns("category")["category"].clip(0)}
    lines = dict(line.split(" ") for line in task.submission(columns, split, recipe)["category.txt"].splitlines())
    assert set(lines) == {item for outfit in PLAIN["test"] for item in outfit}
    assert all(lines[item] == KINDS[int(item) % 3] for item in lines if item != "300")
    semantic = recipe.override(["task.level=semantic"])
    examples = task.build_examples(split, semantic)
    assert examples.targets["label"][list(split.keys).index("300")] == -1
    columns["label"] = split.columns("semantic")["semantic"].clip(0)
    words = dict(line.split(" ") for line in task.submission(columns, split, semantic)["category.txt"].splitlines())
    assert words["301"] == SEMANTIC[KINDS[301 % 3]]
    with pytest.raises(ConfigError, match=r"task\.level = 'brand' is not possible; allowed: category, semantic"):
        task.build_model(recipe.override(["task.level=brand"]), made.schema)


def test_two_runs_are_compared_on_the_same_pairs(shard_set: ShardSet, config: Config, tmp_path: Path) -> None:
    part = shard_set.split("test")
    noise = np.random.default_rng(0).normal(size=(len(part), 9)).astype(np.float32)
    runs = []
    for n, rows in enumerate((noise, rows_of_wardrobes(shard_set, "test"))):
        run = make_run(tmp_path / f"p{n}", config, shard_set, {"test": {"embedding": rows}})
        runs.append(OpenRun(run, config, shard_set))
    found = {d.name: d for d in differences(runs[0], runs[1])}
    assert set(found) == {"pair_auc", "pair_accuracy", "outfit_auc", "fill_in_blank"}
    expected = evaluator_of(part, noise, config).compute()
    for name, difference in found.items():
        assert difference.first == pytest.approx(expected[name]) and difference.second == pytest.approx(1.0), name
        assert difference.low <= difference.high <= 0, name
