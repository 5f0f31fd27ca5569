"""From what a person asks to be drawn to a drawing job. No Gradio in here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from pipelines.axes import Axis, read_axis
from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.generation import PictureUse
from pipelines.grid_planning import planned_cells
from studio.bases import POCKET, Bases
from studio.context import Context
from studio.jobs import Job
from studio.library import Entry
from studio.mix_request import MAX_WEIGHT, MIN_WEIGHT, MixPart, Request, generation_config, read_request
from studio.work import KINDS

__all__ = [
    "MAX_ADAPTERS",
    "MAX_WEIGHT",
    "MIN_WEIGHT",
    "MixPart",
    "Request",
    "checked",
    "generation_config",
    "new_seed",
    "occupied",
    "read_request",
    "request_of",
    "start",
    "waiting_for",
]

MAX_ADAPTERS = 16
"""How many a mix holds; the candidates of a grid's axes count too."""


def new_seed() -> int:
    """A random seed of at most ten digits."""
    return random.randrange(2**31)


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
    if len({part.id for part in request.mix}) < len(request.mix):
        raise AdapterError("an adapter is in the mix twice; take one of them out")
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
    acting = _with_candidates(context, request.model_copy(update={"mix": request.acting})).mix
    if len(acting) > MAX_ADAPTERS:
        raise AdapterError(
            f"{len(acting)} adapters are in the mix, at most {MAX_ADAPTERS} fit; set some to 0"
        )
    entries = {part.id: context.library.get(part.id) for part in acting}
    request = request.model_copy(update={"mix": acting})
    if request.axes:
        _check_axes(context, request, entries)
    return request


def axes_of(request: Request, entries: Mapping[str, Entry]) -> list[Axis]:
    """The axes of a request, their adapters by name. entries: those of the mix, by id.

    Raises:
        ConfigError: one isn't understood.
    """

    def named(text: str) -> str:
        return next((entry.name for entry in entries.values() if entry.called(text)), text)

    found = []
    for axis in (read_axis(text) for text in request.axes):
        target = None if axis.target is None else named(axis.target)
        values = tuple(named(value) for value in axis.values) if axis.kind == "adapter" else axis.values
        found.append(replace(axis, target=target, values=values))
    return found


def _with_candidates(context: Context, request: Request) -> Request:
    """Put the adapters that a grid lets take another's place into the mix, at 0; they may be named or ids."""
    parts = {part.id: part for part in request.mix}
    for axis in (read_axis(text) for text in request.axes):
        for place, name in enumerate(axis.values if axis.kind == "adapter" else ()):
            entry = _found(context, name)
            if place == 0 and entry.id not in parts:
                raise AdapterError(
                    f"adapter {entry.name!r} isn't in the mix; the first of an adapter axis is the one that "
                    "the others take the place of"
                )
            parts.setdefault(entry.id, MixPart(id=entry.id, weight=0.0))
    return request.model_copy(update={"mix": tuple(parts.values())})


def _check_axes(context: Context, request: Request, entries: Mapping[str, Entry]) -> None:
    """Refuse a grid that can't be, before it is queued."""
    if request.compare:
        raise ConfigError("a grid isn't compared; turn the comparison off, or vary the weight from 0")
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
        entry = _found(context, tag.name)
        there = parts.get(entry.id)
        if there is None or not there.on:
            there = MixPart(id=entry.id, weight=0.0)
        parts[entry.id] = _added(there, tag.weight, tag.text_weight, entry.name)
    generation = generation_config(**{**request.generation.model_dump(), "prompt": prompt})
    return request.model_copy(update={"generation": generation, "mix": tuple(parts.values())})


def _found(context: Context, name: str) -> Entry:
    """The library's adapter of that name or id. Raises: AdapterError where there is none."""
    entry = context.library.find(name)
    if entry is None:
        names = [one.short for one in context.library.entries()]
        raise AdapterError(f"no adapter {name!r} in the library{nearest(name, names)}")
    return entry


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
    if taken := context.runner.turns.elsewhere(context.workspace):
        return taken
    for job in context.jobs.find(states=("running",), limit=20):
        kind = KINDS.get(job.kind)
        if kind is None or not kind.device or not kind.run:
            continue
        left = context.run_log(job).seconds_left if job.kind == "train" else None
        about = f", about {round(left / 60) or 1} min left" if left else ""
        return f"“{job.title}” {kind.doing}{about}"
    return ""
