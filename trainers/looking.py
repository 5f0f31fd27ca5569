"""Looks at a run from outside: the held-out loss, and previews."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from pipelines.base import Base
from trainers.averages import Averages
from trainers.conditions import PromptEncoder
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.preparing import Prepared
from trainers.previews import draw_previews
from trainers.tuning import Injection


@dataclass(frozen=True, eq=False)
class Looks:
    """Measures and draws where a step asks for it, with what would be kept: the averages, if there are.

    Before the first step it is the base itself: a fresh adapter changes nothing, but a fresh word does.
    """

    base: Base
    config: TrainConfig
    prepared: Prepared
    injection: Injection
    averages: Averages
    encode: PromptEncoder

    def due(self, step: int) -> Iterator[TrainEvent]:
        """Yield what is seen after `step`; a preview that fails is a warning."""
        run = self.config.run
        measure = self.prepared.held_out is not None and self._due(run.evaluate_every, step)
        draw = self._due(run.preview_every, step)
        if not (measure or draw):
            return
        events = []
        with ExitStack() as held:
            held.enter_context(self.averages.applied() if step else self.injection.disabled())
            if measure:
                events.append(self._measure(step))
            if draw:
                events.append(self._draw(step))
        yield from events

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.config.run.steps)

    def _measure(self, step: int) -> TrainEvent:
        assert self.prepared.held_out is not None
        loss = self.prepared.held_out.loss(self.base, self.encode)
        total, message = self.config.run.steps, f"held-out loss {loss:.4f}"
        return TrainEvent(kind="held_out", step=step, total=total, message=message, data={"loss": loss})

    def _draw(self, step: int) -> TrainEvent:
        run = self.config.run
        try:
            data = draw_previews(self.base, self.config, run.output, step)
        except Exception as error:  # Nothing that goes wrong with a picture may end the run.
            message = f"preview failed ({type(error).__name__}: {error})"
            return TrainEvent(kind="warning", step=step, total=run.steps, message=message)
        message = f"preview of {len(data['files'])} pictures"
        return TrainEvent(kind="preview", step=step, total=run.steps, message=message, data=data)
