"""ΔW of written files by formulas of their own: what a conformance check compares with.

Nothing here is shared with the reader or the methods: tensors by the endings that the tools use, in
fp64, one expression per method as its paper or its tool states it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]

BIASES = frozenset({"diff_b", "b_norm"})
"""Endings of tensors that are added to a bias as they are."""

_SPELLINGS = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def reference_delta(
    tensors: Tensors, weight: torch.Tensor | None, *, unscaled: bool = False
) -> torch.Tensor | None:
    """Return ΔW in fp64 of a module's tensors by key ending, or None where no formula here fits.

    weight: the base's own, (out, in) or (out, in, kh, kw); DoRA, IA3 and folded kernels need it.
    unscaled: whether the form has no alphas, so that every scale is 1.
    """
    named = {_SPELLINGS.get(ending, ending): tensor.double() for ending, tensor in tensors.items()}
    alpha = named.pop("alpha", None)
    magnitude = named.pop("dora_scale", None)
    base = None if weight is None else weight.double()
    for detecting, formula in _FORMULAS.items():
        if detecting in named:
            delta = formula(named, None if unscaled or alpha is None else float(alpha), base)
            break
    else:
        return None
    if delta is None:
        return None
    if base is not None:
        delta = delta.reshape(base.shape)
    if magnitude is None:
        return delta
    return None if base is None else _dora(delta, magnitude, base)


def _scale(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def _lora(t: Tensors, alpha: float | None, base: torch.Tensor | None) -> torch.Tensor:
    """Hu et al. 2021, https://arxiv.org/abs/2106.09685; `lora_mid` is a Tucker kernel between the two."""
    import torch

    down, up = t["lora_down.weight"], t["lora_up.weight"]
    scale = _scale(alpha, down.shape[0])
    if "lora_mid.weight" in t:
        return scale * torch.einsum("or,rshw,si->oihw", up.flatten(1), t["lora_mid.weight"], down.flatten(1))
    return scale * torch.einsum("or,r...->o...", up.flatten(1), down)


def _loha(t: Tensors, alpha: float | None, base: torch.Tensor | None) -> torch.Tensor:
    """Hyeon-Woo et al. 2021, https://arxiv.org/abs/2108.06098, as LyCORIS lays it out."""
    import torch

    scale = _scale(alpha, t["hada_w1_b"].shape[0])
    sides = []
    for side in ("1", "2"):
        a, b = t[f"hada_w{side}_a"], t[f"hada_w{side}_b"]
        core = t.get(f"hada_t{side}")
        sides.append(a @ b if core is None else torch.einsum("rshw,ro,si->oihw", core, a, b))
    return scale * sides[0] * sides[1]


def _lokr(t: Tensors, alpha: float | None, base: torch.Tensor | None) -> torch.Tensor:
    """Kronecker product; alpha counts only where a factor is decomposed, as ComfyUI and LyCORIS have it."""
    import torch

    rank = next((t[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in t), 0)
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        second = t["lokr_w2"]
    elif "lokr_t2" in t:
        second = torch.einsum("rshw,ro,si->oihw", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        second = t["lokr_w2_a"] @ t["lokr_w2_b"]
    if second.ndim > 2:
        first = first.reshape(*first.shape, *[1] * (second.ndim - 2))
    return (_scale(alpha, rank) if rank else 1.0) * torch.kron(first, second)


def _ia3(t: Tensors, alpha: float | None, base: torch.Tensor | None) -> torch.Tensor | None:
    """Liu et al. 2022, https://arxiv.org/abs/2205.05638, as LyCORIS: the vector is added to 1."""
    if base is None:
        return None
    vector = t["weight"].flatten()
    side = 1 if bool(t["on_input"]) else 0
    return base * vector.reshape([-1 if dim == side else 1 for dim in range(base.ndim)])


def _full(t: Tensors, alpha: float | None, base: torch.Tensor | None) -> torch.Tensor:
    return t["diff"]


def _norm(t: Tensors, alpha: float | None, base: torch.Tensor | None) -> torch.Tensor:
    return t["w_norm"]


def _dora(delta: torch.Tensor, magnitude: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Liu et al. 2024, https://arxiv.org/abs/2402.09353: every output (or input) gets a length of its own."""
    total = base + delta
    kept = 1 if magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] > 1 else 0
    lengths = total.transpose(0, kept).flatten(1).norm(dim=1)
    factor = magnitude.flatten() / lengths
    return total * factor.reshape([-1 if dim == kept else 1 for dim in range(total.ndim)]) - base


Formula = Callable[[Tensors, float | None, "torch.Tensor | None"], "torch.Tensor | None"]

# Which formula a module follows, told by one of its endings.
_FORMULAS: dict[str, Formula] = {
    "lora_up.weight": _lora,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "on_input": _ia3,
    "diff": _full,
    "w_norm": _norm,
}
