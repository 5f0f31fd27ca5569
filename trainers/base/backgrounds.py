"""Backgrounds of the corpus: plain colours, patterns and scenes, each with the words that say it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trainers.base.subjects import COLOURS, with_article

Pixels = NDArray[np.float32]  # (H, W, 3) or (H, W, 4), 0..1


def colour_near(name: str, rng: np.random.Generator) -> Pixels:
    """The named colour with a jitter of a few percent, (3,) in 0..1."""
    return np.clip(np.array(COLOURS[name]) / 255 + rng.normal(0, 0.02, 3), 0, 1).astype(np.float32)


def _mesh(size: int) -> tuple[Pixels, Pixels]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    return x, y


def _mix(a: Pixels, b: Pixels, mask: NDArray) -> Pixels:
    return (a + (b - a) * mask[..., None].astype(np.float32)).astype(np.float32)


def _vertical(size: int, top: Pixels, bottom: Pixels) -> Pixels:
    return _mix(top, bottom, _mesh(size)[1])


def _two_colours(rng: np.random.Generator) -> tuple[str, str]:
    a, b = rng.choice(list(COLOURS), 2, replace=False)
    return str(a), str(b)


def plain(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    name = str(rng.choice(list(COLOURS)))
    return (
        np.broadcast_to(colour_near(name, rng), (size, size, 3)).copy(),
        f"on {with_article(name)} background",
        name,
    )


def gradient(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    return (
        _vertical(size, colour_near(a, rng), colour_near(b, rng)),
        f"on {with_article(a)} to {b} gradient background",
        "gradient",
    )


def stripes(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    x, y = _mesh(size)
    mask = (np.floor((x + y if rng.random() < 0.5 else x) * rng.uniform(4, 8)) % 2).astype(np.float32)
    return (
        _mix(colour_near(a, rng), colour_near(b, rng), mask),
        f"on {with_article(a)} and {b} striped background",
        "stripes",
    )


def checks(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    x, y = _mesh(size)
    n = rng.uniform(4, 7)
    mask = (np.floor(x * n) + np.floor(y * n)) % 2
    return (
        _mix(colour_near(a, rng), colour_near(b, rng), mask),
        f"on {with_article(a)} and {b} checkered background",
        "checks",
    )


def dots(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    a, b = _two_colours(rng)
    x, y = _mesh(size)
    n = rng.uniform(4, 6)
    mask = ((x * n) % 1 - 0.5) ** 2 + ((y * n) % 1 - 0.5) ** 2 < 0.075
    return (
        _mix(colour_near(a, rng), colour_near(b, rng), mask),
        f"on {with_article(a)} background with {b} dots",
        "dots",
    )


def _sky_and_ground(
    size: int,
    rng: np.random.Generator,
    sky: tuple[Pixels, Pixels],
    ground: Pixels,
    low: float = 0.5,
    high: float = 0.75,
) -> Pixels:
    _, y = _mesh(size)
    horizon = rng.uniform(low, high)
    return _mix(_vertical(size, *sky), ground, np.clip((y - horizon) * size / 2, 0, 1))


def _rgb(*value: int) -> Pixels:
    return (np.array(value) / 255).astype(np.float32)


def snow(rng: np.random.Generator, size: int) -> Pixels:
    picture = _sky_and_ground(size, rng, (_rgb(190, 215, 240), _rgb(225, 235, 248)), _rgb(248, 250, 254))
    for _ in range(25):
        y, x = rng.integers(0, size, 2)
        picture[y, x] = 1
    return picture


def night(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(10, 14, 50), _rgb(30, 36, 90)), _rgb(16, 26, 30))


def stars(rng: np.random.Generator, size: int) -> Pixels:
    picture = _vertical(size, _rgb(8, 8, 34), _rgb(24, 22, 66))
    for _ in range(30):
        y, x = rng.integers(0, size - 1, 2)
        picture[y, x] = rng.uniform(0.7, 1)
        if rng.random() < 0.3:
            picture[y : y + 2, x : x + 2] = 1
    return picture


def sunset(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(120, 50, 120), _rgb(252, 150, 60)), _rgb(60, 35, 60), 0.65, 0.85)


def grass(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(110, 175, 240), _rgb(175, 215, 250)), _rgb(70, 155, 60))


def beach(rng: np.random.Generator, size: int) -> Pixels:
    _, y = _mesh(size)
    picture = _vertical(size, _rgb(130, 195, 245), _rgb(190, 225, 250))
    horizon = rng.uniform(0.35, 0.5)
    picture = _mix(picture, _rgb(35, 120, 190), np.clip((y - horizon) * size / 2, 0, 1))
    return _mix(
        picture, _rgb(236, 212, 160), np.clip((y - horizon - rng.uniform(0.15, 0.25)) * size / 2, 0, 1)
    )


def sea(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(140, 200, 245), _rgb(200, 228, 250)), _rgb(25, 90, 170))


def table(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(228, 215, 195), _rgb(215, 200, 178)), _rgb(150, 98, 55))


def forest(rng: np.random.Generator, size: int) -> Pixels:
    picture = _sky_and_ground(size, rng, (_rgb(30, 80, 50), _rgb(60, 120, 70)), _rgb(58, 84, 36))
    x, y = _mesh(size)
    for place in rng.uniform(0, 1, 5):
        picture = _mix(picture, _rgb(70, 48, 30), (np.abs(x - place) < 0.03) & (y < 0.7))
    return picture


def desert(rng: np.random.Generator, size: int) -> Pixels:
    return _sky_and_ground(size, rng, (_rgb(240, 200, 140), _rgb(250, 226, 180)), _rgb(214, 150, 80))


# name → (phrase, drawing); the name is the label that the classifier of `measure.py` learns
SCENES: dict[str, tuple[str, Callable[[np.random.Generator, int], Pixels]]] = {
    "snow": ("in the snow", snow),
    "night": ("at night", night),
    "stars": ("in the night sky with stars", stars),
    "sunset": ("at sunset", sunset),
    "grass": ("on green grass under a blue sky", grass),
    "beach": ("on a sandy beach by the sea", beach),
    "sea": ("in the sea", sea),
    "table": ("on a wooden table", table),
    "forest": ("in a forest", forest),
    "desert": ("in the desert", desert),
}
PATTERNS: dict[str, Callable[[np.random.Generator, int], tuple[Pixels, str, str]]] = {
    "gradient": gradient,
    "stripes": stripes,
    "checks": checks,
    "dots": dots,
}
BACKGROUNDS: tuple[str, ...] = (*COLOURS, *PATTERNS, *SCENES)


def scene(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    name = str(rng.choice(list(SCENES)))
    phrase, draw = SCENES[name]
    picture = draw(rng, size) * np.float32(rng.uniform(0.94, 1.04)) + rng.normal(0, 0.008, 3).astype(
        np.float32
    )
    return np.clip(picture, 0, 1), phrase, name


def draw_background(rng: np.random.Generator, size: int) -> tuple[Pixels, str, str]:
    """(picture (size, size, 3), the phrase that says it, its label among `BACKGROUNDS`)."""
    kind = rng.random()
    if kind < 0.5:
        return plain(rng, size)
    if kind < 0.72:
        return list(PATTERNS.values())[rng.integers(len(PATTERNS))](rng, size)
    return scene(rng, size)
