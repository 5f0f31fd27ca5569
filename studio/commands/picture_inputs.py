"""The pictures that a drawing starts from, by the command line's flags: files, and what they are for."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, PictureError
from studio.commands.arguments import place

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.generation import Inputs

CONTROL_SYNTAX = "NET=PICTURE[:WEIGHT][@BEGIN-END]"
PROMPT_SYNTAX = "IP_ADAPTER=PICTURE[:WEIGHT]"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_LARGEST = 64_000_000  # pixels
_ITEM = re.compile(
    r"(?P<ref>.+?)=(?P<picture>.+?)(?::(?P<weight>[\d.]+))?(?:@(?P<begin>[\d.]+)-(?P<end>[\d.]+))?"
)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """`--image`, `--mask`, `--control`, `--image-prompt`."""
    group = parser.add_argument_group("pictures to draw from")
    group.add_argument("--image", default=None, metavar="FILE", help="what is drawn over (see --strength)")
    group.add_argument("--mask", default=None, metavar="FILE", help="white where the picture is drawn anew")
    group.add_argument(
        "--control", action="append", default=[], metavar=CONTROL_SYNTAX,
        help="a ControlNet's folder and the picture that it follows, how strictly (default 1), and when, as "
        "shares of the steps; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--image-prompt", default=None, metavar=PROMPT_SYNTAX,
        help="an IP-Adapter's file and the picture to be like, and how much (default 1)",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given:
    """Where the pictures are, as a person wrote it. None, or empty: not given."""

    image: str | None = None
    mask: str | None = None
    controls: tuple[str, ...] = ()
    image_prompt: str | None = None

    def of_table(self, table: dict[str, Any]) -> Given:
        """Take the pictures out of a settings file: those that are texts are files."""
        found: dict[str, Any] = {}
        for name in ("image", "mask", "image_prompt"):
            if isinstance(table.get(name), str):
                found[name] = table.pop(name)
        listed = table.get("controls")
        if isinstance(listed, list) and listed and all(isinstance(one, str) for one in listed):
            found["controls"] = tuple(table.pop("controls"))
        return Given(**found)


def inputs_of(
    args: argparse.Namespace, given: Given, fields: dict[str, Any], notes: list[str]
) -> tuple[dict[str, Any], Inputs]:
    """Open the pictures that are given, and put into the settings what they are for.

    given: those of a settings file; flags win. A picture other than the one that the settings record takes
    its place, which is said in `notes`.

    Raises: PictureError for one that can't be read; ConfigError for what isn't understood.
    """
    from pipelines.generation import Inputs

    fields = dict(fields)
    image, mask = args.image or given.image, args.mask or given.mask
    control, prompt = args.control or given.controls, args.image_prompt or given.image_prompt
    opened: dict[str, Any] = {}
    for name, file in (("image", image), ("mask", mask)):
        if file is not None:
            opened[name] = picture(file)
            fields[name] = _record(opened[name], file, fields.get(name), notes)
    if control:
        items = [_item(text, CONTROL_SYNTAX) for text in control]
        opened["controls"] = tuple(picture(item["picture"]) for item in items)
        fields["controls"] = [
            _use(item) | {"picture": _record(one, item["picture"], None, notes)}
            for item, one in zip(items, opened["controls"], strict=True)
        ]
    if prompt:
        item = _item(prompt, PROMPT_SYNTAX)
        opened["image_prompt"] = picture(item["picture"])
        if "begin" in item:
            raise ConfigError(f"--image-prompt {prompt!r} isn't understood; write {PROMPT_SYNTAX}")
        fields["image_prompt"] = _use(item) | {
            "picture": _record(opened["image_prompt"], item["picture"], None, notes)
        }
    return fields, Inputs(**opened)


def _item(text: str, syntax: str) -> dict[str, str]:
    found = _ITEM.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text[:100]!r} isn't understood; write {syntax}")
    return {name: value for name, value in found.groupdict().items() if value is not None}


def _use(item: dict[str, str]) -> dict[str, Any]:
    """A ControlNet's or IP-Adapter's entry in the settings."""
    found: dict[str, Any] = {"ref": str(place(item["ref"]))}
    for name in ("weight", "begin", "end"):
        if name in item:
            try:
                found[name] = float(item[name])
            except ValueError:
                raise ConfigError(f"{item[name]!r} is no number; write {CONTROL_SYNTAX}") from None
    return found


def _record(image: Image, file: str, before: Any, notes: list[str]) -> dict[str, Any]:
    """What the settings record of a picture; the record there was where it is the same one."""
    from pipelines.generation import PictureUse

    found = PictureUse.of(image, Path(file).name)
    known = before.sha256 if isinstance(before, PictureUse) else (before or {}).get("sha256")
    if known is not None and known != found.sha256:
        notes.append(f"{Path(file).name!r} isn't the picture that the settings name: it takes its place")
    return found.model_dump()


def picture(file: str) -> Image:
    """Open a picture as it is. Raises: PictureError for one that can't be read or is too large."""
    from PIL import Image, UnidentifiedImageError

    path = place(file)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _LARGEST:
                raise PictureError(
                    f"{path.name!r} has {image.width}×{image.height} pixels, at most {_LARGEST:,} are read"
                )
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise PictureError(f"no picture {file!r}; give the path of a PNG, JPEG or WebP file") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise PictureError(f"{path.name!r} isn't a readable picture; give a PNG, JPEG or WebP file") from None
