"""What a file's header shows to be wrong with single modules, before any number is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipelines.adapter import AnyFactors, Factors, LowRank
from pipelines.families import Family
from pipelines.formats.container import FLOATS, Header
from pipelines.formats.keys import ALPHA, DOWN, TOKEN, UP, Parsed
from pipelines.formats.table import Format
from pipelines.methods import METHODS, method_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recognised:
    """What the header alone says about a file. left: key → why, of what is passed over on request."""

    header: Header
    format: Format
    family: Family
    parsed: Parsed
    left: Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """What is wrong at one module. says: the end of a sentence that begins with the file's name."""

    module: str
    says: str


def faults(header: Header, parsed: Parsed, known_methods: Mapping[str, str]) -> Iterator[Fault]:
    """Find every module whose tensors don't make a method, or have kinds or shapes that can't be.

    known_methods: method by module, where the file states it.
    """
    for module, parts in parsed.parts.items():
        if module.startswith(f"{TOKEN}."):
            fault = _token_fault(header, parts)
        else:
            fault = _incomplete(module, parts, known_methods.get(module)) or _kinds(header, module, parts)
            if fault is None and {DOWN, UP} <= parts.keys():
                fault = _pair_fault(header, module, parts)
        if fault:
            yield Fault(module, fault)


def _incomplete(module: str, parts: Mapping[str, str], stated: str | None) -> str | None:
    found = parts.keys() - {ALPHA}
    row = METHODS[stated] if stated else method_of(found)
    if row is not None and row.required <= found <= row.known:
        return None
    fitting = [row] if row else [row for row in METHODS.values() if found <= row.known]
    if not fitting:
        return f"has tensors at {module} that no method puts together: {', '.join(sorted(found))[:100]}"
    lacking = min(
        (sorted(row.required - found) for row in fitting if row.required - found), key=len, default=[]
    )
    if not lacking:
        return f"states {stated} for {module}, whose tensors are others: {', '.join(sorted(found))[:100]}"
    return f"is incomplete: {module} has no {lacking[0]} factor; fetch it again"


def _kinds(header: Header, module: str, parts: Mapping[str, str]) -> str | None:
    for part, key in parts.items():
        entry = header.tensors[key]
        single = entry.shape in ((), (1,)) and entry.dtype != "BOOL"
        if part == ALPHA and not single:
            return f"has an alpha of shape {entry.shape} at {module}; expected one number"
        if part != ALPHA and entry.dtype not in FLOATS and not single:
            return f"has {entry.dtype} numbers at {module}; expected F32, F16 or BF16"
    return None


def _pair_fault(header: Header, module: str, parts: Mapping[str, str]) -> str | None:
    down, up = (header.tensors[parts[part]].shape for part in (DOWN, UP))
    fits = len(down) in (2, 4) and len(up) in (2, 4) and 0 not in (*down, *up)
    middle = header.tensors[parts["mid"]].shape if "mid" in parts else None
    if middle is not None:
        # Tucker: down (r, in), mid (r, r, kh, kw), up (out, r).
        fits = fits and len(middle) == 4 and 0 not in middle and middle[0] == up[1] and middle[1] == down[0]
    elif fits:
        fits = up[1] == down[0]
    if not fits or any(side != 1 for side in up[2:]):
        return f"has factors that don't fit at {module}: down {down}, up {up}"
    return None


def _token_fault(header: Header, parts: Mapping[str, str]) -> str | None:
    for key in parts.values():
        entry = header.tensors[key]
        if entry.dtype not in FLOATS:
            return f"has {entry.dtype} numbers at token {key[:60]!r}; expected F32, F16 or BF16"
        if len(entry.shape) not in (1, 2) or 0 in entry.shape or entry.shape[:-1] > (1000,):
            return f"has a token {key[:60]!r} of shape {entry.shape}; expected vectors (n, width)"
    return None


def misshapen(factors: Mapping[str, AnyFactors]) -> Iterator[Fault]:
    """Find modules whose parts can't be multiplied to a ΔW; LoRA's pairs are checked by the header.

    ΔW is computed without numbers (on torch's meta device), once for each set of shapes.
    """
    import torch

    seen: dict[object, str | None] = {}
    for module, factor in factors.items():
        if isinstance(factor, LowRank):
            continue
        shapes = tuple(sorted((name, tuple(part.shape)) for name, part in factor.parts.items()))
        kind = (factor.method, shapes, repr(sorted(factor.options.items())))
        if kind not in seen:
            ghosts = {name: torch.empty_like(p, device="meta") for name, p in factor.parts.items()}
            seen[kind] = _product_fault(factor, ghosts)
        if why := seen[kind]:
            yield Fault(module, f"has factors that don't fit at {module}: {why}")


def _product_fault(factor: AnyFactors, ghosts: Mapping[str, torch.Tensor]) -> str | None:
    import torch

    assert isinstance(factor, Factors)
    row = METHODS[factor.method]
    if not factor.has_delta:
        return None  # what it sits on tells: see Adapter.check
    try:
        shape = factor.weight_shape
        if row.needs_weight and shape is None:
            return None  # only the base tells: see Adapter.check
        weight = torch.empty(shape, device="meta") if row.needs_weight and shape else None
        delta = replace(factor, parts=ghosts).delta(weight)
    except (RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError, KeyError) as error:
        return (str(error).splitlines() or ["they can't be multiplied"])[0][:80]
    if shape is not None and delta.numel() != math.prod(shape):
        return f"they make {tuple(delta.shape)} of {shape}"
    return None if delta.numel() else "they are empty"
