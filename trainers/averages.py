"""Averages of what is trained: better to look at and to keep than the last step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from pipelines.errors import StudioError
from trainers.settings import OptimizerConfig
from trainers.settings.optimizer import OPTIMIZERS

_STEPS = "steps"


class Averages:
    """What stands in the parameters' place for measuring, drawing and keeping: nothing else, an exponential
    moving average (`ema_decay`), or the average of an optimizer that keeps one.

    parameters: what is trained, by name. Where no average is asked for, everything here does nothing.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        config: OptimizerConfig,
    ) -> None:
        self._parameters = parameters
        self._optimizer = optimizer
        self._decay = config.ema_decay
        self._schedule_free = OPTIMIZERS[config.optimizer].averages
        self._steps = dict.fromkeys(parameters, 0)
        self._moving: dict[str, torch.Tensor] = {}
        if self._decay:
            self._moving = {name: one.detach().clone() for name, one in parameters.items()}

    def after_step(self, pruned: Mapping[str, torch.Tensor] | None = None) -> None:
        """Take the parameters that learn into the moving average, after an optimizer step.

        The decay rises with the number t of a parameter's steps before, min(decay, (1 + t) / (10 + t)), so
        that its start is soon forgotten. pruned: by name, which numbers are nothing from now on, bool of the
        parameter's shape; the average forgets them too.
        Source: Polyak & Juditsky 1992, https://doi.org/10.1137/0330046; the rise as in diffusers' EMAModel.
        """
        alike: dict[float, list[str]] = {}
        for name in self._moving:
            if self._parameters[name].requires_grad:
                steps = self._steps[name]
                alike.setdefault(min(self._decay, (1 + steps) / (10 + steps)), []).append(name)
                self._steps[name] += 1
        with torch.no_grad():
            for decay, names in alike.items():
                averages = [self._moving[name] for name in names]
                torch._foreach_lerp_(averages, [self._parameters[name] for name in names], 1.0 - decay)
            for name, gone in (pruned or {}).items():
                if name in self._moving and self._parameters[name].requires_grad:
                    self._moving[name].masked_fill_(gone, 0.0)

    def hold(self, names: Iterable[str]) -> None:
        """Write the averages of parameters that stop learning into them.

        What else learns from now on sees them as they will be kept. Once more changes nothing.
        """
        averaged = self._averaged()
        with torch.no_grad():
            for name in names:
                if name in averaged:
                    parameter = self._parameters[name]
                    parameter.copy_(averaged[name])
                    if self._schedule_free:
                        self._optimizer.state[parameter]["z"].copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the averages stand in the parameters for a while; afterwards they are bitwise as before."""
        averaged = self._averaged()
        before = {name: self._parameters[name].detach().clone() for name in averaged}
        try:
            self._write(averaged)
            yield
        finally:
            self._write(before)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint needs; empty where there is no moving average."""
        if not self._moving:
            return {}
        steps = torch.tensor(list(self._steps.values()))
        return {_STEPS: steps, **{f"moving.{name}": value for name, value in self._moving.items()}}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a state. Raises: StudioError where it is of other parameters or settings."""
        if set(tensors) != set(self.state()):
            raise StudioError("checkpoint has other averages than this run; start afresh")
        if self._moving:
            self._steps = dict(zip(self._steps, tensors[_STEPS].tolist(), strict=True))
            for name, average in self._moving.items():
                average.copy_(tensors[f"moving.{name}"])

    def _write(self, values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._parameters[name].copy_(value)

    def _averaged(self) -> Mapping[str, torch.Tensor]:
        """The averages by name; empty where there are none."""
        if not self._schedule_free:
            return self._moving
        # Gradients are taken at y = (1 − β₁) z + β₁ x; kept is x.
        # Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682, equation 8.
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        return {
            names[id(parameter)]: parameter.detach().lerp(
                self._optimizer.state[parameter]["z"], 1.0 - 1.0 / group["betas"][0]
            )
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if "z" in self._optimizer.state.get(parameter, {})
        }
