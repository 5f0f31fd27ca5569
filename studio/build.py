"""TABS → the page."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.utils import LRUCache

from studio import api
from studio.asked import keep_asked
from studio.context import Context
from studio.tabs import gallery, jobs, library, mix, teach
from studio.tabs.page import Page
from studio.theme import HEADER, css, head, theme
from studio.uploads import keep_no_halves

LOOK = 0.02  # seconds between two looks of Gradio for events
UPLOADS_KEPT = (3600, 86400)  # seconds: how often to look, and the age at which an unused upload goes
SESSIONS = 128
"""Windows and callers that Gradio remembers. Each load of the page and each call of the API is one of 150 KB,
and none is forgotten before there are so many (10,000 where nothing is said: 1.5 GB)."""

TABS = (
    ("teach", "Teach", teach.build),
    ("mix", "Mix", mix.build),
    ("library", "Library", library.build),
    ("gallery", "Gallery", gallery.build),
    ("jobs", "Jobs", jobs.build),
)


def build(context: Context) -> gr.Blocks:
    """The whole page; nothing in it holds state that a reload would lose."""
    keep_no_halves()
    with gr.Blocks(
        title="Pigment", analytics_enabled=False, fill_width=True, delete_cache=UPLOADS_KEPT
    ) as blocks:
        gr.HTML(HEADER, elem_classes=["pg-header"])
        # Outside of the tabs: gr.Tabs counts whatever lies directly in it as a tab.
        wish = gr.State({})
        with gr.Tabs(elem_id="tabs") as tabs:
            page = Page(blocks=blocks, tabs=tabs, wish=wish)
            for tab_id, title, build_tab in TABS:
                with gr.Tab(title, id=tab_id, elem_id=f"tab-{tab_id}"):
                    build_tab(context, page)
        api.add(context)
    # Gradio looks for events a thousand times a second, which keeps a tenth of a core busy at rest.
    blocks._queue.sleep_when_free = LOOK
    blocks.state_session_capacity = SESSIONS
    blocks._queue.pending_messages_per_session = LRUCache(SESSIONS)  # 2000, and each call of the API is one
    blocks._queue.progress_update_sleep_when_free = 5 * LOOK
    keep_asked(blocks._queue)
    return blocks


def look() -> dict[str, Any]:
    """Theme, style and head, for `mount_gradio_app`."""
    return {"theme": theme(), "css": css(), "head": head()}
