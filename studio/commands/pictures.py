"""`pigment generate|grid|strip`: pictures, many pictures side by side, and what a slider does."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError
from studio.commands.arguments import Parser, add_json, add_part, say, target
from studio.commands.base_options import base_path, load
from studio.commands.settings import Asked, add_settings, asked
from studio.commands.uses import Use, read_all, recorded, settled

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.generation import GenerationConfig
    from pipelines.picture import Picture
    from pipelines.stage import Stage


def generate(args: argparse.Namespace) -> int:
    """Draw pictures, with or without adapters."""
    found = asked(args)
    out = _png(args.out)
    base, stage, config = _ready(args, found, found.uses)
    kept = _Kept(out, config.num_images)
    try:
        with stage:
            stage.draw(config, on_step=StepLine(), on_picture=kept.add)
    except KeyboardInterrupt:
        end = "\n" if sys.stderr.isatty() else ""  # the line of steps is open there
        print(f"{end}interrupted: {len(kept.written)} of {kept.count} pictures are drawn", file=sys.stderr)
        if kept.written or args.json:
            _tell(args, found, base, kept.written, kept.pictures)
        return 130
    _tell(args, found, base, kept.written, kept.pictures)
    return 0


class _Kept:
    """Writes each picture when it is finished: under the name asked for, of several each with its number."""

    def __init__(self, out: Path, count: int) -> None:
        self.count = count
        self.written: list[Path] = []
        self.pictures: list[Picture] = []
        self._out = out

    def add(self, picture: Picture) -> None:
        out, number = self._out, len(self.pictures) + 1
        path = out if self.count == 1 else out.with_name(f"{out.stem}-{number:02d}{out.suffix}")
        picture.save(path)
        self.written.append(path)
        self.pictures.append(picture)


def grid(args: argparse.Namespace) -> int:
    """Draw a labelled grid over up to three settings."""
    from pipelines.axes import read_axis
    from pipelines.grid_drawing import draw_grid, planned_cells

    axes = [read_axis(text) for text in (args.x, args.y, args.z) if text is not None]
    if args.z is not None and args.y is None:
        raise ConfigError("--z is drawn below x and y; give --y too, or say --y in its place")
    found = asked(args)
    _refuse_count(found, "a grid draws one picture per cell")
    out = _png(args.out)
    cells = None if args.cells is None else _folder(args.cells)
    planned_cells(_mixed(found.config, found.uses), axes)
    for ref in (value for axis in axes if axis.kind == "base" for value in axis.values):
        base_path(ref, args.workspace)
    base, stage, config = _ready(args, found, found.uses)
    with stage:
        drawn = draw_grid(stage, config, axes, on_step=StepLine())
    assert drawn is not None
    drawn.picture.save(out)
    written = [out]
    if cells is not None:
        cells.mkdir(exist_ok=True)
        for place, picture in drawn.cells.items():
            written.append(cells / f"{_cell_name(place)}.png")
            picture.save(written[-1])
    _tell(args, found, base, written, [drawn.picture], {"axes": [axis.as_data() for axis in axes]})
    return 0


def strip(args: argparse.Namespace) -> int:
    """Draw an adapter's slider from end to end."""
    from pipelines.grid_drawing import planned_cells
    from pipelines.strips import draw_strip, strip_axis

    found = asked(args)
    _refuse_count(found, "a strip draws one picture per weight")
    out = target(args.out, "", None, ending="")
    if out.suffix.lower() not in (".png", ".webp"):
        raise ConfigError(f"--out {args.out!r} is no PNG or WebP; expected a name ending in .png or .webp")
    if not found.uses:
        raise ConfigError("a strip needs an adapter; give --adapter NAME")
    of = args.of or (found.uses[0].name if len(found.uses) == 1 else None)
    if args.of is None and len(found.uses) > 1:
        names = ", ".join(use.name for use in found.uses)
        raise ConfigError(f"{len(found.uses)} adapters are in the mix; say with --of which moves: {names}")
    axis = strip_axis(of, args.low, args.high, args.frames)
    planned_cells(_mixed(found.config, found.uses), [axis])
    base, stage, config = _ready(args, found, found.uses)
    with stage:
        drawn = draw_strip(
            stage, config, adapter=of, low=args.low, high=args.high, count=args.frames, on_step=StepLine()
        )
    assert drawn is not None
    if out.suffix.lower() == ".webp":
        drawn.save_webp(out)
    else:
        drawn.whole.save(out)
    _tell(args, found, base, [out], [drawn.whole], {"axes": [axis.as_data()]})
    return 0


def _ready(
    args: argparse.Namespace, found: Asked, uses: Sequence[Use]
) -> tuple[Base, Stage, GenerationConfig]:
    """Load the base and the adapters, and record the mix in the settings."""
    from pipelines.stage import Stage

    base = load(args, args.base or found.base or "pocket")
    uses = settled(uses, base)
    adapters = read_all(uses, args, base)
    stage = Stage(base, list(adapters.values()), inputs=found.inputs, load=lambda ref: load(args, ref))
    use_records = recorded(uses, adapters)
    named = zip(use_records, uses, strict=True)
    mixed = tuple(record.model_copy(update={"name": use.name}) for record, use in named)
    return base, stage, found.config.model_copy(update={"adapters": mixed})


def _mixed(config: GenerationConfig, uses: Sequence[Use]) -> GenerationConfig:
    """The settings with the mix as far as it is known before anything is loaded."""
    from pipelines.generation import AdapterUse

    known = tuple(
        AdapterUse(name=use.name, sha256="", weight=use.weights.unet, text_weight=use.weights.text)
        for use in uses
    )
    return config.model_copy(update={"adapters": known})


def _refuse_count(found: Asked, why: str) -> None:
    if found.config.num_images != 1:
        raise ConfigError(f"{why}; leave --count out")


def _png(name: str) -> Path:
    if Path(name).suffix.lower() != ".png":
        raise ConfigError(f"--out {name!r} is no PNG; expected a name ending in .png")
    return target(name, "", None, ending="")


def _folder(name: str) -> Path:
    path = target(name, "", None, ending="")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--cells {name!r} is a file; give a folder")
    return path


def _cell_name(place: Sequence[int]) -> str:
    """A cell's places along the axes, counted from 1: x02-y01."""
    return "-".join(f"{axis}{number + 1:02d}" for axis, number in zip("xyz", place, strict=False))


def _tell(
    args: argparse.Namespace, found: Asked, base: Base, written: Sequence[Path],
    pictures: Sequence[Picture], more: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Say what was written; notes go to standard error, and into the JSON."""
    from pipelines.parameters.comparing import differences

    notes = list(found.notes)
    if pictures and found.record:
        notes += differences(found.record, pictures[0].settings)
    elif found.base_sha256 and not base.sha256.startswith(found.base_sha256.lower()):
        notes.append("the settings are of a picture of another base: this one differs")
    for picture in pictures:
        notes += [note for note in picture.settings.get("notes", ()) if note not in notes]
    if not args.json:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    data = {
        "pictures": [str(path) for path in written],
        "settings": [picture.settings for picture in pictures],
        "notes": notes,
        **(more or {}),
    }
    say(args, "\n".join(str(path) for path in written), data)


class StepLine:
    """Says on standard error how far a drawing is, where that is a terminal."""

    def __init__(self) -> None:
        self._terminal, self._last = sys.stderr.isatty(), 0.0

    def __call__(self, step: Any) -> None:
        done, now = step.done >= step.total, time.monotonic()
        if self._terminal and (done or now - self._last >= 0.1):
            print(
                f"\r{step.done} of {step.total} steps ", end="\n" if done else "", file=sys.stderr, flush=True
            )
            self._last = now


def add_commands(commands: Any, shared: Parser) -> None:
    """Add this module's commands to the parser."""
    parser = commands.add_parser("generate", parents=[shared], help="draw pictures")
    _add_drawing(parser, "picture.png", "FILE.png", generate)

    parser = commands.add_parser(
        "grid", parents=[shared], help="draw a labelled grid over up to three settings"
    )
    text = _axes_help()
    parser.add_argument("--x", required=True, metavar="AXIS", help=text)
    parser.add_argument("--y", default=None, metavar="AXIS", help="another one, downwards")
    parser.add_argument("--z", default=None, metavar="AXIS", help="a third one: a grid for each value")
    parser.add_argument("--cells", default=None, metavar="DIR", help="write each picture there by itself too")
    _add_drawing(parser, "grid.png", "FILE.png", grid)

    parser = commands.add_parser(
        "strip", parents=[shared], help="draw what one adapter's slider does, as a picture or a loop"
    )
    parser.add_argument(
        "--of", default=None, metavar="NAME", help="which adapter moves; the only one if left out"
    )
    parser.add_argument("--low", type=float, default=-1.0, metavar="WEIGHT", help="default: -1")
    parser.add_argument("--high", type=float, default=2.0, metavar="WEIGHT", help="default: 2")
    parser.add_argument("--frames", type=int, default=7, metavar="N", help="how many weights (default: 7)")
    _add_drawing(parser, "strip.png", "FILE.png|FILE.webp", strip)


def _add_drawing(parser: argparse.ArgumentParser, out: str, metavar: str, run: Any) -> None:
    add_settings(parser)
    parser.add_argument("--out", default=out, metavar=metavar, help=f"default: {out}")
    add_part(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _axes_help() -> str:
    from pipelines.axes import AXES

    return (
        "NAME=VALUES or weight:ADAPTER=VALUES, as seed=1-5, weight=0:1:0.25, sampler=ddim,euler, "
        f"prompt=cat,dog (the first is what the others take the place of); NAME is one of {', '.join(AXES)}"
    )
