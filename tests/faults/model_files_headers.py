"""Bad adapter files whose header shows what is wrong with them, with what is said of each."""

from __future__ import annotations

import json
import struct
from typing import Any


def container(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of a header (JSON-able, or bytes as they are) and its data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """A tensor as a header has it."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BYTES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "holds 0 bytes"),
    "seven bytes": (b"\0" * 7, "holds 7 bytes"),
    "pickle": (b"\x80\x04\x95" + b"\0" * 20, "is a pickle file"),
    "zip pickle": (b"PK\x03\x04" + b"\0" * 20, "is a pickle file"),
    "header of 90 MB": (struct.pack("<Q", 90_000_000) + b"{", "at most 1,000,000 are read"),
    "header of 2^63": (struct.pack("<Q", 2**63) + b"{", "at most 1,000,000 are read"),
    "header cut off": (container(b"{", length=500), "is cut off"),
    "no JSON": (container(b"\xff\xfe{}"), "isn't JSON"),
    "deep JSON": (container(b"[" * 200_000), "isn't JSON"),
    "a list": (container([1, 2]), "holds no names"),
    "a key twice": (container(b'{"a":1,"a":2}'), "isn't JSON"),
    "no tensors": (container({}), "is empty"),
    "only metadata": (container({"__metadata__": {"a": "b"}}), "is empty"),
    "metadata no texts": (container({"__metadata__": {"a": 1}}), "metadata aren't texts"),
    "too many tensors": (
        container({f"a{i}": entry([0], 0, 0) for i in range(20_001)}),
        "at most 20,000|1,000,000",
    ),
    "path in key": (container({"../../etc/x": entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "dots in key": (container({"a..b": entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "newline in key": (container({"a\nb": entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "long key": (container({"a" * 300: entry([1], 0, 4)}, b"\0" * 4), "has a tensor named"),
    "entry no object": (container({"a": 5}), "malformed"),
    "negative shape": (container({"a": entry([-1], 0, 4)}, b"\0" * 4), "malformed"),
    "huge shape": (container({"a": entry([2**61, 2**61], 0, 4)}, b"\0" * 4), "bytes for shape"),
    "boolean shape": (container({"a": entry([True], 0, 4)}, b"\0" * 4), "malformed"),
    "fraction shape": (container({"a": entry([1.5], 0, 6)}, b"\0" * 6), "malformed"),
    "unknown kind": (container({"a": entry([1], 0, 4, "F3")}, b"\0" * 4), "numbers of kind 'F3'"),
    "size against shape": (container({"a": entry([2], 0, 4)}, b"\0" * 4), "bytes for shape"),
    "tensors overlap": (
        container({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"\0" * 6),
        "overlap or leave gaps",
    ),
    "gap": (container({"a": entry([1], 4, 8)}, b"\0" * 8), "overlap or leave gaps"),
    "data cut off": (container({"a": entry([4], 0, 16)}, b"\0" * 8), "is cut off"),
    "data left over": (container({"a": entry([1], 0, 4)}, b"\0" * 9), "5 bytes follow"),
}
"""Bytes, and a pattern of what is said."""

METADATA: dict[str, tuple[str, dict[str, str], str]] = {
    "says it is for SD 3": ("diffusers", {"ss_base_model_version": "sd3_medium"}, "is an adapter for SD 3"),
    "says it is for FLUX": (
        "diffusers", {"modelspec.architecture": "Flux.1-dev/lora"}, "is an adapter for FLUX"
    ),
    "settings that are no JSON": ("diffusers", {"lora_adapter_metadata": "{"}, "isn't readable"),
    "DoRA without magnitudes": (
        "diffusers", {"lora_adapter_metadata": '{"unet.use_dora": true}'},
        "states DoRA, and .* has no magnitudes",
    ),
    "an alpha of words": (
        "diffusers", {"lora_adapter_metadata": '{"unet.lora_alpha": "many"}'}, "isn't readable"
    ),
    "an alpha without end": (
        "diffusers", {"lora_adapter_metadata": '{"unet.lora_alpha": 1e999}'}, "isn't finite"
    ),
    "settings in a list": ("diffusers", {"lora_adapter_metadata": "[]"}, "isn't readable"),
}  # fmt: skip
"""The form, the metadata that it is given, and a pattern of what is said."""

GROUPS: dict[str, tuple[object, str]] = {
    "groups that are a number": (5, "groups of modules that aren't a list"),
    "a group that is a number": ([5], "states the method '5', which isn't known"),
    "a method to come": ([{"method": "new"}], "states the method 'new', which isn't known; update Pigment"),
    "a method that is a table": ([{"method": {}}], "states the method '{}', which isn't known"),
    "options in a list": ([{"method": "lora", "options": [1]}], "aren't names and values"),
    "an option that is a list": (
        [{"method": "lora", "options": {"a": [1]}}], "states an option 'a' for lora that can't be"
    ),
    "an option of 200 digits": (
        [{"method": "lora", "options": {"a": 10**200}}], "states an option 'a' for lora"
    ),
    "an option that is no number": (
        [{"method": "lora", "options": {"a": float("nan")}}], "states an option 'a' for lora"
    ),
    "another method's group": ([{"method": "loha"}], "is incomplete: .* has no hada_w1_a"),
    "modules that are a number": (
        [{"method": "lora", "modules": 5}, {"method": "loha"}], "is incomplete: .* has no hada_w1_a"
    ),
    "a method of other tensors": (
        [{"method": "lokr"}], "states lokr for .*, whose tensors are others: down, up"
    ),
}  # fmt: skip
"""Groups of Pigment's own form, and a pattern of what is said."""
