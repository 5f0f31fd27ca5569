"""Where, how long, and what is seen on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trainers.settings.fields import Section, about


class RunConfig(Section):
    """Where, how long, and what is seen on the way."""

    output: Path = Field(
        title="Run folder",
        description="Where checkpoints, previews and the adapter are written.",
        json_schema_extra=about("advanced"),
    )
    base: str = Field(
        default="pocket",
        min_length=1,
        title="Base",
        description="“pocket” for the embedded base, a folder in diffusers' layout, a .safetensors file, a "
        "hub id (org/name), or under `pigment train` a name of `pigment base list`.",
        json_schema_extra=about("simple"),
    )
    vae: str = Field(
        default="",
        title="VAE",
        description="Another VAE in the place of the base's: a .safetensors file, or a diffusers folder.",
        json_schema_extra=about("advanced"),
    )
    configs: str = Field(
        default="",
        title="Configs",
        description="The diffusers folder whose configs a base in one file is read by. Empty: those in the "
        "file, or of the published models.",
        json_schema_extra=about("advanced"),
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        default=None,
        title="Prediction",
        description="What the base's UNet predicts. Empty: as the base says itself.",
        json_schema_extra=about("advanced"),
    )
    name: str = Field(
        default="",
        max_length=100,
        title="Name",
        description="Name of the adapter. Empty: the trigger.",
        json_schema_extra=about("simple"),
    )
    steps: int = Field(
        default=400, ge=1, le=1_000_000, title="Steps", description="How long to learn.",
        json_schema_extra=about("simple", "steps"),
    )  # fmt: skip
    batch_size: int = Field(
        default=4,
        ge=1,
        le=256,
        title="Batch",
        description="Pictures per step; class pictures come on top.",
        json_schema_extra=about("advanced", "pictures"),
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        title="Seed",
        description="The same seed on the same machine and thread count gives the same adapter.",
        json_schema_extra=about("advanced"),
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        title="Checkpoint every",
        description="An interrupted run goes on from the last checkpoint.",
        json_schema_extra=about("advanced", "steps"),
    )
    preview_every: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        title="Preview every",
        description="Draw the preview prompts every so many steps; 0: never.",
        json_schema_extra=about("simple", "steps"),
    )
    preview_prompts: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        default=(),
        max_length=16,
        title="Preview prompts",
        description="What previews show. Empty: the prompt of the pictures, and the class prompt.",
        json_schema_extra=about("simple"),
    )
    evaluate_every: int = Field(
        default=50,
        ge=0,
        le=1_000_000,
        title="Measure every",
        description="Measure the held-out loss every so many steps; 0: never.",
        json_schema_extra=about("advanced", "steps"),
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, title="Threads", description="CPU threads. Empty: all.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    device: str | None = Field(
        default=None,
        title="Device",
        description="“cpu”, “cuda”, “cuda:1”, “mps”. Empty: the fastest that is there.",
        json_schema_extra=about("advanced"),
    )
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        default=None,
        title="Precision",
        description="Of the base's weights; the adapter is trained in fp32. Empty: what suits the device.",
        json_schema_extra=about("advanced"),
    )
    cache: Path | None = Field(
        default=None,
        title="Cache folder",
        description="Where class pictures are kept for later runs. Empty: the user's cache folder.",
        json_schema_extra=about("advanced"),
    )
