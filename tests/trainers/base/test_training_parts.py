"""The mathematics of the base's training, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from trainers.base.autoencoder import new_autoencoder, reconstruction_loss, whiten
from trainers.base.denoiser import DenoiserPlan, Timesteps, rate, v_target
from trainers.base.towers import contrastive_loss


def test_v_target_matches_diffusers() -> None:
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    x, noise = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    t = torch.tensor([0, 10, 500, 999])
    alpha = scheduler.alphas_cumprod[t][:, None, None, None]
    assert torch.allclose(v_target(x, noise, alpha), scheduler.get_velocity(x, noise, t), atol=1e-6)


def test_timesteps_cover_the_range_and_thin_out_where_the_signal_is_strong() -> None:
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    generator = torch.Generator().manual_seed(0)
    sampler = Timesteps(scheduler.alphas_cumprod, limit=4.0)
    drawn = torch.cat([sampler.sample(64, generator) for _ in range(500)])
    assert drawn.min() >= 0 and drawn.max() == 999
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    expected = (4.0 / (snr + 1)).clamp(max=1)
    expected = expected / expected.sum()
    low = (drawn < 50).float().mean().item()
    assert low == pytest.approx(expected[:50].sum().item(), rel=0.2)
    assert low < 0.5 * 50 / 1000
    # stratified: every batch spans the range
    assert sampler.sample(64, generator).sort().values.diff().max() < 80


def test_the_rate_warms_up_stays_and_decays_by_the_clock() -> None:
    plan = DenoiserPlan(minutes=10, warmup_steps=10, decay_from=0.4)
    assert rate(0.0, 0, plan) == pytest.approx(0.1)
    assert rate(0.4, 500, plan) == 1.0
    assert rate(0.7, 500, plan) == pytest.approx(0.5)
    assert rate(1.0, 500, plan) == pytest.approx(0.0, abs=1e-9)


def test_contrastive_loss_by_hand() -> None:
    eye = torch.eye(3)
    scale = torch.tensor(math.log(2.0))
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert contrastive_loss(eye, eye, scale).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(eye, eye.roll(1, 0), scale).item() > expected


def test_reconstruction_loss_is_zero_only_for_equal_pictures() -> None:
    a = torch.rand(2, 3, 16, 16)
    assert reconstruction_loss(a, a).item() == 0
    assert reconstruction_loss(a + 0.1, a).item() == pytest.approx(0.1 + 2 * 0.01 + 10 * 0.01, rel=1e-3)


def test_whitening_gives_unit_latents_and_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = new_autoencoder(32).eval()
    assert isinstance(vae, AutoencoderKL)
    pixels = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        whiten(vae, pixels)
        latents = vae.encode(pixels).latent_dist
        after = vae.decode(latents.mean).sample
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(latents.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert latents.mean.mean((0, 2, 3)).abs().max() < 1e-3
    assert latents.std.max() < 0.06
