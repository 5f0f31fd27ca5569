"""JSON that a stranger wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse_json(raw: bytes | str, object_of: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Return what JSON of a stranger says, as other readers take it: UTF-8, and texts that can be written.

    Python's own reader also takes UTF-16, and halves of a sign (`"\\ud800"`), which no file, terminal or
    database takes afterwards. object_of: makes an object of its pairs.

    Raises: ValueError for anything else, what is nested too deep included.
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8")
    try:
        found = json.loads(text, object_pairs_hook=None if object_of is dict else object_of)
        if "\\u" in text or not text.isascii():
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return found
