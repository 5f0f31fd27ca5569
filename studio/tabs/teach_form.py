"""The form of the Teach tab: what it holds, and what is shown in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from pipelines.errors import ConfigError
from studio import again, looking, teaching
from studio.context import Context
from studio.datasets import Dataset, Datasets
from studio.jobs import Job
from studio.markup import text
from studio.places import check_ref
from studio.tabs.dataset import items
from studio.tabs.hint import DISMISSED
from trainers.config import PRESET_NAMES, PRESETS
from trainers.wording import prompts

Values = dict[Any, Any]
"""What Gradio gives a handler whose inputs are a set: values by component."""
AGAIN = 4  # seconds until the page asks for estimates again, while the device is measured
KEPT = ("pictures", "dataset", "advanced", "class_name", "spoken")
WEIGHED = ("preset", "advanced")
LOOKED = ("pictures", "findings")
FILLED = (
    "pictures", "dataset", "kind", "trigger", "class_name", "preset", "advanced", "spoken", "findings",
    "again",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """The components by name, and the handlers. A widget's output is a patch; see `js/pictures.js`."""

    context: Context
    parts: dict[str, Any]

    @property
    def inputs(self) -> set[Any]:
        """What a lesson is made of."""
        names = ("pictures", "kind", "trigger", "class_name", "preset", "advanced")
        return {self.parts[name] for name in names}

    def outputs(self, names: Sequence[str]) -> list[Any]:
        """The components of those names."""
        return [self.parts[name] for name in names]

    @property
    def datasets(self) -> Datasets:
        """The sets of pictures."""
        return Datasets(self.context.workspace)

    # ── Reading

    def lesson(self, values: Values) -> teaching.Lesson:
        """What the form holds; captions that were just written are kept first."""
        got = {name: values.get(part) for name, part in self.parts.items() if part in values}
        pictures, advanced = got["pictures"] or {}, got["advanced"] or {}
        dataset_id = str(pictures.get("dataset") or "")
        if dataset_id:
            self._keep_captions(dataset_id, pictures.get("captions") or {})
        kind = (got["kind"] or {}).get("chosen", "subject")
        preset = (got["preset"] or {}).get("chosen", PRESET_NAMES[0])
        if (preset, kind) not in PRESETS:
            raise ConfigError(f"nothing is known of {preset!r} for {kind!r}; reload the page")
        return teaching.Lesson(
            dataset=dataset_id, kind=kind, preset=preset, trigger=got["trigger"] or "",
            class_name=got["class_name"] or "", advanced=dict(advanced.get("changes") or {}),
        )  # fmt: skip

    def _keep_captions(self, dataset_id: str, captions: dict[str, str]) -> None:
        there = {item.sha256: item.caption for item in self.datasets.get(dataset_id).items}
        for sha256, caption in captions.items():
            if sha256 in there and " ".join(str(caption).split()) != there[sha256]:
                self.datasets.caption(dataset_id, sha256, str(caption))

    # ── Handlers

    def recall(self) -> list[Any]:
        """Show the form as it was left."""
        recent = self.datasets.recent(1)
        dataset = self.datasets.get(recent[0].id) if recent else None
        return self._filled(dataset)

    def afresh(self) -> list[Any]:
        """An empty form."""
        return self._filled(self.datasets.new())

    def example(self, event: gr.EventData) -> list[Any]:
        """Fill everything from an example set."""
        dataset = self.datasets.from_example(str(event.id))
        name = dataset.name.partition(",")[0].partition(":")[0].strip()
        return self._filled(self.datasets.settings(dataset.id, {"advanced": {"run.name": name}}))

    def refill(self, wish: dict[str, Any]) -> list[Any]:
        """Fill everything from a run, with what is to be changed; nothing is started."""
        if not wish:
            return [gr.skip() for _ in FILLED]
        job = self.context.jobs.get(str(wish["job"]))
        found = again.fill(self.context, job, wish["changes"])
        filled = self._filled(self.datasets.get(found.dataset))
        return [*filled[:-1], gr.HTML(_refilled(job, found), visible=True)]

    def keep(self, values: Values) -> list[Any]:
        """Remember the form; say how the adapter will be called, and ask for a class only where it helps."""
        lesson = self.lesson(values)
        settings = {
            "kind": lesson.kind, "trigger": lesson.trigger, "class_name": lesson.class_name,
            "preset": lesson.preset, "advanced": lesson.advanced, "instance_prompt": None,
            "class_prompt": None,
        }  # fmt: skip
        dataset_id = lesson.dataset or self.datasets.new().id
        if self.datasets.get(dataset_id).settings != {k: v for k, v in settings.items() if v is not None}:
            self.datasets.settings(dataset_id, settings)
        named = lesson.advanced.get("data.captioner") or ""
        return [
            {"dataset": dataset_id, "auto": str(named).rpartition("/")[2]},
            {"part": "dataset", "key": dataset_id},
            {"preset": f"{lesson.preset} {lesson.kind}"},
            gr.Textbox(visible=lesson.kind == "subject"),
            _spoken(lesson),
        ]

    def weigh(self, values: Values) -> list[Any]:
        """What each preset costs on this device, and what is wrong with the settings."""
        lesson = self.lesson(values)
        dataset = self.datasets.get(lesson.dataset) if lesson.dataset else None
        found = looking.weigh(self.context, lesson, dataset)
        again = AGAIN if found.measuring else 0
        return [{"figures": found.figures, "note": found.basis, "again": again}, {"error": found.error}]

    def look(self, values: Values) -> list[Any]:
        """Crops and the doctor's findings."""
        lesson = self.lesson(values)
        try:
            found = looking.look(self.context, lesson) if lesson.dataset else looking.Looked()
        except ConfigError:  # stands beside its field already
            return [gr.skip(), gr.skip()]
        return [{"crops": found.crops, "findings": found.own}, _findings(found)]

    def reread(self, pictures: dict[str, Any] | None) -> Any:
        """The pictures of the set, which somebody else has changed."""
        dataset_id = (pictures or {}).get("dataset")
        return {"items": items(self.datasets.get(dataset_id))} if dataset_id else gr.skip()

    def write_captions(self, values: Values) -> None:
        """Let the captioner write what isn't written."""
        lesson = self.lesson(values)
        captioner = lesson.advanced.get("data.captioner")
        if not captioner:
            raise ConfigError("no captioner is set; name one under Advanced, Pictures and words")
        check_ref(self.context, str(captioner), "the captioner")
        self.context.jobs.submit(
            "captions", f"Captions by {captioner}",
            {"dataset": lesson.dataset, "captioner": captioner, "trigger": lesson.trigger.strip()},
        )  # fmt: skip
        self.context.runner.wake()

    def start(self, values: Values) -> dict[str, str]:
        """Queue the job that the form describes."""
        return {"part": "run", "key": teaching.start(self.context, self.lesson(values)).id}

    def dismiss_hint(self) -> None:
        """Don't show the three steps again."""
        self.context.workspace.remember(DISMISSED, True)

    # ── Showing

    def _filled(self, dataset: Dataset | None) -> list[Any]:
        """The outputs FILLED: a set and its settings; None: an empty form."""
        settings = dict(dataset.settings) if dataset else {}
        kind = settings.get("kind", "subject")
        preset = settings.get("preset", PRESET_NAMES[0])
        if (preset, kind) not in PRESETS:
            kind, preset = next((kind, preset) for preset, kind in PRESETS)
        trigger, class_name = settings.get("trigger", ""), settings.get("class_name", "")
        advanced = {**_own_prompts(kind, trigger, class_name, settings), **settings.get("advanced", {})}
        lesson = teaching.Lesson(
            dataset=dataset.id if dataset else "", kind=kind, trigger=trigger, class_name=class_name
        )
        pictures = {
            "dataset": lesson.dataset, "items": items(dataset) if dataset else [], "refused": [], "crops": {},
            "findings": {}, "auto": str(advanced.get("data.captioner", "")).rpartition("/")[2],
        }  # fmt: skip
        return [
            pictures, {"part": "dataset", "key": lesson.dataset}, {"chosen": kind}, trigger,
            gr.Textbox(class_name, visible=kind == "subject"), {"chosen": preset},
            {"preset": f"{preset} {kind}", "changes": advanced, "error": ""}, _spoken(lesson),
            gr.HTML("", visible=False), gr.HTML("", visible=False),
        ]  # fmt: skip


def _own_prompts(kind: str, trigger: str, class_name: str, settings: dict[str, Any]) -> dict[str, str]:
    """An example's prompts where the words give others: so the made ones follow when words are changed."""
    made = zip(("instance_prompt", "class_prompt"), prompts(kind, trigger, class_name), strict=True)
    return {f"data.{name}": settings[name] for name, own in made if settings.get(name) not in (None, "", own)}


def _spoken(lesson: teaching.Lesson) -> str:
    word = " ".join(lesson.trigger.split())
    if not word:
        return ""
    said = prompts(lesson.kind, word, " ".join(lesson.class_name.split()))[0]
    return f'<p class="pg-hint">You will call it with “<b>{text(said)}</b>”.</p>'


def _refilled(job: Job, found: again.Again) -> str:
    """Where the form was filled from, and what is another now."""
    changed = "".join(
        f"<li>{text(one.label)} <s>{text(one.before)}</s> <b>{text(one.now)}</b></li>"
        for one in found.changed
    )
    notes = "".join(f'<p class="pg-hint">{text(note)}</p>' for note in found.notes)
    rows = f'<ul class="pgt-changes">{changed}</ul>' if changed else ""
    return f'<div class="pg-note good" role="status">As the run “{text(job.title)}”{rows}{notes}</div>'


def _findings(found: looking.Looked) -> Any:
    if not found.general:
        return gr.HTML("", visible=False)
    said = [teaching.in_words(line) for line in found.general]
    lines = "".join(f"<li>{text(line[:1].upper() + line[1:])}</li>" for line in said)
    return gr.HTML(f'<div class="pg-note"><ul class="pgt-lines">{lines}</ul></div>', visible=True)
