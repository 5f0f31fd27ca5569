"""The words that go with each picture: where they come from, and what is said of them in a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import PictureError
from trainers.config import DataConfig
from trainers.tables import MAX_CAPTION_BYTES, Row, find_table, one_line, read_table

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Words:
    """What is written about one picture.

    caption: with the trigger where `add_trigger` asks for it. own: whether the caption was written for this
    picture, and isn't the prompt that all have. repeats, mask: as the table says; None: it doesn't.
    """

    caption: str
    own: bool
    repeats: int | None = None
    mask: str | None = None


def words_for(
    pictures: Sequence[Path], data: DataConfig, prompts: Sequence[str] | None = None
) -> tuple[list[Words], list[str]]:
    """Return the words of each picture, and notes that a person should read.

    A picture without a caption of its own has its prompt, which is noted where others have one.
    prompts: one per picture; None: the instance prompt for all.

    Raises: PictureError for a caption file or table that can't be used.
    """
    prompts = prompts if prompts is not None else [data.instance_prompt] * len(pictures)
    rows, notes = _written(pictures, data)
    found, missing, silent = [], [], []
    for picture, prompt in zip(pictures, prompts, strict=True):
        row = rows.get(picture, Row())
        caption = row.caption or prompt
        if not row.caption:
            missing.append(_name(picture, data))
        if data.trigger.casefold() not in caption.casefold():
            if data.add_trigger:
                caption = f"{data.trigger}, {caption}"
            else:
                silent.append(_name(picture, data))
        found.append(Words(caption=caption, own=bool(row.caption), repeats=row.repeats, mask=row.mask))
    if silent:
        notes.append(
            f"no {data.trigger!r} in the caption of {listed(silent)}: the trigger won't learn from it; write "
            "it in, or set data.add_trigger"
        )
    if missing and len(missing) < len(pictures):
        notes.append(f"no caption for {listed(missing)}: the prompt of the pictures is used")
    return found, notes


def _name(picture: Path, data: DataConfig) -> str:
    """What people know a picture by: its path in the folder of pictures."""
    inside = picture.is_relative_to(data.instance_images)
    return picture.relative_to(data.instance_images).as_posix() if inside else picture.name


def _written(pictures: Sequence[Path], data: DataConfig) -> tuple[dict[Path, Row], list[str]]:
    """Read what is written for each picture, by its path."""
    if data.captions == "prompt":
        return {}, []
    if data.captions == "table":
        return read_table(find_table(data.instance_images, data.captions_file), pictures)
    return {picture: Row(caption=read_caption(picture.with_suffix(".txt"))) for picture in pictures}, []


def read_caption(path: Path) -> str:
    """Read a caption file; a missing one is empty. Whitespace becomes single spaces."""
    if not path.is_file():
        return ""
    if path.stat().st_size > MAX_CAPTION_BYTES:
        raise PictureError(f"caption {path.name!r} is longer than {MAX_CAPTION_BYTES} bytes; shorten it")
    try:
        return one_line(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise PictureError(f"caption {path.name!r} isn't UTF-8 text; save it again as UTF-8") from None


def listed(names: Sequence[str], most: int = 3) -> str:
    """Name the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def spoken(caption: str, settings: DataConfig, generator: torch.Generator) -> str:
    """Return what a sample says: the caption, its tags shuffled and now and then nothing, as `settings` ask.

    The first `keep_tags` comma-separated tags stay in front, in their order. generator: on the CPU; nothing
    is drawn from it for an option that is off.
    """
    import torch

    if settings.caption_dropout > 0:
        drawn = torch.rand((), generator=generator).item()
        if drawn < settings.caption_dropout:
            return ""
    if not settings.shuffle_tags:
        return caption
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    kept, loose = tags[: settings.keep_tags], tags[settings.keep_tags :]
    order = torch.randperm(len(loose), generator=generator).tolist()
    return ", ".join(kept + [loose[index] for index in order])
