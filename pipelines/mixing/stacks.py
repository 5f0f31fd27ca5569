"""Parameters of equal shape as one batch, written by one batched product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.mixing.slots import Slot

# Where a sum needs fp32 beside the weights, this many numbers of it at a time: 256 MB.
_SUM_NUMBERS = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Span:
    """The columns start:stop of a stack's product that belong to one adapter.

    adapter: its position. sources: where its weights stand in the vector of weights.
    """

    adapter: int
    start: int
    stop: int
    sources: np.ndarray


@dataclass(eq=False)
class Kept:
    """The slots of a stack: `base` (n, rows, columns) is their own, `mixed` is what the layers use.

    channels_last: whether the columns stand as (kh, kw, in), so that a layer's weight keeps its layout.
    """

    slots: tuple[Slot, ...]
    base: torch.Tensor
    mixed: torch.Tensor | None = None
    channels_last: bool = False

    def own(self, index: int) -> torch.Tensor:
        """The base's own value of a slot, in its shape and layout."""
        return self.slots[index].shaped(self.base[index], self.channels_last)

    def install(self) -> None:
        """Let the layers use `mixed`, made at first use: what they used till then is freed stack by stack."""
        if self.mixed is None:
            self.mixed = self.base.clone()
        for index, slot in enumerate(self.slots):
            slot.parameter.data = slot.shaped(self.mixed[index], self.channels_last)


@dataclass(frozen=True, eq=False)
class Stack:
    """Slots of one shape that the same adapters reach, as one batch.

    up: (n, rows, R) with each method's own scale in it, down: (n, R, columns); R is the sum of the ranks.
    scaled: room for the smaller of the two times the weights. scales: the weights per column, a view
    that `Vector.write` fills: (n, 1, R) for `up`, (n, R, 1) for `down`.
    dense: (n, m, rows, columns), the ΔW of adapters without such factors; dense_scales: (n, m, 1, 1).
    """

    kept: Kept
    spans: tuple[Span, ...]
    dense_spans: tuple[Span, ...]
    sources: np.ndarray
    up: torch.Tensor | None = None
    down: torch.Tensor | None = None
    scaled: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    dense: torch.Tensor | None = None
    dense_scales: torch.Tensor | None = None

    def change(self, index: int, span: Span) -> torch.Tensor:
        """ΔW of a slot by one of the `dense_spans`, of the slot's matrix."""
        assert self.dense is not None
        slot, found = self.kept.slots[index], self.dense[index, span.start]
        if not self.kept.channels_last:
            return found
        return slot.shaped(found, channels_last=True).reshape(slot.matrix)

    def write(self, values: np.ndarray) -> None:
        """Recompute `mixed` whole from `base`; adapters at zero outside the others take no part."""
        low = [span for span in self.spans if values[span.sources].any()]
        dense = [span for span in self.dense_spans if values[span.sources].any()]
        base, mixed = self.kept.base, self.kept.mixed
        assert mixed is not None
        if not low and not dense:
            mixed.copy_(base)
            return
        factors = self._scaled(slice(low[0].start, low[-1].stop)) if low else None
        whole = factors is not None and factors[0].dtype == mixed.dtype
        if mixed.dtype == torch.float32 or whole or (factors is None and len(dense) == 1):
            self._sum(base, mixed, factors, dense, slice(None))
            return
        step = max(1, _SUM_NUMBERS // mixed[0].numel())
        for start in range(0, len(mixed), step):
            part = slice(start, start + step)
            total = base[part].to(torch.float32)
            self._sum(total, total, factors, dense, part)
            mixed[part].copy_(total)

    def _scaled(self, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n, rows, r) and (n, r, columns), the weights in one of them."""
        up, down, scaled, scales = self.up, self.down, self.scaled, self.scales
        assert up is not None and down is not None and scaled is not None and scales is not None
        if scaled.shape == up.shape:  # not by the weights' shape, which is the same for both where R is 1
            out = scaled[:, :, columns]
            return torch.mul(up[:, :, columns], scales[:, :, columns], out=out), down[:, columns]
        out = scaled[:, columns]
        return up[:, :, columns], torch.mul(down[:, columns], scales[:, columns], out=out)

    def _sum(
        self,
        base: torch.Tensor,
        out: torch.Tensor,
        factors: tuple[torch.Tensor, torch.Tensor] | None,
        dense: Sequence[Span],
        part: slice,
    ) -> None:
        """Write base + Σ wᵢ·ΔWᵢ of the slots in `part` to `out`, which may be `base`."""
        if factors is not None:
            torch.baddbmm(base, factors[0][part], factors[1][part], out=out)
            base = out
        if dense:
            assert self.dense is not None and self.dense_scales is not None
            for span in dense:
                column = self.dense[part, span.start]
                torch.addcmul(base, column, self.dense_scales[part, span.start], out=out)
                base = out
