"""A1111's `parameters` text and its kin (Forge, SD.Next, Civitai, Fooocus …), read as settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pipelines.drawing.hires import upscaler_named
from pipelines.errors import ConfigError, PictureError
from pipelines.parameters.lines import take_apart
from pipelines.parameters.restored import (
    MAX_TEXT,
    AdapterHint,
    Gathered,
    Restored,
    integer,
    number,
    stem,
)
from pipelines.prompts import split_tags, without_choices
from pipelines.samplers import SAMPLERS

_TAG = re.compile(r"<(?:lora|lyco):[^>]*>")
_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*")

# Their name, without case → the field and how its value is read.
_PLAIN: dict[str, tuple[str, Callable[[str], Any]]] = {
    "steps": ("num_inference_steps", integer),
    "cfg scale": ("guidance_scale", number),
    "cfg": ("guidance_scale", number),
    "guidance scale": ("guidance_scale", number),
    "guidance": ("guidance_scale", number),
    "cfg rescale": ("guidance_rescale", number),
    "cfg rescale phi": ("guidance_rescale", number),
    "cfg rescale φ": ("guidance_rescale", number),
    "guidance rescale": ("guidance_rescale", number),
    "seed": ("seed", integer),
    "width": ("width", integer),
    "height": ("height", integer),
    "clip skip": ("clip_skip", integer),
    "mask blur": ("mask_blur", number),
    "hires upscale": ("hires_scale", number),
}
# Looked at together, see below.
_TOGETHER = {
    "sampler", "sampler name", "schedule type", "scheduler", "size", "model", "base model", "model hash",
    "base model hash", "vae", "denoising strength", "hires steps", "hires upscaler", "hires resize",
    "first pass size", "inpaint area", "masked area padding", "mask mode", "lora hashes", "lora weights",
    "hires denoising strength", "eta", "eta ddim", "rng",
}  # fmt: skip


def parse_a1111(text: str) -> Restored:
    """Read A1111's text: a prompt is there always, settings where they are written.

    Adapters are taken out of the prompt. Values that can't be used are left over, never guessed.
    Raises: PictureError for a text of more than a million characters.
    Source: A1111 web UI, `modules/infotext_utils.py`, whose reading this follows where a text is whole.
    """
    if len(text) > MAX_TEXT:
        raise PictureError(f"the settings' text has {len(text)} characters, expected at most {MAX_TEXT}")
    parts = take_apart(text)
    gathered = Gathered("a1111")
    tags = _adapters(gathered, parts.prompt)
    gathered.put("negative_prompt", without_choices(parts.negative), "Negative prompt")
    known: dict[str, str] = {}
    for key, value in parts.settings.items():
        name = key.casefold().strip()
        if name in _TOGETHER:
            known[name] = value
        elif name in _PLAIN:
            target, read = _PLAIN[name]
            _put(gathered, target, read(value), key, value)
        else:
            gathered.leave(key, value)
    _size(gathered, known)
    _sampler(gathered, known)
    _base(gathered, known)
    _second_pass(gathered, known)
    _mask(gathered, known)
    _hashes(gathered, known, tags)
    return gathered.done()


def _put(gathered: Gathered, target: str, value: Any, key: str, text: str) -> None:
    """Set a field, or leave its text over."""
    if value is None or not gathered.put(target, value, key):
        gathered.leave(key, text)


def _adapters(gathered: Gathered, prompt: str) -> bool:
    """Take the adapters out of the prompt; say whether there were any tags."""
    found = _TAG.findall(prompt)
    for tag in found:
        try:
            (read,) = split_tags(tag)[1]
        except ConfigError:
            gathered.leave(tag, "a tag that can't be read")
            continue
        gathered.adapters.append(AdapterHint(read.name, None, read.weight, read.text_weight))
    rest = _TAG.sub("", prompt).strip() if found else prompt
    gathered.put("prompt", without_choices(rest), "Prompt")
    return bool(found)


def _size(gathered: Gathered, known: dict[str, str]) -> None:
    """Set the first pass's size. Old texts give the last one as Size, and the first beside it."""
    size, first = known.pop("size", ""), _SIZE.fullmatch(known.get("first pass size", ""))
    sides = _SIZE.fullmatch(size)
    if sides is None:
        if size:
            gathered.leave("Size", size)
        return
    width, height = int(sides[1]), int(sides[2])
    if first and int(first[1]) and int(first[2]) and width * int(first[2]) == height * int(first[1]):
        known.pop("first pass size")
        gathered.put("hires_scale", width / int(first[1]), "First pass size")
        width, height = int(first[1]), int(first[2])
    for name, side in (("width", width), ("height", height)):
        if not gathered.put(name, side, "Size"):
            gathered.leave("Size", size)


def _sampler(gathered: Gathered, known: dict[str, str]) -> None:
    name = known.pop("sampler", "") or known.pop("sampler name", "")
    schedule = known.pop("schedule type", "") or known.pop("scheduler", "")
    if not name and schedule:  # tools that call the sampler so
        name, schedule = schedule, ""
    if name:
        gathered.put_sampler(name, schedule, "Sampler")
    # "Eta DDIM" is DDIM's; "Eta" that of ancestral samplers, in old texts DDIM's too.
    takes = SAMPLERS[gathered.fields.get("sampler", "ddim")].eta
    for key in ("Eta DDIM", "Eta"):
        if (value := known.pop(key.casefold(), "")) and takes:
            _put(gathered, "eta", number(value), key, value)
        elif value:
            gathered.leave(key, value)
    if known.get("rng", "").upper() == "CPU":  # as noise is drawn here
        known.pop("rng")


def _base(gathered: Gathered, known: dict[str, str]) -> None:
    gathered.base["name"] = stem(known.pop("model", "") or known.pop("base model", ""))
    gathered.base["hash"] = (known.pop("model hash", "") or known.pop("base model hash", "")).strip().lower()
    vae = known.pop("vae", "").strip()
    if vae.casefold() not in ("", "none", "automatic", "default", "default (model)"):
        gathered.base["vae"] = stem(vae)


def _second_pass(gathered: Gathered, known: dict[str, str]) -> None:
    """Set what belongs to hires and to image-to-image; A1111 has one strength for both."""
    target = _SIZE.fullmatch(known.get("hires resize", ""))
    width, height = gathered.fields.get("width"), gathered.fields.get("height")
    if target and int(target[1]) == int(target[2]) == 0:
        known.pop("hires resize")
    elif target and width and height:
        scales = {int(target[1]) / width, int(target[2]) / height} - {0.0}  # 0: as the other side
        if len(scales) == 1 and "hires_scale" not in gathered.fields:
            gathered.put("hires_scale", scales.pop(), "Hires resize")
            known.pop("hires resize")
    hires = "hires_scale" in gathered.fields
    strength = known.pop("hires denoising strength", "") if hires else ""
    strength = strength or known.pop("denoising strength", "")
    if strength:
        name = "hires_strength" if hires else "strength"
        _put(gathered, name, number(strength), "Denoising strength", strength)
    steps = known.pop("hires steps", "")
    if steps and integer(steps) != 0:
        _put(gathered, "hires_steps", integer(steps), "Hires steps", steps)
    upscaler = known.pop("hires upscaler", "")
    if upscaler:
        _put(gathered, "hires_upscaler", upscaler_named(upscaler), "Hires upscaler", upscaler)


def _mask(gathered: Gathered, known: dict[str, str]) -> None:
    area, padding = known.pop("inpaint area", ""), known.pop("masked area padding", "")
    if area.casefold().startswith("only masked"):
        _put(gathered, "mask_padding", integer(padding) if padding else 32, "Masked area padding", padding)
    mode = known.pop("mask mode", "")
    if mode.casefold() == "inpaint not masked":
        gathered.put("mask_invert", True, "Mask mode")


def _hashes(gathered: Gathered, known: dict[str, str], tags: bool) -> None:
    """Give the adapters their checksums, and add those that are named in no tag but with a weight."""
    weights = _named(known.pop("lora weights", ""))
    said = known.pop("lora hashes", "")
    hashes = {name: value.split(":")[0].strip().lower() for name, value in _named(said).items()}
    listed = _json(gathered.left_over.get("Hashes", ""))
    if isinstance(listed, dict):
        for name, value in listed.items():
            if name.casefold().startswith("lora:"):
                hashes.setdefault(name[5:].strip(), str(value).lower())
            elif name.casefold() == "model" and not gathered.base.get("hash"):
                gathered.base["hash"] = str(value).lower()
    names = {hint.name for hint in gathered.adapters}
    for name, value in weights.items():
        weight = number(value)
        if name not in names and weight is not None:
            gathered.adapters.append(AdapterHint(name, None, weight))
    resources = _json(gathered.left_over.get("Civitai resources", ""))
    if isinstance(resources, list):
        _civitai(gathered, resources, adapters=not tags and not gathered.adapters)
    gathered.adapters = [
        AdapterHint(hint.name, hashes.pop(hint.name, hint.hash), hint.weight, hint.text_weight)
        for hint in gathered.adapters
    ]
    if hashes and said:
        gathered.leave("Lora hashes", ", ".join(f"{name}: {value}" for name, value in hashes.items()))
    for name, value in known.items():
        gathered.leave("RNG" if name == "rng" else name.capitalize(), value)


def _civitai(gathered: Gathered, resources: list[Any], *, adapters: bool) -> None:
    """Take the base's name from Civitai's list, and the adapters where nothing else names them."""
    for resource in resources[:100]:
        if not isinstance(resource, dict) or not isinstance(resource.get("modelName"), str):
            continue
        kind, weight = resource.get("type"), resource.get("weight", 1.0)
        if kind == "checkpoint" and not gathered.base.get("name"):
            gathered.base["name"] = resource["modelName"]
        elif kind in ("lora", "lycoris", "locon", "dora") and adapters and isinstance(weight, int | float):
            gathered.adapters.append(AdapterHint(resource["modelName"], None, float(weight)))


def _named(text: str) -> dict[str, str]:
    """Read `name: value, name: value`; a name may hold colons no more than A1111 writes them: none."""
    pairs = (item.split(":", 1) for item in text.strip().strip('"').split(",") if ":" in item)
    return {name.strip(): value.strip() for name, value in pairs}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
