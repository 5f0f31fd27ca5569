"""Mix: a slider per adapter, a prompt, pictures. The pictures are drawn by a job, so a reload loses none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from pipelines.samplers import SAMPLERS
from studio import markup, mixing
from studio.context import Context
from studio.library import Entry
from studio.tabs import drawn
from studio.tabs.page import BUSY, QUIET, Page, show, toast

TICK, REST = 0.5, 4.0  # seconds between two looks at the pictures


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    weights = gr.State({})
    rack_turn = gr.State(0)  # counts up when the rack must be shown anew, after `weights` is set
    seen = gr.State({})
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            parts = _words()
            gr.HTML('<div class="pg-step">Adapters <small>0 leaves one out, 1 is as taught</small></div>')
            rack = gr.Column(elem_id="rack")
            parts.update(_settings())
            generate = gr.Button("Generate", variant="primary", size="lg", elem_id="generate")
        with gr.Column(scale=6, min_width=320):
            status = gr.HTML(elem_id="mix-status", js_on_load=markup.CLICKS)
            pictures = gr.HTML(elem_id="mix-pictures")
            earlier = gr.HTML(elem_id="mix-earlier")
    timer = gr.Timer(REST)
    render = toast(_renderer(context))
    pieces = [status, pictures, earlier, seen, timer]

    with rack:

        # One at a time: Gradio keeps a render's ids on the object that all browsers share.
        @gr.render(
            inputs=[weights],
            triggers=[rack_turn.change, page.adapters_changed.change],
            concurrency_limit=1,
            concurrency_id="rack",
        )
        def show_rack(known: dict[str, float]) -> None:
            sliders = _rack(context, known, weights, parts["prompt"])
            event = gr.on(
                [generate.click, parts["prompt"].submit],
                toast(_starter(context, parts, sliders)),
                {*parts.values(), *sliders.values()},
                [seen],
                key="generate",
                **BUSY,
            )
            event.success(render, [seen], pieces, key="after-generate", **QUIET).success(
                None, js=show("mix-status"), key="show-pictures", **QUIET
            )

    page.wish.change(_grant, [page.wish, rack_turn], [weights, parts["prompt"], rack_turn], **QUIET)
    page.blocks.load(
        toast(_remembered(context, list(parts))), None, [rack_turn, weights, *parts.values()], **QUIET
    )
    for moment in (page.blocks.load, timer.tick):
        moment(render, [seen], pieces, **QUIET)
    status.click(toast(_stop(context)), None, None, **QUIET)


def _words() -> dict[str, Any]:
    """The texts, by the names that `mixing.Request` has for them."""
    return {
        "prompt": gr.Textbox(
            interactive=True,
            label="Prompt",
            placeholder="a photo of a fox in the snow",
            lines=2,
            max_lines=6,
            elem_id="prompt",
        ),
        "negative_prompt": gr.Textbox(
            interactive=True,
            label="Not in the picture",
            placeholder="nothing in particular",
            lines=1,
            elem_id="negative",
        ),
    }


def _settings() -> dict[str, Any]:
    """The numbers, by the names that `mixing.Request` has for them."""
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes=["pg-rack-row"]):
        parts["num_images"] = gr.Slider(
            1, 16, value=4, step=1, label="Pictures", interactive=True, min_width=140, buttons=[],
            elem_id="count",
        )  # fmt: skip
        parts["seed"] = gr.Number(
            value=0, precision=0, label="Seed", interactive=True, min_width=100, elem_id="seed"
        )
        another = gr.Button("Other seed", size="sm", min_width=90, scale=0, elem_id="other-seed")
    another.click(mixing.new_seed, None, parts["seed"], **QUIET)
    with gr.Accordion("More settings", open=False):
        with gr.Row():
            parts["num_inference_steps"] = gr.Slider(
                4,
                60,
                value=20,
                step=1,
                label="Steps",
                info="More is finer, slower",
                min_width=140,
                buttons=[],
            )
            parts["guidance_scale"] = gr.Slider(
                1, 12, value=3, step=0.5, label="Guidance", interactive=True,
                info="How strictly the prompt is followed", min_width=140, buttons=[],
            )  # fmt: skip
        parts["sampler"] = gr.Dropdown(
            [(row.label, name) for name, row in SAMPLERS.items()],
            value=next(iter(SAMPLERS)),
            label="Sampler",
            interactive=True,
        )
    parts["compare"] = gr.Checkbox(
        value=False,
        label="Show the same seeds without adapters beside them",
        interactive=True,
        elem_id="compare",
    )
    return parts


def _rack(
    context: Context, known: dict[str, float], weights: gr.State, prompt: gr.Textbox
) -> dict[str, gr.Slider]:
    """One row per adapter; what a slider is moved to is kept in `weights` for the next rendering."""
    entries = context.library.entries()
    if not entries:
        gr.HTML(markup.empty("No adapters yet", "Teach one, or import a .safetensors file in the Library."))
    sliders = {}
    low, high = mixing.MIN_WEIGHT, mixing.MAX_WEIGHT
    for entry in entries:
        with gr.Row(elem_classes=["pg-rack-row"], key=f"row-{entry.id}"):
            sliders[entry.id] = slider = gr.Slider(
                low, high, value=known.get(entry.id, 0.0), step=0.05, label=entry.name, interactive=True,
                key=f"weight-{entry.id}", preserved_by_key=[], min_width=200, scale=5, buttons=[],
                elem_classes=["pg-weight"],
            )  # fmt: skip
            if entry.triggers:
                word = gr.Button(
                    f"+ {entry.triggers[0][:24]}", size="sm", scale=1, min_width=70, key=f"word-{entry.id}",
                    elem_classes=["pg-word"],
                )  # fmt: skip
                word.click(_add_word(entry), prompt, prompt, key=f"say-{entry.id}", **QUIET)
        slider.input(
            _keep(entry.id), [weights, slider], weights,
            key=f"keep-{entry.id}", trigger_mode="always_last", **QUIET,
        )  # fmt: skip
    return sliders


def _add_word(entry: Entry) -> Callable[[str], str]:
    def add_word(prompt: str) -> str:
        """The prompt with the adapter's trigger in it."""
        word = entry.triggers[0]
        if word.casefold() in prompt.casefold():
            return prompt
        return f"{prompt.strip()} {word}".strip()

    return add_word


def _keep(adapter_id: str) -> Callable[[dict[str, float], float], dict[str, float]]:
    def keep(weights: dict[str, float], weight: float) -> dict[str, float]:
        return {**weights, adapter_id: weight}

    return keep


def _grant(wish: dict[str, Any], rack_turn: int) -> list[Any]:
    """What another tab asked for: that adapter alone at 1, its words in the prompt."""
    if not wish:
        return [gr.skip()] * 3
    return [{wish["adapter"]: 1.0}, wish["prompt"], rack_turn + 1]


def _starter(context: Context, parts: dict[str, Any], sliders: dict[str, gr.Slider]) -> Callable[..., Any]:
    def start_drawing(values: dict[Any, Any]) -> dict[str, Any]:
        fields = {name: values[part] for name, part in parts.items()}
        seed = fields.pop("seed")
        compare = bool(fields.pop("compare"))
        generation = mixing.generation_config(**fields, seed=mixing.new_seed() if seed is None else int(seed))
        mix = tuple(
            mixing.MixPart(id=key, weight=values[slider] or 0.0) for key, slider in sliders.items()
        )
        mixing.start(context, mixing.Request(generation=generation, mix=mix, compare=compare))
        return {}

    return start_drawing


def _remembered(context: Context, names: list[str]) -> Callable[[], list[Any]]:
    def remembered() -> list[Any]:
        """The weights and settings of the newest pictures, so that a reload goes on where it was."""
        newest = context.jobs.find(kind="generate", limit=1)
        if not newest:
            return [1, {}, *[gr.skip()] * len(names)]
        config = newest[0].config
        settings = {**config["generation"], "compare": config["compare"]}
        weights = {part["id"]: part["weight"] for part in config["mix"]}
        return [1, weights, *(settings[name] for name in names)]

    return remembered


def _stop(context: Context) -> Callable[..., None]:
    def stop(event: gr.EventData) -> None:
        context.jobs.stop(str(event.id))

    return stop


def _renderer(context: Context) -> Callable[..., Any]:
    def render(seen: dict[str, Any]) -> list[Any]:
        """The pieces that changed since this browser last saw them."""
        newest = context.jobs.find(kind="generate", limit=1)
        job = newest[0] if newest else None
        done = context.jobs.find(kind="generate", states=("done",), limit=1)
        parts = {
            "status": drawn.status(context, job),
            "pictures": drawn.pictures(context, done[0] if done else None),
            "earlier": drawn.earlier(context, done[0] if done else None),
        }
        now: dict[str, Any] = {name: hash(part) for name, part in parts.items()}
        fresh = [
            gr.HTML(part, visible=bool(part)) if seen.get(name) != now[name] else gr.skip()
            for name, part in parts.items()
        ]
        interval = TICK if job is not None and job.active else REST
        timer = gr.Timer(interval) if seen.get("interval") != interval else gr.skip()
        return [*fresh, {**now, "interval": interval}, timer]

    return render
