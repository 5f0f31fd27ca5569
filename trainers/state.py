"""Everything that decides how a run goes on: kept in checkpoints, and put back from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.errors import ConfigError, StudioError
from trainers import checkpoint
from trainers.batches import Stream
from trainers.inject import Injection


@dataclass(eq=False)
class RunState:
    """The moving parts of a run.

    data_sha256: tells whether it is still the same pictures. step: optimizer steps taken.
    """

    injection: Injection
    optimizer: torch.optim.Optimizer
    streams: Sequence[Stream]
    data_sha256: str
    step: int = 0

    def save(self, folder: Path) -> Path:
        """Commit a checkpoint of this moment below `folder`; return its folder."""
        random_tensors, random_values = checkpoint.random_state(self._generators())
        names = {id(parameter): name for name, parameter in self.injection.parameters.items()}
        tensors = {
            "adapter": self.injection.tensors(),
            "optimizer": checkpoint.optimizer_state(self.optimizer, names),
            "random": random_tensors,
            "order": {stream.name: stream.order.permutation for stream in self.streams},
        }
        state = {
            "version": 1,
            "step": self.step,
            "data_sha256": self.data_sha256,
            "positions": {stream.name: stream.order.position for stream in self.streams},
            "random": random_values,
        }
        return checkpoint.commit(folder, self.step, tensors, state)

    def load(self, saved: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint's moment.

        Raises: ConfigError where the pictures have changed since; StudioError where a part is missing.
        """
        state = saved.state()
        if state.get("data_sha256") != self.data_sha256:
            raise ConfigError(
                f"pictures or captions have changed since checkpoint {saved.path.name}; "
                f"put them back or start afresh"
            )
        permutations = saved.tensors("order")
        names = {stream.name for stream in self.streams}
        if set(permutations) != names or set(state["positions"]) != names:
            raise StudioError(f"checkpoint {saved.path.name} has another order of pictures; start afresh")
        self.injection.load(saved.tensors("adapter"))
        checkpoint.restore_optimizer_state(
            self.optimizer, self.injection.parameters, saved.tensors("optimizer")
        )
        for stream in self.streams:
            stream.order.permutation = permutations[stream.name]
            stream.order.position = int(state["positions"][stream.name])
        checkpoint.restore_random_state(saved.tensors("random"), state["random"], self._generators())
        self.step = int(state["step"])

    def _generators(self) -> dict[str, torch.Generator]:
        return {stream.name: stream.generator for stream in self.streams}
