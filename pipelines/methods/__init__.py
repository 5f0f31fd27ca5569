"""The fine-tuning methods, one row each: their tensors, their ΔW, and how PEFT spells them."""

from __future__ import annotations

from collections.abc import Collection

from pipelines.methods.lora import LORA
from pipelines.methods.method import Method, Part

__all__ = ["METHODS", "Method", "Part", "method_of"]

METHODS: dict[str, Method] = {row.id: row for row in (LORA,)}


def method_of(parts: Collection[str]) -> Method | None:
    """Return the method that keeps just these parts per module (alpha aside), or None."""
    found = frozenset(parts) - {"alpha"}
    for row in METHODS.values():
        if row.required <= found <= row.known:
            return row
    return None
