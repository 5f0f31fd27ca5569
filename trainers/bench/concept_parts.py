"""Parts that made-up characters are put together from: bodies, patterns, eyes, tops, feet, arms, mouths.

Each part is a row of a table and a few large shapes; a character is one of each and three colours, so that
no two of them are alike even at 64 pixels. Coordinates and poses are those of `trainers.base.drawings`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageOps

from trainers.base.drawings import INK, SUPERSAMPLING, WHITE, Colour, Point, Pose, Sheet
from trainers.bench.concept_bodies import BODIES, PATTERNS, Body


@dataclass(frozen=True, kw_only=True)
class Character:
    """One part of each table, by key.

    colour: of the body. second: of its pattern. third: of what sticks out.
    """

    body: str
    colour: Colour
    second: Colour
    third: Colour
    pattern: str
    eyes: str
    top: str
    feet: str
    arms: str
    mouth: str


# ── Eyes


def _eye(sheet: Sheet, pose: Pose, centre: Point, radius: float) -> None:
    sheet.ellipse(centre, radius, radius, WHITE)
    pupil = (centre[0] + 0.4 * radius * pose.look[0], centre[1] + 0.4 * radius * pose.look[1])
    sheet.ellipse(pupil, radius * 0.55, radius * 0.55, INK)


def _eyes(*places: tuple[float, float, float]) -> Callable[[Sheet, Pose, Point], None]:
    """Eyes at (x, y) from the face, each with its radius."""

    def draw(sheet: Sheet, pose: Pose, face: Point) -> None:
        for x, y, radius in places:
            _eye(sheet, pose, (face[0] + x, face[1] + y), radius)

    return draw


def _sleepy(sheet: Sheet, pose: Pose, face: Point) -> None:
    for x in (-0.22, 0.22):
        middle = face[0] + x + 0.05 * pose.look[0]
        sheet.stroke([(middle - 0.14, face[1]), (middle, face[1] + 0.1), (middle + 0.14, face[1])], 0.1, INK)


def _visor(sheet: Sheet, pose: Pose, face: Point) -> None:
    x, y = face
    sheet.polygon([(x - 0.4, y - 0.15), (x + 0.4, y - 0.15), (x + 0.4, y + 0.15), (x - 0.4, y + 0.15)], INK)
    for side in (-0.18, 0.18):
        sheet.ellipse((x + side + 0.08 * pose.look[0], y), 0.09, 0.09, (90, 255, 220))


EYES: dict[str, Callable[[Sheet, Pose, Point], None]] = {
    "one": _eyes((0.0, 0.0, 0.32)),
    "two": _eyes((-0.22, 0.0, 0.2), (0.22, 0.0, 0.2)),
    "odd": _eyes((-0.2, 0.02, 0.26), (0.26, 0.02, 0.15)),
    "three": _eyes((-0.32, 0.06, 0.16), (0.0, -0.14, 0.18), (0.32, 0.06, 0.16)),
    "sleepy": _sleepy,
    "visor": _visor,
}


# ── Tops: drawn behind the body


def _ears(shape: Callable[[Sheet, float, float, Colour], None]) -> Callable[[Sheet, Body, Colour], None]:
    def draw(sheet: Sheet, body: Body, colour: Colour) -> None:
        for side in (-1.0, 1.0):
            shape(sheet, side, body.top, colour)

    return draw


def _round_ear(sheet: Sheet, side: float, top: float, colour: Colour) -> None:
    sheet.ellipse((side * 0.42, top + 0.06), 0.24, 0.24, colour)


def _pointed_ear(sheet: Sheet, side: float, top: float, colour: Colour) -> None:
    sheet.polygon([(side * 0.14, top + 0.16), (side * 0.56, top + 0.3), (side * 0.54, top - 0.36)], colour)


def _long_ear(sheet: Sheet, side: float, top: float, colour: Colour) -> None:
    sheet.stroke([(side * 0.2, top + 0.2), (side * 0.3, top - 0.34)], 0.24, colour)


def _horn(sheet: Sheet, side: float, top: float, colour: Colour) -> None:
    sheet.stroke([(side * 0.26, top + 0.2), (side * 0.56, top), (side * 0.56, top - 0.3)], 0.17, colour)


def _antenna(sheet: Sheet, side: float, top: float, colour: Colour) -> None:
    tip = (side * 0.4, top - 0.26)
    sheet.stroke([(side * 0.14, top + 0.2), tip], 0.1, colour)
    sheet.ellipse(tip, 0.14, 0.14, colour)


def _leaf(sheet: Sheet, body: Body, colour: Colour) -> None:
    sheet.stroke([(0.0, body.top + 0.2), (0.0, body.top - 0.12)], 0.12, colour)
    sheet.ellipse((0.2, body.top - 0.16), 0.24, 0.13, colour)
    sheet.ellipse((-0.2, body.top - 0.16), 0.24, 0.13, colour)


def _crest(sheet: Sheet, body: Body, colour: Colour) -> None:
    for x, height in ((-0.26, 0.2), (0.0, 0.34), (0.26, 0.2)):
        sheet.polygon(
            [(x - 0.17, body.top + 0.26), (x + 0.17, body.top + 0.26), (x, body.top - height)], colour
        )


def _hat(sheet: Sheet, body: Body, colour: Colour) -> None:
    top = body.top
    sheet.polygon([(-0.44, top + 0.2), (0.44, top + 0.2), (0.06, top - 0.4), (-0.06, top - 0.4)], colour)


TOPS: dict[str, Callable[[Sheet, Body, Colour], None]] = {
    "none": lambda sheet, body, colour: None,
    "round ears": _ears(_round_ear),
    "pointed ears": _ears(_pointed_ear),
    "long ears": _ears(_long_ear),
    "horns": _ears(_horn),
    "antennae": _ears(_antenna),
    "leaf": _leaf,
    "crest": _crest,
    "hat": _hat,
}


# ── Feet, arms, mouths


def _feet(sheet: Sheet, body: Body, colour: Colour) -> None:
    for side in (-1.0, 1.0):
        sheet.ellipse((side * 0.3, body.foot), 0.25, 0.14, colour)


def _legs(sheet: Sheet, body: Body, colour: Colour) -> None:
    for side in (-1.0, 1.0):
        sheet.stroke([(side * 0.24, body.foot - 0.3), (side * 0.28, 0.88)], 0.2, colour)


def _wheels(sheet: Sheet, body: Body, colour: Colour) -> None:
    for side in (-1.0, 1.0):
        sheet.ellipse((side * 0.38, body.foot), 0.22, 0.16, INK)
        sheet.ellipse((side * 0.38, body.foot), 0.1, 0.08, colour)


FEET: dict[str, Callable[[Sheet, Body, Colour], None]] = {
    "none": lambda sheet, body, colour: None, "feet": _feet, "legs": _legs, "wheels": _wheels,
}  # fmt: skip


def _arms(sheet: Sheet, pose: Pose, body: Body, colour: Colour) -> None:
    for side in (-1.0, 1.0):
        hand = (side * min(0.9, body.side + 0.3), 0.44 - 0.8 * pose.lift)
        sheet.stroke([(side * body.side, 0.22), hand], 0.2, colour)


def _wings(sheet: Sheet, pose: Pose, body: Body, colour: Colour) -> None:
    for side in (-1.0, 1.0):
        end, low = side * min(0.98, body.side + 0.4), 0.3 - 0.5 * pose.lift
        sheet.polygon(
            [
                (side * body.side * 0.6, 0.0),
                (end, low - 0.36),
                (end, low + 0.16),
                (side * body.side * 0.6, 0.42),
            ],
            colour,
        )


ARMS: dict[str, Callable[[Sheet, Pose, Body, Colour], None]] = {
    "none": lambda sheet, pose, body, colour: None, "arms": _arms, "wings": _wings,
}  # fmt: skip


def _smile(sheet: Sheet, face: Point, colour: Colour) -> None:
    x, y = face[0], face[1] + 0.34
    sheet.stroke([(x - 0.17, y), (x, y + 0.1), (x + 0.17, y)], 0.09, INK)


def _beak(sheet: Sheet, face: Point, colour: Colour) -> None:
    x, y = face[0], face[1] + 0.22
    sheet.polygon([(x - 0.2, y), (x + 0.2, y), (x, y + 0.3)], colour)


def _teeth(sheet: Sheet, face: Point, colour: Colour) -> None:
    x, y = face[0], face[1] + 0.3
    sheet.polygon([(x - 0.3, y), (x + 0.3, y), (x + 0.24, y + 0.24), (x - 0.24, y + 0.24)], INK)
    for side in (-0.15, 0.15):
        sheet.polygon([(x + side - 0.1, y), (x + side + 0.1, y), (x + side, y + 0.17)], WHITE)


MOUTHS: dict[str, Callable[[Sheet, Point, Colour], None]] = {
    "none": lambda sheet, face, colour: None, "smile": _smile, "beak": _beak, "teeth": _teeth,
}  # fmt: skip


def _on_body(sheet: Sheet, character: Character) -> None:
    """The body with its pattern, which is cut to it."""
    body = BODIES[character.body]
    own, pattern = Sheet(sheet.side), Sheet(sheet.side)
    body.draw(own, character.colour)
    PATTERNS[character.pattern](pattern, body, character.second)
    inside = ImageChops.darker(own.image.getchannel("A"), pattern.image.getchannel("A"))
    own.image.paste(pattern.image, (0, 0), inside)
    sheet.image.alpha_composite(own.image)


def draw_character(character: Character, pose: Pose, side: int) -> Image.Image:
    """The character alone on a transparent square: RGBA, (side, side) pixels."""
    full = side * SUPERSAMPLING
    sheet, body = Sheet(max(8, round(full * pose.size))), BODIES[character.body]
    ARMS[character.arms](sheet, pose, body, character.third)
    TOPS[character.top](sheet, body, character.third)
    FEET[character.feet](sheet, body, character.third)
    _on_body(sheet, character)
    EYES[character.eyes](sheet, pose, body.face)
    MOUTHS[character.mouth](sheet, body.face, character.third)
    figure = ImageOps.mirror(sheet.image) if pose.mirrored else sheet.image
    figure = figure.rotate(pose.tilt, Image.Resampling.BICUBIC, expand=True)
    picture = Image.new("RGBA", (full, full), (0, 0, 0, 0))
    corner = (round(pose.x * full - figure.width / 2), round(pose.y * full - figure.height / 2))
    picture.paste(figure, corner)
    return picture.convert("RGBa").resize((side, side), Image.Resampling.BOX).convert("RGBA")
