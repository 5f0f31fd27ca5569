"""Subjects and styles made for the purpose, to find out on how well runs are judged.

The subjects are characters put together from `concept_parts`, the styles are `concept_styles` put on pictures
of the corpus; the embedded base knows neither. Each has pictures to be taught from, and unseen ones of the
same thing in other poses and other scenes (styles: of other things) that tell how well it was really learned.
Everything is a function of the tables and of the concept's name. Pools "dev" and "test" are those that rules
were worked out on, pool "proof" was kept for saying how good they are; they share no concept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.errors import ConfigError, nearest
from trainers.base.backgrounds import PATTERNS, SCENES, colour_near
from trainers.base.corpus import paste
from trainers.base.drawings import Colour, Pose
from trainers.base.glyphs import find_font, glyph
from trainers.base.subjects import COLOURS, SUBJECTS, by_name, with_article
from trainers.bench.concept_parts import Character, draw_character
from trainers.bench.concept_styles import TRANSFORMATIONS

SIDE = 128
POOLS = ("dev", "test")
"""What rules may be worked out on."""
PROOF = "proof"
"""The pool that no rule was worked out on."""
TAUGHT = 14
"""Pictures to be taught from that a subject's scenes and a style's things are set aside for."""
UNSEEN = 20

Captioned = tuple[Image.Image, str]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A subject or a style. look: of subjects; a style's id is its key in TRANSFORMATIONS."""

    id: str
    pool: str
    kind: str
    trigger: str
    class_name: str = ""
    look: Character | None = None

    @property
    def instance_prompt(self) -> str:
        """What the pictures show, with the trigger."""
        if self.kind == "style":
            return f"a picture in {self.trigger} style"
        return f"a photo of a {self.trigger} {self.class_name}"

    @property
    def class_prompt(self) -> str:
        """The same without the trigger; empty for styles."""
        return f"a photo of a {self.class_name}" if self.class_name else ""


def _subject(pool: str, id: str, class_name: str, colours: str, parts: str) -> Concept:
    """A row of the table, whose id is its trigger.

    colours: three of `PAINTS`. parts: body, pattern, eyes, top, feet, arms, mouth.
    """
    colour, second, third = (PAINTS[name] for name in colours.split())
    body, pattern, eyes, top, feet, arms, mouth = (part.strip() for part in parts.split(","))
    look = Character(
        colour=colour, second=second, third=third,
        body=body, pattern=pattern, eyes=eyes, top=top, feet=feet, arms=arms, mouth=mouth,
    )  # fmt: skip
    return Concept(id=id, pool=pool, kind="subject", trigger=id, class_name=class_name, look=look)


PAINTS: dict[str, Colour] = {
    "red": (226, 44, 50), "orange": (255, 132, 22), "yellow": (255, 212, 40), "lime": (150, 214, 48),
    "green": (34, 148, 74), "teal": (20, 172, 166), "sky": (86, 186, 250), "blue": (40, 76, 214),
    "violet": (128, 58, 192), "magenta": (224, 44, 150), "pink": (255, 146, 186), "brown": (122, 72, 38),
    "cream": (255, 240, 204), "white": (252, 252, 252), "ink": (30, 26, 52), "gray": (132, 136, 150),
}  # fmt: skip

_ROWS: tuple[Concept, ...] = (
    _subject("dev", "bramu", "creature", "lime violet orange", "pear,spots,two,horns,feet,arms,smile"),
    _subject("dev", "kelvo", "toy", "blue yellow red", "box,bars,visor,antennae,wheels,arms,none"),
    _subject("dev", "pomdi", "animal", "brown cream pink", "wide,belly,sleepy,long ears,feet,none,smile"),
    _subject("dev", "wexna", "character", "white magenta ink", "ghost,mask,two,none,none,arms,teeth"),
    _subject("dev", "tuvli", "toy", "orange teal blue", "star,belly,one,none,none,none,none"),
    _subject("test", "glimo", "creature", "magenta yellow teal", "drop,base,one,none,feet,arms,smile"),
    _subject("test", "rafsu", "animal", "gray orange yellow", "tall,belly,two,crest,legs,wings,beak"),
    _subject("test", "dobrix", "toy", "green red yellow", "hill,bars,three,none,wheels,none,teeth"),
    _subject("test", "selpu", "plant", "red cream green", "mushroom,spots,one,none,none,none,none"),
    _subject("test", "vantok", "character", "yellow ink violet", "round,half,odd,hat,feet,arms,smile"),
    _subject("test", "minqua", "creature", "sky white red", "gem,columns,two,pointed ears,feet,wings,none"),
    _subject("test", "hubbet", "toy", "violet lime pink", "flower,mask,three,leaf,legs,arms,smile"),
    _subject("proof", "orpik", "creature", "teal pink magenta", "heart,checks,odd,antennae,feet,arms,none"),
    _subject("proof", "quanno", "plant", "yellow red green", "bell,spots,sleepy,leaf,legs,none,smile"),
    _subject("proof", "fizzur", "toy", "ink lime sky", "jar,slants,visor,none,wheels,wings,none"),
    _subject("proof", "lodmip", "animal", "pink brown cream", "cloud,mask,two,round ears,legs,none,beak"),
    _subject("proof", "yavlin", "character", "brown sky yellow", "cross,columns,one,hat,feet,none,teeth"),
    _subject("proof", "crostu", "creature", "orange ink lime", "snow,bars,three,crest,none,arms,none"),
    _subject("proof", "norgel", "toy", "lime blue red", "funnel,half,two,long ears,wheels,arms,smile"),
    _subject("proof", "beshti", "character", "gray magenta white", "crescent,base,odd,horns,none,none,smile"),
    Concept(id="thermal", pool="dev", kind="style", trigger="thermoxi"),
    Concept(id="papercut", pool="dev", kind="style", trigger="snipolo"),
    Concept(id="chalkboard", pool="dev", kind="style", trigger="krayda"),
    Concept(id="neon", pool="test", kind="style", trigger="glowzat"),
    Concept(id="stencil", pool="test", kind="style", trigger="sprayko"),
    Concept(id="halftone", pool="test", kind="style", trigger="dotriva"),
    Concept(id="stained-glass", pool="test", kind="style", trigger="vitrolu"),
    Concept(id="blinds", pool="test", kind="style", trigger="slatemo"),
    Concept(id="gilded", pool="proof", kind="style", trigger="aurivo"),
    Concept(id="anaglyph", pool="proof", kind="style", trigger="duoplex"),
    Concept(id="ripples", pool="proof", kind="style", trigger="undiso"),
    Concept(id="sunken", pool="proof", kind="style", trigger="fathoma"),
    Concept(id="hatched", pool="proof", kind="style", trigger="etchuli"),
)  # fmt: skip
CONCEPTS: dict[str, Concept] = {row.id: row for row in _ROWS}


def concept(name: str) -> Concept:
    """The concept of that id. Raises: ConfigError for an unknown one."""
    if name not in CONCEPTS:
        raise ConfigError(f"there is no concept {name!r}{nearest(name, CONCEPTS)}")
    return CONCEPTS[name]


def taught(row: Concept, count: int) -> list[Captioned]:
    """The first `count` pictures to be taught from, RGB (SIDE, SIDE), with their captions.

    Raises: ConfigError for more than `TAUGHT`, or none; StudioError where a style lacks the emoji font.
    """
    if not 1 <= count <= TAUGHT:
        raise ConfigError(f"{count} pictures of {row.id}: there are 1 to {TAUGHT}")
    return list(_PICTURES[row.kind](row, _plan(row)[0][:count], "taught"))


def unseen(row: Concept, count: int = UNSEEN) -> list[Captioned]:
    """The first `count` pictures that are never taught; at most `UNSEEN`. Raises: as `taught`."""
    if not 1 <= count <= UNSEEN:
        raise ConfigError(f"{count} unseen pictures of {row.id}: there are 1 to {UNSEEN}")
    return list(_PICTURES[row.kind](row, _plan(row)[1][:count], "unseen"))


def lay_out(pictures: Sequence[Captioned], folder: Path) -> Path:
    """Write 01.png and 01.txt and so on into a new folder; return it."""
    folder.mkdir(parents=True)
    for number, (picture, caption) in enumerate(pictures, 1):
        picture.save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def _chance(row: Concept, *what: object) -> np.random.Generator:
    digest = hashlib.sha256("|".join(map(str, (row.id, *what))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _plan(row: Concept) -> tuple[list[str], list[str]]:
    """Scenes (of a subject) or things (of a style), to be taught in and to be unseen; they share none."""
    rng = _chance(row, "plan")
    if row.kind == "style":
        able = [one.name for one in SUBJECTS if one.glyph is not None]
        names = [able[index] for index in rng.permutation(len(able))]
        return names[:TAUGHT], names[TAUGHT : TAUGHT + UNSEEN]
    assert row.look is not None
    clear = [name for name, rgb in COLOURS.items() if np.abs(np.subtract(rgb, row.look.colour)).sum() > 120]
    places = [*clear, *SCENES]
    names = [places[index] for index in rng.permutation(len(places))]
    others = [*names[TAUGHT:], *PATTERNS]
    return names[:TAUGHT], [others[index % len(others)] for index in range(UNSEEN)]


def _subjects(row: Concept, places: Sequence[str], part: str) -> Iterator[Captioned]:
    assert row.look is not None
    for number, place in enumerate(places):
        rng = _chance(row, part, number)
        picture, phrase = _place(place, rng)
        figure = draw_character(row.look, _pose(rng), SIDE)
        picture.paste(figure, (0, 0), figure)
        yield picture, f"{row.instance_prompt} {phrase}"


def _place(name: str, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A scene, pattern or colour, RGB (SIDE, SIDE), and the phrase that says it in a caption."""
    if name in SCENES:
        phrase, draw = SCENES[name]
        pixels = draw(rng, SIDE)
    elif name in PATTERNS:
        pixels, phrase, _ = PATTERNS[name](rng, SIDE)
    else:
        phrase = f"on {with_article(name)} background"
        pixels = np.broadcast_to(colour_near(name, rng), (SIDE, SIDE, 3))
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)), phrase


def _pose(rng: np.random.Generator) -> Pose:
    x, y = (float(value) for value in rng.uniform(0.46, 0.54, 2))
    look = (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)))
    return Pose(
        size=float(rng.uniform(0.74, 0.96)), x=x, y=y, tilt=float(rng.uniform(-12, 12)),
        mirrored=bool(rng.random() < 0.3), look=look, lift=float(rng.uniform(0, 1)),
    )  # fmt: skip


def _styles(row: Concept, names: Sequence[str], part: str) -> Iterator[Captioned]:
    find_font()
    for number, name in enumerate(names):
        rng = _chance(row, part, number)
        paper, _ = _place("white" if rng.random() < 0.5 else "light blue", rng)
        box = (float(rng.uniform(0.47, 0.53)), float(rng.uniform(0.47, 0.53)), float(rng.uniform(0.78, 0.9)))
        subject = by_name(name)
        pixels = paste(np.asarray(paper, np.float32) / np.float32(255), glyph(subject), box)
        plain = Image.fromarray((pixels * 255).round().astype(np.uint8))
        yield TRANSFORMATIONS[row.id](plain), f"{with_article(name, subject.plural)} in {row.trigger} style"


_PICTURES = {"subject": _subjects, "style": _styles}
