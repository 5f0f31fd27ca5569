"""Bounds on the numbers in a base's configs: what is absurd is refused before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.bases.source import PREDICTIONS, Source
from pipelines.errors import BaseError


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a field of a config may hold.

    low, high: of a number, or of every number of a list where `many` says that it may be one. whole: no
    fractions. needed: it has to be there; another may lack or be null, which leaves the library's own.
    """

    low: float = 1
    high: float
    whole: bool = True
    many: bool = False
    needed: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a field may be so."""
        if value is None:
            return not self.needed
        numbers = list(_numbers(value)) if self.many else [value]
        kinds = int if self.whole else (int, float)
        return bool(numbers) and all(
            isinstance(number, kinds)
            and not isinstance(number, bool)
            and self.low <= number <= self.high  # also of integers beyond any float, and false of NaN
            for number in numbers
        )

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind}{' (or a list of them)' if self.many else ''} from {self.low:g} to {self.high:,g}"


_WIDTHS = Bound(high=65_536, many=True)
_DEPTHS = Bound(high=1000, many=True)

NETWORKS: dict[str, dict[str, Bound]] = {
    "unet": {
        "sample_size": Bound(high=1024, needed=True),
        "in_channels": Bound(high=1024, needed=True),
        "out_channels": Bound(high=1024),
        "block_out_channels": Bound(high=65_536, many=True, needed=True),
        "cross_attention_dim": _WIDTHS,
        "attention_head_dim": _WIDTHS,
        "num_attention_heads": _WIDTHS,
        "norm_num_groups": Bound(high=65_536),
        "layers_per_block": _DEPTHS,
        "transformer_layers_per_block": _DEPTHS,
        "addition_time_embed_dim": Bound(high=65_536),
        "projection_class_embeddings_input_dim": Bound(high=65_536),
    },
    "vae": {
        "latent_channels": Bound(high=256, needed=True),
        "block_out_channels": Bound(high=65_536, many=True, needed=True),
        "layers_per_block": _DEPTHS,
        "norm_num_groups": Bound(high=65_536),
        "scaling_factor": Bound(low=1e-4, high=1e4, whole=False),
    },
}
TEXT_ENCODER: dict[str, Bound] = {
    "vocab_size": Bound(high=1_000_000),
    "hidden_size": Bound(high=65_536),
    "intermediate_size": Bound(high=262_144),
    "projection_dim": Bound(high=65_536),
    "num_hidden_layers": Bound(high=1000),
    "num_attention_heads": Bound(high=65_536),
    "max_position_embeddings": Bound(high=65_536),
}
SCHEDULER: dict[str, Bound] = {
    "num_train_timesteps": Bound(high=100_000),
    "beta_start": Bound(low=0, high=1, whole=False),
    "beta_end": Bound(low=0, high=1, whole=False),
    "steps_offset": Bound(low=0, high=1000),
}
_SPACINGS = ("leading", "trailing", "linspace")
_DEPTH = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers")
"""Fields that say how often something is repeated."""


def check_configs(source: Source) -> None:
    """Hold a source's configs against their bounds, and their depth against the tensors that are there.

    Raises: BaseError that names the field, what it has and what it may have.
    """
    for part in source.networks:
        config = source.configs[part]
        where = f"base {source.ref!r}"
        if part == "vae" and source.vae_path is not None:
            where = f"VAE {str(source.vae_path)!r}"
        _check_fields(f"{where}: {part}", config, NETWORKS.get(part, TEXT_ENCODER))
        blocks = math.prod(max(_numbers(config.get(name) or 1)) for name in _DEPTH)
        blocks *= len(config.get("block_out_channels", (1,)))
        tensors = len(source.state(part))
        if blocks > tensors:
            raise BaseError(
                f"{where}: {part} has {tensors} tensors, its config describes some {blocks:,} blocks; "
                "fetch it again"
            )
    scheduler = source.configs["scheduler"]
    _check_fields(f"base {source.ref!r}: scheduler", scheduler, SCHEDULER)
    spacing = scheduler.get("timestep_spacing") or "leading"
    if spacing not in _SPACINGS:
        raise BaseError(
            f"base {source.ref!r}: scheduler has timestep_spacing = {str(spacing)[:40]!r} in its config, "
            f"expected {', '.join(_SPACINGS)}; fetch it again"
        )
    predicts = scheduler.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise BaseError(
            f"base {source.ref!r} predicts {str(predicts)[:40]!r}; supported are {' and '.join(PREDICTIONS)}"
        )


def _check_fields(where: str, config: Mapping[str, Any], bounds: Mapping[str, Bound]) -> None:
    for name, bound in bounds.items():
        if not bound.holds(config.get(name)):
            said = f"has {name} = {str(config[name])[:60]!r} in" if name in config else f"has no {name} in"
            raise BaseError(f"{where} {said} its config, expected {bound}; fetch it again")


def _numbers(value: Any, deep: int = 2) -> Iterator[Any]:
    """The numbers of a field: itself, or those of its lists, which may hold lists once."""
    if isinstance(value, list | tuple) and deep:
        for one in value:
            yield from _numbers(one, deep - 1)
    else:
        yield value
