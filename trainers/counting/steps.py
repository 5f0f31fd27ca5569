"""Training steps counted whole: Pigment's, and that of diffusers' DreamBooth-LoRA script beside it.

Published shapes, LoRA of rank 16 on the UNet's attention, bf16, as on a card; no device is needed. What an
operator takes for itself while it runs isn't among the bytes.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipelines.base import Base
from pipelines.families import UNET_TARGETS
from pipelines.placement import GIB
from trainers.counting.demand import Demand, Needs, trial
from trainers.counting.ledger import Ledger, Work
from trainers.counting.repeats import Repeats, repeating
from trainers.counting.twins import META, AsOn, as_on
from trainers.objective import noise_levels
from trainers.recomputing import modules_of, recomputed
from trainers.settings import AdapterConfig, ObjectiveConfig

RANK, TOKENS = 16, 77
MODELS = ("sd15", "sdxl")
_BF16 = torch.bfloat16


def count_steps(models: tuple[str, ...] = MODELS, batches: tuple[int, ...] = (1, 4)) -> dict[str, Any]:
    """Count a training step of each model and batch; returns what `counts.json` holds.

    Per model and batch: "pigment", "pigment-checkpointed" and "pigment-peft" (with PEFT's layers),
    "diffusers" and "diffusers-cached-text", each with kernels and FLOPs of forward and backward pass, kernels
    of clipping and of the optimizer, bytes kept when the backward pass begins and alive at most (beside
    weights), bytes of weights on the device, and the peak of all in GiB; and the ratios of "pigment" to
    "diffusers".
    """
    found: dict[str, Any] = {}
    for model in models:
        base = meta_base(model)
        for batch in batches:
            rows = {
                "pigment": pigment_step(base, batch),
                "pigment-checkpointed": pigment_step(base, batch, mode="all"),
                "pigment-peft": pigment_step(base, batch, quick=False),
                "diffusers": diffusers_step(model, batch),
                "diffusers-cached-text": diffusers_step(model, batch, text=False),
            }
            rows["ratios"] = ratios(rows["pigment"], rows["diffusers"])
            found[f"{model} batch {batch}"] = rows
    return found


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Return what is smaller here, as shares of what it is there."""
    return {name: ours[name] / theirs[name] for name in theirs}


def meta_base(family: str) -> Base:
    """Return a model in its published shape, in bf16, on tensors without memory."""
    from trainers.bench.models import random_base

    return random_base(family, device="meta", dtype="bf16")


def pigment_step(base: Base, batch: int, *, mode: str = "none", quick: bool = True) -> dict[str, Any]:
    """Count a step of Pigment: latents and texts from the cache, the VAE and the text encoders off the card.

    mode: of gradient checkpointing. quick: with Pigment's own low-rank layers, else PEFT's.
    """
    from trainers.tuning import injected

    config = AdapterConfig(unet_targets="attention", text_targets="none", rank=RANK, alpha=float(RANK))
    levels = noise_levels(replace(base, device=torch.device("cpu")), ObjectiveConfig())
    with ExitStack() as held:
        with as_on(card=True):  # layers look where they are put
            injection = held.enter_context(injected(base, config, quick=quick))
        parameters = list(injection.parameters.values())
        demand = Demand(samples=batch, shape=_shape(base), tokens=TOKENS)
        with recomputed(modules_of(base, mode)), trial(base, demand, levels, ObjectiveConfig()) as tried:
            needs = tried.step()
        weights = _bytes([base.unet])
        groups = len(injection.groups(_optimizer()))
    return _row(needs, _flat_update(groups), weights, sum(one.numel() for one in parameters) * 12)


def diffusers_step(family: str, batch: int, *, text: bool = True) -> dict[str, Any]:
    """Count a step of diffusers' script by running its calls: encode, noise, predict, MSE, backward.

    text: whether prompts are encoded in the step; the script for SDXL does that once, at the start.
    With `--mixed_precision bf16` UNet, adapter and text encoders are in bf16 and the UNet runs under
    autocast; SDXL's VAE stays in fp32. Everything stays on the card.
    Source: examples/dreambooth/train_dreambooth_lora.py and train_dreambooth_lora_sdxl.py of diffusers.
    """
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    base = meta_base(family)  # PEFT leaves its layers in one
    vae: Any = base.vae
    unet: Any = base.unet
    encoders: list[Any] = [base.component(row.component) for row in base.family.text_encoders]
    if base.family.pooled:
        for parameter in vae.parameters():
            parameter.data = parameter.data.float()
    running = encoders if text and not base.family.pooled else []
    targets = list(UNET_TARGETS["attention"])
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets)
    )
    learned = [one for one in unet.parameters() if one.requires_grad]
    ledger = Ledger()
    repeats = Repeats(ledger, repeating([unet, *running]))
    pixels = torch.empty(batch, 3, base.resolution, base.resolution, dtype=vae.dtype, device=META)
    conditions = _conditions(base, batch)
    with ledger, repeats.standing_in(), as_on(card=True) as repeats.mode:
        begun = ledger.forget_peak()
        loss = _diffusers_loss(base, pixels, conditions, running, DDPMScheduler(), repeats.mode)
        kept = ledger.live - begun
        loss.backward()
        del loss
        needs = Needs(ledger.peak - begun, kept, ledger.work)
    weights = _bytes([unet, vae, *(encoders if text else [])])
    beside = sum(one.nbytes for one in learned) * 2  # AdamW's; gradients are among what is alive
    return _row(needs, _foreach_update(len(learned)), weights, beside)


def _diffusers_loss(
    base: Base,
    pixels: torch.Tensor,
    conditions: dict[str, Any],
    encoders: list[Any],
    scheduler: Any,
    mode: AsOn,
) -> torch.Tensor:
    vae, unet, batch = base.vae, base.unet, len(pixels)
    with torch.no_grad():  # nothing here learns
        latents = vae.encode(pixels).latent_dist.sample() * vae.config["scaling_factor"]
    latents = latents.to(_BF16)
    noise = torch.randn_like(latents)
    timesteps = torch.empty(batch, dtype=torch.long, device=META)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    with torch.no_grad():
        for encoder in encoders:
            ids = torch.empty(batch, TOKENS, dtype=torch.long, device=META)
            conditions["encoder_hidden_states"] = encoder(ids, return_dict=False)[0]
    with mode.changed(_BF16):
        predicted = unet(noisy, timesteps, return_dict=False, **conditions)[0].float()
    return functional.mse_loss(predicted.float(), noise.float())


def _conditions(base: Base, batch: int) -> dict[str, Any]:
    """Return the UNet's arguments as made before a step."""
    width = int(base.unet.config["cross_attention_dim"])
    told: dict[str, Any] = {
        "encoder_hidden_states": torch.empty(batch, TOKENS, width, dtype=_BF16, device=META)
    }
    if base.family.pooled:
        encoder: Any = base.text_encoder_2
        wide = encoder.config.projection_dim
        told["added_cond_kwargs"] = {
            "text_embeds": torch.empty(batch, wide, dtype=_BF16, device=META),
            "time_ids": torch.empty(batch, 6, dtype=_BF16, device=META),
        }
    return told


def _row(needs: Needs, update: Work, weights: int, beside: int) -> dict[str, Any]:
    """Return a step's figures. beside: bytes of gradients and averages that aren't in `needs`."""
    return {
        **asdict(needs.work),
        "update_kernels": update.kernels,
        "kept_bytes": needs.kept,
        "alive_bytes": needs.peak,
        "weight_bytes": weights,
        "peak_gib": (needs.peak + weights + beside) / GIB,
    }


def _shape(base: Base) -> tuple[int, int]:
    side = base.resolution // base.vae_scale_factor
    return side, side


def _bytes(networks: list[Any]) -> int:
    return sum(one.nbytes for network in networks for one in network.parameters())


# ── Clipping and the optimizer: their calls depend on the number of tensors alone


def _optimizer() -> Any:
    from trainers.settings import OptimizerConfig

    return OptimizerConfig()


def _flat_update(groups: int) -> Work:
    """Count clipping and stepping on one flat buffer for each parameter group."""
    from trainers.optimizers import build_optimizer

    buffers = [nn.Parameter(torch.zeros(4)) for _ in range(groups)]
    return _update(build_optimizer([{"params": [one]} for one in buffers], _optimizer()), buffers)


def _foreach_update(count: int) -> Work:
    """Count clipping and stepping on `count` tensors with PyTorch's AdamW as it is on a card, by lists.

    An operator on lists counts once, though a card may be given several kernels for it.
    """
    tensors = [nn.Parameter(torch.zeros(4)) for _ in range(count)]
    return _update(torch.optim.AdamW(tensors, foreach=True), tensors, foreach=True)


def _update(optimizer: torch.optim.Optimizer, learned: list[nn.Parameter], *, foreach: bool = False) -> Work:
    """Count the second step of an optimizer: at the first it makes what it keeps."""
    ledger = Ledger()
    for entered in (nullcontext(), ledger):
        for one in learned:
            one.grad = torch.ones_like(one)
        with entered:
            torch.nn.utils.clip_grad_norm_(learned, 1.0, foreach=foreach or None)
            optimizer.step()
    return ledger.work
