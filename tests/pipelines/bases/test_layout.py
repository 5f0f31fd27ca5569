"""Single files and diffusers' names: one to one in both directions, and as diffusers converts them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.base import quiet
from pipelines.bases.configs import VARIANTS
from pipelines.bases.layout import pieces, vae_pieces, wholes
from pipelines.bases.structure import blocks_of_file, blocks_of_unet, is_extra, leftovers
from pipelines.errors import BaseError
from pipelines.families import FAMILIES
from tests.pipelines.bases.files import published, published_file, shapes_of, single_file, state_of
from tests.tiny import save_tiny_pipeline

State = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def states(tiny_folders: dict[str, Path]) -> dict[str, State]:
    return {family: state_of(folder) for family, folder in tiny_folders.items()}


def taken(file: Mapping[str, torch.Tensor], family: str) -> State:
    """What `pieces` reads out of a file's tensors."""
    found = pieces(shapes_of(file), FAMILIES[family])
    return {part: {name: p.take(file[p.key]) for name, p in those.items()} for part, those in found.items()}


def assert_equal(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    different = [name for name, value in wanted.items() if not torch.equal(got[name], value)]
    assert not different


def check(found: Mapping[str, Any], shapes: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """What a file offers is what the networks need, shape for shape."""
    offered = {
        part: {name: piece.shape_from(shapes[piece.key]) for name, piece in those.items()}
        for part, those in found.items()
    }
    assert offered == {
        part: {name: tuple(shape) for name, shape in t.items()} for part, t in expected.items()
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_published_models_go_one_to_one_in_both_directions(name: str) -> None:
    family, expected = FAMILIES[VARIANTS[name].family], published(name)
    file = published_file(name)
    found = pieces(file, family)
    check(found, file, expected)
    assert {part: set(those) for part, those in found.items()} == {p: set(t) for p, t in expected.items()}
    assert {piece.key for those in found.values() for piece in those.values()} == set(file)
    assert wholes(expected, family).keys() == file.keys()
    assert leftovers(file, family) == []


@pytest.mark.parametrize(("name", "count"), [("sd15", 1130), ("sd2", 1214), ("sdxl", 2513)])
def test_published_models_have_the_published_number_of_tensors(name: str, count: int) -> None:
    # The published files without schedules and buffers (SDXL's 2515 hold position_ids and logit_scale).
    assert len(published_file(name)) == count


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("sd15", "model.diffusion_model.output_blocks.11.0.skip_connection.weight", (320, 640, 1, 1)),
        ("sd15", "first_stage_model.decoder.up.3.upsample.conv.weight", (512, 512, 3, 3)),
        ("sd15", "first_stage_model.encoder.mid.attn_1.q.weight", (512, 512, 1, 1)),
        ("sd15", "cond_stage_model.transformer.text_model.final_layer_norm.weight", (768,)),
        ("sd15-inpainting", "model.diffusion_model.input_blocks.0.0.weight", (320, 9, 3, 3)),
        ("sd2", "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight", (3072, 1024)),
        ("sd2", "cond_stage_model.model.positional_embedding", (77, 1024)),
        ("sd2", "model.diffusion_model.input_blocks.1.1.proj_in.weight", (320, 320)),
        ("sdxl", "conditioner.embedders.1.model.text_projection", (1280, 1280)),
        ("sdxl", "conditioner.embedders.1.model.transformer.resblocks.31.mlp.c_fc.bias", (5120,)),
        ("sdxl", "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc1.bias", (3072,)),
        ("sdxl", "model.diffusion_model.label_emb.0.0.weight", (1280, 2816)),
        ("sdxl", "model.diffusion_model.middle_block.1.transformer_blocks.9.norm3.weight", (1280,)),
        ("sdxl-inpainting", "model.diffusion_model.input_blocks.0.0.weight", (320, 9, 3, 3)),
    ],
)  # fmt: skip
def test_published_names_and_shapes(name: str, key: str, shape: tuple[int, ...]) -> None:
    assert published_file(name)[key] == shape


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_comes_back_bit_for_bit(family: str, states: dict[str, State]) -> None:
    file = single_file(states[family], family)
    back = taken(file, family)
    assert back.keys() == states[family].keys()
    for part, tensors in states[family].items():
        assert_equal(back[part], tensors)
    assert_equal(single_file(back, family), file)
    assert all(value.is_contiguous() for value in file.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_the_converters_of_diffusers(
    family: str, states: dict[str, State], tiny_folders: dict[str, Path]
) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    file = single_file(states[family], family)
    back = taken(file, family)
    unet = UNet2DConditionModel.load_config(tiny_folders[family] / "unet")
    assert_equal(back["unet"], convert_ldm_unet_checkpoint(dict(file), unet))
    vae = AutoencoderKL.load_config(tiny_folders[family] / "vae")
    assert_equal(back["vae"], convert_ldm_vae_checkpoint(dict(file), vae))


@pytest.mark.parametrize("family", FAMILIES)
def test_text_encoders_agree_with_the_converters_of_diffusers(
    family: str, states: dict[str, State], tiny_folders: dict[str, Path]
) -> None:
    import transformers
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    file = single_file(states[family], family)
    back = taken(file, family)
    for row in FAMILIES[family].text_encoders:
        if row.file_spelling == "open_clip":
            model = getattr(transformers, row.model_class).from_pretrained(
                tiny_folders[family] / row.component
            )
            theirs = convert_open_clip_checkpoint(model, dict(file), prefix=f"{row.file_prefix}model.")
        else:
            theirs = convert_ldm_clip_checkpoint(file)
        if not row.model_class.endswith("WithProjection"):
            theirs = {name.removeprefix("text_model."): value for name, value in theirs.items()}
        assert_equal(back[row.component], theirs)


@pytest.mark.parametrize("inpainting", [False, True], ids=["usual", "inpainting"])
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_diffusers_loads_the_single_file(
    family: str, inpainting: bool, states: dict[str, State], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    import diffusers
    from safetensors.torch import save_file

    folder, state, kind = tiny_folders[family], states[family], FAMILIES[family].pipeline_class
    if inpainting:
        folder = save_tiny_pipeline(tmp_path / "base", family=family, unet={"in_channels": 9})
        state, kind = state_of(folder), FAMILIES[family].inpaint_class
    save_file(single_file(state, family), tmp_path / "one.safetensors")
    with quiet():
        pipeline = getattr(diffusers, kind).from_single_file(
            str(tmp_path / "one.safetensors"), config=str(folder), local_files_only=True
        )
    for part, tensors in state.items():
        assert_equal(dict(getattr(pipeline, part).named_parameters()), tensors)


def test_encoders_without_text_model_are_read(states: dict[str, State]) -> None:
    file = single_file(states["sd15"], "sd15")
    older = {key.replace(".text_model.", "."): value for key, value in file.items()}
    assert older.keys() != file.keys()
    assert_equal(taken(older, "sd15")["text_encoder"], states["sd15"]["text_encoder"])


def test_sd2_is_read_with_its_encoder_in_the_other_spelling(states: dict[str, State]) -> None:
    file = {k: v for k, v in single_file(states["sd2"], "sd2").items() if not k.startswith("cond_stage")}
    encoder = {
        f"cond_stage_model.transformer.text_model.{k}": v for k, v in states["sd2"]["text_encoder"].items()
    }
    assert_equal(taken({**file, **encoder}, "sd2")["text_encoder"], states["sd2"]["text_encoder"])


def test_linear_projections_are_read_from_1x1_convolutions(states: dict[str, State]) -> None:
    file = single_file(states["sd2"], "sd2")
    for key in [k for k in file if k.endswith((".proj_in.weight", ".proj_out.weight")) and "diffusion" in k]:
        file[key] = file[key][:, :, None, None]
    assert_equal(taken(file, "sd2")["unet"], states["sd2"]["unet"])


def test_an_untransposed_text_projection_is_read(states: dict[str, State]) -> None:
    file = single_file(states["sdxl"], "sdxl")
    turned = file.pop("conditioner.embedders.1.model.text_projection")
    assert turned.shape == (40, 24)
    file["conditioner.embedders.1.model.text_projection.weight"] = turned.t().contiguous()
    assert_equal(taken(file, "sdxl")["text_encoder_2"], states["sdxl"]["text_encoder_2"])


def test_the_published_extras_are_left_out() -> None:
    file = dict(published_file("sd15"))
    extras = [
        "cond_stage_model.transformer.text_model.embeddings.position_ids", "alphas_cumprod", "betas",
        "posterior_log_variance_clipped", "model_ema.decay", "model_ema.diffusion_modeltime_embed0weight",
        "cond_stage_model.logit_scale", "first_stage_model.loss.perceptual_loss.net.slice1.0.weight",
        "denoiser.sigmas", "v_pred", "ztsnr",
    ]  # fmt: skip
    file.update(dict.fromkeys(extras, (1,)))
    assert all(is_extra(key) for key in extras)
    check(pieces(file, FAMILIES["sd15"]), file, published("sd15"))
    assert leftovers(file, FAMILIES["sd15"]) == []


def test_the_last_layer_of_open_clip_is_left_out_for_sd2() -> None:
    file = dict(published_file("sd2"))
    last = {k.replace(".22.", ".23."): shape for k, shape in file.items() if ".resblocks.22." in k}
    assert len(last) == 12
    file |= {**last, "cond_stage_model.model.text_projection": (1024, 1024)}
    file["cond_stage_model.model.logit_scale"] = ()
    check(pieces(file, FAMILIES["sd2"]), file, published("sd2"))


def test_what_is_unknown_inside_a_part_is_refused_with_its_count() -> None:
    file = {**published_file("sd15"), "model.diffusion_model.input_blocks.1.7.weight": (1,)}
    file["first_stage_model.encoder.up.0.block.0.conv1.weight"] = (1,)
    with pytest.raises(
        BaseError, match=r"2 of 1132 tensors have no place in Stable Diffusion 1.x: model\.diff"
    ):
        pieces(file, FAMILIES["sd15"])


def test_one_tensor_under_two_names_is_refused() -> None:
    file = dict(published_file("sd15"))
    file["cond_stage_model.transformer.final_layer_norm.weight"] = (768,)
    with pytest.raises(BaseError, match="1 of 1131 tensors"):
        pieces(file, FAMILIES["sd15"])


def test_outsiders_are_listed() -> None:
    file = {**published_file("sd15"), "embedding_manager.x": (1,)}
    assert leftovers(file, FAMILIES["sd15"]) == ["embedding_manager.x"]


def test_tensors_without_a_name_in_the_original_are_refused() -> None:
    shapes = published("sd2")
    encoder = {
        k: v for k, v in shapes["text_encoder"].items() if k != "encoder.layers.3.self_attn.k_proj.bias"
    }
    with pytest.raises(BaseError, match=r"1 tensors .*resblocks\.3\.attn\.in_proj_bias"):
        wholes({**shapes, "text_encoder": encoder}, FAMILIES["sd2"])
    with pytest.raises(BaseError, match=r"1 tensors .*unet\.encoder_hid_proj\.weight"):
        wholes({"unet": {**shapes["unet"], "encoder_hid_proj.weight": (1, 1)}}, FAMILIES["sd2"])


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_read_off_the_names(family: str, states: dict[str, State]) -> None:
    assert blocks_of_file(published_file(family)) == FAMILIES[family].blocks
    assert blocks_of_unet(published(family)["unet"]) == FAMILIES[family].blocks
    tiny = single_file(states[family], family)
    assert blocks_of_file(tiny) == blocks_of_unet(states[family]["unet"])


def vae_spellings(state: State) -> dict[str, dict[str, torch.Tensor]]:
    """A VAE alone as files spell it."""
    whole = single_file(state, "sd15")
    original = {
        k.removeprefix("first_stage_model."): v for k, v in whole.items() if k.startswith("first_stage")
    }
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    older = dict(state["vae"])
    for new, before in old.items():
        older = {k.replace(f"attentions.0.{new}", f"attentions.0.{before}"): v for k, v in older.items()}
    return {
        "original": {**original, "loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)},
        "prefixed": {f"first_stage_model.{k}": v for k, v in original.items()},
        "vae.": {f"vae.{k}": v for k, v in original.items()},
        "diffusers": state["vae"],
        "older diffusers": older,
        "whole model": whole,
    }


@pytest.mark.parametrize(
    "spelling", ["original", "prefixed", "vae.", "diffusers", "older diffusers", "whole model"]
)
def test_a_vae_of_ones_own_is_read(spelling: str, states: dict[str, State]) -> None:
    file = vae_spellings(states["sd15"])[spelling]
    found = vae_pieces(shapes_of(file))
    assert_equal({name: piece.take(file[piece.key]) for name, piece in found.items()}, states["sd15"]["vae"])


def test_what_is_no_vae_is_refused(states: dict[str, State]) -> None:
    with pytest.raises(BaseError, match=r"holds no VAE: none of its \d+ tensors"):
        vae_pieces(shapes_of(states["sd15"]["unet"]))
    file = {**shapes_of(states["sd15"]["vae"]), "decoder.time_mixer.weight": (1,)}
    with pytest.raises(BaseError, match=r"1 of \d+ tensors have no place in a VAE: decoder.time_mixer"):
        vae_pieces(file)
