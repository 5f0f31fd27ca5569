"""From what the Mix tab holds to a drawing job. No Gradio in here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from pipelines.errors import AdapterError, ConfigError, nearest
from pipelines.generate import GenerationConfig
from studio.context import Context
from studio.jobs import Job

WEIGHT_RANGE = (-1.0, 2.0)
MAX_ADAPTERS = 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks to be drawn.

    Attributes:
        weights: by adapter id; those at 0 are left out.
        seed: None picks one.
        compare: also draw the same seeds without adapters.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    num_inference_steps: int = 20
    guidance_scale: float = 3.0
    num_images: int = 1
    sampler: str = "ddim"
    weights: Mapping[str, float]
    compare: bool = False


def new_seed() -> int:
    """A random seed of at most ten digits."""
    return random.randrange(2**31)


def generation_config(request: Request) -> GenerationConfig:
    """The validated settings of a request.

    Raises:
        ConfigError: one line for the first mistake.
    """
    if not request.prompt.strip():
        raise ConfigError("the prompt is empty; say what the picture should show, such as “a photo of a cat”")
    seed = new_seed() if request.seed is None else request.seed
    try:
        return GenerationConfig(
            prompt=" ".join(request.prompt.split()),
            negative_prompt=" ".join(request.negative_prompt.split()),
            seed=seed,
            num_images=request.num_images,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            sampler=request.sampler,
        )
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        name = str(mistake["loc"][0])
        title = GenerationConfig.model_fields[name].title or name
        wanted = str(mistake["msg"]).removeprefix("Input should be ")
        raise ConfigError(f"{title} is {mistake['input']!r}, expected {wanted}; change it") from None


def start(context: Context, request: Request) -> Job:
    """Queue the drawing of a request.

    Raises:
        StudioError: what is wrong with it; then nothing has been queued.
    """
    low, high = WEIGHT_RANGE
    request = _without_tags(context, request)
    used = {key: float(weight) for key, weight in request.weights.items() if float(weight) != 0}
    if len(used) > MAX_ADAPTERS:
        raise AdapterError(f"{len(used)} adapters are in the mix, at most {MAX_ADAPTERS} fit; set some to 0")
    for key, weight in used.items():
        entry = context.library.get(key)
        if not low <= weight <= high:
            raise AdapterError(
                f"weight of {entry.name!r} is {weight:g}, expected {low:g} to {high:g}; move its slider"
            )
    generation = generation_config(request)
    config: dict[str, Any] = {
        "base": context.base,
        "generation": generation.model_dump(mode="json", exclude={"adapters"}),
        "weights": used,
        "compare": request.compare,
    }
    job = context.jobs.submit("generate", generation.prompt[:80], config)
    context.runner.wake()
    return job


def _without_tags(context: Context, request: Request) -> Request:
    """Turn the prompt's `<lora:name:0.8>` into weights, which add to those of the sliders.

    Raises:
        AdapterError: for a name that the library doesn't have, or a weight of the text encoders alone.
    """
    from pipelines.prompts import split_tags

    prompt, tags = split_tags(request.prompt)
    weights = dict(request.weights)
    for tag in tags:
        entry = context.library.find(tag.name)
        if entry is None:
            names = [one.short for one in context.library.entries()]
            raise AdapterError(f"no adapter {tag.name!r} in the library{nearest(tag.name, names)}")
        if tag.text_weight not in (None, tag.weight):
            raise AdapterError(
                f"<lora:{tag.name}:…> has two weights, the page takes one; use pigment generate for more"
            )
        weights[entry.id] = weights.get(entry.id, 0.0) + tag.weight
    return replace(request, prompt=prompt, weights=weights) if tags else request


def waiting_for(context: Context, job: Job) -> str:
    """Why a queued job hasn't begun, in words; empty when nothing is in its way."""
    running = context.jobs.find(states=("running",), limit=1)
    if job.state != "queued" or not running:
        return ""
    if running[0].kind == "train":
        left = context.run_log(running[0]).seconds_left
        about = f", about {round(left / 60) or 1} min left" if left else ""
        return f"Waiting: “{running[0].title}” is being taught{about}. The pictures come after it."
    return "Waiting for the pictures before these"
