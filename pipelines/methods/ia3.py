"""IA³: every output (or every input) of a layer times a learned number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from pipelines.methods.method import Method, Part
from pipelines.methods.tensors import base_weight, misfit, take
from pipelines.methods.tuning import Tuning, tuned

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

    from pipelines.adapter import AnyFactors


def _on_input(factors: AnyFactors) -> bool:
    flag = factors.parts.get("on_input")
    return flag is not None and bool(flag.item())


def _delta(factors: AnyFactors, weight: torch.Tensor | None) -> torch.Tensor:
    """Return ΔW = W₀ · (l − 1), l per output, or per input where `on_input` isn't zero.

    ia3_w: l − 1, `out` or `in` numbers: 1-dimensional for linear layers, (1, n, 1, 1) for convolutions.
    on_input: one number; absent: per output.
    Source: Liu et al. 2022, https://arxiv.org/abs/2205.05638, section 3.3. Kept as l − 1, as LyCORIS
    does, so that small changes survive fp16.
    """
    base = base_weight(weight)
    change = take(factors, weight)["ia3_w"].flatten()
    axis = 1 if _on_input(factors) else 0
    if change.numel() != base.shape[axis]:
        raise ValueError(f"{change.numel()} numbers for {base.shape[axis]} {'inputs' if axis else 'outputs'}")
    return base * change.reshape([-1 if d == axis else 1 for d in range(base.ndim)])


def _bias_delta(factors: AnyFactors, bias: torch.Tensor) -> torch.Tensor | None:
    """PEFT multiplies a layer's whole output, bias included; LyCORIS only the weight (option `bias`)."""
    if _on_input(factors) or not factors.options.get("bias"):
        return None
    own = base_weight(bias)
    return own * take(factors, own)["ia3_w"].flatten()


def _from_peft(
    config: Mapping[str, Any], path: str, parts: Mapping[str, torch.Tensor]
) -> tuple[float, dict[str, Any]]:
    """Tell the side from the vector's shape on linear layers, from `feedforward_modules` elsewhere.

    The option `on_input` is on its way to the part of that name.
    """
    vector = parts["ia3_w"]
    if vector.ndim == 2 and vector.numel() > 1:
        on_input = vector.shape[0] == 1
    else:
        stated = config.get("feedforward_modules") or []
        if not isinstance(stated, list | tuple):
            raise AdapterError("adapter_config.json has feedforward_modules that are no list of names")
        on_input = any(path.endswith(str(ending)) for ending in stated)
    return 1.0, {"on_input": on_input, "bias": not on_input}


def _parts_from_peft(
    parts: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """PEFT keeps l, (out, 1) or (1, in) for linear layers; here l − 1."""
    import torch

    change = parts["ia3_w"].to(torch.float32) - 1
    flag = torch.tensor(float(bool(options.get("on_input"))))
    return {"ia3_w": change.flatten() if change.ndim == 2 else change, "on_input": flag}


def _for_peft(factors: Mapping[str, AnyFactors]) -> dict[str, AnyFactors]:
    from pipelines.adapter import Factors

    ready: dict[str, AnyFactors] = {}
    for path, factor in factors.items():
        on_input = _on_input(factor)
        if not on_input and not factor.options.get("bias"):
            raise AdapterError("PEFT's IA3 also scales biases, LyCORIS' doesn't; write it as LyCORIS")
        scale = factor.parts["ia3_w"].float() + 1
        if scale.ndim == 1:
            scale = scale.reshape(1, -1) if on_input else scale.reshape(-1, 1)
        ready[path] = Factors(method="ia3", parts={"ia3_w": scale}, options={"on_input": on_input})
    return ready


def _fields(factors: Mapping[str, AnyFactors]) -> dict[str, Any]:
    return {"feedforward_modules": sorted(p for p, f in factors.items() if f.options.get("on_input"))}


def _for_lycoris(factors: AnyFactors) -> dict[str, torch.Tensor]:
    if factors.options.get("bias") and not _on_input(factors):
        raise AdapterError("PEFT's IA3 also scales biases, which LyCORIS' form can't hold; write it for PEFT")
    return dict(factors.parts)


def ia3_config(rank: int, alpha: float, target_modules: Sequence[str], dropout: float = 0.0) -> PeftConfig:
    """IA³ on the output side of every module; it starts at one. It has neither rank, alpha nor dropout.

    Raises: AdapterError for a dropout, which it can't have.
    """
    from peft import IA3Config

    if dropout:
        raise AdapterError(f"IA3 has no dropout, got {dropout}; give 0")
    return IA3Config(target_modules=list(target_modules), feedforward_modules=[])


IA3 = Method(
    id="ia3",
    label="IA³",
    paper="https://arxiv.org/abs/2205.05638",
    parts=(
        Part(name="ia3_w", peft="ia3_l", lycoris="weight"),
        Part(name="on_input", lycoris="on_input", optional=True),
    ),
    formats=("lycoris", "peft", "pigment"),
    delta=_delta,
    bias_delta=_bias_delta,
    shape=lambda factors: None,
    rank=lambda factors: 0,
    misfit=misfit,
    needs_weight=True,
    peft_type="IA3",
    peft_config=ia3_config,
    peft_fields=_fields,
    from_peft=_from_peft,
    parts_from_peft=_parts_from_peft,
    for_peft=_for_peft,
    for_lycoris=_for_lycoris,
    tunings=(
        Tuning(
            id="ia3",
            label="IA³",
            paper="https://arxiv.org/abs/2205.05638",
            summary="one number per output: the smallest files, for light touches",
            peft_config=tuned(ia3_config),
            uses=frozenset(),
            by_block=False,
            decays=False,
            learning_rate=4e-3,
        ),
    ),
)
