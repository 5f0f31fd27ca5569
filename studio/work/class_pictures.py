"""Class pictures: what the base draws by itself for a training's prior, made before they are needed."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

from studio.work import Ended
from studio.work.following import follow, stopped
from studio.work.job import Job
from studio.work.training import config_of
from studio.workspace import Workspace

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.events import TrainEvent


def run(workspace: Workspace, job: Job, stop: threading.Event) -> Ended:
    """Draw the class pictures of a TrainConfig into the cache, where its training finds them.

    Raises:
        StudioError: something a person can mend.
    """
    config, made = config_of(workspace, job), [0, 0]
    if follow(workspace, job, _drawn(config, made), stop):
        return stopped(workspace, job)
    return "done", {"pictures": made[0], "new": made[1]}


def _drawn(config: TrainConfig, made: list[int]) -> Generator[TrainEvent, None, None]:
    """Draw what isn't there. made: becomes [pictures that the training has, groups drawn now]."""
    from pipelines.bases.libraries import load_libraries
    from trainers.events import TrainEvent
    from trainers.prior import cache_folder, draw_class_pictures, plan, read_class_pictures

    planned = plan(config.data)[len(read_class_pictures(config.data)) :]
    if not (planned and config.data.prior_weight):
        return
    load_libraries()
    from pipelines.base import load_base
    from trainers.learning import base_arguments, check_base
    from trainers.memory import explained
    from trainers.preparing import resolution_of
    from trainers.processes import ALONE
    from trainers.room import pausing_when_full

    with explained(config, "draw"), pausing_when_full():
        yield TrainEvent(kind="stage", message="Loading the base", data={"stage": "prepare"})
        base = load_base(config.run.base, **base_arguments(config, ALONE))
        check_base(base)
        drawing = draw_class_pictures(
            base, planned, cache_folder(config.run.cache), resolution_of(base, config)
        )
        while True:
            try:
                yield next(drawing)
            except StopIteration as ended:
                made[0] = len(ended.value)
                return
            made[1] += 1
