"""The API's verbs: what they answer, and that whatever is sent comes back as one line or does nothing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.errors import StudioError
from studio.api import VERBS, Api, uploaded
from studio.context import Context
from studio.gallery import Gallery
from studio.routes import api as light
from studio.runner import Runner
from studio.workspace import Workspace

Call = Callable[..., Any]


def caller(context: Context) -> Call:
    """Calls a verb as Gradio does."""
    import gradio as gr

    from studio.api import endpoint

    context.library.add_examples()

    def called(name: str, **arguments: Any) -> Any:
        async def answer() -> Any:
            return await endpoint(VERBS[name].__get__(Api(context)))(**arguments)

        try:
            return asyncio.run(answer())
        except gr.Error as error:
            raise StudioError(error.message) from None

    return called


@pytest.fixture
def call(context: Context) -> Call:
    return caller(context)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Call, Context]]:
    """A studio for calls that are refused."""
    workspace = Workspace.open(tmp_path_factory.mktemp("quiet") / "workspace")
    context = Context(workspace, Runner(workspace))
    yield caller(context), context
    workspace.close()


def sent(context: Context, path: Path) -> dict[str, Any]:
    """A file as it lies after Gradio's upload."""
    folder = context.workspace.uploads / "0a1b"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    return {"path": str(folder / path.name), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def test_lists_are_searched_and_paged(call: Call, context: Context) -> None:
    every = call("list")
    assert every["total"] == len(every["items"]) > 1
    mascot = call("list", search="zib")["items"]
    assert [one["id"] for one in mascot] == ["example-mascot"]
    assert mascot[0]["about"]["triggers"] == ["zib"]
    assert mascot[0]["files"][0]["address"] == "files/adapter/example-mascot"
    assert call("list", page=9) == {"items": [], "total": every["total"]}
    assert {one["id"] for one in call("list", what="examples")["items"]} >= {"mascot"}
    assert call("list", what="bases")["items"][0]["id"] == "pocket"
    assert call("list", what="jobs")["items"] == call("list", what="pictures")["items"] == []


def test_a_training_is_queued_from_an_example_and_from_pictures(
    call: Call, context: Context, pictures: list[Path]
) -> None:
    job = call("train", example="mascot", settings={"steps": 7, "adapter.rank": 3})
    assert (job["kind"], job["state"]) == ("train", "queued")
    config = context.jobs.get(job["id"]).config
    assert config["data"]["trigger"] == "zib"
    assert (config["run"]["steps"], config["adapter"]["rank"]) == (7, 3)
    files = [sent(context, path) for path in pictures[:3]]
    captions = ["a zab disc, red", "a zab disc"]
    job = call("train", pictures=files, trigger="zab", class_name="disc", captions=captions)
    laid = Path(context.jobs.get(job["id"]).config["data"]["instance_images"])
    assert len([*laid.glob("*.png")]) == 3
    assert sorted(path.read_text() for path in laid.glob("*.txt")) == sorted(captions)
    assert call("status", job=job["id"])["state"] == "queued"
    assert call("status")["jobs"]["queued"] == 2
    assert len(call("status")["waiting"]) == 2


def test_pictures_are_queued_with_adapters_by_name(
    call: Call, context: Context, pictures: list[Path]
) -> None:
    job = call(
        "generate", prompt="a zib <lora:blueprint:0.5>", adapters={"mascot": 0.75}, seed=5, wait=0,
        settings={"num_inference_steps": 3}, image=sent(context, pictures[0]),
    )  # fmt: skip
    config = context.jobs.get(job["id"]).config
    assert {part["id"]: part["weight"] for part in config["mix"]} == {
        "example-mascot": 0.75,
        "example-blueprint": 0.5,
    }
    assert (config["generation"]["seed"], config["generation"]["num_inference_steps"]) == (5, 3)
    assert config["image"].startswith("picture/")
    mix = call("mix", adapters={"mascot": 0.75, "blueprint": 0})
    assert (len(mix["mix"]), mix["triggers"][0], mix["heat_map"]) == (1, "zib", "")
    assert call("generate", prompt="a zib", mix=mix["mix"], wait=0)["kind"] == "generate"


def test_an_export_is_queued_in_the_form_that_a_tool_reads(call: Call, context: Context) -> None:
    job = call("export", adapter="mascot", tool="diffusers", dtype="bf16", wait=0)
    config = context.jobs.get(job["id"]).config
    assert (config["format"], config["dtype"], config["as_lora"]) == ("diffusers", "bf16", False)
    assert context.jobs.get(call("export", adapter="mascot", wait=0)["id"]).config["format"] == "kohya"


def test_no_path_of_this_machine_is_told(call: Call, context: Context) -> None:
    job = context.jobs.submit("export", "a disc", {})
    assert context.jobs.claim(job.id, os.getpid(), 0.0)
    report = {"path": "/home/ana/x.safetensors", "keys": [{"path": "/y", "name": "a"}]}
    context.jobs.finish(job.id, "done", result={"report": report, "file": "x.safetensors"})
    assert call("status", job=job.id)["result"] == {
        "report": {"keys": [{"name": "a"}]},
        "file": "x.safetensors",
    }


def test_waiting_ends_with_the_job(call: Call, context: Context) -> None:
    job = call("generate", prompt="a zib", wait=0.3)
    assert job["state"] == "queued", "nothing draws here"
    context.jobs.stop(job["id"])
    assert call("status", job=job["id"])["state"] == "cancelled"


FILE = {"meta": {"_type": "gradio.FileData"}}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such list": ("list", {"what": "secrets"}, "what is 'secrets', expected"),
    "a page before the first": ("list", {"page": -1}, "page is -1"),
    "no such argument": ("list", {"path": "/etc"}, "path"),
    "no such job": ("status", {"job": "../../etc"}, "no job"),
    "nothing to learn from": ("train", {}, "either pictures or the id of an example"),
    "both": ("train", {"example": "mascot", "pictures": [{}]}, "either pictures"),
    "no such example": ("train", {"example": "mascott"}, "mascot"),
    "no such setting": ("train", {"example": "mascot", "settings": {"run.output": "/tmp"}}, "run.output"),
    "a folder": ("train", {"example": "mascot", "settings": {"class_images": "/etc"}}, "names a folder"),
    "a setting that isn't a number": ("train", {"example": "mascot", "settings": {"rank": []}}, "ank"),
    "no such preset": ("train", {"example": "mascot", "preset": "x"}, "sketch"),
    "more captions than pictures": ("train", {"example": "mascot", "captions": ["a"] * 99}, "99 captions"),
    "a file that wasn't uploaded": ("train", {"pictures": [{**FILE, "path": "/etc/passwd"}]}, "uploaded"),
    "a file without its type": ("train", {"pictures": [{"path": "/etc/passwd"}]}, "uploaded"),
    "an address": ("generate", {"prompt": "x", "image": {"path": "http://x/y.png"}}, "uploaded"),
    "no path": ("generate", {"prompt": "x", "image": {"path": 5, "orig_name": []}}, "uploaded"),
    "a path with a zero": ("generate", {"prompt": "x", "mask": {"path": "a\0b"}}, "uploaded"),
    "an empty prompt": ("generate", {"prompt": "  "}, "prompt is empty"),
    "a prompt that is none": ("generate", {"prompt": {"a": 1}}, "prompt is"),
    "a setting out of bounds": ("generate", {"prompt": "x", "settings": {"width": -8}}, "expected"),
    "no such adapter": ("generate", {"prompt": "x", "adapters": {"mascott": 1}}, "mascot"),
    "too much of an adapter": ("generate", {"prompt": "x", "adapters": {"mascot": 9}}, "9"),
    "adapters twice": ("generate", {"prompt": "x", "adapters": {"mascot": 1}, "mix": [{}]}, "one of them"),
    "a part that is none": ("generate", {"prompt": "x", "mix": [{"id": "../x"}]}, "Adapter"),
    "waiting for ever": ("generate", {"prompt": "x", "wait": 1e9}, "wait is"),
    "an export of nothing": ("export", {"adapter": "nobody"}, "no adapter 'nobody'"),
    "an unknown form": ("export", {"adapter": "mascot", "format": "ckpt"}, "ckpt"),
    "an unknown tool": ("export", {"adapter": "mascot", "tool": "paint"}, "paint"),
    "an unknown precision": ("export", {"adapter": "mascot", "dtype": "int3"}, "int3"),
    "a rank for nothing": ("export", {"adapter": "mascot", "rank": 0}, "rank"),
    "a weight that is none": ("mix", {"adapters": {"mascot": "much"}}, "adapters.mascot"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_queues_nothing(quiet: tuple[Call, Context], case: str) -> None:
    call, context = quiet
    name, arguments, told = WRONG[case]
    with pytest.raises(StudioError) as refused:
        call(name, **arguments)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "went wrong here" not in str(refused.value)
    assert not context.jobs.find()
    with context.workspace.read() as db:
        assert not db.execute("SELECT * FROM datasets").fetchall(), "no pictures are left behind"


def test_a_refused_picture_is_named(call: Call, context: Context, tmp_path: Path) -> None:
    bad = tmp_path / "holiday.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(StudioError, match=r"holiday\.png"):
        call("train", pictures=[sent(context, bad)], trigger="x", class_name="y")
    with pytest.raises(StudioError, match=r"holiday\.png"):
        call("generate", prompt="x", image=sent(context, bad))


def test_no_link_leads_out_of_the_uploads(context: Context, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    context.workspace.uploads.mkdir(parents=True, exist_ok=True)
    link = context.workspace.uploads / "link.png"
    link.symlink_to(tmp_path / "secret.png")
    for path in (link, context.workspace.uploads / ".." / ".." / "pigment.sqlite3"):
        with pytest.raises(StudioError, match="uploaded"):
            uploaded(context, {"path": str(path)})


def test_light_routes_answer_many_from_one_look(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count(1)
    monkeypatch.setattr(light, "status_answer", lambda context: {"n": next(looks)})
    app = FastAPI(openapi_url=None)
    light.add(app, context)
    job = context.jobs.submit("generate", "a zib", {})
    with TestClient(app) as client:
        assert {client.get("/api/status").json()["n"] for _ in range(20)} == {1}
        assert client.get("/api/status").headers["cache-control"] == "no-store"
        monkeypatch.setattr(light, "FRESH", -1.0)
        assert client.get("/api/status").json()["n"] == 2
        assert client.get(f"/api/jobs/{job.id}").json()["state"] == "queued"
        missing = client.get("/api/jobs/nobody")
    assert missing.status_code == 404
    assert "no job 'nobody'" in json.loads(missing.text)["error"]


def test_a_picture_in_the_list_says_its_settings(call: Call, context: Context) -> None:
    from PIL import Image

    from pipelines.generation import GenerationConfig
    from pipelines.picture import Picture

    settings = {
        "generation": GenerationConfig(prompt="a zib in the snow").model_dump(mode="json"),
        "base": {"ref": "pocket", "sha256": "0" * 64},
    }
    drawn = Gallery(context.workspace).add(
        Picture(image=Image.new("RGB", (8, 8)), seed=3, settings=settings), job=None, kind="picture"
    )
    (one,) = call("list", what="pictures", search="snow")["items"]
    assert (one["id"], one["name"], one["about"]["seed"]) == (drawn, "a zib in the snow", 3)
    assert one["files"][0]["address"] == f"files/image/{drawn}"
