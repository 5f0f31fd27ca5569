"""The routes under /files: things of the workspace by id, never by path."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, JSONResponse

from pipelines.errors import AdapterError, ConfigError, WorkspaceError
from studio.context import Context
from studio.examples import example_sets
from studio.exporting import exported
from studio.routes.sending import sent
from studio.whole import sound_entry

_ID = re.compile(r"[0-9a-z-]{1,64}")
_COVER = re.compile(r"[0-9a-f]{12}")
_TAUGHT = re.compile(r"[0-9]{3,6}\.[a-z]{3,4}")
_PREVIEW = re.compile(r"[A-Za-z0-9_-]{1,80}\.png")


def add(app: FastAPI, context: Context) -> None:
    """The routes under /files: things of the workspace by id, never by path."""
    workspace, jobs, library = context.workspace, context.jobs, context.library

    def checked(value: str, pattern: re.Pattern[str] = _ID) -> str:
        if not pattern.fullmatch(value):
            raise HTTPException(404)
        return value

    def send(path: Path, name: str | None = None, *, media: str | None = None) -> FileResponse:
        headers = {"Cache-Control": "private, max-age=31536000, immutable"} if name is None else {}
        return sent(path, filename=name, media_type=media, headers=headers)

    @app.get("/files/image/{image_id}")
    def image(image_id: str) -> FileResponse:
        return send(workspace.folder("images", f"{checked(image_id)}.png"))

    @app.get("/files/preview/{job_id}/{name}")
    def preview(job_id: str, name: str) -> FileResponse:
        return send(workspace.folder("runs", checked(job_id), "previews", checked(name, _PREVIEW)))

    @app.get("/files/evidence/{job_id}/{name}")
    def evidence(job_id: str, name: str) -> FileResponse:
        return send(workspace.folder("runs", checked(job_id), "evidence", checked(name, _PREVIEW)))

    @app.get("/files/taught/{job_id}/{name}")
    def taught(job_id: str, name: str) -> FileResponse:
        """A picture that a run has learned from, by the file that it was laid out under."""
        try:
            told = jobs.get(checked(job_id)).config.get("data", {}).get("instance_images", "")
        except WorkspaceError:
            raise HTTPException(404) from None
        folder = checked(
            Path(str(told)).name
        )  # of pictures/; another run's where this one was copied from it
        return send(workspace.folder("pictures", folder, checked(name, _TAUGHT)))

    @app.get("/files/example/{set_id}/{number}")
    def example(set_id: str, number: int) -> FileResponse:
        pictures = [path for one in example_sets() if one.id == set_id for path in one.pictures]
        if not 0 <= number < len(pictures):
            raise HTTPException(404)
        return send(pictures[number])

    @app.get("/files/adapter/{adapter_id}")
    def adapter(adapter_id: str) -> FileResponse:
        try:
            library.get(checked(adapter_id))
        except AdapterError:
            raise HTTPException(404) from None
        try:
            entry = sound_entry(library, adapter_id)
        except AdapterError as error:  # a file that came to harm isn't to go further
            raise HTTPException(409, str(error)) from None
        return send(entry.path, entry.file_name, media="application/octet-stream")

    @app.get("/files/cover/{adapter_id}/{name}")
    def cover(adapter_id: str, name: str) -> FileResponse:
        checked(adapter_id)
        return send(workspace.folder("adapters", f"{adapter_id}.{checked(name, _COVER)}.jpg"))

    @app.get("/files/export/{job_id}")
    def export(job_id: str) -> FileResponse:
        try:
            path = exported(workspace, jobs.get(checked(job_id)))
        except WorkspaceError:
            raise HTTPException(404) from None
        if path is None:
            raise HTTPException(404)
        return send(path, path.name, media="application/octet-stream")

    @app.get("/files/run/{job_id}/config.json")
    def config(job_id: str) -> JSONResponse:
        """What a run was taught with, without this machine's folders."""
        from trainers.config import validate

        try:
            told = validate(jobs.get(checked(job_id)).config).public()
        except (WorkspaceError, ConfigError):
            raise HTTPException(404) from None
        return JSONResponse(told, headers={"content-disposition": 'attachment; filename="config.json"'})
