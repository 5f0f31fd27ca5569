"""Weights at which adapters have the same effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from pipelines.adapter import Adapter
from pipelines.deltas import check_on, delta_of, layers_of
from pipelines.errors import AdapterError, ConfigError, nearest

if TYPE_CHECKING:
    from pipelines.base import Base

MEASURES = {
    "norm": "the size of the change, ‖ΔW‖",
    "effect": "the change of the prediction, measured on fixed latents and prompts",
}
MAX_BALANCED = 3.0

_STEPS, _SEED = 3, 0
_PROMPTS = ("", "a photo")


def balanced_weights(
    adapters: Mapping[str, Adapter], base: Base | None = None, *, measure: str = "norm"
) -> dict[str, float]:
    """Propose weights at which the adapters have the same effect, with 1 as the mean weight.

    measure: a key of MEASURES. "norm" equalises wᵢ‖ΔWᵢ‖_F over all modules; "effect" needs a base and
    equalises wᵢ times the change that each adapter alone causes at weight 1 (see `effects`), as if
    that grew in proportion to the weight, which holds in first order only. Weights are clipped to at
    most 3, and then their mean is below 1. Adapters without any effect keep 1 and stand aside.

    Raises: ConfigError for an unknown measure or a missing base; AdapterError for adapters that don't
    fit the base.
    """
    if measure not in MEASURES:
        raise ConfigError(f"unknown measure {measure!r}{nearest(measure, MEASURES)}")
    if measure == "effect":
        if base is None:
            raise ConfigError("the effect of adapters is measured on a base; give one, or measure by 'norm'")
        sizes = effects(adapters, base)
    else:
        layers = layers_of(base, adapters.values())
        sizes = {
            name: sum(delta_of(adapter, module, layers).norm() ** 2 for module in adapter.factors) ** 0.5
            for name, adapter in adapters.items()
        }
    shares = {name: 1 / size for name, size in sizes.items() if size > 0}
    mean = sum(shares.values()) / max(1, len(shares))
    return {name: min(MAX_BALANCED, shares[name] / mean) if name in shares else 1.0 for name in adapters}


def effects(adapters: Mapping[str, Adapter], base: Base) -> dict[str, float]:
    """Return, per adapter alone at weight 1, the root mean square of the change of the prediction.

    Over the latents that the base passes through in 3 DDIM steps from the noise of one seed, for an
    empty prompt, "a photo", and the first trigger of every adapter: the same inputs for all. The base
    is as it was afterwards.

    Raises: AdapterError for adapters that don't fit the base, or that are mixed into it now.
    """
    from pipelines.mixer import Mixer

    check_on(base, adapters.values())
    for name, adapter in adapters.items():
        if not adapter.factors and not adapter.tokens:
            raise AdapterError(f"adapter {name!r} is empty; leave it out")
    triggers = (adapter.triggers[0] for adapter in adapters.values() if adapter.triggers)
    prompts = [*_PROMPTS, *dict.fromkeys(triggers)]
    found = {}
    with torch.no_grad():
        steps, plain = _trajectory(base, prompts)
        for name, adapter in adapters.items():
            with Mixer(base) as mixer:
                mixer.add(name, adapter)
                mixer.set({name: 1.0})
                changed = _predictions(base, prompts, steps)
            found[name] = float((changed - plain).square().mean().sqrt())
    return found


def _trajectory(
    base: Base, prompts: list[str]
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Run the base itself for a few DDIM steps.

    Returns: (latents (B, C, h, w), timestep) of each step, and its predictions there, as `_predictions`.
    """
    from pipelines.samplers import make_scheduler

    scheduler: Any = make_scheduler(base, "ddim")
    scheduler.set_timesteps(_STEPS, device=base.device)
    side = base.resolution // base.vae_scale_factor
    generator = torch.Generator().manual_seed(_SEED)
    latents = torch.randn((len(prompts), base.latent_channels, side, side), generator=generator)
    latents = latents.to(base.device, base.dtype) * scheduler.init_noise_sigma
    steps, found = [], []
    for timestep in scheduler.timesteps:
        steps.append((latents, timestep))
        found.append(_predictions(base, prompts, steps[-1:]))
        latents = scheduler.step(found[-1][0].to(base.dtype), timestep, latents, return_dict=False)[0]
    return steps, torch.cat(found)


def _predictions(
    base: Base, prompts: list[str], steps: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Return (steps, B, C, h, w) predictions in fp32, of the weights as they are now, text encoders too."""
    arguments = base.condition(prompts).arguments((base.resolution, base.resolution))
    found = [base.unet(latents, t, return_dict=False, **arguments)[0].float() for latents, t in steps]
    return torch.stack(found)
