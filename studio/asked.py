"""What a window has asked for is done, though it goes before Gradio has begun with it."""

from __future__ import annotations

import asyncio
from typing import Any


def keep_asked(queue: Any) -> None:
    """Let events that wait in Gradio's queue stay there when whoever asked has left.

    Gradio (6.31) takes them out: a button that was pressed just before its window closed, or a call of the
    API whose caller doesn't wait for the answer, would do nothing. queue: of Blocks.
    """

    async def clean_events(*, session_hash: str | None = None, event_id: str | None = None) -> None:
        for batch in queue.active_jobs:
            for event in batch or ():
                if event.session_hash == session_hash or event._id == event_id:
                    event.alive = False  # nobody reads what it says
        messages = queue.pending_messages_per_session
        for waiting in queue.event_queue_per_concurrency_id.values():
            # What they say needs a place, also where the end of a stream has taken it away.
            for event in waiting.queue:
                if event.session_hash == session_hash and session_hash not in messages:
                    messages[session_hash] = asyncio.Queue()

    queue.clean_events = clean_events
