"""What is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.methods import TUNINGS
from trainers.settings.fields import Section, about, one_of

TRAINABLE = tuple(TUNINGS)


class AdapterConfig(Section):
    """What is trained."""

    method: Annotated[str, one_of(*TRAINABLE)] = Field(
        default="lora",
        title="Method",
        description="How the change of the base is written down.",
        json_schema_extra=about("advanced", choices=TRAINABLE),
    )
    rank: int = Field(
        default=8,
        ge=1,
        le=256,
        title="Rank",
        description="How much an adapter can hold; the file grows with it.",
        json_schema_extra=about("advanced"),
    )
    alpha: float = Field(
        default=8.0,
        gt=0,
        le=1024,
        title="Alpha",
        description="The change is multiplied by alpha / rank; equal to the rank is a good start.",
        json_schema_extra=about("advanced"),
    )
    unet_targets: Annotated[str, one_of(*UNET_TARGETS)] = Field(
        default="attention",
        title="Layers of the UNet",
        description="Which layers of the UNet are adapted.",
        json_schema_extra=about("advanced", choices=tuple(UNET_TARGETS)),
    )
    text_targets: Annotated[str, one_of("none", *TEXT_TARGETS)] = Field(
        default="attention",
        title="Layers of the text encoder",
        description="Which layers of the text encoder are adapted; “none” leaves it as it is.",
        json_schema_extra=about("advanced", choices=("none", *TEXT_TARGETS)),
    )
