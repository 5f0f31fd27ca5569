"""How steps are done fast: buffers, recordings, readings. What a step does stands in `trainers.loop`."""

from trainers.stepping.readings import STEPS_AT_MOST, Readings
from trainers.stepping.stepper import Stepper

__all__ = ["STEPS_AT_MOST", "Readings", "Stepper"]
