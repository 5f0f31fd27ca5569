"""Teach: from pictures to an adapter. The form is a dataset with settings; a reload shows it as it was."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio import markup, teaching, widgets
from studio.context import Context
from studio.examples import example_sets
from studio.markup import text
from studio.tabs.dataset import server_functions
from studio.tabs.page import BUSY, QUIET, Page, toast
from studio.tabs.teach_form import FILLED, KEPT, LOOKED, WEIGHED, Form
from studio.tabs.teach_run import acting
from trainers.config import PRESET_NAMES

KINDS = (("subject", "A subject", "one thing, creature or person"), ("style", "A style", "a way of drawing"))
_STARTED = """() => {
  const run = document.getElementById('run'), narrow = matchMedia('(max-width: 700px)').matches;
  run?.closest('.row')?.classList.add('pg-run-first');
  run?.scrollIntoView({behavior: narrow ? 'auto' : 'smooth', block: narrow ? 'start' : 'nearest'});
}"""
_CHANGED = """(shown) => {
  document.getElementById('run')?.closest('.row')?.classList.add('pg-run-first');
  return {part: 'run_log', key: shown?.key || ''};
}"""
"""A run goes on: its log follows it, and on narrow pages it stays above the form, also when it ends."""
_REFILLED = """() => {
  const start = document.getElementById('start');
  start?.scrollIntoView({behavior: 'smooth', block: 'center'});
  start?.focus({preventScroll: true});
}"""
"""The form was filled from a run: what is left is to press start."""
PRESET_HINTS = {"sketch": "a first look", "standard": "good for most", "thorough": "slow and careful"}


def build(context: Context, page: Page) -> None:
    """Add the tab's components and listeners."""
    parts: dict[str, Any] = {}
    hint = widgets.part("hint", elem_id="hint")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            _pictures(context, parts)
            _words(parts)
            _how(parts)
        with gr.Column(scale=5, min_width=320):
            run = widgets.part("run", elem_id="run")
            with gr.Accordion("Log", open=False, elem_id="run-log"):
                log = widgets.part("run_log", elem_id="run-log-text")
    wanted = gr.State({})  # the run that the form is to be filled from
    form = Form(context, parts)
    _listen(page, form, wanted)
    started = (
        parts["start"]
        .click(None, js=_busy("add"), **QUIET)
        .then(toast(form.start), form.inputs, run, **QUIET)
    )
    started.success(None, js=_STARTED, **QUIET)
    started.then(None, js=_busy("remove"), **QUIET)
    started.success(lambda: gr.HTML("", visible=False), None, parts["again"], **QUIET)
    run.click(toast(acting(context)), None, [run, page.wish, page.tabs, wanted], **QUIET)
    run.change(None, run, log, js=_CHANGED, **QUIET)
    hint.click(toast(form.dismiss_hint), None, None, **QUIET)


def _busy(change: str) -> str:
    """JavaScript that shows, or shows no longer, that the start was pressed."""
    return f"() => document.getElementById('start').classList.{change}('busy')"


def _step(number: int, title: str, hint: str = "") -> gr.HTML:
    return gr.HTML(f'<h2 class="pg-step"><b>{number}</b>{text(title)} <small>{text(hint)}</small></h2>')


def _pictures(context: Context, parts: dict[str, Any]) -> None:
    _step(1, "Pictures")
    sets = example_sets()
    parts["pictures"] = widgets.widget(
        "pictures", {}, elem_id="pictures", server_functions=server_functions(context)
    )
    parts["sets"] = gr.HTML(
        _set_cards(), js_on_load=markup.CLICKS, visible=bool(sets), elem_id="example-sets"
    )
    parts["dataset"] = widgets.part("dataset", elem_id="dataset")
    parts["findings"] = gr.HTML(visible=False, elem_id="findings")


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
    return f'<p class="pg-sub">Or start with an example</p><div class="pg-sets">{"".join(cards)}</div>'


def _words(parts: dict[str, Any]) -> None:
    _step(2, "What do they show?")
    parts["kind"] = widgets.widget(
        "choices", {}, elem_id="kind", about="What the pictures show", chosen="subject",
        choices=[{"value": value, "title": title, "hint": hint} for value, title, hint in KINDS],
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
    _step(3, "How thoroughly?")
    parts["preset"] = widgets.widget(
        "choices", {}, elem_id="preset", about="How thoroughly", chosen=PRESET_NAMES[0],
        choices=[
            {"value": name, "title": name.capitalize(), "hint": PRESET_HINTS.get(name, "")}
            for name in PRESET_NAMES
        ],
    )  # fmt: skip
    defaults, own = teaching.usual_values()
    parts["advanced"] = widgets.widget(
        "advanced", {}, elem_id="advanced", prefix="advanced", sections=teaching.described_sections(),
        defaults=defaults, presets=own, preset=f"{PRESET_NAMES[0]} subject",
        preset_paths=sorted(teaching.PRESET_FIELDS),
    )  # fmt: skip
    parts["again"] = gr.HTML(visible=False, elem_id="again")
    parts["start"] = gr.Button("Start teaching", variant="primary", size="lg", elem_id="start")


def _listen(page: Page, form: Form, wanted: gr.State) -> None:
    parts = form.parts
    # What was typed is kept at once; what takes longer to find out follows.
    changes = [
        parts["pictures"].input, parts["kind"].input, parts["preset"].input, parts["advanced"].input,
        parts["trigger"].change, parts["class_name"].change,
    ]  # fmt: skip
    last: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
    filled = form.outputs(FILLED)
    refilled = wanted.change(toast(form.refill), wanted, filled, **QUIET)
    refilled.success(None, js=_REFILLED, **QUIET)
    for begun in (
        gr.on(changes, toast(form.keep), form.inputs, form.outputs(KEPT), **last),
        page.blocks.load(toast(form.recall), None, filled, **QUIET),
        refilled,
        parts["sets"].click(toast(form.example), None, filled, **BUSY),
        parts["pictures"].afresh(toast(form.afresh), None, filled, **QUIET),
    ):
        weighed = begun.then(toast(form.weigh), form.inputs, form.outputs(WEIGHED), **last)
        weighed.then(toast(form.look), form.inputs, form.outputs(LOOKED), **last)
    parts["pictures"].auto(toast(form.write_captions), form.inputs, None, **QUIET)
    parts["dataset"].change(toast(form.reread), parts["pictures"], parts["pictures"], **QUIET)
