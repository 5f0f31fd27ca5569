"""/mix: the rack's adapters page by page, pictures to draw over, recipes; errors are one line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.errors import AdapterError, Busy
from studio.context import Context
from studio.routes import mix

FOX = {"generation": {"prompt": "a fox"}}


@pytest.fixture
def client(context: Context) -> Iterator[TestClient]:
    """The routes alone."""
    app = FastAPI()
    mix.add(app, context)
    with TestClient(app) as found:
        yield found


@pytest.fixture
def asked(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the drawing process is asked; a test puts what it answers to the front."""
    found: list[Any] = []

    def ask(verb: str, **request: Any) -> dict[str, Any]:
        answer = found.pop(0)
        found.append((verb, request))
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    monkeypatch.setattr(context.runner.maker, "ask_soon", ask)
    return found


@pytest.fixture
def zib(context: Context, make_adapter: Callable[..., Path], tmp_path: Path) -> str:
    """An adapter's id."""
    return context.library.add(make_adapter(tmp_path / "z.safetensors"), name="Zib")[0].id


def test_adapters_by_words_by_page_and_by_id(client: TestClient, context: Context, zib: str) -> None:
    context.library.add_examples()
    found = client.get("/mix/adapters", params={"search": "blue", "size": 2}).json()
    assert [card["id"] for card in found["adapters"]] == ["example-blueprint"] and found["total"] == 1
    assert found["adapters"][0]["triggers"] == ["inkoprint"]
    assert found["adapters"][0]["cover"].startswith("files/")
    pages = [client.get("/mix/adapters", params={"size": 2, "page": page}).json() for page in range(3)]
    assert len({card["id"] for page in pages for card in page["adapters"]}) == 5 == pages[0]["total"]
    assert pages[0]["pages"] == 3
    known = client.get("/mix/adapters", params={"ids": f"{zib},gone,../x,example-mascot"}).json()["adapters"]
    assert [card["id"] for card in known] == [zib, "example-mascot"]
    context.library.trash(zib)
    assert client.get("/mix/adapters", params={"ids": zib}).json()["adapters"] == []


def test_the_other_adapters_of_a_run(
    client: TestClient, context: Context, make_adapter: Callable[..., Path], tmp_path: Path, zib: str
) -> None:
    steps = [
        context.library.add(make_adapter(tmp_path / f"{seed}.safetensors", seed=seed), job="1-a")[0].id
        for seed in (1, 2, 3)
    ]
    found = client.get(f"/mix/siblings/{steps[0]}").json()["adapters"]
    assert [card["id"] for card in found] == steps[1:]
    assert client.get(f"/mix/siblings/{zib}").json()["adapters"] == []
    assert client.get("/mix/siblings/gone").status_code == 404


def test_blocks_come_from_the_drawing_process(client: TestClient, asked: list[Any], zib: str) -> None:
    asked.append({"blocks": {zib: ["mid_block"]}})
    assert client.get(f"/mix/blocks/{zib}").json() == {"blocks": ["mid_block"]}
    assert asked == [("blocks", {"adapters": [zib]})]
    assert client.get("/mix/blocks/gone").status_code == 404


def test_generate_queues_a_job(client: TestClient, context: Context, zib: str) -> None:
    request = {**FOX, "mix": [{"id": zib, "weight": 0.5}], "axes": [f"weight:{zib}=0,1"]}
    job = context.jobs.get(client.post("/mix/generate", json=request).json()["job"])
    assert job.kind == "generate" and job.config["mix"][0]["weight"] == 0.5 and job.config["axes"]


@pytest.mark.parametrize(
    "request_, said",
    [({"generation": {"prompt": " "}}, "the prompt is empty"), ({}, "missing"),
     ({**FOX, "mix": [{"id": "x", "weight": 9}]}, "Weight"), ({**FOX, "what": 1}, "unknown setting")],
)  # fmt: skip
def test_a_mistake_is_said_in_one_line(
    client: TestClient, context: Context, request_: dict[str, Any], said: str
) -> None:
    answer = client.post("/mix/generate", json=request_)
    assert answer.status_code == 422 and said in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert context.jobs.find() == []


def test_balance_and_interference_leave_out_what_is_off(client: TestClient, asked: list[Any]) -> None:
    request = {**FOX, "mix": [{"id": "a"}, {"id": "b", "on": False}, {"id": "c"}]}
    asked.append({"weights": {"a": 1.0, "c": 0.5}})
    assert client.post("/mix/balance", json=request).json() == {"weights": {"a": 1.0, "c": 0.5}}
    verb, sent = asked.pop()
    assert verb == "balance" and [part["id"] for part in sent["mix"]] == ["a", "c"]
    asked.append({"picture": "data:,", "text": ["a line"], "report": {}})
    assert client.post("/mix/interference", json=request).json() == {"picture": "data:,", "text": ["a line"]}
    assert asked.pop()[1]["base"] == "pocket"
    for error, status in ((AdapterError("put two in"), 422), (Busy("is being taught"), 202)):
        asked.append(error)
        answer = client.post("/mix/balance", json=request)
        assert (answer.status_code, answer.json()["detail"]) == (status, str(error))
        asked.clear()


def test_a_picture_to_draw_over_is_checked_and_kept(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (24, 16), "teal").save(content, "PNG")
    found = client.post("/mix/picture", params={"name": "../a\nb.png"}, content=content.getvalue()).json()
    assert (found["width"], found["height"]) == (24, 16)
    request = {**FOX, "image": found["ref"], "mask": found["ref"]}
    assert "job" in client.post("/mix/generate", json=request).json()
    bad = client.post("/mix/picture", params={"name": "bad.png"}, content=content.getvalue()[:50])
    assert bad.status_code == 422 and bad.json()["detail"].startswith("bad.png: ")
    monkeypatch.setattr(mix, "PICTURE_BYTES", 10)
    assert client.post("/mix/picture", content=content.getvalue()).status_code == 413
    assert not list(context.workspace.folder("cache").glob("tmp*"))


def test_recipes_over_http(client: TestClient, asked: list[Any], zib: str) -> None:
    asked.append({"ref": "pocket", "family": "sd15", "sha256": "ab" * 32})
    body = {"name": "Blue", "request": {**FOX, "mix": [{"id": zib, "weight": 0.5}]}}
    kept = client.post("/mix/recipes", json=body).json()
    assert client.get("/mix/recipes").json()["recipes"] == [kept]
    opened = client.get(f"/mix/recipes/{kept['id']}").json()
    assert opened["mix"][0]["weight"] == 0.5 and opened["prompt"] == "a fox" and opened["notes"] == []
    file = client.get(f"/mix/recipes/{kept['id']}/file")
    assert file.headers["content-disposition"] == 'attachment; filename="Blue.recipe.json"'
    assert client.delete(f"/mix/recipes/{kept['id']}").json()["text"] == file.text
    assert client.get(f"/mix/recipes/{kept['id']}").status_code == 422
    assert client.put("/mix/recipes", content=file.content).json()["name"] == "Blue"
    assert client.put("/mix/recipes", content=b"x" * (mix.RECIPE_BYTES + 1)).status_code == 413
    assert "isn't a recipe" in client.put("/mix/recipes", content=b"no").json()["detail"]


def test_sentences_are_no_failure_where_there_are_none(client: TestClient, asked: list[Any]) -> None:
    request = {**FOX, "mix": [{"id": "a"}, {"id": "b", "on": False}, {"id": "c"}]}
    asked.append({"sentences": [{"words": "a line"}]})
    assert client.post("/mix/sentences", json=request).json() == {"sentences": [{"words": "a line"}]}
    verb, sent = asked.pop()
    assert verb == "sentences" and [part["id"] for part in sent["mix"]] == ["a", "c"]
    asked.append(AdapterError("they have no ΔW"))
    answer = client.post("/mix/sentences", json=request)
    assert (answer.status_code, answer.json()) == (200, {"sentences": []})
    asked[:] = [Busy("is being taught")]
    assert client.post("/mix/sentences", json=request).status_code == 202
    assert client.post("/mix/sentences", json={"mix": 3}).json() == {"sentences": []}
