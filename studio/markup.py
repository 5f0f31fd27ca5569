"""Pieces of HTML for the page. Every text that comes from outside goes through `text`."""

from __future__ import annotations

import html
from urllib.parse import quote

# Gradio renders HTML values through Handlebars and JavaScript templates; so its marks are escaped as well.
_TEMPLATE_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "{}$`\\"}


def text(value: object) -> str:
    """`value` as text inside HTML, also inside a quoted attribute."""
    return html.escape(str(value), quote=True).translate(_TEMPLATE_MARKS)


def url(kind: str, *parts: str) -> str:
    """The address of a file served by `studio.routes.files`, relative to the page's."""
    return "files/" + "/".join(quote(part, safe="") for part in (kind, *parts))


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in words: "480 KB", "1.2 MB", "2.1 GB"."""
    if count < 1e6:
        return f"{max(1, round(count / 1000))} KB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def button(label: str, act: str, key: str, *, style: str = "", title: str = "") -> str:
    """A button that sends `{act, id}` to the `click` listener of the HTML component it is in (see CLICKS)."""
    hint = f' title="{text(title)}" aria-label="{text(title)}"' if title else ""
    sent = f'data-act="{text(act)}" data-id="{text(key)}"'
    return f'<button type="button" class="pg-btn {style}" {sent}{hint}>{text(label)}</button>'


CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button && element.contains(button)) trigger('click', {act: button.dataset.act, id: button.dataset.id});
});
"""


def download(label: str, address: str, file_name: str, *, style: str = "") -> str:
    """A link that downloads `address` under `file_name`."""
    return f'<a class="pg-btn {style}" href="{text(address)}" download="{text(file_name)}">{text(label)}</a>'


def empty(title: str, hint: str) -> str:
    """What stands where there is nothing yet."""
    dots = '<div class="pg-dots" aria-hidden="true"><i></i><i></i><i></i></div>'
    return f'<div class="pg-empty">{dots}<b>{text(title)}</b><p>{text(hint)}</p></div>'


def progress(fraction: float | None, label: str) -> str:
    """A progress bar; `fraction` in [0, 1], None while unknown."""
    if fraction is None:
        return f'<div class="pg-bar unknown" role="progressbar" aria-label="{text(label)}"><i></i></div>'
    percent = 100 * min(1.0, max(0.0, fraction))
    return (
        f'<div class="pg-bar" role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{text(label)}"><i style="width:{percent:.1f}%"></i></div>'
    )
