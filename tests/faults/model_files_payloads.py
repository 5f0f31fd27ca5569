"""Pickles that would do harm when they are opened: each writes a marker, by which it is known that it was."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", "")


@dataclass(frozen=True)
class Payload:
    """What a pickle does when it is opened: it makes the file `marker`."""

    marker: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def _plain(protocol: int, marker: str) -> bytes:
    return pickle.dumps(Payload(marker), protocol)


def _torch(marker: str, zipped: bool) -> bytes:
    import torch

    buffer = io.BytesIO()
    weights = {"weight": torch.zeros(2, 2), "x": Payload(marker)}
    torch.save({"state_dict": weights}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _numpy(marker: str) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npz(marker: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", _numpy(marker))
    return buffer.getvalue()


def _behind(marker: str) -> bytes:
    """A sound safetensors file with a pickle as its numbers, and one behind it."""
    raw = pickle.dumps(Payload(marker), 4)
    header = b'{"x": {"dtype": "U8", "shape": [%d], "data_offsets": [0, %d]}}' % (len(raw), len(raw))
    return struct.pack("<Q", len(header)) + header + raw + raw


MADE: dict[str, Callable[[str], bytes]] = {
    **{f"pickle, protocol {protocol}": partial(_plain, protocol) for protocol in range(6)},
    "torch's zip": lambda marker: _torch(marker, True),
    "torch's older form": lambda marker: _torch(marker, False),
    "numpy's array": _numpy,
    "numpy's zip": _npz,
    "behind a safetensors file": _behind,
}
"""By name, what makes the bytes of a payload that would make the marker."""


def goes_off(raw: bytes, marker: Path, scratch: Path) -> bool:
    """Whether a payload makes its marker when it is opened as it would be by those who do; removes it."""
    import numpy as np
    import torch

    path = scratch / "live"
    path.write_bytes(raw)
    openers: tuple[Callable[[], Any], ...] = (
        lambda: torch.load(path, weights_only=False),
        lambda: pickle.loads(raw),
        lambda: np.load(path, allow_pickle=True)["x"],
        lambda: np.load(path, allow_pickle=True),
        lambda: pickle.loads(raw[8 + struct.unpack("<Q", raw[:8])[0] :]),
    )
    for opener in openers:
        try:
            opener()
        except Exception:
            continue
    path.unlink()
    went = marker.exists()
    marker.unlink(missing_ok=True)
    return went


@contextmanager
def watched() -> Iterator[list[str]]:
    """Note what is given to the functions that open pickles, also where they are told to be careful."""
    import numpy as np
    import torch
    from pytest import MonkeyPatch

    opened: list[str] = []

    def note(own: Any, name: str) -> Any:
        def spied(*given: Any, **more: Any) -> Any:
            opened.append(f"{name}({str(given[0])[:80] if given else ''})")
            return own(*given, **more)

        return spied

    with MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", note(torch.load, "torch.load"))
        patch.setattr(pickle, "load", note(pickle.load, "pickle.load"))
        patch.setattr(np, "load", note(np.load, "numpy.load"))
        yield opened
