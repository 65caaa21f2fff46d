"""Polyvore pairs: whether two items of clothing go together, by one network for both, symmetric by construction.

Other backbones of the assignment: `--model resnet50 --weights imagenet`, `--model mobilenet_v2` from scratch, and
`--model xception --weights imagenet`, whole or with `--set model.freeze=backbone`. Hard negatives:
`--set task.negatives=hard`. `fashion-dist collect RUN --task polyvore_outfits` answers outfits and questions with the
same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fashion_dist.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from fashion_dist.tasks.common import compatibility
from fashion_dist.tasks.common.base import (
    Arrays,
    Columns,
    Embed,
    ExampleSet,
    ReportView,
    Task,
    Tensors,
    only_in_training,
)
from fashion_dist.tasks.common.classification import require_writable
from fashion_dist.tasks.common.compatibility import CompatibilityEvaluator, asked_pairs, score_pairs
from fashion_dist.tasks.common.evaluators import Evaluator
from fashion_dist.tasks.common.wardrobe import wardrobe_of
from shards import Schema, ShardSet, Split

if TYPE_CHECKING:
    from torch import Tensor, nn

RECIPE = Config(
    task="polyvore_pairs",
    dataset="polyvore_outfits",
    model=ModelConfig(name="fashionnet", dropout=0.2, args={"hue_jitter_prob": 0.0}),
    optim=OptimConfig(name="adamw", lr=2e-3, beta2=0.99, weight_decay=0.05, warmup_epochs=2.0),
    # Colours are part of what goes together, so none is changed.
    data=DataConfig(
        image_px=64, fit="squash", eval_resize=1.1, eval_flip=True, crop_scale=(0.6, 1.0),
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    ),
    train=TrainConfig(epochs=60, batch_size=32, ema=0.99, label_smoothing=0.1),
    options=dict(compatibility.OPTIONS),
)  # fmt: skip


class PolyvorePairs(Task):
    """Which items go together."""

    recipe = RECIPE
    columns = ("item_id", "semantic")
    images_per_example = 4
    monitor = "score"
    summary_metrics = ("pair_auc", "outfit_auc", "fill_in_blank")

    def build_model(self, config: Config, schema: Schema) -> nn.Module:
        """The configured backbone in a pair network."""
        from fashion_dist.models.siamese import build_pair_network

        return build_pair_network(config.model, int(config.options["embedding"]), config.data.image_px)

    def targets(self, columns: Arrays, config: Config) -> Arrays:
        """None: an item by itself goes with nothing. Those of pairs are made by `build_examples`."""
        return {}

    def build_examples(
        self, split: Split, config: Config, epoch: int = 0, embed: Embed = only_in_training
    ) -> ExampleSet:
        """Four items of two outfits in training, each item in evaluation."""
        return compatibility.build_examples(split, config, epoch, embed)

    def counts(self, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """The known pairs that go together, and those that do not."""
        return compatibility.counts(targets)

    def losses(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """Binary cross-entropy of the known pairs."""
        return compatibility.losses(outputs, targets, config)

    def objective(self, sums: Tensors, counts: Tensors, outputs: Tensors, config: Config) -> dict[str, Tensor]:
        """Pairs that go together weigh as much as those that do not."""
        return {name: value / 2 for name, value in sums.items()}

    def metrics(self, schema: Schema, config: Config) -> tuple[str, ...]:
        """See `Task.metrics`."""
        return (
            "score", "pair_auc", "outfit_auc", "fill_in_blank", "pair_accuracy", "loss", "together_loss", "apart_loss",
        )  # fmt: skip

    def train_metrics(self, outputs: Tensors, targets: Tensors, config: Config) -> dict[str, Tensor]:
        """`pair_accuracy`, pairs that go together weighing as much as those that do not, as in validation."""
        return {"pair_accuracy": compatibility.train_accuracy(outputs["score"], targets["compatible"])}

    def evaluator(self, split: Split, config: Config) -> Evaluator:
        """Metrics of the split's pairs, outfits and questions."""
        return CompatibilityEvaluator(self, split, config)

    def calibrate(self, model: nn.Module, evaluator: Evaluator) -> None:
        """Let the probabilities of pairs mean what they say."""
        assert isinstance(evaluator, CompatibilityEvaluator)
        evaluator.calibrate(model)

    def predictions(self, outputs: Tensors, config: Config) -> dict[str, np.ndarray]:
        """`embedding` float32 [N, C + 1], of which `score_pairs` makes scores."""
        return {"embedding": outputs["embedding"].float().cpu().numpy()}

    def submission(self, columns: Columns, split: Split, config: Config) -> dict[str, str]:
        """`compatibility.txt`, a line for each pair: both items, 1 or 0 as predicted, as is true, the probability."""
        pairs, truth = asked_pairs(wardrobe_of(split))
        probabilities = compatibility.sigmoid(score_pairs(np.asarray(columns["embedding"]), pairs[:, 0], pairs[:, 1]))
        names = list(split.keys)
        require_writable(names, " ", "compatibility.txt")
        lines = [
            f"{names[a]} {names[b]} {int(probability > 0.5)} {true} {probability:.4f}"
            for (a, b), true, probability in zip(pairs.tolist(), truth.tolist(), probabilities.tolist(), strict=True)
        ]
        return {"compatibility.txt": "\n".join(lines) + "\n"}

    def validate(self, shard_set: ShardSet, config: Config) -> None:
        """Refuse options that cannot be, and tables that cannot be learned from or answered."""
        compatibility.validate(shard_set, config)

    def ensemble(self, members: Sequence[Columns]) -> dict[str, np.ndarray]:
        """`embedding` float64, whose scores are the means of the models' scores."""
        return compatibility.ensemble(members)

    def report_views(self) -> tuple[ReportView, ...]:
        """The sections about pairs, outfits and questions."""
        return (ReportView("outfits", answer="embedding"),)
