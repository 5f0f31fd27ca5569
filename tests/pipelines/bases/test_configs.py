"""The configs that ship: the published models' figures, one vocabulary, and what a file changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.base import quiet
from pipelines.bases.configs import CONFIGS, VARIANTS, configs_of, shipped, write_configs
from pipelines.bases.recognise import Recognised
from pipelines.errors import BaseError
from pipelines.families import FAMILIES


def tokenizer(where: Any, folder: Path) -> Any:
    from transformers import CLIPTokenizer

    if isinstance(where, Path):
        return CLIPTokenizer.from_pretrained(where, local_files_only=True)
    folder.mkdir()
    for name, text in where.items():
        (folder / name).write_text(text, encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_tokenizers_give_the_known_ids(name: str, tmp_path: Path) -> None:
    for key, where in configs_of(name).tokenizers.items():
        made = tokenizer(where, tmp_path / key)
        ids = made("a photo of a cat").input_ids
        assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert len(made) == 49408
        assert made.model_max_length == 77


@pytest.mark.parametrize(
    ("name", "key", "pad"),
    [
        ("sd15", "tokenizer", 49407),
        ("sd2", "tokenizer", 0),
        ("sdxl", "tokenizer", 49407),
        ("sdxl", "tokenizer_2", 0),
    ],
)
def test_prompts_are_filled_up_as_each_encoder_learned_it(
    name: str, key: str, pad: int, tmp_path: Path
) -> None:
    made = tokenizer(configs_of(name).tokenizers[key], tmp_path / "tokenizer")
    ids = made("A Photo  of a cat", padding="max_length", max_length=77).input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407] + [pad] * 70


def test_the_vocabulary_lies_here_once() -> None:
    assert [path.parent.name for path in CONFIGS.rglob("vocab.json")] == ["tokenizer"]
    assert not [path for path in CONFIGS.rglob("*") if path.suffix not in (".json", ".txt", "")]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_both_kinds(family: str) -> None:
    assert {row.inpainting for row in VARIANTS.values() if row.family == family} == {False, True}


@pytest.mark.parametrize(
    ("name", "part", "figures"),
    [
        ("sd15", "unet", {"cross_attention_dim": 768, "sample_size": 64, "attention_head_dim": 8}),
        ("sd15", "text_encoder", {"hidden_size": 768, "num_hidden_layers": 12, "hidden_act": "quick_gelu"}),
        ("sd15", "vae", {"scaling_factor": 0.18215, "latent_channels": 4}),
        ("sd15", "scheduler", {"_class_name": "PNDMScheduler", "steps_offset": 1}),
        ("sd15-inpainting", "unet", {"in_channels": 9, "cross_attention_dim": 768}),
        ("sd2", "unet", {"sample_size": 96, "attention_head_dim": [5, 10, 20, 20]}),
        ("sd2", "text_encoder", {"hidden_size": 1024, "num_hidden_layers": 23, "hidden_act": "gelu"}),
        ("sd2", "scheduler", {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}),
        ("sd2-base", "unet", {"sample_size": 64, "cross_attention_dim": 1024, "in_channels": 4}),
        ("sd2-base", "scheduler", {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}),
        ("sd2-inpainting", "unet", {"sample_size": 64, "in_channels": 9}),
        ("sd2-inpainting", "scheduler", {"prediction_type": "epsilon"}),
        ("sdxl", "unet", {"sample_size": 128, "transformer_layers_per_block": [1, 2, 10], "in_channels": 4}),
        ("sdxl", "text_encoder_2", {"hidden_size": 1280, "num_hidden_layers": 32, "projection_dim": 1280}),
        ("sdxl", "vae", {"scaling_factor": 0.13025, "force_upcast": True}),
        ("sdxl", "scheduler", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}),
        ("sdxl-inpainting", "unet", {"sample_size": 128, "in_channels": 9}),
    ],
)  # fmt: skip
def test_published_figures(name: str, part: str, figures: dict[str, Any]) -> None:
    config = configs_of(name).configs[part]
    assert {key: config[key] for key in figures} == figures


@pytest.mark.parametrize("name", VARIANTS)
def test_schedulers_are_built_with_the_published_betas(name: str) -> None:
    import diffusers

    config = dict(configs_of(name).configs["scheduler"])
    with quiet():
        made = getattr(diffusers, config["_class_name"]).from_config(config)
    assert float(made.betas[0]) == pytest.approx(0.00085)
    assert float(made.betas[-1]) == pytest.approx(0.012)
    assert not config["clip_sample"]


@pytest.mark.parametrize("name", VARIANTS)
def test_no_field_of_a_network_is_unknown_to_diffusers(name: str) -> None:
    import inspect

    from diffusers import AutoencoderKL, UNet2DConditionModel

    configs = configs_of(name).configs
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        fields = {key for key in configs[part] if not key.startswith("_")}
        assert fields <= set(inspect.signature(kind.__init__).parameters)


def found(family: str = "sd15", **fields: Any) -> Recognised:
    usual: dict[str, Any] = {"in_channels": 4, "inpainting": False, "prediction_type": "epsilon"}
    return Recognised(family=FAMILIES[family], **{**usual, **fields})


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "sd15"),
        ({"inpainting": True, "in_channels": 9}, "sd15-inpainting"),
        ({"family": "sd2"}, "sd2-base"),
        ({"family": "sd2", "prediction_type": "v_prediction"}, "sd2"),
        ({"family": "sd2", "inpainting": True}, "sd2-inpainting"),
        ({"family": "sdxl"}, "sdxl"),
        ({"family": "sdxl", "inpainting": True}, "sdxl-inpainting"),
    ],
)
def test_a_file_is_built_as_the_published_model_it_is_like(fields: dict[str, Any], name: str) -> None:
    assert shipped(found(**fields)) == configs_of(name)


def test_an_unknown_prediction_keeps_the_published_one() -> None:
    made = shipped(found("sd2", prediction_type=None))
    assert made.configs["unet"]["sample_size"] == 96
    assert made.configs["scheduler"]["prediction_type"] == "v_prediction"


@pytest.mark.parametrize("family", FAMILIES)
def test_v_prediction_from_pure_noise_reaches_the_scheduler(family: str) -> None:
    import diffusers

    made = shipped(found(family, prediction_type="v_prediction", zero_snr=True))
    config = dict(made.configs["scheduler"])
    assert config["prediction_type"] == "v_prediction"
    assert config["timestep_spacing"] == "trailing"
    assert made.index["scheduler"] == ["diffusers", config["_class_name"]]
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    assert scheduler.config["prediction_type"] == "v_prediction"


def test_other_sizes_need_configs_of_their_own() -> None:
    with pytest.raises(BaseError, match="x is odd; give the folder of configs"):
        shipped(found(other_sizes="x is odd"))
    assert shipped(found(other_sizes="x is odd", recorded=True)) == configs_of("sd15")


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(BaseError, match="did you mean 'sdxl"):
        configs_of("sdxl-inpaint")


@pytest.mark.parametrize("name", VARIANTS)
def test_a_written_folder_is_read_by_diffusers(name: str, tmp_path: Path) -> None:
    import diffusers
    from transformers import CLIPTokenizer

    configs = configs_of(name)
    write_configs(configs, tmp_path)
    kind = getattr(diffusers, configs.index["_class_name"])
    assert kind.load_config(tmp_path)["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert diffusers.UNet2DConditionModel.load_config(tmp_path / "unet") == configs.configs["unet"]
    parts = {key for key, value in configs.index.items() if isinstance(value, list) and value[0]}
    assert parts == set(FAMILIES[VARIANTS[name].family].parts)
    for part in FAMILIES[VARIANTS[name].family].parts:
        assert (tmp_path / part).is_dir()
    for key in configs.tokenizers:
        assert CLIPTokenizer.from_pretrained(tmp_path / key)("cat").input_ids == [49406, 2368, 49407]
