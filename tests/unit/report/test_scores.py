"""What the report counts is what scikit-learn counts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from fashion_dist import tasks
from fashion_dist.report import classes, scores
from fashion_dist.report.attributes import AttributeAnswers, average_precisions, co_occurrence, one_by_one, together
from fashion_dist.tasks.common.attributes import names_of
from fashion_dist.tasks.common.evaluators import area_under_roc
from shards import Schema


@pytest.fixture
def answered() -> tuple[np.ndarray, np.ndarray]:
    """Truth [400] and probabilities [400, 12]; class 11 never occurs and is never answered."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 11, 400)
    logits = rng.normal(size=(400, 12))
    logits[np.arange(400), truth] += 1.5
    logits[:, 11] = -9
    return truth, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_classes_are_counted_as_by_scikit_learn(answered: tuple[np.ndarray, np.ndarray]) -> None:
    truth, probability = answered
    answers = probability.argmax(axis=1)
    matrix = scores.confusion(truth, answers, 12)
    assert np.array_equal(matrix, confusion_matrix(truth, answers, labels=range(12)))
    expected = precision_recall_fscore_support(truth, answers, labels=range(12), zero_division=0)
    counted = scores.per_class(*scores.class_counts(truth, answers, 12))
    wrong = {(i, j): n for i, j, n in scores.mistakes(truth, answers, 12)}
    assert wrong == {(i, j): matrix[i, j] for i, j in np.argwhere(matrix).tolist() if i != j}
    assert list(wrong.values()) == sorted(wrong.values(), reverse=True)
    ranked = np.argsort(-probability, axis=1, kind="stable") == truth[:, None]
    assert np.array_equal(scores.ranks(probability, truth), ranked.argmax(axis=1))
    assert not scores.ranks(np.ones((3, 4)), np.zeros(3, int)).any()  # of equals the lower class stands first
    for mine, theirs in zip((counted.precision, counted.recall, counted.f1, counted.support), expected, strict=True):
        assert mine == pytest.approx(theirs)
    found = {f.name: f for f in scores.class_figures(truth, probability, answers)}
    assert found["accuracy"].value == pytest.approx(accuracy_score(truth, answers))
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, answers, average="macro"))
    for best in (3, 5):
        expected_top = top_k_accuracy_score(truth, probability, k=best, labels=range(12))
        assert found[f"top{best}_accuracy"].value == pytest.approx(expected_top)


def test_the_interval_of_a_share_is_near_the_binomial_one() -> None:
    hits = np.arange(1000) < 800
    found = scores.mean_figure("share", hits)
    assert found.low is not None and found.high is not None
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert (found.low, found.high) == (pytest.approx(0.8 - half, abs=0.003), pytest.approx(0.8 + half, abs=0.003))


def test_a_difference_on_the_same_images_is_paired() -> None:
    rng = np.random.default_rng(2)
    first = rng.random(500) < 0.7
    second = first.copy()
    second[:20] = ~second[:20]
    found = scores.difference(first, second)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.low is not None and found.high is not None
    assert found.high - found.low < 0.05  # 20 images differ; unpaired, it would be 0.11


def test_attributes_are_counted_as_by_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(-1, 2, (300, 6))
    truth[:, 5] = np.where(truth[:, 5] == 1, 0, truth[:, 5])
    probability = np.clip(0.5 * (truth == 1) + 0.6 * rng.random((300, 6)), 0, 1)
    chosen = probability >= 0.5
    counted = scores.per_attribute(truth, chosen)
    average = average_precisions(AttributeAnswers(np.arange(300), truth, chosen, probability, list("abcdef")))
    for a in range(6):
        known = truth[:, a] >= 0
        real = (truth[known, a] == 1).astype(int)
        expected = precision_recall_fscore_support(real, chosen[known, a], average="binary", zero_division=0)
        assert (counted.precision[a], counted.recall[a], counted.f1[a]) == pytest.approx(expected[:3])
        if real.any():
            assert average[a] == pytest.approx(average_precision_score(real, probability[known, a]))
    assert np.isnan(average[5])
    both = co_occurrence(truth == 1)
    assert both[0, 1] == ((truth[:, 0] == 1) & (truth[:, 1] == 1)).sum()


def test_the_mean_f1_of_images_leaves_out_what_is_unknown() -> None:
    truth = np.array([[1, 0, -1], [0, 0, 0], [-1, -1, -1], [1, 1, 0]])
    chosen = np.array([[True, False, True], [False, False, False], [True, True, True], [True, False, True]])
    names = {"sample_f1": "attribute_f1", "macro_f1": "attribute_class_f1"}
    first, _ = scores.attribute_figures(truth, chosen, names)
    assert (first.name, first.value) == ("attribute_f1", pytest.approx((1.0 + 1.0 + 0.5) / 3))


def test_figures_of_labels_are_scikit_learn_s_by_the_task_s_names() -> None:
    rng = np.random.default_rng(3)
    truth, chosen = rng.integers(0, 2, (200, 4)), rng.random((200, 4)) < 0.5
    for task, names in (("multilabel", ["micro", "macro", "sample"]), ("deepfashion", ["sample", "macro"])):
        recipe = tasks.load(task).recipe
        called = names_of(tasks.load(task).metrics(Schema({}, {}), recipe))
        found = scores.attribute_figures(truth, chosen, called)
        assert [name for name, shown in called.items()] == [f"{name}_f1" for name in names]
        assert set(called.values()) <= set(tasks.load(task).metrics(Schema({}, {}), recipe))
        for figure, average in zip(found, names, strict=True):
            expected = f1_score(truth, chosen, average="samples" if average == "sample" else average, zero_division=1.0)
            assert figure.value == pytest.approx(expected)
            assert figure.low is not None and figure.high is not None and figure.low < expected < figure.high


def test_areas_are_scikit_learn_s() -> None:
    rng = np.random.default_rng(4)
    truth, score = rng.integers(0, 2, 200), rng.random(200).round(2)
    found = scores.auc_figure("auc", score, truth, area_under_roc)
    assert found.value == pytest.approx(roc_auc_score(truth, score))
    assert found.low is not None and found.high is not None
    assert found.low < found.value < found.high


def test_calibration_error_of_an_honest_and_a_boastful_network() -> None:
    right = np.arange(1000) % 10 < 7
    assert scores.reliability(np.full(1000, 0.7), right).error == pytest.approx(0.0)
    boastful = scores.reliability(np.full(1000, 0.95), right)
    assert boastful.error == pytest.approx(0.25)
    assert boastful.images.tolist() == [0] * 9 + [1000]


def test_classes_confused_with_each_other_stand_together() -> None:
    matrix = np.diag([50] * 6)
    for a, b in ((0, 3), (1, 5), (2, 4)):
        matrix[a, b] = matrix[b, a] = 20
    order = scores.together(matrix).tolist()
    assert sorted(order) == list(range(6))
    for a, b in ((0, 3), (1, 5), (2, 4)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_figures_of_many_classes_take_no_memory_for_their_square() -> None:
    rng = np.random.default_rng(3)
    truth, answers = rng.integers(0, 2000, (2, 300))
    probability = rng.random((300, 2000), np.float32)
    tracemalloc.start()
    try:
        found = classes.ClassAnswers(np.arange(300), truth, answers, probability, [str(n) for n in range(2000)])
        scores.class_figures(truth, probability, answers)
        pairs = scores.mistakes(truth, answers, 2000)
        chosen = classes._most_confused(found, pairs)
        shown = found.matrix(chosen)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(chosen) == classes.MOST and shown.sum() >= classes.MOST // 2
    assert peak < 60e6  # 1,000 draws of 2000 x 2000 cells are 32 GB, one is 32 MB


def test_figures_of_many_attributes_are_of_a_hundred_and_their_table_of_all() -> None:
    rng, count = np.random.default_rng(0), 150
    truth, chosen = (rng.random((40, count)) < 0.3).astype(np.int8), rng.random((40, count)) < 0.3
    names = [f"a{k}" for k in range(count)]
    found = AttributeAnswers(np.arange(40), truth, chosen, rng.random((40, count)).astype(np.float32), names)
    drawn: dict[str, tuple[int, float]] = {}

    class Album:
        def draw(self, key: str, *rest: object, size: tuple[float, float], **_: object) -> str:
            drawn[key] = (len(rest[-1]), max(size))  # type: ignore[arg-type]
            return key

    section = one_by_one(found, Album())  # type: ignore[arg-type]
    together(found, Album())  # type: ignore[arg-type]
    assert [drawn[f"co-occurrence-{key}"][0] for key in ("truth", "answers")] == [100, 100]
    assert drawn["attributes"][0] == count and max(side for _, side in drawn.values()) < 20
    assert section.title == "Attributes"
