"""Adapters of the library read whole, as long as their files are the ones that were taken in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.errors import AdapterError

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from studio.entries import Entry
    from studio.library import Library


def read_whole(library: Library, entry: Entry, *, family: str | None = None) -> Adapter:
    """Read the adapter of an entry.

    Args:
        family: as in `read_adapter`.
    Raises:
        AdapterError: it can't be read, or a bit of it isn't as it was when it was taken in: a disk that wears
            out changes numbers without a word, and every picture with them.
    """
    from pipelines.formats import read_adapter
    from studio.amending import check

    try:
        adapter = read_adapter(entry.path, family=family)
        if adapter.sha256 != entry.sha256:
            check(entry)
        return adapter
    except AdapterError as error:
        said = error
    now = library.get(entry.id)
    if (now.path, now.sha256) != (entry.path, entry.sha256):  # it was edited meanwhile
        return read_whole(library, now, family=family)
    raise said


def sound_entry(library: Library, adapter_id: str) -> Entry:
    """The entry of an adapter whose file goes on as it is: sent to somebody, or written anew.

    Raises:
        AdapterError: there is none, its file is gone, or it isn't the one that was taken in.
    """
    from studio.amending import check

    entry = library.get(adapter_id)
    try:
        check(entry)
    except AdapterError:
        now = library.get(adapter_id)
        if (now.path, now.sha256) != (entry.path, entry.sha256):  # it was edited meanwhile
            return sound_entry(library, adapter_id)
        raise
    return entry
