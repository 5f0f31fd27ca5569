"""Weights by memory map: each tensor goes from its file to the device in its final precision, one by one.

A tensor that is used on the CPU in the precision of its file, and lies there as PyTorch would lay it, is the
file's own memory: nothing is copied until something writes to it, and then only here. All others are copied
one at a time, and the pages they came from are given back, so that loading never holds much more than the
model itself.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.bases.layout import Piece
from pipelines.errors import BaseError
from pipelines.formats.container import BYTES_PER_NUMBER, Header, read_header

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
           "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
           "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip

ALIGNMENT = 64
"""Bytes. Products of matrices may round by where these lie, so weights lie here as PyTorch lays its own."""


def _stamp(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class TensorFile:
    """A safetensors file whose tensors are views of its memory map (private: writes stay in this process)."""

    def __init__(self, path: Path) -> None:
        """Raises: BaseError for what isn't a whole safetensors file within the limits of `read_header`."""
        self.path = path
        self._kept: set[str] = set()
        self.header: Header = read_header(path, BaseError)
        try:
            with open(path, "rb") as file:
                self._stamp = _stamp(os.fstat(file.fileno()))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise BaseError(f"{path.name!r} can't be mapped to memory: {str(error)[:120]}") from None

    @property
    def unchanged(self) -> bool:
        """Whether the file of that name is still the one that is mapped, and nothing was written to it."""
        try:
            return _stamp(os.stat(self.path)) == self._stamp
        except OSError:
            return False

    def view(self, name: str) -> torch.Tensor:
        """Return a tensor as a view of the map, or a copy where it isn't aligned to its numbers."""
        entry = self.header.tensors[name]
        dtype, begin = _DTYPES[entry.dtype], self.header.data_start + entry.begin
        if entry.end == entry.begin:
            return torch.empty(entry.shape, dtype=dtype)
        if begin % BYTES_PER_NUMBER[entry.dtype]:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.end - entry.begin, offset=begin)
            return raw.clone().view(dtype).reshape(entry.shape)
        count = (entry.end - entry.begin) // BYTES_PER_NUMBER[entry.dtype]
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=begin).reshape(entry.shape)

    def keep(self, name: str) -> None:
        """Leave a tensor's pages alone from now on: a module's weights are views of them."""
        self._kept.add(name)

    def release(self, name: str) -> None:
        """Give the memory of a tensor's pages back; views read them anew, without what was written."""
        if name in self._kept:
            return
        entry = self.header.tensors[name]
        first = -(-(self.header.data_start + entry.begin) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (self.header.data_start + entry.end) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


@dataclass(frozen=True)
class Stored:
    """One tensor of a part of a base, in a file: whole, or the piece of it that `piece` says."""

    file: TensorFile
    piece: Piece

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape as diffusers has it."""
        return self.piece.shape_from(self.file.header.tensors[self.piece.key].shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its precision in the file."""
        return _DTYPES[self.file.header.tensors[self.piece.key].dtype]

    def view(self) -> torch.Tensor:
        """The tensor as a view of the file wherever that can be."""
        return self._cut(self.file.view(self.piece.key))

    def keep(self) -> None:
        """Leave its memory alone from now on."""
        self.file.keep(self.piece.key)

    def release(self) -> None:
        """Give back the memory of a tensor that isn't used any more."""
        self.file.release(self.piece.key)

    def _cut(self, whole: torch.Tensor) -> torch.Tensor:
        if self.piece.rows is not None:
            whole = whole[self.piece.rows[0] : self.piece.rows[1]]
        if self.piece.transposed:
            whole = whole.T.contiguous()
        return whole if self.piece.shape is None else whole.reshape(self.piece.shape)


State = Mapping[str, Stored]
"""The tensors of one part by the names that its module has for them."""


def state_of(files: Sequence[Path], rename: Mapping[str, str] | None = None) -> dict[str, Stored]:
    """Return all tensors of a part's files under their own names, or those that `rename` has for them."""
    found: dict[str, Stored] = {}
    for path in files:
        file = TensorFile(path)
        for key in file.header.tensors:
            found[(rename or {}).get(key, key)] = Stored(file, Piece(key))
    return found


def fill(model: nn.Module, state: State, device: torch.device, dtype: torch.dtype, what: str) -> None:
    """Put a part's tensors into a module that was made without any (`accelerate.init_empty_weights`).

    Floating-point tensors come in `dtype`; others keep theirs. Nothing is left out silently. what: its name
    in messages.

    Raises: BaseError for tensors that lack, are of another shape, or that the module has no place for.
    """
    places = dict(_places(model))
    lacking = [name for name in places if name not in state]
    if lacking:
        raise BaseError(f"{what} lacks {len(lacking)} weights, for instance {sorted(lacking)[0]}")
    beyond = sorted(name for name in state if name not in places and not name.endswith("position_ids"))
    if beyond:
        raise BaseError(
            f"{what} holds {len(beyond)} weights that its config has no place for, for instance {beyond[0]}"
        )
    for name, (module, leaf, shape) in places.items():
        stored = state[name]
        if stored.shape != shape:
            raise BaseError(f"{what} has {name} of shape {stored.shape}, its config says {shape}")
        view = stored.view()
        value = view.to(device, dtype if view.is_floating_point() else view.dtype)
        if value.data_ptr() == view.data_ptr() and value.data_ptr() % ALIGNMENT:
            value = view.clone()
        if value.data_ptr() == view.data_ptr():
            stored.keep()
        else:
            stored.release()
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[leaf] = value


def _places(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, str, tuple[int, ...]]]]:
    """Every parameter and saved buffer of a module: its name, where it lives, its shape."""
    for prefix, module in model.named_modules():
        values: dict[str, Any] = {**module._parameters, **module._buffers}
        for leaf, value in values.items():
            if value is not None and leaf not in module._non_persistent_buffers_set:
                yield f"{prefix}.{leaf}".lstrip("."), (module, leaf, tuple(value.shape))
