"""A generated picture and the settings inside its PNG file."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PictureError
from pipelines.files import write_atomic
from pipelines.parameters.stored import A1111_CHUNK, PIGMENT_CHUNK, checked_settings
from pipelines.parameters.writing import a1111_parameters

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["A1111_CHUNK", "PIGMENT_CHUNK", "Picture", "a1111_parameters", "read_settings"]

_MAX_SIDE = 16_384


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture, the settings that give it again, and its seed."""

    image: Image
    settings: dict[str, Any]
    seed: int

    def save(self, path: str | Path) -> None:
        """Write a PNG atomically: A1111's `parameters` text, and the exact settings as `pigment` JSON.

        Raises: PictureError for another ending than .png, or a system that refuses.
        """
        from PIL.PngImagePlugin import PngInfo

        path = Path(path)
        if path.suffix.lower() != ".png":
            raise PictureError(
                f"{path.name!r} can't hold a picture's settings; expected a name ending in .png"
            )
        info = PngInfo()
        info.add_itxt(A1111_CHUNK, a1111_parameters(self.settings))
        info.add_itxt(PIGMENT_CHUNK, json.dumps(self.settings, ensure_ascii=False, sort_keys=True))
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", pnginfo=info)
        try:
            write_atomic(path, [buffer.getvalue()])
        except OSError as error:
            raise PictureError(f"{path.name!r} can't be written: {error.strerror or error}") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the exact settings, of any version, back from a PNG file written by `Picture.save`.

    `GenerationConfig.model_validate(settings["generation"])` draws it again.
    Raises: PictureError for no PNG, no settings, or settings that aren't readable.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if max(image.size) > _MAX_SIDE:
                raise PictureError(
                    f"{path.name!r} is {image.width}×{image.height} pixels, at most {_MAX_SIDE} a side"
                )
            image.load()
            text = image.info.get(PIGMENT_CHUNK)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise PictureError(f"{path.name!r} isn't a readable PNG picture") from None
    if not isinstance(text, str):
        raise PictureError(f"{path.name!r} holds no Pigment settings; choose a picture that Pigment drew")
    return checked_settings(text, path.name)
