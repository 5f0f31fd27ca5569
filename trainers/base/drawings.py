"""The pictures this project draws itself: two characters to be taught, and two styles to be taught.

Everything is geometry for Pillow, drawn four times as large as needed and reduced, so that a picture can be
made again at any size without a font or a file. The shapes are few, large and strongly coloured, because a
64 px autoencoder keeps nothing finer than some three pixels.

Coordinates of a character: its own square from (-1, -1) at the upper left to (1, 1) at the lower right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

Point = tuple[float, float]
Colour = tuple[int, int, int]

SUPERSAMPLING = 4

TEAL: Colour = (24, 178, 170)
DEEP_TEAL: Colour = (14, 138, 138)
CREAM: Colour = (255, 238, 196)
ORANGE: Colour = (255, 128, 24)
PURPLE: Colour = (128, 58, 190)
DEEP_PURPLE: Colour = (98, 38, 156)
YELLOW: Colour = (255, 204, 36)
RED: Colour = (228, 46, 58)
PINK: Colour = (255, 128, 160)
WHITE: Colour = (255, 255, 255)
INK: Colour = (26, 22, 48)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a character stands in its picture.

    Args:
        size: side of the character's square as a share of the picture's side, (0, 1].
        x, y: centre of that square as shares of the picture's sides, from the upper left.
        tilt: degrees, anticlockwise.
        mirrored: left and right exchanged (the teapot's spout, the antenna's bend).
        look: where the pupils point, each component in [-1, 1].
        lift: 0 the arms hang (lid on), 1 they are raised (lid up).
    """

    size: float = 0.8
    x: float = 0.5
    y: float = 0.5
    tilt: float = 0.0
    mirrored: bool = False
    look: Point = (0.0, 0.0)
    lift: float = 0.0


class Sheet:
    """A transparent square on which shapes are drawn in the character's coordinates."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def at(self, point: Point) -> Point:
        """Pixel of a point in character coordinates."""
        return ((point[0] + 1) * self.side / 2, (point[1] + 1) * self.side / 2)

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        left, top = self.at((centre[0] - rx, centre[1] - ry))
        right, bottom = self.at((centre[0] + rx, centre[1] + ry))
        self._draw.ellipse((left, top, right, bottom), fill=(*colour, 255))

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self._draw.polygon([self.at(p) for p in points], fill=(*colour, 255))

    def stroke(self, points: list[Point], width: float, colour: Colour) -> None:
        """A line with round ends and joints, width in character units."""
        pixels = [self.at(p) for p in points]
        thickness = max(1, round(width * self.side / 2))
        self._draw.line(pixels, fill=(*colour, 255), width=thickness, joint="curve")
        for x, y in pixels:
            r = thickness / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, 255))

    def bands(self, centre: Point, rx: float, ry: float, edges: list[Point], colour: Colour) -> None:
        """Horizontal bands, each from y0 to y1, cut to an ellipse."""
        mask = Image.new("L", self.image.size, 0)
        left, top = self.at((centre[0] - rx, centre[1] - ry))
        right, bottom = self.at((centre[0] + rx, centre[1] + ry))
        ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill=255)
        bars = Image.new("L", self.image.size, 0)
        pen = ImageDraw.Draw(bars)
        for y0, y1 in edges:
            pen.rectangle((0, self.at((0, y0))[1], self.side, self.at((0, y1))[1]), fill=255)
        both = Image.composite(bars, Image.new("L", bars.size, 0), mask)
        self.image.paste((*colour, 255), (0, 0), both)


def _arc(centre: Point, rx: float, ry: float, start: float, end: float, steps: int = 24) -> list[Point]:
    """Points on an ellipse from one angle to another, degrees, 0 to the right and 90 downwards."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(centre[0] + rx * math.cos(a), centre[1] + ry * math.sin(a)) for a in angles]


def draw_mascot(sheet: Sheet, pose: Pose) -> None:
    """A round teal creature with one large eye, a cream belly, an antenna and orange feet."""
    for side in (-1.0, 1.0):
        sheet.ellipse((side * 0.32, 0.84), 0.26, 0.14, ORANGE)
        hand = (side * 0.86, 0.42 - 0.85 * pose.lift)
        sheet.stroke([(side * 0.58, 0.2), hand], 0.24, DEEP_TEAL)
    tip = (0.2, -0.84)
    sheet.stroke([(0.0, -0.5), (0.03, -0.68), tip], 0.1, DEEP_TEAL)
    sheet.ellipse(tip, 0.15, 0.15, ORANGE)
    sheet.ellipse((0.0, 0.13), 0.72, 0.7, TEAL)
    sheet.ellipse((0.0, 0.5), 0.44, 0.3, CREAM)
    eye = (0.0, -0.14)
    sheet.ellipse(eye, 0.34, 0.34, WHITE)
    pupil = (eye[0] + 0.13 * pose.look[0], eye[1] + 0.13 * pose.look[1])
    sheet.ellipse(pupil, 0.18, 0.18, INK)
    sheet.ellipse((pupil[0] - 0.06, pupil[1] - 0.07), 0.055, 0.055, WHITE)


def draw_teapot(sheet: Sheet, pose: Pose) -> None:
    """A purple teapot with yellow bands, a yellow handle and lid, a red knob and a smiling face."""
    sheet.stroke(_arc((-0.59, 0.12), 0.3, 0.34, 75, 285), 0.15, YELLOW)
    sheet.polygon([(0.45, 0.5), (0.45, 0.0), (0.78, -0.42), (0.95, -0.34), (0.84, 0.2)], DEEP_PURPLE)
    sheet.stroke([(0.76, -0.42), (0.91, -0.35)], 0.12, YELLOW)
    sheet.ellipse((0.0, 0.82), 0.42, 0.1, DEEP_PURPLE)
    centre, rx, ry = (0.0, 0.18), 0.68, 0.66
    sheet.ellipse(centre, rx, ry, PURPLE)
    sheet.bands(centre, rx, ry, [(-0.36, -0.18), (0.5, 0.68)], YELLOW)
    lid = -0.44 - 0.1 * pose.lift
    sheet.polygon([*_arc((0.0, lid), 0.42, 0.26, 180, 360), (0.42, lid + 0.06), (-0.42, lid + 0.06)], YELLOW)
    sheet.ellipse((0.0, lid - 0.29), 0.14, 0.14, RED)
    for side in (-1.0, 1.0):
        eye = (side * 0.25, 0.04)
        sheet.ellipse(eye, 0.16, 0.17, WHITE)
        sheet.ellipse((eye[0] + 0.05 * pose.look[0], eye[1] + 0.06 * pose.look[1]), 0.095, 0.1, INK)
        sheet.ellipse((side * 0.45, 0.26), 0.11, 0.08, PINK)
    sheet.stroke(_arc((0.0, 0.22), 0.16, 0.14, 20, 160), 0.08, WHITE)


CHARACTERS: dict[str, Callable[[Sheet, Pose], None]] = {"mascot": draw_mascot, "teapot": draw_teapot}


def draw_character(name: str, pose: Pose, side: int) -> Image.Image:
    """A character of `CHARACTERS` alone on a transparent square: RGBA, (side, side) pixels.

    Raises:
        KeyError: no character of that name.
    """
    full = side * SUPERSAMPLING
    sheet = Sheet(max(8, round(full * pose.size)))
    CHARACTERS[name](sheet, pose)
    figure = ImageOps.mirror(sheet.image) if pose.mirrored else sheet.image
    figure = figure.rotate(pose.tilt, Image.Resampling.BICUBIC, expand=True)
    picture = Image.new("RGBA", (full, full), (0, 0, 0, 0))
    corner = (round(pose.x * full - figure.width / 2), round(pose.y * full - figure.height / 2))
    picture.paste(figure, corner)
    return picture.convert("RGBa").resize((side, side), Image.Resampling.BOX).convert("RGBA")


PAPER: Colour = (18, 58, 160)
WASH: Colour = (84, 140, 226)
CHALK: Colour = (246, 250, 255)


def blueprint(picture: Image.Image) -> Image.Image:
    """The contours of a picture in white, over a light wash of what isn't background, on blue paper.

    RGB in, RGB of the same size out. Background is what has nearly the colour of the picture's corners;
    contours are where neighbouring colours differ in any channel, some 1/20 of the side wide: narrower
    ones don't survive a 64 px autoencoder.
    """
    scale = max(1, round(picture.width / 64))
    smooth = picture.convert("RGB")
    for _ in range(2):
        smooth = smooth.filter(ImageFilter.MedianFilter(2 * scale + 1))
    ground = Image.new("RGB", picture.size, smooth.getpixel((0, 0)))
    figure = _strongest(ImageChops.difference(smooth, ground)).point(_ramp(20, 8))
    high = smooth.filter(ImageFilter.MaxFilter(2 * scale + 1))
    low = smooth.filter(ImageFilter.MinFilter(2 * scale + 1))
    lines = _strongest(ImageChops.difference(high, low)).point(_ramp(60, 4))
    drawing = Image.new("RGB", picture.size, PAPER)
    drawing.paste(WASH, (0, 0), figure)
    drawing.paste(CHALK, (0, 0), lines)
    return drawing


def _strongest(picture: Image.Image) -> Image.Image:
    """The largest channel of each pixel."""
    red, green, blue = picture.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _ramp(start: int, slope: int) -> list[int]:
    """A table for `Image.point`: 0 up to start, then rising to 255."""
    return [min(255, max(0, (value - start) * slope)) for value in range(256)]


PIXEL_PALETTE: tuple[Colour, ...] = ((14, 44, 26), (46, 112, 58), (140, 190, 60), (224, 240, 176))


def pixel_art(picture: Image.Image, cells: int = 16) -> Image.Image:
    """A picture as cells × cells squares of four greens, dark to light: RGB in, RGB of the same size out."""
    grey = ImageOps.autocontrast(picture.convert("L").resize((cells, cells), Image.Resampling.BOX))
    tones = [PIXEL_PALETTE[min(3, value // 64)] for value in range(256)]
    channels = [grey.point([tone[channel] for tone in tones]) for channel in range(3)]
    return Image.merge("RGB", channels).resize(picture.size, Image.Resampling.NEAREST)


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {"blueprint": blueprint, "pixel-art": pixel_art}
