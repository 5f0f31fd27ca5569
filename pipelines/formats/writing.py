"""Adapter files out: one form, one precision, whole or not at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, AnyFactors, LowRank
from pipelines.errors import AdapterError, nearest
from pipelines.families import FAMILIES
from pipelines.formats import pigment
from pipelines.formats.container import write_container
from pipelines.formats.keys import ALPHA, DOWN, UP
from pipelines.formats.metadata import file_metadata
from pipelines.formats.table import FORMATS, Format
from pipelines.methods import METHODS

if TYPE_CHECKING:
    import torch

WRITE_DTYPES = ("fp16", "bf16", "fp32")

# fp16 holds full precision from 2^-14 up to 65504; factors whose largest number lies outside of this
# band are moved into it by powers of two, which changes nothing else.
_FP16_BAND = (2.0**-8, 2.0**14)


def write_adapter(adapter: Adapter, path: str | Path, format: str = "kohya", dtype: str = "fp16") -> str:
    """Write an adapter atomically and return the SHA-256 of the file (of its weights, for a folder).

    path: a name ending in .safetensors, or a folder for the forms of that kind. format: a key of
    FORMATS. dtype: "fp16", "bf16" or "fp32"; what multiplies whole weights (DoRA's magnitudes, IA3's
    scales, rotations) and alphas stay fp32, as rounding them would outweigh ΔW. The same adapter gives
    the same bytes. ΔW is kept: where a form can't hold differing alphas, they are folded into `up`.

    Raises: AdapterError for unknown names, another ending, an adapter that the form can't hold or that
    is unsound, numbers beyond the precision's range, or a system that refuses; then nothing is written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise AdapterError(f"unknown format {format!r}{nearest(format, FORMATS)}")
    if dtype not in WRITE_DTYPES:
        raise AdapterError(f"unknown precision {dtype!r}{nearest(dtype, WRITE_DTYPES)}")
    form = FORMATS[format]
    if form.kind == "file" and path.suffix != ".safetensors":
        raise AdapterError(f"{path.name!r} can't be an adapter file; expected a name ending in .safetensors")
    if problem := unholdable(adapter, form):
        raise AdapterError(problem)
    adapter.check_factors()
    if form.kind == "folder":
        from pipelines.formats.peft import write_peft

        return write_peft(adapter, path, dtype)
    factors = form.normalise(adapter.factors)
    tensors = _tensors(factors, adapter, form, dtype)
    written = Counter(factor.alpha for name, factor in factors.items() if name.startswith("unet."))
    alphas = (written or Counter(factor.alpha for factor in factors.values())).most_common(1)
    metadata = file_metadata(
        adapter,
        rank=adapter.rank,
        alpha=alphas[0][0] if alphas else 0.0,
        module=form.module,
        extra=_extra(adapter, form),
    )
    return write_container(path, tensors, metadata)


def unholdable(adapter: Adapter, form: Format) -> str | None:
    """Say why a form can't hold an adapter and what to do, or None."""
    if not adapter.factors and not adapter.tokens:
        return f"adapter {adapter.name!r} is empty; there is nothing to write"
    if adapter.tokens and not form.tokens:
        return (
            f"adapter {adapter.name!r} has learned tokens, which the {form.id} form can't hold; export the "
            "two apart (--only weights, and --only words as embedding), or write the pigment form"
        )
    if form.id == "embedding":
        return _no_embedding(adapter)
    for method in adapter.methods:
        if not form.holds(method):
            forms = " or ".join(row.id for row in FORMATS.values() if row.holds(method))
            kept, plain = METHODS[method], ", or export it as plain LoRA (--as-lora --rank N)"
            beside = f": {kept.no_delta} and have no ΔW" if kept.delta is None else ""
            return (
                f"adapter {adapter.name!r} is {kept.label}, which the {form.id} form can't hold{beside}; "
                f"write it as {forms}{'' if beside else plain}"
            )
    return None


def _no_embedding(adapter: Adapter) -> str | None:
    if adapter.factors:
        return (
            f"adapter {adapter.name!r} has modules, which an embedding file can't hold; export the words "
            "alone (--only words), or write the pigment form"
        )
    if len(adapter.tokens) != 1:
        return (
            f"adapter {adapter.name!r} has {len(adapter.tokens)} tokens and an embedding file holds one; "
            "write the pigment form"
        )
    components = {encoder.component for encoder in FAMILIES[adapter.family].text_encoders}
    (token, vectors), *_ = adapter.tokens.items()
    if vectors.keys() != components:
        return (
            f"token {token!r} has vectors for {sorted(vectors)}, an embedding file needs {sorted(components)}"
        )
    return None


def _extra(adapter: Adapter, form: Format) -> dict[str, Any]:
    if form.exact:
        return pigment.groups(adapter)
    return {"tokens": list(adapter.tokens)} if adapter.tokens else {}


def _tensors(
    factors: Mapping[str, AnyFactors], adapter: Adapter, form: Format, dtype: str
) -> dict[str, torch.Tensor]:
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    family = FAMILIES[adapter.family]
    tensors: dict[str, torch.Tensor] = {}

    def put(key: str, values: torch.Tensor, kind: torch.dtype, place: str) -> None:
        rounded = values.to(kind) if values.is_floating_point() else values
        if not rounded.isfinite().all():
            raise AdapterError(
                f"adapter {adapter.name!r} has numbers beyond {dtype} at {place} "
                f"(largest {values.abs().max().item():.3g}); write it in bf16 or fp32"
            )
        tensors[key] = rounded

    for module, factor in factors.items():
        for part, values in _parts_for(factor, form, kind, adapter.name, module).items():
            own = torch.float32 if _multiplies(factor, values) else kind
            put(form.write_key(module, part, family), values, own, module)
        if form.alpha_tensors:
            # Always fp32, so that any alpha is exact.
            tensors[form.write_key(module, ALPHA, family)] = torch.tensor(factor.alpha, dtype=torch.float32)
    for index, (token, vectors) in enumerate(adapter.tokens.items()):
        for component, values in vectors.items():
            key = (
                pigment.token_key(index, component)
                if form.exact
                else form.write_key(token, component, family)
            )
            put(key, values.detach().float(), kind, f"token {token!r}")
    return tensors


def _multiplies(factor: AnyFactors, values: torch.Tensor) -> bool:
    """Whether a tensor multiplies the base's weight: its rounding would count against the whole of it."""
    if isinstance(factor, LowRank):
        return False
    rotates = METHODS[factor.method].needs_weight and "magnitude" not in factor.parts
    return rotates or values.numel() == max(values.shape, default=1)


def _parts_for(
    factor: AnyFactors, form: Format, kind: torch.dtype, name: str, module: str
) -> dict[str, torch.Tensor]:
    """Return a module's tensors by part as a form has them; a pair of factors as fp16 holds it best."""
    import torch

    row = METHODS[factor.method]
    try:
        kept = row.for_lycoris(factor) if form.lycoris and row.for_lycoris else factor.parts
    except AdapterError as error:
        raise AdapterError(f"adapter {name!r} can't be written at {module}: {error}") from None
    parts = {n: part.detach().float() if part.is_floating_point() else part for n, part in kept.items()}
    if kind == torch.float16 and {DOWN, UP} <= parts.keys():
        parts[DOWN], parts[UP] = _into_band(parts[DOWN], parts[UP])
    return parts


def _into_band(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a power of two from one factor to the other where fp16 would lose precision or overflow."""
    largest = (float(down.abs().max()), float(up.abs().max()))
    low, high = _FP16_BAND
    if 0.0 in largest or all(low <= value <= high for value in largest):
        return down, up
    shift = round((math.log2(largest[0]) - math.log2(largest[1])) / 2)
    return down * 2.0**-shift, up * 2.0**shift
