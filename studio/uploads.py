"""What is dropped on the page or sent by a program: kept until it was taken, and no longer.

Gradio puts uploads into a folder and removes those that it knows of after a day; what was cut off or refused
in the middle it doesn't know of at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from studio.workspace import Workspace


def let_go(workspace: Workspace, paths: Iterable[object]) -> None:
    """Remove uploads that were taken: the workspace has what was in them. Other paths stay as they are."""
    for path in paths:
        found = workspace.uploaded(str(path))
        if found is None:
            continue
        with suppress(OSError):
            found.unlink()
            if found.parent != workspace.uploads.resolve():
                found.parent.rmdir()


def keep_no_halves() -> None:
    """Let Gradio remove what came of an upload that broke off: a window was closed, a file is too large, the
    disk is full."""
    from gradio.route_utils import GradioMultiPartParser

    parse = GradioMultiPartParser.parse
    if getattr(parse, "whole", False):
        return

    async def parsed(self: Any) -> Any:
        whole: set[str] = set()
        try:
            found = await parse(self)
            whole = {value.file.name for _, value in found.multi_items() if hasattr(value, "file")}
            return found
        except OSError:  # the disk is full; whoever sends hears of it only once all of it was sent
            async for _ in self.stream:
                pass
            raise
        finally:
            for file in self._files_to_close_on_error:
                if file.name not in whole:
                    with suppress(OSError):
                        file.close()
                    with suppress(OSError):
                        Path(file.name).unlink()

    parsed.whole = True  # type: ignore[attr-defined]
    GradioMultiPartParser.parse = parsed
