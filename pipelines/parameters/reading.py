"""A picture file's texts, whoever wrote them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.beside_pixels import bytes_beside_pixels
from pipelines.errors import PictureError
from pipelines.parameters.a1111 import parse_a1111
from pipelines.parameters.comfyui import parse_comfyui
from pipelines.parameters.restored import MAX_TEXT, AdapterHint, BaseHint, Gathered, Restored
from pipelines.parameters.stored import A1111_CHUNK, PIGMENT_CHUNK, checked_settings

MAX_FILE = 256 * 2**20
"""Bytes of a file that is opened."""
MAX_BESIDE = 16_000_000
"""Bytes that a PNG may hold beside its pixels: Pillow takes several times as much to read them."""
MAX_PACKED = 64 * 2**20
"""Bytes of a JPEG or WebP, whose metadata can't be told from pixels before they are read."""
MAX_SIDE = 16_384
"""Pixels of a side."""
MAX_DECODED = 4096 * 4096
"""Pixels that are decoded, where a PNG says nothing before them."""

_FORMATS = ["PNG", "JPEG", "WEBP"]
_EXIF_POINTER, _USER_COMMENT, _IMAGE_DESCRIPTION = 0x8769, 0x9286, 0x010E


def restore(path: str | Path) -> Restored:
    """Read from a PNG, JPEG or WebP how it was made: Pigment's settings, A1111's text, ComfyUI's graph.

    Pigment's own are exact; the other two are taken as far as they have a place
    here, and the rest is said (`Restored.left_over`).

    Raises: PictureError for a file that can't be read, is too large, or says nothing of how it was made.
    """
    path = Path(path)
    texts = _texts(path)
    if text := texts.get(PIGMENT_CHUNK):
        return _pigment(checked_settings(text, path.name))
    graph = texts.get("prompt", "")
    if graph.lstrip().startswith("{"):
        return parse_comfyui(graph)
    for key in (A1111_CHUNK, "UserComment", "Comment", "Description", "ImageDescription"):
        text = texts.get(key, "").strip("\0 \n")
        if text.startswith("{") and '"class_type"' in text:
            return parse_comfyui(_inner(text))
        if text and not text.startswith("{"):
            return parse_a1111(text)
    raise PictureError(
        f"{path.name!r} doesn't say how it was made; choose a picture with the settings of Pigment, A1111 "
        "or ComfyUI in it"
    )


def _inner(text: str) -> str:
    """The graph of a text that holds it beside the workflow."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    inner = value.get("prompt") if isinstance(value, dict) else None
    return json.dumps(inner) if isinstance(inner, dict) else inner if isinstance(inner, str) else text


def _pigment(settings: dict[str, Any]) -> Restored:
    """Turn Pigment's own settings into what a picture says."""
    gathered = Gathered("pigment")
    generation, base = settings["generation"], settings.get("base")
    for name, value in generation.items():
        if value is None:
            continue
        gathered.put(name, value, name)
    for use in gathered.fields.get("adapters", ()):
        gathered.adapters.append(AdapterHint(use.name, use.sha256, use.weight, use.text_weight))
    found = replace(gathered.done(), record=settings)
    if not isinstance(base, dict):
        return found
    vae = base.get("vae")
    vae = vae.get("ref") if isinstance(vae, dict) else vae
    hint = BaseHint(*(str(v) if v else None for v in (base.get("ref"), base.get("sha256"), vae)))
    return replace(found, base=hint)


def _texts(path: Path) -> dict[str, str]:
    """Return a file's texts by their keys. Raises: PictureError."""
    from PIL import Image, UnidentifiedImageError

    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise PictureError(f"{path.name!r} has {size} bytes, expected at most {MAX_FILE}")
        _check_beside(path, size)
        with Image.open(path, formats=_FORMATS) as image:
            if max(image.size) > MAX_SIDE:
                raise PictureError(
                    f"{path.name!r} is {image.width}×{image.height} pixels, at most {MAX_SIDE} a side"
                )
            texts = _strings(image.info)
            silent = not {PIGMENT_CHUNK, A1111_CHUNK, "prompt"} & set(texts)
            if image.format == "PNG" and silent and image.width * image.height <= MAX_DECODED:
                image.load()  # texts may stand behind the pixels
                texts = _strings(image.info)
            texts |= _exif(image)
    except FileNotFoundError:
        raise PictureError(f"{path.name!r}: no such file; give the path of a picture") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise PictureError(f"{path.name!r} isn't a readable PNG, JPEG or WebP picture") from None
    for key, text in texts.items():
        if len(text) > MAX_TEXT and key in (PIGMENT_CHUNK, A1111_CHUNK, "prompt", "UserComment"):
            raise PictureError(
                f"{path.name!r} holds {len(text)} characters under {key!r}, expected at most {MAX_TEXT}"
            )
    return texts


def _check_beside(path: Path, size: int) -> None:
    """Refuse a picture that says too much beside its pixels. Raises: PictureError."""
    with path.open("rb") as file:
        beside = bytes_beside_pixels(file)
    if beside > MAX_BESIDE:
        raise PictureError(
            f"{path.name!r} has {beside} bytes beside its pixels, expected at most {MAX_BESIDE}"
        )
    if not beside and size > MAX_PACKED:
        raise PictureError(f"{path.name!r} has {size} bytes, expected at most {MAX_PACKED}")


def _strings(info: dict[Any, Any]) -> dict[str, str]:
    return {key: value for key, value in info.items() if isinstance(key, str) and isinstance(value, str)}


def _exif(image: Any) -> dict[str, str]:
    """Return the comment and the description of a picture's EXIF data, as far as they are there."""
    if image.format == "PNG" and "exif" not in image.info:
        return {}  # Pillow would decode the pixels to look behind them
    try:
        exif = image.getexif()
        comment = exif.get_ifd(_EXIF_POINTER).get(_USER_COMMENT)
        description = exif.get(_IMAGE_DESCRIPTION)
    except Exception:  # damaged EXIF data raises whatever it likes
        return {}
    texts = {}
    if isinstance(comment, bytes):
        texts["UserComment"] = _comment(comment)
    elif isinstance(comment, str):
        texts["UserComment"] = comment
    if isinstance(description, str):
        texts["ImageDescription"] = description.removeprefix("Workflow:").strip()
    return texts


def _comment(data: bytes) -> str:
    """Decode an EXIF UserComment: eight bytes that name its encoding, then the text.

    UTF-16 may have either order of bytes: for texts in Latin letters every other byte is 0.
    """
    kind, body = data[:8], data[8:]
    if kind == b"UNICODE\0":
        if body.startswith((b"\xff\xfe", b"\xfe\xff")):
            return body.decode("utf-16", "replace")
        little = body[1::2].count(0) > body[0::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", "replace")
    if kind in (b"ASCII\0\0\0", b"\0" * 8, b"JIS\0\0\0\0\0"):
        return body.decode("utf-8", "replace")
    return data.decode("utf-8", "replace")
