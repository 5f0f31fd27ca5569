"""16 bits in training: where products run in them, and the scaling that fp16's gradients need.

What is trained stays fp32 whatever the base is held in.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

from pipelines.device import DTYPES
from trainers.optimizers import learning_groups
from trainers.settings import RunConfig

# A loss scale this small says that it isn't the scale that makes the gradients infinite.
_SMALLEST_SCALE = 2.0**-10


class Precision:
    """How a step computes: autocast or not, with a scaled loss or not.

    skipped: whether the last step was left out, because its scaled gradients left fp16's range.

    Source: Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740, section 3.2 (loss scaling).
    """

    def __init__(self, run: RunConfig, device: torch.device, dtype: torch.dtype) -> None:
        """device, dtype: of the base's UNet."""
        self.device = device
        self.half = None if run.mixed_precision is None else DTYPES[run.mixed_precision]
        scaled = torch.float16 in (self.half, dtype)
        self._scaler = torch.amp.GradScaler(device.type) if scaled else None
        self.skipped = False

    @property
    def scales(self) -> bool:
        """Whether the loss is scaled, and steps whose gradients leave fp16's range are left out."""
        return self._scaler is not None

    def autocast(self) -> AbstractContextManager[Any]:
        """Around forward passes (not backward ones).

        Casts aren't kept from one use to the next: a recording would take them for its own.
        """
        enabled = self.half is not None
        return torch.autocast(self.device.type, dtype=self.half, enabled=enabled, cache_enabled=False)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss, scaled where that is needed, to the parameters'."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[torch.nn.Parameter],
        max_norm: float,
        losses: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Clip and take a step in the groups that learn; return the gradients' norm from before, unscaled.

        The gradients stay where they are.

        A step whose gradients aren't finite isn't taken: without scaling the norm says so, and with it
        `skipped` does, the scale is halved, and the norm is given as 0 (until the scale is so small that
        it can't be the reason: then as it is). losses: of the step; none is taken where they aren't.
        """
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        finite, told = bool(norm.isfinite()), losses is None or bool(losses.isfinite().all())
        self.skipped = False
        if self._scaler is not None:
            if told:
                with learning_groups(optimizer):
                    self._scaler.step(optimizer)
            self._scaler.update()
            self.skipped = not finite and self._scaler.get_scale() > _SMALLEST_SCALE
        elif finite and told:
            with learning_groups(optimizer):
                optimizer.step()
        return torch.zeros_like(norm) if self.skipped else norm

    def notes(self) -> tuple[str, ...]:
        """What to tell people of the last step, where it was left out."""
        if not self.skipped:
            return ()
        said = f"step left out: its gradients left fp16's range; the loss is now scaled by {self.scale:g}"
        return (said,)

    @property
    def scale(self) -> float:
        """What the loss is multiplied by; 1 without scaling."""
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def state(self) -> dict[str, Any]:
        """Plain values that a resume needs; empty without scaling."""
        return {} if self._scaler is None else dict(self._scaler.state_dict())

    def load(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)
