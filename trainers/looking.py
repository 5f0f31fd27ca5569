"""Looks at a run from outside: losses on fixed samples, candidates to choose from, and previews."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.base import Base
from pipelines.errors import BaseError
from pipelines.exhausted import first_line, out_of_memory
from pipelines.files import make_folder
from trainers.averages import Averages
from trainers.bundle import Told
from trainers.conditions import PromptEncoder
from trainers.config import TrainConfig
from trainers.events import TrainEvent
from trainers.evidence.candidates import Kept
from trainers.evidence.held_out import measure_sets
from trainers.evidence.record import Measured, Seen
from trainers.preparing import Prepared
from trainers.previews import draw_previews
from trainers.processes import Processes
from trainers.results import Result
from trainers.run_folder import ADAPTER_NAME
from trainers.stepping.readings import Reading
from trainers.tuning import Injection


@dataclass(frozen=True, eq=False)
class Looks:
    """Measures and draws where a step asks for it, with what would be kept: the averages, if there are.

    Before the first step it is the base itself: a fresh adapter changes nothing, but a fresh word does. told:
    of the run.    kept: what was found so far. result: writes adapters.
    """

    told: Told
    prepared: Prepared
    injection: Injection
    averages: Averages
    encode: PromptEncoder
    kept: Kept
    result: Result
    _of_base: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    @classmethod
    def at(
        cls,
        told: Told,
        prepared: Prepared,
        injection: Injection,
        averages: Averages,
        encode: PromptEncoder,
        rates: Sequence[float],
    ) -> Looks:
        """Look at a run. rates: the learning rates that the config came to."""
        kept = Kept(told.config.run.output, told.config.evidence)
        result = Result(injection, told.config, told.dataset, told.base_sha256, rates)
        return cls(told, prepared, injection, averages, encode, kept, result)

    @property
    def base(self) -> Base:
        """What is taught."""
        return self.told.base

    @property
    def config(self) -> TrainConfig:
        """As it was asked for."""
        return self.told.config

    def begin(self, step: int) -> Iterator[TrainEvent]:
        """Take up what was found until `step`; yield what is seen there where it wasn't seen yet.

        That is before the first step, and where a run ended between a checkpoint and the look at its step.
        """
        self.kept.read(step)
        run = self.config.run
        measured = not self._measures(step) or step in self.kept.steps
        drawn = not self._due(run.preview_every, step) or step in self.kept.previews
        if not (measured and drawn):
            yield from self.due(step)

    def write(self, step: int) -> dict[str, Any]:
        """Write the adapter of this moment as the run's; return what is said of it."""
        with self.averages.applied():
            return self.result.write(self.config.run.output / ADAPTER_NAME, step)

    def note(self, read: Sequence[Reading]) -> None:
        """Take in steps for the course of the loss."""
        for one in read:
            self.kept.note(one.step, one.loss, one.norm, one.rate)

    def due(self, step: int) -> Iterator[TrainEvent]:
        """Yield what is seen after `step`; a preview that fails is a warning."""
        measure, draw = self._measures(step), self._due(self.config.run.preview_every, step)
        if not self.asks(step):
            return
        events = []
        with ExitStack() as held:
            held.enter_context(self.averages.applied() if step else self.injection.disabled())
            if measure:
                events += self._measured(step)
            if draw:
                events.append(self._draw(step))
        yield from events

    def asks(self, step: int) -> bool:
        """Whether anything is to be seen after `step`."""
        return self._measures(step) or self._due(self.config.run.preview_every, step)

    def ended(self, step: int, processes: Processes) -> bool:
        """Whether the run is to end after `step`, though it has not learned all its steps; all agree."""
        if not self.config.evidence.stop_early or not self._due(self.config.run.evaluate_every, step):
            return False
        ours = torch.tensor([float(processes.main and self.kept.ended())])
        return bool(processes.sum(ours.to(self.base.device)).item())

    def _measures(self, step: int) -> bool:
        return bool(self.prepared.fixed.sets) and self._due(self.config.run.evaluate_every, step)

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.config.run.steps)

    def _measured(self, step: int) -> list[TrainEvent]:
        """As `_measure`; without room for it the run goes on, since what it learns doesn't depend on it."""
        try:
            return self._measure(step)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            message = f"not measured: out of memory ({first_line(error)})"
            return [TrainEvent(kind="warning", step=step, total=self.config.run.steps, message=message)]

    def _measure(self, step: int) -> list[TrainEvent]:
        """Measure the losses, and keep the adapter of this step as a candidate."""
        total = self.config.run.steps
        sets = self.prepared.fixed.due(step // self.config.run.evaluate_every, last=step == total)
        began = time.perf_counter()
        if not self._of_base:
            with self.injection.disabled() if step else nullcontext():  # before the first step it is
                self._of_base.update(self._predicted_by_base())
        if step:
            losses, moved = measure_sets(sets, self.base, self.encode, self._of_base)
        else:
            losses = {name: one.judge(self._of_base[name]) for name, one in sets.items()}
            moved = dict.fromkeys(sets, 0.0)
        measured_at = time.perf_counter()
        if len(losses) < len(sets):
            message = "not measured: what it predicts are no numbers any more"
            return [TrainEvent(kind="warning", step=step, total=total, message=message)]
        measured = Measured(step=step, losses=losses, drift=moved.get("class"), moved=moved)
        if step and self.config.evidence.candidates:
            path = self.kept.candidate(step)
            make_folder(path.parent)
            self.result.write(path, step)
        self.kept.add(step, measured)
        self.kept.prune()
        self.kept.seconds["losses"] += round(measured_at - began, 4)
        self.kept.seconds["candidates"] += round(time.perf_counter() - measured_at, 4)
        chosen = self.kept.choice()
        data = {**measured.model_dump(mode="json"), "chosen": chosen.step if chosen else None}
        said = ", ".join(f"{name} {loss.mean:.4f}" for name, loss in losses.items())
        events = [TrainEvent(kind="measured", step=step, total=total, message=f"loss {said}", data=data)]
        if (held_out := losses.get("held_out")) is not None:
            message = f"held-out loss {held_out.mean:.4f}"
            shown = {"loss": held_out.mean}
            events.insert(0, TrainEvent(kind="held_out", step=step, total=total, message=message, data=shown))
        return events

    def _predicted_by_base(self) -> dict[str, list[torch.Tensor]]:
        """What the base itself predicts, by set. Raises: BaseError where that is no number."""
        found = {
            name: one.predictions(self.base, self.encode) for name, one in self.prepared.fixed.sets.items()
        }
        if not all(bool(part.isfinite().all()) for parts in found.values() for part in parts):
            raise BaseError(
                f"base {self.base.ref!r} predicts no numbers (NaN) in {str(self.base.dtype)[6:]}: it is "
                "damaged, or too large for that; fetch it again, or set run.precision to 'bf16' or 'fp32'"
            )
        return found

    def _draw(self, step: int) -> TrainEvent:
        run = self.config.run
        try:
            data = draw_previews(self.base, self.config, run.output, step)
        except Exception as error:  # Nothing that goes wrong with a picture may end the run.
            message = f"preview failed ({type(error).__name__}: {first_line(error, 300)})"
            return TrainEvent(kind="warning", step=step, total=run.steps, message=message)
        files, prompts, seeds = (tuple(data[name]) for name in ("files", "prompts", "seeds"))
        self.kept.add(step, preview=Seen(step=step, files=files, prompts=prompts, seeds=seeds))
        message = f"preview of {len(data['files'])} pictures"
        return TrainEvent(kind="preview", step=step, total=run.steps, message=message, data=data)
