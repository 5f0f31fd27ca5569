"""Where, how long, and what is seen on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.attention import ATTENTION
from pipelines.quantised import QUANTISED
from pipelines.samplers import SAMPLERS
from trainers.settings.fields import Section, about, one_of

CHECKPOINTING_NAMES = ("auto", "none", "selective", "all")
LISTENER_NAMES = ("tensorboard", "wandb")
"""Keys of the tables in `trainers.memory` and `trainers.listeners`; a test holds them equal."""
MECHANISMS = ("layers", "frozen", "flat", "graph", "readings")
"""What makes a step faster without changing what is learned, beyond rounding; each can be left out."""


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
        description="Pictures per step, over all processes together; class pictures come on top.",
        json_schema_extra=about("advanced", "pictures"),
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        le=1024,
        title="Batches per step",
        description="Add up the gradients of so many batches before each step: a larger batch in the memory "
        "of a small one, in as much more time.",
        json_schema_extra=about("advanced", "batches"),
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
    keep_checkpoints: int = Field(
        default=2,
        ge=2,
        le=10_000,
        title="Checkpoints kept",
        description="The newest so many stay on the disk; older ones are removed.",
        json_schema_extra=about("advanced", "checkpoints"),
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
    preview_seeds: tuple[Annotated[int, Field(ge=0, le=2**53)], ...] = Field(
        default=(),
        max_length=16,
        title="Preview seeds",
        description="Each preview prompt is drawn with each of these. Empty: with the run's seed.",
        json_schema_extra=about("advanced"),
    )
    preview_steps: int = Field(
        default=16,
        ge=1,
        le=150,
        title="Preview sampling steps",
        description="Steps that a preview picture is drawn in.",
        json_schema_extra=about("advanced", "steps"),
    )
    preview_sampler: Annotated[str, one_of(*SAMPLERS)] = Field(
        default="ddim", title="Preview sampler", description="The way from noise to a preview picture.",
        json_schema_extra=about("advanced", choices=tuple(SAMPLERS)),
    )  # fmt: skip
    preview_guidance: float = Field(
        default=3.0, ge=1, le=30, title="Preview guidance",
        description="How strictly a preview follows its prompt; 1 turns it off.",
        json_schema_extra=about("advanced"),
    )  # fmt: skip
    preview_negative: str = Field(
        default="", max_length=1000, title="Preview negative prompt",
        description="What previews shouldn't show.", json_schema_extra=about("advanced"),
    )  # fmt: skip
    preview_width: int | None = Field(
        default=None, ge=8, le=4096, title="Preview width",
        description="Empty: the resolution that is learned.", json_schema_extra=about("advanced", "pixels"),
    )  # fmt: skip
    preview_height: int | None = Field(
        default=None, ge=8, le=4096, title="Preview height",
        description="Empty: the resolution that is learned.", json_schema_extra=about("advanced", "pixels"),
    )  # fmt: skip
    evaluate_every: int = Field(
        default=50,
        ge=0,
        le=1_000_000,
        title="Measure every",
        description="Measure the held-out loss every so many steps; 0: never.",
        json_schema_extra=about("advanced", "steps"),
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, title="Threads",
        description="CPU threads. Empty: all, or half of them where a short trial is faster by that.",
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
    mixed_precision: Literal["bf16", "fp16"] | None = Field(
        default=None,
        title="Mixed precision",
        description="Let products run in 16 bits (autocast) while weights keep their precision; fp16 scales "
        "the loss. Empty: everything in the base's precision, but bf16 on a CPU that is clearly faster by "
        "it, where no precision is asked for.",
        json_schema_extra=about("advanced"),
    )
    gradient_checkpointing: Literal["auto", "none", "selective", "all"] = Field(
        default="auto",
        title="Gradient checkpointing",
        description="Compute parts of the forward pass a second time instead of keeping them: less memory, "
        "more time. auto: as few as let the run fit. selective: feed-forward layers and blocks at full size. "
        "all: every block.",
        json_schema_extra=about("advanced"),
    )
    attention: Annotated[str, one_of(*ATTENTION)] | None = Field(
        default=None,
        title="Attention",
        description="The kernel that the UNet's attention takes. Empty: what suits the device.",
        json_schema_extra=about("advanced", choices=tuple(ATTENTION)),
    )
    channels_last: bool | None = Field(
        default=None,
        title="Channels last",
        description="Lay convolutions' weights out with channels last. Empty: where that is faster.",
        json_schema_extra=about("advanced", choices=(True, False)),
    )
    quantise: Annotated[str, one_of(*QUANTISED)] | None = Field(
        default=None,
        title="Quantise",
        description="Hold the base's UNet in fewer bits while the adapter learns (QLoRA). Empty: no.",
        json_schema_extra=about("advanced", choices=tuple(QUANTISED)),
    )
    offload: Literal["none", "parts"] | None = Field(
        default=None,
        title="Offload",
        description="parts: the VAE and the text encoders that don't learn are on the device only while they "
        "work. Empty: parts on a graphics card, none on a CPU.",
        json_schema_extra=about("advanced"),
    )
    without: tuple[Annotated[str, one_of(*MECHANISMS)], ...] = Field(
        default=(),
        title="Without",
        description="Leave out what makes steps faster. layers: low-rank layers in one piece instead of "
        "PEFT's. frozen: the base's frozen blocks in one piece. flat: parameters and gradients in few large "
        "buffers. graph: steps recorded once and replayed, on a card as CUDA graphs, on a CPU those of small "
        "bases. readings: losses read from a card now and then instead of at every step.",
        json_schema_extra=about("advanced"),
    )
    listeners: tuple[Annotated[str, one_of(*LISTENER_NAMES)], ...] = Field(
        default=(),
        title="Listeners",
        description=f"What else is told how it goes: {', '.join(LISTENER_NAMES)}. None can end a run.",
        json_schema_extra=about("advanced"),
    )
    cache: Path | None = Field(
        default=None,
        title="Cache folder",
        description="Where what is made once is kept for later runs: latents, embeddings, class pictures, "
        "what is known of files and devices. Empty: the user's cache folder.",
        json_schema_extra=about("advanced"),
    )

    @model_validator(mode="after")
    def _precisions_agree(self) -> RunConfig:
        half = {"fp16", "bf16"}
        if {self.precision, self.mixed_precision} == half:
            raise ValueError(
                f"mixed_precision: got {self.mixed_precision!r} over weights in {self.precision!r}, expected "
                f"one kind of 16 bits; choose precision {self.mixed_precision!r} or 'fp32'"
            )
        return self

    @model_validator(mode="after")
    def _each_once(self) -> RunConfig:
        for name in ("listeners", "without", "preview_seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: got {list(values)}, expected each once; leave the others out")
        return self

    @model_validator(mode="after")
    def _previews_show_it(self) -> RunConfig:
        """Refuse what would be set and change no preview."""
        names = ("preview_seeds", "preview_steps", "preview_sampler", "preview_guidance", "preview_negative",
                 "preview_width", "preview_height")  # fmt: skip
        for name in self.given(*names) if not self.preview_every else ():
            raise ValueError(f"{name}: there are no previews; set run.preview_every, or leave it out")
        if self.preview_negative and self.preview_guidance == 1:
            raise ValueError(
                "preview_negative: without guidance it says nothing; set run.preview_guidance above 1, "
                "or leave it out"
            )
        return self
