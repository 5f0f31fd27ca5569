"""Files that are no base: each is refused by its name, in one line."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.bases.configs import VARIANTS
from pipelines.bases.foreign import FOREIGN, foreign_kind
from pipelines.bases.layout import pieces, vae_pieces
from pipelines.bases.recognise import recognise
from pipelines.errors import BaseError
from pipelines.families import FAMILIES
from tests.pipelines.bases.files import Shapes, header, published, published_file, without

FILE = Path("a model.safetensors")
UNET = "model.diffusion_model."


def refused(shapes: Shapes) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(BaseError) as caught:
        recognise(header(shapes), FILE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("'a model.safetensors' is ")
    return str(caught.value)


@pytest.mark.parametrize(("channels", "kind"), [(5, "a depth map"), (7, "enlarge"), (8, "InstructPix2Pix")])
def test_other_channels_are_named(channels: int, kind: str) -> None:
    said = refused({**published_file("sd15"), f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3)})
    assert f"with {channels} input channels" in said
    assert kind in said
    assert "supported are 4, and 9 of inpainting models" in said
    odd = refused({**published_file("sd15"), f"{UNET}input_blocks.0.0.weight": (320, 6, 3, 3)})
    assert "is of an unknown kind" in odd


def names(*keys: str) -> Shapes:
    return dict.fromkeys(keys, (1,))


def encoder_of_refiner() -> Shapes:
    file = without(published_file("sdxl"), "conditioner.embedders.0.")
    return {key.replace("embedders.1.", "embedders.0."): shape for key, shape in file.items()}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (lambda: names("lora_unet_down_blocks_0_x.lora_down.weight"), "an adapter (LoRA"),
        (lambda: names("unet.down_blocks.0.attentions.0.to_k.lora_A.weight"), "an adapter (LoRA"),
        (lambda: names("lycoris.hada_w1_a", "x.hada_w1_a"), "an adapter (LoRA"),
        (lambda: names("emb_params"), "a textual inversion"),
        (lambda: names("clip_l", "clip_g"), "a textual inversion"),
        (lambda: names("control_model.input_blocks.0.0.weight"), "a ControlNet"),
        (lambda: names("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"), "a ControlNet"),
        (lambda: names("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "an IP-Adapter"),
        (lambda: names("down_blocks.0.motion_modules.0.x"), "a motion module"),
        (lambda: names(f"{UNET}input_blocks.1.1.time_stack.0.x"), "a video model"),
        (lambda: names("double_blocks.0.img_attn.norm.key_norm.scale"), "a FLUX model"),
        (lambda: names(f"{UNET}single_blocks.0.linear1.weight"), "a FLUX model"),
        (lambda: names(f"{UNET}joint_blocks.0.x", "text_encoders.clip_l.x"), "an SD 3 model"),
        (lambda: names("transformer_blocks.0.attn.to_q.weight"), "another transformer model"),
        (lambda: names("clip_txt_mapper.weight"), "a Stable Cascade model"),
        (lambda: {**published_file("sdxl"), "edm_vpred.sigma_max": ()}, "a model of EDM's noise levels"),
        (lambda: {**published_file("sdxl"), "edm_mean": (4,)}, "a model of EDM's noise levels"),
        (lambda: {**published_file("sd2"), "noise_augmentor.betas": (1,)}, "an SD 2.x unCLIP model"),
        (lambda: {**published_file("sd2"), "low_scale_model.betas": (1,)}, "an upscaling model"),
        (lambda: {**published_file("sd2"), "depth_model.model.x": (1,)}, "a depth model"),
        (encoder_of_refiner, "the refiner of SDXL"),
        (lambda: published("sd15")["unet"], "a UNet alone in diffusers' layout"),
        (lambda: published("sdxl")["unet"], "a UNet alone in diffusers' layout"),
        (lambda: without(published_file("sd15"), "cond_", "first_"), "a UNet alone, without text encoder"),
        (lambda: without(published_file("sd15"), "cond_"), "a UNet alone, without text encoder"),
        (lambda: published("sd15")["vae"], "a VAE alone"),
        (lambda: without(published_file("sd15"), "cond_", "model."), "a VAE alone"),
        (lambda: names("encoder.conv_in.weight", "loss.logvar"), "a VAE alone"),
        (lambda: published("sd15")["text_encoder"], "a text encoder alone"),
        (lambda: published("sdxl")["text_encoder_2"], "a text encoder alone"),
        (lambda: names("conv.weight", "linear.bias"), "no base that is known: it has 2 tensors"),
        (dict, "no base that is known: it has 0 tensors"),
    ],
)  # fmt: skip
def test_what_is_no_base_is_refused_by_name(shapes: Callable[[], Shapes], said: str) -> None:
    line = refused(shapes())
    assert line.startswith(f"'a model.safetensors' is {said}")
    assert any(word in line for word in ("supported", "choose", "give", "import", "use it"))


def test_no_published_model_is_taken_for_something_else() -> None:
    assert [name for name in VARIANTS if foreign_kind(published_file(name))] == []
    assert len({row.kind for row in FOREIGN}) == len(FOREIGN)


def test_a_file_without_its_first_layer_is_refused() -> None:
    said = refused(without(published_file("sd15"), f"{UNET}input_blocks.0.0."))
    assert "without its UNet's first or last layer; fetch the file again" in said


def test_half_a_pair_of_text_encoders_is_no_sdxl() -> None:
    said = refused(without(published_file("sdxl"), "conditioner.embedders.1."))
    assert "no base that is known" in said


def test_damaged_names_and_shapes_end_in_one_line() -> None:
    shuffle = random.Random(0)
    endings = [
        "",
        "weight",
        ".0.op.weight",
        "9" * 60,
        ".attn.in_proj_weight",
        ".1.conv.weight",
        "\u0663.bias",
    ]
    looks: list[Callable[[Shapes], Any]] = [lambda file: recognise(header(file), FILE), vae_pieces]
    looks += [partial(pieces, family=row) for row in FAMILIES.values()]
    for turn in range(40):
        file = dict(published_file(("sd15", "sd2")[turn % 4 == 0]))
        for key in shuffle.sample(sorted(file), 8):
            shape = shuffle.choice([(), (0,), (1,), (3, 5), (2, 2, 1, 1), file.pop(key)])
            file[key[: shuffle.randrange(1, len(key))] + shuffle.choice(endings) if turn % 2 else key] = shape
        for look in looks:
            with contextlib.suppress(BaseError):
                look(file)
