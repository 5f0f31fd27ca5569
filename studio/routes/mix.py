"""/mix: what the Mix tab asks for as JSON. Errors are one line in `detail`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from pipelines.errors import AdapterError, Busy, PictureError, StudioError
from studio import mixing, searching
from studio.context import Context
from studio.entries import Entry
from studio.recipes import Recipes, as_data

PICTURE_BYTES, RECIPE_BYTES = 64 << 20, 1 << 20
_ID = re.compile(r"[0-9a-z-]{1,64}")
_IDS = 64
Json = dict[str, Any]


@contextmanager
def told() -> Iterator[None]:
    """Answer a StudioError as its one line: 422, or 202 where it would do later (see routes/live.py)."""
    try:
        yield
    except Busy as error:
        raise HTTPException(202, str(error), {"Retry-After": "4"}) from None
    except StudioError as error:
        raise HTTPException(422, str(error)) from None


def card(entry: Entry) -> Json:
    """What the rack and the picker show of an adapter."""
    about = " · ".join(word for word in (entry.method, entry.family) if word)
    return {
        "id": entry.id, "name": entry.name, "cover": f"files/{entry.cover}" if entry.cover else "",
        "triggers": [word[:60] for word in entry.triggers[:8]], "about": about, "family": entry.family,
        "job": entry.job or "",
    }  # fmt: skip


def siblings(context: Context, entry: Entry) -> list[Entry]:
    """The other adapters that came out of the same run."""
    if not entry.job:
        return []
    with context.workspace.read() as db:
        rows = db.execute(
            "SELECT id FROM adapters WHERE job = ? AND id <> ? AND trashed IS NULL ORDER BY created, rowid",
            (entry.job, entry.id),
        ).fetchall()
    return [context.library.get(row["id"]) for row in rows]


def add(app: FastAPI, context: Context) -> None:
    """Put the routes on."""
    _add_adapters(app, context)
    _add_mixing(app, context)
    _add_recipes(app, context)


def _add_adapters(app: FastAPI, context: Context) -> None:
    def found(adapter_id: str) -> Entry | None:
        try:
            entry = context.library.get(adapter_id) if _ID.fullmatch(adapter_id) else None
        except AdapterError:
            return None
        return entry if entry is not None and entry.trashed is None else None

    @app.get("/mix/adapters")
    def adapters(
        ids: Annotated[str, Query(max_length=_IDS * 65)] = "",
        search: Annotated[str, Query(max_length=200)] = "",
        page: Annotated[int, Query(ge=0, le=10**6)] = 0,
        size: Annotated[int, Query(ge=1, le=100)] = 48,
    ) -> Json:
        if ids:
            known = [found(one) for one in ids.split(",")[:_IDS]]
            return {"adapters": [card(entry) for entry in known if entry is not None]}
        with told():
            result = context.library.search(searching.Query(words=search, page=page), size)
        return {
            "adapters": [card(entry) for entry in result.entries], "total": result.total,
            "page": result.page, "pages": result.pages,
        }  # fmt: skip

    @app.get("/mix/siblings/{adapter_id}")
    def others(adapter_id: str) -> Json:
        entry = found(adapter_id)
        if entry is None:
            raise HTTPException(404, "this adapter is gone from the library")
        with told():
            return {"adapters": [card(one) for one in siblings(context, entry)]}

    @app.get("/mix/blocks/{adapter_id}")
    def blocks(adapter_id: str) -> Json:
        if found(adapter_id) is None:
            raise HTTPException(404, "this adapter is gone from the library")
        with told():
            answer = context.runner.maker.ask_soon("blocks", adapters=[adapter_id])
        return {"blocks": [str(name) for name in answer["blocks"][adapter_id]]}


def _add_mixing(app: FastAPI, context: Context) -> None:
    def parts(body: Json) -> list[Json]:
        request = mixing.read_request(body)
        return [part.model_dump(mode="json") for part in request.mix if part.on]

    @app.post("/mix/generate")
    def generate(body: Json) -> Json:
        with told():
            return {"job": mixing.start(context, mixing.read_request(body)).id}

    @app.post("/mix/balance")
    def balance(body: Json) -> Json:
        with told():
            return dict(context.runner.maker.ask_soon("balance", mix=parts(body), base=context.base))

    @app.post("/mix/interference")
    def interference(body: Json) -> Json:
        with told():
            found = context.runner.maker.ask_soon("interference", mix=parts(body), base=context.base)
        return {"picture": found["picture"], "text": found["text"]}

    @app.post("/mix/sentences")
    def sentences(body: Json) -> Json:
        """What to know before mixing; nothing where it can't be told, for nobody has asked for it."""
        with told():
            try:
                return dict(context.runner.maker.ask_soon("sentences", mix=parts(body), base=context.base))
            except Busy:
                raise
            except StudioError:
                return {"sentences": []}

    @app.post("/mix/picture")
    async def picture(request: Request, name: str = "picture.png") -> Json:
        """Take a picture that is drawn over, or a mask, into the workspace."""
        with tempfile.TemporaryDirectory(dir=context.workspace.folder("cache")) as folder:
            path = Path(folder) / "picture"
            with path.open("wb") as file:
                written = 0
                async for chunk in request.stream():
                    written += len(chunk)
                    if written > PICTURE_BYTES:
                        raise HTTPException(
                            413, f"the picture has more than {PICTURE_BYTES >> 20} MB; save it smaller"
                        )
                    file.write(chunk)
            with told():
                return await run_in_threadpool(_taken, context, path, name)


def _taken(context: Context, path: Path, name: str) -> Json:
    """Check a picture in a process of its own and keep it. Raises: PictureError with the reason."""
    from studio.dropped import Dropped, Refused, one_name
    from studio.ingest import ingesting
    from studio.pictures import Pictures

    with ingesting(Pictures(context.workspace)) as ingest:
        taken = ingest.picture(Dropped(path, one_name(name)))
    if isinstance(taken, Refused):
        raise PictureError(taken.line())
    found, _ = taken
    return {"ref": f"picture/{found.sha256}", "width": found.width, "height": found.height}


def _add_recipes(app: FastAPI, context: Context) -> None:
    recipes = Recipes(context)

    @app.get("/mix/recipes")
    def rows() -> Json:
        return {"recipes": [as_data(kept) for kept in recipes.rows()]}

    @app.post("/mix/recipes")
    def save(body: Json) -> Json:
        with told():
            request = mixing.read_request(body.get("request", {}))
            return as_data(recipes.save(str(body.get("name", "")), request.mix, request.generation.prompt))

    @app.put("/mix/recipes")
    async def take(request: Request) -> Json:
        """Keep a recipe's file."""
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > RECIPE_BYTES:
                raise HTTPException(413, "the file is larger than a recipe is; drop a .json that was shared")
        with told():
            return as_data(await run_in_threadpool(recipes.take, content))

    @app.get("/mix/recipes/{recipe_id}")
    def opened(recipe_id: str) -> Json:
        with told():
            found = recipes.open(recipe_id)
        mix = [part.model_dump(mode="json") for part in found.mix]
        return {"mix": mix, "prompt": found.prompt, "notes": list(found.notes)}

    @app.get("/mix/recipes/{recipe_id}/file")
    def file(recipe_id: str) -> Response:
        with told():
            kept = recipes.get(recipe_id)
        headers = {"content-disposition": f'attachment; filename="{kept.file_name}"'}
        return Response(kept.text, media_type="application/json", headers=headers)

    @app.delete("/mix/recipes/{recipe_id}")
    def remove(recipe_id: str) -> Json:
        with told():
            return {"text": recipes.remove(recipe_id).text}
