"""SIGKILL, anywhere: whatever was told as done is there and whole, and the rest can be done again."""

from __future__ import annotations

from tests.faults import kills_trainings
from tests.faults.killing import unfit
from tests.faults.suites import Check, Suite

SUITE = Suite(
    title="SIGKILL at random moments and at every call that makes something last",
    checks={
        "trainings": Check(
            title="trainings of every method and optimizer, half of the kills while they save",
            run=kills_trainings.random_kills, unit="kills", full=200, short=2,
            plants=kills_trainings.PLANTS, planted=6, needs=unfit,
        ),
        "every_call": Check(
            title="a training at its every fsync, rename and unlink",
            run=kills_trainings.every_call, unit="kills", full=400, short=2,
            plants=kills_trainings.CALL_PLANTS, planted=20, needs=unfit,
        ),
    },
)  # fmt: skip
