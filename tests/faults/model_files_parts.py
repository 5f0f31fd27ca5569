"""A safetensors file taken apart, and what is put in the place of its parts to spoil it."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAY, HEADER, NUMBERS = "may be read", "refused by its header", "refused by its numbers"
"""What has to come of a file: anything, or a refusal, which `inspect_adapter` must give as well or not."""

WORDS = ("lora", "<b>x</b>", "../../etc/x", "a\nb", "", "\0", "é\u202eabc", "\ud800", "1e999", "NaN", "-0",
         "true", "null", "[]", "{}", "[" * 900, "9" * 5000, "%s%n", "a" * 5000, "\U0001f600",
         "sdxl_base_v1-0", "stable-diffusion-v2-768-v/lora", "Flux.1-dev/lora", "text_encoder_2", "unet",
         "token", "alpha")  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 1, 2, 3, 4, 7, 32, 2**31, 2**53, 2**62, 2**63, -(2**63),
                           10**30, 10**4000, 0.5, 1e308, float("nan"), float("inf"), [], {}, [1], [[1]],
                           {"a": 1}, *WORDS)  # fmt: skip
"""What stands for anything that JSON can say."""
NAMES = ("<a/b>", "<a\nb>", "<a\0b>", "<..>", "../x", "/etc/x", "C:\\x", "a\u202eb", f"<{'a' * 300}>", "",
         "\ud800", "<\ud800>", "<a\tb>", "<\x1b[31m>", "a..b", "~", "$(x)", "`x`", "<a;b>", "<'>",
         '<">')  # fmt: skip
"""Names that no tensor may have."""
KINDS = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F3", "", "f32", "F32 ", "\ud800")
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


@dataclass
class Parts:
    """A safetensors file taken apart.

    entries: by tensor, as the header has them. metadata: as the header has them. data: the tensors' bytes.
    raw: the header's bytes where they were spoilt as bytes, else None. length: what the file says of its
    header's length, None: the truth. tail: bytes cut from the end where negative, else put there.
    """

    entries: dict[str, Any]
    metadata: Any
    data: bytearray
    raw: bytes | None = None
    length: int | None = None
    tail: int = 0

    def header(self) -> bytes:
        """The header's bytes, unless `raw` stands for them."""
        if self.raw is not None:
            return self.raw
        stated = {} if self.metadata is None else {"__metadata__": self.metadata}
        return json.dumps({**stated, **self.entries}).encode()

    def file(self) -> bytes:
        """The file."""
        raw = self.header()
        whole = (
            struct.pack("<Q", (len(raw) if self.length is None else self.length) % 2**64) + raw + self.data
        )
        return whole[: self.tail] if self.tail < 0 else whole + b"\0" * self.tail

    def state_hash(self) -> None:
        """Let the file state the hash of the numbers that it has now."""
        if isinstance(self.metadata, dict) and "modelspec.hash_sha256" in self.metadata:
            digest = hashlib.sha256(self.data).hexdigest()
            self.metadata |= {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}


def taken_apart(raw: bytes) -> Parts:
    """A sound file's parts."""
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    return Parts(
        entries={key: value for key, value in header.items() if key != "__metadata__"},
        metadata=header.get("__metadata__"), data=bytearray(raw[8 + length :]),
    )  # fmt: skip


Way = Callable[[Parts, random.Random], str]
"""Spoils the parts; returns what has to come of it."""
