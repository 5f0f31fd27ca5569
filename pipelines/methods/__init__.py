"""The fine-tuning methods, one row each: their tensors, their ΔW, and how PEFT spells them."""

from __future__ import annotations

from collections.abc import Collection

from pipelines.methods.adalora import ADALORA
from pipelines.methods.bitfit import BITFIT
from pipelines.methods.boft import BOFT
from pipelines.methods.bottleneck import BOTTLENECK
from pipelines.methods.dora import DORA, with_magnitude
from pipelines.methods.full import FULL, NORM
from pipelines.methods.hira import HIRA
from pipelines.methods.hra import HRA
from pipelines.methods.ia3 import IA3
from pipelines.methods.ln_tuning import LN_TUNING
from pipelines.methods.locon import LOCON
from pipelines.methods.loha import LOHA
from pipelines.methods.lokr import LOKR
from pipelines.methods.lora import LORA
from pipelines.methods.method import Method, Part
from pipelines.methods.mora import MORA
from pipelines.methods.more_of_peft import MORE
from pipelines.methods.oft import OFT
from pipelines.methods.oft_output import OFT_OUTPUT
from pipelines.methods.prefix import PREFIX
from pipelines.methods.tuning import Size, Tuning
from pipelines.methods.vera import VERA

__all__ = ["METHODS", "TUNED_AS", "TUNINGS", "Method", "Part", "Size", "Tuning", "method_of"]

_ROWS = (
    LORA,
    DORA,
    LOCON,
    with_magnitude(LOCON, "locon_dora", "LoCon (Tucker) with DoRA"),
    LOHA,
    with_magnitude(LOHA, "loha_dora", "LoHa with DoRA"),
    LOKR,
    with_magnitude(LOKR, "lokr_dora", "LoKr with DoRA"),
    IA3,
    ADALORA,
    VERA,
    OFT,
    BOFT,
    OFT_OUTPUT,
    HRA,
    HIRA,
    *MORE,
    MORA,
    FULL,
    BITFIT,
    NORM,
    LN_TUNING,
    BOTTLENECK,
    PREFIX,
)

METHODS: dict[str, Method] = {row.id: row for row in _ROWS}

TUNINGS: dict[str, Tuning] = {tuning.id: tuning for row in _ROWS for tuning in row.tunings}
"""The ways to train, by id: the choices of `adapter.method`."""

TUNED_AS: dict[str, Method] = {tuning.id: row for row in _ROWS for tuning in row.tunings}
"""The row of METHODS that keeps what a tuning trains, by the tuning's id."""


def method_of(parts: Collection[str]) -> Method | None:
    """Return the method that keeps just these parts per module (alpha aside), or None."""
    found = frozenset(parts) - {"alpha"}
    for row in METHODS.values():
        if found and row.required <= found <= row.known:
            return row
    return None
