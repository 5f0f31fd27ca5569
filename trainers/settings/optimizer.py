"""How a step is taken."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainers.settings.fields import Section, about, one_of

OPTIMIZER_NAMES = ("adamw",)
SCHEDULE_NAMES = ("constant", "cosine", "linear")
"""Keys of the tables in `trainers.optimizers`, which need torch; a test holds them equal."""


class OptimizerConfig(Section):
    """How a step is taken."""

    optimizer: Annotated[str, one_of(*OPTIMIZER_NAMES)] = Field(
        default="adamw",
        title="Optimizer",
        description="The rule that turns gradients into steps.",
        json_schema_extra=about("advanced", choices=OPTIMIZER_NAMES),
    )
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        title="Learning rate",
        description="Size of a step on the UNet. The embedded base likes 1e-3 to 4e-3, large bases 1e-4.",
        json_schema_extra=about("advanced"),
    )
    text_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Learning rate of the text encoder",
        description="Empty: the same.",
        json_schema_extra=about("advanced"),
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        title="Weight decay",
        description="Pull of the adapter towards nothing, in each step times the learning rate.",
        json_schema_extra=about("advanced"),
    )
    schedule: Annotated[str, one_of(*SCHEDULE_NAMES)] = Field(
        default="cosine",
        title="Schedule",
        description="How the learning rate goes from its start to the end.",
        json_schema_extra=about("advanced", choices=SCHEDULE_NAMES),
    )
    warmup_steps: int = Field(
        default=10,
        ge=0,
        le=100_000,
        title="Warm-up",
        description="Steps over which the learning rate rises from near 0.",
        json_schema_extra=about("advanced", "steps"),
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        title="Largest gradient",
        description="Longer gradients are cut to this norm.",
        json_schema_extra=about("advanced"),
    )
