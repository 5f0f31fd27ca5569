"""What to draw: the validated settings of a picture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.drawing.agreement import LARGEST_SEED
from pipelines.drawing.hires import UPSCALERS
from pipelines.errors import ConfigError, nearest
from pipelines.samplers import SAMPLERS

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.mixing.weights import Weights

__all__ = [
    "AdapterUse",
    "ControlUse",
    "GenerationConfig",
    "ImagePromptUse",
    "Inputs",
    "PictureUse",
    "recorded",
]


def _known_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
    return name


def _known_upscaler(name: str) -> str:
    if name not in UPSCALERS:
        raise ValueError(f"unknown upscaler {name!r}{nearest(name, UPSCALERS)}")
    return name


class PictureUse(BaseModel):
    """A picture that was drawn from, recorded so that the same one is asked for again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", title="Picture", description="Its file's name.", max_length=300)
    sha256: str = Field(
        title="SHA-256",
        description="Over its mode, size, pixels and palette, 64 hexadecimal digits.",
        max_length=64,
    )

    @classmethod
    def of(cls, image: Image, name: str = "") -> PictureUse:
        """Record a picture."""
        digest = hashlib.sha256(f"{image.mode} {image.width}×{image.height}\n".encode())
        digest.update(image.tobytes())
        digest.update(bytes(image.getpalette() or ()))
        return cls(name=name[:300], sha256=digest.hexdigest())


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """The pictures that a drawing starts from, as they were handed in.

    image: what is drawn over. mask: white where it is drawn anew. controls: one for each ControlNet, such
    as edges. image_prompt: what the picture should be like. None: not used.
    """

    image: Image | None = None
    mask: Image | None = None
    controls: tuple[Image, ...] = ()
    image_prompt: Image | None = None


class ControlUse(BaseModel):
    """A ControlNet and the picture that it follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(title="ControlNet", description="Its folder, in diffusers' layout.", max_length=4096)
    picture: PictureUse | None = Field(
        default=None, title="Picture", description="Edges, depth, a pose: what it was trained on."
    )
    weight: float = Field(default=1.0, title="Weight", description="How strictly it is followed.", ge=0, le=2)
    begin: float = Field(
        default=0.0, title="Begin", description="Share of the steps from which it acts.", ge=0, le=1
    )
    end: float = Field(
        default=1.0, title="End", description="Share of the steps until which it acts.", ge=0, le=1
    )


class ImagePromptUse(BaseModel):
    """An IP-Adapter and the picture that it lets the base see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(title="IP-Adapter", description="Its .safetensors file.", max_length=4096)
    encoder: str | None = Field(
        default=None, title="Image encoder", max_length=4096,
        description="The folder of its CLIP image encoder; empty: image_encoder/ beside the file or above.",
    )  # fmt: skip
    picture: PictureUse | None = Field(
        default=None, title="Picture", description="What the drawing should be like."
    )
    weight: float = Field(default=1.0, title="Weight", description="How much it counts.", ge=0, le=2)


class AdapterUse(BaseModel):
    """An adapter that was in the mix when a picture was made: a record for the picture's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(title="Adapter", description="Its name in the library.", max_length=200)
    sha256: str = Field(title="SHA-256", description="Of its file, 64 hexadecimal digits.", max_length=64)
    weight: float = Field(title="Weight", description="On the UNet.", ge=-2, le=3)
    text_weight: float | None = Field(
        default=None,
        title="Text weight",
        description="On the text encoder; as the weight if empty.",
        ge=-2,
        le=3,
    )
    blocks: dict[str, float] = Field(
        default_factory=dict, title="Blocks", description="What the weight is multiplied by, per block."
    )
    begin: float = Field(
        default=0.0, title="Begin", description="Share of the steps from which it comes in.", ge=0, le=1
    )
    end: float = Field(
        default=0.0, title="End", description="Share of the steps from which it is whole.", ge=0, le=1
    )

    def weights(self) -> Weights:
        """Return what `Mixer.set` takes for it."""
        from pipelines.mixing.weights import Weights

        return Weights(
            unet=self.weight, text=self.text_weight, blocks=dict(self.blocks), begin=self.begin, end=self.end
        )


class GenerationConfig(BaseModel):
    """What to draw. Sizes in pixels; a size of None is the base's own.

    Pictures are recorded here and handed to `generate` as `Inputs`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(title="Prompt", description="What the picture shows.", max_length=10_000)
    negative_prompt: str = Field(
        default="", title="Negative prompt", description="What it shouldn't show.", max_length=10_000
    )
    seed: int = Field(default=0, title="Seed", description="The first picture's; each next is one more.",
                      ge=0, le=LARGEST_SEED)  # fmt: skip
    num_images: int = Field(default=1, title="Pictures", description="How many, one seed each.", ge=1, le=64)
    batch_size: int = Field(
        default=1, title="Batch", ge=1, le=16,
        description="How many at once; above 1 a picture may differ by a level from one drawn alone.",
    )  # fmt: skip
    num_inference_steps: int = Field(
        default=20, title="Steps", description="Denoising steps; more is finer and slower.", ge=1, le=1000
    )
    guidance_scale: float = Field(
        default=3.0, title="Guidance", description="How strictly the prompt is followed; 1 turns it off.",
        ge=1, le=30, allow_inf_nan=False,
    )  # fmt: skip
    guidance_rescale: float = Field(
        default=0.0, title="Guidance rescale", ge=0, le=1,
        description="How much of the contrast that guidance adds is taken back; for v-prediction about 0.7.",
    )  # fmt: skip
    width: int | None = Field(
        default=None, title="Width", ge=8, le=4096,
        description="In pixels; empty: the base's own, or that of the picture that is drawn over.",
    )  # fmt: skip
    height: int | None = Field(
        default=None, title="Height", ge=8, le=4096,
        description="In pixels; empty: the base's own, or that of the picture that is drawn over.",
    )  # fmt: skip
    sampler: Annotated[str, AfterValidator(_known_sampler)] = Field(
        default="ddim", title="Sampler", description="The way from noise to picture."
    )
    eta: float = Field(
        default=0.0, title="Eta", ge=0, le=1,
        description="How much noise a sampler such as DDIM puts in at each step; 0: none.",
    )  # fmt: skip
    adapters: tuple[AdapterUse, ...] = Field(
        default=(), title="Adapters", description="What the mixer holds, recorded in the picture."
    )
    clip_skip: int | None = Field(
        default=None, title="CLIP skip", ge=1, le=12,
        description="Which of the text encoder's layers is heard, from the last; empty: the family's own.",
    )  # fmt: skip
    image: PictureUse | None = Field(
        default=None, title="Picture", description="What is drawn over; empty: nothing."
    )
    strength: float = Field(
        default=0.75, title="Strength", ge=0, le=1,
        description="How far a picture is drawn over: 0 leaves it, 1 starts from noise.",
    )  # fmt: skip
    mask: PictureUse | None = Field(
        default=None, title="Mask", description="White where the picture is drawn anew; empty: everywhere."
    )
    mask_blur: float = Field(
        default=4, title="Mask blur", ge=0, le=256, allow_inf_nan=False, json_schema_extra={"unit": "pixels"},
        description="How softly what is drawn goes over into the picture.",
    )  # fmt: skip
    mask_padding: int | None = Field(
        default=None, title="Only masked, padding", ge=0, le=4096, json_schema_extra={"unit": "pixels"},
        description="Draw only the mask's surroundings, this much wider, at full size; empty: the whole.",
    )  # fmt: skip
    mask_invert: bool = Field(
        default=False, title="Invert the mask", description="Draw anew what is black in the mask."
    )
    hires_scale: float = Field(
        default=1.0, title="Hires scale", ge=1, le=4, allow_inf_nan=False,
        description="How many times larger a second pass draws the picture; 1: no second pass.",
    )  # fmt: skip
    hires_steps: int | None = Field(
        default=None, title="Hires steps", ge=1, le=1000,
        description="Steps of the second pass; empty: as many as of the first.",
    )  # fmt: skip
    hires_strength: float = Field(
        default=0.6, title="Hires strength", ge=0, le=1,
        description="How far the second pass draws the picture over.",
    )  # fmt: skip
    hires_upscaler: Annotated[str, AfterValidator(_known_upscaler)] = Field(
        default="latent", title="Hires upscaler", description="How the picture is made larger in between."
    )
    controls: tuple[ControlUse, ...] = Field(
        default=(), title="ControlNets", description="Pictures that the drawing follows.", max_length=8
    )
    image_prompt: ImagePromptUse | None = Field(
        default=None, title="Image prompt", description="A picture to be like, by an IP-Adapter."
    )
    safety_checker: bool = Field(
        default=True, title="Safety checker",
        description="Black out pictures that the base's own checker flags; bases without one aren't checked.",
    )  # fmt: skip


def recorded(config: GenerationConfig, inputs: Inputs) -> GenerationConfig:
    """Return the settings with the pictures that are handed in recorded in them.

    Raises: ConfigError for a picture other than the one recorded, or one that is recorded but not given.
    """
    if len(config.controls) != len(inputs.controls):
        raise ConfigError(
            f"got {len(inputs.controls)} pictures for {len(config.controls)} ControlNets; give one for each"
        )
    controls = tuple(
        use.model_copy(update={"picture": _same(use.picture, image, f"picture of ControlNet {use.ref!r}")})
        for use, image in zip(config.controls, inputs.controls, strict=True)
    )
    prompt = config.image_prompt
    if (prompt is None) != (inputs.image_prompt is None):
        have, lack = ("a picture", "IP-Adapter") if prompt is None else ("an IP-Adapter", "picture")
        raise ConfigError(f"got {have} for an image prompt, but no {lack}; give both or neither")
    if prompt is not None:
        seen = _same(prompt.picture, inputs.image_prompt, "picture of the image prompt")
        prompt = prompt.model_copy(update={"picture": seen})
    return config.model_copy(
        update={
            "image": _same(config.image, inputs.image, "picture"),
            "mask": _same(config.mask, inputs.mask, "mask"),
            "controls": controls,
            "image_prompt": prompt,
        }
    )


def _same(record: PictureUse | None, image: Image | None, what: str) -> PictureUse | None:
    """Return the record of a picture, checked against the one given; a new one where there was none."""
    if image is None:
        if record is None:
            return None
        raise ConfigError(f"the settings name a {what}, {_shown(record)}, which wasn't given; give it too")
    given = PictureUse.of(image)
    if record is None:
        return given
    if record.sha256 != given.sha256:
        raise ConfigError(
            f"the {what} isn't the one that the settings name: expected {_shown(record)}, "
            f"got sha256 {given.sha256[:12]}; give that one, or take it out of the settings"
        )
    return record


def _shown(record: PictureUse) -> str:
    """A picture's name, where it has one, and the beginning of its hash."""
    name = f"{record.name!r}, " if record.name else ""
    return f"{name}sha256 {record.sha256[:12]}"
