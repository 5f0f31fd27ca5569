"""A picture's settings as A1111 writes them, for the tools that read its text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.parameters.restored import stem
from pipelines.samplers import SAMPLERS, sampler_named

SCHEDULES = ("Karras", "Exponential", "SGM Uniform", "Beta")
"""A1111's schedule types that may end a sampler's label."""


def a1111_parameters(settings: Mapping[str, Any]) -> str:
    """Return the settings as A1111 1.9 and Forge write them under `parameters`.

    settings: of version 1 or 2. Adapters follow the prompt as <lora:name:weight>, or <lora:name:text
    weight:UNet weight>; what A1111 has no words for isn't written (Pigment's own JSON has everything).
    """
    generation = settings["generation"]
    tags = "".join(f" <lora:{_plain(use['name'])}:{_weights(use)}>" for use in generation["adapters"])
    lines = [generation["prompt"] + tags]
    if generation["negative_prompt"]:
        lines.append(f"Negative prompt: {generation['negative_prompt']}")
    fields = {**_first_pass(generation), **_base(settings["base"]), **_further(generation)}
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in fields.items()))
    return "\n".join(lines)


def _first_pass(generation: Mapping[str, Any]) -> dict[str, Any]:
    sampler, schedule = split_label(generation["sampler"])
    return {
        "Steps": generation["num_inference_steps"],
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{generation['guidance_scale']:g}",
        "Seed": generation["seed"],
        "Size": f"{generation['width']}x{generation['height']}",
    }


def split_label(sampler: str) -> tuple[str, str]:
    """Return A1111's Sampler and Schedule type of a row of SAMPLERS.

    "Automatic" is written where A1111 takes that row for it, "Uniform" where it would take another.
    """
    label = SAMPLERS[sampler].label
    for schedule in SCHEDULES:
        if label.endswith(f" {schedule}"):
            return label.removesuffix(f" {schedule}"), schedule
    return label, "Automatic" if sampler_named(f"{label} Automatic") in (None, sampler) else "Uniform"


def _base(base: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"Model hash": base["sha256"][:10], "Model": stem(base["ref"].rstrip("/\\"))}
    if base.get("vae"):
        vae = base["vae"]
        fields["VAE"] = _name(str(vae.get("ref", "")) if isinstance(vae, Mapping) else str(vae))
    return fields


def _name(ref: str) -> str:
    return ref.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _further(generation: Mapping[str, Any]) -> dict[str, Any]:
    """What is written only where it isn't A1111's default."""
    fields: dict[str, Any] = {}
    hires = generation.get("hires_scale", 1) > 1
    if hires or generation.get("image"):
        fields["Denoising strength"] = f"{generation['hires_strength' if hires else 'strength']:g}"
    if (generation.get("clip_skip") or 1) > 1:
        fields["Clip skip"] = generation["clip_skip"]
    if generation.get("eta"):
        fields["Eta DDIM"] = f"{generation['eta']:g}"
    if generation.get("guidance_rescale"):
        fields["CFG Rescale"] = f"{generation['guidance_rescale']:g}"
    fields["RNG"] = "CPU"
    if generation.get("mask"):
        fields |= _mask(generation)
    if hires:
        fields["Hires upscale"] = f"{generation['hires_scale']:g}"
        if generation["hires_steps"]:
            fields["Hires steps"] = generation["hires_steps"]
        fields["Hires upscaler"] = _upscaler(generation["hires_upscaler"])
    for index, control in enumerate(generation.get("controls") or ()):
        fields[f"ControlNet {index}"] = ", ".join(
            (
                "Module: none",
                f"Model: {_name(control['ref'])}",
                f"Weight: {control['weight']:g}",
                f"Guidance Start: {control['begin']:g}",
                f"Guidance End: {control['end']:g}",
            )
        )
    if generation["adapters"]:
        hashes = (f"{_plain(use['name'])}: {use['sha256'][:12]}" for use in generation["adapters"])
        fields["Lora hashes"] = ", ".join(hashes)
    return fields


def _upscaler(key: str) -> str:
    from pipelines.drawing.hires import UPSCALERS

    return UPSCALERS[key].label


def _mask(generation: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"Mask blur": f"{generation['mask_blur']:g}"}
    if generation.get("mask_invert"):
        fields["Mask mode"] = "Inpaint not masked"
    if generation.get("mask_padding") is not None:
        fields |= {"Inpaint area": "Only masked", "Masked area padding": generation["mask_padding"]}
    return fields


def _weights(use: Mapping[str, Any]) -> str:
    if use.get("text_weight") is None:
        return f"{use['weight']:g}"
    return f"{use['text_weight']:g}:{use['weight']:g}"


def _plain(name: str) -> str:
    """A name as A1111 can read it in a tag and among checksums: without what parts them."""
    return re.sub(r"\s+", " ", re.sub(r"[:,<>]", "", name)).strip() or "adapter"


def _quoted(value: str) -> str:
    """Quote a value as A1111 does, where it holds a comma, a colon or a line's end."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ",:\n") else value
