"""Adapter files out: one form, one precision, whole or not at all."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.adapter import Adapter, LowRank
from pipelines.errors import AdapterError, nearest
from pipelines.families import FAMILIES
from pipelines.formats.container import write_container
from pipelines.formats.keys import ALPHA, DOWN, UP
from pipelines.formats.metadata import file_metadata
from pipelines.formats.table import FORMATS

if TYPE_CHECKING:
    import torch

WRITE_DTYPES = ("fp16", "bf16", "fp32")

# fp16 holds full precision from 2^-14 up to 65504; factors whose largest number lies outside of this
# band are moved into it by powers of two, which changes nothing else.
_FP16_BAND = (2.0**-8, 2.0**14)


def write_adapter(adapter: Adapter, path: str | Path, format: str = "kohya", dtype: str = "fp16") -> str:
    """Write an adapter file atomically and return the SHA-256 of the file.

    format: a key of FORMATS. dtype: "fp16", "bf16" or "fp32". The same adapter gives the same bytes.
    ΔW is kept: where a form can't hold differing alphas, they are folded into `up`.

    Raises: AdapterError for unknown names, an ending other than .safetensors, an unsound adapter,
    numbers beyond the precision's range, or a system that refuses; then nothing is written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise AdapterError(f"unknown format {format!r}{nearest(format, FORMATS)}")
    if dtype not in WRITE_DTYPES:
        raise AdapterError(f"unknown precision {dtype!r}{nearest(dtype, WRITE_DTYPES)}")
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path.name!r} can't be an adapter file; expected a name ending in .safetensors")
    if not adapter.factors:
        raise AdapterError(f"adapter {adapter.name!r} is empty; there is nothing to write")
    adapter.check_factors()
    form = FORMATS[format]
    factors = form.normalise(adapter.factors)
    tensors = _tensors(factors, adapter, format, dtype)
    written = Counter(factor.alpha for name, factor in factors.items() if name.startswith("unet."))
    alpha = (written or Counter(factor.alpha for factor in factors.values())).most_common(1)[0][0]
    return write_container(path, tensors, file_metadata(adapter, rank=adapter.rank, alpha=alpha))


def _tensors(
    factors: dict[str, LowRank], adapter: Adapter, format: str, dtype: str
) -> dict[str, torch.Tensor]:
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    family, form = FAMILIES[adapter.family], FORMATS[format]
    tensors: dict[str, torch.Tensor] = {}
    for module, factor in factors.items():
        down, up = factor.down.detach().to(torch.float32), factor.up.detach().to(torch.float32)
        if kind == torch.float16:
            down, up = _into_band(down, up)
        for role, values in ((DOWN, down), (UP, up)):
            rounded = values.to(kind)
            if not rounded.isfinite().all():
                raise AdapterError(
                    f"adapter {adapter.name!r} has numbers beyond {dtype} at {module} "
                    f"(largest {values.abs().max().item():.3g}); write it in bf16 or fp32"
                )
            tensors[form.write_key(module, role, family)] = rounded
        if form.alpha_tensors:
            # Always fp32, so that any alpha is exact.
            tensors[form.write_key(module, ALPHA, family)] = torch.tensor(factor.alpha, dtype=torch.float32)
    return tensors


def _into_band(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move a power of two from one factor to the other where fp16 would lose precision or overflow."""
    largest = (float(down.abs().max()), float(up.abs().max()))
    low, high = _FP16_BAND
    if 0.0 in largest or all(low <= value <= high for value in largest):
        return down, up
    shift = round((math.log2(largest[0]) - math.log2(largest[1])) / 2)
    return down * 2.0**-shift, up * 2.0**shift
