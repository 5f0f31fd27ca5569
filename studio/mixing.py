"""From what a person asks to be drawn to a drawing job. No Gradio in here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.axes import Axis, read_axis
from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.generation import AdapterUse, GenerationConfig, PictureUse
from pipelines.grid_planning import planned_cells
from studio.bases import POCKET, Bases
from studio.context import Context
from studio.jobs import Job
from studio.library import Entry
from studio.work import KINDS

MIN_WEIGHT, MAX_WEIGHT = -2.0, 3.0
MAX_ADAPTERS = 16
"""How many a mix holds; the candidates of a grid's axes count too."""

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
        default_factory=dict, title="Blocks", max_length=64
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
    """What a person asks to be drawn: the page, the API and the live preview all say it so.

    Attributes:
        generation: the settings, without adapters, image and mask.
        mix: the adapters.
        compare: draw the same seeds without adapters too.
        axes: of a grid, up to three, as `pipelines.axes` reads them; empty draws no grid. The adapter in
            `weight:NAME=…` is one of the mix, by its name or id.
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


def new_seed() -> int:
    """A random seed of at most ten digits."""
    return random.randrange(2**31)


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


def start(context: Context, request: Request) -> Job:
    """Queue the drawing of a request.

    Raises:
        StudioError: what is wrong with it; then nothing has been queued.
    """
    request = checked(context, request)
    config = {**request.model_dump(mode="json"), "base": context.base}
    job = context.jobs.submit("generate", request.generation.prompt[:80], config)
    context.runner.wake()
    return job


def request_of(job: Job) -> Request:
    """What a drawing job was asked for."""
    return read_request({name: value for name, value in job.config.items() if name in Request.model_fields})


def checked(context: Context, request: Request) -> Request:
    """The request as it is drawn: `<lora:…>` of the prompt in the mix, what changes nothing left out.

    Raises:
        StudioError: it names what isn't here, or its settings contradict each other.
    """
    given = request.generation.model_dump()
    if request.generation.adapters:
        raise ConfigError("the settings name adapters of their own; put them into the mix")
    for name, ref in (("image", request.image), ("mask", request.mask)):
        if given[name] is not None and not ref:
            raise ConfigError(f"the settings name a {name} that isn't given; choose it, or take it out")
        given[name] = None
    if given["controls"] or given["image_prompt"] is not None:
        raise ConfigError("ControlNets and image prompts are drawn with by `pigment generate`; take them out")
    if request.mask and not request.image:
        raise ConfigError("there is a mask, but no picture that it marks a part of; choose one")
    generation = generation_config(**given)
    request = _without_tags(context, request.model_copy(update={"generation": generation}))
    acting = request.acting
    if len(acting) > MAX_ADAPTERS:
        raise AdapterError(
            f"{len(acting)} adapters are in the mix, at most {MAX_ADAPTERS} fit; set some to 0"
        )
    entries = {part.id: context.library.get(part.id) for part in acting}
    if len(entries) < len(acting):
        raise AdapterError("an adapter is in the mix twice; take one of them out")
    request = request.model_copy(update={"mix": acting})
    if request.axes:
        _check_axes(context, request, entries)
    return request


def axes_of(request: Request, entries: Mapping[str, Entry]) -> list[Axis]:
    """The axes of a request, those of one adapter by its name. entries: of the mix, by id.

    Raises:
        ConfigError: one isn't understood.
    """
    axes = [read_axis(text) for text in request.axes]
    names = {key: entry.name for key, entry in entries.items()}
    return [replace(axis, target=names.get(axis.target or "", axis.target)) for axis in axes]


def _check_axes(context: Context, request: Request, entries: Mapping[str, Entry]) -> None:
    """Refuse a grid that can't be, before it is queued."""
    axes = axes_of(request, entries)
    known = [POCKET, *(entry.name for entry in Bases(context.workspace).entries())]
    for axis in axes:
        for value in axis.values if axis.kind == "base" else ():
            if value not in known:
                raise ConfigError(f"no base {value!r} in the list{nearest(value, known)}")
    known_later = {
        name: PictureUse(sha256="") if ref else None
        for name, ref in (("image", request.image), ("mask", request.mask))
    }
    uses = tuple(part.use(entries[part.id].name, "") for part in request.mix)
    planned_cells(request.generation.model_copy(update={"adapters": uses, **known_later}), axes)


def _without_tags(context: Context, request: Request) -> Request:
    """Put the prompt's `<lora:name:0.8>` into the mix, where they add to the weights that are there.

    Raises:
        AdapterError: for a name that the library doesn't have, or a weight out of range.
    """
    from pipelines.prompts import split_tags

    prompt, tags = split_tags(request.generation.prompt)
    if not tags:
        return request
    parts = {part.id: part for part in request.mix}
    for tag in tags:
        entry = context.library.find(tag.name)
        if entry is None:
            names = [one.short for one in context.library.entries()]
            raise AdapterError(f"no adapter {tag.name!r} in the library{nearest(tag.name, names)}")
        there = parts.get(entry.id)
        if there is None or not there.on:
            there = MixPart(id=entry.id, weight=0.0)
        parts[entry.id] = _added(there, tag.weight, tag.text_weight, entry.name)
    generation = generation_config(**{**request.generation.model_dump(), "prompt": prompt})
    return request.model_copy(update={"generation": generation, "mix": tuple(parts.values())})


def _added(part: MixPart, weight: float, text: float | None, name: str) -> MixPart:
    """A part with more weight. text: on the text encoders; None: as much as `weight`."""
    one_number = part.text is None and text is None
    found = {
        "weight": part.weight + weight,
        "text": None
        if one_number
        else (part.weight if part.text is None else part.text) + (weight if text is None else text),
    }
    for number in found.values():
        if number is not None and not MIN_WEIGHT <= number <= MAX_WEIGHT:
            raise AdapterError(
                f"weight of {name!r} is {number:g}, expected {MIN_WEIGHT:g} to {MAX_WEIGHT:g}; move its "
                "slider, or change the prompt's tag"
            )
    return part.model_copy(update=found)


def _mistake(error: ValidationError) -> str:
    """The first mistake as one line that says what was got and what was expected."""
    mistake = error.errors(include_url=False)[0]
    place = [step for step in mistake["loc"] if step != "generation"]
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


def waiting_for(context: Context, job: Job) -> str:
    """Why a queued job hasn't begun, in words; empty when nothing is in its way."""
    if job.state != "queued":
        return ""
    if taken := occupied(context):
        return f"Waiting: {taken}. The pictures come after it."
    running = context.jobs.find(kind="generate", states=("running",), limit=1)
    return "Waiting for the pictures before these" if running else ""


def occupied(context: Context) -> str:
    """What has the device for long, in words such as: “Zib” is being taught, about 3 min left; else empty."""
    for job in context.jobs.find(states=("running",), limit=20):
        kind = KINDS.get(job.kind)
        if kind is None or not kind.device or not kind.run:
            continue
        left = context.run_log(job).seconds_left if job.kind == "train" else None
        about = f", about {round(left / 60) or 1} min left" if left else ""
        return f"“{job.title}” {kind.doing}{about}"
    return ""
