"""Mix: a rack of adapters, a prompt, a picture that follows. The widgets' scripts hold what is asked for
(js/mix.js) and go to the server's routes by themselves (routes/mix.py, routes/live.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from pipelines.axes import AXES
from pipelines.drawing.hires import UPSCALERS
from pipelines.errors import AdapterError
from pipelines.generation import GenerationConfig
from pipelines.samplers import SAMPLERS
from studio import forms, widgets
from studio.context import Context
from studio.examples import example_sets
from studio.tabs.page import QUIET, Page, toast

BASIC = ("num_images", "width", "height", "num_inference_steps", "guidance_scale", "sampler", "seed")
OVER = ("strength", "mask_blur", "mask_padding", "mask_invert")
"""Fields that act only where something is drawn over."""
WORDS = ("prompt", "negative_prompt")

LABELS: dict[str, dict[str, str]] = {
    "sampler": {name: row.label for name, row in SAMPLERS.items()},
    "hires_upscaler": {name: row.label for name, row in UPSCALERS.items()},
}
"""What the values of a choice are called."""
PLACEHOLDERS = {
    "prompt": "a photo of a fox in the snow",
    "negative_prompt": "nothing in particular",
    "width": "as the base",
    "height": "as the base",
}
OWN_WIDGETS = ("adapters", "image", "mask", "controls", "image_prompt")
"""What is chosen in widgets of its own, or by the command line alone."""
NO_AXES = ("text_weight", "base")
"""Axes that the page leaves to the command line and the API."""
FIRST_AXES = ("weight", "adapter", "seed", "num_inference_steps", "guidance_scale")
AXIS_LABELS = {
    "weight": "Weight", "adapter": "Checkpoint, or another adapter", "prompt": "Words of the prompt",
    "sampler": "Sampler",
}  # fmt: skip
AXIS_HINTS = {"prompt": "cat, dog, fox (the first stands in the prompt)", "sampler": "DDIM, Euler a"}
FIRST = {"teapot": 1.0, "blueprint": 0.8}
"""The example sets whose adapters are in the rack at the first visit: a subject, a style; their weights."""
FIRST_SEED = 5


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    with gr.Row(equal_height=False, elem_classes=["pg-mix"]):
        with gr.Column(scale=5, min_width=320, elem_classes=["pg-mix-side"]):
            for name, elem_id in zip(WORDS, ("prompt", "negative"), strict=True):
                _fields([name], elem_id=elem_id)
            gr.HTML('<h2 class="pg-step">Adapters <small>0 leaves one out, 1 is as taught</small></h2>')
            rack = widgets.widget("rack", {"start": _start(context)}, elem_id="rack")
            widgets.widget("picker", {}, elem_id="picker")
            gr.HTML('<h2 class="pg-step">Picture</h2>')
            _fields(BASIC, elem_id="settings", layout="tight")
            _fields(
                _others(), elem_id="more", fold="More settings",
                check=[["compare", "Draw the same seeds without adapters too"]],
            )  # fmt: skip
            widgets.widget("over", {}, elem_id="over")
            _fields(OVER, elem_id="over-fields", layout="tight")
            widgets.widget("grid", {"kinds": axis_kinds()}, elem_id="grid-box")
            widgets.widget("recipes", {}, elem_id="recipes-box")
        with gr.Column(scale=6, min_width=320, elem_classes=["pg-mix-main"]):
            widgets.widget("live", {}, elem_id="live")
            drawn = widgets.part("drawn", elem_id="drawn")
    page.wish.change(_granted, page.wish, rack, **QUIET)
    drawn.click(toast(_stop(context)), None, None, **QUIET)


def specs(names: Iterable[str]) -> list[dict[str, Any]]:
    """What js/fields.js needs to know of settings, out of the config's own metadata."""
    found = []
    for name in names:
        info = GenerationConfig.model_fields[name]
        spec = forms.spec_of(name, info)
        labels = LABELS.get(name) or {value: str(value) for value in spec.choices}
        needs = "" if name not in OVER else "image" if name == "strength" else "mask"
        found.append({
            "name": name, "kind": "choice" if labels else spec.kind, "label": spec.label, "help": spec.help,
            "optional": spec.optional, "minimum": spec.minimum, "maximum": spec.maximum,
            "choices": list(labels.items()), "placeholder": PLACEHOLDERS.get(name, ""), "needs": needs,
            "value": "" if name in WORDS else info.get_default(), "rows": 2 if name == "prompt" else 1,
        })  # fmt: skip
    return found


def _fields(names: Iterable[str], *, elem_id: str, **more: Any) -> None:
    widgets.widget("fields", {"specs": specs(names), **more}, elem_id=elem_id)


def _others() -> list[str]:
    """Every other setting."""
    told = (*WORDS, *BASIC, *OVER, *OWN_WIDGETS)
    return [name for name in GenerationConfig.model_fields if name not in told]


def axis_kinds() -> list[dict[str, Any]]:
    """What a grid can vary, the usual first."""
    names = [*FIRST_AXES, *(name for name in AXES if name not in (*FIRST_AXES, *NO_AXES))]
    return [
        {
            "id": name, "label": AXIS_LABELS.get(name) or AXES[name].label or name,
            "about": AXES[name].description, "target": AXES[name].target,
            "hint": AXIS_HINTS.get(name, "1, 2, 5 or 0:1:0.25"),
        }
        for name in names
    ]  # fmt: skip


def _start(context: Context) -> dict[str, Any]:
    """What somebody who comes for the first time finds: an example subject, and a style to pull at."""
    sets = {one.id: one for one in example_sets()}
    if not all(name in sets and _here(context, f"example-{name}") for name in FIRST):
        return {}
    subject, style = (sets[name] for name in FIRST)
    whole: dict[str, Any] = {"text": None, "blocks": {}, "begin": 0.0, "end": 0.0, "on": True}
    mix = [{"id": f"example-{name}", "weight": weight, **whole} for name, weight in FIRST.items()]
    prompt = f"a picture of a {subject.trigger} {subject.class_name} in {style.trigger} style"
    return {"mix": mix, "generation": {"prompt": prompt, "seed": FIRST_SEED}}


def _here(context: Context, adapter_id: str) -> bool:
    try:
        return context.library.get(adapter_id).trashed is None
    except AdapterError:
        return False


def _granted(wish: dict[str, Any]) -> Any:
    """Hand what another tab asked for to the rack."""
    return {"wish": wish} if wish else gr.skip()


def _stop(context: Context) -> Callable[..., None]:
    def stop(event: gr.EventData) -> None:
        context.jobs.stop(str(event.id))

    return stop
