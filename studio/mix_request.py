"""What a person asks to be drawn: the page, the API and the live preview all say it so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ConfigError, nearest
from pipelines.generation import AdapterUse, GenerationConfig

MIN_WEIGHT, MAX_WEIGHT = -2.0, 3.0
MAX_BLOCKS = 64

_Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_INPUT = r"^$|^image/[0-9a-z-]{1,64}$|^picture/[0-9a-f]{64}$"


class MixPart(BaseModel):
    """One adapter of a mix (see `pipelines.mixing.weights.Weights`).

    Attributes:
        id: the adapter's in the library.
        weight: on the UNet. text: on the text encoders; None is as `weight`.
        blocks: what the weight is multiplied by in some blocks, by their names.
        begin, end: when it acts, as shares of the denoising; both 0 is always.
        on: False leaves it out, whatever its weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(title="Adapter", pattern=r"^[0-9a-z-]{1,64}$")
    weight: _Weight = Field(default=1.0, title="Weight")
    text: _Weight | None = Field(default=None, title="Text weight")
    blocks: Mapping[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        default_factory=dict, title="Blocks", max_length=MAX_BLOCKS
    )
    begin: _Share = Field(default=0.0, title="Begin")
    end: _Share = Field(default=0.0, title="End")
    on: bool = Field(default=True, title="On")

    @property
    def idle(self) -> bool:
        """Whether it changes nothing."""
        return not self.on or (self.weight == 0 and not self.text)

    def use(self, name: str, sha256: str) -> AdapterUse:
        """What a picture's settings record of it."""
        return AdapterUse(
            name=name[:200], sha256=sha256, weight=self.weight, text_weight=self.text,
            blocks=dict(self.blocks), begin=self.begin, end=self.end,
        )  # fmt: skip


class Request(BaseModel):
    """What is to be drawn.

    Attributes:
        generation: the settings, without adapters, image and mask.
        mix: the adapters.
        compare: draw the same seeds without adapters too.
        axes: of a grid, up to three, as `pipelines.axes` reads them; empty draws no grid. A grid draws one
            picture per cell, however many the settings ask for. Adapters are named or given by id; those
            of `adapter=…` but the first needn't be in the mix.
        image, mask: what is drawn over, and where: "image/ID" of the gallery, "picture/SHA256" of the
            pictures, or empty.
        exact: a live preview draws with the settings' own steps and sampler.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: GenerationConfig
    mix: tuple[MixPart, ...] = Field(default=(), max_length=64)
    compare: bool = False
    axes: tuple[Annotated[str, Field(max_length=4000)], ...] = Field(default=(), max_length=3)
    image: str = Field(default="", pattern=_INPUT, title="Picture")
    mask: str = Field(default="", pattern=_INPUT, title="Mask")
    exact: bool = False

    @property
    def acting(self) -> tuple[MixPart, ...]:
        """The parts of the mix that change something; in a grid also those at 0, which an axis may move."""
        return tuple(part for part in self.mix if part.on and (self.axes or not part.idle))


def read_request(data: Any) -> Request:
    """A request out of JSON values.

    Raises:
        ConfigError: one line for the first mistake.
    """
    try:
        return Request.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_mistake(error)) from None


def generation_config(**fields: Any) -> GenerationConfig:
    """The validated settings of a picture; texts come out on one line.

    Raises:
        ConfigError: one line for the first mistake.
    """
    texts = {name: " ".join(str(fields.get(name, "")).split()) for name in ("prompt", "negative_prompt")}
    if not texts["prompt"]:
        raise ConfigError("the prompt is empty; say what the picture should show, such as “a photo of a cat”")
    try:
        return GenerationConfig(**{**fields, **texts})
    except ValidationError as error:
        raise ConfigError(_mistake(error)) from None


def _mistake(error: ValidationError) -> str:
    """The first mistake as one line that says what was got and what was expected."""
    mistake = error.errors(include_url=False)[0]
    place = [step for step in mistake["loc"] if step != "generation"] or list(mistake["loc"])
    if mistake["type"] == "value_error":  # one of ours, which says everything
        return str(mistake["ctx"]["error"])
    name = ".".join(str(step) for step in place) or "the request"
    fields = {**MixPart.model_fields, **Request.model_fields, **GenerationConfig.model_fields}
    last = next((str(step) for step in reversed(place) if str(step) in fields), "")
    name = (fields[last].title if last else None) or name
    wanted = str(mistake["msg"]).removeprefix("Input should be ").removeprefix("String should have ")
    if mistake["type"] == "missing":
        return f"{name} is missing; give it"
    if mistake["type"] == "extra_forbidden":
        names = [*fields]
        return f"unknown setting {str(place[-1])[:80]!r}{nearest(str(place[-1]), names)}"
    shown = repr(mistake["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
    return f"{name} is {shown}, expected {wanted}; change it"
