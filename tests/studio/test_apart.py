"""Gradio's folder of uploads goes with the room that something is done for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from studio import apart
from studio.starting import import_gradio


def test_all_of_gradio_asks_for_the_room() -> None:
    import_gradio()
    apart.keep_apart()
    apart.keep_apart()
    asking = {
        name: vars(module)["get_upload_folder"]
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "gradio" and "get_upload_folder" in vars(module)
    }
    assert {"gradio.utils", "gradio.processing_utils", "gradio.routes", "gradio.blocks"} <= set(asking)
    for name, ask in asking.items():
        with apart.uploads_in(Path("here")):
            assert ask() == "here", name
        assert ask() != "here", name


def test_what_is_begun_for_a_room_stays_with_it() -> None:
    import_gradio()
    apart.keep_apart()
    from gradio.utils import get_upload_folder

    told: dict[str, list[str]] = {"a": [], "b": []}

    async def look(room: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            told[room].append(get_upload_folder())
            told[room].append(await asyncio.to_thread(get_upload_folder))

    async def begin() -> None:
        tasks = []
        for room in told:
            with apart.uploads_in(Path(room)):
                tasks.append(asyncio.create_task(look(room)))
        await asyncio.gather(*tasks)

    asyncio.run(begin())
    assert {room: set(folders) for room, folders in told.items()} == {"a": {"a"}, "b": {"b"}}


def test_nobody_cancels_what_is_done_for_another_room() -> None:
    import_gradio()
    apart.keep_apart()
    from gradio import queueing, routes

    async def cancelled(room: str) -> bool:
        with apart.uploads_in(Path("a")):
            task = asyncio.create_task(asyncio.sleep(0.2))
            queueing.set_task_name(task, "chosen", 3, "an event", False)
        with apart.uploads_in(Path(room)):
            found = await routes.cancel_tasks({"chosen_3"})
        await asyncio.wait([task])
        assert found == (["an event"] if task.cancelled() else [])
        return task.cancelled()

    assert asyncio.run(cancelled("a"))
    assert not asyncio.run(cancelled("b"))
