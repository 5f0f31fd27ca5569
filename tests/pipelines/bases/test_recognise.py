"""What a single file is: from tables of names and shapes, without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.base import Base
from pipelines.bases.configs import VARIANTS
from pipelines.bases.recognise import Recognised, probe_prediction, recognise
from pipelines.bases.record import RECORD
from pipelines.errors import BaseError
from tests.pipelines.bases.files import (
    Shapes,
    header,
    published,
    published_file,
    single_file,
    state_of,
    without,
)

FILE = Path("a model.safetensors")
UNET = "model.diffusion_model."


def seen(shapes: Shapes, path: Path = FILE, **metadata: str) -> Recognised:
    return recognise(header(shapes, **metadata), path)


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
    found = recognise(header(published_file("sd15"), **metadata), FILE)
    assert (found.prediction_type, found.recorded, found.zero_snr) == ("v_prediction", True, True)
    broken = recognise(header(published_file("sd15"), **{RECORD: "{"}), FILE)
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


@pytest.mark.parametrize(("share", "told"), [(0.8, "epsilon"), (0.3, "v_prediction"), (-0.9, "v_prediction")])
def test_the_probe_judges_by_correlation_not_by_size(share: float, told: str) -> None:
    noise = torch.Generator().manual_seed(1)

    def call(latents: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        other = torch.randn(latents.shape, generator=noise)
        return 7 * (share * latents + (1 - share**2) ** 0.5 * other) + 3

    alphas = torch.linspace(0.99, 0.01, 1000)
    assert probe_prediction(call, alphas, (1, 4, 32, 32), torch.Generator().manual_seed(0)) == told


def test_the_probe_asks_at_the_last_timestep() -> None:
    asked: list[int] = []

    def call(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        asked.extend(timesteps.tolist())
        return latents

    alphas = torch.linspace(0.99, 0.01, 1000)
    assert probe_prediction(call, alphas, (2, 4, 8, 8), torch.Generator().manual_seed(0)) == "epsilon"
    assert asked == [999, 999]
