"""What SVD does for adapters: any method as plain LoRA, another rank, an adapter out of two checkpoints.

Every result comes with the relative Frobenius error per module and in all. Errors are of ΔW at
weight 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipelines.adapter import Adapter, LowRank, shape_text
from pipelines.anatomy import Anatomy, anatomy
from pipelines.deltas import Delta, beyond_lora, delta_of, layers_of
from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.lora_report import LoraReport, ModuleFit, refuse_left_out
from pipelines.lowrank import RankRule, concatenate, low_rank, product_norm, rank_rule

if TYPE_CHECKING:
    from pipelines.base import Base

__all__ = ["Anatomy", "LoraReport", "anatomy", "as_lora", "extract", "resize"]


HALVES = ("weights", "words")
"""What an adapter with learned words is made of: other tools take them as two files."""


def half(adapter: Adapter, which: str) -> Adapter:
    """Return an adapter's weights without its learned words, or its words alone; which: of HALVES.

    Raises: AdapterError where there is nothing of that kind; ConfigError for another name.
    """
    if which not in HALVES:
        raise ConfigError(f"unknown half {which!r}{nearest(which, HALVES)}")
    if not (adapter.factors if which == "weights" else adapter.tokens):
        raise AdapterError(f"adapter {adapter.name!r} has no {which}; take it whole")
    return replace(adapter, tokens={}) if which == "weights" else replace(adapter, factors={})


def as_lora(
    adapter: Adapter,
    rule: RankRule | int | None = None,
    base: Base | None = None,
    *,
    allow_left_out: bool = False,
) -> tuple[Adapter, LoraReport]:
    """Return an adapter of any methods as plain LoRA, the form that every tool reads.

    rule: a rank, a rule, or None for what is numerically exact. base: needed by methods whose ΔW
    depends on the base's weights. allow_left_out: whether changes of biases and norms, which plain
    LoRA can't hold, may be left out; the report names them. Learned tokens come along as they are.

    Raises: AdapterError for an adapter that doesn't fit the base or would lose something.
    """
    return _refactor(adapter, rank_rule(rule), base, allow_left_out, "as plain LoRA", "as_lora")


def resize(
    adapter: Adapter,
    rule: RankRule | int,
    base: Base | None = None,
    *,
    allow_left_out: bool = False,
) -> tuple[Adapter, LoraReport]:
    """Return an adapter with other ranks: by a fixed rank, by the energy kept, or by the error allowed.

    Ranks never grow: a module that has fewer keeps what it has. Where the method has factors, ΔW isn't
    formed; other methods become plain LoRA, as by `as_lora`, whose arguments these are.
    """
    return _refactor(adapter, rank_rule(rule), base, allow_left_out, "resized", "resized")


def _refactor(
    adapter: Adapter, rule: RankRule, base: Base | None, allow_left_out: bool, verb: str, key: str
) -> tuple[Adapter, LoraReport]:
    if not adapter.factors:
        raise AdapterError(f"adapter {adapter.name!r} has no modules; there is nothing to factor")
    layers = layers_of(base, [adapter])
    left_out = beyond_lora(adapter, layers)
    refuse_left_out(left_out, allow_left_out)
    factors: dict[str, LowRank] = {}
    fits: dict[str, ModuleFit] = {}
    for module in adapter.factors:
        if left_out.get(module) != "norm weight":
            factors[module], fits[module] = _cut(delta_of(adapter, module, layers), rule)
    if not factors:
        raise AdapterError(f"adapter {adapter.name!r} changes norms only; plain LoRA can't hold any of it")
    report = LoraReport(
        what=f"{adapter.name} {verb} ({rule.as_text()})", modules=fits, left_out=left_out,
        notes={"rank_before": adapter.rank, "method_before": ", ".join(adapter.methods)},
    )  # fmt: skip
    about = {"rule": rule.as_text(), "error": report.error, "methods": list(adapter.methods),
             "sha256": adapter.sha256, "left_out": len(left_out)}  # fmt: skip
    metadata = {**adapter.metadata, key: json.dumps(about, ensure_ascii=False, sort_keys=True)}
    return replace(adapter, factors=factors, method="lora", metadata=metadata, sha256=None), report


def _cut(delta: Delta, rule: RankRule) -> tuple[LowRank, ModuleFit]:
    """Return ΔW as plain LoRA, and how near that comes, measured on the factors that are returned."""
    cut = delta.truncate(rule)
    if delta.factors is not None:
        difference = concatenate(
            [tuple(part.double() for part in pair) for pair in (delta.factors, (cut.up, cut.down))],  # type: ignore[misc]
            [1.0, -1.0],
        )
        distance = product_norm(*difference)
    else:
        distance = float(torch.linalg.norm(delta.dense().double() - cut.up.double() @ cut.down.double()))
    fit = ModuleFit(rank=cut.rank, distance=distance, size=delta.norm(), exact=cut.exact)
    return low_rank(cut.up, cut.down, delta.shape), fit


def extract(
    tuned: Base,
    base: Base,
    rule: RankRule | int | None = None,
    *,
    unet_targets: str | None = None,
    text_targets: str | None = None,
    name: str = "extracted",
) -> tuple[Adapter, LoraReport]:
    """Return plain LoRA of the difference of two checkpoints, by SVD of every module that differs.

    unet_targets: a key of UNET_TARGETS; text_targets: of TEXT_TARGETS; None: every linear and
    convolution layer, "none": none. What differs elsewhere (biases, norms, embeddings, layers that
    aren't targets) is named in the report, with its share of the difference's energy. The autoencoders
    aren't compared.

    Raises: AdapterError for checkpoints of two families or shapes, or that don't differ in any target;
    ConfigError for an unknown set of targets.
    """
    chosen = rank_rule(rule)
    wanted = {"unet": _endings("unet_targets", unet_targets, UNET_TARGETS),
              "text": _endings("text_targets", text_targets, TEXT_TARGETS)}  # fmt: skip
    _comparable(tuned, base)
    factors: dict[str, LowRank] = {}
    fits: dict[str, ModuleFit] = {}
    left_out: dict[str, str] = {}
    lost = 0.0
    for module, kind, difference in _differences(tuned, base):
        endings = wanted["unet" if module.startswith("unet.") else "text"]
        if kind == "weight" and (endings is None or module.endswith(endings)):
            shape = tuple(int(size) for size in difference.shape)
            factors[module], fits[module] = _cut(Delta(shape=shape, matrix=difference.flatten(1)), chosen)
        else:
            left_out[f"{module}.{kind}" if kind == "bias" else module] = _why(kind)
            lost += float(torch.linalg.norm(difference.double())) ** 2
    if not factors:
        found = f"they differ in {len(left_out)} other places" if left_out else "they are equal"
        raise AdapterError(
            f"nothing to extract: {tuned.ref!r} and {base.ref!r} don't differ in any target layer; {found}"
        )
    energy = sum(fit.size**2 for fit in fits.values()) + lost
    origin = {"tuned": tuned.ref.rsplit("/", 1)[-1], "tuned_sha256": tuned.sha256,
              "base_sha256": base.sha256, "rule": chosen.as_text()}  # fmt: skip
    adapter = Adapter(
        name=name,
        factors=factors,
        family=base.family.id,
        metadata={"base_sha256": base.sha256, "extracted": json.dumps(origin, sort_keys=True)},
    )
    report = LoraReport(
        what=f"the difference of {tuned.ref} and {base.ref} as plain LoRA ({chosen.as_text()})",
        against="the difference in these modules",
        modules=fits,
        left_out=left_out,
        notes={"left_out_energy": lost / energy},
    )
    return adapter, report


def _endings(label: str, name: str | None, sets: dict[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the endings of module names of a target set; None: all. Raises: ConfigError."""
    if name is None:
        return None
    if name == "none":
        return ()
    if name not in sets:
        raise ConfigError(f"unknown {label} {name!r}{nearest(name, (*sets, 'none'))}")
    return tuple(f".{ending}" for ending in sets[name])


def _comparable(tuned: Base, base: Base) -> None:
    """Make sure that two bases are of one family and shape and are themselves. Raises: AdapterError."""
    if tuned.family.id != base.family.id:
        raise AdapterError(
            f"{tuned.ref!r} is {tuned.family.id} and {base.ref!r} is {base.family.id}; give two checkpoints "
            "of one family"
        )
    for either in (tuned, base):
        layers_of(either, [])
    for component in base.family.components:
        shapes = [dict(b.component(component).named_parameters()) for b in (tuned, base)]
        if shapes[0].keys() != shapes[1].keys():
            odd = sorted(shapes[0].keys() ^ shapes[1].keys())[0]
            raise AdapterError(
                f"{tuned.ref!r} and {base.ref!r} aren't built alike: only one has {component}.{odd}; give "
                "the checkpoint that was tuned, and the one it began as"
            )
        for path, first in shapes[0].items():
            if first.shape != (second := shapes[1][path]).shape:
                raise AdapterError(
                    f"{tuned.ref!r} and {base.ref!r} aren't built alike: {component}.{path} is "
                    f"{shape_text(first)} and {shape_text(second)}; give the checkpoint it began as"
                )


def _differences(tuned: Base, base: Base) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Give (canonical module, kind, difference in fp32) of every parameter that differs.

    kind: "weight" of a linear or convolution layer, "bias", or the class of any other module.
    """
    for component in base.family.components:
        first, second = tuned.component(component), base.component(component)
        for path, own in second.named_parameters():
            other = first.get_parameter(path)
            difference = other.detach().float().to(own.device) - own.detach().float()
            if not difference.any():
                continue
            place, _, leaf = path.rpartition(".")
            layer = second.get_submodule(place)
            kind = type(layer).__name__
            if leaf == "bias":
                kind = "bias"
            elif leaf == "weight" and isinstance(layer, nn.Linear | nn.Conv2d):
                kind = "weight"
            if not bool(difference.isfinite().all()):
                raise AdapterError(f"{tuned.ref!r} or {base.ref!r} isn't finite at {component}.{path}")
            yield f"{component}.{place.removeprefix('text_model.')}", kind, difference


def _why(kind: str) -> str:
    """What a left-out difference is, for the report."""
    return {"weight": "not a target", "bias": "bias"}.get(kind, f"weight of a {kind}")
