"""How a step is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from trainers.settings.fields import Section, about, one_of, refuse_unread


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """What settings need to know of an optimizer; how it is made stands in `trainers.optimizers`.

    reads: the settings that mean something to it, besides rates and weight decay. rate_scale: what a
    learning rate that is good for AdamW is multiplied with to be good for it. learning_rate: its own rate
    where it finds the size of a step by itself, a factor on that; such an optimizer has one rate for all.
    schedule: the one it is made for; None: any. averages: whether it keeps an average of what it learns.
    """

    reads: tuple[str, ...]
    rate_scale: float = 1.0
    learning_rate: float | None = None
    schedule: str | None = None
    averages: bool = False


_ADAM = ("beta1", "beta2", "eps")

OPTIMIZERS: dict[str, OptimizerRow] = {
    "adamw": OptimizerRow(reads=_ADAM),
    "adamw8bit": OptimizerRow(reads=_ADAM),
    "adafactor": OptimizerRow(reads=("beta1",)),
    # Chen et al. 2023, section 5: 3 to 10 times smaller than AdamW's
    "lion": OptimizerRow(reads=("beta1", "beta2"), rate_scale=0.2),
    "came": OptimizerRow(reads=("beta1", "beta2", "beta3"), rate_scale=0.2),
    "adopt": OptimizerRow(reads=_ADAM),
    "ademamix": OptimizerRow(reads=(*_ADAM, "beta3"), rate_scale=0.5),
    "stable_adamw": OptimizerRow(reads=_ADAM),
    "prodigy": OptimizerRow(reads=(*_ADAM, "d_coef"), learning_rate=1.0),
    # Defazio et al. 2024, appendix: 1 to 10 times larger than with a schedule
    "schedule_free_adamw": OptimizerRow(reads=_ADAM, rate_scale=2.0, schedule="constant", averages=True),
}
"""By name; the table of the same name in `trainers.optimizers` has the same keys, a test holds them equal."""

OPTIMIZER_NAMES = tuple(OPTIMIZERS)

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": (),
    "linear": (),
    "polynomial": ("schedule_power",),
    "cosine_restarts": ("restarts",),
}
"""By name, as in `trainers.schedules`: the settings that each reads."""

SCHEDULE_NAMES = tuple(SCHEDULES)

LEAST_FACTOR = 0.05
"""Below it the rate of an optimizer that finds its own must be meant as a size of step."""


def rate_scale(optimizer: str) -> float:
    """Return what a rate that is good for AdamW is multiplied with for `optimizer`."""
    return OPTIMIZERS[optimizer].rate_scale


def default_rate(optimizer: str, rate: float) -> float:
    """Return the learning rate to take where none is given. rate: one that is good for AdamW."""
    own = OPTIMIZERS[optimizer].learning_rate
    return own if own is not None else rate * rate_scale(optimizer)


class OptimizerConfig(Section):
    """How a step is taken."""

    optimizer: Annotated[str, one_of(*OPTIMIZER_NAMES)] = Field(
        default="adamw",
        title="Optimizer",
        description="The rule that turns gradients into steps. prodigy finds the size of a step by itself; "
        "adamw8bit, adafactor and came take less memory.",
        json_schema_extra=about("advanced", choices=OPTIMIZER_NAMES),
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Learning rate",
        description="Size of a step on the UNet. Empty: the method's own, for this optimizer and base; 1e-4 "
        "is usual on large bases, 2e-3 on the embedded one.",
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
    beta1: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        title="Beta 1",
        description="How long the direction of a step is remembered. Empty: the optimizer's own.",
        json_schema_extra=about("advanced"),
    )
    beta2: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        title="Beta 2",
        description="How long the size of the gradients is remembered. Empty: the optimizer's own.",
        json_schema_extra=about("advanced"),
    )
    beta3: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        title="Beta 3",
        description="The longest memory, where the optimizer has three. Empty: the optimizer's own.",
        json_schema_extra=about("advanced"),
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        le=1e-2,
        title="Epsilon",
        description="Size below which gradients count as none. Empty: the optimizer's own.",
        json_schema_extra=about("advanced"),
    )
    d_coef: float = Field(
        default=1.0,
        ge=0.1,
        le=10,
        title="Prodigy's factor",
        description="What prodigy multiplies its estimate of a step's size with.",
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
    schedule_power: float = Field(
        default=2.0,
        gt=0,
        le=10,
        title="Power of polynomial",
        description="The larger, the sooner the rate falls; 1 is linear.",
        json_schema_extra=about("advanced"),
    )
    restarts: int = Field(
        default=3,
        ge=2,
        le=100,
        title="Restarts",
        description="How many falls of the rate cosine_restarts makes, each from the top.",
        json_schema_extra=about("advanced"),
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
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Moving average",
        description="What is kept and shown is an average over the last steps, some 1 / (1 − value) of them; "
        "0.99 is usual. 0: off.",
        json_schema_extra=about("advanced"),
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Give what isn't said the value that the optimizer is made for."""
        if not isinstance(values, dict) or not isinstance(values.get("optimizer"), str):
            return values
        row = OPTIMIZERS.get(values["optimizer"])
        if row is None:
            return values
        filled = {"learning_rate": row.learning_rate, "schedule": row.schedule}
        missing = {name: value for name, value in filled.items() if value and values.get(name) is None}
        return {**values, **missing}

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        row = OPTIMIZERS[self.optimizer]
        refuse_unread(self, "optimizer", {name: one.reads for name, one in OPTIMIZERS.items()})
        refuse_unread(self, "schedule", SCHEDULES)
        if row.learning_rate is not None:
            if (self.learning_rate or 1.0) < LEAST_FACTOR:
                raise ValueError(
                    f"learning_rate {self.learning_rate:g} is only a factor with optimizer {self.optimizer!r}"
                    f", which finds the size of a step by itself; set learning_rate to {row.learning_rate:g}"
                )
            if self.text_learning_rate not in (None, self.learning_rate):
                raise ValueError(
                    f"text_learning_rate has no effect with optimizer {self.optimizer!r}, which has one "
                    "rate for all; leave it out"
                )
        if row.schedule not in (None, self.schedule):
            raise ValueError(
                f"schedule {self.schedule!r} isn't for optimizer {self.optimizer!r}, which averages instead "
                f"of slowing down; set schedule to {row.schedule!r}"
            )
        if row.averages and self.beta1 == 0:
            raise ValueError(
                f"beta1 0 leaves optimizer {self.optimizer!r} nothing to average; use 0.9 or leave it out"
            )
        if row.averages and self.ema_decay:
            raise ValueError(
                f"ema_decay has no effect with optimizer {self.optimizer!r}, which averages by itself; leave "
                "it out"
            )
        return self
