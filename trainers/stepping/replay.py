"""A function of tensors as CUDA graphs: its launches recorded once, and given to the card in one piece."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

Tensors = Mapping[str, torch.Tensor]
Function = Callable[[Hashable, Tensors], Tensors]
"""(what decides which operations run, tensors by name) → tensors by name."""

EAGER_CALLS = 2
"""How often the first signature runs as usual before it is recorded: libraries set themselves up in the
meantime. Later ones run so once."""

MOST_RECORDINGS = 16
"""How many signatures are recorded; further ones run as usual."""

_LOSS_TOLERANCE = 1e-2
_CHANGE_TOLERANCE = 5e-2

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Signature:
    """What is kept of inputs of one kind. static: the addresses that a recording reads and writes."""

    calls: int = 0
    static: dict[str, torch.Tensor] = field(default_factory=dict)
    found: Tensors | None = None
    recording: torch.cuda.CUDAGraph | None = None


class Replay:
    """Calls a function eagerly at first, then by recordings, one for each kind of input.

    changed: returns the tensors that the function changes besides its results, always at the same addresses
    (gradients, parameters). Each recording is tried once against the eager function from the same state, and
    what doesn't come to the same numbers, or can't be recorded, is never tried again: `notes` says why, and
    everything goes on eagerly.

    twin: go through the same addresses without recording anything, for devices that can't: what a card would
    do, in the open.

    The results are overwritten by the next call. What the function does in Python, it does at recording only.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(
        self,
        function: Function,
        changed: Callable[[], Sequence[torch.Tensor]],
        device: torch.device,
        *,
        twin: bool = False,
    ) -> None:
        self._function, self._changed, self._device, self._twin = function, changed, device, twin
        self._signatures: dict[Hashable, _Signature] = {}
        self._pool = None if twin else torch.cuda.graph_pool_handle()
        self._stream = None if twin else torch.cuda.Stream(device)
        self._refused = False
        self.notes: list[str] = []

    @property
    def recordings(self) -> int:
        """How many signatures are recorded."""
        return sum(one.found is not None for one in self._signatures.values())

    def __call__(self, kind: Hashable, inputs: Tensors) -> Tensors:
        """Call the function, or the recording for this `kind` and these shapes. inputs: on any device."""
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in inputs.items())
        signature = self._signatures.setdefault((kind, shapes), _Signature())
        signature.calls += 1
        if self._refused or (not signature.static and self._full()):
            return self._function(kind, {name: value.to(self._device) for name, value in inputs.items()})
        self._fill(signature, inputs)
        if signature.found is None and signature.calls > (1 if self.recordings else EAGER_CALLS):
            return self._record(kind, signature)
        if signature.found is None:
            return self._aside(kind, signature)
        if signature.recording is None:
            return self._function(kind, signature.static)
        signature.recording.replay()
        return signature.found

    def _full(self) -> bool:
        return sum(bool(one.static) for one in self._signatures.values()) >= MOST_RECORDINGS

    def _fill(self, signature: _Signature, inputs: Tensors) -> None:
        """Copy inputs to the recording's addresses."""
        if not signature.static:
            signature.static = {
                name: torch.empty_like(value, device=self._device) for name, value in inputs.items()
            }
        torch._foreach_copy_(list(signature.static.values()), list(inputs.values()), non_blocking=True)

    def _aside(self, kind: Hashable, signature: _Signature) -> Tensors:
        """Run the function as it is, on the stream of the recordings."""
        if self._stream is None:
            return self._function(kind, signature.static)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            found = self._function(kind, signature.static)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return found

    def _record(self, kind: Hashable, signature: _Signature) -> Tensors:
        """Record the function, try the recording, and return what it gives; else what the function gives."""
        before = [tensor.clone() for tensor in self._changed()]
        random = torch.get_rng_state() if self._twin else torch.cuda.get_rng_state(self._device)
        exact = {name: value.clone() for name, value in self._aside(kind, signature).items()}
        after = [tensor.clone() for tensor in self._changed()]

        def go_back(to: list[torch.Tensor]) -> None:
            for tensor, value in zip(self._changed(), to, strict=True):
                tensor.copy_(value)
            if self._twin:
                torch.set_rng_state(random)
            else:
                torch.cuda.set_rng_state(random, self._device)

        go_back(before)
        try:
            found = self._captured(kind, signature)
            reason = _difference(exact, found, after, self._changed(), before)
        except (RuntimeError, AssertionError) as error:  # whatever the driver or an operator makes of it
            _log.debug("recording failed", exc_info=True)
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            signature.recording = None
            if not self._twin:
                torch.cuda.synchronize(self._device)
        if reason is None:
            signature.found = found
            return found
        self._refused = True
        for one in self._signatures.values():
            one.found = one.recording = None
            one.static = {}
        self.notes.append(f"steps aren't replayed as CUDA graphs, which is slower ({reason})")
        go_back(after)
        return exact

    def _captured(self, kind: Hashable, signature: _Signature) -> Tensors:
        """Record the function and replay it once."""
        if self._twin:
            return self._function(kind, signature.static)
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording, pool=self._pool, stream=self._stream):
            found = self._function(kind, signature.static)
        signature.recording = recording
        recording.replay()
        return found


def _difference(
    exact: Tensors,
    found: Tensors,
    after: Sequence[torch.Tensor],
    now: Sequence[torch.Tensor],
    before: Sequence[torch.Tensor],
) -> str | None:
    """Say how a recording differs from the function, or None where it is only rounding."""
    for name, value in exact.items():
        off = _relative(found[name].float() - value.float(), value.float())
        if not off <= _LOSS_TOLERANCE:
            return f"the recording's {name} differs by {off:.1%}"
    for should, does, was in zip(after, now, before, strict=True):
        off = _relative(does.float() - should.float(), should.float() - was.float())
        if not off <= _CHANGE_TOLERANCE:
            return f"what the recording changes differs by {off:.1%}"
    return None


def _relative(difference: torch.Tensor, of: torch.Tensor) -> float:
    """Norm of a difference over that of what it is to be measured by; 0 where there is none."""
    size = float(difference.norm())
    return size / max(float(of.norm()), 1e-30) if size else 0.0
