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
