"""What the tasks over Polyvore's pairs and over its outfits share: which items go together.

Training takes four items at a time: a and b from one outfit, c and d from another, so that four images give six pairs.
Evaluation computes a row of numbers per item (`models.siamese`), which answer every pair, outfit and question.

Legend: I items of a split, as rows of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.settings import Scalar
from fashion_dist.tasks.common.base import Columns, Embed, ExampleSet, Tensors
from fashion_dist.tasks.common.evaluators import GatheredEvaluator, area_under_roc
from fashion_dist.tasks.common.mates import Mates
from fashion_dist.tasks.common.wardrobe import Question, Wardrobe, wardrobe_of
from shards import ShardSet, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

NEGATIVES = ("random", "semantic", "hard")
OPTIONS: Final[Mapping[str, Scalar]] = {
    "embedding": 64,
    "negatives": "semantic",
    "listed": 0.25,
    "candidates": 16,
    "margin": 1.0,
    "examples": 1024,
}
"""`negatives`: how c is chosen; `listed`: share of examples whose a and c come from the compatibility file's negative
lines; `candidates`: items that are scored for each hard negative; `margin`: a hard one scores at most this logit below
the true pair; `examples`: per epoch, 0 for one per pair of an outfit."""
_PAIRS = tuple(itertools.combinations(range(4), 2))
_PAIRS_AT_ONCE = 1 << 14
"""Pairs that are scored together: 17 MB for embeddings of 65 numbers."""
_ANCHORS = 4096
"""Pairs whose negatives are chosen together: 70 MB for 16 hard candidates each."""


def validate(shard_set: ShardSet, config: Config) -> None:
    """Refuse options that cannot be, and tables that cannot be learned from or answered."""
    import pyarrow.compute as pc

    options = config.options
    if options["negatives"] not in NEGATIVES:
        raise ConfigError(f"task.negatives = {options['negatives']!r} is not possible; allowed: {', '.join(NEGATIVES)}")
    for name, low in (("embedding", 2), ("candidates", 1), ("margin", 0), ("examples", 0), ("listed", 0)):
        if float(options[name]) < low or (name == "listed" and float(options[name]) > 1):
            allowed = "0 to 1" if name == "listed" else f"{low} or more"
            raise ConfigError(f"task.{name} = {options[name]!r} is not possible; allowed: {allowed}")
    if int(options["embedding"]) % 2:
        raise ConfigError(f"task.embedding = {options['embedding']!r} is not possible; allowed: an even number")
    outfits, questions = shard_set.table("outfits"), shard_set.table("questions")
    lengths = pc.list_value_length(outfits["items"])
    for row in outfits.filter(pc.less(lengths, 2)).slice(0, 1).to_pylist():
        raise ConfigError(
            f"{shard_set.path}: outfit {row['set_id']} of split {row['split']!r} has {len(row['items'])} "
            f"item{'s' * (len(row['items']) != 1)}; allowed: 2 or more (`pack --skip-bad --replace` leaves it out)"
        )
    for row in questions.filter(pc.less(questions["correct"], 0)).slice(0, 1).to_pylist():
        raise ConfigError(
            f"{shard_set.path}: question {row['row']} of split {row['split']!r} has no right answer: none of "
            f"{', '.join(row['answer_references'])} is of the outfit of {row['references'][0]}; allowed: one that is"
        )
    train = wardrobe_of(shard_set.split("train"))
    count = int(options["examples"]) or len(train.positives)
    if min(count, len(train.positives)) < config.train.batch_size:
        raise ConfigError(
            f"train.batch_size = {config.train.batch_size} is more than the {min(count, len(train.positives))} "
            f"examples of an epoch (task.examples = {options['examples']}, {len(train.positives)} pairs)"
        )


def build_examples(split: Split, config: Config, epoch: int, embed: Embed) -> ExampleSet:
    """Of `train`: images int64 [N, 4] and `compatible` float32 [N, 6], 1, 0 or -1 (unknown); of others: each item."""
    if split.name != "train":
        return ExampleSet.of_images(len(split))
    wardrobe, options = wardrobe_of(split), config.options
    draw = np.random.default_rng((config.train.seed, epoch, 0x9A1))
    order = draw.permutation(len(wardrobe.positives))
    anchors = wardrobe.positives[order[: int(options["examples"]) or None]]
    flip = draw.random(len(anchors)) < 0.5
    anchors = np.where(flip[:, None], anchors[:, ::-1], anchors)
    kinds = split.columns("semantic")["semantic"]
    # Weights that have learned nothing yet have nothing to choose by.
    hard = options["negatives"] == "hard" and epoch > 0
    rows = np.asarray(embed()["embedding"]) if hard else None
    others = choose_negatives(wardrobe, anchors, kinds, config, draw, rows)
    from_list = draw.random(len(anchors)) < float(options["listed"])
    listed = wardrobe.listed_negatives
    if len(listed):
        taken = listed[draw.integers(len(listed), size=len(anchors))]
        anchors = np.where(
            from_list[:, None],
            np.column_stack([taken[:, 0], wardrobe.mates.draw(taken[:, 0], draw.random(len(taken)))]),
            anchors,
        )
        others = np.where(from_list, taken[:, 1], others)
    images = np.column_stack([anchors, others, wardrobe.mates.draw(others, draw.random(len(others)))]).astype(np.int64)
    return ExampleSet(images, {"compatible": relations(wardrobe, images)})


def relations(wardrobe: Wardrobe, images: np.ndarray) -> np.ndarray:
    """float32 [N, 6] of items [N, 4]: 1 where two share an outfit, 0 where they are strangers, else -1."""
    labels = np.zeros((len(images), len(_PAIRS)), np.float32)
    for pair, (i, j) in enumerate(_PAIRS):
        labels[wardrobe.mates.are_related(images[:, i], images[:, j]), pair] = -1
        labels[wardrobe.mates.are_mates(images[:, i], images[:, j]), pair] = 1
    return labels


def choose_negatives(
    wardrobe: Wardrobe,
    anchors: np.ndarray,
    kinds: np.ndarray,
    config: Config,
    draw: np.random.Generator,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """For each pair (a, b) an item that does not go with a: int64 [N].

    Args:
        wardrobe: of the split.
        anchors: int64 [N, 2], the pairs.
        kinds: int [I], semantic categories; except with `task.negatives=random`, the item is of b's.
        config: of the run.
        draw: where chance comes from.
        rows: [I, C + 1] of the current weights. Of `task.candidates` items the hardest is taken: that with the highest
            score, if it is at most `task.margin` below the pair's own; else the first that was drawn.
    """
    options = config.options
    tries = int(options["candidates"]) if rows is not None else 8
    uniform = draw.random((len(anchors), tries))
    kinds = np.zeros_like(kinds) if options["negatives"] == "random" else kinds
    by_kind = np.argsort(kinds, kind="stable")
    first, last = (np.searchsorted(kinds[by_kind], kinds[anchors[:, 1]], side) for side in ("left", "right"))
    chosen = np.empty(len(anchors), np.int64)
    for start in range(0, len(anchors), _ANCHORS):
        part = slice(start, start + _ANCHORS)
        size = (last - first)[part, None]
        drawn = by_kind[first[part, None] + (uniform[part] * size).astype(np.int64)]
        chosen[part] = _of_drawn(wardrobe.mates, anchors[part], drawn, rows, float(options["margin"]))
    return chosen


def _of_drawn(
    mates: Mates, anchors: np.ndarray, drawn: np.ndarray, rows: np.ndarray | None, margin: float
) -> np.ndarray:
    """Of the items `drawn` [n, T] for pairs [n, 2] the first stranger, or the hardest that is hard enough: int64 [n].

    Where an outfit holds most of a category, any item will do: `relations` labels it.
    """
    a, b = anchors.T
    column = mates.first_stranger(a, drawn)
    if rows is not None:
        tries = drawn.shape[1]
        scores = score_pairs(rows, np.repeat(a, tries), drawn.ravel()).reshape(drawn.shape)
        ranked = np.argsort(-scores, axis=1, kind="stable")
        rank = mates.first_stranger(a, np.take_along_axis(drawn, ranked, axis=1))
        best = np.take_along_axis(ranked, np.maximum(rank, 0)[:, None], axis=1)[:, 0]
        hard_enough = scores[np.arange(len(a)), best] >= score_pairs(rows, a, b) - margin
        column = np.where((rank >= 0) & hard_enough, best, column)
    return np.asarray(drawn[np.arange(len(a)), np.maximum(column, 0)])


def counts(targets: Tensors) -> dict[str, Tensor]:
    """The pairs that go together, and those that do not."""
    labels = targets["compatible"]
    return {"together_loss": (labels == 1).sum(), "apart_loss": (labels == 0).sum()}


def losses(outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
    """Binary cross-entropy of the known pairs that go together, and of those that do not, each added up."""
    import torch.nn.functional as F

    logits, labels = outputs["score"].float(), targets["compatible"]
    smoothed = labels.clamp(min=0) * (1 - config.train.label_smoothing) + 0.5 * config.train.label_smoothing
    each = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    return {"together_loss": (each * (labels == 1)).sum(), "apart_loss": (each * (labels == 0)).sum()}


def train_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """For `Task.train_metrics`: [2], the shares of pairs answered rightly among those that go together and those that
    do not, added, and how many of the two there are.
    """
    import torch

    rights, kinds = [], []
    for chosen, right in ((labels == 1, logits > 0), (labels == 0, logits <= 0)):
        rights.append((right & chosen).sum() / chosen.sum().clamp(min=1))
        kinds.append(chosen.any())
    return torch.stack([torch.stack(rights).sum(), torch.stack(kinds).sum()])


def ensemble(members: Sequence[Columns]) -> dict[str, np.ndarray]:
    """`embedding` float64 [N, sum of C + 1], whose scores are the means of the models' scores (logits)."""
    count = len(members)
    rows = [np.asarray(columns["embedding"], np.float64) for columns in members]
    halves = [row.shape[1] // 2 for row in rows]
    alike = [row[:, :half] / np.sqrt(count) for row, half in zip(rows, halves, strict=True)]
    apart = [row[:, half:-1] / count for row, half in zip(rows, halves, strict=True)]
    return {"embedding": np.concatenate([*alike, *apart, np.mean([row[:, -1:] for row in rows], axis=0)], axis=1)}


def score_pairs(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logits float64 [n] that items `first` go with items `second`, both int [n]; the same if they change places."""
    half, scores = rows.shape[1] // 2, np.empty(len(first))
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        a, b = rows[first[part]].astype(np.float64), rows[second[part]].astype(np.float64)
        alike = (a[:, :half] * b[:, :half]).sum(axis=1)
        apart = np.abs(a[:, half:-1] - b[:, half:-1]).sum(axis=1)
        scores[part] = alike - apart + (a[:, -1] + b[:, -1])
    return scores


def score_outfits(rows: np.ndarray, outfits: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [N], of each outfit int64 [n] the mean of the probabilities of its n (n - 1) / 2 pairs."""
    scores = np.empty(len(outfits))
    for places in _alike(outfits):
        items = np.stack([outfits[place] for place in places])
        first, second = np.triu_indices(items.shape[1], 1)
        scores[places] = _means(rows, items[:, first], items[:, second])
    return scores


def answer_scores(rows: np.ndarray, questions: Sequence[Question]) -> list[np.ndarray]:
    """Of each question, for each answer the mean of the probabilities that it goes with each of the question's items.

    Equally good answers have the same score, to the bit.
    """
    scores: list[np.ndarray] = [np.empty(0)] * len(questions)
    for places in _alike([question.items for question in questions], [question.answers for question in questions]):
        items = np.stack([questions[place].items for place in places])[:, None]
        answers = np.stack([questions[place].answers for place in places])[:, :, None]
        for place, found in zip(places, _means(rows, *np.broadcast_arrays(items, answers)), strict=True):
            scores[place] = found
    return scores


def _alike(*arrays: Sequence[np.ndarray]) -> Iterable[list[int]]:
    """Places whose arrays [n] are as long as each other's."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, some in enumerate(zip(*arrays, strict=True)):
        groups.setdefault(tuple(map(len, some)), []).append(place)
    return groups.values()


def _means(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean probabilities of pairs of items, both int64 [..., n], over the last axis."""
    logits = score_pairs(rows, first.ravel(), second.ravel())
    return np.asarray(sigmoid(logits).reshape(first.shape).mean(axis=-1))


def choose_answers(rows: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """int64 [N], positions of the answers that go best with the questions' items; of equally good ones the first."""
    return np.array([np.argmax(scores) for scores in answer_scores(rows, questions)], np.int64)


def credits_of(rows: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """float64 [N], 1 for a right answer, 0 for a wrong one; among n equally good answers the right one is worth 1 / n.

    Where a file names the right answer first each time, whoever cannot tell answers apart would else be always right.
    """
    best = [scores == scores.max() for scores in answer_scores(rows, questions)]
    return np.array([
        of[question.correct] / of.sum() if of.any() else np.nan for of, question in zip(best, questions, strict=True)
    ], float)  # fmt: skip


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, any shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))))


@lru_cache(maxsize=4)
def asked_pairs(wardrobe: Wardrobe) -> tuple[np.ndarray, np.ndarray]:
    """Pairs int64 [2M, 2] of a split and their truth [2M]: all that share an outfit, and as many that do not.

    The latter are of the compatibility file's negative lines, and where these are too few, drawn. They are the same for
    every run on the set, whatever its seed, so that figures can be compared.
    """
    draw = np.random.default_rng(0)
    together, apart = wardrobe.positives, draw.permutation(wardrobe.listed_negatives)[: len(wardrobe.positives)]
    items, asked = len(wardrobe.split), len(together)
    taken, tries = apart @ [items, 1], 20 * asked
    while len(taken) < asked and tries > 0:
        drawn = np.sort(draw.integers(items, size=(min(tries, asked), 2)), axis=1)
        tries -= len(drawn)
        drawn = drawn[~wardrobe.mates.are_related(drawn[:, 0], drawn[:, 1])]
        both = np.concatenate([taken, drawn @ [items, 1]])
        taken = both[np.sort(np.unique(both, return_index=True)[1])][:asked]  # of equal ones the first
    taken.sort()
    apart = np.stack([taken // max(items, 1), taken % max(items, 1)], axis=1)
    return np.concatenate([together, apart]), np.repeat([1, 0], [len(together), len(apart)])


@dataclass(frozen=True)
class Exam:
    """What is asked of a split: pairs int64 [P, 2] with their truth [P], outfits as rows with theirs, and questions."""

    pairs: np.ndarray
    truth: np.ndarray
    outfits: Sequence[np.ndarray]
    labels: np.ndarray
    questions: Sequence[Question]


def exam_of(wardrobe: Wardrobe, there: np.ndarray) -> Exam:
    """What can be asked of a split when only the items that are `there`, bool [I], could be read."""
    pairs, truth = asked_pairs(wardrobe)
    asked = there[pairs].all(axis=1)
    known = np.array([bool(there[items].all()) for items in wardrobe.lines], bool)
    outfits = [items for items, whole in zip(wardrobe.lines, known, strict=True) if whole]
    questions = [q for q in wardrobe.questions if there[q.items].all() and there[q.answers].all()]
    return Exam(pairs[asked], truth[asked], outfits, wardrobe.labels[known], questions)


class CompatibilityEvaluator(GatheredEvaluator):
    """AUC, accuracy and loss of pairs, AUC of outfits, accuracy of fill-in-the-blank; the mean of three, `score`.

    The loss is of calibrated logits where `calibrate` was called. What asks for an item that could not be read is left
    out; all is NaN of a network whose answers are not finite.
    """

    def compute(self) -> dict[str, float]:
        """See `Evaluator.compute`."""
        import torch

        exam, embedding = exam_of(wardrobe_of(self.split), self.there), self.predictions["embedding"]
        truth, logits = exam.truth, score_pairs(embedding, exam.pairs[:, 0], exam.pairs[:, 1])
        outfits, right = score_outfits(embedding, exam.outfits), credits_of(embedding, exam.questions)
        found = {
            "pair_auc": area_under_roc(logits, truth),
            "pair_accuracy": float(np.where(np.isfinite(logits), (logits > 0) == truth, np.nan).mean()),
            "outfit_auc": area_under_roc(outfits, exam.labels),
            "fill_in_blank": float(right.mean()) if len(right) else 0.0,
        }
        found["score"] = (found["pair_auc"] + found["outfit_auc"] + found["fill_in_blank"]) / 3
        pair = {"score": torch.from_numpy(logits)[None]}
        losses = self.task.loss(pair, {"compatible": torch.from_numpy(truth)[None]}, self.config)
        return {**found, **{name: float(value) for name, value in losses.items()}}

    def calibrate(self, model: nn.Module) -> None:
        """Let the network's probabilities mean what they say on the split (Platt 1999), and the gathered embeddings be
        those that it gives then.

        Embeddings without any order in them (a slope of 0 or less) are left alone.
        """
        import torch
        from sklearn.linear_model import LogisticRegression

        from fashion_dist.models import siamese

        assert isinstance(model, siamese.PairNetwork)
        embedding = self.predictions["embedding"]
        exam = exam_of(wardrobe_of(self.split), self.there)
        truth, logits = exam.truth, score_pairs(embedding, exam.pairs[:, 0], exam.pairs[:, 1])
        if not 0 < truth.mean() < 1 or not np.isfinite(logits).all():
            return
        fitted = LogisticRegression(C=1e6).fit(logits[:, None], truth)
        slope, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if slope <= 0:
            return
        model.calibrate(slope, shift)
        calibrated = siamese.calibrated(torch.from_numpy(embedding), torch.tensor(slope), torch.tensor(shift))
        self.predictions["embedding"] = calibrated.numpy()
