"""The settings of a training, section by section: validated, immutable, for the CLI and the page alike.

Every field carries its title, help, bounds, unit and tier ("simple" is always shown, "advanced" is
folded away). `trainers.config` joins the sections, and holds the presets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipelines.errors import nearest
from pipelines.families import TEXT_TARGETS, UNET_TARGETS
from pipelines.methods import METHODS

TRAINABLE = tuple(row.id for row in METHODS.values() if row.trains)
OPTIMIZER_NAMES = ("adamw",)
SCHEDULE_NAMES = ("constant", "cosine", "linear")
WEIGHTING_NAMES = ("constant", "min_snr")
"""Keys of the tables in `optimizers` and `weighting`, which need torch; a test holds them equal."""


def _one_of(*names: str) -> AfterValidator:
    """Accept only `names`; the error offers the nearest."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"got {value!r}, expected one of the known names{nearest(value, names)}")
        return value

    return AfterValidator(check)


def _about(
    tier: Literal["simple", "advanced"], unit: str = "", choices: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a form needs besides pydantic's own metadata."""
    extra: dict[str, Any] = {"tier": tier, "unit": unit}
    return {**extra, "choices": list(choices)} if choices else extra


class Section(BaseModel):
    """A part of the config: immutable, unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True, validate_default=True
    )


class DataConfig(Section):
    """The pictures, and the words for them."""

    instance_images: Path = Field(
        title="Pictures",
        description="Folder with the pictures to learn from; its subfolders aren't read.",
        json_schema_extra=_about("simple"),
    )
    kind: Literal["subject", "style"] = Field(
        default="subject",
        title="Kind",
        description="Whether the pictures share a subject or a style.",
        json_schema_extra=_about("simple"),
    )
    trigger: str = Field(
        max_length=100,
        title="Trigger",
        description="The word that will call what is learned; best one that means nothing yet.",
        json_schema_extra=_about("simple"),
    )
    instance_prompt: str = Field(
        max_length=1000,
        title="Prompt of the pictures",
        description="What the pictures show, with the trigger in it, for instance “a photo of zuv robot”.",
        json_schema_extra=_about("simple"),
    )
    class_prompt: str = Field(
        default="",
        max_length=1000,
        title="Prompt of the class",
        description="The same without the trigger, for instance “a photo of a robot”. Pictures of it, and of "
        "other things, are made with the base and learned along, so that the base isn't forgotten. "
        "Empty, as for styles: of other things only.",
        json_schema_extra=_about("simple"),
    )
    captions: Literal["prompt", "sidecar"] = Field(
        default="sidecar",
        title="Captions",
        description="sidecar: a picture's caption is the .txt file of its name, where there is one. "
        "prompt: all have the one prompt.",
        json_schema_extra=_about("simple"),
    )
    prior_weight: float = Field(
        default=1.0,
        ge=0,
        le=10,
        title="Weight of the class pictures",
        description="How much keeping what the base knows counts against learning the new; 0 leaves it out.",
        json_schema_extra=_about("advanced"),
    )
    prior_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=256,
        title="Class pictures per step",
        description="Empty: as many as pictures.",
        json_schema_extra=_about("advanced", "pictures"),
    )
    num_class_images: int = Field(
        default=48,
        ge=1,
        le=2000,
        title="Class pictures",
        description="How many pictures are made with the base.",
        json_schema_extra=_about("advanced", "pictures"),
    )
    prior_breadth: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="Other things among the class pictures",
        description="Share of the class pictures that show other things than the class.",
        json_schema_extra=_about("advanced"),
    )
    resolution: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        title="Resolution",
        description="Side of the square that is learned from. Empty: the base's own.",
        json_schema_extra=_about("advanced", "pixels"),
    )
    center_crop: bool = Field(
        default=True,
        title="Cut the middle",
        description="On: the middle square of a picture. Off: three squares along its longer side.",
        json_schema_extra=_about("advanced"),
    )
    flip: bool = Field(
        default=False,
        title="Mirror",
        description="Learn from mirrored pictures too; not for faces, letters and one-sided things.",
        json_schema_extra=_about("advanced"),
    )
    held_out: int = Field(
        default=0,
        ge=0,
        le=100,
        title="Held-out pictures",
        description="Pictures, the last by name, that are only measured on.",
        json_schema_extra=_about("advanced", "pictures"),
    )

    @model_validator(mode="after")
    def _trigger_in_prompt(self) -> DataConfig:
        if not self.trigger:
            raise ValueError("trigger: got nothing, expected a word that will call what is learned; give one")
        if not self.instance_prompt:
            raise ValueError("instance_prompt: got nothing, expected what the pictures show; write it")
        if self.trigger.casefold() not in self.instance_prompt.casefold():
            raise ValueError(
                f"instance_prompt: got {self.instance_prompt!r}, "
                f"expected the trigger {self.trigger!r} in it; add it"
            )
        return self


class AdapterConfig(Section):
    """What is trained."""

    method: Annotated[str, _one_of(*TRAINABLE)] = Field(
        default="lora",
        title="Method",
        description="How the change of the base is written down.",
        json_schema_extra=_about("advanced", choices=TRAINABLE),
    )
    rank: int = Field(
        default=8,
        ge=1,
        le=256,
        title="Rank",
        description="How much an adapter can hold; the file grows with it.",
        json_schema_extra=_about("advanced"),
    )
    alpha: float = Field(
        default=8.0,
        gt=0,
        le=1024,
        title="Alpha",
        description="The change is multiplied by alpha / rank; equal to the rank is a good start.",
        json_schema_extra=_about("advanced"),
    )
    unet_targets: Annotated[str, _one_of(*UNET_TARGETS)] = Field(
        default="attention",
        title="Layers of the UNet",
        description="Which layers of the UNet are adapted.",
        json_schema_extra=_about("advanced", choices=tuple(UNET_TARGETS)),
    )
    text_targets: Annotated[str, _one_of("none", *TEXT_TARGETS)] = Field(
        default="attention",
        title="Layers of the text encoder",
        description="Which layers of the text encoder are adapted; “none” leaves it as it is.",
        json_schema_extra=_about("advanced", choices=("none", *TEXT_TARGETS)),
    )


class ObjectiveConfig(Section):
    """What counts as an error."""

    weighting: Annotated[str, _one_of(*WEIGHTING_NAMES)] = Field(
        default="constant",
        title="Weighting",
        description="How much each noise level counts.",
        json_schema_extra=_about("advanced", choices=WEIGHTING_NAMES),
    )
    snr_gamma: float = Field(
        default=5.0,
        gt=0,
        le=100,
        title="SNR gamma",
        description="Where min_snr caps the signal-to-noise ratio.",
        json_schema_extra=_about("advanced"),
    )
    noise_offset: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Noise offset",
        description="Noise of a whole channel added to the noise, for very dark and very bright pictures.",
        json_schema_extra=_about("advanced"),
    )
    prior_target: Literal["base", "picture"] = Field(
        default="base",
        title="Target of the class pictures",
        description="base: what the base itself predicts there, which keeps it closest. "
        "picture: the noise that was added, as in DreamBooth.",
        json_schema_extra=_about("advanced"),
    )


class OptimizerConfig(Section):
    """How a step is taken."""

    optimizer: Annotated[str, _one_of(*OPTIMIZER_NAMES)] = Field(
        default="adamw",
        title="Optimizer",
        description="The rule that turns gradients into steps.",
        json_schema_extra=_about("advanced", choices=OPTIMIZER_NAMES),
    )
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        title="Learning rate",
        description="Size of a step on the UNet. The embedded base likes 1e-3 to 4e-3, large bases 1e-4.",
        json_schema_extra=_about("advanced"),
    )
    text_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Learning rate of the text encoder",
        description="Empty: the same.",
        json_schema_extra=_about("advanced"),
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        title="Weight decay",
        description="Pull of the adapter towards nothing, in each step times the learning rate.",
        json_schema_extra=_about("advanced"),
    )
    schedule: Annotated[str, _one_of(*SCHEDULE_NAMES)] = Field(
        default="cosine",
        title="Schedule",
        description="How the learning rate goes from its start to the end.",
        json_schema_extra=_about("advanced", choices=SCHEDULE_NAMES),
    )
    warmup_steps: int = Field(
        default=10,
        ge=0,
        le=100_000,
        title="Warm-up",
        description="Steps over which the learning rate rises from near 0.",
        json_schema_extra=_about("advanced", "steps"),
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        title="Largest gradient",
        description="Longer gradients are cut to this norm.",
        json_schema_extra=_about("advanced"),
    )


class RunConfig(Section):
    """Where, how long, and what is seen on the way."""

    output: Path = Field(
        title="Run folder",
        description="Where checkpoints, previews and the adapter are written.",
        json_schema_extra=_about("advanced"),
    )
    base: str = Field(
        default="pocket",
        min_length=1,
        title="Base",
        description="“pocket” for the embedded base, a folder in diffusers' layout, a .safetensors file, a "
        "hub id (org/name), or under `pigment train` a name of `pigment base list`.",
        json_schema_extra=_about("simple"),
    )
    vae: str = Field(
        default="",
        title="VAE",
        description="Another VAE in the place of the base's: a .safetensors file, or a diffusers folder.",
        json_schema_extra=_about("advanced"),
    )
    configs: str = Field(
        default="",
        title="Configs",
        description="The diffusers folder whose configs a base in one file is read by. Empty: those in the "
        "file, or of the published models.",
        json_schema_extra=_about("advanced"),
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        default=None,
        title="Prediction",
        description="What the base's UNet predicts. Empty: as the base says itself.",
        json_schema_extra=_about("advanced"),
    )
    name: str = Field(
        default="",
        max_length=100,
        title="Name",
        description="Name of the adapter. Empty: the trigger.",
        json_schema_extra=_about("simple"),
    )
    steps: int = Field(
        default=400, ge=1, le=1_000_000, title="Steps", description="How long to learn.",
        json_schema_extra=_about("simple", "steps"),
    )  # fmt: skip
    batch_size: int = Field(
        default=4,
        ge=1,
        le=256,
        title="Batch",
        description="Pictures per step; class pictures come on top.",
        json_schema_extra=_about("advanced", "pictures"),
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        title="Seed",
        description="The same seed on the same machine and thread count gives the same adapter.",
        json_schema_extra=_about("advanced"),
    )
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        title="Checkpoint every",
        description="An interrupted run goes on from the last checkpoint.",
        json_schema_extra=_about("advanced", "steps"),
    )
    preview_every: int = Field(
        default=100,
        ge=0,
        le=1_000_000,
        title="Preview every",
        description="Draw the preview prompts every so many steps; 0: never.",
        json_schema_extra=_about("simple", "steps"),
    )
    preview_prompts: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        default=(),
        max_length=16,
        title="Preview prompts",
        description="What previews show. Empty: the prompt of the pictures, and the class prompt.",
        json_schema_extra=_about("simple"),
    )
    evaluate_every: int = Field(
        default=50,
        ge=0,
        le=1_000_000,
        title="Measure every",
        description="Measure the held-out loss every so many steps; 0: never.",
        json_schema_extra=_about("advanced", "steps"),
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, title="Threads", description="CPU threads. Empty: all.",
        json_schema_extra=_about("advanced"),
    )  # fmt: skip
    device: str | None = Field(
        default=None,
        title="Device",
        description="“cpu”, “cuda”, “cuda:1”, “mps”. Empty: the fastest that is there.",
        json_schema_extra=_about("advanced"),
    )
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        default=None,
        title="Precision",
        description="Of the base's weights; the adapter is trained in fp32. Empty: what suits the device.",
        json_schema_extra=_about("advanced"),
    )
    cache: Path | None = Field(
        default=None,
        title="Cache folder",
        description="Where class pictures are kept for later runs. Empty: the user's cache folder.",
        json_schema_extra=_about("advanced"),
    )
