"""What counts as an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.settings.fields import Section, about, one_of, refuse_unread

WEIGHTINGS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "min_snr": ("snr_gamma",),
    "soft_min_snr": ("snr_gamma",),
    "debiased": (),
    "p2": ("p2_gamma", "p2_k"),
}
LOSSES: dict[str, tuple[str, ...]] = {
    "mse": (),
    "huber": ("huber_c", "huber_schedule"),
    "smooth_l1": ("huber_c", "huber_schedule"),
    "log_cosh": (),
}
TIMESTEPS: dict[str, tuple[str, ...]] = {
    "uniform": (),
    "logit_normal": ("logit_mean", "logit_std"),
    "sigmoid": ("sigmoid_slope", "sigmoid_middle"),
    "beta": ("beta_a", "beta_b"),
}
"""Rows of the tables of the same names in `trainers.objective`, which needs torch, and the settings that each
row reads; a test holds them equal."""

WEIGHTING_NAMES = tuple(WEIGHTINGS)


class ObjectiveConfig(Section):
    """What counts as an error."""

    weighting: Annotated[str, one_of(*WEIGHTINGS)] = Field(
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
        description="Where min_snr and soft_min_snr cap the signal-to-noise ratio.",
        json_schema_extra=about("advanced"),
    )
    p2_gamma: float = Field(
        default=1.0,
        ge=0,
        le=10,
        title="P2 gamma",
        description="How strongly p2 takes weight from the nearly clean levels.",
        json_schema_extra=about("advanced"),
    )
    p2_k: float = Field(
        default=1.0,
        gt=0,
        le=100,
        title="P2 k",
        description="Below which signal-to-noise ratio p2 weighs levels alike.",
        json_schema_extra=about("advanced"),
    )
    loss: Annotated[str, one_of(*LOSSES)] = Field(
        default="mse",
        title="Loss",
        description="What an error costs. The others are gentler than mse to pictures that don't fit in.",
        json_schema_extra=about("advanced", choices=tuple(LOSSES)),
    )
    huber_c: float = Field(
        default=0.1,
        gt=0,
        le=1,
        title="Huber corner",
        description="The error from which on huber and smooth_l1 count in proportion and not squared.",
        json_schema_extra=about("advanced"),
    )
    huber_schedule: Literal["snr", "exponential", "constant"] = Field(
        default="snr",
        title="Huber schedule",
        description="How the corner goes from near 1 at clean levels to its value at noisy ones.",
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
    pyramid_levels: int = Field(
        default=0,
        ge=0,
        le=10,
        title="Noise pyramid",
        description="So many coarser noises are added, each half as fine as the one before. 0: none.",
        json_schema_extra=about("advanced"),
    )
    pyramid_discount: float = Field(
        default=0.4,
        gt=0,
        le=1,
        title="Discount of the pyramid",
        description="Strength of each coarser noise, in parts of the one before.",
        json_schema_extra=about("advanced"),
    )
    input_perturbation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Input perturbation",
        description="Further noise on what the UNet is given but not on what it is asked for; 0.1 is usual.",
        json_schema_extra=about("advanced"),
    )
    zero_terminal_snr: bool = Field(
        default=False,
        title="Zero terminal SNR",
        description="Learn up to pure noise, for very dark and very bright pictures. Not for bases that "
        "predict epsilon; draw with a sampler that is rescaled likewise.",
        json_schema_extra=about("advanced"),
    )
    timestep_sampling: Annotated[str, one_of(*TIMESTEPS)] = Field(
        default="uniform",
        title="Noise levels",
        description="Which noise levels are learned more often.",
        json_schema_extra=about("advanced", choices=tuple(TIMESTEPS)),
    )
    timestep_min: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Cleanest noise level",
        description="Where the noise levels begin; 0 is a clean picture.",
        json_schema_extra=about("advanced"),
    )
    timestep_max: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Noisiest noise level",
        description="Where the noise levels end; 1 is pure noise.",
        json_schema_extra=about("advanced"),
    )
    logit_mean: float = Field(
        default=0.0,
        ge=-5,
        le=5,
        title="Middle of logit_normal",
        description="Above 0: noisier levels; below 0: cleaner ones.",
        json_schema_extra=about("advanced"),
    )
    logit_std: float = Field(
        default=1.0,
        gt=0,
        le=5,
        title="Width of logit_normal",
        description="The smaller, the more the middle levels are learned.",
        json_schema_extra=about("advanced"),
    )
    sigmoid_slope: float = Field(
        default=6.0,
        ge=-30,
        le=30,
        title="Slope of sigmoid",
        description="How steeply noisier levels become more frequent; below 0: cleaner ones.",
        json_schema_extra=about("advanced"),
    )
    sigmoid_middle: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="Middle of sigmoid",
        description="The noise level of half the largest frequency.",
        json_schema_extra=about("advanced"),
    )
    beta_a: float = Field(
        default=1.5,
        gt=0.05,
        le=20,
        title="Beta a",
        description="The larger, the rarer are clean levels.",
        json_schema_extra=about("advanced"),
    )
    beta_b: float = Field(
        default=1.0,
        gt=0.05,
        le=20,
        title="Beta b",
        description="The larger, the rarer are noisy levels.",
        json_schema_extra=about("advanced"),
    )
    prior_target: Literal["base", "picture"] = Field(
        default="base",
        title="Target of the class pictures",
        description="base: what the base itself predicts there, which keeps it closest. "
        "picture: the noise that was added, as in DreamBooth.",
        json_schema_extra=about("advanced"),
    )

    @model_validator(mode="after")
    def _check(self) -> ObjectiveConfig:
        for choice, table in (("weighting", WEIGHTINGS), ("loss", LOSSES), ("timestep_sampling", TIMESTEPS)):
            refuse_unread(self, choice, table)
        if not self.pyramid_levels and self.given("pyramid_discount"):
            raise ValueError(
                "pyramid_discount has no effect with pyramid_levels = 0; set pyramid_levels to 6"
            )
        if self.sigmoid_slope == 0:
            raise ValueError("sigmoid_slope = 0 is flat; choose timestep_sampling = 'uniform'")
        if self.timestep_min >= self.timestep_max:
            raise ValueError(
                f"timestep_min {self.timestep_min:g} isn't below timestep_max {self.timestep_max:g}; "
                "let them be further apart"
            )
        return self
