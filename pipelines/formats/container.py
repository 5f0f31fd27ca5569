"""Safetensors files as bytes: a header read with limits, and a writer whose output is reproducible.

The limits are there because hostile headers cost seconds and memory in ordinary readers; nothing
of the tensors is read before the header has passed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError, StudioError
from pipelines.files import write_atomic
from pipelines.plain_json import parse_json

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 1_000_000
MAX_TENSORS = 20_000
BYTES_PER_NUMBER = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
                    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")

# Learned tokens stand in keys by their name (`<my cat>`, `bundle_emb.x.string_to_param.*`): letters of any
# script and a few signs are let through, what means something to paths, shells' quotes or terminals isn't.
_KEY = re.compile(r"[\w<*][\w.\-<>*+!# ]{0,255}")
_PICKLE_ENDINGS = (".ckpt", ".pt", ".pth", ".bin", ".pickle", ".pkl")
_PICKLE_BYTES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: dtype as safetensors spells it, shape, and its bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says before its tensors. data_start: byte where the tensors begin."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path, error: type[StudioError] = AdapterError) -> Header:
    """Read and check the header of a safetensors file.

    At most 1 MB of header and 20,000 tensors; plain key names; the tensors' bytes must fill the
    rest of the file exactly, without overlap.

    Raises: `error` in one line for everything else, pickle files included.
    """
    shown = path.name
    if path.suffix.lower() in _PICKLE_ENDINGS:
        raise error(
            f"{shown!r} is a pickle file, which is never opened; convert it to .safetensors elsewhere"
        )
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise error(f"{shown!r} is no file; expected a .safetensors file")
        with open(path, "rb") as file:
            start = file.read(8)
            _refuse_other_kinds(start, shown, error)
            length = struct.unpack("<Q", start)[0]
            if length > size and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
                raise error(
                    f"{shown!r} isn't a safetensors file: it begins with the text {start.decode()!r} (a web "
                    "page, a recipe, or a pointer to the file); fetch it again"
                )
            if length > MAX_HEADER_BYTES:
                raise error(f"{shown!r} has a header of {length:,} bytes, at most 1,000,000 are read; "
                                   "its metadata may be too long: resave it without them")  # fmt: skip
            raw = file.read(length)
    except OSError as refusal:
        raise error(f"{shown!r} can't be read: {refusal.strerror or refusal}; check the path") from None
    if len(raw) < length:
        raise error(
            f"{shown!r} is cut off: its header ends after {len(raw)} of {length} bytes; fetch it again"
        )
    tensors, metadata = _parse(raw, shown, error)
    _check_extent(tensors, size - 8 - length, shown, error)
    return Header(tensors=tensors, metadata=metadata, data_start=8 + length)


def read_header_text(path: Path) -> dict[str, Any]:
    """Return the header of a file that has passed `read_header` as plain JSON values, in its order."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header: dict[str, Any] = json.loads(file.read(length))
    return header


def _refuse_other_kinds(start: bytes, shown: str, error: type[StudioError]) -> None:
    # A short header's length can begin with the bytes of a pickle (640 is 0x80 0x02); no pickle goes on
    # with zeros, so that as a length it would be above the limit.
    short = len(start) == 8 and struct.unpack("<Q", start)[0] <= MAX_HEADER_BYTES
    if not short and any(start.startswith(mark) for mark in _PICKLE_BYTES):
        raise error(
            f"{shown!r} is a pickle file, which is never opened; convert it to .safetensors elsewhere"
        )
    if len(start) < 8:
        raise error(f"{shown!r} holds {len(start)} bytes; expected a .safetensors file")


def _parse(raw: bytes, shown: str, error: type[StudioError]) -> tuple[dict[str, Entry], dict[str, str]]:
    try:
        header = parse_json(raw, _no_duplicates)
    except ValueError:
        raise error(f"{shown!r} isn't a safetensors file: its header isn't JSON") from None
    if not isinstance(header, dict):
        raise error(f"{shown!r} isn't a safetensors file: its header holds no names")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise error(f"{shown!r} isn't a safetensors file: its metadata aren't texts")
    if len(header) > MAX_TENSORS:
        raise error(f"{shown!r} has {len(header):,} tensors, at most {MAX_TENSORS:,} are read")
    return {key: _entry(key, value, shown, error) for key, value in header.items()}, metadata


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of JSON pairs. Raises: ValueError where a key stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _entry(key: str, value: Any, shown: str, error: type[StudioError]) -> Entry:
    if not _KEY.fullmatch(key) or ".." in key:
        raise error(f"{shown!r} has a tensor named {key[:60]!r}; expected letters, digits, '_', '-', '.'")
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        whole = all(type(number) is int and 0 <= number < 2**62 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole or not isinstance(dtype, str) or len(shape) > 8:
        raise error(f"{shown!r} isn't a safetensors file: the entry of {key!r} is malformed")
    if dtype not in BYTES_PER_NUMBER:
        raise error(f"{shown!r} has numbers of kind {dtype[:20]!r} at {key!r}; expected F32, F16 or BF16")
    numbers = 1
    for side in shape:
        numbers *= side
    if end - begin != numbers * BYTES_PER_NUMBER[dtype]:
        raise error(f"{shown!r} isn't a safetensors file: {key!r} has {end - begin} bytes for shape {shape}")
    return Entry(dtype, shape, begin, end)


def _check_extent(tensors: Mapping[str, Entry], available: int, shown: str, error: type[StudioError]) -> None:
    position = 0
    for entry in sorted(tensors.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise error(f"{shown!r} isn't a safetensors file: its tensors overlap or leave gaps")
        position = entry.end
    if position > available:
        raise error(f"{shown!r} is cut off: {available:,} of {position:,} bytes are there; fetch it again")
    if position < available:
        raise error(f"{shown!r} isn't a safetensors file: {available - position:,} bytes follow its tensors")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a file whose header has passed `read_header`.

    Raises: AdapterError if it changed meanwhile or can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise AdapterError(f"{path.name!r} can't be read: {str(error)[:120]}; fetch it again") from None


def data_sha256(path: Path, data_start: int) -> str:
    """SHA-256 of the bytes after the header, 64 hexadecimal digits: the hash that other tools show."""
    with open(path, "rb") as file:
        file.seek(data_start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_container(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file atomically and return the SHA-256 of the file.

    The same tensors and metadata give the same bytes: tensors lie widest numbers first and then by
    name, metadata by name (safetensors' own writer orders metadata by chance). `modelspec.hash_sha256`
    and `sshs_model_hash` are added: the SHA-256 of the tensors' bytes.

    Raises: AdapterError when the header would pass the limit of `read_header`, or the system refuses.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    blobs = {name: _bytes_of(tensors[name]) for name in names}
    digest = hashlib.sha256()
    for name in names:
        digest.update(blobs[name])
    stated = {
        **metadata,
        "modelspec.hash_sha256": f"0x{digest.hexdigest()}",
        "sshs_model_hash": digest.hexdigest(),
    }
    header: dict[str, Any] = {"__metadata__": dict(sorted(stated.items()))}
    position = 0
    for name in names:
        end = position + len(blobs[name])
        shape = [int(side) for side in tensors[name].shape]
        header[name] = {"dtype": _spelling(tensors[name]), "shape": shape, "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER_BYTES or len(names) > MAX_TENSORS:
        raise AdapterError(
            f"{path.name!r} would have {len(raw):,} bytes of names and metadata and {len(names):,} tensors; "
            f"at most {MAX_HEADER_BYTES:,} and {MAX_TENSORS:,} are written; shorten its metadata"
        )

    def chunks() -> Iterator[bytes]:
        yield struct.pack("<Q", len(raw))
        yield raw
        for name in names:
            yield blobs[name]

    try:
        return write_atomic(path, chunks())
    except OSError as error:
        raise AdapterError(
            f"{path.name!r} can't be written: {error.strerror or os.strerror(error.errno or 0)}"
        ) from None


def _spelling(tensor: torch.Tensor) -> str:
    import torch

    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
    return kinds[tensor.dtype]


def _bytes_of(tensor: torch.Tensor) -> bytes:
    """The numbers of a tensor as little-endian bytes."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
