"""/files/report and /files/compare: pages of what was measured, which hold no script and fetch nothing."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse

from pipelines.errors import AdapterError, StudioError, WorkspaceError
from studio import attached
from studio.context import Context
from studio.routes.sending import sent
from trainers.evidence.record import REPORT_NAME

_ID = re.compile(r"[0-9a-z-]{1,64}")


def headers() -> dict[str, str]:
    """What a browser may do for these pages: show them, and save the figures that are in them."""
    from trainers.evidence.report import POLICY

    return {
        "Content-Security-Policy": f"{POLICY}; frame-ancestors 'self'; sandbox allow-downloads",
        "Cache-Control": "no-cache",  # a report is written anew when more was measured
    }


def add(app: FastAPI, context: Context) -> None:
    """Put the routes on."""

    def checked(value: str) -> str:
        if not _ID.fullmatch(value):
            raise HTTPException(404)
        return value

    def send(path: Path | None) -> FileResponse:
        return sent(
            path, "there is no report: nothing was measured", media_type="text/html", headers=headers()
        )

    @app.get("/files/report/{job_id}")
    def report(job_id: str) -> FileResponse:
        return send(context.workspace.folder("runs", checked(job_id), REPORT_NAME))

    @app.get("/files/report/adapter/{adapter_id}")
    def adapter_report(adapter_id: str) -> FileResponse:
        try:
            entry = context.library.get(checked(adapter_id))
        except AdapterError:
            raise HTTPException(404) from None
        return send(attached.report_file(context.workspace, entry.id))

    @app.get("/files/compare/{job_ids}")
    def compare(job_ids: str) -> HTMLResponse:
        """Runs beside each other, their ids with commas between."""
        from trainers.evidence.comparing import Compared, compare
        from trainers.evidence.report_comparison import comparison_page

        runs = []
        for job_id in dict.fromkeys(job_ids.split(",")):
            try:
                job = context.jobs.get(checked(job_id))
            except WorkspaceError:
                raise HTTPException(404) from None
            folder = context.jobs.folder(job)
            found = attached.run_record(folder)
            if found is None:
                raise HTTPException(404, f"nothing was measured of “{job.title[:80]}”; choose another run")
            runs.append(Compared(job.title[:200], found, folder))
        try:
            page = comparison_page(compare(runs))
        except StudioError as error:
            raise HTTPException(422, str(error)) from None
        return HTMLResponse(page, headers=headers())
