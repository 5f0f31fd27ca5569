"""How a step is done in few launches: the recipe stays in the loop."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from trainers.batches import Batch
from trainers.conditions import Asked
from trainers.optimizers import OPTIMIZERS, learning_groups
from trainers.stepping.flat import Flat, reached
from trainers.stepping.gradients import Gradients, Loose, Standing
from trainers.stepping.operators import Operators
from trainers.stepping.replay import CudaGraphs, Recorder, Replay, Tensors

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.precision import Precision
    from trainers.processes import Processes
    from trainers.tuning import Injection

Ask = Callable[[Batch], Sequence[Asked]]
"""batch → its captions, as far as they need no gradient."""

Loss = Callable[[Batch, Sequence[Asked]], tuple[torch.Tensor, torch.Tensor]]
"""(batch, its captions) → what is minimised, a scalar, and each sample's loss, (B,)."""


_SMALL = 100_000_000
"""Numbers of a UNet up to which a CPU spends more on what goes on around kernels than in them."""


def _recorder(injection: Injection) -> Recorder | None:
    """Return what records steps on the base's device: CUDA graphs, or for small bases on a CPU operators."""
    base = injection.base
    if base.device.type == "cuda":
        return CudaGraphs(base.device)
    small = sum(parameter.numel() for parameter in base.unet.parameters()) < _SMALL
    return Operators() if base.device.type == "cpu" and small else None


class Stepper:
    """Runs the loss of batches forward and backward, then clips and steps.

    What may be done is decided by what learns: buffers where the optimizer treats every number by itself,
    recordings where a step's operations don't change with the steps; `run.without` leaves out either. The
    norm stays on the device where the optimizer can be told there that a step isn't to be taken; from the
    first that isn't finite on, none is.

    waits: whether a step's numbers are needed on the host before the next one.
    """

    def __init__(
        self,
        ask: Ask,
        loss: Loss,
        config: TrainConfig,
        injection: Injection,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        processes: Processes,
        *,
        recorder: Recorder | None = None,
    ) -> None:
        """recorder: of steps; None: what suits the device."""
        self._ask, self._loss, self._injection = ask, loss, injection
        self._optimizer, self._precision, self._processes = optimizer, precision, processes
        self._max_norm = config.optimizer.max_grad_norm
        self._device = injection.base.device
        row, tuning, without = OPTIMIZERS[config.optimizer.optimizer], injection.tuning, config.run.without
        # Every step reaches the same parameters, in one process.
        steady = processes.size == 1 and not tuning.tokens and not config.adapter.module_dropout
        card = self._device.type == "cuda"
        self._flat = steady and row.elementwise and "flat" not in without
        recorded = steady and tuning.replayable and "graph" not in without
        # Each with a memory of its own, so that the batches' can be given back.
        of_batch, of_step = (recorder or _recorder(injection) if recorded else None for _ in range(2))
        self._guarded = row.on_device and not precision.scales and self._device.type in ("cpu", "cuda")
        quiet = card and processes.size == 1 and self._guarded and tuning.replayable
        self.waits = not quiet or "readings" in without
        self.gradients: Gradients = Loose(optimizer, list(injection.parameters.values()))
        self._settled = not (self._flat or of_batch)
        self._broken = torch.zeros((), device=self._device)  # 1 from the first norm that isn't finite on
        self._rates: list[float] = [float(group["lr"]) for group in optimizer.param_groups]
        self._learn = self._optimize = None
        if of_batch is not None:
            self._learn = Replay(self._learn_from, self._standing, self._device, of_batch)
        if of_step is not None and self._guarded:
            self._optimize = Replay(self._take, self._stepped, self._device, of_step)
            for group in optimizer.param_groups:
                group["capturable"] = True
                # on a CPU in the precision of Python's own numbers, so that nothing is rounded otherwise
                exact = torch.float64 if self._device.type == "cpu" else torch.float32
                group["lr"] = torch.tensor(float(group["lr"]), dtype=exact, device=self._device)

    # ── A batch

    def learn(self, batch: Batch, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of a batch's loss; return the loss and each sample's own, (B,), both detached.

        batch: on the device. step: how many were taken.
        """
        asked = self._ask(batch)
        with self._injection.learning(step, self._processes.rank):
            if not self._settled or self._learn is None:
                return self._backward(batch, asked)
            inputs = batch.tensors()
            for index, one in enumerate(asked):
                inputs |= {f"{index}:{name}": part for name, part in one.tensors.items()}
            found = self._learn((batch.streams, tuple(one.count for one in asked)), inputs)
            return found["loss"], found["each"]

    def _learn_from(self, kind: Hashable, inputs: Tensors) -> Tensors:
        """`learn` on tensors alone."""
        streams, counts = cast("tuple[tuple[int, ...], tuple[int, ...]]", kind)
        asked = []
        for index, count in enumerate(counts):
            begin = f"{index}:"
            parts = {name.removeprefix(begin): p for name, p in inputs.items() if name.startswith(begin)}
            asked.append(Asked(parts, count))
        loss, each = self._backward(Batch.of(streams, inputs), asked)
        return {"loss": loss, "each": each}

    def _backward(self, batch: Batch, asked: Sequence[Asked]) -> tuple[torch.Tensor, torch.Tensor]:
        loss, each = self._loss(batch, asked)
        if not self._settled:
            self._settle(loss)
        self._precision.backward(loss)
        return loss.detach(), each.detach()

    def _settle(self, loss: torch.Tensor) -> None:
        """Let gradients stand where they are to be from now on."""
        learning = reached(loss)
        if self._flat:
            self.gradients = Flat(self._optimizer, learning)
        else:
            self.gradients = Standing(self._optimizer, self.gradients.parameters, learning)
        self._settled = True

    def _standing(self) -> list[torch.Tensor]:
        return [one.grad for one in self.gradients.parameters if one.grad is not None]

    # ── The step

    def rates(self, rates: Sequence[float]) -> None:
        """Set the groups' learning rates for the next step."""
        self._rates = list(rates)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def take(self, losses: torch.Tensor) -> torch.Tensor:
        """Sum gradients over the processes, clip, and step; return the norm from before, a scalar.

        losses: of the step; where they or the norm aren't finite, the step isn't taken. The gradients stay
        until `clear`.
        """
        self._processes.sum_gradients(self.gradients.parameters)
        if not self._guarded:
            return self._precision.step(self._optimizer, self.gradients.parameters, self._max_norm, losses)
        given = {"losses": losses}
        found = self._take((), given) if self._optimize is None else self._optimize((), given)
        return found["norm"]

    def _take(self, kind: Hashable, inputs: Tensors) -> Tensors:
        norm = torch.nn.utils.clip_grad_norm_(self.gradients.parameters, self._max_norm)
        finite = norm.isfinite() & inputs["losses"].isfinite().all().to(norm.device)
        self._broken.copy_(torch.maximum(self._broken, (~finite).float()))
        optimizer: Any = self._optimizer
        optimizer.found_inf = self._broken
        try:
            with learning_groups(self._optimizer):
                self._optimizer.step()
        finally:
            del optimizer.found_inf
        return {"norm": norm}

    def _stepped(self) -> list[torch.Tensor]:
        return [*self.gradients.state(), *self._standing(), self._broken]

    def clear(self) -> None:
        """Drop the step's gradients."""
        self.gradients.zero()

    # ── What people are told

    @property
    def step_size(self) -> float:
        """The learning rate as AdamW's is understood, of the first group that learns.

        For an optimizer that finds the size of a step by itself that is its rate times what it has found.
        """
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if any(one.requires_grad for one in group["params"]):
                return rate * float(group.get("d", 1.0))
        return self._rates[0]

    def notes(self) -> list[str]:
        """Return, once, what people should know of how steps are done."""
        found = [note for replay in (self._learn, self._optimize) if replay for note in replay.notes]
        for replay in (self._learn, self._optimize):
            if replay:
                replay.notes = []
        return found
