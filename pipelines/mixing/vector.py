"""The weights of a mix as one small vector, and its entries spread over the columns that they scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Vector:
    """One weight per adapter and block, on the device, gathered to where products need them.

    `views` are tensors of the shapes of the `indices` given: entry i of a view is the weight at that
    index. A `write` fills all of them by one copy and one gather, without waiting for the device.
    """

    def __init__(
        self, indices: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """indices: arrays of positions in the vector (adapter · blocks + block). dtype: of the views."""
        self._device, self._dtype = device, dtype
        flat = np.concatenate([index.reshape(-1) for index in indices] or [np.zeros(0, dtype=np.int64)])
        self._index = torch.from_numpy(flat.astype(np.int64)).to(device)
        self._gathered = torch.zeros(len(flat), dtype=dtype, device=device)
        ends = np.cumsum([index.size for index in indices])
        self.views = [
            self._gathered[end - index.size : end].view(index.shape)
            for index, end in zip(indices, ends, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of index and entries."""
        return self._index.nbytes + self._gathered.nbytes

    def write(self, values: np.ndarray) -> None:
        """Fill the views from the vector `values`, fp32."""
        host = torch.from_numpy(values).to(self._dtype)
        if self._device.type == "cuda":  # pinned, so that the copy needn't be waited for
            host = host.pin_memory()
        there = host.to(self._device, non_blocking=True)
        torch.index_select(there, 0, self._index, out=self._gathered)
