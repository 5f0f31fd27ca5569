"""The adapters that a command line names: their files, their weights, what is recorded of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.commands.arguments import adapter_file, the_adapter, weighted

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from pipelines.generate import AdapterUse
    from pipelines.mixer import Weights


@dataclass(frozen=True)
class Use:
    """One adapter of a command line: its name in the mix, its file, its weights."""

    name: str
    path: Path
    weights: Weights


def uses_of(items: Sequence[str], args: argparse.Namespace) -> list[Use]:
    """The adapters of a command line; two of one name get a number each."""
    uses: list[Use] = []
    for item in items:
        ref, weights = weighted(item)
        path = adapter_file(ref, args)
        stem = ref if not path.exists() or Path(ref).suffix == "" else path.stem
        taken, name = {use.name for use in uses}, Path(stem).name
        number = 2
        while name in taken:
            name, number = f"{Path(stem).name} {number}", number + 1
        uses.append(Use(name, path, weights))
    return uses


def add_uses(uses: Sequence[Use], more: Sequence[Use]) -> list[Use]:
    """Put further adapters behind those there; one of a name that is taken gets a number."""
    found = list(uses)
    for use in more:
        taken, name, number = {one.name for one in found}, use.name, 2
        while name in taken:
            name, number = f"{use.name} {number}", number + 1
        found.append(replace(use, name=name))
    return found


def read_all(uses: Sequence[Use], args: argparse.Namespace, base: Base | None) -> dict[str, Adapter]:
    """Read every adapter, by its name in the mix."""
    return {use.name: the_adapter(use.path, args, base) for use in uses}


def recorded(uses: Sequence[Use], adapters: Mapping[str, Adapter]) -> tuple[AdapterUse, ...]:
    """What a picture's settings record of the mix."""
    from pipelines.generate import AdapterUse

    return tuple(
        AdapterUse(
            name=adapters[use.name].name[:200],
            sha256=adapters[use.name].sha256 or "",
            weight=use.weights.unet,
            text_weight=use.weights.text,
            blocks=dict(use.weights.blocks),
            begin=use.weights.begin,
            end=use.weights.end,
        )
        for use in uses
    )


def settled(uses: Sequence[Use], base: Base) -> list[Use]:
    """The uses with weights that hold for this base. Raises: AdapterError for an unknown block and so on."""
    from pipelines.families import block_of
    from pipelines.mixing.weights import resolve

    blocks = tuple(dict.fromkeys(block_of(module) for module in base.weighted()))
    encoders = base.text_encoders()
    return [replace(use, weights=resolve(use.name, use.weights, blocks, encoders)) for use in uses]


def scaled(weights: Weights, unet: float) -> Weights:
    """Weights with another number on the UNet, and the text encoders' in the same proportion."""
    if weights.text is None:
        return replace(weights, unet=unet)
    share = weights.text / weights.unet if weights.unet else 0.0
    return replace(weights, unet=unet, text=unet * share)


def as_data(weights: Weights) -> dict[str, Any]:
    """Weights as JSON has them."""
    unet, text = weights.pair
    return {
        "unet": unet, "text": text, "blocks": dict(weights.blocks), "begin": weights.begin, "end": weights.end
    }  # fmt: skip


def recipe_of(uses: Sequence[Use], adapters: Mapping[str, Adapter], base: Base, prompt: str) -> Any:
    """The recipe of a mix on a base."""
    from pipelines.recipe import Recipe, RecipeBase, ingredient

    entries = tuple(
        ingredient(
            use.path, use.name, adapters[use.name].triggers, weight=use.weights.unet,
            text_weight=use.weights.text, blocks=dict(use.weights.blocks), begin=use.weights.begin,
            end=use.weights.end,
        )
        for use in uses
    )  # fmt: skip
    about = RecipeBase(ref=base.ref, family=base.family.id, sha256=base.sha256)
    return Recipe(base=about, adapters=entries, prompt=prompt)
