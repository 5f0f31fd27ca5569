"""/files/bundle: what a run was made of and its adapter as a zip, made while it is sent; without pictures."""

from __future__ import annotations

import re
from urllib.parse import quote

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from pipelines.errors import StudioError, WorkspaceError
from studio.context import Context

_ID = re.compile(r"[0-9a-z-]{1,64}")


def add(app: FastAPI, context: Context) -> None:
    """Put the route on."""

    @app.get("/files/bundle/{job_id}")
    def bundle(job_id: str) -> StreamingResponse:
        from trainers.bundle_format import read_bundle
        from trainers.bundle_zip import members_of, zipped

        if not _ID.fullmatch(job_id):
            raise HTTPException(404)
        try:
            job = context.jobs.get(job_id)
            folder = context.jobs.folder(job)
            members = members_of(folder, read_bundle(folder))
        except (StudioError, WorkspaceError):
            raise HTTPException(404, "this run has no bundle") from None
        name = quote(f"{job.title[:100]} bundle.zip", safe="")
        headers = {
            "content-disposition": f"attachment; filename=\"bundle.zip\"; filename*=UTF-8''{name}",
            "cache-control": "no-cache",
        }
        return StreamingResponse(zipped(members), media_type="application/zip", headers=headers)
