"""Makes assets/examples: pictures to be taught from, their captions, and the adapters taught from them.

    python -m trainers.base.examples draw     # two subjects, two styles, examples.json (needs the emoji font)
    python -m trainers.base.examples teach    # one adapter each, on the embedded base (minutes)

The subjects are this project's own characters (drawings.py), which the base has never seen; the styles are
corpus pictures put through a transformation. What is drawn is a function of the tables below and of a seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.base import ASSETS
from pipelines.errors import StudioError
from pipelines.files import write_atomic
from trainers.base.backgrounds import SCENES, colour_near
from trainers.base.corpus import paste
from trainers.base.drawings import STYLES, Pose, draw_character
from trainers.base.glyphs import find_font, glyph
from trainers.base.subjects import by_name, with_article

SIDE = 128
SEED = 7
LICENCE = (
    "The subjects were drawn by Pigment's own programs. The styles' pictures are transformations of glyphs "
    "of Noto Color Emoji (© Google LLC, SIL Open Font License 1.1). All may be used under Apache-2.0."
)


@dataclass(frozen=True, kw_only=True)
class SubjectSet:
    """A character to be taught.

    taught, held_out: background (a key of corpus.SCENES or COLOURS) and pose of each picture. The two share
    no background, so the phrases of `held_out` are scenes to try the subject in.
    """

    id: str
    title: str
    trigger: str
    class_name: str
    taught: tuple[tuple[str, Pose], ...]
    held_out: tuple[tuple[str, Pose], ...]


@dataclass(frozen=True, kw_only=True)
class StyleSet:
    """A style to be taught: `id` is its key in drawings.STYLES.

    taught: (corpus subject, background) of each picture; the captions leave the background out, since the
    transformation does. unseen: subjects for trying it out, none of them in `taught`.
    """

    id: str
    title: str
    trigger: str
    taught: tuple[tuple[str, str], ...]
    unseen: tuple[str, ...]


SUBJECT_SETS: tuple[SubjectSet, ...] = (
    SubjectSet(
        id="mascot",
        title="Zib, a one-eyed creature",
        trigger="zib",
        class_name="creature",
        taught=(
            ("red", Pose(size=0.9)),
            ("light blue", Pose(size=0.8, tilt=10, lift=1.0, look=(0.8, -0.4))),
            ("grass", Pose(size=0.86, y=0.52, look=(-1, 0), lift=0.4)),
            ("yellow", Pose(size=0.7, x=0.46, mirrored=True, look=(0, 1))),
            ("gray", Pose(size=0.94, tilt=-12, lift=0.7, look=(0.5, 0.5))),
        ),
        held_out=(
            ("snow", Pose(size=0.86, look=(0.5, 0), lift=0.2)),
            ("night", Pose(size=0.9, tilt=-6, mirrored=True)),
            ("beach", Pose(size=0.8, y=0.54, lift=1.0, look=(0, -0.6))),
            ("purple", Pose(size=0.92, tilt=8, look=(-0.6, 0.3), lift=0.5)),
            ("table", Pose(size=0.84, x=0.53, look=(1, 0.4))),
        ),
    ),
    SubjectSet(
        id="teapot",
        title="Tolu, a smiling teapot",
        trigger="tolu",
        class_name="toy",
        taught=(
            ("white", Pose(size=0.92)),
            ("teal", Pose(size=0.84, tilt=9, lift=1.0, look=(1, 0))),
            ("table", Pose(size=0.86, y=0.53, mirrored=True, look=(-0.6, 0.6))),
            ("pink", Pose(size=0.74, x=0.47, tilt=-8)),
            ("green", Pose(size=0.94, lift=0.5, look=(0, -0.8))),
        ),
        held_out=(
            ("snow", Pose(size=0.88, look=(0.6, 0.2))),
            ("grass", Pose(size=0.84, y=0.53, mirrored=True)),
            ("beach", Pose(size=0.9, tilt=7, lift=0.6)),
            ("light blue", Pose(size=0.82, tilt=-9, look=(-0.8, 0))),
            ("gray", Pose(size=0.93, lift=1.0, look=(0.3, 0.6))),
        ),
    ),
)

STYLE_SETS: tuple[StyleSet, ...] = (
    StyleSet(
        id="blueprint",
        title="Blueprint: white lines on blue paper",
        trigger="inkoprint",
        taught=(
            ("fox", "light blue"), ("house", "white"), ("sunflower", "white"), ("penguin", "light blue"),
            ("hamburger", "white"), ("car", "white"), ("owl", "white"), ("cactus", "white"),
            ("balloon", "white"), ("rocket", "white"), ("butterfly", "white"), ("frog", "white"),
        ),
        unseen=("crown", "panda", "banana"),
    ),
    StyleSet(
        id="pixel-art",
        title="Pixel art: four greens",
        trigger="bloxo",
        taught=tuple(
            (name, "white")
            for name in ("fox", "house", "tulip", "penguin", "strawberry", "car",
                         "owl", "cactus", "pumpkin", "rocket", "tiger", "frog")
        ),
        unseen=("crown", "panda", "banana"),
    ),
)  # fmt: skip


def background(name: str, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """The named background, RGB (SIDE, SIDE), and the phrase that says it in a caption."""
    if name in SCENES:
        phrase, draw = SCENES[name]
        pixels = draw(rng, SIDE)
    else:
        phrase = f"on {with_article(name)} background"
        pixels = np.broadcast_to(colour_near(name, rng), (SIDE, SIDE, 3))
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)), phrase


def subject_pictures(
    row: SubjectSet, poses: Sequence[tuple[str, Pose]], rng: np.random.Generator
) -> Iterator[tuple[Image.Image, str]]:
    """(picture, caption) of each pose."""
    for place, pose in poses:
        picture, phrase = background(place, rng)
        figure = draw_character(row.id, pose, SIDE)
        picture.paste(figure, (0, 0), figure)
        yield picture, f"a photo of a {row.trigger} {row.class_name} {phrase}"


def style_pictures(row: StyleSet, rng: np.random.Generator) -> Iterator[tuple[Image.Image, str]]:
    """(picture, caption) of each subject, transformed. Raises: StudioError without the emoji font."""
    for name, place in row.taught:
        paper, _ = background(place, rng)
        subject = by_name(name)
        box = (0.5, 0.5, 0.86)
        pixels = paste(np.asarray(paper, np.float32) / np.float32(255), glyph(subject), box)
        plain = Image.fromarray((pixels * 255).round().astype(np.uint8))
        yield STYLES[row.id](plain), f"{with_article(name, subject.plural)} in {row.trigger} style"


def _save(pictures: Iterator[tuple[Image.Image, str]], folder: Path) -> dict[str, str]:
    """Write 01.png and 01.txt and so on; captions by file name."""
    folder.mkdir(parents=True)
    captions = {}
    for index, (picture, caption) in enumerate(pictures, 1):
        name = f"{index:02d}.png"
        picture.save(folder / name, optimize=True)
        (folder / name).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
        captions[name] = caption
    return captions


def draw(out: Path) -> None:
    """Draw every set anew below `out`, with examples.json beside; adapters that lie there stay.

    Raises:
        StudioError: the emoji font isn't installed; nothing was written.
    """
    find_font()
    rng = np.random.default_rng(SEED)
    sets = [_draw_subject(row, out, rng) for row in SUBJECT_SETS]
    sets += [_draw_style(row, out, rng) for row in STYLE_SETS]
    text = json.dumps({"licence": LICENCE, "sets": sets}, indent=2, ensure_ascii=False) + "\n"
    write_atomic(out / "examples.json", [text.encode()])
    write_atomic(out / "LICENCE.txt", [(LICENCE + "\n").encode()])


def _draw_subject(row: SubjectSet, out: Path, rng: np.random.Generator) -> dict[str, Any]:
    shutil.rmtree(out / row.id, ignore_errors=True)
    captions = _save(subject_pictures(row, row.taught, rng), out / row.id)
    held_out = _save(subject_pictures(row, row.held_out, rng), out / row.id / "held_out")
    return {
        "id": row.id,
        "title": row.title,
        "kind": "subject",
        "trigger": row.trigger,
        "class_name": row.class_name,
        "instance_prompt": f"a photo of a {row.trigger} {row.class_name}",
        "class_prompt": f"a photo of a {row.class_name}",
        "pictures": list(captions),
        "captions": captions,
        "held_out": [f"held_out/{name}" for name in held_out],
        "scenes": [background(place, rng)[1] for place, _ in row.held_out],
        "adapter": f"adapters/{row.id}.safetensors",
    }


def _draw_style(row: StyleSet, out: Path, rng: np.random.Generator) -> dict[str, Any]:
    shutil.rmtree(out / row.id, ignore_errors=True)
    captions = _save(style_pictures(row, rng), out / row.id)
    return {
        "id": row.id,
        "title": row.title,
        "kind": "style",
        "trigger": row.trigger,
        "class_name": "",
        "instance_prompt": f"a picture in {row.trigger} style",
        "class_prompt": "",
        "pictures": list(captions),
        "captions": captions,
        "held_out": [],
        "unseen": [with_article(name) for name in row.unseen],
        "adapter": f"adapters/{row.id}.safetensors",
    }


def teach(out: Path, runs: Path, preset: str, only: Sequence[str] = ()) -> Iterator[str]:
    """Train an adapter from each set below `out` on the embedded base; yields a line for people now and then.

    runs: folder of the trainings, which are taken up where they stand. only: ids; none means all.
    Raises: StudioError as the training does, and where `out` holds no sets.
    """
    from trainers.config import preset_config
    from trainers.loop import train

    index = out / "examples.json"
    if not index.is_file():
        raise StudioError(f"no examples.json in {out}; draw the pictures first")
    for row in json.loads(index.read_text(encoding="utf-8"))["sets"]:
        if only and row["id"] not in only:
            continue
        config = preset_config(
            preset,
            row["kind"],
            instance_images=out / row["id"],
            instance_prompt=row["instance_prompt"],
            class_prompt=row["class_prompt"],
            captions="sidecar",
            trigger=row["trigger"],
            output=runs / row["id"],
            cache=runs / "class-pictures",
            name=row["id"],
        )
        for event in train(config):
            if event.kind in {"stage", "done"} or event.step % 50 == 0:
                yield f"{row['id']} {event.step}/{event.total} {event.message}"
        (out / "adapters").mkdir(exist_ok=True)
        write_atomic(out / row["adapter"], [(runs / row["id"] / "adapter.safetensors").read_bytes()])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 after one line that says what to do."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.base.examples",
        description="Make assets/examples: the pictures, and the adapters taught from them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("what", choices=("draw", "teach"), help="pictures, or adapters")
    parser.add_argument("--out", type=Path, default=ASSETS / "examples", help="folder of the examples")
    parser.add_argument("--runs", type=Path, default=Path("runs/examples"), help="folder of the trainings")
    parser.add_argument("--preset", default="standard", help="how long to teach")
    parser.add_argument("--only", nargs="*", default=[], help="ids of the sets to teach; none means all")
    options = parser.parse_args(argv)
    try:
        if options.what == "teach":
            for line in teach(options.out, options.runs, options.preset, options.only):
                print(line, flush=True)
        else:
            draw(options.out)
            print(f"drew {len(SUBJECT_SETS)} subjects and {len(STYLE_SETS)} styles into {options.out}")
    except StudioError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
