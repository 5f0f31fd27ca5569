"""How fast the live preview follows: a move at a time, and a slider that is dragged without a rest."""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pipelines.errors import StudioError
from studio.bench.served import Served, served
from studio.library import Library
from studio.workspace import Workspace

PROMPT = "a photo of a zib creature"
MOVES_PER_SECOND = 20
WARMING = 120.0  # seconds


def wish(studio: Served, adapters: list[str], weight: float) -> int:
    """Ask for the picture at a weight and wait for it; returns the answer's status.

    Raises:
        StudioError: it was refused.
    """
    mix = [{"id": adapter, "weight": weight} for adapter in adapters]
    asked = {"client": "bench", "request": {"generation": {"prompt": PROMPT, "seed": 7}, "mix": mix}}
    request = Request(
        f"{studio.address}/live",
        data=json.dumps(asked).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urlopen(request, timeout=WARMING) as answer:
            content, status = answer.read(), int(answer.status)
    except HTTPError as error:
        raise StudioError(f"a wish was answered with {error.code}: {error.read().decode()[:200]}") from None
    if status not in (200, 204):
        raise StudioError(f"a wish was refused: {content.decode()[:200]}")
    return status


def measure(moves: int, drag_seconds: float) -> dict[str, Any]:
    """Move the sliders of the two example adapters.

    Returns: `preview_ms_p50`, `preview_ms_p95` from a move to its picture, all moves after a rest;
    of a drag with 20 moves a second: pictures shown a second, the longest time without a new one, and
    `drag_last_ms` from the last move, which overtakes a drawing, to its picture: a backlog would raise it.
    """
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as studio:
        entries = Library(Workspace.open(studio.workspace, own=False)).entries()
        adapters = [entry.id for entry in entries][:2]
        begun = time.perf_counter()
        wish(studio, adapters, 0.0)
        first = time.perf_counter() - begun
        wish(studio, adapters, 0.5)
        taken = []
        for number in range(moves):
            begun = time.perf_counter()
            if wish(studio, adapters, round(-1 + 3 * number / moves, 3)) != 200:
                raise StudioError("a single wish was overtaken; nothing else should have asked")
            taken.append(time.perf_counter() - begun)
        drag = _drag(studio, adapters, drag_seconds)
    return {
        "first_preview_s": first,
        "preview_ms_p50": 1000 * statistics.median(taken),
        "preview_ms_p95": 1000 * statistics.quantiles(taken, n=20)[-1],
        **drag,
    }


def _drag(studio: Served, adapters: list[str], seconds: float) -> dict[str, float]:
    """Drag without a rest as the page does: a wish at a time, each for where the slider is by then.

    What is asked for last overtakes whatever is being drawn.
    """
    end, shown, gaps = time.perf_counter() + seconds, 0, []
    number, last = 0, time.perf_counter()
    while (now := time.perf_counter()) < end:
        number = int((now - end + seconds) * MOVES_PER_SECOND)
        if wish(studio, adapters, number % 40 / 20) == 200:
            shown += 1
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()
    under_way = threading.Thread(target=wish, args=(studio, adapters, 0.31))
    under_way.start()
    time.sleep(0.1)
    begun = time.perf_counter()
    wish(studio, adapters, 0.77)
    taken = time.perf_counter() - begun
    under_way.join()
    return {
        "drag_moves": number,
        "drag_pictures_per_s": shown / seconds,
        "drag_longest_gap_ms": 1000 * max(gaps),
        "drag_last_ms": 1000 * taken,
    }
