"""Which settings go together, and which have nothing to act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError
from pipelines.samplers import SAMPLERS, check_eta

if TYPE_CHECKING:
    from pipelines.generation import GenerationConfig

LARGEST_SEED = 2**53 - 1
"""The largest whole number that every reader of JSON has exactly."""

_Acts = Callable[["GenerationConfig"], bool]


def _over_a_picture(config: GenerationConfig) -> bool:
    return config.image is not None


def _in_a_mask(config: GenerationConfig) -> bool:
    return config.mask is not None


def _in_two_passes(config: GenerationConfig) -> bool:
    return config.hires_scale > 1


def _guided(config: GenerationConfig) -> bool:
    return config.guidance_scale > 1


def _several(config: GenerationConfig) -> bool:
    return config.num_images > 1


def _with_eta(config: GenerationConfig) -> bool:
    return SAMPLERS[config.sampler].eta


# A field → whether it has something to act on, and what it needs for that.
_NEEDS: dict[str, tuple[_Acts, str]] = {
    "strength": (_over_a_picture, "a picture that is drawn over"),
    "mask_blur": (_in_a_mask, "a mask"),
    "mask_padding": (_in_a_mask, "a mask"),
    "mask_invert": (_in_a_mask, "a mask"),
    "hires_steps": (_in_two_passes, "a hires_scale above 1"),
    "hires_strength": (_in_two_passes, "a hires_scale above 1"),
    "hires_upscaler": (_in_two_passes, "a hires_scale above 1"),
    "negative_prompt": (_guided, "a guidance_scale above 1"),
    "guidance_rescale": (_guided, "a guidance_scale above 1"),
    "batch_size": (_several, "num_images above 1"),
    "eta": (_with_eta, "sampler " + " or ".join(key for key, row in SAMPLERS.items() if row.eta)),
}


def lacking(config: GenerationConfig, name: str) -> str | None:
    """Return what the field `name` needs to change anything and doesn't have; None where it acts."""
    acts, needs = _NEEDS.get(name, (None, ""))
    return None if acts is None or acts(config) else needs


def idle(config: GenerationConfig) -> dict[str, str]:
    """Return the fields that are set to something but change nothing, and what each needs for that."""
    defaults = {name: type(config).model_fields[name].default for name in _NEEDS}
    found = {name: lacking(config, name) for name in _NEEDS if getattr(config, name) != defaults[name]}
    return {name: needs for name, needs in found.items() if needs is not None}


def check(config: GenerationConfig) -> None:
    """Raise ConfigError for settings that contradict each other, whatever the base."""
    last = config.seed + config.num_images - 1
    if last > LARGEST_SEED:
        raise ConfigError(
            f"{config.num_images} pictures from seed {config.seed} on end at {last}, the largest is "
            f"{LARGEST_SEED}; begin lower"
        )
    if config.mask is not None and config.hires_scale > 1:
        raise ConfigError(
            f"hires_scale is {config.hires_scale:g} with a mask, whose part would outgrow its picture; "
            f"set it to 1, and mask_padding to draw the masked part at full size"
        )
    check_eta(config.sampler, config.eta)
