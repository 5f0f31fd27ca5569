"""Gallery: every drawn picture, its settings, and what can be done with it; and any file's settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines.errors import PictureError, WorkspaceError
from studio import markup, restoring, widgets
from studio.context import Context
from studio.gallery import Gallery, settings_of
from studio.tabs import gallery_pieces
from studio.tabs.page import QUIET, Page, toast

MOST = 500  # pictures that one action takes
Outputs = dict[str, Any]
"""Of an action: what it gives to some of "view", "wish", "tabs"."""


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    view = widgets.widget("gallery", {}, elem_id="gallery")
    outputs = {"view": view, "wish": page.wish, "tabs": page.tabs}

    def act(event: gr.EventData) -> list[Any]:
        given = ACTIONS[str(event.act)](context, event)
        return [given.get(name, gr.skip()) for name in outputs]

    view.act(toast(act), None, list(outputs.values()), **QUIET)


def _ids(event: gr.EventData) -> list[str]:
    ids = event.ids
    if not isinstance(ids, list) or len(ids) > MOST:
        raise PictureError(f"too many pictures at once; choose at most {MOST}")
    return [str(one) for one in ids]


def _said(line: str, *, undo: list[str] | None = None) -> Outputs:
    """A line for the view to show, with the pictures that "Undo" brings back."""
    return {"view": {"said": line, "undo": undo or [], "at": time.time()}}


def _count(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} pictures"


def _trash(context: Context, event: gr.EventData) -> Outputs:
    ids = _ids(event)
    moved = Gallery(context.workspace).trash(ids)
    return _said(f"{_count(moved)} moved to the trash.", undo=ids)


def _restore(context: Context, event: gr.EventData) -> Outputs:
    return _said(f"{_count(Gallery(context.workspace).restore(_ids(event)))} brought back.")


def _empty(context: Context, event: gr.EventData) -> Outputs:
    gallery = Gallery(context.workspace)
    removed, freed = gallery.empty_trash()
    kept = gallery.search(trashed=True, size=1).total
    rest = f" {_count(kept)} stay: covers of adapters." if kept else ""
    return _said(f"{_count(removed)} removed for good, {markup.size(freed)} free again.{rest}")


def _to_mix(wish: dict[str, Any]) -> Outputs:
    return {"wish": wish, "tabs": gr.Tabs(selected="mix")}


def _noted(found: restoring.Taken) -> Outputs:
    for note in found.notes:
        gr.Info(markup.text(note), duration=10)
    return _to_mix(found.wish())


def _mix(context: Context, event: gr.EventData) -> Outputs:
    drawn = Gallery(context.workspace).get(str(event.id))
    request = None
    if drawn.job:
        try:
            request = context.jobs.get(drawn.job).config
        except WorkspaceError:  # its job was removed
            request = None
    return _noted(restoring.taken_again(context.workspace, drawn, base=context.base, request=request))


def _over(context: Context, event: gr.EventData) -> Outputs:
    drawn = Gallery(context.workspace).get(str(event.id))
    return _to_mix({"at": time.time(), "image": f"image/{drawn.id}"})


def _cover(context: Context, event: gr.EventData) -> Outputs:
    drawn = Gallery(context.workspace).get(str(event.id))
    entry = context.library.get(str(event.adapter))
    context.library.set_cover(entry.id, f"image/{drawn.id}")
    return _said(f"It is the cover of {entry.name} now.")


def _uploaded(context: Context, event: gr.EventData) -> Path:
    """The file that was dropped. The browser names it, so it must be one that was uploaded."""
    path = context.workspace.uploaded(event.path)
    if path is None:
        raise PictureError("that file isn't here any more; drop it again")
    return path


def _read(context: Context, event: gr.EventData) -> Outputs:
    name = str(event.name)[:120]
    try:
        restored = settings_of(_uploaded(context, event))
    except PictureError as error:
        return {"view": {"file": "", "error": str(error), "at": time.time()}}
    found = restoring.taken(context.workspace, restored, base=context.base)
    html = gallery_pieces.dropped(name, restored, found)
    return {"view": {"file": html, "error": "", "at": time.time()}}


def _mix_file(context: Context, event: gr.EventData) -> Outputs:
    restored = settings_of(_uploaded(context, event))
    return _to_mix(restoring.taken(context.workspace, restored, base=context.base).wish())


ACTIONS: dict[str, Callable[[Context, gr.EventData], Outputs]] = {
    "trash": _trash,
    "restore": _restore,
    "empty": _empty,
    "mix": _mix,
    "over": _over,
    "cover": _cover,
    "read": _read,
    "mix-file": _mix_file,
}
"""What the view asks for (`studio/js/gallery.js`)."""
