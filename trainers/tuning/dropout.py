"""Random numbers for dropout that belong to the adapter, so that nobody else's draws change it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Randomness:
    """A state of torch's global generators that is lent to them for a while.

    PEFT's layers drop out by the global generators; in between they are everybody's. Each step and process
    has numbers of its own, so that a resume needs no state and processes don't drop alike.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._cuda = [device] if device.type == "cuda" else []
        self._entered = False
        self._at: tuple[int, int] | None = None
        self._states: list[torch.Tensor] = []

    @contextmanager
    def used(self, step: int, rank: int) -> Iterator[None]:
        """Draw from the numbers of a step in a process; once more goes on where they stood."""
        self._entered = True
        with torch.random.fork_rng(devices=self._cuda):
            if self._at == (step, rank):
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._cuda, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                digest = hashlib.sha256(f"{self._seed} {step} {rank}".encode()).digest()
                torch.manual_seed(int.from_bytes(digest[:7]))
                self._at = (step, rank)
            try:
                yield
            finally:
                self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._cuda)]

    @contextmanager
    def dropping(self, layers: Sequence[nn.Module], step: int, rank: int) -> Iterator[None]:
        """Let layers drop out by them for a while."""
        with self.used(step, rank):
            switch(layers, True)
            try:
                yield
            finally:
                switch(layers, False)

    def check_used(self) -> None:
        """Make sure that the last step dropped out."""
        assert self._entered, "the step ran outside `Injection.learning`: nothing was dropped out"
        self._entered = False


def switch(layers: Sequence[nn.Module], mode: bool) -> None:
    """Switch dropout of layers on or off, not of the modules that they stand for."""
    for layer in layers:
        layer.training = mode
        for name, child in layer.named_children():
            if name != "base_layer":
                child.train(mode)
