"""Pigment's own settings as JSON in a picture."""

from __future__ import annotations

import json
from typing import Any

from pipelines.errors import PictureError
from pipelines.prompts.literal import literal

PIGMENT_CHUNK = "pigment"
A1111_CHUNK = "parameters"
VERSIONS = (1, 2)
"""Of the settings, that are read; the last is written."""


def checked_settings(text: str, name: str) -> dict[str, Any]:
    """Read Pigment's settings from a picture's text. name: the file's, for the errors.

    Prompts of version 1 were drawn as they stood: they are returned in the words that mean that now. What
    was longer than the encoder was cut then, and isn't any more.

    Raises: PictureError for text that isn't such settings, or of a version that isn't known.
    """
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("generation"), dict):
        raise PictureError(f"{name!r} holds Pigment settings that aren't readable")
    version = settings.get("version", 1)
    if version not in VERSIONS:
        raise PictureError(
            f"{name!r} holds Pigment settings of version {str(version)[:20]}, expected at most "
            f"{VERSIONS[-1]}; open it with a newer Pigment"
        )
    if version == 1:
        generation = settings["generation"]
        texts = {key: generation.get(key) for key in ("prompt", "negative_prompt")}
        told = {key: literal(text) for key, text in texts.items() if isinstance(text, str)}
        settings["generation"] = {**generation, **told}
    return settings
