"""Teach: from pictures to an adapter. What is shown of a run is read from the workspace at every tick."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from pipelines.errors import ConfigError, StudioError
from studio import forms, markup, teaching, widgets
from studio.context import Context
from studio.examples import example_sets
from studio.markup import text
from studio.tabs.page import BUSY, QUIET, Page, show, toast
from trainers import wording
from trainers.config import PRESET_NAMES

PRESET_HINTS = {"sketch": "a first look", "standard": "good for most", "thorough": "slow and careful"}


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    parts: dict[str, Any] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            _pictures(context, parts)
            _words(parts)
            _how(parts)
        with gr.Column(scale=5, min_width=320):
            run = widgets.part("run", elem_id="run")
    _listen_to_form(context, parts)
    parts["start"].click(toast(_starter(context, parts)), set(parts["inputs"]), run, **BUSY).success(
        None, js=show("run"), **QUIET
    )
    parts["check"].click(toast(_checker(context, parts)), set(parts["inputs"]), parts["findings"], **BUSY)
    run.click(toast(_acting(context)), None, [run, page.wish, page.tabs], **QUIET)


def _pictures(context: Context, parts: dict[str, Any]) -> None:
    gr.HTML(
        '<div class="pg-step"><b>1</b>Pictures <small>start with an example, or drop your own</small></div>'
    )
    sets = example_sets()
    parts["sets"] = gr.HTML(
        _set_cards(), js_on_load=markup.CLICKS, visible=bool(sets), elem_id="example-sets"
    )
    parts["gallery"] = gr.Gallery(
        label="Drop 5 to 30 pictures here", file_types=["image"], columns=5, height=200, object_fit="cover",
        interactive=True, type="filepath", sources=["upload"], buttons=[], elem_id="pictures",
        allow_preview=False,
    )  # fmt: skip
    parts["refused"] = gr.HTML(visible=False)
    with gr.Accordion("Captions", open=False, elem_id="captions-box"):
        parts["captions"] = gr.Textbox(
            label="One line per picture, in their order", lines=3, max_lines=12, elem_id="captions",
            info="What each picture shows, with the trigger in it. Empty: the prompt of them all.",
        )  # fmt: skip


def _set_cards() -> str:
    cards = []
    for one in example_sets():
        thumbs = "".join(
            f'<img src="{markup.url("example", one.id, str(n))}" alt="" loading="lazy">'
            for n in range(min(4, len(one.pictures)))
        )
        cards.append(
            f'<button type="button" class="pg-set" data-act="example" data-id="{text(one.id)}">'
            f'<span class="thumbs">{thumbs}</span><b>{text(one.title)}</b>'
            f"<small>{text(one.kind)}, {len(one.pictures)} pictures</small></button>"
        )
    return f'<div class="pg-sets">{"".join(cards)}</div>'


def _words(parts: dict[str, Any]) -> None:
    gr.HTML('<div class="pg-step"><b>2</b>What do they show?</div>')
    parts["kind"] = gr.Radio(
        [("A subject: one thing, creature, person", "subject"), ("A style: a way of drawing", "style")],
        value="subject", show_label=False, container=False, elem_id="kind",
    )  # fmt: skip
    with gr.Row():
        parts["trigger"] = gr.Textbox(
            label="Trigger", placeholder="zib", info="A new word you will call it by.", max_length=100,
            elem_id="trigger", min_width=140,
        )  # fmt: skip
        parts["class_name"] = gr.Textbox(
            label="What is it?", placeholder="creature", info="Its kind, in a word or two.", max_length=100,
            elem_id="class-name", min_width=140,
        )  # fmt: skip
    parts["spoken"] = gr.HTML()


def _how(parts: dict[str, Any]) -> None:
    gr.HTML('<div class="pg-step"><b>3</b>How thoroughly?</div>')
    choices = [
        (f"{name.capitalize()}{': ' + PRESET_HINTS[name] if name in PRESET_HINTS else ''}", name)
        for name in PRESET_NAMES
    ]
    parts["preset"] = gr.Radio(
        choices, value=PRESET_NAMES[0], show_label=False, container=False, elem_id="preset"
    )
    config = teaching.example_config(PRESET_NAMES[0], "subject")
    parts["advanced"] = {}
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        parts["name"] = gr.Textbox(
            label="Name of the adapter", placeholder="as the trigger", max_length=80, elem_id="name"
        )
        for section, title, specs in teaching.advanced_sections():
            with (
                gr.Accordion(title, open=False, elem_id=f"advanced-{section}"),
                gr.Column(elem_classes=["pg-fields"]),
            ):
                for spec in specs:
                    prompt = spec.path in ("data.instance_prompt", "data.class_prompt")
                    value = "" if prompt else forms.show(spec, forms.get_value(config, spec.path))
                    parts["advanced"][spec.path] = forms.component(spec, value)
                    if prompt:
                        parts["advanced"][spec.path].placeholder = "made from the words above"
    with gr.Row():
        parts["check"] = gr.Button("Check the pictures", size="lg", elem_id="check", min_width=140)
        parts["start"] = gr.Button(
            "Start teaching", variant="primary", size="lg", elem_id="start", min_width=140
        )
    parts["findings"] = gr.HTML(visible=False, elem_id="findings")
    parts["inputs"] = [
        parts[name] for name in ("gallery", "captions", "kind", "trigger", "class_name", "preset", "name")
    ] + list(parts["advanced"].values())


def _listen_to_form(context: Context, parts: dict[str, Any]) -> None:
    advanced = parts["advanced"]
    preset_parts = {path: part for path, part in advanced.items() if path in teaching.PRESET_FIELDS}
    words = [parts["kind"], parts["trigger"], parts["class_name"]]
    specs = {spec.path: spec for _, _, group in teaching.advanced_sections() for spec in group}

    def choose(event: gr.EventData) -> list[Any]:
        """Fill everything from an example set."""
        one = next(found for found in example_sets() if found.id == event.id)
        pictures = [str(_served(context, path)) for path in one.pictures]
        captions = "\n".join(one.captions.get(path.name, "") for path in one.pictures)
        name = one.title.partition(",")[0].partition(":")[0].strip()
        # Prompts that the words give anyway stay empty, so that they follow when the words are changed.
        said = (one.instance_prompt, one.class_prompt)
        made = wording.prompts(one.kind, one.trigger, one.class_name)
        own = ["" if a == b else a for a, b in zip(said, made, strict=True)]
        return [pictures, captions.rstrip("\n"), one.kind, one.trigger, one.class_name, name, *own,
                gr.HTML(visible=False)]  # fmt: skip

    def uploaded(gallery: list[tuple[str, str | None]] | None) -> list[Any]:
        """Keep the readable pictures, say what is wrong with the others."""
        pairs = gallery or []
        good, refused = teaching.check_pictures([Path(path) for path, _ in pairs])
        note = "".join(f'<div class="pg-note">{text(line)}</div>' for line in refused)
        kept = [path for path, _ in pairs if Path(path) in good]
        return [kept if refused else gr.skip(), gr.HTML(note, visible=bool(refused)), "", ""]

    def spoken(kind: str, trigger: str, class_name: str) -> list[Any]:
        """Say how the adapter will be called, and ask for a class only where it helps."""
        word = " ".join(trigger.split()) or "…"
        said = wording.prompts(kind, word, " ".join(class_name.split()))[0]
        hint = f'<p class="pg-hint">You will call it with “<b>{text(said)}</b>”.</p>'
        return [hint, gr.Textbox(visible=kind == "subject")]

    def preset_changed(preset: str, kind: str) -> list[Any]:
        config = teaching.example_config(preset, kind)
        return [forms.show(specs[path], forms.get_value(config, path)) for path in preset_parts]

    prompt_parts = [advanced["data.instance_prompt"], advanced["data.class_prompt"]]
    parts["sets"].click(
        toast(choose), None,
        [parts[name] for name in ("gallery", "captions", "kind", "trigger", "class_name", "name")]
        + prompt_parts
        + [parts["refused"]],
        **BUSY,
    )  # fmt: skip
    parts["gallery"].upload(
        toast(uploaded), parts["gallery"], [parts["gallery"], parts["refused"], *prompt_parts], **BUSY
    )
    for part in words:
        part.change(toast(spoken), words, [parts["spoken"], parts["class_name"]], **QUIET)
    for part in (parts["preset"], parts["kind"]):
        part.change(
            toast(preset_changed), [parts["preset"], parts["kind"]], list(preset_parts.values()), **QUIET
        )


def _served(context: Context, path: Path) -> Path:
    """A copy of an example picture where Gradio may serve it from."""
    from studio.library import copy_file

    target = context.workspace.uploads / "examples" / path.parent.name / path.name
    if not target.is_file() or target.stat().st_size != path.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path, target)
    return target


def _lesson(parts: dict[str, Any], values: dict[Any, Any]) -> teaching.Lesson:
    """What the form holds. Raises: ConfigError where captions and pictures don't go together."""
    return teaching.Lesson(
        pictures=teaching.captioned(
            [Path(path) for path, _ in values[parts["gallery"]] or []], values[parts["captions"]] or ""
        ),
        kind=values[parts["kind"]],
        trigger=values[parts["trigger"]] or "",
        class_name=values[parts["class_name"]] or "",
        preset=values[parts["preset"]],
        name=values[parts["name"]] or "",
        advanced={path: values[part] for path, part in parts["advanced"].items()},
    )


def _starter(context: Context, parts: dict[str, Any]) -> Callable[..., Any]:
    def start_teaching(values: dict[Any, Any]) -> dict[str, str]:
        """Queue the job that the form describes."""
        return {"part": "run", "key": teaching.start(context, _lesson(parts, values)).id}

    return start_teaching


def _checker(context: Context, parts: dict[str, Any]) -> Callable[..., Any]:
    def check_pictures(values: dict[Any, Any]) -> Any:
        """Say what the dataset doctor finds."""
        lines = teaching.look_over(context, _lesson(parts, values))
        notes = "".join(f'<div class="pg-note">{text(line)}</div>' for line in lines)
        return gr.HTML(notes or '<p class="pg-hint">Nothing to mend.</p>', visible=True)

    return check_pictures


def _acting(context: Context) -> Callable[..., Any]:
    def act(event: gr.EventData) -> list[Any]:
        """A button on the run's card: stop, resume, mix, show."""
        verb, job_id = str(event.act), str(event.id)
        shown, wish, tab = gr.skip(), gr.skip(), gr.skip()
        job = context.jobs.get(job_id)
        if verb == "stop":
            context.jobs.stop(job_id)
        elif verb == "resume":
            context.jobs.resume(job_id)
            context.runner.wake()
        elif verb == "show":
            shown = {"part": "run", "key": job_id}
        elif verb == "mix":
            adapter = job.result.get("adapter")
            if not adapter:
                raise ConfigError(f"run {job.title!r} has made no adapter; resume it first")
            wish = {"adapter": adapter, "prompt": job.details.get("prompt", ""), "at": time.time()}
            tab = gr.Tabs(selected="mix")
        else:
            raise StudioError(f"unknown action {verb!r}; reload the page")
        return [shown, wish, tab]

    return act
