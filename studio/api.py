"""The public API: what the page does, for programs. Each verb is an endpoint of Gradio's under its name.

Whoever calls one may send anything, so arguments are checked here; a mistake is one line.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field, ValidationError, validate_call
from starlette.concurrency import run_in_threadpool

from pipelines.errors import AdapterError, ConfigError, PictureError, StudioError, nearest
from studio import answers, exporting, mixing, teaching
from studio.answers import JobAnswer, ListAnswer, StatusAnswer
from studio.context import Context
from studio.datasets import Datasets
from studio.listing import LISTS
from studio.uploads import let_go
from studio.work.job import Job

log = logging.getLogger("pigment")

LOOK = 0.25  # seconds between two looks at a job that is waited for
Wait = Annotated[float, Field(ge=0, le=3600)]
File = dict[str, Any]
"""An uploaded file as Gradio's clients send it: `handle_file("cat.png")`. It serves one job: once that is
queued it is gone."""


class MixAnswer(TypedDict):
    """A mix that was looked over.

    mix: its parts, as `generate` takes them. triggers: the words that call its adapters. interference: who
    overpowers whom, a line each; heat_map: the same as a picture, a data URL. Both empty for one adapter.
    """

    mix: list[dict[str, Any]]
    triggers: list[str]
    interference: list[str]
    heat_map: str


@dataclass(frozen=True)
class Api:
    """The verbs on one studio."""

    context: Context

    async def listed(
        self,
        what: Literal["adapters", "pictures", "jobs", "examples", "bases"] = "adapters",
        search: str = "",
        page: Annotated[int, Field(ge=0, le=10**6)] = 0,
    ) -> ListAnswer:
        """List what is there, newest first, 24 to a page: adapters and pictures that hold the words of
        `search`; jobs; the example sets to learn from; bases."""
        return await run_in_threadpool(LISTS[what], self.context, search, page)

    async def status(self, job: str = "") -> StatusAnswer | JobAnswer:
        """How a job is getting on, by its id; without one, what the studio is doing."""
        if job:
            return await run_in_threadpool(self._said, job)
        return await run_in_threadpool(answers.status_answer, self.context)

    async def train(
        self,
        pictures: list[File] | None = None,
        example: str = "",
        trigger: str = "",
        class_name: str = "",
        kind: Literal["", "subject", "style"] = "",
        captions: list[str] | None = None,
        preset: str = "sketch",
        settings: dict[str, Any] | None = None,
        wait: Wait = 0,
    ) -> JobAnswer:
        """Teach a subject or a style from pictures, or from an example set; returns the job.

        pictures: uploaded pictures, or a zip of them. example: the id of an example set instead. trigger: the
        word that will call what is learned. class_name: what a subject is, such as "dog". captions: one for
        each picture, in their order. preset: sketch, standard or thorough. settings: others of a training's
        config by name, such as {"rank": 8, "steps": 200}. wait: seconds to wait for
        its end at most.
        """
        given = Lesson(pictures or [], example, captions or [])
        asked = {"trigger": trigger, "class_name": class_name, "kind": kind, "preset": preset}
        job = await run_in_threadpool(given.start, self.context, asked, settings or {})
        return await self._waited(job, wait)

    async def mix(
        self,
        adapters: dict[str, float],
        balance: bool = False,
        interference: bool = False,
    ) -> MixAnswer:
        """Look a mix over: adapters by name or id with their weights, −2 to 3.

        balance: give them weights of equal effect. interference: say who overpowers whom.
        """
        return await run_in_threadpool(self._mix, adapters, balance, interference)

    async def generate(
        self,
        prompt: str,
        adapters: dict[str, float] | None = None,
        negative_prompt: str = "",
        seed: int | None = None,
        num_images: int = 1,
        settings: dict[str, Any] | None = None,
        mix: list[dict[str, Any]] | None = None,
        compare: bool = False,
        axes: list[str] | None = None,
        image: File | None = None,
        mask: File | None = None,
        wait: Wait = 120,
    ) -> JobAnswer:
        """Draw pictures; returns the job, whose files are the pictures.

        adapters: by name or id with their weights; or mix: the parts of a mix, as `mix` returns them. seed:
        None takes a new one. settings: others by name, such as {"num_inference_steps": 30, "width": 128}.
        compare: draw the same seeds without adapters too. axes: of a grid, such as "steps=10,20,30". image,
        mask: uploaded; what is drawn over, and in its white parts. wait: seconds to wait for the end at most.
        """
        generation = {**(settings or {}), "prompt": prompt, "negative_prompt": negative_prompt}
        generation.update(seed=mixing.new_seed() if seed is None else seed, num_images=num_images)
        asked = {"generation": generation, "compare": compare, "axes": axes or []}
        if adapters and mix:
            raise ConfigError("adapters and mix say the same; give one of them")

        def start() -> Job:
            parts = mix or [
                {"id": self._adapter(name).id, "weight": weight} for name, weight in (adapters or {}).items()
            ]
            given = {"image": image, "mask": mask}
            inputs = {name: _kept(self.context, file) for name, file in given.items() if file}
            job = mixing.start(self.context, mixing.read_request({**asked, **inputs, "mix": parts}))
            let_go(self.context.workspace, (file.get("path") for file in given.values() if file))
            return job

        return await self._waited(await run_in_threadpool(start), wait)

    async def export(
        self,
        adapter: str,
        format: str = "",
        tool: str = "",
        dtype: Literal["fp16", "bf16", "fp32"] = "fp16",
        as_lora: bool = False,
        rank: int | None = None,
        wait: Wait = 120,
    ) -> JobAnswer:
        """Make a file of an adapter for another tool and check it; returns the job with the report and file.

        adapter: its name or id. format: kohya (where nothing is said), diffusers, peft, lycoris … tool:
        instead of a format who will read it, such as comfyui. as_lora, rank: turn it into plain LoRA.
        """

        def start() -> Job:
            entry = self._adapter(adapter)
            forms = exporting.suited(tool, entry) if tool else []
            if tool and not forms:
                raise ConfigError(f"{tool} reads {entry.name!r} in no form")
            chosen = format or next(iter(forms), "kohya")
            asked = {"adapter": entry.id, "format": chosen, "dtype": dtype, "as_lora": as_lora, "rank": rank}
            return exporting.start(self.context, exporting.ExportRequest.model_validate(asked))

        return await self._waited(await run_in_threadpool(start), wait)

    def _adapter(self, name: str) -> Any:
        """The library's adapter of that name or id. Raises: AdapterError where there is none."""
        library = self.context.library
        entry = library.find(name)
        if entry is None:
            names = [one.short for one in library.entries()]
            raise AdapterError(f"no adapter {name[:80]!r} in the library{nearest(name, names)}")
        return entry

    def _mix(self, adapters: Mapping[str, float], balance: bool, interference: bool) -> MixAnswer:
        entries = {name: self._adapter(name) for name in adapters}
        parts = [{"id": entries[name].id, "weight": weight} for name, weight in adapters.items()]
        asked = {"generation": {"prompt": "a picture"}, "mix": parts}
        request = mixing.checked(self.context, mixing.read_request(asked))
        found = [part.model_dump(mode="json") for part in request.mix]
        ask = functools.partial(self.context.runner.maker.ask_soon, base=self.context.base)
        if balance and len(found) > 1:
            weights = ask("balance", mix=found)["weights"]
            found = [{**part, "weight": weights.get(part["id"], part["weight"])} for part in found]
        told = ask("interference", mix=found) if interference and len(found) > 1 else {}
        triggers = [word for entry in entries.values() for word in entry.triggers[:1]]
        return {
            "mix": found,
            "triggers": triggers,
            "interference": [str(line) for line in told.get("text", ())],
            "heat_map": str(told.get("picture", "")),
        }

    async def _waited(self, job: Job, seconds: float) -> JobAnswer:
        """What became of a job within some seconds."""
        end, closing = asyncio.get_running_loop().time() + seconds, self.context.closing
        while job.active and asyncio.get_running_loop().time() < end and not closing.is_set():
            await asyncio.sleep(LOOK)
            job = await run_in_threadpool(self.context.jobs.get, job.id)
        return await run_in_threadpool(self._said, job.id)

    def _said(self, job_id: str) -> JobAnswer:
        return answers.job_answer(self.context, self.context.jobs.get(job_id))


@dataclass(frozen=True)
class Lesson:
    """What a training's pictures are given as: files, or an example set; captions in their order."""

    pictures: list[File]
    example: str
    captions: list[str]

    def start(self, context: Context, asked: Mapping[str, str], settings: Mapping[str, Any]) -> Job:
        """Take the pictures and queue the training.

        Raises:
            StudioError: a picture is refused, or something is missing; no set of pictures is left behind.
        """
        if bool(self.pictures) == bool(self.example):
            raise PictureError("give either pictures or the id of an example set")
        datasets = Datasets(context.workspace)
        files, advanced = [uploaded(context, file) for file in self.pictures], advanced_values(settings)
        dataset = datasets.from_example(self.example) if self.example else datasets.new()
        try:
            taken = datasets.take(dataset.id, files) if files else None
            if taken is not None and taken.refused:
                raise PictureError(taken.refused[0].line())
            items = datasets.get(dataset.id).items
            if len(self.captions) > len(items):
                raise ConfigError(f"there are {len(self.captions)} captions for {len(items)} pictures")
            for item, caption in zip(items, self.captions, strict=False):
                datasets.caption(dataset.id, item.sha256, caption)
            told = {name: value or str(dataset.settings.get(name, "")) for name, value in asked.items()}
            told["kind"] = told["kind"] or "subject"
            job = teaching.start(context, teaching.Lesson(dataset=dataset.id, advanced=advanced, **told))
        except BaseException:
            datasets.delete(dataset.id)
            raise
        let_go(context.workspace, (path for path, _ in files))
        return job


def advanced_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A training's settings by their paths, such as "adapter.rank"; the last part alone does as well.

    Raises:
        ConfigError: there is no such setting, or it names a folder of this machine.
    """
    specs = {spec.path: spec for _, _, group in teaching.advanced_sections() for spec in group}
    short = {path.rpartition(".")[2]: path for path in specs}
    found = {}
    for name, value in settings.items():
        path = name if name in specs else short.get(name, "")
        if not path:
            raise ConfigError(f"unknown setting {name[:80]!r}{nearest(name, [*short, *specs])}")
        if specs[path].kind == "path":
            raise ConfigError(f"{path} names a folder of the studio's machine; set it on the page")
        found[path] = value
    return found


def uploaded(context: Context, file: File) -> tuple[Path, str]:
    """The file that was uploaded, and what it is called.

    Raises:
        PictureError: it isn't one of the uploads; no other file of this machine is opened.
    """
    name, found = file.get("orig_name"), context.workspace.uploaded(file.get("path"))
    if found is None:
        raise PictureError("a file wasn't uploaded; send it with handle_file, or by /gradio_api/upload")
    return found, name if isinstance(name, str) and name else found.name


def _kept(context: Context, file: File) -> str:
    """An uploaded picture, as a request says it. Raises: PictureError: it is damaged."""
    from studio.dropped import Dropped
    from studio.ingest import ingesting
    from studio.pictures import Pictures

    path, name = uploaded(context, file)
    with ingesting(Pictures(context.workspace)) as taking:
        good, rest = taking.take([Dropped(path, name)])
    if not good:
        raise PictureError(rest.refused[0].line() if rest.refused else f"{name[:80]!r} is no picture")
    return f"picture/{good[0].picture.sha256}"


VERBS = {
    "list": Api.listed, "status": Api.status, "train": Api.train, "mix": Api.mix, "generate": Api.generate,
    "export": Api.export,
}  # fmt: skip
"""The endpoints, by name."""


def endpoint(verb: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A verb as Gradio takes it: its types spelt out, its arguments checked, its errors one line."""
    import gradio as gr

    checked = validate_call(verb)

    @functools.wraps(verb)
    async def answered(*arguments: Any, **named: Any) -> Any:
        try:
            return await checked(*arguments, **named)
        except ValidationError as error:
            mistake = error.errors(include_url=False)[0]
            names = [*inspect.signature(verb).parameters]
            place = [str(names[step] if isinstance(step, int) else step) for step in mistake["loc"][:1]]
            place += [str(step) for step in mistake["loc"][1:]]
            wanted = str(mistake["msg"]).removeprefix("Input should be ")
            shown = repr(mistake["input"])[:80]
            line = f"{'.'.join(place)} is {shown}, expected {wanted}"
            raise gr.Error(line, print_exception=False) from None
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception as error:
            log.exception("the API's %s failed", verb.__name__)
            line = f"something went wrong here ({type(error).__name__}); the server's output says more"
            raise gr.Error(line, print_exception=False) from None

    answered.__signature__ = inspect.signature(verb, eval_str=True)  # type: ignore[attr-defined]
    return answered


def add(context: Context) -> None:
    """Put the verbs on the page that is being built: its only public endpoints."""
    import gradio as gr

    for own in gr.context.Context.root_block.fns.values():  # a listener of that name mustn't take a verb's
        if own.api_name in VERBS:
            own.api_name = f"page_{own.api_name}"
    for name, verb in VERBS.items():
        bound = verb.__get__(Api(context))
        # Waiting for a job costs nothing, so that many may.
        gr.api(endpoint(bound), api_name=name, concurrency_limit=None)
