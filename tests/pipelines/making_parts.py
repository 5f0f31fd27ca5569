"""Random tensors of every method, by part name; `making` turns them into factors."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]
Parts = dict[str, Tensor]


class Maker:
    """What the makers below share: the shape, the sizes and one generator."""

    def __init__(
        self, shape: Shape, rank: int, alpha: float, seed: int, strength: float, variant: int, weight: Any
    ) -> None:
        self.shape, self.rank, self.alpha = shape, rank, alpha
        self.strength, self.variant, self.weight = strength, variant, weight
        self.generator = torch.Generator().manual_seed(seed)
        self.out, self.inner = shape[0], shape[1] if len(shape) > 1 else 0
        self.kernel = shape[2:]
        self.flat = prod(shape[1:])

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def ones(self) -> Shape:
        return tuple(1 for _ in self.kernel)

    def block(self, size: int) -> int:
        """A side of orthogonal blocks that divides `size`."""
        return next(side for side in (4, 3, 2, 1) if size % side == 0)


def _lora(m: Maker) -> Parts:
    return {"down": m.normal(m.rank, *m.shape[1:]), "up": m.normal(m.out, m.rank, *m.ones())}


def magnitude(m: Maker) -> Tensor:
    """Near the weight's own norms; variant 1 has them per input."""
    weight = m.normal(*m.shape) / (3 * m.flat) ** 0.5 if m.weight is None else m.weight.float()
    axis = 1 if m.variant else 0
    others = [side for side in range(weight.ndim) if side != axis]
    norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return norm * (1 + m.strength * torch.rand(norm.shape, generator=m.generator))


def _locon(m: Maker) -> Parts:
    kernel = m.kernel or ()
    return {
        "down": m.normal(m.rank, m.inner, *m.ones()),
        "mid": m.normal(m.rank, m.rank, *kernel),
        "up": m.normal(m.out, m.rank, *m.ones()),
    }


def _loha(m: Maker) -> Parts:
    """Variant 1 uses Tucker's form on convolutions wider than 1×1."""
    parts: Parts = {}
    for half in ("1", "2"):
        if m.variant and prod(m.kernel) > 1:
            parts[f"hada_t{half}"] = m.normal(m.rank, m.rank, *m.kernel)
            parts[f"hada_w{half}_a"] = m.normal(m.rank, m.out)
            parts[f"hada_w{half}_b"] = m.normal(m.rank, m.inner)
        else:
            parts[f"hada_w{half}_a"] = m.normal(m.out, m.rank)
            parts[f"hada_w{half}_b"] = m.normal(m.rank, m.flat)
    return parts


def _halves(size: int) -> tuple[int, int]:
    """The factors of `size` nearest to its root, the smaller first, as LoKr splits a side."""
    small = next(side for side in range(int(size**0.5), 0, -1) if size % side == 0)
    return small, size // small


def _lokr(m: Maker) -> Parts:
    """Variant 1 splits the small half too, and uses Tucker's form on convolutions wider than 1×1."""
    (a, b), (c, d) = _halves(m.out), _halves(m.inner)
    parts: Parts = {}
    if m.variant and m.rank < max(a, c) / 2:
        parts |= {"lokr_w1_a": m.normal(a, m.rank), "lokr_w1_b": m.normal(m.rank, c)}
    else:
        parts["lokr_w1"] = m.normal(a, c)
    if m.rank >= max(b, d) / 2:
        parts["lokr_w2"] = m.normal(b, d, *m.kernel)
    elif m.variant and prod(m.kernel) > 1:
        parts["lokr_t2"] = m.normal(m.rank, m.rank, *m.kernel)
        parts |= {"lokr_w2_a": m.normal(m.rank, b), "lokr_w2_b": m.normal(m.rank, d)}
    else:
        flat = d * prod(m.kernel)
        parts |= {"lokr_w2_a": m.normal(b, m.rank), "lokr_w2_b": m.normal(m.rank, flat)}
    return parts


def _ia3(m: Maker) -> Parts:
    """On the input side, which every form can hold; variant 1 is PEFT's output side."""
    size = m.out if m.variant else m.inner
    vector = m.strength * m.normal(size)
    vector = vector.reshape(1, size, *m.ones()) if m.kernel else vector
    return {"ia3_w": vector, "on_input": torch.tensor(0.0 if m.variant else 1.0)}


def _oft(m: Maker) -> Parts:
    block = m.block(m.flat)
    return {"oft_r": m.strength * m.normal(m.flat // block, block * (block - 1) // 2)}


def _boft(m: Maker) -> Parts:
    """PEFT has the scales as columns on linear layers, as rows on convolutions."""
    block = m.block(m.flat)
    rotation = m.strength * m.normal(1, m.flat // block, block, block)
    scales = (1, m.out) if m.kernel else (m.out, 1)
    return {"boft_r": rotation, "boft_s": 1 + m.strength * m.normal(*scales)}


def _oft_output(m: Maker) -> Parts:
    """Variant 1 is BOFT of two factors with scales, where two pairs of blocks fit."""
    block = m.block(m.out)
    if m.variant and m.out % (2 * block) == 0 and block % 2 == 0:
        scales = 1 + m.strength * m.normal(m.out, *(1 for _ in m.shape[1:]))
        return {"oft_blocks": m.strength * m.normal(2, m.out // block, block, block), "rescale": scales}
    return {"oft_blocks": m.strength * m.normal(m.out // block, block, block)}


def _adalora(m: Maker) -> Parts:
    return {
        "down": m.normal(m.rank, m.flat),
        "up": m.normal(m.out, m.rank),
        "singular": m.normal(m.rank, 1),
    }


def _vera(m: Maker) -> Parts:
    """The shared matrices come from one fixed seed, as long as any module may need."""
    shared = torch.Generator().manual_seed(11)
    return {
        "vera_a": torch.randn((m.rank, 4096), generator=shared)[:, : m.inner],
        "vera_b": torch.randn((4096, m.rank), generator=shared)[: m.out],
        "lambda_b": m.normal(m.out),
        "lambda_d": m.normal(m.rank),
    }


def _hra(m: Maker) -> Parts:
    """Reflections that nearly cancel in pairs, as they begin."""
    half = m.normal(m.flat, m.rank // 2)
    return {"hra_u": half.repeat_interleave(2, dim=1) + m.strength * m.normal(m.flat, m.rank // 2 * 2)}


def _hira(m: Maker) -> Parts:
    size = m.strength / m.rank**0.5
    return {
        "hira_a": m.normal(m.rank, *m.shape[1:]),
        "hira_b": size * m.normal(m.out, m.rank, *m.ones()),
    }


def _ln_tuning(m: Maker) -> Parts:
    weight = torch.ones(m.shape) if m.weight is None else m.weight.float()
    return {
        "ln_weight": weight + m.strength * m.normal(*m.shape),
        "ln_bias": m.strength * m.normal(*m.shape),
    }


def _miss(m: Maker) -> Parts:
    return {"miss_block": m.strength / (3 * m.flat) ** 0.5 * m.normal(m.rank, m.out)}


def _c3a(m: Maker) -> Parts:
    """Kernels of the circulant blocks; PEFT divides what they make by the number of inputs."""
    block = next(side for side in (8, 4, 2, 1) if m.out % side == 0 and m.inner % side == 0)
    size = m.strength * (m.flat / 3) ** 0.5
    return {"c3a_kernel": size * m.normal(m.out // block, m.inner // block, block)}


def _spectrum(name: str, size: float) -> Callable[[Maker], Parts]:
    def make(m: Maker) -> Parts:
        return {name: size * m.strength * m.normal(m.out * m.flat // 8)}

    return make


def _road(m: Maker) -> Parts:
    """Variant 1 has an angle and a scale for every output, not for every pair."""
    count = m.out if m.variant else m.out // 2
    angles = m.strength * m.normal(count)
    return {"road_theta": angles, "road_alpha": 1 + m.strength * m.normal(count)}


def _delora(m: Maker) -> Parts:
    return {
        "delora_a": m.normal(m.rank, m.inner),
        "delora_b": m.normal(m.out, m.rank),
        "delora_lambda": torch.tensor([5 * m.strength]),
        "delora_w_norm": 0.5 + torch.rand(m.inner, generator=m.generator),
    }


def _gralora(m: Maker) -> Parts:
    """In two blocks a side; variant 1 has a general pair of rank 1 besides."""
    size = m.strength / (m.flat * m.rank) ** 0.5
    parts = {
        "gralora_a": m.normal(2, m.inner // 2, m.rank),
        "gralora_b": size * m.normal(2, m.rank, m.out // 2),
    }
    if m.variant:
        parts |= {"general_a": m.normal(1, m.inner), "general_b": size * m.normal(m.out, 1)}
    return parts


def _full(m: Maker) -> Parts:
    size = m.strength / max(m.flat, 1) ** 0.5
    parts = {"diff": size * m.normal(*m.shape)}
    return {**parts, "diff_b": size * m.normal(m.out)} if m.variant else parts


def _norm(m: Maker) -> Parts:
    return {"w_norm": m.strength * m.normal(*m.shape), "b_norm": m.strength * m.normal(*m.shape)}


def _mora(m: Maker) -> Parts:
    side = max(2, int(((m.out + m.flat) * m.rank) ** 0.5) // 2 * 2)
    return {"mora_m": m.strength / (3 * m.flat) ** 0.5 * m.normal(side, side)}


def _bitfit(m: Maker) -> Parts:
    return {"diff_b": m.strength * m.normal(m.out)}


def _bottleneck(m: Maker) -> Parts:
    return {
        "bottleneck_down": m.normal(m.rank, m.out) / m.out**0.5,
        "bottleneck_down_b": m.strength * m.normal(m.rank),
        "bottleneck_up": m.strength * m.normal(m.out, m.rank),
        "bottleneck_up_b": m.strength * m.normal(m.out),
    }


def _prefix(m: Maker) -> Parts:
    """The shape is (heads, width of a head)."""
    return {
        "prefix_k": m.normal(m.rank, m.out * m.inner),
        "prefix_v": m.normal(m.rank, m.out * m.inner),
        "prefix_gate": 3 * m.strength * m.normal(m.out),
    }


MAKERS: dict[str, Callable[[Maker], Parts]] = {
    "lora": _lora,
    "locon": _locon,
    "loha": _loha,
    "lokr": _lokr,
    "ia3": _ia3,
    "oft": _oft,
    "boft": _boft,
    "oft_output": _oft_output,
    "adalora": _adalora,
    "vera": _vera,
    "full": _full,
    "norm": _norm,
    "miss": _miss,
    "c3a": _c3a,
    "fourierft": _spectrum("spectrum", 1.0),
    "waveft": _spectrum("wavelets", 0.02),
    "road": _road,
    "delora": _delora,
    "gralora": _gralora,
    "hra": _hra,
    "hira": _hira,
    "ln_tuning": _ln_tuning,
    "mora": _mora,
    "bitfit": _bitfit,
    "bottleneck": _bottleneck,
    "prefix": _prefix,
}
