"""The quick look at latents is near the picture that they decode to."""

from __future__ import annotations

import copy
import gc
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import latent_preview
from pipelines.base import Base
from pipelines.errors import BaseError
from pipelines.families import FAMILIES
from pipelines.generate import GenerationConfig, generate
from pipelines.grids import psnr
from pipelines.latent_preview import LatentToRGB, fit


@pytest.mark.parametrize("seed", [0, 1])
def test_a_preview_is_near_the_picture_and_far_better_than_its_mean_colour(pocket: Base, seed: int) -> None:
    latents: list[torch.Tensor] = []
    config = GenerationConfig(prompt="a red fox", seed=seed, num_inference_steps=10)
    picture = generate(pocket, config, on_step=lambda step: latents.append(step.latents))[0].image
    preview = fit(pocket).picture(latents[-1])
    assert preview.size == picture.size
    levels = np.asarray(picture, float)
    flat = Image.new("RGB", picture.size, tuple(int(level) for level in levels.mean((0, 1))))
    assert psnr(picture, preview) > psnr(picture, flat) + 5
    assert np.corrcoef(levels.ravel(), np.asarray(preview, float).ravel())[0, 1] > 0.9


def test_it_is_fitted_in_well_under_a_second_and_once_per_autoencoder(pocket: Base) -> None:
    first = fit(pocket)
    assert fit(pocket) is first
    base = copy.copy(pocket)
    base.vae = copy.deepcopy(pocket.vae)
    begun = time.process_time()
    second = fit(base)
    assert time.process_time() - begun < 1
    assert second is not first and torch.equal(second.weight, first.weight)
    alive, base.vae = weakref.ref(base.vae), pocket.vae
    gc.collect()
    assert alive() is None, "what was fitted keeps an autoencoder in memory"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_one(base_of: Callable[[str], Base], family: str) -> None:
    base = base_of(family)
    made = fit(base)
    assert made.weight.shape == (base.latent_channels, 3) and made.scale == base.vae_scale_factor
    picture = made.picture(torch.randn(2, base.latent_channels, 5, 3))
    assert picture.size == (3 * made.scale, 5 * made.scale) and picture.mode == "RGB"


def test_least_squares_find_a_linear_map_exactly(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an autoencoder that is a rotation of the colours itself, nothing is lost."""
    turn = torch.linalg.qr(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))[0]  # (C, 3)

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        small = torch.nn.functional.avg_pool2d(pixels, tiny_base.vae_scale_factor)
        latents = torch.einsum("cd,bdhw->bchw", turn, small) + 0.25
        return latents, torch.zeros_like(latents)

    monkeypatch.setattr(Base, "encode_images", lambda self, pixels: encode(pixels))
    made = latent_preview._fitted(tiny_base)
    colours = torch.rand(1, 3, 8, 8) * 2 - 1
    latents, _ = encode(colours.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert (made.pixels(latents) - colours).abs().max() < 1e-4


def test_latents_that_are_no_numbers_are_shown_grey() -> None:
    made = LatentToRGB(weight=torch.ones(4, 3), bias=torch.zeros(3), scale=2)
    picture = made.picture(torch.full((1, 4, 2, 2), torch.nan))
    assert picture.getextrema() == ((128, 128),) * 3


def test_an_autoencoder_of_nans_is_an_error(tiny_base: Base) -> None:
    with torch.no_grad():
        tiny_base.vae.encoder.conv_in.weight.fill_(torch.nan)
    with pytest.raises(BaseError, match="gives values that are no numbers"):
        fit(tiny_base)
