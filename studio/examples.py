"""The example sets that come with Pigment: pictures to teach with, and the adapters made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "examples"


@dataclass(frozen=True, kw_only=True)
class ExampleSet:
    """One set: everything the Teach tab asks for.

    Attributes:
        kind: "subject" or "style".
        pictures: paths of the pictures to teach with, all existing.
        captions: text by picture file name; may be empty.
        adapter: the adapter trained from the set; None when it isn't there.
    """

    id: str
    title: str
    kind: str
    trigger: str
    class_name: str
    instance_prompt: str
    class_prompt: str
    pictures: tuple[Path, ...]
    captions: dict[str, str]
    adapter: Path | None


def _example_set(folder: Path, entry: dict[str, Any]) -> ExampleSet:
    adapter = folder / entry["adapter"] if entry.get("adapter") else None
    pictures = tuple(folder / entry["id"] / name for name in entry["pictures"])
    return ExampleSet(
        id=entry["id"],
        title=entry["title"],
        kind=entry["kind"],
        trigger=entry["trigger"],
        class_name=entry.get("class_name", ""),
        instance_prompt=entry["instance_prompt"],
        class_prompt=entry.get("class_prompt", ""),
        pictures=tuple(path for path in pictures if path.is_file()),
        captions=dict(entry.get("captions", {})),
        adapter=adapter if adapter is not None and adapter.is_file() else None,
    )


def example_sets(folder: Path = EXAMPLES) -> list[ExampleSet]:
    """The sets named in `examples.json` that have pictures; an empty list when there is no such file."""
    index = folder / "examples.json"
    if not index.is_file():
        return []
    entries = json.loads(index.read_text(encoding="utf-8"))["sets"]
    return [found for entry in entries if (found := _example_set(folder, entry)).pictures]
