"""Random numbers for dropout that belong to the adapter, so that nobody else's draws change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Randomness:
    """A state of torch's global generators that is lent to them for a while.

    PEFT's layers drop out by the global generators; in between they are everybody's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = [device] if device.type == "cuda" else []
        self._entered = False
        self._states: dict[str, torch.Tensor] = {}
        with self._lent():
            torch.manual_seed(seed)
            self._keep()

    def state(self) -> dict[str, torch.Tensor]:
        """Return where the draws stand."""
        return {f"dropout.{name}": value for name, value in self._states.items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write what `state` returned back."""
        self._states = {name: tensors[f"dropout.{name}"].cpu().clone() for name in self._states}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Draw from these numbers in the meantime."""
        self._entered = True
        with self._lent():
            torch.set_rng_state(self._states["cpu"])
            if self._cuda:
                torch.cuda.set_rng_state(self._states["cuda"], self._cuda[0])
            try:
                yield
            finally:
                self._keep()

    def check_used(self) -> None:
        """Make sure that the last step dropped out."""
        assert self._entered, "the step ran outside `Injection.learning`: nothing was dropped out"
        self._entered = False

    @contextmanager
    def _lent(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self._cuda):
            yield

    def _keep(self) -> None:
        self._states = {"cpu": torch.get_rng_state()}
        if self._cuda:
            self._states["cuda"] = torch.cuda.get_rng_state(self._cuda[0])
