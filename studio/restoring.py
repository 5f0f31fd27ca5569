"""From what a picture says of how it was made to what Mix draws: settings, adapters of the library, notes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from studio.gallery import Drawn, settings_of
from studio.library import Library
from studio.mix_request import MAX_BLOCKS
from studio.mixing import MixPart
from studio.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.parameters import Restored

APART = ("adapters", "image", "mask", "controls", "image_prompt", "num_images", "batch_size")
"""Fields of a GenerationConfig that aren't taken as they are."""
PICTURES = {
    "image": "The picture it was drawn over isn't known here; choose it anew.",
    "mask": "The mask isn't kept; paint it anew.",
    "controls": "Its ControlNet isn't taken.",
    "image_prompt": "Its image prompt isn't taken.",
}
SOURCES = {"pigment": "Pigment", "a1111": "A1111 or its kin", "comfyui": "ComfyUI"}
HASH_DIGITS = 8  # of a checksum; fewer prove nothing
NOTES = 12  # that are shown


@dataclass(frozen=True)
class Taken:
    """What Mix takes of a picture.

    generation: fields of a GenerationConfig. mix: the adapters that are in the library. image: what it was
    drawn over, "image/ID" or "picture/SHA256"; "" for nothing. notes: what couldn't be taken, a line each.
    """

    generation: dict[str, Any]
    mix: tuple[MixPart, ...]
    image: str
    notes: tuple[str, ...]

    def wish(self) -> dict[str, Any]:
        """What `Page.wish` is set to."""
        return {
            "at": time.time(),
            "generation": self.generation,
            "adapters": [part.model_dump(mode="json") for part in self.mix],
            "image": self.image,  # empty takes away what Mix draws over
        }


def taken(
    workspace: Workspace, restored: Restored, *, base: str = "", request: Mapping[str, Any] | None = None
) -> Taken:
    """What Mix takes of what a picture says.

    Args:
        base: what the studio draws with, to say where the picture's is another.
        request: what the picture's job was asked for, which knows what it was drawn over.
    """
    image = str((request or {}).get("image") or "")
    notes = [
        line for name, line in PICTURES.items()
        if restored.fields.get(name) and not (name == "image" and image)
    ]  # fmt: skip
    named = restored.base.name or ""
    if named and base and named.casefold() != base.casefold():
        notes.append(f"It was drawn with the base “{named[:80]}”; here it is drawn with “{base[:80]}”.")
    mix: list[MixPart] = []
    for name, sha256, part in _adapters(restored):
        adapter_id = _find(workspace, name, sha256)
        if adapter_id is None:
            notes.append(f"The adapter “{name[:80]}” isn't in the library; import it and restore again.")
        elif adapter_id not in (other.id for other in mix):
            mix.append(part.model_copy(update={"id": adapter_id}))
    notes += [f"Not taken: {key} {value[:80]}".rstrip() for key, value in restored.left_over.items()]
    if len(notes) > NOTES:
        notes = [*notes[: NOTES - 1], f"… and {len(notes) - NOTES + 1} more that have no place here."]
    generation = {name: _plain(value) for name, value in restored.fields.items() if name not in APART}
    return Taken(generation, tuple(mix), image, tuple(notes))


def taken_again(
    workspace: Workspace, drawn: Drawn, *, base: str = "", request: Mapping[str, Any] | None = None
) -> Taken:
    """What Mix takes of a picture in the gallery (see `taken`). Raises: PictureError: its file is gone."""
    return taken(workspace, settings_of(drawn.path), base=base, request=request)


def _adapters(restored: Restored) -> Iterator[tuple[str, str, MixPart]]:
    """(name, checksum or its first digits or "", weights; the id is yet to be found) of each adapter."""
    exact = restored.fields.get("adapters")
    if exact:
        for use in exact:
            yield use.name, use.sha256, MixPart(
                id="-", weight=use.weight, text=use.text_weight, blocks=_finite(use.blocks),
                begin=use.begin, end=use.end,
            )  # fmt: skip
        return
    for hint in restored.adapters:
        text = None if hint.text_weight is None else _bounded(hint.text_weight)
        yield hint.name, hint.hash or "", MixPart(id="-", weight=_bounded(hint.weight), text=text)


def _finite(blocks: Mapping[str, float]) -> dict[str, float]:
    """What a mix takes of factors that a file may hold, which says what it likes."""
    return {name: value for name, value in [*blocks.items()][:MAX_BLOCKS] if math.isfinite(value)}


def _bounded(weight: float) -> float:
    return min(3.0, max(-2.0, weight))


def _find(workspace: Workspace, name: str, sha256: str) -> str | None:
    """The id of the library's adapter of that checksum, else of that name in any case, else None."""
    if len(sha256) >= HASH_DIGITS and sha256.isalnum():
        with workspace.read() as db:
            row = db.execute(
                "SELECT id FROM adapters WHERE trashed IS NULL AND sha256 LIKE ?", (f"{sha256.lower()}%",)
            ).fetchone()
        if row is not None:
            return str(row["id"])
    entry = Library(workspace).find(name)
    return None if entry is None else entry.id


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
