"""Several adapters made one, module by module, with the error that this costs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, LowRank
from pipelines.errors import AdapterError, ConfigError
from pipelines.lora_report import LoraReport, ModuleFit, refuse_left_out
from pipelines.merging.algorithms import Merge, merge_row

if TYPE_CHECKING:
    import torch

    from pipelines.base import Base
    from pipelines.deltas import Delta
    from pipelines.lowrank import RankRule, Truncation

    Weight = float | tuple[float, float]

# What stays true of a merged file where all of its sources agree on it.
_KEPT_METADATA = (
    "base_sha256",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "modelspec.license",
)


@dataclass(frozen=True, kw_only=True)
class MergeReport(LoraReport):
    """What came of a merge; errors are against Σ wᵢΔWᵢ. recipe: how it was made, as in the metadata."""

    recipe: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {**super().as_dict(), "recipe": dict(self.recipe)}


@dataclass(frozen=True, eq=False)
class _Source:
    adapter: Adapter
    unet: float
    text: float

    def weight(self, module: str) -> float:
        return self.unet if module.startswith("unet.") else self.text


def merge_adapters(
    adapters: Sequence[Adapter],
    weights: Sequence[Weight],
    method: str = "cat",
    *,
    rank: int | RankRule | None = None,
    density: float | None = None,
    majority_sign: str | None = None,
    seed: int | None = None,
    base: Base | None = None,
    name: str | None = None,
    allow_left_out: bool = False,
) -> tuple[Adapter, MergeReport]:
    """Merge adapters of any methods into one of plain LoRA.

    weights: one per adapter, any finite number or (UNet, text encoders); an adapter at 0 on both takes
    no part, its words and tokens neither. method: a key of MERGES. rank, density, majority_sign, seed:
    where the method takes them (`Merge.parameters`), None: its defaults; a rank may be a rule. base:
    needed where a method of theirs has no ΔW without (DoRA, IA3 …). name: of the result.
    allow_left_out: whether changes of biases and norms, which plain LoRA can't hold, may be left out;
    the report names them. Learned tokens are joined as they are, not weighted.

    The order of the adapters doesn't matter. One module is in memory at a time.

    Raises: AdapterError for adapters that don't go together or don't fit the base; ConfigError for an
    unknown method or a setting that it doesn't take.
    """
    from pipelines.deltas import beyond_lora, layers_of
    from pipelines.lowrank import RankRule, rank_rule

    row = merge_row(method)
    given: dict[str, Any] = {"density": density, "majority_sign": majority_sign, "seed": seed}
    settings = row.resolve(given | {"rank": rank.rank or 1 if isinstance(rank, RankRule) else rank})
    rule = rank_rule(rank if isinstance(rank, RankRule) else settings.get("rank"))
    sources = _sources(adapters, weights)
    taking_part = [source.adapter for source in sources]
    layers = layers_of(base, taking_part)
    left_out = {
        module: why
        for source in sources
        for module, why in beyond_lora(source.adapter, layers).items()
        if source.weight(module)
    }
    refuse_left_out(left_out, allow_left_out)
    tokens = _joined_tokens(taking_part)
    factors: dict[str, LowRank] = {}
    fits: dict[str, ModuleFit] = {}
    for module in dict.fromkeys(module for adapter in taking_part for module in adapter.factors):
        if left_out.get(module) != "norm weight" and any(s.weight(module) for s in sources if _in(s, module)):
            factors[module], fits[module] = _merge_module(module, sources, row, settings, rule, layers)
    if not factors and not tokens:
        raise AdapterError(
            "plain LoRA can't hold any of these changes (norms only); nothing is left to merge"
        )
    recipe = _recipe(sources, row, settings, rule, base)
    merged = Adapter(
        name=name or " + ".join(adapter.name for adapter in taking_part)[:120],
        factors=factors,
        tokens=tokens,
        family=taking_part[0].family,
        triggers=tuple(dict.fromkeys(word for adapter in taking_part for word in adapter.triggers)),
        metadata=_metadata(taking_part, recipe),
    )
    what = f"{row.label} of " + ", ".join(_said(source) for source in sources)
    report = MergeReport(what=what, against="Σ wᵢΔWᵢ", modules=fits, left_out=left_out, recipe=recipe)
    return merged, report


def _in(source: _Source, module: str) -> bool:
    return module in source.adapter.factors


def _sources(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> list[_Source]:
    """Pair adapters and weights; those at 0 are out. Raises: AdapterError, ConfigError."""
    if not adapters or len(adapters) != len(weights):
        raise ConfigError(
            f"got {len(adapters)} adapters and {len(weights)} weights; give one weight per adapter"
        )
    families = sorted({adapter.family for adapter in adapters})
    if len(families) > 1:
        raise AdapterError(f"the adapters are for {' and '.join(families)}; merge adapters of one family")
    sources = []
    for adapter, weight in zip(adapters, weights, strict=True):
        pair = weight if isinstance(weight, tuple) else (weight, weight)
        if len(pair) != 2 or not all(isinstance(part, int | float) and math.isfinite(part) for part in pair):
            raise ConfigError(
                f"weight of {adapter.name!r} is {weight!r}; give a finite number or (UNet, text encoders)"
            )
        if any(pair):
            sources.append(_Source(adapter, float(pair[0]), float(pair[1])))
    if not sources:
        raise ConfigError("every weight is 0; give at least one adapter another weight")
    return sources


def _merge_module(
    module: str,
    sources: Sequence[_Source],
    row: Merge,
    settings: Mapping[str, Any],
    rule: RankRule,
    layers: Mapping[str, Any] | None,
) -> tuple[LowRank, ModuleFit]:
    """Return the merged factors of one module, and how far they are from Σ wᵢΔWᵢ."""
    import torch

    from pipelines.deltas import delta_of
    from pipelines.lowrank import low_rank, truncate

    # By name, so that the random masks don't depend on the order in which adapters were given.
    ordered = sorted(sources, key=lambda s: (s.adapter.name, s.adapter.sha256 or "", s.unet, s.text))
    taking_part = [s for s in ordered if _in(s, module) and s.weight(module)]
    deltas = [delta_of(source.adapter, module, layers) for source in taking_part]
    weights = [source.weight(module) for source in taking_part]
    _same_shape(module, taking_part, deltas)
    pairs = [delta.factors for delta in deltas if delta.factors is not None]
    if row.additive and len(pairs) == len(deltas):
        cut, distance, size = _add(pairs, weights, row, rule)
    elif row.keeps_factors:
        source = next(s for s, delta in zip(taking_part, deltas, strict=True) if delta.factors is None)
        raise AdapterError(
            f"adapter {source.adapter.name!r} ({source.adapter.factors[module].method}) has no factors to "
            "put side by side; merge by 'linear' (exact) or 'svd'"
        )
    else:
        stack = torch.stack([delta.dense() for delta in deltas])
        scales = torch.tensor(weights, dtype=torch.float64)
        target = (stack.double() * scales.to(stack.device)[:, None, None]).sum(dim=0)
        cut = truncate(row.combine(stack, scales.float(), **_arguments(row, settings, module)), rule)
        distance = float(torch.linalg.norm(target - cut.up.double() @ cut.down.double()))
        size = float(torch.linalg.norm(target))
    fit = ModuleFit(rank=cut.rank, distance=distance, size=size, exact=cut.exact)
    return low_rank(cut.up, cut.down, deltas[0].shape), fit


def _add(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], weights: Sequence[float], row: Merge, rule: RankRule
) -> tuple[Truncation, float, float]:
    """Return Σ wᵢΔWᵢ as factors, cut by `rule` unless they are kept, with its distance and its size."""
    from pipelines.lowrank import EXACTLY, Truncation, concatenate, product_norm, truncate_product

    exact = concatenate([(up.double(), down.double()) for up, down in pairs], weights)
    full = min(exact[0].shape[0], exact[1].shape[1])
    if row.keeps_factors and exact[0].shape[1] <= full:
        cut = Truncation(up=exact[0].float(), down=exact[1].float(), error=0.0)
    else:
        cut = truncate_product(*exact, EXACTLY if row.keeps_factors else rule)
    difference = concatenate([exact, (cut.up.double(), cut.down.double())], [1.0, -1.0])
    return cut, product_norm(*difference), product_norm(*exact)


def _arguments(row: Merge, settings: Mapping[str, Any], module: str) -> dict[str, Any]:
    """What `combine` is given: the settings, and a generator of this module's own in place of the seed."""
    import torch

    arguments = {name: value for name, value in settings.items() if name not in ("rank", "seed")}
    if "seed" in settings:
        digest = hashlib.sha256(f"{settings['seed']}\0{module}".encode()).digest()
        arguments["generator"] = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return arguments


def _same_shape(module: str, sources: Sequence[_Source], deltas: Sequence[Delta]) -> None:
    for source, delta in zip(sources, deltas, strict=True):
        if delta.shape != deltas[0].shape:
            raise AdapterError(
                f"{module} is {deltas[0].shape} in adapter {sources[0].adapter.name!r} and {delta.shape} in "
                f"{source.adapter.name!r}; merge adapters made for one base"
            )


def _joined_tokens(adapters: Sequence[Adapter]) -> dict[str, Mapping[str, torch.Tensor]]:
    """Join the learned words. Raises: AdapterError where two adapters mean different things by one."""
    import torch

    tokens: dict[str, Mapping[str, torch.Tensor]] = {}
    owners: dict[str, str] = {}
    for adapter in adapters:
        for token, vectors in adapter.tokens.items():
            known = tokens.setdefault(token, vectors)
            same = known.keys() == vectors.keys() and all(torch.equal(known[c], vectors[c]) for c in known)
            if not same:
                raise AdapterError(
                    f"adapters {owners[token]!r} and {adapter.name!r} both have a token {token!r} that "
                    "differs; rename one of them"
                )
            owners.setdefault(token, adapter.name)
    return tokens


def _recipe(
    sources: Sequence[_Source], row: Merge, settings: Mapping[str, Any], rule: RankRule, base: Base | None
) -> dict[str, Any]:
    """How a merge was made, JSON-able."""
    parameters = dict(settings)
    if "rank" in parameters:
        parameters["rank"] = rule.as_text()
    return {
        "method": row.id,
        "parameters": parameters,
        "adapters": [
            {"name": s.adapter.name, "sha256": s.adapter.sha256, "weight": s.unet, "text_weight": s.text}
            for s in sources
        ],
        "base_sha256": None if base is None else base.sha256,
    }


def _metadata(adapters: Sequence[Adapter], recipe: Mapping[str, Any]) -> dict[str, str]:
    """What the merged file says of its origin, and what all of its sources agree on."""
    first = adapters[0].metadata
    kept = {
        key: first[key]
        for key in _KEPT_METADATA
        if key in first and all(adapter.metadata.get(key) == first[key] for adapter in adapters)
    }
    origins = [f"{a.name} (sha256 {a.sha256})" if a.sha256 else a.name for a in adapters]
    return {
        **kept,
        "modelspec.merged_from": ", ".join(origins),
        "merge": json.dumps(recipe, ensure_ascii=False, sort_keys=True),
    }


def _said(source: _Source) -> str:
    same = source.unet == source.text
    weight = f"{source.unet:g}" if same else f"{source.unet:g}/{source.text:g}"
    return f"{source.adapter.name} × {weight}"
