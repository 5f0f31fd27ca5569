"""The pictures that a request draws over: found by their ids, recorded in the settings."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from studio.mixing import Request
from studio.workspace import Workspace

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.generation import GenerationConfig, Inputs

_KEPT = 4  # opened pictures; a slider move draws over the same ones again


class Sources:
    """Opens "image/ID" of the gallery and "picture/SHA256" of the pictures; keeps a few open."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._open: OrderedDict[str, tuple[Image, str]] = OrderedDict()

    def of(self, request: Request) -> tuple[GenerationConfig, Inputs | None]:
        """The settings of a request with its pictures recorded, and those; None where it has none.

        Raises:
            PictureError: one is gone or can't be read.
        """
        if not request.image:
            return request.generation, None
        from pipelines.generation import Inputs, PictureUse

        found: dict[str, Any] = {}
        records = {}
        for name, ref in (("image", request.image), ("mask", request.mask)):
            if ref:
                found[name], called = self.picture(ref)
                records[name] = PictureUse.of(found[name], called)
        return request.generation.model_copy(update=records), Inputs(**found)

    def picture(self, ref: str) -> tuple[Image, str]:
        """A picture and what it is called.

        Raises:
            PictureError: it is gone or can't be read.
        """
        if ref not in self._open:
            self._open[ref] = self._read(ref)
            while len(self._open) > _KEPT:
                self._open.popitem(last=False)
        self._open.move_to_end(ref)
        return self._open[ref]

    def _read(self, ref: str) -> tuple[Image, str]:
        from studio.commands.picture_inputs import picture
        from studio.gallery import Gallery
        from studio.pictures import Pictures

        kind, _, key = ref.partition("/")
        if kind == "image":
            drawn = Gallery(self.workspace).get(key)
            return picture(str(drawn.path)), drawn.file_name
        dropped = Pictures(self.workspace).get(key)
        return picture(str(dropped.path)), dropped.name
