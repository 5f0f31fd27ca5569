"""The metadata of an adapter file, changed without touching its tensors."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import AdapterError, nearest
from pipelines.files import write_atomic
from pipelines.formats.container import MAX_HEADER_BYTES, read_header, read_header_text
from pipelines.formats.metadata import HASHES, PIGMENT_KEY, about_of

COVER_SIDE = 256  # pixels
_MAX_PIXELS = 64_000_000
_PIECE = 1 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Field:
    """One name that people use. keys: what it changes in the metadata. own: what in the `pigment` JSON."""

    keys: tuple[str, ...]
    own: str = ""


FIELDS: dict[str, Field] = {
    "title": Field(("modelspec.title", "ss_output_name"), own="name"),
    "triggers": Field(("modelspec.trigger_phrase",), own="triggers"),
    "description": Field(("modelspec.description",)),
    "author": Field(("modelspec.author",)),
    "license": Field(("modelspec.license",)),
    "date": Field(("modelspec.date",)),
    "notes": Field(("modelspec.usage_hint",)),
    "cover": Field(("modelspec.thumbnail",)),
}
"""By the name for people; keys that the file has, or that other tools give a meaning, go by themselves."""

_FREE = ("ss_", "ssmd_", "modelspec.")
_KEPT = (PIGMENT_KEY, "format", *HASHES, "sshs_legacy_hash", "lora_adapter_metadata")


def edit_metadata(path: str | Path, changes: Mapping[str, str | None], out: str | Path | None = None) -> str:
    """Rewrite the header of an adapter file with changed metadata and return the SHA-256 of the file.

    changes: text by a name of FIELDS or by a metadata key (ss_…, ssmd_…, modelspec.…, or one that the file
    has); None removes it. "triggers" are words with
    commas between, "cover" is the path of a PNG, JPEG or WebP, which is made at most 256 pixels wide and
    high. out: where the new file goes; None replaces the old one. The tensors' bytes are copied as they
    are, so that the hashes which other tools show stay the same.

    Raises: AdapterError for a damaged file, an unknown or protected field, a picture that
    can't be read, more metadata than a reader takes, or a system that refuses; nothing is changed then.
    """
    path = Path(path)
    target = path if out is None else Path(out)
    if target.suffix != ".safetensors":
        raise AdapterError(
            f"{target.name!r} can't be an adapter file; expected a name ending in .safetensors"
        )
    header = read_header(path)
    metadata = dict(header.metadata)
    about = about_of(metadata)
    for name, value in changes.items():
        _apply(metadata, about, name, value)
    if about:
        metadata[PIGMENT_KEY] = json.dumps(about, ensure_ascii=False, sort_keys=True)
    # The entries stay in their order, byte for byte what the tensors' places need.
    entries = {key: entry for key, entry in read_header_text(path).items() if key != "__metadata__"}
    stated = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    raw = json.dumps({**stated, **entries}, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER_BYTES:
        raise AdapterError(
            f"{path.name!r} would have {len(raw):,} bytes of names and metadata, at most "
            f"{MAX_HEADER_BYTES:,} are written; shorten the texts"
        )

    def chunks() -> Iterator[bytes]:
        yield struct.pack("<Q", len(raw))
        yield raw
        with open(path, "rb") as file:
            file.seek(header.data_start)
            while piece := file.read(_PIECE):
                yield piece

    try:
        return write_atomic(target, chunks())
    except OSError as error:
        raise AdapterError(f"{target.name!r} can't be written: {error.strerror or error}") from None


def _apply(metadata: dict[str, str], about: dict[str, Any], name: str, value: str | None) -> None:
    """Change one field in the metadata and in what the `pigment` JSON says of it."""
    own = about.get("metadata")
    own = own if isinstance(own, dict) else {}
    if name in _KEPT:
        raise AdapterError(f"{name!r} states a fact about the file and can't be edited")
    if name not in FIELDS and name not in metadata and name not in own and not name.startswith(_FREE):
        raise AdapterError(f"unknown metadata field {name!r}{nearest(name, FIELDS)}")
    if value is not None and not isinstance(value, str):
        raise AdapterError(f"{name!r} must be text, got {type(value).__name__}")
    if name == "cover" and value is not None:
        value = cover_url(Path(value))
    field = FIELDS.get(name, Field((name,)))
    for key in field.keys:
        _set(own if key in own else metadata, key, value)
    if about and field.own == "triggers":
        about["triggers"] = [word.strip() for word in (value or "").split(",") if word.strip()]
    elif about and field.own:
        _set(about, field.own, value)


def _set(fields: dict[str, Any], key: str, value: str | None) -> None:
    if value is None:
        fields.pop(key, None)
    else:
        fields[key] = value


def cover_url(path: Path) -> str:
    """Return a picture as a data URL: JPEG, at most 256 pixels wide and high, upright, on white.

    Raises: AdapterError where it isn't a readable PNG, JPEG or WebP, or has over 64 million pixels.
    """
    return f"data:image/jpeg;base64,{base64.b64encode(cover_jpeg(path, COVER_SIDE)).decode()}"


def cover_jpeg(source: Path | bytes, side: int) -> bytes:
    """Return a picture as a JPEG file, at most `side` pixels wide and high, upright, on white.

    Raises: AdapterError where it isn't a readable PNG, JPEG or WebP, or has over 64 million pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = repr(source.name) if isinstance(source, Path) else "the picture"
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=["PNG", "JPEG", "WEBP"]) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise AdapterError(f"{name} has {opened.width}×{opened.height} pixels; make it smaller")
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        raise AdapterError(f"{name} can't be read as a cover; expected PNG, JPEG or WebP") from None
    picture.thumbnail((side, side))
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    buffer = io.BytesIO()
    white.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
