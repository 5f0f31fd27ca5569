"""Loading a base: what comes back, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.base import ASSETS, Base, load_base
from pipelines.device import choose_device
from pipelines.errors import BaseError, ConfigError
from pipelines.families import FAMILIES
from tests.tiny import save_tiny_pipeline


def test_sizes_come_from_the_configs(tiny_base: Base) -> None:
    assert (tiny_base.resolution, tiny_base.latent_channels, tiny_base.vae_scale_factor) == (16, 4, 2)
    assert tiny_base.prediction_type == "epsilon"
    assert tiny_base.family.id == "sd15"
    assert not any(parameter.requires_grad for parameter in tiny_base.unet.parameters())
    assert not tiny_base.unet.training


def test_prediction_type_is_the_schedulers(tmp_path: Path) -> None:
    base = load_base(save_tiny_pipeline(tmp_path / "v", prediction_type="v_prediction"), device="cpu")
    assert base.prediction_type == "v_prediction"


def test_modules_have_canonical_names(tiny_base: Base) -> None:
    modules = tiny_base.modules()
    assert "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k" in modules
    assert "text_encoder.encoder.layers.1.self_attn.q_proj" in modules
    assert not any("text_model" in name for name in modules)
    assert all(isinstance(module, nn.Linear | nn.Conv2d) for module in modules.values())


def test_prompts_become_the_pipelines_embeddings(tiny_base: Base) -> None:
    prompts = ["a fox", "ein Fuchs 🦊 " * 9, ""]
    ours = tiny_base.encode_prompts(prompts)
    theirs, _ = tiny_base.pipeline().encode_prompt(prompts, tiny_base.device, 1, False)
    assert ours.shape == (3, 16, 32)
    assert torch.equal(ours, theirs)


def test_gradients_reach_the_text_encoder_when_wanted(tiny_base: Base) -> None:
    tiny_base.text_encoder.requires_grad_(True)
    assert tiny_base.encode_prompts(["a"]).requires_grad


def test_latents_are_scaled(tiny_base: Base) -> None:
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = tiny_base.encode_images(pixels)
    raw = tiny_base.vae.encode(pixels).latent_dist
    assert mean.shape == std.shape == (2, 4, 8, 8)
    assert torch.allclose(mean, raw.mean * 0.5)
    assert torch.allclose(std, raw.std * 0.5)
    decoded = tiny_base.decode_latents(mean)
    assert decoded.shape == (2, 3, 16, 16)
    assert torch.equal(decoded, tiny_base.vae.decode(raw.mean).sample.clamp(-1, 1))


def test_the_hash_follows_the_weights_and_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    first = load_base(tiny_folder, device="cpu").sha256
    (copy / "samples.png").write_bytes(b"beside the model")
    (copy / "image_encoder").mkdir()
    (copy / "image_encoder" / "model.safetensors").write_bytes(b"not part of it")
    assert load_base(copy, device="cpu").sha256 == first
    other = save_tiny_pipeline(tmp_path / "other", seed=1)
    assert load_base(other, device="cpu").sha256 != first


def test_the_embedded_base_loads(pocket: Base) -> None:
    assert pocket.path == ASSETS / "pocket"
    assert pocket.ref == "pocket"
    assert pocket.resolution >= 64
    assert pocket.encode_prompts(["a photo of a fox"]).shape[1] == pocket.tokenizer.model_max_length == 77


def _no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _other_class(folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))


def _bad_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _list_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("[]")


def _no_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def _pickle_only(folder: Path) -> None:
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))


def _cut_off(folder: Path) -> None:
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:5000])


def _half_the_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = next((folder / "text_encoder").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[::2]), weights, metadata={"format": "pt"})


def _other_shape(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 24}))


def _instructed(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 8}))


def _unknown_scheduler(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "os"}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_index, "no model_index.json"),
        (_other_class, "is a FluxPipeline; supported: StableDiffusionPipeline"),
        (_bad_json, "isn't readable JSON"),
        (_list_json, "holds no settings"),
        (_no_unet, "no unet/ folder"),
        (_pickle_only, "no .safetensors file in unet/"),
        (_cut_off, "is cut off"),
        (_half_the_weights, "text_encoder lacks"),
        (_other_shape, "its config says"),
        (_instructed, "8 input channels over 4 latent channels"),
        (_unknown_scheduler, "unknown scheduler"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(
    damage: Callable[[Path], None], says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    damage(folder)
    with pytest.raises(BaseError) as refusal:
        load_base(folder, device="cpu")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_missing_folder_a_file_and_a_pickle_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    for ref, says in [
        (tmp_path / "nowhere", "no such folder"),
        (file, "holds 0 bytes"),
        (tmp_path / "m.ckpt", "pickle"),
    ]:
        with pytest.raises(BaseError, match=says):
            load_base(ref)


def test_device_and_precision_are_chosen_by_name(tiny_folder: Path) -> None:
    assert choose_device("cpu").dtype == torch.float32
    assert choose_device("cpu", "bf16").dtype == torch.bfloat16
    assert choose_device("cpu").describe().startswith("CPU, ")
    assert load_base(tiny_folder, device="cpu", dtype="bf16").unet.dtype == torch.bfloat16
    for device, dtype, says in [("gpu", None, "unknown device"), ("cpu", "fp8", "unknown precision")]:
        with pytest.raises(ConfigError, match=says):
            choose_device(device, dtype)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="isn't there; this machine has cpu"):
            choose_device("cuda")


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_inpainting_folder_loads_and_says_so(family: str, tmp_path: Path) -> None:
    base = load_base(save_tiny_pipeline(tmp_path, family=family, unet={"in_channels": 9}), device="cpu")
    assert base.inpainting and base.in_channels == 9
    assert type(base.pipeline()).__name__ == FAMILIES[family].inpaint_class


@pytest.mark.parametrize("fixture", ["tiny_base", "tiny_sd2"])
def test_a_layer_before_the_last_goes_through_the_final_norm(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(fixture)
    ids = base.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    layers = base.text_encoder(ids, output_hidden_states=True).hidden_states
    found, pooled = base.encode_tokens("text_encoder", ids, clip_skip=2)
    assert torch.equal(found, base.text_encoder.final_layer_norm(layers[-2]))
    assert not torch.equal(found, base.encode_tokens("text_encoder", ids)[0]) and pooled is None


def test_layers_are_counted_from_the_last_and_beyond_them_is_an_error(tiny_sdxl: Base) -> None:
    ids = tiny_sdxl.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    for component in ("text_encoder", "text_encoder_2"):
        own = tiny_sdxl.encode_tokens(component, ids)[0]
        assert torch.equal(own, tiny_sdxl.encode_tokens(component, ids, clip_skip=2)[0])
        assert not torch.equal(own, tiny_sdxl.encode_tokens(component, ids, clip_skip=1)[0])
        with pytest.raises(ConfigError, match="choose 1 to 2"):
            tiny_sdxl.encode_tokens(component, ids, clip_skip=3)


def test_a_prompt_ends_at_its_end_token_even_beside_higher_ids(tmp_path: Path) -> None:
    folder = save_tiny_pipeline(tmp_path, family="sdxl")
    path = folder / "text_encoder_2" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 2}))
    base = load_base(folder, device="cpu")
    ids = base.tokenizer_2(["a"], padding="max_length", return_tensors="pt").input_ids  # type: ignore[misc]
    _, pooled = base.encode_tokens("text_encoder_2", ids)
    ids[0, 1] = 3  # another first word: the end stays where it was
    _, other = base.encode_tokens("text_encoder_2", ids)
    assert base.text_encoder_2.text_model.eos_token_id == base.tokenizer_2.eos_token_id  # type: ignore
    assert pooled is not None and other is not None and not torch.equal(pooled, other)
