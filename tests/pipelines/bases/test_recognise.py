"""What a single file is: from tables of names and shapes, without weights."""

from __future__ import annotations

import contextlib
import random
from functools import partial
from pathlib import Path

import pytest
import torch

from pipelines.base import Base
from pipelines.bases.configs import VARIANTS
from pipelines.bases.foreign import FOREIGN, foreign_kind
from pipelines.bases.layout import pieces, vae_pieces
from pipelines.bases.recognise import Recognised, probe_prediction, recognise
from pipelines.bases.record import RECORD
from pipelines.errors import BaseError
from pipelines.families import FAMILIES
from tests.pipelines.bases.files import Shapes, header, published, published_file, single_file, state_of

FILE = Path("a model.safetensors")
UNET = "model.diffusion_model."


def seen(shapes: Shapes, path: Path = FILE, **metadata: str) -> Recognised:
    return recognise(header(shapes, **metadata), path)


def refused(shapes: Shapes) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(BaseError) as caught:
        seen(shapes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("'a model.safetensors' is ")
    return str(caught.value)


def without(shapes: Shapes, *starts: str) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not key.startswith(starts)}


@pytest.mark.parametrize("name", VARIANTS)
def test_published_models_are_recognised(name: str) -> None:
    row = VARIANTS[name]
    found = seen(published_file(name))
    assert found.family.id == row.family
    assert (found.inpainting, found.in_channels) == (row.inpainting, 9 if row.inpainting else 4)
    assert found.other_sizes is None
    assert found.parts == (*found.family.components, "vae")
    assert found.notes == ()
    assert (found.recorded, found.stated, found.zero_snr) == (False, False, False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sd15", "epsilon"),
        ("sd15-inpainting", "epsilon"),
        ("sd2", None),
        ("sd2-base", None),
        ("sd2-inpainting", "epsilon"),
        ("sdxl", "epsilon"),
        ("sdxl-inpainting", "epsilon"),
    ],
)
def test_names_and_shapes_leave_only_sd2_open(name: str, told: str | None) -> None:
    assert seen(published_file(name)).prediction_type == told


def test_the_files_name_says_nothing() -> None:
    found = seen(published_file("sd15"), Path("sdxl-v-pred-inpainting.safetensors"))
    assert (found.family.id, found.inpainting, found.prediction_type) == ("sd15", False, "epsilon")


@pytest.mark.parametrize("name", ["sd15", "sd2", "sdxl", "sd2-inpainting"])
def test_the_marks_of_other_programs_say_v_and_zero_snr(name: str) -> None:
    found = seen({**published_file(name), "v_pred": (), "ztsnr": ()})
    assert (found.prediction_type, found.stated, found.zero_snr) == ("v_prediction", True, True)
    assert not seen({**published_file(name), "v_pred": ()}).zero_snr


@pytest.mark.parametrize(
    ("word", "told"), [("v", "v_prediction"), ("epsilon", "epsilon"), ("V", "v_prediction"), ("noise", None)]
)
def test_metadata_say_the_prediction(word: str, told: str | None) -> None:
    found = seen(published_file("sd2"), modelspec__prediction_type=word)
    assert (found.prediction_type, found.stated) == (told, told is not None)


def test_kohyas_metadata_say_zero_snr() -> None:
    assert seen(published_file("sd2"), ss_zero_terminal_snr="True").zero_snr
    assert not seen(published_file("sd2"), ss_zero_terminal_snr="False").zero_snr


def test_the_configs_in_the_file_come_first() -> None:
    record = '{"configs": {"scheduler": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": true}}}'
    metadata = {RECORD: record, "modelspec__prediction_type": "epsilon"}
    found = seen(published_file("sd15"), **metadata)
    assert (found.prediction_type, found.recorded, found.zero_snr) == ("v_prediction", True, True)
    broken = seen(published_file("sd15"), **{RECORD: "{"})
    assert (broken.prediction_type, broken.recorded) == ("epsilon", True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("    parameterization: v  # SD 2.1\n", "v_prediction"),
        ("    parameterization: 'eps'\n", "epsilon"),
        ("        target: sgm.modules.diffusionmodules.denoiser_scaling.VScaling\n", "v_prediction"),
        ("        target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling\n", "epsilon"),
        ("    # parameterization: v\n", None),
        ("    parameterization: x0\n", None),
        ("\x00\xff nonsense", None),
    ],
)
def test_a_yaml_beside_the_file_says_the_prediction(text: str, told: str | None, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(text)
    assert seen(published_file("sd2"), tmp_path / "one.safetensors").prediction_type == told
    assert seen(published_file("sd2"), tmp_path / "other.safetensors").prediction_type is None


def test_what_isnt_used_is_noted() -> None:
    file = {**published_file("sd15"), "embedding_manager.x": (1,), "model_ema.decay": ()}
    found = seen(file)
    assert found.notes == ("1 tensors outside the model aren't used: embedding_manager.x",)


def test_a_file_without_vae_is_a_base_that_says_so() -> None:
    found = seen(without(published_file("sdxl"), "first_stage_model."))
    assert found.parts == ("unet", "text_encoder", "text_encoder_2")
    assert found.notes == ("the file holds no VAE",)


def test_eight_bit_floats_are_noted_and_whole_numbers_refused() -> None:
    found = recognise(header(published_file("sd15"), dtype="F8_E4M3"), FILE)
    assert found.notes == ("its weights are stored in 8-bit floats, which cost quality",)
    with pytest.raises(BaseError, match=r"quantised to U8 .* expected fp16, bf16 or fp32"):
        recognise(header(published_file("sd15"), dtype="U8"), FILE)


def test_older_spellings_and_averages_beside_are_recognised() -> None:
    file = {key.replace(".text_model.", "."): shape for key, shape in published_file("sd15").items()}
    file |= {f"model_ema.{key.replace('.', '')}": shape for key, shape in file.items()}
    assert seen(file).family.id == "sd15"


def test_sd2_with_the_encoder_of_transformers_is_told_by_the_text_it_reads() -> None:
    file = without(published_file("sd2"), "cond_stage_model.")
    encoder = published("sd2")["text_encoder"]
    file |= {f"cond_stage_model.transformer.text_model.{key}": shape for key, shape in encoder.items()}
    assert seen(file).family.id == "sd2"


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_model_of_other_sizes_is_recognised_and_says_so(family: str, tiny_folders: dict[str, Path]) -> None:
    file = single_file(state_of(tiny_folders[family]), family)
    found = seen({key: tuple(value.shape) for key, value in file.items()})
    assert found.family.id == family
    assert found.other_sizes is not None
    assert "reads text of width" in found.other_sizes


def test_a_pruned_unet_says_so() -> None:
    file = published_file("sdxl")
    pruned = {key: shape for key, shape in file.items() if ".transformer_blocks.9." not in key}
    said = seen(pruned).other_sizes
    assert said is not None
    assert (
        "with 64 transformer blocks in its UNet, published ones have 70: a pruned one, such as SSD-1B" in said
    )
    shallow = {k: v for k, v in published_file("sd15").items() if "input_blocks.10." not in k}
    shallow = {k: v for k, v in shallow.items() if "input_blocks.11." not in k}
    assert "with 10 input blocks from 320 channels" in str(seen(shallow).other_sizes)


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
def test_what_is_no_base_is_refused_by_name(shapes, said: str) -> None:
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


def pocket_call(pocket: Base, dtype: torch.dtype = torch.float32):
    """The embedded base's UNet under an empty prompt."""
    hidden = pocket.encode_prompts([""])

    def call(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        text = hidden.expand(len(latents), -1, -1)
        out: torch.Tensor = pocket.unet(latents, timesteps, text, return_dict=False)[0]
        return out.to(dtype)

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_tells_what_a_unet_predicts(pocket: Base, dtype: torch.dtype) -> None:
    alphas = pocket.scheduler.alphas_cumprod
    own = pocket_call(pocket, dtype)

    def other(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The same model by its other prediction: v of its ε, or ε of its v."""
        alpha = alphas[int(timesteps[0])]
        predicted = own(latents, timesteps).float()
        if pocket.prediction_type == "epsilon":
            clean = (latents - (1 - alpha).sqrt() * predicted) / alpha.sqrt()
            return alpha.sqrt() * predicted - (1 - alpha).sqrt() * clean
        return alpha.sqrt() * predicted + (1 - alpha).sqrt() * latents

    side = int(pocket.unet.config["sample_size"])
    shape = (1, pocket.latent_channels, side, side)
    told = [probe_prediction(call, alphas, shape, torch.Generator().manual_seed(s))
            for call in (own, other) for s in range(4)]  # fmt: skip
    ours = pocket.prediction_type
    theirs = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[ours]
    assert told == [ours] * 4 + [theirs] * 4


def test_a_unet_that_answers_without_numbers_is_refused() -> None:
    alphas = torch.linspace(0.99, 0.01, 1000)
    with pytest.raises(BaseError, match="state the prediction type"):
        probe_prediction(
            lambda latents, _: latents * float("nan"), alphas, (1, 4, 8, 8), torch.Generator().manual_seed(0)
        )


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
    for turn in range(150):
        file = dict(published_file(shuffle.choice(["sd15", "sd2", "sdxl"])))
        for key in shuffle.sample(sorted(file), 8):
            shape = shuffle.choice([(), (0,), (1,), (3, 5), (2, 2, 1, 1), file.pop(key)])
            file[key[: shuffle.randrange(1, len(key))] + shuffle.choice(endings) if turn % 2 else key] = shape
        for look in (seen, vae_pieces, *(partial(pieces, family=row) for row in FAMILIES.values())):
            with contextlib.suppress(BaseError):
                look(file)


def test_the_probe_asks_at_the_last_timestep() -> None:
    asked: list[int] = []

    def call(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        asked.extend(timesteps.tolist())
        return latents

    alphas = torch.linspace(0.99, 0.01, 1000)
    assert probe_prediction(call, alphas, (2, 4, 8, 8), torch.Generator().manual_seed(0)) == "epsilon"
    assert asked == [999, 999]
