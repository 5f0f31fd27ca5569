"""A studio whose jobs run out of memory where a file says so: `python -m tests.faults.memory_child studio …`.

It starts `studio.worker` and `studio.maker` through this program too, in which functions of ours look at that
file (`memory_places.FAULT` names it: "place|error") at each call, and fail once where it names them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest import MonkeyPatch

from tests.faults.memory_places import DRAWING, ERRORS, FAULT, TRAINING, Place, owner_of

PLACES = {"studio.worker": TRAINING, "studio.maker": DRAWING}


def _asked(file: Path) -> tuple[str, str, int]:
    """(place, error, when it was asked for); empty where nothing is."""
    with suppress(OSError, ValueError):
        place, error = file.read_text(encoding="utf-8").split("|")
        return place, error, file.stat().st_mtime_ns
    return "", "", 0


def _failing(name: str, place: Place, real: Callable[..., Any], file: Path) -> Callable[..., Any]:
    """A function that fails once where the file says so."""
    calls: dict[int, int] = {}

    def failing(*given: Any, **more: Any) -> Any:
        asked, error, when = _asked(file)
        if asked == name:
            calls[when] = calls.get(when, 0) + 1
            if calls[when] == place.call:
                file.unlink()
                raise ERRORS[error]()
        return real(*given, **more)

    return failing


def _put_all(places: dict[str, Place], file: Path) -> None:
    from pipelines.bases.libraries import load_libraries

    load_libraries()
    patch = MonkeyPatch()
    for name, place in places.items():
        owner = owner_of(place)
        patch.setattr(owner, place.name, _failing(name, place, getattr(owner, place.name), file))


def _through_here() -> None:
    """Let the studio's children be started through this program."""
    from studio import processes

    real = processes.spawn

    def spawn(module: str, *arguments: str, **more: Any) -> Any:
        ours = ("tests.faults.memory_child", module) if module in PLACES else (module,)
        return real(*ours, *arguments, **more)

    MonkeyPatch().setattr(processes, "spawn", spawn)


def main(argv: list[str]) -> int:
    """Be the studio, or one of its children."""
    module, arguments = argv[0], argv[1:]
    if module in PLACES:
        _put_all(PLACES[module], Path(os.environ[FAULT]))
        return int(importlib.import_module(module).main(arguments))
    from studio import cli

    _through_here()
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
