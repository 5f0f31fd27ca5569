"""The corpus of the embedded base: pictures with captions, composed in memory.

A picture is one subject on one background at a size and a place; all of it is drawn from a
`numpy.random.Generator`, so the corpus is a function of a seed and holds no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainers.base.backgrounds import BACKGROUNDS, Pixels, colour_near, draw_background
from trainers.base.glyphs import all_glyphs, draw_glyph, glyph
from trainers.base.subjects import CLASS_WORDS, COLOURS, HELD_OUT, SUBJECTS, Subject, with_article

# Captions that don't name their background.
_UNNAMED_SHARE = 0.2


@dataclass(frozen=True)
class Example:
    """One corpus picture. `pixels` (size, size, 3) in 0..1; labels are names, not indices."""

    pixels: Pixels
    caption: str
    subject: Subject
    background: str


def held_out_pair(subject: Subject, background: str) -> bool:
    """Whether this subject is never shown on this background in training (about one pair in ten)."""
    digest = hashlib.sha256(f"{subject.name}|{background}".encode()).digest()
    return digest[0] < 26


def paste(background: Pixels, image: Image.Image, box: tuple[float, float, float]) -> Pixels:
    """`image` (RGBA) with its centre at (x, y), its longest side `extent`, all in shares of the picture.

    Resampled with premultiplied alpha, so that edges take no colour from transparent pixels.
    """
    x, y, extent = box
    size = background.shape[0]
    scale = extent * size / max(image.size)
    w, h = (max(1, round(side * scale)) for side in image.size)
    rgba = np.asarray(image, np.float32) / 255
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    small = np.stack(
        [
            np.asarray(
                Image.fromarray(rgba[..., c]).resize(
                    (w, h), Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR
                )
            )
            for c in range(4)
        ],
        -1,
    )
    left, top = round(x * size - w / 2), round(y * size - h / 2)
    l0, t0, r0, b0 = max(0, left), max(0, top), min(size, left + w), min(size, top + h)
    out = background.copy()
    part = small[t0 - top : b0 - top, l0 - left : r0 - left]
    out[t0:b0, l0:r0] = out[t0:b0, l0:r0] * (1 - part[..., 3:]) + part[..., :3]
    return np.clip(out, 0, 1)


def _tint(image: Image.Image, colour: Pixels) -> Image.Image:
    rgba = np.asarray(image, np.float32).copy()
    rgba[..., :3] *= colour
    return Image.fromarray(rgba.astype(np.uint8))


def _place(rng: np.random.Generator) -> tuple[str, str, tuple[float, float, float]]:
    """(size word, place words, box): most pictures show the subject large and in the middle, unsaid."""
    size_word, place_words, extent, x = "", "", rng.uniform(0.78, 0.94), 0.5 + rng.uniform(-0.04, 0.04)
    if rng.random() < 0.15:
        size_word, extent = [
            ("small", rng.uniform(0.38, 0.5)),
            ("big", rng.uniform(0.96, 1.08)),
            ("large", rng.uniform(0.96, 1.08)),
        ][rng.integers(3)]
    if rng.random() < 0.12:
        side = rng.integers(2)
        place_words = ("on the left", "on the right")[side]
        extent = min(extent, rng.uniform(0.5, 0.6))
        x = (0.3, 0.7)[side] + rng.uniform(-0.03, 0.03)
    return size_word, place_words, (x, 0.5 + rng.uniform(-0.04, 0.04), extent)


def compose(
    subject: Subject, rng: np.random.Generator, size: int = 64, *, held_out: bool | None = False
) -> Example:
    """One picture of `subject` with its caption.

    `held_out` False keeps away from held-out pairs, True shows only those, None doesn't care.
    The caption's head varies ("a photo of a fox", "a fox", "fox", …); a fifth of the captions doesn't
    name the background, one in twelve says the class instead of the name.
    """
    if held_out and not any(held_out_pair(subject, name) for name in BACKGROUNDS):
        raise ValueError(f"no background is held out of {subject.name!r}")
    while True:
        background, phrase, label = draw_background(rng, size)
        if held_out is None or held_out_pair(subject, label) == held_out:
            break
    size_word, place_words, box = _place(rng)
    image, name = glyph(subject), subject.name
    if subject.kind == "shape":
        tint = str(rng.choice([c for c in COLOURS if c != label]))
        image, name = _tint(image, colour_near(tint, rng)), f"{tint} {name}"
    elif rng.random() < 0.08:
        name = str(rng.choice(CLASS_WORDS[subject.kind]))
    plural = subject.plural and name == subject.name
    noun = f"{size_word} {name}".strip()
    whole = with_article(noun, plural)
    medium = ("a drawing", "a picture", "an emoji")[rng.integers(3)]
    head = (f"a photo of {whole}", whole, noun, f"{medium} of {whole}")[rng.choice(4, p=(0.5, 0.2, 0.1, 0.2))]
    said = "" if rng.random() < _UNNAMED_SHARE else phrase
    caption = " ".join(part for part in (head, said, place_words) if part)
    return Example(paste(background, image, box), caption, subject, label)


def stream(seed: int, size: int = 64, subjects: tuple[Subject, ...] = SUBJECTS) -> Iterator[Example]:
    """Training examples without end, every subject equally often, in an order drawn from `seed`."""
    rng = np.random.default_rng(seed)
    while True:
        for index in rng.permutation(len(subjects)):
            yield compose(subjects[index], rng, size)


@dataclass(frozen=True)
class Pairs:
    """N pictures (N, H, W, 3) uint8 with their captions."""

    pictures: np.ndarray
    captions: list[str]


def collect(count: int, seed: int, size: int, other_glyphs: float = 0.35) -> Pairs:
    """Corpus examples, and a share of all other glyphs of the font by their Unicode names.

    The other glyphs are for the image tower only: what it learns of shapes there lets it tell apart
    subjects that the base was never shown.
    """
    rng = np.random.default_rng(seed)
    held_out = {s.glyph for s in HELD_OUT}
    others = [row for row in all_glyphs() if row[1] not in held_out]
    examples = stream(seed, size)
    pictures = np.empty((count, size, size, 3), np.uint8)
    captions = []
    for i in range(count):
        if rng.random() >= other_glyphs:
            example = next(examples)
            pixels, caption = example.pixels, example.caption
        else:
            name, code = others[rng.integers(len(others))]
            image = draw_glyph(code)
            assert image is not None  # all_glyphs has drawn it
            background, phrase, _ = draw_background(rng, size)
            place = (0.5 + rng.uniform(-0.06, 0.06), 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.6, 0.95))
            pixels = paste(background, image, place)
            caption = f"a photo of {with_article(name)} {phrase}"
        pictures[i] = np.round(pixels * 255).astype(np.uint8)
        captions.append(caption)
    return Pairs(pictures, captions)
