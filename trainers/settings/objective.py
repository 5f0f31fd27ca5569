"""What counts as an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainers.settings.fields import Section, about, one_of

WEIGHTING_NAMES = ("constant", "min_snr")
"""Keys of `trainers.weighting.WEIGHTINGS`, which needs torch; a test holds them equal."""


class ObjectiveConfig(Section):
    """What counts as an error."""

    weighting: Annotated[str, one_of(*WEIGHTING_NAMES)] = Field(
        default="constant",
        title="Weighting",
        description="How much each noise level counts.",
        json_schema_extra=about("advanced", choices=WEIGHTING_NAMES),
    )
    snr_gamma: float = Field(
        default=5.0,
        gt=0,
        le=100,
        title="SNR gamma",
        description="Where min_snr caps the signal-to-noise ratio.",
        json_schema_extra=about("advanced"),
    )
    noise_offset: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Noise offset",
        description="Noise of a whole channel added to the noise, for very dark and very bright pictures.",
        json_schema_extra=about("advanced"),
    )
    prior_target: Literal["base", "picture"] = Field(
        default="base",
        title="Target of the class pictures",
        description="base: what the base itself predicts there, which keeps it closest. "
        "picture: the noise that was added, as in DreamBooth.",
        json_schema_extra=about("advanced"),
    )
