"""SIGKILL, anywhere: whatever was told as done is there and whole, and the rest can be done again."""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import kills_index, kills_trainings
from tests.faults import kills_plants as plants
from tests.faults import kills_studio as studio
from tests.faults.ground import ground
from tests.faults.killing import unfit
from tests.faults.kills_ways import check_of
from tests.faults.suites import Check, Suite


def figure(figures: Mapping[str, Mapping[str, float]]) -> str:
    """How many calls of a run there are, at each of which it was killed."""
    calls = figures.get("every_call", {}).get("calls", 0)
    return f"a run's {calls:.0f} durable calls, each killed at" if calls else ""


SUITE = Suite(
    title="SIGKILL at random moments and at every call that makes something last",
    figure=figure,
    checks={
        "trainings": Check(
            title="trainings of every method and optimizer, half of the kills while they save",
            run=kills_trainings.random_kills, unit="kills", full=200, short=2,
            plants=plants.PLANTS, planted=4, needs=unfit,
        ),
        "every_call": Check(
            title="a training at its every fsync, rename and unlink",
            run=kills_trainings.every_call, unit="kills", full=200, short=0,
            plants=plants.CALL_PLANTS, planted=20, needs=unfit,
        ),
        "worker": Check(
            title="a training on the embedded base, through the studio's worker",
            run=check_of(pocket=studio.teach(lambda: "pocket")), unit="kills", full=30, short=0,
            plants={"nobody recovers": plants.WORK_PLANTS["nobody recovers"]}, planted=3, needs=unfit,
        ),
        "tiny_worker": Check(
            title="a training on a tiny base, through the studio's worker into the library",
            run=check_of(worker=studio.teach(lambda: str(ground() / "base"))), unit="kills", full=80, short=0,
            plants=plants.WORK_PLANTS, planted=20, needs=unfit,
        ),
        "class_pictures": Check(
            title="class pictures", run=check_of(drawing=studio.CLASS_PICTURES), unit="kills", full=40,
            short=0, plants=plants.GROUP_PLANTS, planted=12, needs=unfit,
        ),
        "library": Check(
            title="adapters dropped on the library, and what people do with them there",
            run=check_of(shelf=studio.SHELF, imports=studio.IMPORT), unit="kills", full=200, short=0,
            plants=plants.LIBRARY_PLANTS, planted=40, needs=unfit,
        ),
        "exports": Check(
            title="exports in three forms", run=check_of(exports=studio.EXPORT), unit="kills", full=100,
            short=0, plants=plants.WORK_PLANTS, planted=12, needs=unfit,
        ),
        "drops": Check(
            title="pictures, captions, masks and a zip dropped on a set",
            run=check_of(drops=studio.DROP), unit="kills", full=100, short=3,
            plants=plants.DROP_PLANTS, planted=12, needs=unfit,
        ),
        "decoder": Check(
            title="the same, with the process that decodes", run=check_of(drops=studio.DROP_APART),
            unit="kills", full=12, short=0, plants={"nobody sweeps": plants.DROP_PLANTS["nobody sweeps"]},
            planted=8, needs=unfit,
        ),
        "index": Check(
            title="the queue in its index, at each statement and in the midst of commits",
            run=kills_index.queue, unit="kills", full=200, short=0, plants=kills_index.QUEUE_PLANTS,
            planted=24, needs=unfit,
        ),
        "schema": Check(
            title="an index of each older version, while it is brought up to date",
            run=kills_index.schema, unit="kills", full=100, short=6, plants=kills_index.SCHEMA_PLANTS,
            planted=9, needs=unfit,
        ),
    },
)  # fmt: skip
