"""A safetensors file written tensor by tensor: the header first, then each tensor as it is made."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.bases.reading import ALIGNMENT
from pipelines.errors import BaseError
from pipelines.formats.container import BYTES_PER_NUMBER, MAX_HEADER_BYTES, MAX_TENSORS

SPELLINGS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written: its precision and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_stream(
    path: Path,
    planned: Mapping[str, Planned],
    make: Callable[[str], torch.Tensor],
    metadata: Mapping[str, str],
    *,
    hashed: tuple[str, ...] = (),
    alignment: int = ALIGNMENT,
) -> None:
    """Write a safetensors file, synced; `make` is asked for one tensor after the other.

    Tensors lie widest numbers first, those of odd sizes last, then by name, so the same model gives the same
    bytes, and nearly all weights are aligned (see `reading`). hashed: keys of
    the metadata that get the SHA-256 of the tensors' bytes, which is known at the end only; a text before
    the hash in `metadata` stays ("0x"). alignment: of the first tensor in the file, in bytes.

    Raises: BaseError where the header passes the limits that are read, OSError as the system gives it.
    """
    names = sorted(planned, key=lambda name: _place(planned[name], name))
    stated = {**metadata, **{key: metadata.get(key, "") + _NO_HASH for key in hashed}}
    head = _header(path, names, planned, stated, alignment)
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        file.write(head)
        for name in names:
            data = _bytes_of(make(name), planned[name], name)
            digest.update(data)
            file.write(data)
        if hashed:
            stated |= {key: metadata.get(key, "") + digest.hexdigest() for key in hashed}
            file.seek(0)
            file.write(_header(path, names, planned, stated, alignment))
        file.flush()
        os.fsync(file.fileno())


def _place(planned: Planned, name: str) -> tuple[int, bool, str]:
    return (-planned.dtype.itemsize, planned.nbytes % ALIGNMENT != 0, name)


def _header(
    path: Path,
    names: list[str],
    planned: Mapping[str, Planned],
    metadata: Mapping[str, str],
    alignment: int,
) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in names:
        row = planned[name]
        kind = SPELLINGS[row.dtype]
        assert BYTES_PER_NUMBER[kind] == row.dtype.itemsize
        header[name] = {
            "dtype": kind, "shape": list(row.shape), "data_offsets": [position, position + row.nbytes]
        }  # fmt: skip
        position += row.nbytes
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(len(raw) + 8) % alignment)  # so that a loader can use the file's memory as it is
    if len(raw) > MAX_HEADER_BYTES or len(names) > MAX_TENSORS:
        raise BaseError(
            f"{path.name!r} would have {len(raw):,} bytes of names and metadata and {len(names):,} tensors; "
            f"at most {MAX_HEADER_BYTES:,} and {MAX_TENSORS:,} are read; write a diffusers folder instead"
        )
    return struct.pack("<Q", len(raw)) + raw


def _bytes_of(tensor: torch.Tensor, planned: Planned, name: str) -> memoryview:
    """The numbers of a tensor as little-endian bytes."""
    assert tensor.dtype == planned.dtype and tuple(tensor.shape) == planned.shape, name
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
