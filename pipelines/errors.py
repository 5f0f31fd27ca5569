"""The one tree of errors that people read.

Every message is one line: what was got, what was expected, what to do. A command prints it and
ends with `exit_code`; the page shows it; tracebacks go to the log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StudioError(Exception):
    """Something a person can mend; the message is the one line that says how."""

    exit_code = 2


class ConfigError(StudioError):
    """A setting is unknown, missing or out of its bounds."""


class BaseError(StudioError):
    """A base model is missing, broken, or of a kind that isn't supported."""


class AdapterError(StudioError):
    """An adapter file or object is damaged, hostile, or doesn't fit the base."""


class PictureError(StudioError):
    """A picture can't be read, or doesn't hold what was asked of it."""


class WorkspaceError(StudioError):
    """The workspace folder or its index can't be used."""


class NotFinite(StudioError):
    """Numbers of a training stopped being numbers.

    comes_again: whether the same comes of going on as it was.
    """

    def __init__(self, message: str, *, comes_again: bool = False) -> None:
        super().__init__(message)
        self.comes_again = comes_again


class Busy(StudioError):
    """Something else holds what was asked for (device, workspace, port)."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message for an unknown `name`: the nearest of `names`, or all of them.

    The answer starts with "; " and holds at most eight names, so that the message stays one line.
    """
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not known:
        return "; there are none yet"
    shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return f"; choose one of {shown}"
