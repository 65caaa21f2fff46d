"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float, digits: int = 1) -> str:
    """A share as `8.3 %`, which is not broken over two lines; with more digits where few would make it 0 or 100."""
    while digits < 3 and 0 < share < 1 and round(share, digits + 2) in (0, 1):
        digits += 1
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def duration(seconds: float) -> str:
    """`0.42 s`, `45 s`, `3 min 5 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if 0 < seconds < 1 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 10:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{int(minutes // 60)} h {int(minutes % 60)} min"


def name(metric: str) -> str:
    """A metric's name in words: `top3_accuracy` is `top-3 accuracy`."""
    known = {"macro_f1": "macro F1", "micro_f1": "micro F1", "sample_f1": "F1 by image",
             "attribute_f1": "attribute F1", "attribute_class_f1": "attribute F1 by class",
             "pair_auc": "pair AUC", "outfit_auc": "outfit AUC", "fill_in_blank": "fill in the blank",
             "pair_accuracy": "pair accuracy", "lr": "learning rate", "samples_per_s": "samples/s"}  # fmt: skip
    found = known.get(metric, metric.replace("_", " "))
    return found.replace("top3", "top-3").replace("top5", "top-5")


def listing(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def capital(text: str) -> str:
    """`text` as a sentence or a title begins."""
    return text[:1].upper() + text[1:]


def brief(text: str, most: int = 60) -> str:
    """`text`, with an ellipsis for its middle where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    keep = most - 1
    return f"{text[: keep - keep // 3].rstrip()}…{text[len(text) - keep // 3 :].lstrip()}"


def count(amount: int, noun: str) -> str:
    """`1 image`, `1,234 images`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"
