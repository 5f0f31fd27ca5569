"""Bodies of made-up characters, and patterns on them: a few large shapes each, in rows of tables.

Coordinates are those of `trainers.base.drawings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trainers.base.drawings import Colour, Point, Sheet


@dataclass(frozen=True, kw_only=True)
class Body:
    """An outline, and where the other parts sit on it.

    face: between the eyes. top, foot: heights of its upper and lower end. side: how far out the arms begin.
    """

    draw: Callable[[Sheet, Colour], None]
    face: Point
    top: float
    foot: float
    side: float


# ── Bodies


def _polygon(points: list[Point]) -> Callable[[Sheet, Colour], None]:
    return lambda sheet, colour: sheet.polygon(points, colour)


def _ellipses(*parts: tuple[Point, float, float]) -> Callable[[Sheet, Colour], None]:
    def draw(sheet: Sheet, colour: Colour) -> None:
        for centre, rx, ry in parts:
            sheet.ellipse(centre, rx, ry, colour)

    return draw


def _star(points: int, inner: float, outer: float, centre: Point) -> list[Point]:
    radii = [outer if index % 2 == 0 else inner for index in range(2 * points)]
    angles = [math.pi * (index / points - 0.5) for index in range(2 * points)]
    return [
        (centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)
    ]


def _ghost(sheet: Sheet, colour: Colour) -> None:
    sheet.ellipse((0.0, -0.1), 0.62, 0.66, colour)
    sheet.polygon([(-0.62, -0.1), (0.62, -0.1), (0.68, 0.7), (-0.68, 0.7)], colour)
    for x in (-0.46, 0.0, 0.46):
        sheet.ellipse((x, 0.7), 0.23, 0.18, colour)


def _drop(sheet: Sheet, colour: Colour) -> None:
    sheet.ellipse((0.0, 0.3), 0.62, 0.54, colour)
    sheet.polygon([(0.0, -0.82), (0.6, 0.16), (-0.6, 0.16)], colour)


def _mushroom(sheet: Sheet, colour: Colour) -> None:
    sheet.polygon([(-0.3, -0.1), (0.3, -0.1), (0.36, 0.8), (-0.36, 0.8)], colour)
    sheet.ellipse((0.0, -0.14), 0.86, 0.5, colour)


def _heart(sheet: Sheet, colour: Colour) -> None:
    for x in (-0.38, 0.38):
        sheet.ellipse((x, -0.2), 0.46, 0.46, colour)
    sheet.polygon([(-0.8, 0.02), (0.0, -0.2), (0.8, 0.02), (0.0, 0.9)], colour)


def _bell(sheet: Sheet, colour: Colour) -> None:
    sheet.ellipse((0.0, -0.28), 0.46, 0.46, colour)
    sheet.polygon([(-0.46, -0.28), (0.46, -0.28), (0.56, 0.4), (-0.56, 0.4)], colour)
    sheet.polygon([(-0.5, 0.3), (0.5, 0.3), (0.9, 0.78), (-0.9, 0.78)], colour)


def _jar(sheet: Sheet, colour: Colour) -> None:
    sheet.polygon([(-0.42, -0.72), (0.42, -0.72), (0.42, -0.5), (-0.42, -0.5)], colour)
    sheet.polygon([(-0.24, -0.6), (0.24, -0.6), (0.24, -0.1), (-0.24, -0.1)], colour)
    sheet.ellipse((0.0, 0.3), 0.76, 0.54, colour)


BODIES: dict[str, Body] = {
    "round": Body(draw=_ellipses(((0.0, 0.14), 0.7, 0.68)), face=(0.0, -0.08), top=-0.5, foot=0.82, side=0.6),
    "tall": Body(
        draw=_ellipses(((0.0, 0.08), 0.46, 0.78)), face=(0.0, -0.3), top=-0.64, foot=0.84, side=0.38
    ),
    "wide": Body(draw=_ellipses(((0.0, 0.26), 0.9, 0.52)), face=(0.0, 0.08), top=-0.24, foot=0.76, side=0.78),
    "box": Body(
        draw=_polygon([(-0.6, -0.46), (0.6, -0.46), (0.6, 0.74), (-0.6, 0.74)]),
        face=(0.0, -0.14), top=-0.44, foot=0.78, side=0.58,
    ),
    "pear": Body(
        draw=_ellipses(((0.0, 0.38), 0.68, 0.46), ((0.0, -0.24), 0.42, 0.4)),
        face=(0.0, -0.26), top=-0.58, foot=0.82, side=0.56,
    ),
    "star": Body(
        draw=_polygon(_star(5, 0.46, 0.98, (0.0, 0.08))), face=(0.0, -0.08), top=-0.8, foot=0.9, side=0.5
    ),
    "ghost": Body(draw=_ghost, face=(0.0, -0.2), top=-0.7, foot=0.9, side=0.6),
    "drop": Body(draw=_drop, face=(0.0, 0.16), top=-0.7, foot=0.82, side=0.56),
    "mushroom": Body(draw=_mushroom, face=(0.0, 0.36), top=-0.6, foot=0.84, side=0.34),
    "flower": Body(
        draw=_polygon(_star(8, 0.6, 0.88, (0.0, 0.06))), face=(0.0, -0.04), top=-0.72, foot=0.86, side=0.7
    ),
    "hill": Body(
        draw=_polygon([(-0.82, 0.8), (-0.34, -0.56), (0.34, -0.56), (0.82, 0.8)]),
        face=(0.0, -0.12), top=-0.52, foot=0.84, side=0.56,
    ),
    "gem": Body(
        draw=_polygon([(0.0, -0.74), (0.66, -0.1), (0.46, 0.78), (-0.46, 0.78), (-0.66, -0.1)]),
        face=(0.0, 0.0), top=-0.6, foot=0.82, side=0.58,
    ),
    "heart": Body(draw=_heart, face=(0.0, -0.1), top=-0.5, foot=0.84, side=0.66),
    "bell": Body(draw=_bell, face=(0.0, -0.2), top=-0.64, foot=0.82, side=0.5),
    "jar": Body(draw=_jar, face=(0.0, 0.22), top=-0.62, foot=0.84, side=0.7),
    "cloud": Body(
        draw=_ellipses(((-0.5, 0.3), 0.44, 0.4), ((0.5, 0.3), 0.44, 0.4), ((0.0, -0.06), 0.5, 0.5),
                       ((0.0, 0.42), 0.6, 0.34)),
        face=(0.0, 0.06), top=-0.46, foot=0.76, side=0.8,
    ),
    "cross": Body(
        draw=_polygon([(-0.34, -0.74), (0.34, -0.74), (0.34, -0.34), (0.86, -0.34), (0.86, 0.3), (0.34, 0.3),
                       (0.34, 0.82), (-0.34, 0.82), (-0.34, 0.3), (-0.86, 0.3), (-0.86, -0.34),
                       (-0.34, -0.34)]),
        face=(0.0, -0.04), top=-0.66, foot=0.84, side=0.8,
    ),
    "snow": Body(
        draw=_ellipses(((0.0, 0.48), 0.54, 0.4), ((0.0, -0.02), 0.36, 0.32), ((0.0, -0.46), 0.46, 0.38)),
        face=(0.0, -0.46), top=-0.72, foot=0.84, side=0.34,
    ),
    "funnel": Body(
        draw=_polygon([(-0.84, -0.5), (0.84, -0.5), (0.3, 0.5), (0.3, 0.84), (-0.3, 0.84), (-0.3, 0.5)]),
        face=(0.0, -0.18), top=-0.46, foot=0.86, side=0.52,
    ),
    "crescent": Body(
        draw=_polygon([(0.7, -0.84), (0.1, -0.8), (-0.5, -0.5), (-0.76, 0.02), (-0.5, 0.54), (0.1, 0.84),
                       (0.74, 0.86), (0.4, 0.5), (0.28, 0.04), (0.38, -0.42)]),
        face=(-0.22, -0.08), top=-0.6, foot=0.84, side=0.44,
    ),
}  # fmt: skip


# ── Patterns: drawn on a sheet of their own, of which only what lies on the body is kept


def _belly(sheet: Sheet, body: Body, colour: Colour) -> None:
    sheet.ellipse((0.0, 0.56), 0.42, 0.34, colour)


def _spots(sheet: Sheet, body: Body, colour: Colour) -> None:
    for x, y in ((-0.42, 0.2), (0.44, 0.3), (0.0, 0.58), (-0.46, -0.42), (0.48, -0.36), (0.0, -0.58)):
        sheet.ellipse((x, y), 0.16, 0.16, colour)


def _bars(sheet: Sheet, body: Body, colour: Colour) -> None:
    for y in (0.26, 0.6):
        sheet.polygon([(-1.0, y), (1.0, y), (1.0, y + 0.17), (-1.0, y + 0.17)], colour)


def _columns(sheet: Sheet, body: Body, colour: Colour) -> None:
    for x in (-0.54, -0.09, 0.36):
        sheet.polygon([(x, -1.0), (x + 0.18, -1.0), (x + 0.18, 1.0), (x, 1.0)], colour)


def _half(sheet: Sheet, body: Body, colour: Colour) -> None:
    sheet.polygon([(0.0, -1.0), (1.0, -1.0), (1.0, 1.0), (0.0, 1.0)], colour)


def _mask(sheet: Sheet, body: Body, colour: Colour) -> None:
    x, y = body.face
    sheet.polygon([(x - 1, y - 0.24), (x + 1, y - 0.24), (x + 1, y + 0.24), (x - 1, y + 0.24)], colour)


def _base(sheet: Sheet, body: Body, colour: Colour) -> None:
    sheet.polygon(
        [(-1.0, 0.34), (-0.5, 0.5), (0.0, 0.34), (0.5, 0.5), (1.0, 0.34), (1.0, 1.0), (-1.0, 1.0)], colour
    )


def _slants(sheet: Sheet, body: Body, colour: Colour) -> None:
    for x in (-1.1, -0.4, 0.3):
        sheet.polygon([(x, 1.0), (x + 0.3, 1.0), (x + 1.1, -1.0), (x + 0.8, -1.0)], colour)


def _checks(sheet: Sheet, body: Body, colour: Colour) -> None:
    for x, y in ((-1.0, -1.0), (0.0, 0.0)):
        sheet.polygon([(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)], colour)


PATTERNS: dict[str, Callable[[Sheet, Body, Colour], None]] = {
    "belly": _belly, "spots": _spots, "bars": _bars, "columns": _columns, "half": _half, "mask": _mask,
    "base": _base, "slants": _slants, "checks": _checks,
}  # fmt: skip
