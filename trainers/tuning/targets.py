"""Which modules of a base are tuned, and how large their share is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from pipelines.base import Base
from pipelines.errors import ConfigError, nearest
from pipelines.families import TEXT_TARGETS, UNET_TARGETS, block_of
from pipelines.methods import TUNINGS, Size, Tuning
from trainers.settings import AdapterConfig
from trainers.settings.adapter import by_block

# Normalisations have no place in the target sets: here is what goes with them.
_UNET_NORMS = {"attention": ("norm1", "norm2"), "attention+ff": ("norm1", "norm2", "norm3", "norm")}
_TEXT_NORMS = {"attention": ("layer_norm1",), "attention+mlp": ("layer_norm1", "layer_norm2")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Seat:
    """A module that is tuned.

    name: canonical. component, path: where it stands. module: the base's own. size: of its share.
    rate: what its learning rate is multiplied by.
    """

    name: str
    component: str
    path: str
    module: nn.Module
    size: Size
    rate: float = 1.0


def seats(base: Base, config: AdapterConfig) -> tuple[list[Seat], list[str]]:
    """Return the modules that a config asks for, UNet first, and what there is to say of those left out.

    Raises: ConfigError where a component has none, a module doesn't take the method, or a block that the
    config names isn't in the base.
    """
    tuning = TUNINGS[config.method]
    found: list[Seat] = []
    odd: list[str] = []
    for component in base.family.components:
        targets = targets_of(component, config)
        if targets == "none":
            continue
        named = list(_named(base.component(component), component, targets))
        taken = [(path, module) for path, module in named if _takes(tuning, path, module)]
        if not taken:
            what = ", ".join(tuning.sits_on) or "nothing"
            endings = f" named {', '.join(tuning.endings)}" if tuning.endings else ""
            raise ConfigError(
                f"base {base.ref!r} has no layers for {tuning.label} in its {component} ({what}{endings}, "
                f"among {targets!r}); choose other targets, or another method"
            )
        odd += [path for path, module in named if (path, module) not in taken and _expected(tuning, module)]
        for path, module in taken:
            name = f"{component}.{path.removeprefix('text_model.')}"
            seat = Seat(name=name, component=component, path=path, module=module, size=_size(name, config))
            found.append(replace(seat, rate=_of_block(name, config.block_rates, 1.0)))
    for field in ("block_ranks", "block_alphas", "block_rates"):
        _known_blocks(field, by_block(getattr(config, field)), found)
    _fitting(tuning, found)
    notes = []
    if odd:
        notes.append(
            f"{tuning.label} can't sit on {len(odd)} convolutions of the targets; they stay as they are"
        )
    return found, notes


def targets_of(component: str, config: AdapterConfig) -> str:
    """Return the name of a component's target set; "none" where the method doesn't reach it."""
    part = "unet" if component == "unet" else "text"
    if part not in TUNINGS[config.method].components:
        return "none"
    return config.unet_targets if component == "unet" else config.text_targets


def kind_of(path: str, module: nn.Module) -> str | None:
    """Return a module's kind, one of `tuning.KINDS`, or None."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "pointwise" if tuple(module.kernel_size) == (1, 1) else "conv"
    if isinstance(module, nn.LayerNorm | nn.GroupNorm):
        return "norm" if module.weight is not None else None
    return "attention" if path.endswith("self_attn") else None


def _named(module: nn.Module, component: str, targets: str) -> Iterator[tuple[str, nn.Module]]:
    """Every module that a target set speaks of, by its path, normalisations and attention included."""
    unet = component == "unet"
    endings = (UNET_TARGETS if unet else TEXT_TARGETS)[targets]
    norms = (_UNET_NORMS if unet else _TEXT_NORMS).get(targets)
    for path, child in module.named_modules():
        kind = kind_of(path, child)
        if kind == "attention":
            wanted = not unet
        elif kind == "norm":
            inside = not unet or ".attentions." in path
            wanted = norms is None or (inside and _ends(path, norms))
        else:
            wanted = kind is not None and _ends(path, endings)
        if wanted:
            yield path, child


def _ends(path: str, endings: Iterable[str]) -> bool:
    return any(path == ending or path.endswith(f".{ending}") for ending in endings)


def _takes(tuning: Tuning, path: str, module: nn.Module) -> bool:
    kind = kind_of(path, module)
    kinds = (kind, "conv") if kind == "pointwise" else (kind,)
    fits = any(kind in tuning.sits_on for kind in kinds)
    fits = fits and (not tuning.endings or _ends(path, tuning.endings))
    return fits and (tuning.suits is None or tuning.suits(module))


def _expected(tuning: Tuning, module: nn.Module) -> bool:
    """Whether people would think that the method is on a module where it isn't."""
    layers = {"linear", "conv", "pointwise"} & set(tuning.sits_on)
    return bool(layers) and "conv" not in layers and not tuning.endings and isinstance(module, nn.Conv2d)


def _size(name: str, config: AdapterConfig) -> Size:
    text = not name.startswith("unet.")
    rank = config.text_rank if text and config.text_rank is not None else config.rank
    alpha = config.text_alpha if text and config.text_alpha is not None else config.alpha
    return Size(
        rank=int(_of_block(name, config.block_ranks, rank)),
        alpha=float(_of_block(name, config.block_alphas, alpha)),
        dropout=config.dropout,
        module_dropout=config.module_dropout,
        init=config.initialisation,
    )


def _of_block(name: str, texts: tuple[str, ...], default: float) -> float:
    """The value of the longest block name that a module's block is or begins with."""
    block, best = block_of(name), ""
    for key in by_block(texts):
        if (block == key or block.startswith(f"{key}.")) and len(key) > len(best):
            best = key
    return by_block(texts)[best] if best else default


def _known_blocks(field: str, values: Mapping[str, float], found: list[Seat]) -> None:
    blocks = {block_of(seat.name) for seat in found}
    for key in values:
        if not any(block == key or block.startswith(f"{key}.") for block in blocks):
            raise ConfigError(f"adapter.{field}: no tuned layer is in a block {key!r}{nearest(key, blocks)}")


def _fitting(tuning: Tuning, found: list[Seat]) -> None:
    """Refuse modules whose shape doesn't take the method. Raises: ConfigError naming the first."""
    if tuning.misfit is None:
        return
    reasons = {seat.name: why for seat in found if (why := tuning.misfit(seat.module, seat.size))}
    if reasons:
        name, why = next(iter(reasons.items()))
        raise ConfigError(
            f"adapter.rank: {tuning.label} doesn't fit {len(reasons)} of {len(found)} layers, for instance "
            f"{name}: {why}; choose another rank or other targets"
        )
