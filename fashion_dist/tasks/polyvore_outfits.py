"""Polyvore outfits: whether items make an outfit, and which item completes one.

An outfit's score is the mean of its pairs' probabilities by the network of `polyvore_pairs`, trained in the same way.
A run of that task need not be repeated: `fashion-dist collect RUN --task polyvore_outfits` answers from it, and with
`--tune-thresholds` draws the lines between the three conclusions on the validation split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.tasks import polyvore_pairs
from fashion_dist.tasks.common.base import Columns
from fashion_dist.tasks.common.compatibility import choose_answers, score_outfits
from fashion_dist.tasks.common.wardrobe import wardrobe_of
from fashion_dist.tasks.polyvore_pairs import PolyvorePairs
from shards import ShardSet, Split

THRESHOLDS = {"undecided_from": 0.45, "positive_from": 0.55}
"""Scores up to the first are `Negative`, up to the second `Undecided`, above it `Positive`."""

RECIPE = dataclasses.replace(
    polyvore_pairs.RECIPE, task="polyvore_outfits", options={**polyvore_pairs.RECIPE.options, **THRESHOLDS}
)


class PolyvoreOutfits(PolyvorePairs):
    """Which items make an outfit."""

    recipe = RECIPE

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse thresholds that cross, and what `polyvore_pairs` refuses."""
        check_thresholds(config)
        super().validate(shard_set, config)

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`outfits.txt`, a line for each of the compatibility file: conclusion, score, items as the file names them;
        `fill_in_blank.txt`, a line for each question: the chosen answer as the file names it.
        """
        low, high = check_thresholds(config)
        wardrobe, rows = wardrobe_of(split), np.asarray(columns["embedding"])
        lines, scores = [], score_outfits(rows, wardrobe.lines)
        for references, score in zip(wardrobe.references, scores.tolist(), strict=True):
            lines.append(f"{conclusion(score, low, high)} {score:.4f} {' '.join(references)}")
        answers = choose_answers(rows, wardrobe.questions).tolist()
        chosen = [question.references[place] for question, place in zip(wardrobe.questions, answers, strict=True)]
        return {"outfits.txt": "\n".join(lines) + "\n", "fill_in_blank.txt": "\n".join(chosen) + "\n"}

    def tune_thresholds(self, split: Split, predictions: Columns, config: Config) -> Mapping[str, float]:
        """The thresholds that suit a split best: the middle is where most outfits fall on their right side, and
        `Undecided` are the tenth of all scores nearest to it.
        """
        wardrobe, rows = wardrobe_of(split), np.asarray(predictions["embedding"])
        scores, labels = score_outfits(rows, wardrobe.lines), wardrobe.labels
        if not len(scores):
            raise ConfigError(f"{split.path}: split {split.name!r} has no compatibility lines to tune thresholds on")
        ordered = np.sort(scores)
        cuts = np.concatenate([[0.0], (ordered[1:] + ordered[:-1]) / 2, [1.0]])
        right = [((scores > cut) == labels).mean() for cut in cuts]
        middle = float(cuts[int(np.argmax(right))])
        near = float(np.quantile(np.abs(scores - middle), 0.1))
        low, high = max(0.0, middle - near), min(1.0, middle + near)
        return {"undecided_from": low, "positive_from": high}


def check_thresholds(config: Config) -> tuple[float, float]:
    """The two thresholds; raises ConfigError unless 0 <= `undecided_from` <= `positive_from` <= 1."""
    low, high = (float(config.options[name]) for name in THRESHOLDS)
    if not 0 <= low <= high <= 1:
        raise ConfigError(
            f"task.undecided_from = {low} and task.positive_from = {high} are not possible; "
            f"allowed: 0 <= undecided_from <= positive_from <= 1"
        )
    return low, high


def conclusion(score: float, low: float, high: float) -> str:
    """What a score between 0 and 1 says of an outfit."""
    return "Negative" if score <= low else "Undecided" if score <= high else "Positive"
