"""Random factors of every method, for tests that walk METHODS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.adapter import Adapter, AnyFactors, Factors, LowRank
from pipelines.base import Base
from pipelines.methods import METHODS

Shape = tuple[int, ...]
Parts = dict[str, Tensor]


class _Maker:
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


def _lora(m: _Maker) -> Parts:
    return {"down": m.normal(m.rank, *m.shape[1:]), "up": m.normal(m.out, m.rank, *m.ones())}


def _magnitude(m: _Maker) -> Tensor:
    """Near the weight's own norms; variant 1 has them per input."""
    weight = m.normal(*m.shape) / (3 * m.flat) ** 0.5 if m.weight is None else m.weight.float()
    axis = 1 if m.variant else 0
    others = [side for side in range(weight.ndim) if side != axis]
    norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return norm * (1 + m.strength * torch.rand(norm.shape, generator=m.generator))


def _locon(m: _Maker) -> Parts:
    kernel = m.kernel or ()
    return {
        "down": m.normal(m.rank, m.inner, *m.ones()),
        "mid": m.normal(m.rank, m.rank, *kernel),
        "up": m.normal(m.out, m.rank, *m.ones()),
    }


def _loha(m: _Maker) -> Parts:
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


def _lokr(m: _Maker) -> Parts:
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


def _ia3(m: _Maker) -> Parts:
    """On the input side, which every form can hold; variant 1 is PEFT's output side."""
    size = m.out if m.variant else m.inner
    vector = m.strength * m.normal(size)
    vector = vector.reshape(1, size, *m.ones()) if m.kernel else vector
    return {"ia3_w": vector, "on_input": torch.tensor(0.0 if m.variant else 1.0)}


def _oft(m: _Maker) -> Parts:
    block = m.block(m.flat)
    return {"oft_r": m.strength * m.normal(m.flat // block, block * (block - 1) // 2)}


def _boft(m: _Maker) -> Parts:
    """PEFT has the scales as columns on linear layers, as rows on convolutions."""
    block = m.block(m.flat)
    rotation = m.strength * m.normal(1, m.flat // block, block, block)
    scales = (1, m.out) if m.kernel else (m.out, 1)
    return {"boft_r": rotation, "boft_s": 1 + m.strength * m.normal(*scales)}


def _oft_output(m: _Maker) -> Parts:
    """Variant 1 is BOFT of two factors with scales, where two pairs of blocks fit."""
    block = m.block(m.out)
    if m.variant and m.out % (2 * block) == 0 and block % 2 == 0:
        scales = 1 + m.strength * m.normal(m.out, *(1 for _ in m.shape[1:]))
        return {"oft_blocks": m.strength * m.normal(2, m.out // block, block, block), "rescale": scales}
    return {"oft_blocks": m.strength * m.normal(m.out // block, block, block)}


def _adalora(m: _Maker) -> Parts:
    return {
        "down": m.normal(m.rank, m.flat),
        "up": m.normal(m.out, m.rank),
        "singular": m.normal(m.rank, 1),
    }


def _vera(m: _Maker) -> Parts:
    """The shared matrices come from one fixed seed, as long as any module may need."""
    shared = torch.Generator().manual_seed(11)
    return {
        "vera_a": torch.randn((m.rank, 4096), generator=shared)[:, : m.inner],
        "vera_b": torch.randn((4096, m.rank), generator=shared)[: m.out],
        "lambda_b": m.normal(m.out),
        "lambda_d": m.normal(m.rank),
    }


def _hra(m: _Maker) -> Parts:
    """Reflections that nearly cancel in pairs, as they begin."""
    half = m.normal(m.flat, m.rank // 2)
    return {"hra_u": half.repeat_interleave(2, dim=1) + m.strength * m.normal(m.flat, m.rank // 2 * 2)}


def _hira(m: _Maker) -> Parts:
    size = m.strength / m.rank**0.5
    return {
        "hira_a": m.normal(m.rank, *m.shape[1:]),
        "hira_b": size * m.normal(m.out, m.rank, *m.ones()),
    }


def _ln_tuning(m: _Maker) -> Parts:
    weight = torch.ones(m.shape) if m.weight is None else m.weight.float()
    return {
        "ln_weight": weight + m.strength * m.normal(*m.shape),
        "ln_bias": m.strength * m.normal(*m.shape),
    }


def _miss(m: _Maker) -> Parts:
    return {"miss_block": m.strength / (3 * m.flat) ** 0.5 * m.normal(m.rank, m.out)}


def _c3a(m: _Maker) -> Parts:
    """Kernels of the circulant blocks; PEFT divides what they make by the number of inputs."""
    block = next(side for side in (8, 4, 2, 1) if m.out % side == 0 and m.inner % side == 0)
    size = m.strength * (m.flat / 3) ** 0.5
    return {"c3a_kernel": size * m.normal(m.out // block, m.inner // block, block)}


def _spectrum(name: str, size: float) -> Callable[[_Maker], Parts]:
    def make(m: _Maker) -> Parts:
        return {name: size * m.strength * m.normal(m.out * m.flat // 8)}

    return make


def _road(m: _Maker) -> Parts:
    """Variant 1 has an angle and a scale for every output, not for every pair."""
    count = m.out if m.variant else m.out // 2
    angles = m.strength * m.normal(count)
    return {"road_theta": angles, "road_alpha": 1 + m.strength * m.normal(count)}


def _delora(m: _Maker) -> Parts:
    return {
        "delora_a": m.normal(m.rank, m.inner),
        "delora_b": m.normal(m.out, m.rank),
        "delora_lambda": torch.tensor([5 * m.strength]),
        "delora_w_norm": 0.5 + torch.rand(m.inner, generator=m.generator),
    }


def _gralora(m: _Maker) -> Parts:
    """In two blocks a side; variant 1 has a general pair of rank 1 besides."""
    size = m.strength / (m.flat * m.rank) ** 0.5
    parts = {
        "gralora_a": m.normal(2, m.inner // 2, m.rank),
        "gralora_b": size * m.normal(2, m.rank, m.out // 2),
    }
    if m.variant:
        parts |= {"general_a": m.normal(1, m.inner), "general_b": size * m.normal(m.out, 1)}
    return parts


def _full(m: _Maker) -> Parts:
    size = m.strength / max(m.flat, 1) ** 0.5
    parts = {"diff": size * m.normal(*m.shape)}
    return {**parts, "diff_b": size * m.normal(m.out)} if m.variant else parts


def _norm(m: _Maker) -> Parts:
    return {"w_norm": m.strength * m.normal(*m.shape), "b_norm": m.strength * m.normal(*m.shape)}


_MAKERS: dict[str, Callable[[_Maker], Parts]] = {
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
}

# The part that ΔW is proportional to, by which its size is set.
_LINEAR = {"lora": "up", "locon": "up", "adalora": "up", "vera": "lambda_b",
           "loha": "hada_w1_a", "lokr": "lokr_w1"}  # fmt: skip


ON_NORMS = ("norm", "ln_tuning")

# Rows that are another row followed by DoRA's magnitude.
_DECOMPOSED = {"dora": "lora", "locon_dora": "locon", "loha_dora": "loha", "lokr_dora": "lokr"}


def _options(method: str, m: _Maker) -> dict[str, Any]:
    if method in _DECOMPOSED:
        return {"axis": "input" if m.variant else "output"}
    if method == "vera":
        return {"in_features": m.inner}
    if method == "ia3":
        return {"bias": bool(m.variant)}
    if method == "road":
        return {"variant": "road_2" if m.variant else "road_1", "group_size": 4}
    if method == "gralora":
        return {"alpha": m.rank + m.variant}
    if method == "hra":
        return {"orthogonal": True} if m.variant else {}
    if method == "oft":
        return {"neumann_terms": 0 if m.variant else 5}
    return {}


def random_factors(
    method: str,
    shape: Shape,
    *,
    rank: int = 4,
    alpha: float = 6.0,
    seed: int = 0,
    strength: float = 0.3,
    variant: int = 0,
    weight: Tensor | None = None,
) -> AnyFactors:
    """Random factors of a weight of `shape`, whose ΔW is finite and clearly not zero.

    strength: size of ΔW against an ordinary weight, roughly. variant: 0 is what every form of the
    method can hold, 1 the other layout where there is one (see the makers). weight: the base's own,
    by which methods that rescale it choose their numbers; None: an ordinary one.
    """
    maker = _Maker(shape, rank, alpha, seed, strength, variant, weight)
    plain = _DECOMPOSED.get(method, method)
    parts = _MAKERS[plain](maker)
    if linear := _LINEAR.get(plain):
        linear = linear if linear in parts else f"{linear}_a"
        size = _made(plain, parts, alpha, {}).delta(torch.zeros(shape)).square().mean().sqrt()
        parts[linear] = parts[linear] * (strength / (3 * maker.flat) ** 0.5 / size)
    if method in _DECOMPOSED:
        parts["magnitude"] = _magnitude(maker)
    return _made(method, parts, alpha, _options(method, maker))


def _made(method: str, parts: Parts, alpha: float, options: dict[str, Any]) -> AnyFactors:
    if method == "lora":
        return LowRank(down=parts["down"], up=parts["up"], alpha=alpha)
    return Factors(method=method, parts=parts, alpha=alpha, options=options)


def modules_for(base: Base, method: str) -> list[str]:
    """Modules of `base` that a method can sit on: attention, and convolutions where it has them."""
    if method in ON_NORMS:
        layers = base.weighted().items()
        return [name for name, layer in layers if isinstance(layer, nn.GroupNorm | nn.LayerNorm)]
    linear = ("to_q", "to_k", "to_out.0", "ff.net.2", "q_proj", "v_proj", "fc1")
    convolutions = ("conv1", "conv_shortcut", "proj_in")
    wanted: tuple[str, ...] = (*linear, *convolutions)
    kind: Any = nn.Linear | nn.Conv2d
    if METHODS[method].linear_only:
        wanted, kind = linear, nn.Linear
    elif method.startswith("locon"):
        wanted, kind = convolutions, nn.Conv2d
    endings = tuple(f".{ending}" for ending in wanted)
    layers = base.modules().items()
    return [name for name, layer in layers if name.endswith(endings) and isinstance(layer, kind)]


def random_adapter_of(
    base: Base, method: str, modules: Iterable[str] | None = None, *, name: str = "tiny", **kw: Any
) -> Adapter:
    """An adapter of random factors of one method on `modules` (None: see `modules_for`).

    kw: goes to `random_factors`; each module draws its own numbers.
    """
    layers = base.weighted()
    chosen = modules_for(base, method) if modules is None else list(modules)
    seed = kw.pop("seed", 0)
    factors = {}
    for index, module in enumerate(chosen):
        weight = layers[module].weight
        assert isinstance(weight, Tensor)
        shape = tuple(int(side) for side in weight.shape)
        own = {"seed": seed * 10_000 + index, "weight": weight.detach().cpu(), **kw}
        factors[module] = random_factors(method, shape, **own)
    return Adapter(
        name=name,
        factors=factors,
        family=base.family.id,
        method=method,
        triggers=("zwx",),
        metadata={"steps": "300"},
    )
