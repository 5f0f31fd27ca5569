"""Everything that decides how a run goes on: kept in checkpoints, and put back from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import ConfigError, NotFinite, StudioError
from trainers import checkpoint
from trainers.averages import Averages
from trainers.batches import Stream
from trainers.optimizer_state import optimizer_state, restore_optimizer_state
from trainers.precision import Precision
from trainers.processes import Processes
from trainers.stepping import Stepper
from trainers.tuning import Injection

_VERSION = 2


@dataclass(eq=False)
class RunState:
    """The moving parts of a run.

    data_sha256: tells whether it is still the same pictures. step: optimizer steps taken.
    """

    injection: Injection
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    averages: Averages
    precision: Precision
    streams: Sequence[Stream]
    data_sha256: str
    step: int = 0

    def unsound(self) -> str | None:
        """Name what of this moment holds a number that is none (NaN, infinity); None: nothing does.

        A loss that is sound doesn't tell it: weights may break in the update after it, and what an optimizer
        keeps may go unseen for long.
        """
        parameters = self.injection.parameters
        kept = [value for state in self.optimizer.state.values() for value in _tensors(state)]
        groups: dict[str, Sequence[torch.Tensor]] = {
            "weights": [one.detach() for one in parameters.values()],
            "averages of weights": list(self.averages.state().values()),
            "numbers of the optimizer": kept,
        }
        for name, tensors in groups.items():
            if not _finite(tensors):
                places = (one for one, value in parameters.items() if not bool(value.isfinite().all()))
                place = next(places, "") if name == "weights" else ""
                return f"{name} at {place}" if place else name
        return None

    def save(self, folder: Path, keep: int = checkpoint.KEEP) -> Path:
        """Commit a checkpoint of this moment below `folder`, of which `keep` stay; return its folder.

        Raises: NotFinite where it would hold numbers that are none; what was there before stays then.
        """
        if (broken := self.unsound()) is not None:
            raise NotFinite(
                f"{broken} aren't finite after step {self.step}, so no checkpoint was written and those "
                "before are kept; lower optimizer.learning_rate and start afresh",
                comes_again=True,
            )
        random_tensors, random_values = checkpoint.random_state({})
        names = {id(parameter): name for name, parameter in self.injection.parameters.items()}
        streams = {
            f"{stream.name}.{part}": value
            for stream in self.streams
            for part, value in stream.state().items()
        }
        tensors = {
            "adapter": self.injection.state(),
            "optimizer": optimizer_state(self.stepper.gradients.spread(), names),
            "averages": self.averages.state(),
            "random": random_tensors,
            "streams": streams,
        }
        state = {
            "version": _VERSION,
            "step": self.step,
            "data_sha256": self.data_sha256,
            "precision": self.precision.state(),
            "random": random_values,
        }
        return checkpoint.commit(folder, self.step, tensors, state, keep=keep)

    def go_on(self, folder: Path, processes: Processes) -> list[str]:
        """Go to the newest whole checkpoint below `folder`, where there is one; return what to tell people.

        Raises: as `load`; StudioError where the processes would go on from different steps.
        """
        if processes.main:
            checkpoint.sweep(folder)
        saved, notes = checkpoint.latest(folder)
        if saved is not None:
            self.load(saved)
        processes.check_same_step(self.step)
        return notes

    def load(self, saved: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint's moment.

        Raises: ConfigError where the pictures have changed since; StudioError where a part is missing.
        """
        state = saved.state()
        if state.get("version") != _VERSION:
            raise StudioError(
                f"checkpoint {saved.path.name} is of version {state.get('version')!r}, this Pigment writes "
                f"{_VERSION}; start afresh"
            )
        if state.get("data_sha256") != self.data_sha256:
            raise ConfigError(
                f"pictures or captions have changed since checkpoint {saved.path.name}; "
                f"put them back or start afresh"
            )
        self._load_streams(saved.tensors("streams"), saved.path.name)
        self.injection.load(saved.tensors("adapter"))
        restore_optimizer_state(self.optimizer, self.injection.parameters, saved.tensors("optimizer"))
        self.averages.load(saved.tensors("averages"))
        self.precision.load(state["precision"])
        checkpoint.restore_random_state(saved.tensors("random"), state["random"], {})
        self.step = int(state["step"])

    def _load_streams(self, tensors: dict[str, torch.Tensor], name: str) -> None:
        known = {f"{stream.name}.{part}" for stream in self.streams for part in stream.state()}
        if set(tensors) != known:
            raise StudioError(f"checkpoint {name} has another order of pictures; start afresh")
        for stream in self.streams:
            begin = f"{stream.name}."
            stream.load({key.removeprefix(begin): t for key, t in tensors.items() if key.startswith(begin)})


def _tensors(state: Mapping[Any, Any]) -> Iterator[torch.Tensor]:
    """Every tensor that an optimizer keeps for a parameter, however deep."""
    for value in state.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value)
        elif isinstance(value, list | tuple):
            yield from _tensors(dict(enumerate(value)))


def _finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all of them hold numbers only; each device is waited for once."""
    flags: dict[torch.device, list[torch.Tensor]] = {}
    for value in tensors:
        if value.is_floating_point():
            flags.setdefault(value.device, []).append(value.isfinite().all())
    return all(bool(torch.stack(found).all()) for found in flags.values())
