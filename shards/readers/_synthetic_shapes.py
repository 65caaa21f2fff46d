"""Outlines of the ten garments, as polygons in a square from -1 to 1 with y pointing down.

Each function takes a random generator and returns (outline polygons, lining polygons, dark details): the outline is
filled with the cloth, the lining with another colour (what shows through an open coat), the details are seams, soles,
collars and buttons, drawn in a darker shade of what is under them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Points = list[tuple[float, float]]


@dataclass
class Shape:
    """One garment's polygons."""

    outline: list[Points]
    lining: list[Points] = field(default_factory=list)
    details: list[Points] = field(default_factory=list)


def _mirrored(right: Points) -> Points:
    """The closed polygon of a right half that is listed from top to bottom."""
    return right + [(-x, y) for x, y in reversed(right)]


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 16) -> Points:
    """Points of an ellipse from `start` to `end`, in turns; 0 is right, 0.25 is down."""
    angles = 2 * np.pi * np.linspace(start, end, steps)
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


def _stripe(x0: float, y0: float, x1: float, y1: float, width: float = 0.03) -> Points:
    """A thin line as a polygon."""
    length = max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]


def _top(rng: np.random.Generator, long_sleeves: bool, width: float, bottom: float, neck_depth: float) -> Shape:
    """Body, sleeves and neck of everything worn above the waist."""
    u = rng.uniform
    shoulder, neck = width * u(0.95, 1.05), u(0.14, 0.2)
    cuff = u(0.1, 0.14)
    body = _mirrored(
        [(0, -0.78 + neck_depth), (neck * 0.7, -0.78 + neck_depth * 0.7), (neck, -0.8), (shoulder, -0.7),
         (width * u(0.9, 1.0), -0.2), (width * u(0.92, 1.12), bottom)]
    )  # fmt: skip
    if long_sleeves:
        wrist_x, wrist_y = shoulder + u(0.12, 0.5), u(0.3, 0.62)
        sleeve = [(neck, -0.8), (shoulder, -0.72), (shoulder + 0.12, -0.5), (wrist_x + cuff, wrist_y),
                  (wrist_x - cuff, wrist_y + 0.05), (width * 0.9, -0.25)]  # fmt: skip
    else:
        end_x, end_y = shoulder + u(0.2, 0.36), u(-0.35, -0.2)
        sleeve = [(neck, -0.8), (shoulder, -0.72), (end_x + 0.04, end_y - 0.06), (end_x - 0.14, end_y + 0.12),
                  (width * 0.9, -0.35)]  # fmt: skip
    seams = [_stripe(shoulder * 0.95, -0.65, width * 0.92, -0.3)]
    shape = Shape([body, sleeve, [(-x, y) for x, y in sleeve]])
    shape.details = seams + [[(-x, y) for x, y in seam] for seam in seams]
    return shape


def t_shirt(rng: np.random.Generator) -> Shape:
    """Short sleeves, round neck."""
    return _top(rng, False, rng.uniform(0.36, 0.46), rng.uniform(0.6, 0.8), rng.uniform(0.1, 0.24))


def longsleeve(rng: np.random.Generator) -> Shape:
    """Long sleeves, round neck."""
    return _top(rng, True, rng.uniform(0.34, 0.44), rng.uniform(0.6, 0.8), rng.uniform(0.08, 0.18))


def shirt(rng: np.random.Generator) -> Shape:
    """A collar and a row of buttons; the sleeves may be short or long."""
    shape = _top(rng, bool(rng.random() < 0.6), rng.uniform(0.34, 0.44), rng.uniform(0.65, 0.85), 0.12)
    collar = [(0.0, -0.62), (0.2, -0.86), (0.3, -0.74), (0.16, -0.5)]
    bottom = shape.outline[0][5][1]
    shape.details += [collar, [(-x, y) for x, y in collar], _stripe(0.0, -0.6, 0.0, bottom, 0.07)]
    shape.details += [_arc(0.09, float(y), 0.035, 0.035, 0, 1, 8) for y in np.arange(-0.45, bottom - 0.05, 0.2)]
    return shape


def outwear(rng: np.random.Generator) -> Shape:
    """Long sleeves, wide, open in front over a lining; some with a hood."""
    bottom = rng.uniform(0.72, 0.95)
    shape = _top(rng, True, rng.uniform(0.46, 0.56), bottom, 0.05)
    gap_top, gap = rng.uniform(0.1, 0.16), rng.uniform(0.08, 0.22)
    shape.lining = [[(-gap_top, -0.8), (gap_top, -0.8), (gap, bottom + 0.03), (-gap, bottom + 0.03)]]
    lapel = [(gap_top, -0.8), (gap_top + 0.18, -0.62), (gap * 0.8, -0.1)]
    pocket = _stripe(0.28, 0.28, 0.44, 0.34, 0.05)
    shape.details += [lapel, [(-x, y) for x, y in lapel], pocket, [(-x, y) for x, y in pocket]]
    if rng.random() < 0.35:
        shape.outline.append(_arc(0, -0.8, 0.26, 0.2, 0.5, 1.0))
    return shape


def dress(rng: np.random.Generator) -> Shape:
    """A narrow waist over a long, wide hem."""
    u = rng.uniform
    shoulder, waist, hem, bottom = u(0.22, 0.32), u(0.18, 0.28), u(0.42, 0.7), u(0.75, 0.97)
    right = [(0, u(-0.75, -0.55)), (shoulder * 0.6, -0.92), (shoulder, -0.9), (shoulder + 0.03, -0.55),
             (waist, u(-0.22, -0.05)), (hem, bottom)]  # fmt: skip
    shape = Shape([_mirrored(right)])
    if rng.random() < 0.4:
        sleeve = [(shoulder * 0.7, -0.92), (shoulder, -0.9), (shoulder + 0.24, -0.55), (shoulder, -0.5)]
        shape.outline += [sleeve, [(-x, y) for x, y in sleeve]]
    waist_y = right[4][1]
    shape.details = [_stripe(-waist, waist_y, waist, waist_y, 0.05)]
    shape.details += [_stripe(s * waist * 0.4, waist_y + 0.05, s * hem * 0.5, bottom, 0.02) for s in (-1, 1)]
    return shape


def skirt(rng: np.random.Generator) -> Shape:
    """A waistband and a hem, nothing above."""
    u = rng.uniform
    waist, hem, top = u(0.26, 0.38), u(0.5, 0.85), u(-0.65, -0.5)
    bottom = top + u(0.9, 1.45)
    shape = Shape([_mirrored([(0, top), (waist, top), (waist * 1.25, top + 0.25), (hem, bottom - 0.04), (0, bottom)])])
    shape.details = [_stripe(-waist, top + 0.1, waist, top + 0.1, 0.04)]
    shape.details += [_stripe(f * waist, top + 0.12, f * hem, bottom, 0.02) for f in (-0.6, -0.2, 0.2, 0.6)]
    return shape


def _legs(rng: np.random.Generator, top: float, bottom: float, hip: float, spread: float, cuff: float) -> Shape:
    crotch = top + rng.uniform(0.5, 0.62)
    right = [(0, top), (hip * 0.85, top), (hip, top + 0.3), (spread + cuff, bottom), (spread - cuff, bottom)]
    shape = Shape([_mirrored([*right, (0.02, crotch)])])
    shape.details = [_stripe(-hip * 0.9, top + 0.09, hip * 0.9, top + 0.09, 0.04), _stripe(0, top, 0, crotch, 0.03)]
    shape.details += [_stripe(s * hip * 0.5, top + 0.12, s * hip * 0.95, top + 0.28, 0.03) for s in (-1, 1)]
    return shape


def pants(rng: np.random.Generator) -> Shape:
    """Legs to the floor."""
    u = rng.uniform
    return _legs(rng, u(-0.95, -0.85), u(0.85, 0.97), u(0.32, 0.42), u(0.26, 0.4), u(0.1, 0.17))


def shorts(rng: np.random.Generator) -> Shape:
    """Legs to the knee at most."""
    u = rng.uniform
    top = u(-0.6, -0.45)
    return _legs(rng, top, top + u(0.85, 1.1), u(0.45, 0.56), u(0.4, 0.48), u(0.22, 0.28))


def hat(rng: np.random.Generator) -> Shape:
    """A cap with a peak, a hat with a brim all around, or a beanie."""
    u = rng.uniform
    kind, crown, height = rng.integers(3), u(0.4, 0.55), u(0.5, 0.8)
    dome = [*_arc(0, 0.2, crown, height, 0.5, 1.0), (crown, 0.25), (-crown, 0.25)]
    band = _stripe(-crown, 0.15, crown, 0.15, 0.12)
    if kind == 0:
        peak = [(crown * 0.2, 0.12), (crown + 0.1, 0.14), (crown + u(0.35, 0.5), 0.32), (crown * 0.3, 0.32)]
        seam = _stripe(0, 0.2 - height, 0.05, 0.2, 0.03)
        return Shape([dome, peak], details=[_stripe(crown * 0.2, 0.15, crown, 0.2, 0.04), seam])
    if kind == 1:
        return Shape([dome, _arc(0, 0.25, u(0.75, 0.98), u(0.13, 0.24), 0, 1, 32)], details=[band])
    cuff = [(-crown - 0.04, 0.1), (crown + 0.04, 0.1), (crown + 0.02, 0.42), (-crown - 0.02, 0.42)]
    return Shape(
        [dome, cuff, _arc(0, 0.2 - height, 0.14, 0.14, 0, 1)], details=[_stripe(-crown, 0.1, crown, 0.1, 0.05)]
    )


def shoes(rng: np.random.Generator) -> Shape:
    """A pair seen from the side: sneakers, boots or heels."""
    u = rng.uniform
    kind, length, shaft = rng.integers(3), u(0.6, 0.8), u(0.35, 0.8)
    if kind == 0:
        upper = [
            (-length, 0.1),
            (-length, -0.2),
            (-length * 0.5, -0.25),
            (0.0, -0.02),
            (length * 0.8, 0.05),
            (length, 0.18),
        ]
        sole = [(-length, 0.1), (length, 0.12), (length + 0.03, 0.26), (-length - 0.03, 0.26)]
    elif kind == 1:
        upper = [
            (-length, 0.15),
            (-length, -shaft),
            (-length * 0.3, -shaft),
            (-length * 0.2, -0.1),
            (length * 0.7, -0.02),
            (length, 0.15),
        ]
        sole = [(-length, 0.12), (length, 0.12), (length, 0.24), (-length, 0.24)]
    else:
        upper = [
            (-length, -0.3),
            (-length * 0.6, -0.28),
            (0.1, 0.1),
            (length, 0.18),
            (length * 0.9, 0.26),
            (-0.1, 0.22),
            (-length * 0.8, -0.05),
        ]
        sole = [(-length, -0.2), (-length * 0.8, -0.15), (-length * 0.86, 0.26), (-length * 0.96, 0.26)]
    shift_x, shift_y = u(0.1, 0.25), u(0.35, 0.55)
    shape = Shape([])
    for dx, dy in ((-shift_x, -shift_y / 2), (shift_x, shift_y / 2)):
        shape.outline += [[(x + dx, y + dy) for x, y in part] for part in (upper, sole)]
        shape.details.append([(x + dx, y + dy) for x, y in sole])
        if kind == 0:
            shape.details += [
                _stripe(-0.3 + f + dx, -0.16 + f * 0.4 + dy, -0.18 + f + dx, -0.05 + f * 0.4 + dy)
                for f in (0, 0.12, 0.24)
            ]
    return shape


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
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
