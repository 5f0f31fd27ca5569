"""A generated picture and the settings inside its PNG file."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import PictureError
from pipelines.files import write_atomic
from pipelines.samplers import SAMPLERS

if TYPE_CHECKING:
    from PIL.Image import Image

PIGMENT_CHUNK = "pigment"
A1111_CHUNK = "parameters"
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
    """Read the exact settings back from a PNG file written by `Picture.save`.

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
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("generation"), dict):
        raise PictureError(f"{path.name!r} holds Pigment settings that aren't readable")
    return settings


def a1111_parameters(settings: dict[str, Any]) -> str:
    """Return the settings as A1111 writes them under `parameters`.

    Adapters follow the prompt as <lora:name:weight>, or <lora:name:text weight:UNet weight>.
    """
    generation, base = settings["generation"], settings["base"]
    tags = "".join(f" <lora:{use['name']}:{_weights(use)}>" for use in generation["adapters"])
    lines = [generation["prompt"] + tags]
    if generation["negative_prompt"]:
        lines.append(f"Negative prompt: {generation['negative_prompt']}")
    fields = {
        "Steps": generation["num_inference_steps"],
        "Sampler": SAMPLERS[generation["sampler"]].label,
        "CFG scale": f"{generation['guidance_scale']:g}",
        "Seed": generation["seed"],
        "Size": f"{generation['width']}x{generation['height']}",
        "Model hash": base["sha256"][:10],
        "Model": base["ref"].replace(",", " ").rsplit("/", 1)[-1],
    }
    if generation["adapters"]:
        hashes = ", ".join(f"{use['name']}: {use['sha256'][:12]}" for use in generation["adapters"])
        fields["Lora hashes"] = f'"{hashes}"'
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)


def _weights(use: dict[str, Any]) -> str:
    if use.get("text_weight") is None:
        return f"{use['weight']:g}"
    return f"{use['text_weight']:g}:{use['weight']:g}"
