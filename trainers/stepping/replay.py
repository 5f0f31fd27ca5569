"""A function of tensors as recordings: its launches noted once, and given to the device in one piece."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Tensors = Mapping[str, torch.Tensor]
Function = Callable[[Hashable, Tensors], Tensors]
"""(what decides which operations run, tensors by name) → tensors by name."""

TRIALS = 2
"""How often a recording must come to the function's numbers before it is trusted."""

MOST_RECORDINGS = 16
"""How many signatures are recorded; further ones run as usual."""

_RESULT_TOLERANCE = 1e-2
_CHANGE_TOLERANCE = 5e-2

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What notes launches and gives them again.

    name: what people call the recordings. calls_before: how often a signature runs as usual before it is
    recorded. exact: whether recordings come to the very same numbers.
    """

    name: str
    calls_before: int
    exact: bool

    def aside(self, call: Callable[[], Tensors]) -> Tensors:
        """Call where recordings are made."""

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        """Note what a call launches, without doing it; return where its results will be, and what does it."""

    def random_state(self) -> Any:
        """Return where the device's random numbers stand."""

    def set_random_state(self, state: Any) -> None:
        """Go back to such a place."""

    def give_up(self) -> None:
        """Leave the device as it was, after a recording that failed; its random numbers stand anywhere."""


class CudaGraphs:
    """CUDA graphs, which share one memory: only one of them runs at a time.

    Two calls come before, in which libraries set themselves up.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    name = "CUDA graphs"
    calls_before = 2
    exact = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def aside(self, call: Callable[[], Tensors]) -> Tensors:
        """See Recorder."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            found = call()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return found

    def record(self, call: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            found = call()
        return found, graph.replay

    def random_state(self) -> Any:
        """See Recorder."""
        return torch.cuda.get_rng_state(self._device)

    def set_random_state(self, state: Any) -> None:
        """See Recorder."""
        torch.cuda.set_rng_state(state, self._device)

    def give_up(self) -> None:
        """See Recorder."""
        torch.cuda.synchronize(self._device)
        # Older ones of PyTorch keep a generator in the recording that broke off, and refuse to draw from it
        # ever after; a state that was in none may be. See https://github.com/ace-step/ACE-Step-1.5/issues/613
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        fresh = torch.Generator(torch.device("cuda", index))
        torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())


@dataclass(eq=False)
class _Signature:
    """What is kept of inputs of one kind. static: where a recording reads; found: where it writes.

    trials: how often the recording came to the function's numbers.
    """

    calls: int = 0
    trials: int = 0
    static: dict[str, torch.Tensor] = field(default_factory=dict)
    found: Tensors = field(default_factory=dict)
    again: Callable[[], None] | None = None


class Replay:
    """Calls a function eagerly at first, then by recordings, one for each kind of input.

    changed: returns the tensors that the function changes besides its results, always at the same addresses
    (gradients, parameters). Each recording is tried against the eager function from the same state, on the
    inputs that it was made with and on the next; where one can't be made, or comes to other numbers,
    everything goes on eagerly and `notes` says why.

    The results are overwritten by the next call. What the function does in Python, it does at recording only.
    """

    def __init__(
        self,
        function: Function,
        changed: Callable[[], Sequence[torch.Tensor]],
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self._function, self._changed = function, changed
        self._device, self._recorder = device, recorder
        self._signatures: dict[Hashable, _Signature] = {}
        self._refused = False
        self.notes: list[str] = []

    @property
    def recordings(self) -> int:
        """How many signatures are recorded."""
        return sum(one.trials >= TRIALS for one in self._signatures.values())

    def __call__(self, kind: Hashable, inputs: Tensors) -> Tensors:
        """Call the function, or the recording for this `kind` and these shapes. inputs: on any device."""
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in inputs.items())
        signature = self._signatures.setdefault((kind, shapes), _Signature())
        signature.calls += 1
        if self._refused or (not signature.static and self._full()):
            return self._function(kind, {name: value.to(self._device) for name, value in inputs.items()})
        self._fill(signature, inputs)
        if signature.trials >= TRIALS and signature.again is not None:
            signature.again()
            return signature.found
        if signature.calls > self._recorder.calls_before:
            return self._try(kind, signature)
        held = any(one.again is not None for one in self._signatures.values())
        return self._plainly(kind, signature, self._copied() if held else None)

    def _full(self) -> bool:
        return sum(bool(one.static) for one in self._signatures.values()) >= MOST_RECORDINGS

    def _fill(self, signature: _Signature, inputs: Tensors) -> None:
        """Copy inputs to the recording's addresses."""
        if not signature.static:
            signature.static = {
                name: torch.empty_like(value, device=self._device) for name, value in inputs.items()
            }
        torch._foreach_copy_(list(signature.static.values()), list(inputs.values()), non_blocking=True)

    def _try(self, kind: Hashable, signature: _Signature) -> Tensors:
        """Call both the function and its recording, which is made if there is none; return what is right."""
        random, before = self._recorder.random_state(), self._copied()
        right = {name: value.clone() for name, value in self._plainly(kind, signature, before).items()}
        if self._refused:
            return right
        drawn, after = self._recorder.random_state(), self._copied()
        if before is None or after is None:
            self._refuse("there isn't memory enough to try it")
            return right
        if not all(bool(value.isfinite().all()) for value in (*right.values(), *after)):
            return right  # by which nothing can be judged, as while fp16's scaling is still found
        self._write(before)
        self._recorder.set_random_state(random)
        try:
            if signature.again is None:
                signature.found, signature.again = self._recorder.record(
                    lambda: self._function(kind, signature.static)
                )
            signature.again()
            reason = self._difference(right, signature.found, after, before)
        except (RuntimeError, AssertionError, TypeError) as error:  # whatever an operator makes of it
            _log.debug("recording failed", exc_info=True)
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            self._recorder.give_up()
        if reason is None:
            signature.trials += 1
            return signature.found
        self._refuse(reason)
        self._write(after)
        self._recorder.set_random_state(drawn)
        return right

    def _plainly(
        self, kind: Hashable, signature: _Signature, before: Sequence[torch.Tensor] | None
    ) -> Tensors:
        """Call the function as usual; where recordings leave it no memory they are given up for it.

        before: copies of what it changes; None: it can't be called a second time.
        """
        random, inputs = self._recorder.random_state(), signature.static
        try:
            return self._recorder.aside(lambda: self._function(kind, inputs))
        except torch.OutOfMemoryError:
            if before is None or all(one.again is None for one in self._signatures.values()):
                raise
        # Not above: until an error is over it holds on to what the call had made.
        self._refuse("they leave too little memory")
        self._write(before)
        self._recorder.set_random_state(random)
        return self._recorder.aside(lambda: self._function(kind, inputs))

    def _refuse(self, reason: str) -> None:
        """Go on eagerly from now on, and say why."""
        self._refused = True
        for one in self._signatures.values():
            one.again, one.static, one.found, one.trials = None, {}, {}, 0
        self.notes.append(f"steps aren't recorded as {self._recorder.name}, which is slower ({reason})")

    def _copied(self) -> list[torch.Tensor] | None:
        """Copy what the function changes; None where there is no memory for it."""
        try:
            return [tensor.clone() for tensor in self._changed()]
        except torch.OutOfMemoryError:
            return None

    def _write(self, values: Sequence[torch.Tensor]) -> None:
        for tensor, value in zip(self._changed(), values, strict=True):
            tensor.copy_(value)

    def _difference(
        self, right: Tensors, found: Tensors, after: Sequence[torch.Tensor], before: Sequence[torch.Tensor]
    ) -> str | None:
        """Say how a recording differs from the function, or None where it is only the device's rounding."""
        results, changes = (0.0, 0.0) if self._recorder.exact else (_RESULT_TOLERANCE, _CHANGE_TOLERANCE)
        for name, value in right.items():
            off = _relative(found[name].float() - value.float(), value.float())
            if not off <= results:
                return f"the recording's {name} differs by {off:.1%}"
        for should, does, was in zip(after, self._changed(), before, strict=True):
            off = _relative(does.float() - should.float(), should.float() - was.float())
            if not off <= changes:
                return f"what the recording changes differs by {off:.1%}"
        return None


def _relative(difference: torch.Tensor, of: torch.Tensor) -> float:
    """Norm of a difference over that of what it is to be measured by; 0 where there is none."""
    size = float(difference.norm())
    return size / max(float(of.norm()), 1e-30) if size else 0.0
