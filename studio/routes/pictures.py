"""/files/picture: the pictures of the workspace by their content, small or as they are."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from pipelines.errors import PictureError
from studio.context import Context
from studio.pictures import Pictures
from studio.routes.sending import sent

_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}


def add(app: FastAPI, context: Context) -> None:
    """Put the route on."""
    pictures = Pictures(context.workspace)

    @app.get("/files/picture/{sha256}/{size}")
    def picture(sha256: str, size: int) -> FileResponse:
        """A WebP of at least so many pixels on its longer side; 0: the file as it was dropped."""
        try:
            if size > 0:
                return sent(pictures.small(sha256, size), media_type="image/webp", headers=_FOREVER)
            found = pictures.get(sha256)
        except PictureError:
            raise HTTPException(404) from None
        return sent(found.path, media_type=found.media, headers=_FOREVER)
