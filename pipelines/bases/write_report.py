"""What was measured of a base that was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LAYOUTS = {"file": "one .safetensors file in the original layout, as A1111, ComfyUI and InvokeAI read it",
           "folder": "a folder in diffusers' layout"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What was written, and what reading it back found.

    dtype: a key of DTYPES, or "as stored". sha256: of the file; of a folder, as `Source.sha256`. tensors:
    how many there are; equal: how many came back bit for bit; changed: how many the mix changed.
    adapters: what was folded in, by name, with (UNet, text encoders) weights. published: whether its sizes
    are a published model's, the only ones that other tools read from one file.
    """

    path: str
    layout: str
    family: str
    dtype: str
    sha256: str
    bytes: int
    tensors: int
    equal: int
    changed: int
    adapters: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    published: bool = True

    @property
    def short_hash(self) -> str:
        """The hash as A1111 shows it: the first ten digits."""
        return self.sha256[:10]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {**asdict(self), "short_hash": self.short_hash}

    def as_text(self) -> str:
        """Return the report for people, one finding a line."""
        lines = [
            f"{self.path}: {LAYOUTS[self.layout]}; {self.family}, {self.dtype}, {self.bytes:,} bytes",
            f"read back: {self.equal:,}/{self.tensors:,} tensors equal, {self.changed:,} changed by the mix",
        ]
        if self.layout == "file" and not self.published:
            lines.append("its sizes are no published model's: other tools read it with its configs only")
        for name, (unet, text) in self.adapters.items():
            lines.append(f"with {name} at {unet:g} on the UNet, {text:g} on the text encoders")
        lines.append(f"SHA-256: {self.sha256} (as A1111 shows it: {self.short_hash})")
        return "\n".join(lines)
