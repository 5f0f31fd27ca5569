"""What is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

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
    token_vectors: int = Field(
        default=4,
        ge=1,
        le=64,
        title="Vectors of the word",
        description="Where a word is learned: how many tokens of a prompt it takes. More hold more, and "
        "leave less room in the prompt.",
        json_schema_extra=about("advanced", "tokens"),
    )
    token_init: str = Field(
        default="",
        max_length=100,
        title="Start of the word",
        description="Where a word is learned: the known words that it starts as, for instance “creature”. "
        "Empty: at random, like any word.",
        json_schema_extra=about("advanced"),
    )
    token_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Learning rate of the word",
        description="Size of a step on a learned word. Empty: 5e-3.",
        json_schema_extra=about("advanced"),
    )
    tokens_alone: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        title="The word alone",
        description="In pivotal tuning: the share of the steps in which only the word learns; from then on "
        "it is held. 0: both learn all the time.",
        json_schema_extra=about("advanced", "share"),
    )

    @model_validator(mode="after")
    def _words(self) -> AdapterConfig:
        able = {
            "token_vectors": [row.id for row in TUNINGS.values() if row.tokens],
            "token_init": [row.id for row in TUNINGS.values() if row.tokens],
            "token_learning_rate": [row.id for row in TUNINGS.values() if row.tokens],
            "tokens_alone": [row.id for row in TUNINGS.values() if row.tokens and row.components],
        }
        for name in self.given(*able):
            if self.method not in able[name]:
                raise ValueError(
                    f"{name}: means nothing for method {self.method!r}; leave it out, or choose method "
                    f"{' or '.join(able[name])}"
                )
        return self
