"""The weights of a mix as one small vector, and its entries spread over the columns that they scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Vector:
    """One weight per adapter and block, gathered to where products need them.

    `views` are tensors of the shapes of the `indices` given: entry i of a view is the weight at that
    index. A `write` fills all of them by one copy and one gather, without waiting for the device.
    """

    def __init__(
        self,
        indices: Sequence[np.ndarray],
        devices: Sequence[torch.device],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """indices: arrays of positions in the vector (adapter · blocks + block). devices: of each view.

        dtype: of the views.
        """
        self._dtype = dtype
        self._indices: dict[torch.device, torch.Tensor] = {}
        self._gathered: dict[torch.device, torch.Tensor] = {}
        views: dict[int, torch.Tensor] = {}
        for device in dict.fromkeys(devices):
            chosen = [position for position, where in enumerate(devices) if where == device]
            flat = np.concatenate([indices[position].reshape(-1) for position in chosen])
            self._indices[device] = torch.from_numpy(flat.astype(np.int64)).to(device)
            self._gathered[device] = gathered = torch.zeros(len(flat), dtype=dtype, device=device)
            start = 0
            for position in chosen:
                index = indices[position]
                views[position] = gathered[start : start + index.size].view(index.shape)
                start += index.size
        self.views = [views[position] for position in range(len(indices))]

    @property
    def nbytes(self) -> int:
        """Bytes of indices and entries."""
        return sum(part.nbytes for part in (*self._indices.values(), *self._gathered.values()))

    def write(self, values: np.ndarray) -> None:
        """Fill the views from the vector `values`, fp32."""
        plain = torch.from_numpy(values).to(self._dtype)
        for device, gathered in self._gathered.items():
            # Pinned, so that the copy needn't be waited for.
            host = plain.pin_memory() if device.type == "cuda" else plain
            torch.index_select(host.to(device, non_blocking=True), 0, self._indices[device], out=gathered)
