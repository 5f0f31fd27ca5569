"""Configs with absurd numbers, of wrong types, and of other kinds of VAEs: one line, before loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.base import load_base
from pipelines.bases.bounds import Bound
from pipelines.bases.source import open_source
from pipelines.errors import BaseError


def changed(folder: Path, to: Path, part: str, **fields: Any) -> Path:
    """A copy of a pipeline folder with other fields in a part's config; `...` takes a field out."""
    shutil.copytree(folder, to)
    path = to / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    return to


@pytest.mark.parametrize(
    ("part", "field", "value", "says"),
    [
        ("unet", "sample_size", 10**12, "sample_size = '1000000000000'"),
        ("unet", "sample_size", "x", "sample_size = 'x'"),
        ("unet", "sample_size", None, "sample_size = 'None'"),
        ("unet", "sample_size", True, "sample_size = 'True'"),
        ("unet", "sample_size", ..., "no sample_size"),
        ("unet", "block_out_channels", [10**9, 32], "block_out_channels"),
        ("unet", "block_out_channels", [[[[16]]]], "block_out_channels"),
        ("unet", "attention_head_dim", 0, "attention_head_dim"),
        ("unet", "layers_per_block", 999, "blocks; fetch it again"),
        ("unet", "layers_per_block", 10**7, "layers_per_block"),
        ("unet", "transformer_layers_per_block", [900, 900], "blocks; fetch it again"),
        ("vae", "scaling_factor", 0, "scaling_factor"),
        ("vae", "scaling_factor", float("nan"), "scaling_factor = 'nan'"),
        ("vae", "scaling_factor", "x", "scaling_factor"),
        ("vae", "scaling_factor", 10**400, "scaling_factor"),  # more than any float
        ("vae", "block_out_channels", [], "block_out_channels"),
        ("vae", "latent_channels", True, "latent channels"),
        ("text_encoder", "num_hidden_layers", 10**8, "num_hidden_layers"),
        ("text_encoder", "num_hidden_layers", 900, "blocks; fetch it again"),
        ("text_encoder", "max_position_embeddings", "q", "max_position_embeddings"),
        ("scheduler", "num_train_timesteps", 10**12, "num_train_timesteps"),
        ("scheduler", "beta_start", float("nan"), "beta_start"),
        ("scheduler", "prediction_type", "sample", "predicts 'sample'; supported are epsilon"),
        ("scheduler", "prediction_type", [], "predicts"),
        ("scheduler", "timestep_spacing", "foo", "timestep_spacing = 'foo'"),
    ],
)
def test_absurd_configs_are_refused_unloaded(
    part: str, field: str, value: Any, says: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = changed(tiny_folder, tmp_path / "base", part, **{field: value})
    with pytest.raises(BaseError) as refusal:
        open_source(folder)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_a_library_refuses_in_its_own_way_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_folder, tmp_path / "base", "text_encoder", eos_token_id="x")
    with pytest.raises(BaseError, match=r"text_encoder: .*eos_token_id") as refusal:
        load_base(folder, device="cpu")
    assert "\n" not in str(refusal.value)


def test_bounds_tell_numbers_from_the_rest() -> None:
    one, many = Bound(high=10), Bound(high=10, many=True)
    assert one.holds(10) and one.holds(None) and many.holds([1, [2, 3]])
    not_one: list[Any] = [0, 11, 1.5, True, "1", [1], {}]
    not_many: list[Any] = [[], [0], [1, [2, [3]]], [1, None]]
    assert [wrong for wrong in not_one if one.holds(wrong)] == []
    assert [wrong for wrong in not_many if many.holds(wrong)] == []
    assert not Bound(high=1, needed=True).holds(None)


def test_a_vae_has_to_be_of_the_bases_latents(tiny_folder: Path, tmp_path: Path) -> None:
    other = changed(tiny_folder, tmp_path / "other", "vae", scaling_factor=0.13025)
    with pytest.raises(
        BaseError, match=r"has 0\.13025 as the scaling factor of its latents, base .* has 0\.5"
    ):
        open_source(tiny_folder, vae=other)
    tiny = changed(tiny_folder, tmp_path / "tiny", "vae", _class_name="AutoencoderTiny")
    with pytest.raises(BaseError, match="is a AutoencoderTiny; expected an AutoencoderKL"):
        open_source(tiny_folder, vae=tiny)
    with pytest.raises(BaseError, match=r"VAE .*/unet' is a UNet2DConditionModel"):
        open_source(tiny_folder, vae=tiny_folder / "unet")
    with pytest.raises(BaseError, match=r"VAE .* has no config\.json"):
        open_source(tiny_folder, vae=tmp_path)


def test_a_whole_files_vae_brings_its_own_config(tiny_folder: Path, tmp_path: Path) -> None:
    from pipelines.bases.writing import write_base

    other = changed(tiny_folder, tmp_path / "other", "vae", scaling_factor=0.13025)
    write_base(open_source(other), tmp_path / "other.safetensors")
    with pytest.raises(BaseError, match="scaling factor"):
        open_source(tiny_folder, vae=tmp_path / "other.safetensors")
    write_base(open_source(tiny_folder), tmp_path / "same.safetensors")
    assert open_source(tiny_folder, vae=tmp_path / "same.safetensors").vae_path is not None


def test_a_base_that_draws_no_numbers_says_so(tiny_folder: Path) -> None:
    import torch

    base = load_base(tiny_folder, device="cpu")
    with torch.no_grad():
        base.vae.decoder.conv_out.bias[:] = float("nan")
    with pytest.raises(BaseError, match="isn't made of numbers"):
        base.decode_latents(torch.zeros(1, 4, 8, 8))


def test_a_base_of_nan_isnt_written(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from pipelines.bases.writing import write_base

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    weights = next((folder / "vae").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["decoder.conv_in.bias"][0] = float("inf")
    save_file(tensors, weights)
    with pytest.raises(BaseError, match=r"is damaged: vae\.decoder\.conv_in\.bias holds NaN"):
        write_base(open_source(folder), tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_was_replaced_in_use_isnt_hashed(
    removed: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    base = load_base(folder, device="cpu")
    weights = next((folder / "unet").glob("*.safetensors"))
    copy = Path(shutil.copy(weights, tmp_path / "copy"))
    before = base.unet.conv_in.weight.clone()
    copy.replace(weights)
    if removed:
        weights.unlink()
    assert base.unet.conv_in.weight.equal(before)  # what is mapped stays
    with pytest.raises(BaseError, match="was changed or removed since it was opened"):
        _ = base.sha256


def test_tokenizers_have_to_fit_their_encoders(tiny_folder: Path, tmp_path: Path) -> None:
    from pipelines.bases.loading import check_fit

    empty = Path(shutil.copytree(tiny_folder, tmp_path / "empty"))
    for file in (empty / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(BaseError, match="which no prompt can be read with"):
        check_fit(open_source(empty))
    with pytest.raises(BaseError, match="which no prompt can be read with"):
        load_base(empty, device="cpu")
    config = json.loads((tiny_folder / "tokenizer" / "tokenizer_config.json").read_text())
    for length, name in ((0, "none"), ("many", "words"), (10**30, "long")):
        folder = Path(shutil.copytree(tiny_folder, tmp_path / name))
        text = json.dumps({**config, "model_max_length": length})
        (folder / "tokenizer" / "tokenizer_config.json").write_text(text)
    with pytest.raises(BaseError, match="and length 0"):
        load_base(tmp_path / "none", device="cpu")
    with pytest.raises(BaseError, match="and length many"):
        load_base(tmp_path / "words", device="cpu")
    long, usual = (load_base(folder, device="cpu") for folder in (tmp_path / "long", tiny_folder))
    assert long.encode_prompts(["a cat"]).equal(usual.encode_prompts(["a cat"]))


def test_a_tokenizer_with_more_words_than_its_encoder_is_refused(tiny_base: Any) -> None:
    from pipelines.bases.loading import match_tokenizers

    class Words:
        bos_token_id, eos_token_id, pad_token_id, model_max_length = 0, 1, 2, 16

        def get_vocab(self) -> dict[str, int]:
            return {str(index): index for index in range(tiny_base.text_encoder.config.vocab_size + 1)}

    with pytest.raises(BaseError, match="has a tokenizer of words up to"):
        match_tokenizers({"text_encoder": (tiny_base.text_encoder, Words())}, "x")
