"""What a step came to, read from the device now and then, so that it isn't waited for at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainers.settings import RunConfig

STEPS_AT_MOST = 20
"""Steps between two readings of a card, at most."""

SECONDS_AT_MOST = 1.0
"""Seconds after which the next step is read whatever its number, so that people see slow runs go on."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One step as numbers. losses: by name, what was minimised as "loss". norm: of the gradients.

    rate: the learning rate. seconds: of the step, or of those read together their mean.
    """

    step: int
    losses: dict[str, float]
    norm: float
    rate: float
    seconds: float

    @property
    def loss(self) -> float:
        """What was minimised."""
        return self.losses["loss"]

    @property
    def finite(self) -> bool:
        """Whether losses and norm are numbers."""
        return all(math.isfinite(value) for value in (*self.losses.values(), self.norm))


class Readings:
    """Steps whose numbers still lie on the device."""

    def __init__(self, names: Sequence[str], run: RunConfig, *, waits: bool) -> None:
        """names: of the losses. waits: whether each step is to be read at once."""
        self._names, self._waits, self._last = tuple(names), waits, run.steps
        self._looks = (STEPS_AT_MOST, run.checkpoint_every, run.evaluate_every, run.preview_every)
        self._waiting: list[tuple[int, torch.Tensor, float]] = []
        self._since, self._first = time.monotonic(), True

    def add(self, step: int, losses: torch.Tensor, norm: torch.Tensor, rate: float) -> None:
        """Take in a step. losses: (names,). norm: a scalar; both are copied, and nothing waits for them."""
        last = norm.detach().reshape(1).to(losses.device).double()
        self._waiting.append((step, torch.cat([losses.detach().double(), last]), rate))

    def due(self, step: int) -> list[Reading]:
        """Return what there is to tell of the steps up to this one; nothing while it can wait.

        It can't at the first step, where something looks at the run, at the end, or after a second. Steps
        behind one that isn't finite are left out.
        """
        looked_at = step == self._last or any(every and step % every == 0 for every in self._looks)
        late = time.monotonic() - self._since >= SECONDS_AT_MOST
        return self._read() if self._waits or self._first or looked_at or late else []

    def _read(self) -> list[Reading]:
        rows = torch.stack([numbers for _, numbers, _ in self._waiting]).tolist()
        now = time.monotonic()
        seconds = (now - self._since) / len(rows)
        found = []
        for (step, _, rate), (*losses, norm) in zip(self._waiting, rows, strict=True):
            named = dict(zip(self._names, losses, strict=True))
            found.append(Reading(step=step, losses=named, norm=norm, rate=rate, seconds=seconds))
            if not found[-1].finite:
                break
        self._waiting, self._first, self._since = [], False, now
        return found

    def restart(self) -> None:
        """Count seconds from now on, if nothing waits: what came in between wasn't a step."""
        if not self._waiting:
            self._since = time.monotonic()
