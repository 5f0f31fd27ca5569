"""Which weight files of a folder are taken."""

from __future__ import annotations

import pytest

from pipelines.bases.variants import choose_weights

UNET = "diffusion_pytorch_model"
SHARDS = [f"{UNET}-0000{n}-of-00002.safetensors" for n in (1, 2)]
HALF_SHARDS = [f"{UNET}.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
OLD_HALF_SHARDS = [f"{UNET}-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)]


@pytest.mark.parametrize(
    ("names", "full", "half"),
    [
        (["model.safetensors"], ["model.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors", "model.fp16.safetensors"],
            ["model.safetensors"],
            ["model.fp16.safetensors"],
        ),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"], ["model.fp16.safetensors"]),
        ([*SHARDS, *HALF_SHARDS], SHARDS, HALF_SHARDS),
        ([*SHARDS, *OLD_HALF_SHARDS], SHARDS, OLD_HALF_SHARDS),
        ([SHARDS[1], *HALF_SHARDS], HALF_SHARDS, HALF_SHARDS),
        ([*SHARDS, f"{UNET}.safetensors"], [f"{UNET}.safetensors"], [f"{UNET}.safetensors"]),
        ([f"{UNET}.safetensors", *SHARDS], [f"{UNET}.safetensors"], [f"{UNET}.safetensors"]),
        ([f"{UNET}.non_ema.safetensors", f"{UNET}.safetensors"], *[[f"{UNET}.safetensors"]] * 2),
        ([f"{UNET}.non_ema.safetensors", f"{UNET}.ema.safetensors"], [], []),
        (["my vae.safetensors", "config.json"], ["my vae.safetensors"], ["my vae.safetensors"]),
        (["a.safetensors", "b.safetensors"], [], []),
        ([SHARDS[0]], [], []),
        (["model.bin", "config.json"], [], []),
        ([], [], []),
    ],
)
def test_choice(names: list[str], full: list[str], half: list[str]) -> None:
    assert list(choose_weights(names, half=False)) == full
    assert list(choose_weights(names, half=True)) == half
