"""Library: the adapters, searched and paged, one open with all that can be done with it; the bases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from pipelines.errors import StudioError
from studio import importing
from studio.context import Context
from studio.entries import Entry
from studio.markup import text
from studio.tabs import bases, opened_evidence
from studio.tabs.asking import Form
from studio.tabs.library_forms import FORMS as ADAPTER_FORMS
from studio.tabs.library_forms import uploaded
from studio.tabs.page import QUIET, Page, show, toast
from studio.uploads import let_go
from studio.widgets import part, widget

FORMS: dict[str, Form] = {**ADAPTER_FORMS, **bases.FORMS}
"""By the act of the button that opens it."""


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    with gr.Tabs(elem_id="library-tabs", elem_classes=["lib-tabs"]):
        with gr.Tab("Adapters", id="adapters", elem_id="library-adapters"), gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=320):
                shelf = widget("shelf", {"open": ""}, elem_id="adapters")
            with gr.Column(scale=5, min_width=320, elem_classes=["lib-side"]):
                opened = part("adapter", elem_id="adapter-detail")
        with gr.Tab("Bases", id="bases", elem_id="library-bases"):
            listed = part("bases", elem_id="bases")
    dialog = widget("dialog", {}, elem_id="library-dialog")

    shelf.open(toast(_open), None, opened, **QUIET).then(None, js=show("adapter-detail"), **QUIET)
    shelf.dropped(toast(_import(context)), None, None, **QUIET)
    acting = [dialog, shelf, opened, page.wish, page.tabs]
    shelf.several(toast(_several(context)), shelf, acting, **QUIET)
    for component in (shelf, opened, listed):
        component.click(toast(_act(context)), shelf, acting, **QUIET)
    dialog.submit(_submit(context), shelf, [dialog, shelf], **QUIET)


def _tell(line: str) -> None:
    """Say something at the page's corner, where Gradio takes what it gets for HTML."""
    gr.Info(text(line), duration=5)


def _open(event: gr.EventData) -> dict[str, str]:
    """Show an adapter whole."""
    return {"part": "adapter", "key": str(event.id)}


def _asked(context: Context, act: str, ids: Sequence[str]) -> dict[str, Any]:
    """What makes the dialog ask."""
    form = FORMS[act].fields(context, ids)
    return {"form": act, "about": list(ids), "at": time.time(), **form}


def mix_wish(entries: Sequence[Entry]) -> dict[str, Any]:
    """The wish that puts adapters into the mix, each as it was taught, and a first prompt for them."""
    weight = 1.0 if len(entries) == 1 else 0.8
    adapters = [{"id": entry.id, "weight": weight} for entry in entries]
    return {"adapters": adapters, "prompt": call(entries), "at": time.time()}


def call(entries: Sequence[Entry]) -> str:
    """A first prompt for some adapters: that of the first one's lessons, with the others' words."""
    first, *others = entries
    known = str((first.info.get("metadata") or {}).get("instance_prompt") or "")
    word = first.triggers[0] if first.triggers else ""
    prompt = known or (f"a photo of {word}" if word else "")
    more = [entry.triggers[0] for entry in others if entry.triggers]
    return ", ".join([prompt, *(word for word in more if word not in prompt)]).strip(", ")


def _act(context: Context) -> Callable[..., list[Any]]:
    def act(shelf: dict[str, Any], event: gr.EventData) -> list[Any]:
        """A button on a card, on the open adapter, or among the bases."""
        verb, key = str(event.act), str(getattr(event, "id", ""))
        if verb in FORMS:
            return [_asked(context, verb, [key] if key else []), *[gr.skip()] * 4]
        return ACTS[verb](context, key) if verb in ACTS else [gr.skip()] * 5

    return act


def _several(context: Context) -> Callable[..., list[Any]]:
    def several(shelf: dict[str, Any], event: gr.EventData) -> list[Any]:
        """Something to be done with the chosen adapters."""
        verb, ids = str(event.act), [str(one) for one in event.ids][:200]
        if not ids:
            return [gr.skip()] * 5
        if verb == "mix":
            entries = [context.library.get(one) for one in ids[:16]]
            return [gr.skip(), {"unpick": True}, gr.skip(), mix_wish(entries), gr.Tabs(selected="mix")]
        if verb == "trash":
            for one in ids:
                context.library.trash(one)
            _tell(f"{len(ids)} adapters are in the trash; “Trash” above the cards brings them back")
            nothing = {"part": "adapter", "key": ""}
            return [gr.skip(), {"unpick": True, "open": ""}, nothing, gr.skip(), gr.skip()]
        return [_asked(context, verb, ids), *[gr.skip()] * 4]

    return several


def _mix(context: Context, key: str) -> list[Any]:
    wish = mix_wish([context.library.get(key)])
    return [gr.skip(), gr.skip(), gr.skip(), wish, gr.Tabs(selected="mix")]


def _trash(context: Context, key: str) -> list[Any]:
    """Into the trash; the open adapter stays open, with a button that brings it back."""
    entry = context.library.trash(key)
    _tell(f"{entry.name} is in the trash; “Bring it back” undoes that")
    return [gr.skip()] * 5


def _restore(context: Context, key: str) -> list[Any]:
    entry = context.library.restore(key)
    here = {"part": "adapter", "key": entry.id}
    _tell(f"{entry.name} is back")
    return [gr.skip(), {"open": entry.id}, here, gr.skip(), gr.skip()]


def _close(context: Context, key: str) -> list[Any]:
    nothing = {"part": "adapter", "key": ""}
    return [gr.skip(), {"open": ""}, nothing, gr.skip(), gr.skip()]


def _said(line: str) -> list[Any]:
    _tell(line)
    return [gr.skip()] * 5


def _stop(context: Context, key: str) -> list[Any]:
    context.jobs.stop(key)
    return [gr.skip()] * 5


def _dismiss(context: Context, key: str) -> list[Any]:
    context.jobs.remove(key)
    return [gr.skip()] * 5


def _resume(context: Context, key: str) -> list[Any]:
    context.jobs.resume(key)
    context.runner.wake()
    return [gr.skip()] * 5


ACTS: dict[str, Callable[[Context, str], list[Any]]] = {
    "mix": _mix,
    "close": _close,
    "trash": _trash,
    "restore": _restore,
    "stop-job": _stop,
    "dismiss": _dismiss,
    "resume-job": _resume,
    opened_evidence.RESIZE: lambda context, key: _said(opened_evidence.resize_to(context, key)),
    "use-base": lambda context, key: _said(bases.use(context, key)),
    "remove-base": lambda context, key: _said(bases.remove(context, key)),
}
"""What a button does at once, by its act: the values of dialog, shelf, open adapter, wish, tabs."""


def _submit(context: Context) -> Callable[..., list[Any]]:
    def submit(shelf: dict[str, Any], event: gr.EventData) -> list[Any]:
        """What was filled in; a mistake is said in the dialog, which stays."""
        form, ids = FORMS.get(str(event.form)), [str(one) for one in event.about or ()]
        try:
            if form is None:
                raise StudioError(f"unknown form {str(event.form)!r}; load the page again")
            said = form.submit(context, ids, dict(event.values))
        except StudioError as error:
            return [{"error": str(error), "at": time.time()}, gr.skip()]
        _tell(said)
        after = {"unpick": True} if len(ids) > 1 else gr.skip()
        return [{"done": True, "at": time.time()}, after]

    return toast(submit)


def _import(context: Context) -> Callable[..., None]:
    def import_files(event: gr.EventData) -> None:
        """Hand dropped files to a job that reads them whole."""
        files = [(uploaded(context, str(one["path"])), str(one["name"])) for one in event.files]
        importing.start(context, files)
        let_go(context.workspace, (path for path, _ in files))

    return import_files
