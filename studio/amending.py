"""What an adapter's file says about itself, read whole and changed in place; its tensors stay as they are."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipelines.errors import AdapterError
from pipelines.files import file_sha256
from pipelines.formats import edit_metadata, inspect_adapter
from studio.entries import Entry, columns_of
from studio.library import Library
from studio.whole import sound_entry

OFFERED: dict[str, tuple[str, str]] = {
    "triggers": ("Trigger words", "with commas between; other tools show them too"),
    "description": ("Description", ""),
    "notes": ("How to use it", "such as a weight or a prompt that works"),
    "author": ("Author", ""),
    "license": ("Licence", ""),
}
"""Fields of `pipelines.formats.editing` that the page offers: label and hint."""


def stated(entry: Entry) -> dict[str, Any]:
    """What the file's header says, in full: `inspect_adapter`'s answer.

    Raises:
        AdapterError: the file can't be read any more.
    """
    return inspect_adapter(entry.path, family=entry.family or None)


def offered(info: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the fields in OFFERED, empty where the file says nothing."""
    keys = {"notes": "modelspec.usage_hint"}
    metadata = info.get("metadata") or {}
    texts = {name: str(metadata.get(keys.get(name, f"modelspec.{name}"), "")) for name in OFFERED}
    return {**texts, "triggers": ", ".join(map(str, info.get("triggers") or ()))}


def amend(library: Library, adapter_id: str, changes: Mapping[str, str | None]) -> Entry:
    """Change what an adapter's file says about itself.

    One that comes with Pigment is copied into the workspace. Pictures drawn before name the file by its older
    SHA-256, which is remembered.

    Args:
        changes: as `edit_metadata` takes them; a text that is the same is no change.
    Raises:
        AdapterError: an unknown field, or a file that can't be changed or has changed by itself (a new hash
            would hide it); it is as it was then.
    """
    if not changes:
        return library.get(adapter_id)
    entry = sound_entry(library, adapter_id)
    # A file of its own, which the index turns to: whenever this process is killed, what is listed is whole.
    path = library.workspace.folder("adapters", f"{entry.id}.{secrets.token_hex(4)}.safetensors")
    try:
        sha256 = edit_metadata(entry.path, changes, path)
        info = inspect_adapter(path, family=entry.family or None)
        info["former"] = list(dict.fromkeys([*entry.former, entry.sha256]))[-8:]
        file = f"workspace:adapters/{path.name}"
        library.update(entry.id, sha256=sha256, file=file, **columns_of(info))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if entry.path.parent == path.parent:
        with suppress(OSError):  # open elsewhere, on Windows
            entry.path.unlink(missing_ok=True)
    return library.get(entry.id)


def check(entry: Entry) -> None:
    """Raise AdapterError where an adapter's file is gone, or isn't the one that was taken in."""
    try:
        found = file_sha256(entry.path)
    except OSError as error:
        raise AdapterError(
            f"the file of {entry.name!r} can't be read ({entry.path.name}: {error.strerror}); put it back "
            "from a copy, or import it anew"
        ) from None
    if found != entry.sha256:
        raise AdapterError(
            f"the file of {entry.name!r} has changed since it was taken in ({entry.path.name}); put it back "
            "from a copy, or import it anew"
        )
