"""Pieces of the page with a script of their own (`studio/js`): a value both ways, and events.

A script gets `element`, `props`, `trigger`, `watch`, `upload` and `server` from Gradio (see `gr.HTML`). Texts
reach the page by `textContent` there; the HTML of a part comes escaped from `studio.markup`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

FOLDER = Path(__file__).parent / "js"


def script(name: str) -> str:
    """The text of a script, after what all scripts share."""
    shared, own = ((FOLDER / f"{file}.js").read_text(encoding="utf-8") for file in ("shared", name))
    return f"{shared}\n{own}"


def widget(name: str, value: Any = None, *, elem_id: str, **props: Any) -> gr.HTML:
    """A component drawn by `js/<name>.js`. value: JSON values, as handlers get and give them."""
    return gr.HTML(
        value=value, html_template='<div class="pg-widget"></div>', js_on_load=script(name), elem_id=elem_id,
        **props,
    )  # fmt: skip


def part(name: str, key: str = "", *, elem_id: str, **props: Any) -> gr.HTML:
    """A part of `studio.parts`, which shows itself anew whenever something about it changes.

    Its `click` event carries the `data-*` of the button that was pressed: `event.act`, `event.id` … Give it
    another `value={"part": name, "key": key}` to show something else.
    """
    return widget("part", {"part": name, "key": key}, elem_id=elem_id, **props)
