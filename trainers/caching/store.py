"""Tensors on disk under the hash of what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.files import write_atomic

LIMIT_BYTES = 20_000_000_000
"""What a store may hold; above it the longest unused entries go."""

_SUFFIX = ".safetensors"
_SEAL = "pigment"
_ABANDONED_SECONDS = 3600.0
_COARSE_SECONDS = 2.0
"""By so much a disk may say that something was earlier than it was."""
_AT_ONCE = 8


class Store:
    """A folder of entries that runs and processes share, one safetensors file each.

    An entry is whole or not there (see `write_atomic`), and is read only where the SHA-256 over its
    tensors is the one written with it, and all are numbers: a damaged, foreign or half-written one is as one
    that is missing.
    Two that write the same entry write the same thing. The folder may be removed at any time, in part or
    whole: `tidy` does so with the longest unused entries above a limit.

    damaged: entries that were there but couldn't be trusted. failed: why writing has failed, once it has;
    nothing more is written then, since a run can do without.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged = 0
        self.failed: str | None = None
        self._began = time.time() - _COARSE_SECONDS

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """Return the tensors of an entry, on the CPU, or None where there is none to trust."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            said = json.loads(data[8 : 8 + length])["__metadata__"][_SEAL]
            whole = said == _seal(key, tensors) and _finite(tensors)
        except (SafetensorError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self.damaged += 1
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was last used, for `tidy`
        return tensors

    def has(self, key: str) -> bool:
        """Tell whether there is an entry, and mark it as used, so that it stays; it isn't read."""
        path = self._path(key)
        with contextlib.suppress(OSError):  # a folder of others, say, that can only be read
            os.utime(path)
        return path.is_file()

    def write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep an entry; where the disk doesn't take it, say so in `failed` and go on.

        One with numbers that are none isn't kept: what made it may be well the next time.
        """
        from safetensors.torch import save

        if self.failed is not None or not _finite(tensors):
            return
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        data = save(whole, {_SEAL: _seal(key, whole)})
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, [data])
        except OSError as error:
            self.failed = error.strerror or type(error).__name__

    def notes(self, what: str) -> Iterator[str]:
        """Yield what people should know of this store. what: of which things it holds, in the plural."""
        if self.damaged:
            yield f"{self.damaged} damaged entries of the cached {what} were made again"
        if self.failed is not None:
            yield f"{what} can't be kept in the cache folder ({self.failed}); going on without"

    def tidy(self, limit: int = LIMIT_BYTES) -> int:
        """Remove what killed writers left, and the longest unused entries above `limit` bytes.

        Entries that were written or read since this store was opened stay. Returns: bytes removed.
        """
        entries: list[tuple[float, int, Path]] = []
        removed = 0
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                found = path.stat()
                if path.suffix == _SUFFIX:
                    entries.append((found.st_mtime, found.st_size, path))
                elif path.suffix == ".tmp" and time.time() - found.st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
                    removed += found.st_size
        total = sum(size for _, size, _ in entries)
        for used, size, path in sorted(entries):
            if total <= limit or used >= self._began:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total, removed = total - size, removed + size
        return removed

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"


def _finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(one.isfinite().all()) for one in tensors.values() if one.is_floating_point())


def _seal(key: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """What an entry's file says of itself: its name, and the hash of what is in it."""
    return f"{key} {tensors_sha256(tensors)}"


def key_of(*parts: Any) -> str:
    """Return the name of an entry that was made from these plain values: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over tensors' names, dtypes, shapes and bytes, whatever device they are on."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_sha256(modules: Iterable[nn.Module]) -> str:
    """Return the SHA-256 over modules' weights and configs, as they are in memory: dtype and all.

    Weights are hashed one by one, several at a time, since a large text encoder takes a second otherwise.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for module in modules:
            config: Any = getattr(module, "config", {})
            said = config.to_dict() if hasattr(config, "to_dict") else dict(config)
            public = {name: value for name, value in said.items() if not name.startswith("_")}
            digest.update(json.dumps(public, sort_keys=True, default=str).encode())
            state = module.state_dict()
            for one in pool.map(lambda item: tensors_sha256(dict([item])), state.items()):
                digest.update(one.encode())
    return digest.hexdigest()


def machine(device: torch.device) -> list[str | int]:
    """Say what the last bits of a result depend on beside its inputs: library, device, CPU threads."""
    if device.type == "cuda":
        return [torch.__version__, torch.cuda.get_device_name(device)]
    return [torch.__version__, device.type, torch.get_num_threads()]
