"""The embedded base's autoencoder, trained on the corpus and on every glyph of the font.

Deterministic: noise on the latents takes the place of a KL term, and the per-channel mean and deviation
of the latents are folded into the quantisation convolutions, so that latents are unit and
`scaling_factor` is 1.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from trainers.base.corpus import collect
from trainers.base.latents import to_batch


@dataclass(frozen=True, kw_only=True)
class AutoencoderPlan:
    """How the autoencoder is trained; `decoder_only` keeps the latents, so that the UNet still fits."""

    minutes: float
    size: int = 64
    batch: int = 48
    learning_rate: float = 2e-3
    pictures: int = 24_000
    latent_noise: float = 0.03
    decoder_only: bool = False
    threads: int = 2
    seed: int = 0


def new_autoencoder(size: int = 64) -> AutoencoderKL:
    """f4 with 4 channels, 2.6 M parameters, no attention."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=size, layers_per_block=1,
        block_out_channels=(32, 64, 128), norm_num_groups=8, mid_block_add_attention=False,
        scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + 2·MSE + 10·MSE of 4×-averaged pictures (colour) + 0.3·L1 of the gradients; (B, 3, H, W) each."""
    difference = output - target
    colour = functional.avg_pool2d(difference, 4).pow(2).mean()
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return difference.abs().mean() + 2 * difference.pow(2).mean() + 10 * colour + 0.3 * (across + down)


@torch.no_grad()
def whiten(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Fold the latents' mean and deviation per channel into `quant_conv` and `post_quant_conv`, in place."""
    mean = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(32)])  # (N, C, h, w)
    shift, scale = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    channels = len(shift)
    vae.quant_conv.weight[:channels] /= scale[:, None, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - shift) / scale
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = -6
    weight = vae.post_quant_conv.weight
    vae.post_quant_conv.bias += (weight * shift[None, :, None, None]).sum((1, 2, 3))
    weight *= scale[None, :, None, None]


def train(plan: AutoencoderPlan, folder: Path, source: Path | None = None) -> None:
    """Train by the clock and save `folder/vae`, the moving average in fp16; goes on from `source`."""
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    vae = (
        AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32)
        if source
        else new_autoencoder(plan.size)
    )
    frozen = [vae.encoder, vae.quant_conv] if plan.decoder_only else []
    for module in frozen:
        module.requires_grad_(False)
    data = collect(plan.pictures, plan.seed + 71, plan.size, other_glyphs=0.5).pictures
    parameters = [p for p in vae.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    folder.mkdir(parents=True, exist_ok=True)
    began, step = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / 60 / plan.minutes) < 1:
        decay = max(0.0, (progress - 0.3) / 0.7)
        for group in optimizer.param_groups:
            group["lr"] = (
                plan.learning_rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * decay))
            )
        index = torch.randint(len(data), (plan.batch,))
        pixels = to_batch([data[i].astype(np.float32) / 255 for i in index])
        mean = vae.encode(pixels).latent_dist.mean
        spread = mean.detach().std((0, 2, 3), keepdim=True)
        output = vae.decode(mean + plan.latent_noise * spread * torch.randn_like(mean)).sample
        loss = reconstruction_loss(output, pixels) + 1e-4 * mean.pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(
            average, [p.detach() for p in parameters], 1 - min(0.998, (step + 1) / (step + 10))
        )
        step += 1
        if step % 20 == 0:
            row = {"step": step, "loss": round(loss.item(), 4), "minutes": round(progress * plan.minutes, 2)}
            with (folder / "curve.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
    with torch.no_grad():
        for p, value in zip(parameters, average, strict=True):
            p.copy_(value)
    if not plan.decoder_only:
        whiten(vae, to_batch([p.astype(np.float32) / 255 for p in data[:512]]))
    vae.half().save_pretrained(folder / "vae")
