"""What to draw: the validated settings of a picture."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.errors import nearest
from pipelines.samplers import SAMPLERS

__all__ = ["AdapterUse", "GenerationConfig"]


def _known_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
    return name


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


class GenerationConfig(BaseModel):
    """What to draw. Sizes in pixels; a size of None is the base's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(title="Prompt", description="What the picture shows.", max_length=10_000)
    negative_prompt: str = Field(
        default="", title="Negative prompt", description="What it shouldn't show.", max_length=10_000
    )
    seed: int = Field(default=0, title="Seed", description="The first picture's; each next is one more.",
                      ge=0, le=2**53 - 1)  # fmt: skip
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
    width: int | None = Field(default=None, title="Width", description="In pixels; empty: the base's own.",
                              ge=8, le=4096)  # fmt: skip
    height: int | None = Field(default=None, title="Height", description="In pixels; empty: the base's own.",
                               ge=8, le=4096)  # fmt: skip
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
