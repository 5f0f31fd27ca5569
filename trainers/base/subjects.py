"""What the embedded base can draw: subjects, classes and colours, as tables.

A subject is a glyph of Noto Color Emoji (by code point) or a plain shape that this project draws.
`HELD_OUT` subjects never enter the corpus; they are kept for teaching and measuring.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing the corpus shows.

    `glyph` is a code point of the emoji font, or None for a shape drawn by `corpus.draw_shape`.
    `plural` nouns take no article ("a photo of grapes").
    """

    name: str
    kind: str  # class word: animal, food, vehicle ...
    glyph: int | None = None
    plural: bool = False


# One line per class: "name:codepoint" in hexadecimal; a trailing "*" marks a plural noun.
_ROWS: dict[str, str] = {
    "animal": "cat:1F431 dog:1F436 rabbit:1F430 fox:1F98A bear:1F43B panda:1F43C tiger:1F42F "
    "lion:1F981 cow:1F42E "
    "pig:1F437 frog:1F438 monkey:1F435 penguin:1F427 owl:1F989 duck:1F986 unicorn:1F984 "
    "bee:1F41D butterfly:1F98B "
    "snail:1F40C ladybug:1F41E turtle:1F422 octopus:1F419 crab:1F980 tropical_fish:1F420 whale:1F433 "
    "elephant:1F418 koala:1F428 mouse:1F42D wolf:1F43A chick:1F424 dolphin:1F42C "
    "parrot:1F99C flamingo:1F9A9",
    "food": "red_apple:1F34E green_apple:1F34F lemon:1F34B banana:1F34C watermelon:1F349 grapes:1F347* "
    "strawberry:1F353 pineapple:1F34D tomato:1F345 carrot:1F955 mushroom:1F344 hamburger:1F354 pizza:1F355 "
    "doughnut:1F369 cake:1F382 ice_cream:1F366 orange:1F34A pear:1F350 peach:1F351 "
    "cherries:1F352* avocado:1F951 "
    "eggplant:1F346 bread:1F35E* cheese:1F9C0* cookie:1F36A",
    "plant": "cactus:1F335 palm_tree:1F334 tree:1F333 sunflower:1F33B tulip:1F337",
    "vehicle": "rocket:1F680 car:1F697 bus:1F68C train:1F686 airplane:2708 sailboat:26F5 "
    "flying_saucer:1F6F8 taxi:1F695",
    "building": "house:1F3E0 castle:1F3F0 tent:26FA",
    "object": "light_bulb:1F4A1 balloon:1F388 guitar:1F3B8 book:1F4D5 crown:1F451 umbrella:2602 "
    "alarm_clock:23F0 "
    "diamond:1F48E present:1F381 soccer_ball:26BD star:2B50 key:1F511 padlock:1F512 "
    "bell:1F514 basketball:1F3C0 "
    "trophy:1F3C6 top_hat:1F3A9 shirt:1F455 teddy_bear:1F9F8",
    "character": "snowman:26C4 ghost:1F47B alien:1F47D robot:1F916 pumpkin:1F383 skull:1F480 "
    "grinning_face:1F600 "
    "cool_face:1F60E",
    "sky": "moon:1F319 sun:2600 cloud:2601 fire:1F525* rainbow:1F308 heart:2764",
    "shape": "circle square triangle ring",
}
_HELD_OUT_ROWS: dict[str, str] = {
    "animal": "hedgehog:1F994 raccoon:1F99D snake:1F40D",
    "plant": "rose:1F339",
    "vehicle": "tractor:1F69C",
    "object": "teapot:1FAD6 camera:1F4F7 anchor:2693",
}


def _parse(rows: dict[str, str]) -> tuple[Subject, ...]:
    found = []
    for kind, row in rows.items():
        for entry in row.split():
            name, _, code = entry.partition(":")
            glyph = int(code.rstrip("*"), 16) if code else None
            found.append(
                Subject(name=name.replace("_", " "), kind=kind, glyph=glyph, plural=code.endswith("*"))
            )
    return tuple(found)


SUBJECTS: tuple[Subject, ...] = _parse(_ROWS)
HELD_OUT: tuple[Subject, ...] = _parse(_HELD_OUT_ROWS)

# The subjects of the first experiment, whose weights this base continues from; the others are new to it.
NEW = frozenset(
    (
        "koala", "mouse", "wolf", "chick", "dolphin", "parrot", "flamingo", "orange", "pear", "peach",
        "cherries", "avocado", "eggplant", "bread", "cheese", "cookie", "taxi", "key", "padlock", "bell",
        "basketball", "trophy", "top hat", "shirt", "teddy bear", "moon", "sun", "cloud", "fire", "rainbow",
        "heart", "circle", "square", "triangle", "ring",
    )
)  # fmt: skip
FIRST_BASE = frozenset(subject.name for subject in SUBJECTS) - NEW

# sRGB, 0..255
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 222, 50),
    "green": (50, 160, 60),
    "teal": (20, 150, 150),
    "blue": (40, 80, 215),
    "light blue": (150, 205, 245),
    "purple": (130, 50, 170),
    "pink": (250, 150, 190),
    "brown": (120, 75, 40),
    "black": (18, 18, 20),
    "white": (250, 250, 250),
    "gray": (130, 130, 132),
}

# Class words said now and then in place of the name, so that class prompts mean something.
CLASS_WORDS: dict[str, tuple[str, ...]] = {
    "animal": ("animal", "creature"),
    "food": ("food", "snack"),
    "plant": ("plant",),
    "vehicle": ("vehicle",),
    "building": ("building",),
    "object": ("object", "thing", "toy"),
    "character": ("character", "toy"),
    "sky": ("symbol",),
    "shape": ("shape", "symbol"),
}


def by_name(name: str) -> Subject:
    """The subject of that name, held-out ones included.

    Raises:
        KeyError: no such subject.
    """
    for subject in SUBJECTS + HELD_OUT:
        if subject.name == name:
            return subject
    raise KeyError(name)


def with_article(words: str, plural: bool = False) -> str:
    """ "fox" → "a fox", "owl" → "an owl"; plural nouns stay as they are."""
    if plural:
        return words
    vowel = words[0] in "aeio" or words.startswith("um")
    return f"{'an' if vowel else 'a'} {words}"
