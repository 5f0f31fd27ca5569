"""/files/image/ID/SIZE: drawn pictures, small."""

from __future__ import annotations

import re

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from pipelines.errors import PictureError
from studio.context import Context
from studio.gallery import SIZES, Gallery
from studio.routes.sending import sent

_ID = re.compile(r"[0-9a-z-]{1,64}")


def add(app: FastAPI, context: Context) -> None:
    """Put the route on."""
    gallery = Gallery(context.workspace)

    @app.get("/files/image/{image_id}/{size}")
    def small(image_id: str, size: int) -> FileResponse:
        if not _ID.fullmatch(image_id) or size not in SIZES:
            raise HTTPException(404)
        try:
            path = gallery.small(image_id, size)
        except PictureError:
            raise HTTPException(404) from None
        return sent(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})
