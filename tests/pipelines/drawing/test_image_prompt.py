"""Image prompts: as diffusers' pipelines draw with an IP-Adapter, and no trace of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.attention import put_attention
from pipelines.base import Base
from pipelines.errors import BaseError, ConfigError
from pipelines.generate import GenerationConfig, ImagePromptUse, Inputs, Step, generate
from tests.pipelines.drawing.scenes import diffusers_pipeline, levels_apart, noisy_picture
from tests.tiny import assert_unchanged, weights_of

DRAW = GenerationConfig(prompt="a fox", num_inference_steps=3, guidance_scale=4.0, seed=3)
LIKE = noisy_picture(40, 40, seed=7)
WIDTH, EMBEDDING = 16, 12


def save_ip_adapter(base: Base, folder: Path, *, plus: bool = False) -> Path:
    """Write a random IP-Adapter and its image encoder, laid out as h94/IP-Adapter is."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    text = base.unet.config["cross_attention_dim"]
    tensors: dict[str, torch.Tensor] = {}
    layers = [m for name, m in base.unet.named_modules() if name.endswith("attn2")]
    order = [name for name in base.unet.attn_processors if name.endswith("attn2.processor")]
    by_name = dict(base.unet.named_modules())
    assert len(order) == len(layers)
    for number, name in enumerate(order):
        side = by_name[name.removesuffix(".processor")].to_k.out_features
        for kind in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{2 * number + 1}.{kind}.weight"] = random(side, text)
    if plus:
        tensors |= {f"image_proj.{key}": value for key, value in _resampler(random, text).items()}
    else:
        tensors |= {
            "image_proj.proj.weight": random(4 * text, EMBEDDING),
            "image_proj.proj.bias": torch.zeros(4 * text),
            "image_proj.norm.weight": torch.ones(text),
            "image_proj.norm.bias": torch.zeros(text),
        }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter.safetensors")
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
            image_size=28, patch_size=14, projection_dim=EMBEDDING,
        )
    ).save_pretrained(folder / "image_encoder")  # fmt: skip
    return folder / "adapter.safetensors"


def _resampler(random: Callable[..., torch.Tensor], text: int) -> dict[str, torch.Tensor]:
    """An IP-Adapter Plus' projection: four layers, as diffusers expects, one head 64 wide, 3 tokens."""
    inner = 64
    tensors = {
        "latents": random(1, 3, inner),
        "proj_in.weight": random(inner, WIDTH),
        "proj_in.bias": torch.zeros(inner),
        "proj_out.weight": random(text, inner),
        "proj_out.bias": torch.zeros(text),
        "norm_out.weight": torch.ones(text),
        "norm_out.bias": torch.zeros(text),
    }
    for layer in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            tensors[f"layers.{layer}.{norm}.weight"] = torch.ones(inner)
            tensors[f"layers.{layer}.{norm}.bias"] = torch.zeros(inner)
        for name, rows, columns in (
            ("0.to_q", inner, inner),
            ("0.to_kv", 2 * inner, inner),
            ("0.to_out", inner, inner),
            ("1.1", 4 * inner, inner),
            ("1.3", inner, 4 * inner),
        ):
            tensors[f"layers.{layer}.{name}.weight"] = random(rows, columns)
    return tensors


def state_of(base: Base) -> tuple[Any, ...]:
    """What an IP-Adapter changes on a UNet."""
    unet: Any = base.unet
    processors = {name: id(processor) for name, processor in unet.attn_processors.items()}
    return processors, unet.encoder_hid_proj, unet.config.encoder_hid_dim_type, set(unet.state_dict())


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_image_prompt_equals_diffusers(
    tiny_base: Base, tiny_sdxl: Base, tmp_path: Path, family: str, plus: bool
) -> None:
    base = {"sd15": tiny_base, "sdxl": tiny_sdxl}[family]
    file = save_ip_adapter(base, tmp_path / "ip", plus=plus)
    config = DRAW.model_copy(update={"image_prompt": ImagePromptUse(ref=str(file), weight=0.7)})
    before, weights = state_of(base), weights_of(base)
    ours = generate(base, config, inputs=Inputs(image_prompt=LIKE))[0]
    assert state_of(base) == before
    assert_unchanged(base, weights)
    plain = generate(base, DRAW)[0].image
    assert levels_apart(ours.image, plain) > 5
    other = generate(base, config, inputs=Inputs(image_prompt=noisy_picture(40, 40, seed=8)))[0].image
    assert other.tobytes() != ours.image.tobytes()
    again = GenerationConfig.model_validate(ours.settings["generation"])
    assert generate(base, again, inputs=Inputs(image_prompt=LIKE))[0].image.tobytes() == ours.image.tobytes()
    pipeline = diffusers_pipeline(base, base.family.pipeline_class)
    pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name)
    pipeline.set_ip_adapter_scale(0.7)
    theirs = pipeline(
        "a fox", ip_adapter_image=LIKE, num_inference_steps=3, guidance_scale=4.0, height=16, width=16,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert levels_apart(ours.image, theirs) <= 1


def test_the_unet_is_as_it_was_after_an_error(tiny_base: Base, tmp_path: Path) -> None:
    file = save_ip_adapter(tiny_base, tmp_path / "ip")
    config = DRAW.model_copy(update={"image_prompt": ImagePromptUse(ref=str(file))})
    before = state_of(tiny_base)

    def fail(step: Step) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(tiny_base, config, inputs=Inputs(image_prompt=LIKE), on_step=fail)
    assert state_of(tiny_base) == before
    generate(tiny_base, config, inputs=Inputs(image_prompt=LIKE), on_step=lambda _: False)
    assert state_of(tiny_base) == before


def test_batches_no_guidance_and_other_attention(tiny_base: Base, tmp_path: Path) -> None:
    """One picture each in a batch as alone, and whatever kernel the base's attention takes."""
    use = ImagePromptUse(ref=str(save_ip_adapter(tiny_base, tmp_path / "ip")))
    for guidance in (1.0, 4.0):
        config = DRAW.model_copy(update={"image_prompt": use, "num_images": 2, "guidance_scale": guidance})
        inputs = Inputs(image_prompt=LIKE)
        alone = generate(tiny_base, config, inputs=inputs)
        batch = generate(tiny_base, config.model_copy(update={"batch_size": 2}), inputs=inputs)
        restore = put_attention(tiny_base.unet, "native_math")
        other = generate(tiny_base, config, inputs=inputs)
        restore()
        for one, two, three in zip(alone, batch, other, strict=True):
            assert levels_apart(one.image, two.image) <= 1
            assert levels_apart(one.image, three.image) <= 1


def test_what_an_image_prompt_needs_is_said(tiny_base: Base, tiny_sdxl: Base, tmp_path: Path) -> None:
    file = save_ip_adapter(tiny_base, tmp_path / "ip")

    def draw(path: Path, encoder: Path | None = None) -> None:
        use = ImagePromptUse(ref=str(path), encoder=None if encoder is None else str(encoder))
        config = DRAW.model_copy(update={"image_prompt": use})
        generate(tiny_base, config, inputs=Inputs(image_prompt=LIKE))

    alone = tmp_path / "alone" / "deep" / "deeper" / "a.safetensors"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(file.read_bytes())
    draw(alone, file.parent / "image_encoder")
    tensors = load_file(file)
    face = {key: value for key, value in tensors.items() if "proj.weight" not in key or "ip_" in key}
    save_file(face, tmp_path / "face.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:100])
    plus = save_ip_adapter(tiny_base, tmp_path / "plus", plus=True)
    other = save_ip_adapter(tiny_sdxl, tmp_path / "xl")
    for path, encoder, says in [
        (tmp_path / "nowhere.safetensors", None, "no such file"),
        (tmp_path / "a.bin", None, "isn't a .safetensors file"),
        (tmp_path / "cut.safetensors", None, "can't be read"),
        (tmp_path / "other.safetensors", None, "holds no image_proj and ip_adapter tensors"),
        (tmp_path / "face.safetensors", None, "is a FaceID one"),
        (other, None, "choose one for Stable Diffusion 1.x"),
        (alone, None, "needs its image encoder"),
        (alone, tmp_path / "nowhere", "no such folder"),
        (alone, tmp_path, "has no readable config.json"),
    ]:
        with pytest.raises(BaseError, match=says) as caught:
            draw(path, encoder)
        assert "\n" not in str(caught.value)
    encoder_config = plus.parent / "image_encoder" / "config.json"
    encoder_config.write_text(
        encoder_config.read_text().replace(f'"hidden_size": {WIDTH}', '"hidden_size": 8')
    )
    with pytest.raises(BaseError, match="gives 8 numbers, the IP-Adapter hears 16"):
        draw(plus)
    for config, inputs in [
        (DRAW, Inputs(image_prompt=LIKE)),
        (DRAW.model_copy(update={"image_prompt": ImagePromptUse(ref=str(file))}), Inputs()),
    ]:
        with pytest.raises(ConfigError, match="give both or neither"):
            generate(tiny_base, config, inputs=inputs)
