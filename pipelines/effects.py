"""How much adapters change what a base predicts, in all and block by block: measured, not guessed from ΔW.

‖ΔW‖ says little about it: adapters of one size may differ by three times in effect, and nearly all of it may
come from one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pipelines.deltas import check_on, in_model_order
from pipelines.errors import AdapterError, BaseError
from pipelines.families import block_of

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.base import Base
    from pipelines.mixer import Mixer
    from pipelines.mixing.weights import Weights

_STEPS, _SEED = 3, 0
_PROMPTS = ("", "a photo")


def block_effects(mixer: Mixer, name: str) -> Iterator[tuple[str, float]]:
    """Yield each block with the root mean square change of the prediction by an adapter there alone.

    name: of an adapter that the mixer holds. At weight 1, over the latents that the base passes through in 3
    DDIM steps from the noise of one seed, for "a photo" and "a photo of" its first trigger. Blocks as in
    `families.block_of`; learned words count to their text encoders. Between two blocks the weights are as
    they were, and the mixer may be used for something else.

    Raises: AdapterError where the mixer doesn't hold it (any more), or its numbers are too large.
    """
    from pipelines.mixing.weights import Weights

    adapter, base = mixer.adapters[name], mixer.base
    reached = {block_of(module) for module in adapter.factors}
    reached |= {encoder for vectors in adapter.tokens.values() for encoder in vectors}
    prompts = [_PROMPTS[1], f"a photo of {adapter.triggers[0]}" if adapter.triggers else _PROMPTS[0]]
    with _weighed(mixer, {}), torch.no_grad():
        steps, plain = _trajectory(base, prompts)
    for block in in_model_order(reached):
        alone = Weights(blocks={other: 0.0 for other in mixer.blocks if other != block})
        with _weighed(mixer, {name: alone}), torch.no_grad():
            changed = _predictions(base, prompts, steps)
        yield block, _size(changed, plain, adapter, base)


@contextmanager
def _weighed(mixer: Mixer, weights: Mapping[str, Weights]) -> Iterator[None]:
    """Set a mixer's weights, and back to what they were."""
    before = mixer.settings
    mixer.set(weights)
    try:
        yield
    finally:
        mixer.set(before)


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
            found[name] = _size(changed, plain, adapter, base)
    return found


def _size(changed: torch.Tensor, plain: torch.Tensor, adapter: Adapter, base: Base) -> float:
    """Return the root mean square of a change of predictions.

    Raises: AdapterError or BaseError where what makes them comes to no numbers.
    """
    size = float((changed - plain).square().mean().sqrt())
    if math.isfinite(size):
        return size
    if not plain.isfinite().all():
        raise BaseError(f"base {base.ref!r} predicts no numbers (NaN): it is damaged; fetch it again")
    raise AdapterError(
        f"adapter {adapter.name!r} at weight 1 makes the base predict no numbers (NaN): its own are too "
        "large; take it out of the mix, or fetch it again"
    )


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
