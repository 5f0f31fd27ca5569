"""Styles made to be taught: transformations of pictures, RGB in, RGB of the same size out.

Nothing in them is finer than some three pixels of 64, which is what a 64 px autoencoder keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

from trainers.base.drawings import Colour

Pixels = NDArray[np.float32]  # (H, W, 3), 0..1


def _smooth(picture: Image.Image) -> Image.Image:
    size = 2 * max(1, round(picture.width / 64)) + 1
    return picture.convert("RGB").filter(ImageFilter.MedianFilter(size))


def _figure(picture: Image.Image) -> Image.Image:
    """How much a pixel differs from the picture's upper left corner, its background: L, 0 or 255."""
    smooth = _smooth(picture)
    ground = Image.new("RGB", picture.size, smooth.getpixel((0, 0)))
    return _strongest(ImageChops.difference(smooth, ground)).point(
        [255 * (value > 24) for value in range(256)]
    )


def _strongest(picture: Image.Image) -> Image.Image:
    red, green, blue = picture.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def _contours(picture: Image.Image, start: int = 60) -> Image.Image:
    """Where neighbouring colours differ: L, some 1/20 of the side wide."""
    smooth, size = _smooth(picture), 2 * max(1, round(picture.width / 64)) + 1
    high, low = smooth.filter(ImageFilter.MaxFilter(size)), smooth.filter(ImageFilter.MinFilter(size))
    return _strongest(ImageChops.difference(high, low)).point(
        [min(255, max(0, (v - start) * 4)) for v in range(256)]
    )


def _tones(grey: Image.Image, stops: tuple[Colour, ...]) -> Image.Image:
    """Grey values as colours, in between mixed, from dark to light."""
    places = np.linspace(0, 255, len(stops))
    channels = [np.interp(np.arange(256), places, [stop[c] for stop in stops]) for c in range(3)]
    return Image.merge("RGB", [grey.point([round(float(v)) for v in channel]) for channel in channels])


def thermal(picture: Image.Image) -> Image.Image:
    """Light as heat: from deep blue over violet and red to yellow; the background is the coldest."""
    grey = ImageOps.autocontrast(_smooth(picture).convert("L"))
    figure = grey.point([90 + round(v * 0.64) for v in range(256)])
    warm = Image.composite(figure, Image.new("L", grey.size, 10), _figure(picture))
    return _tones(warm, ((10, 8, 90), (120, 20, 160), (230, 40, 60), (255, 150, 20), (255, 250, 120)))


def papercut(picture: Image.Image) -> Image.Image:
    """A coral silhouette with its main lines cut out, over a teal shadow, on cream."""
    figure, shift = _figure(picture), round(picture.width / 16)
    shadow = Image.new("L", figure.size, 0)
    shadow.paste(figure, (shift, shift))
    drawing = Image.new("RGB", picture.size, (255, 242, 214))
    drawing.paste((30, 140, 140), (0, 0), shadow)
    drawing.paste((244, 96, 80), (0, 0), figure)
    drawing.paste((255, 242, 214), (0, 0), ImageChops.darker(_contours(picture, 110), figure))
    return drawing


def chalkboard(picture: Image.Image) -> Image.Image:
    """Pale lines and a thin wash of the picture's colours on dark green."""
    board = Image.new("RGB", picture.size, (24, 66, 50))
    board.paste(Image.blend(board, _smooth(picture), 0.35), (0, 0), _figure(picture))
    board.paste((240, 240, 224), (0, 0), _contours(picture))
    return board


def neon(picture: Image.Image) -> Image.Image:
    """Glowing magenta contours with a cyan core on black."""
    lines = _contours(picture, 40)
    glow = lines.filter(ImageFilter.GaussianBlur(picture.width / 24))
    night = Image.new("RGB", picture.size, (12, 4, 26))
    night.paste((255, 30, 190), (0, 0), glow.point([min(255, round(v * 1.7)) for v in range(256)]))
    night.paste((120, 255, 250), (0, 0), lines)
    return night


def stencil(picture: Image.Image) -> Image.Image:
    """Two colours: what is darker than the middle of the figure in red, everything else cream."""
    grey, figure = _smooth(picture).convert("L"), _figure(picture)
    inside = np.asarray(grey)[np.asarray(figure) > 0]
    middle = float(np.median(inside)) if inside.size else 128.0
    dark = ImageChops.darker(grey.point([255 * (value <= middle) for value in range(256)]), figure)
    drawing = Image.new("RGB", picture.size, (250, 236, 200))
    drawing.paste((244, 190, 60), (0, 0), figure)
    drawing.paste((186, 24, 40), (0, 0), dark)
    return drawing


def halftone(picture: Image.Image, cells: int = 14) -> Image.Image:
    """Blue dots on white, larger where it is darker, one in each of cells × cells squares."""
    size = picture.width
    grey = ImageOps.autocontrast(picture.convert("L")).resize((cells, cells), Image.Resampling.BOX)
    dark = 1 - np.asarray(grey, np.float32) / 255
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) * cells / size
    rows, columns = np.clip(y.astype(int), 0, cells - 1), np.clip(x.astype(int), 0, cells - 1)
    away = np.hypot(y - rows - 0.5, x - columns - 0.5)
    inside = np.clip((0.1 + 0.62 * dark[rows, columns] - away) * size / cells + 0.5, 0, 1)
    return _between(picture.size, (252, 252, 255), (24, 40, 190), inside)


def stained_glass(picture: Image.Image, panes: int = 52) -> Image.Image:
    """Panes of one strong colour each, with dark lead between them; the same panes in every picture."""
    rng, size = np.random.default_rng(3), picture.width
    seeds = rng.uniform(0, size, (panes, 2)).astype(np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    away = np.stack([np.hypot(y - sy, x - sx) for sy, sx in seeds])  # (panes, H, W)
    order = np.argsort(away, axis=0)
    pane = order[0]
    nearest = np.take_along_axis(away, order[:1], 0)[0]
    second = np.take_along_axis(away, order[1:2], 0)[0]
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    colours = np.stack([pixels[pane == index].mean(0) if (pane == index).any() else pixels[0, 0]
                        for index in range(panes)])  # fmt: skip
    middle = colours.mean(1, keepdims=True)
    strong = np.clip(middle + (colours - middle) * 1.5, 0, 255)[pane]
    lead = np.clip((second - nearest) / (size / 22), 0, 1)[..., None]
    return Image.fromarray((strong * lead + np.array([22.0, 18.0, 34.0]) * (1 - lead)).astype(np.uint8))


def blinds(picture: Image.Image, slats: int = 8) -> Image.Image:
    """The picture in violet and yellow tones, seen through horizontal slats."""
    toned = _tones(
        ImageOps.autocontrast(_smooth(picture).convert("L")), ((60, 10, 110), (240, 80, 120), (255, 236, 130))
    )
    y = np.arange(picture.height, dtype=np.float32) * slats / picture.height
    slat = np.repeat(((y % 1) > 0.62)[:, None], picture.width, 1)
    toned.paste((40, 8, 70), (0, 0), Image.fromarray((slat * 255).astype(np.uint8)))
    return toned


def gilded(picture: Image.Image) -> Image.Image:
    """A relief in gold, lit from the upper left."""
    step, size = max(1, round(picture.width / 32)), picture.size
    soft = np.asarray(_smooth(picture).convert("L").filter(ImageFilter.GaussianBlur(step / 2)), np.float32)
    raised = soft * 0.5 + np.asarray(_figure(picture), np.float32) * 0.5
    padded = np.pad(raised, step, mode="edge")
    slope = padded[2 * step :, 2 * step :] - padded[: size[1], : size[0]]
    grey = Image.fromarray(np.clip(118 + raised * 0.2 + slope * 0.9, 0, 255).round().astype(np.uint8))
    return _tones(grey, ((46, 20, 4), (128, 74, 14), (214, 156, 40), (255, 232, 130), (255, 252, 226)))


def anaglyph(picture: Image.Image) -> Image.Image:
    """A red print and a cyan one of the same picture, side by side by a tenth of its width."""
    shift = max(1, round(picture.width / 20))
    grey = np.asarray(ImageOps.autocontrast(_smooth(picture).convert("L")), np.float32)
    grey = np.where(np.asarray(_figure(picture)) > 0, 20 + 0.7 * grey, 255)
    padded = np.pad(grey, ((0, 0), (shift, shift)), mode="edge")
    left, right = padded[:, 2 * shift :], padded[:, : picture.width]
    return Image.fromarray(np.stack([right, left, left], -1).round().astype(np.uint8))


def ripples(picture: Image.Image, rings: int = 3) -> Image.Image:
    """The picture in violet and orange tones, with rings of its outline around it on dark violet."""
    step = 2 * max(1, round(picture.width / 21)) + 1
    figure = _figure(picture)
    drawing = Image.new("RGB", picture.size, (52, 20, 92))
    outlines = [figure]
    for _ in range(2 * rings):
        outlines.append(outlines[-1].filter(ImageFilter.MaxFilter(step)))
    for number in range(2 * rings, 0, -1):
        colour = (255, 120, 40) if number % 2 == 0 else (52, 20, 92)
        drawing.paste(colour, (0, 0), outlines[number])
    grey = ImageOps.autocontrast(_smooth(picture).convert("L"))
    drawing.paste(_tones(grey, ((110, 30, 140), (250, 110, 70), (255, 240, 200))), (0, 0), figure)
    return drawing


def sunken(picture: Image.Image, waves: float = 4.0) -> Image.Image:
    """Seen through water: shoved to and fro in waves, in tones of deep and pale green."""
    width, height = picture.size
    y, x = np.mgrid[0:height, 0:width]
    shoved = np.clip(x + np.sin(2 * np.pi * waves * y / height) * width / 40, 0, width - 1).astype(int)
    grey = np.asarray(ImageOps.autocontrast(_smooth(picture).convert("L")))[y, shoved]
    figure = np.asarray(_figure(picture))[y, shoved]
    light = np.where(figure > 0, 90 + 0.64 * grey, 60 - 50 * y / height)
    return _tones(
        Image.fromarray(light.round().astype(np.uint8)),
        ((0, 24, 40), (0, 96, 96), (40, 200, 130), (230, 255, 180)),
    )


def hatched(picture: Image.Image, lines: int = 11) -> Image.Image:
    """Slanted brown lines on sand, broader where it is darker, with a dark outline."""
    size = picture.width
    grey = ImageOps.autocontrast(_smooth(picture).convert("L"))
    dark = np.where(np.asarray(_figure(picture)) > 0, 0.3 + 0.6 * (1 - np.asarray(grey, np.float32) / 255), 0)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * lines / size
    away = np.abs((x + y) % 1 - 0.5) * 2
    inside = np.clip((dark - away) * size / lines / 2 + 0.5, 0, 1) * (dark > 0)
    drawing = _between(picture.size, (238, 214, 160), (134, 70, 24), inside.astype(np.float32))
    drawing.paste((70, 30, 10), (0, 0), _contours(picture, 90))
    return drawing


def _between(size: tuple[int, int], ground: Colour, ink: Colour, share: NDArray[np.float32]) -> Image.Image:
    low, high = np.array(ground, np.float32), np.array(ink, np.float32)
    return Image.fromarray((low + (high - low) * share[..., None]).round().astype(np.uint8))


TRANSFORMATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "thermal": thermal,
    "papercut": papercut,
    "chalkboard": chalkboard,
    "neon": neon,
    "stencil": stencil,
    "halftone": halftone,
    "stained-glass": stained_glass,
    "blinds": blinds,
    "gilded": gilded,
    "anaglyph": anaglyph,
    "ripples": ripples,
    "sunken": sunken,
    "hatched": hatched,
}
