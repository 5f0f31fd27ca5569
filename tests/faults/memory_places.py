"""Where a job runs out of memory, or loses its device, and what is to be said there.

An error is raised at the n-th call of a function of ours; `put` does so while it lasts, and
`tests.faults.memory_child` in a studio's own processes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest import MonkeyPatch

FAULT = "PIGMENT_TEST_MEMORY"
"""The variable that names the file by which a process learns where it is to fail: "place|error"."""


def _torch(name: str, text: str) -> Callable[[], Exception]:
    """An error as torch raises it."""

    def make() -> Exception:
        import torch

        found: Exception = getattr(torch, name, RuntimeError)(text)
        return found

    return make


ERRORS: dict[str, Callable[[], Exception]] = {
    "MemoryError": MemoryError,
    "CUDA out of memory": _torch(
        "OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB",
    ),
    "no memory on the CPU": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 34359738368 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "device lost": _torch(
        "AcceleratorError",
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported at some "
        "other API call, so the stacktrace below might be incorrect.",
    ),
}
LOST = "device lost"


@dataclass(frozen=True)
class Place:
    """A function whose call fails.

    owner: "module:Class" or "module". name: of the function in it. says: words of the line that it ends with
    where the memory is full. goes_on: whether the job goes on without, with a warning that has those words.
    call: which call fails, from 1.
    """

    owner: str
    name: str
    says: tuple[str, ...]
    goes_on: bool = False
    call: int = 1


_LOWER = ("run.gradient_checkpointing", "run.quantise", "data.resolution")
TRAINING: dict[str, Place] = {
    "a step": Place("trainers.stepping:Stepper", "learn", _LOWER, call=3),
    "a measurement": Place("trainers.looking", "measure_sets", ("not measured: ",), goes_on=True),
    "a preview": Place("trainers.looking", "draw_previews", ("preview failed",), goes_on=True, call=2),
    "a checkpoint": Place("trainers.checkpoint", "_serialise", ("checkpoint of step 4", "rank"), call=7),
    "the base": Place("trainers.loop", "load_base", ("loading the base", "run.quantise")),
    "the pictures": Place("pipelines.base:Base", "encode_images", ("data.resolution",)),
    "an update": Place("trainers.stepping:Stepper", "take", _LOWER, call=4),
    "a checkpoint's file": Place("trainers.checkpoint", "_write_synced", ("checkpoint of step 2",), call=3),
    "a preview's decoding": Place("pipelines.base:Base", "decode_latents", ("preview failed",), goes_on=True),
    "a candidate": Place("trainers.results", "write_smallest", ("not measured: ",), goes_on=True),
    "the adapter": Place("trainers.results", "write_smallest", ("close other programs", "rank"), call=4),
    "the evidence": Place(
        "trainers.evidence.concluding:Conclusion", "_anatomy", ("anatomy left out",), goes_on=True
    ),
    "the library": Place("studio.library:Library", "add", ("close other programs",)),
}
"""In a training of `memory_runs`."""

DRAWING: dict[str, Place] = {
    "the UNet": Place("diffusers:UNet2DConditionModel", "forward", ("smaller pictures", "fewer"), call=2),
    "the decoder": Place("pipelines.base:Base", "decode_latents", ("smaller pictures", "fewer")),
    "the prompt": Place("pipelines.base:Base", "encode_tokens", ("smaller pictures", "fewer")),
    "the mix": Place("pipelines.mixer:Mixer", "set", ("smaller pictures", "fewer")),
    "the picture's file": Place("studio.gallery:Gallery", "add", ("smaller pictures", "fewer")),
}
"""In the process that draws."""

JOBS: dict[str, Place] = {
    "class_pictures": Place("trainers.prior", "generate_prompts", ("data.resolution", "data.class_images")),
    "merge": Place("pipelines.merging", "merge_adapters", ("fewer adapters", "rank")),
    "resize": Place("pipelines.tools", "resize", ("rank",)),
    "export": Place("studio.work.exporting", "write", ("picture",)),
}
"""In jobs of other kinds."""


def owner_of(place: Place) -> Any:
    """The module or class that holds a place's function."""
    module, _, inner = place.owner.partition(":")
    owner: Any = importlib.import_module(module)
    return getattr(owner, inner) if inner else owner


@dataclass
class Failing:
    """A function made to fail at one call, and whether it has; `calls` so far."""

    place: Place
    error: str
    calls: int = 0
    happened: bool = False
    always: bool = False

    def put(self, patch: MonkeyPatch) -> None:
        """Patch the function."""
        owner = owner_of(self.place)
        real = getattr(owner, self.place.name)

        def failing(*given: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self.place.call or (self.always and self.happened):
                self.happened = True
                raise ERRORS[self.error]()
            return real(*given, **more)

        patch.setattr(owner, self.place.name, failing)


@contextmanager
def put(place: Place, error: str, *, always: bool = False) -> Iterator[Failing]:
    """Let it happen while this lasts. always: at every later call too."""
    failing = Failing(place, error, always=always)
    with MonkeyPatch.context() as patch:
        failing.put(patch)
        yield failing


def wrong_words(line: str, place: Place, error: str) -> str | None:
    """What is wrong with the line that a job ended with; None: it says what happened and what to do."""
    wanted = ("device has failed", "driver") if error == LOST else place.says
    if "\n" in line or not line:
        return f"no line: {line!r}"
    return None if all(words in line for words in wanted) else f"it says: {line}"
