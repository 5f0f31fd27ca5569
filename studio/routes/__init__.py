"""What the server answers beside the page: each module's `add(app, context)` puts its routes on."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from studio.context import Context
from studio.routes import api, bundles, evidence, files, images, live, mix, parts, pictures

ROUTES: tuple[Callable[[FastAPI, Context], None], ...] = (
    api.add, pictures.add, images.add, files.add, parts.add, mix.add, live.add,
    evidence.add, bundles.add,
)  # fmt: skip
