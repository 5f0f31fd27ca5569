"""A full memory or a lost device in the process that draws: one line, and the next picture is as ever."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from tests.faults.memory_places import DRAWING, ERRORS, LOST, Place, put, wrong_words
from tests.faults.not_finite_drawing import Desk, desk_in, drawn_pixels
from tests.faults.suites import Tally, Task


def _job(fields: dict[str, Any]) -> Callable[[Desk, Place, str], str | None]:
    def draw(desk: Desk, place: Place, error: str) -> str | None:
        before = desk.pictures()
        job = desk.job(**fields)
        if job.state != "failed":
            return f"the job is {job.state}"
        sound = len(job.result.get("plain", ()))  # pictures finished before
        if len(desk.pictures()) > len(before) + sound:
            return "a picture was kept"
        return wrong_words(job.error, place, error)

    return draw


def _live(fields: dict[str, Any]) -> Callable[[Desk, Place, str], str | None]:
    def draw(desk: Desk, place: Place, error: str) -> str | None:
        from studio.maker import in_one_line

        answer = desk.live(**fields)
        if isinstance(answer, dict):
            return "a picture was shown"
        return wrong_words(in_one_line(answer), place, error)

    return draw


WAYS: dict[str, Callable[[Desk, Place, str], str | None]] = {
    "a picture": _job({}),
    "a live preview": _live({}),
    "a grid": _job({"axes": ["steps=1,2"]}),
    "a comparison": _job({"compare": True}),
    "an exact preview": _live({"exact": True}),
}


def run(task: Task, tally: Tally) -> None:
    """Every way of drawing, in every place, with every error, in an order by which the first ones differ."""
    cases = list(product(WAYS, DRAWING, ERRORS))
    with desk_in(task.folder / "desk") as desk:
        expected, number = drawn_pixels(desk), 0
        while tally.tried < task.count and tally.missed <= 2 * task.count:
            way, name, error = cases[number * 23 % len(cases)]  # 23 has no factor in common with their number
            number += 1
            desk.maker.lost.clear()
            with put(DRAWING[name], error) as failing:
                problem = WAYS[way](desk, DRAWING[name], error)
            if not failing.happened:
                tally.didnt_happen()
                continue
            problem = problem or _after(desk, way, error, expected)
            tally.happened(f"{error} in {name} while {way} is drawn", problem)


def _after(desk: Desk, way: str, error: str, expected: bytes) -> str | None:
    """What is wrong afterwards; None: the device is free, and the next picture is the same as ever."""
    if "preview" not in way and desk.maker.lost.is_set() != (error == LOST):  # else its answer tells it
        return f"the process {'stays on a lost' if error == LOST else 'gives up a good'} device"
    if not desk.maker.held.device.take("test"):
        return "the device is still held"
    desk.maker.held.device.give()
    return None if drawn_pixels(desk) == expected else "the next picture is another one than before"
