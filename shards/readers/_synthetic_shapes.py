"""Outlines of the ten garments, as polygons in a square from -1 to 1 with y pointing down.

Each function takes a random generator and the traits that the garment is to have, and draws the same numbers whatever
the traits, so that two garments of one seed differ in a trait alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

Points = list[tuple[float, float]]

_UPPER = ("dress", "longsleeve", "outwear", "shirt", "t-shirt")
TRAITS = {
    "long sleeves": ("dress", "outwear", "shirt"),
    "long hem": (*_UPPER, "skirt"),
    "collar": _UPPER,
    "hood": _UPPER,
    "belt": (*_UPPER, "pants", "shorts", "skirt"),
}
"""Attributes of shape, and the categories that have them or not; a longsleeve always has long sleeves."""
CHANCE = 0.45
"""Of each trait where it is possible: less than half of all garments have it, so that guessing earns little F1."""


@dataclass
class Shape:
    """One garment: filled with the cloth, then the lining with another colour, then details in a shade of the cloth."""

    outline: list[Points]
    lining: list[Points] = field(default_factory=list)
    details: list[Points] = field(default_factory=list)

    def add(self, parts: list[Points]) -> None:
        """Parts that stand out from the cloth by their shade, also where they reach over its outline."""
        self.outline += parts
        self.details += parts


def choose_traits(rng: np.random.Generator, category: str) -> set[str]:
    """Each trait that is possible for `category` with probability `CHANCE`, independently."""
    always = {"long sleeves"} if category == "longsleeve" else set()
    return always | {trait for trait, ours in TRAITS.items() if rng.random() < CHANCE and category in ours}


def _both(parts: Iterable[Points]) -> list[Points]:
    """Each polygon and its mirror image."""
    return [[(side * x, y) for x, y in part] for part in parts for side in (1, -1)]


def _mirrored(right: Points) -> Points:
    """The closed polygon of a right half that is listed from top to bottom."""
    return right + [(-x, y) for x, y in reversed(right)]


def _moved(part: Points, dx: float, dy: float) -> Points:
    return [(x + dx, y + dy) for x, y in part]


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 1, steps: int = 16) -> Points:
    """Points of an ellipse from `start` to `end`, in turns; 0 is right, 0.25 is down."""
    angles = 2 * np.pi * np.linspace(start, end, steps)
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


def _stripe(x0: float, y0: float, x1: float, y1: float, width: float = 0.03) -> Points:
    """A thin line as a polygon."""
    length = max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]


def _belt(shape: Shape, rng: np.random.Generator, traits: set[str], half: float, y: float) -> None:
    """A broad band a little wider than the waist, with two hanging ends."""
    at, fall = rng.uniform(-0.4, 0.4) * half, rng.uniform(0.2, 0.3)
    if "belt" in traits:
        ends = [_stripe(at, y, at + dx, y + fall, 0.08) for dx in (-0.09, 0.09)]
        shape.add([_stripe(-half - 0.04, y, half + 0.04, y, 0.13), *ends])


def _upper(
    rng: np.random.Generator, traits: set[str], shoulder: float, waist: float, flare: float, sleeveless: float = 0.0
) -> Shape:
    """Body, sleeves, neck, collar, hood and belt of everything worn above the waist.

    Args:
        rng: draws the lengths.
        traits: what it has.
        shoulder: half width.
        waist: half width.
        flare: by how much the half width grows from the waist to a hem one unit below.
        sleeveless: probability of no sleeves instead of short ones.
    """
    neck, drop, cuff, out, down, length, bare = rng.uniform(
        (0.14, 0.08, 0.09, 0, 0, 0, 0), (0.2, 0.2, 0.13, 1, 1, 1, 1)
    )
    bottom = 0.8 + 0.17 * length if "long hem" in traits else 0.15 + 0.17 * length
    body = _mirrored([(0, drop - 0.68), (neck * 0.7, drop * 0.7 - 0.68), (neck, -0.7), (shoulder, -0.62),
                      (shoulder * 0.95, -0.3), (waist, -0.05), (waist + flare * (bottom + 0.05), bottom)])  # fmt: skip
    shape = Shape([body])
    if "long sleeves" in traits:
        x, y = shoulder + 0.2 + 0.2 * out, 0.2 + 0.25 * down
        sleeve = [(x + cuff, y), (x - cuff, y + 0.05), (shoulder * 0.9, -0.2)]
    else:
        x, y = shoulder + 0.12 + 0.12 * out, -0.36 + 0.1 * down
        sleeve = [(x + 0.04, y - 0.06), (x - 0.12, y + 0.1), (shoulder * 0.9, -0.35)]
    if "long sleeves" in traits or bare >= sleeveless:
        shape.outline += _both([[(neck, -0.7), (shoulder, -0.64), (shoulder + 0.1, -0.45), *sleeve]])
        shape.details += _both([_stripe(shoulder * 0.95, -0.58, shoulder * 0.9, -0.3)])
    if "hood" in traits:
        shape.outline.append(_arc(0, -0.66, 0.32, 0.33, 0.5, 1.0))
        shape.details.append(_arc(0, -0.72, 0.17, 0.19))
    if "collar" in traits:
        shape.add(_both([[(0, drop - 0.68), (neck, -0.82), (neck + 0.14, -0.66), (neck, drop - 0.42)]]))
    _belt(shape, rng, traits, waist, 0.0)
    return shape


def t_shirt(rng: np.random.Generator, traits: set[str]) -> Shape:
    """Short sleeves."""
    return _upper(rng, traits, rng.uniform(0.36, 0.46), rng.uniform(0.34, 0.42), rng.uniform(0, 0.1))


def longsleeve(rng: np.random.Generator, traits: set[str]) -> Shape:
    """As a t-shirt, with long sleeves."""
    return t_shirt(rng, traits)


def shirt(rng: np.random.Generator, traits: set[str]) -> Shape:
    """A row of buttons."""
    shape = _upper(rng, traits, rng.uniform(0.34, 0.44), rng.uniform(0.32, 0.4), rng.uniform(0, 0.1), 0.3)
    bottom = shape.outline[0][6][1]
    buttons = [_arc(0.1, float(y), 0.04, 0.04, steps=8) for y in np.arange(-0.4, bottom - 0.05, 0.17)]
    shape.details += [_stripe(0, -0.6, 0, bottom, 0.07), *buttons]
    return shape


def outwear(rng: np.random.Generator, traits: set[str]) -> Shape:
    """Wide, open in front over a lining, with pockets."""
    shape = _upper(rng, traits, rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.5), rng.uniform(0, 0.15), 0.5)
    top, gap, bottom = rng.uniform(0.08, 0.13), rng.uniform(0.1, 0.2), shape.outline[0][6][1]
    shape.lining = [_mirrored([(top, -0.7), (gap, bottom + 0.02)])]
    shape.details += _both([_stripe(0.24, -0.32, 0.38, -0.36, 0.05)])
    return shape


def dress(rng: np.random.Generator, traits: set[str]) -> Shape:
    """A narrow waist over a wide skirt."""
    shape = _upper(rng, traits, rng.uniform(0.24, 0.32), rng.uniform(0.17, 0.25), rng.uniform(0.4, 0.65), 0.5)
    hem, bottom = shape.outline[0][6]
    shape.details += _both([_stripe(0.08, 0.05, hem * 0.5, bottom, 0.02)])
    return shape


def skirt(rng: np.random.Generator, traits: set[str]) -> Shape:
    """A waistband and a hem, nothing above."""
    waist, flare, top, length = rng.uniform((0.26, 0.15, -0.65, 0), (0.38, 0.4, -0.5, 1))
    bottom = top + 0.25 * length + (1.2 if "long hem" in traits else 0.5)
    hem = waist * 1.2 + flare * (bottom - top)
    shape = Shape([_mirrored([(waist, top), (waist * 1.25, top + 0.2), (hem, bottom - 0.04), (0, bottom)])])
    shape.details = [_stripe(-waist, top + 0.1, waist, top + 0.1, 0.04)]
    shape.details += _both([_stripe(f * waist, top + 0.12, f * hem, bottom, 0.02) for f in (0.2, 0.6)])
    _belt(shape, rng, traits, waist, top + 0.08)
    return shape


def _legs(
    rng: np.random.Generator, traits: set[str], top: float, bottom: float, hip: float, spread: float, cuff: float
) -> Shape:
    crotch = top + rng.uniform(0.5, 0.62)
    right = [(0, top), (hip * 0.85, top), (hip, top + 0.3), (spread + cuff, bottom), (spread - cuff, bottom)]
    shape = Shape([_mirrored([*right, (0.02, crotch)])])
    shape.details = [_stripe(-hip * 0.9, top + 0.09, hip * 0.9, top + 0.09, 0.04), _stripe(0, top, 0, crotch)]
    shape.details += _both([_stripe(hip * 0.5, top + 0.12, hip * 0.95, top + 0.28)])
    _belt(shape, rng, traits, hip * 0.85, top + 0.08)
    return shape


def pants(rng: np.random.Generator, traits: set[str]) -> Shape:
    """Legs to the floor."""
    return _legs(rng, traits, *rng.uniform((-0.95, 0.85, 0.32, 0.26, 0.1), (-0.85, 0.97, 0.42, 0.4, 0.17)))


def shorts(rng: np.random.Generator, traits: set[str]) -> Shape:
    """Legs to the knee at most."""
    return _legs(rng, traits, *rng.uniform((-0.6, 0.32, 0.45, 0.4, 0.22), (-0.45, 0.5, 0.56, 0.48, 0.28)))


def hat(rng: np.random.Generator, _: set[str]) -> Shape:
    """A cap with a peak, a hat with a brim all around, or a beanie."""
    u = rng.uniform
    kind, crown, height = rng.integers(3), u(0.4, 0.55), u(0.5, 0.8)
    dome = [*_arc(0, 0.2, crown, height, 0.5, 1.0), (crown, 0.25), (-crown, 0.25)]
    if kind == 0:
        peak = [(crown * 0.2, 0.12), (crown + 0.1, 0.14), (crown + u(0.35, 0.5), 0.32), (crown * 0.3, 0.32)]
        seam = _stripe(0, 0.2 - height, 0.05, 0.2)
        return Shape([dome, peak], details=[_stripe(crown * 0.2, 0.15, crown, 0.2, 0.04), seam])
    if kind == 1:
        brim = _arc(0, 0.25, u(0.75, 0.98), u(0.13, 0.24), steps=32)
        return Shape([dome, brim], details=[_stripe(-crown, 0.15, crown, 0.15, 0.12)])
    cuff = _mirrored([(crown + 0.04, 0.1), (crown + 0.02, 0.42)])
    pompom = _arc(0, 0.2 - height, 0.14, 0.14)
    return Shape([dome, cuff, pompom], details=[_stripe(-crown, 0.1, crown, 0.1, 0.05)])


def shoes(rng: np.random.Generator, _: set[str]) -> Shape:
    """A pair seen from the side: sneakers, boots or heels."""
    kind, (length, shaft) = rng.integers(3), rng.uniform((0.6, 0.35), 0.8)
    if kind == 0:
        upper = [(-1, 0.1), (-1, -0.2), (-0.5, -0.25), (0, -0.02), (0.8, 0.05), (1, 0.18)]
        sole = [(-1, 0.1), (1, 0.12), (1.04, 0.26), (-1.04, 0.26)]
    elif kind == 1:
        upper = [(-1, 0.15), (-1, -shaft), (-0.3, -shaft), (-0.2, -0.1), (0.7, -0.02), (1, 0.15)]
        sole = [(-1, 0.12), (1, 0.12), (1, 0.24), (-1, 0.24)]
    else:
        upper = [(-1, -0.3), (-0.6, -0.28), (0.15, 0.1), (1, 0.18), (0.9, 0.26), (-0.15, 0.22), (-0.8, -0.05)]
        sole = [(-1, -0.2), (-0.8, -0.15), (-0.86, 0.26), (-0.96, 0.26)]
    upper, sole = ([(x * length, y) for x, y in part] for part in (upper, sole))
    dx, dy = rng.uniform((0.1, 0.17), (0.25, 0.28))
    shape = Shape([])
    for side in (-1, 1):
        shape.outline += [_moved(part, side * dx, side * dy) for part in (upper, sole)]
        shape.details.append(_moved(sole, side * dx, side * dy))
        if kind == 0:
            laces = [_stripe(f - 0.3, f * 0.4 - 0.16, f - 0.18, f * 0.4 - 0.05) for f in (0, 0.12, 0.24)]
            shape.details += [_moved(lace, side * dx, side * dy) for lace in laces]
    return shape


SHAPES: dict[str, Callable[[np.random.Generator, set[str]], Shape]] = {
    "dress": dress,
    "hat": hat,
    "longsleeve": longsleeve,
    "outwear": outwear,
    "pants": pants,
    "shirt": shirt,
    "shoes": shoes,
    "shorts": shorts,
    "skirt": skirt,
    "t-shirt": t_shirt,
}
