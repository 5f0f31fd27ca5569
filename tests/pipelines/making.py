"""Random factors of every method, for tests that walk METHODS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.adapter import Adapter, AnyFactors, Factors, LowRank
from pipelines.base import Base
from pipelines.methods import METHODS
from pipelines.places import places, weight_shape
from tests.pipelines.making_parts import MAKERS, Maker, Parts, Shape, magnitude

# The part that ΔW is proportional to, by which its size is set.
_LINEAR = {"lora": "up", "locon": "up", "adalora": "up", "vera": "lambda_b",
           "loha": "hada_w1_a", "lokr": "lokr_w1"}  # fmt: skip


ON_NORMS = ("norm", "ln_tuning")

WITH_DELTA = [method for method, row in METHODS.items() if row.delta is not None]
WITHOUT_DELTA = [method for method, row in METHODS.items() if row.delta is None]
IN_PARAMETERS = [method for method, row in METHODS.items() if row.attach is None]
BESIDE = [method for method, row in METHODS.items() if row.attach is not None]

# Rows that are another row followed by DoRA's magnitude.
_DECOMPOSED = {"dora": "lora", "locon_dora": "locon", "loha_dora": "loha", "lokr_dora": "lokr"}


def _options(method: str, m: Maker) -> dict[str, Any]:
    if method in _DECOMPOSED:
        return {"axis": "input" if m.variant else "output"}
    if method == "vera":
        return {"in_features": m.inner}
    if method == "ia3":
        return {"bias": bool(m.variant)}
    if method == "road":
        return {"variant": "road_2" if m.variant else "road_1", "group_size": 4}
    if method == "mora":
        return {"in_features": m.inner, "out_features": m.out}
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
    maker = Maker(shape, rank, alpha, seed, strength, variant, weight)
    plain = _DECOMPOSED.get(method, method)
    parts = MAKERS[plain](maker)
    if linear := _LINEAR.get(plain):
        linear = linear if linear in parts else f"{linear}_a"
        size = _made(plain, parts, alpha, {}).delta(torch.zeros(shape)).square().mean().sqrt()
        parts[linear] = parts[linear] * (strength / (3 * maker.flat) ** 0.5 / size)
    if method in _DECOMPOSED:
        parts["magnitude"] = magnitude(maker)
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
    if METHODS[method].on_attention:
        return list(base.attentions())
    if method == "bitfit":
        biased = (".to_out.0", ".ff.net.2", ".conv1", ".q_proj", ".fc1")
        return [name for name in base.modules() if name.endswith(biased)]
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


def few(base: Base, method: str) -> list[str]:
    """Some modules of each component and kind."""
    chosen: dict[tuple[str, ...], str] = {}
    for name in modules_for(base, method):
        chosen.setdefault((name.split(".")[0], *name.rsplit(".", 2)[-2:]), name)
    return list(chosen.values())


def random_adapter_of(
    base: Base, method: str, modules: Iterable[str] | None = None, *, name: str = "tiny", **kw: Any
) -> Adapter:
    """An adapter of random factors of one method on `modules` (None: see `modules_for`).

    kw: goes to `random_factors`; each module draws its own numbers.
    """
    layers = places(base)[METHODS[method].on_attention]
    chosen = modules_for(base, method) if modules is None else list(modules)
    seed = kw.pop("seed", 0)
    factors = {}
    for index, module in enumerate(chosen):
        weight = getattr(layers[module], "weight", None)
        own = {
            "seed": seed * 10_000 + index,
            "weight": None if weight is None else weight.detach().cpu(),
            **kw,
        }
        factors[module] = random_factors(method, weight_shape(layers[module]), **own)
    return Adapter(
        name=name,
        factors=factors,
        family=base.family.id,
        method=method,
        triggers=("zwx",),
        metadata={"steps": "300"},
    )
