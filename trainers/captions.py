"""The words that go with each picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import PictureError
from trainers.config import DataConfig

MAX_BYTES = 10_000


def captions_for(pictures: Sequence[Path], data: DataConfig) -> tuple[list[str], list[str]]:
    """Return one caption per picture, and notes that a person should read.

    With `captions = "sidecar"` a picture's caption stands in the .txt file of its name; where there is
    none it has the instance prompt, which is noted where others have one. Whitespace becomes single spaces.

    Raises: PictureError for a caption file that isn't UTF-8 text or is longer than MAX_BYTES.
    """
    if data.captions == "prompt":
        return [data.instance_prompt] * len(pictures), []
    captions, notes, missing = [], [], []
    for picture in pictures:
        text = _read(picture.with_suffix(".txt"))
        if not text:
            missing.append(picture.name)
            text = data.instance_prompt
        elif data.trigger.casefold() not in text.casefold():
            notes.append(
                f"caption of {picture.name!r} has no {data.trigger!r}: the trigger won't learn from it"
            )
        captions.append(text)
    if missing and len(missing) < len(pictures):
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        notes.append(f"no caption file for {named}: the prompt of the pictures is used")
    return captions, notes


def _read(path: Path) -> str:
    if not path.is_file():
        return ""
    if path.stat().st_size > MAX_BYTES:
        raise PictureError(f"caption {path.name!r} is longer than {MAX_BYTES} bytes; shorten it")
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError:
        raise PictureError(f"caption {path.name!r} isn't UTF-8 text; save it again as UTF-8") from None
