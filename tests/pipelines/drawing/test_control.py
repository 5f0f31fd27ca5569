"""ControlNets: as diffusers' pipelines draw with them, alone, several at once, and for part of the steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from pipelines.base import Base, load_base
from pipelines.drawing.control import Control, load_controls
from pipelines.errors import BaseError, ConfigError
from pipelines.generate import ControlUse, GenerationConfig, Inputs, generate
from tests.pipelines.drawing.scenes import (
    box_mask,
    diffusers_pipeline,
    latents_of,
    levels_apart,
    noisy_picture,
)
from tests.tiny import save_tiny_pipeline

DRAW = GenerationConfig(prompt="a fox", num_inference_steps=4, guidance_scale=4.0, seed=3, strength=0.75)
EDGES, DEPTH = noisy_picture(seed=1), noisy_picture(seed=2)


def save_control(base: Base, folder: Path, seed: int = 0, **changed: Any) -> Path:
    """Write a random ControlNet for a base; fresh ones are silent, so its last layers are made loud."""
    torch.manual_seed(seed)
    model = ControlNetModel.from_unet(base.unet, conditioning_channels=3, load_weights_from_unet=False,
                                      conditioning_embedding_out_channels=(8, 16))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    if changed:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changed))
    return folder


@pytest.fixture(scope="module")
def control_of(base_of: Callable[[str], Base], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of random ControlNets by family and seed."""
    root = tmp_path_factory.mktemp("controls")
    made: dict[tuple[str, int], Path] = {}

    def get(family: str, seed: int = 0) -> Path:
        if (family, seed) not in made:
            made[family, seed] = save_control(base_of(family), root / f"{family}{seed}", seed)
        return made[family, seed]

    return get


def use(folder: Path, **fields: Any) -> ControlUse:
    return ControlUse(ref=str(folder), **fields)


def theirs(base: Base, name: str, controls: list[Path], **given: Any) -> Any:
    """The picture of a diffusers pipeline with ControlNets."""
    models = [ControlNetModel.from_pretrained(folder) for folder in controls]
    pipeline = diffusers_pipeline(base, name, controlnet=models[0] if len(models) == 1 else models)
    given["generator"] = torch.Generator().manual_seed(3)
    return pipeline("a fox", num_inference_steps=4, guidance_scale=4.0, **given).images[0]


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_a_control_equals_diffusers(base_of: Callable[[str], Base], control_of: Any, family: str) -> None:
    base, folder = base_of(family), control_of(family)
    config = DRAW.model_copy(update={"controls": (use(folder, weight=0.8),)})
    ours = generate(base, config, inputs=Inputs(controls=(EDGES,)))[0].image
    name = base.family.pipeline_class.replace("Pipeline", "ControlNetPipeline")
    plain = theirs(base, name, [folder], image=EDGES, controlnet_conditioning_scale=0.8, height=16, width=16)
    assert levels_apart(ours, plain) <= 1
    assert levels_apart(ours, generate(base, DRAW)[0].image) > 20
    other = generate(base, config, inputs=Inputs(controls=(DEPTH,)))[0].image
    assert ours.tobytes() != other.tobytes()


def test_several_controls_and_their_steps_equal_diffusers(
    base_of: Callable[[str], Base], control_of: Any
) -> None:
    base, folders = base_of("sd15"), [control_of("sd15"), control_of("sd15", 1)]
    uses = (use(folders[0], weight=0.5, end=0.5), use(folders[1], weight=1.2, begin=0.25))
    config = DRAW.model_copy(update={"controls": uses})
    ours = generate(base, config, inputs=Inputs(controls=(EDGES, DEPTH)))[0].image
    plain = theirs(
        base, "StableDiffusionControlNetPipeline", folders, image=[EDGES, DEPTH], height=16, width=16,
        controlnet_conditioning_scale=[0.5, 1.2], control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.5, 1.0],
    )  # fmt: skip
    assert levels_apart(ours, plain) <= 1


def test_over_a_picture_equals_diffusers(base_of: Callable[[str], Base], control_of: Any) -> None:
    base, folder = base_of("sd15"), control_of("sd15")
    config = DRAW.model_copy(
        update={
            "controls": (use(folder),),
        }
    )
    over = noisy_picture()
    given: dict[str, Any] = {"image": latents_of(base, over), "control_image": EDGES, "strength": 0.75}
    given |= {"height": 16, "width": 16, "controlnet_conditioning_scale": 1.0}
    ours = generate(base, config, inputs=Inputs(image=over, controls=(EDGES,)))[0].image
    plain = theirs(base, "StableDiffusionControlNetImg2ImgPipeline", [folder], **given)
    assert levels_apart(ours, plain) <= 1


def test_an_inpainting_unet_takes_controls(tmp_path: Path) -> None:
    """The ControlNet sees the latents alone, as one trained with the plain UNet of the family."""
    base = load_base(save_tiny_pipeline(tmp_path / "nine", unet={"in_channels": 9}), device="cpu")
    plain = load_base(save_tiny_pipeline(tmp_path / "four"), device="cpu")
    folder = save_control(plain, tmp_path / "control")
    config = DRAW.model_copy(update={"controls": (use(folder),), "mask_blur": 0})
    inputs = Inputs(image=noisy_picture(), mask=box_mask((16, 16), (2, 2, 12, 12)), controls=(EDGES,))
    drawn = generate(base, config, inputs=inputs)[0].image
    without = config.model_copy(update={"controls": ()})
    other = generate(base, without, inputs=Inputs(image=inputs.image, mask=inputs.mask))[0].image
    assert levels_apart(drawn, other) > 5


def test_a_control_acts_in_the_second_pass_and_on_the_masked_part(
    base_of: Callable[[str], Base], control_of: Any
) -> None:
    base, folder = base_of("sd15"), control_of("sd15")
    config = DRAW.model_copy(update={"controls": (use(folder),)})
    hires = config.model_copy(update={"hires_scale": 2.0})
    picture = generate(base, hires, inputs=Inputs(controls=(noisy_picture(32, 32, seed=1),)))[0]
    assert picture.image.size == (32, 32)
    assert picture.settings["notes"] == ["picture 1 of the controls is 32×32: resized to 16×16"]
    # A picture of the whole scene is cropped as the scene is.
    whole, large = noisy_picture(40, 40), noisy_picture(40, 40, seed=1)
    part = config.model_copy(update={"mask_padding": 0, "mask_blur": 0})
    mask = box_mask((40, 40), (8, 8, 24, 24))
    ours = generate(base, part, inputs=Inputs(image=whole, mask=mask, controls=(large,)))[0].image
    box = (8, 8, 24, 24)
    alone = Inputs(image=whole.crop(box), controls=(large.crop(box),))
    assert ours.crop(box).tobytes() == generate(base, config, inputs=alone)[0].image.tobytes()


def test_a_weight_of_nothing_is_no_control(base_of: Callable[[str], Base], control_of: Any) -> None:
    base = base_of("sd15")
    config = DRAW.model_copy(update={"controls": (use(control_of("sd15"), weight=0.0),)})
    drawn = generate(base, config, inputs=Inputs(controls=(EDGES,)))[0].image
    assert drawn.tobytes() == generate(base, DRAW)[0].image.tobytes()


@pytest.mark.parametrize(
    ("begin", "end", "acting"), [(0, 1, [0, 1, 2, 3]), (0.5, 1, [2, 3]), (0, 0.5, [0, 1]), (0.3, 0.6, [])]
)
def test_steps_that_a_control_acts_at(begin: float, end: float, acting: list[int]) -> None:
    control = Control(None, torch.zeros(1), 1.0, begin, end)
    assert [index for index in range(4) if control.acts(index, 4)] == acting


def test_shuffle_leaves_the_negative_prompt_alone(base_of: Callable[[str], Base], tmp_path: Path) -> None:
    """A ControlNet with global_pool_conditions, as diffusers draws with it."""
    base = base_of("sd15")
    folder = save_control(base, tmp_path / "c", global_pool_conditions=True)
    config = DRAW.model_copy(update={"controls": (use(folder),)})
    ours = generate(base, config, inputs=Inputs(controls=(EDGES,)))[0].image
    plain = theirs(base, "StableDiffusionControlNetPipeline", [folder], image=EDGES, height=16, width=16)
    assert levels_apart(ours, plain) <= 1


def test_controls_are_kept_and_let_go(base_of: Callable[[str], Base], control_of: Any) -> None:
    base, folders = base_of("sd15"), [control_of("sd15"), control_of("sd15", 1)]
    first = load_controls(base, [use(folder) for folder in folders])
    assert load_controls(base, [use(folders[1])]) == [first[1]]
    again = load_controls(base, [use(folder) for folder in folders])
    assert again[1] is first[1] and again[0] is not first[0]
    assert load_controls(base, [use(folders[0])] * 2)[0] is again[0]


def test_controls_that_dont_fit_are_refused(
    base_of: Callable[[str], Base], control_of: Any, tmp_path: Path
) -> None:
    base = base_of("sd15")

    def draw(folder: Path) -> None:
        config = DRAW.model_copy(update={"controls": (use(folder),)})
        generate(base, config, inputs=Inputs(controls=(EDGES,)))

    no_weights = tmp_path / "empty"
    no_weights.mkdir()
    (no_weights / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    gaps = save_control(base, tmp_path / "gaps", layers_per_block=1, norm_num_groups=8)
    weights = load_file(gaps / "diffusion_pytorch_model.safetensors")
    weights.pop("conv_in.weight")
    save_file(weights, gaps / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    more = save_control(base, tmp_path / "more")
    weights = load_file(more / "diffusion_pytorch_model.safetensors")
    weights["extra.weight"] = torch.zeros(2)
    save_file(weights, more / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    broken = save_control(base, tmp_path / "broken")
    (broken / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 30)
    for folder, says in [
        (tmp_path / "nowhere", "no such folder; give a ControlNet's folder"),
        (tmp_path, "has no readable config.json"),
        (no_weights, r"has no \.safetensors file"),
        (save_control(base, tmp_path / "a", _class_name="ControlNetUnionModel"), "is a ControlNetUnionModel"),
        (control_of("sdxl"), "choose a ControlNet for Stable Diffusion 1.x"),
        (save_control(base, tmp_path / "b", cross_attention_dim=1024), "has cross_attention_dim 1024"),
        (save_control(base, tmp_path / "c", in_channels=9), "takes 9 latent channels, the base has 4"),
        (
            save_control(base, tmp_path / "d", conditioning_embedding_out_channels=[8, 8, 8, 16]),
            "sees 3 channels at 1/8 of the size, expected 3 at 1/2",
        ),
        (gaps, "lacks 1 weights, for instance conv_in.weight"),
        (more, "holds 1 weights that its config has no place for, such as extra.weight"),
        (broken, "can't be loaded"),
    ]:
        with pytest.raises(BaseError, match=says) as caught:
            draw(folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="got 0 pictures for 1 ControlNets"):
        generate(base, DRAW.model_copy(update={"controls": (use(control_of("sd15")),)}))
