"""The pictures of a drawing job: of its settings with and without adapters, or one grid."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio import mixing, processes
from studio.bases import POCKET, Bases
from studio.gallery import Gallery
from studio.jobs import Job, Jobs
from studio.library import Entry, Library
from studio.making.held import Held
from studio.making.sources import Sources
from studio.whole import read_whole

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.denoise import Step
    from pipelines.generation import GenerationConfig, Inputs
    from pipelines.mixer import Mixer
    from pipelines.picture import Picture

POLL = 0.2  # seconds between two looks at the stop flag


class Stopped(Exception):
    """Somebody asked the running job to stop."""


@dataclass
class Drawing:
    """One drawing job. result: what is drawn by now; the pictures' ids under "images" and "plain"."""

    held: Held
    sources: Sources
    jobs: Jobs
    job: Job
    result: dict[str, Any] = field(default_factory=dict)
    _looked: float = 0.0

    def run(self) -> dict[str, Any]:
        """Draw all there is to draw, and return the result.

        Raises:
            Stopped: somebody asked for it; what was finished before is kept.
            StudioError: it can't be drawn.
        """
        request = mixing.request_of(self.job)
        self._take_device()
        try:
            self.jobs.beat(self.job.id, message="Loading the base")
            with self.held.lent(self.job.config["base"]) as (mixer, _):
                self.beat(0, 0)
                draw = self._grid if request.axes else self._pictures
                draw(mixer, request)
        finally:
            self.held.device.give()
        return self.result

    def beat(self, done: int, total: int) -> None:
        """Write the progress, not more often than every `POLL` seconds. Raises: Stopped."""
        now = time.monotonic()
        if now - self._looked > POLL:
            self._looked = now
            memory = processes.peak_memory()
            if self.jobs.beat(self.job.id, step=done, total=total, message="Drawing", memory=memory):
                raise Stopped

    def _take_device(self) -> None:
        while not self.held.device.take(f"job {self.job.id}"):
            if self.jobs.beat(self.job.id, message="Waiting for the device"):
                raise Stopped
            time.sleep(POLL)

    def _pictures(self, mixer: Mixer, request: mixing.Request) -> None:
        """The pictures with the adapters, after the same seeds without them where that was asked for."""
        from pipelines.generate import generate

        entries = self.held.attach(mixer, [part.id for part in request.mix])
        plain, inputs = self.sources.of(request)
        uses = uses_of(request, entries)
        mixed = plain.model_copy(update={"adapters": tuple(uses.values())})
        weights = weights_of(uses, mixer)
        turns: list[tuple[str, Mapping[str, Any], GenerationConfig]] = [("images", weights, mixed)]
        if request.compare and uses:
            turns.insert(0, ("plain", {}, plain))
        for turn, (name, mix, config) in enumerate(turns):
            mixer.set(mix)
            kept = self.result.setdefault(name, [])
            generate(
                mixer.base, config, inputs=inputs, on_step=_Told(self, turn, len(turns)),
                on_picture=lambda picture, kept=kept: kept.append(self._kept(picture)),  # type: ignore[misc]
            )  # fmt: skip

    def _grid(self, mixer: Mixer, request: mixing.Request) -> None:
        """One picture of all combinations of the axes' values."""
        from pipelines.grid_drawing import draw_grid
        from pipelines.stage import Stage

        library = Library(self.held.workspace)
        entries = {part.id: library.get(part.id) for part in request.mix}
        config, inputs = self.sources.of(request)
        config = config.model_copy(update={"adapters": tuple(uses_of(request, entries).values())})
        axes = mixing.axes_of(request, entries)
        mixer.restore()
        adapters = [read_whole(library, entry) for entry in entries.values()]
        with Stage(
            mixer.base, adapters, inputs=inputs or _no_inputs(), load=self._other(mixer.base)
        ) as stage:
            drawn = draw_grid(stage, config, axes, on_step=_Told(self, 0, 1))
        assert drawn is not None  # a stop is an exception here
        self.result["grid"] = self._kept(drawn.picture, "grid")
        self.result["images"] = [self.result["grid"]]

    def _other(self, own: Base) -> Any:
        """Gives bases by what the list calls them; the one that is held isn't loaded again."""

        def load(name: str) -> Base:
            ref = name if name == POCKET else Bases(self.held.workspace).ref(name)
            return own if ref == own.ref else self.held.load(ref)

        return load

    def _kept(self, picture: Picture, kind: Any = "picture") -> str:
        return Gallery(self.held.workspace).add(picture, job=self.job.id, kind=kind)


def uses_of(request: mixing.Request, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """What the settings record of a mix, by the adapters' ids."""
    return {part.id: part.use(entries[part.id].name, entries[part.id].sha256) for part in request.mix}


def weights_of(uses: Mapping[str, Any], mixer: Mixer) -> dict[str, Any]:
    """What the mixer is set to, by the adapters' ids.

    Raises:
        AdapterError: a weight doesn't hold for this base; the adapter is called by its name.
    """
    from pipelines.mixing.weights import resolve

    encoders = mixer.base.text_encoders()
    return {key: resolve(use.name, use.weights(), mixer.blocks, encoders) for key, use in uses.items()}


def _no_inputs() -> Inputs:
    from pipelines.generation import Inputs

    return Inputs()


@dataclass(frozen=True)
class _Told:
    """Counts the steps of one of several turns on to the job's progress."""

    drawing: Drawing
    turn: int
    turns: int

    def __call__(self, step: Step) -> bool:
        self.drawing.beat(self.turn * step.total + step.done, self.turns * step.total)
        return True
