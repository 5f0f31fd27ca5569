"""The warm child process that draws pictures and checks and exports files: `python -m studio.maker`.

It keeps the base and the mixer loaded, so that a picture after a slider move costs only the picture. One JSON
request a line comes in on stdin, one answer a line goes out on stdout; it ends when stdin does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import StudioError
from studio.bases import BaseOptions
from studio.jobs import Job, Jobs
from studio.library import Library
from studio.locks import FileLock
from studio.workspace import Workspace, new_id

if TYPE_CHECKING:
    from pipelines.denoise import Step

POLL = 0.2  # seconds between two looks at the stop flag
KEPT_ADAPTERS = 16  # loaded adapters beyond which unused ones are dropped


class Stopped(Exception):
    """Somebody asked the running job to stop."""


class Maker:
    """The verbs of the child process; each takes JSON values and returns a dict of JSON values."""

    def __init__(self, workspace: Workspace, options: BaseOptions | None = None) -> None:
        """options: how bases are loaded."""
        self.workspace = workspace
        self.options = options or BaseOptions()
        self.jobs = Jobs(workspace)
        self.library = Library(workspace)
        self._base: Any = None
        self._base_ref = ""
        self._mixer: Any = None

    def warm(self, base: str = "pocket") -> dict[str, Any]:
        """Load the base, so that the first picture doesn't wait for it."""
        self._load(base)
        return {"device": str(self._base.device)}

    def check(self, path: str) -> dict[str, Any]:
        """Read a whole adapter file and raise where something is wrong with it."""
        from pipelines.formats import read_adapter

        adapter = read_adapter(Path(path))
        return {"modules": len(adapter.factors)}

    def export(
        self, adapter: str, format: str, target: str, base: str = "pocket", as_lora: int | None = None
    ) -> dict[str, Any]:
        """Write a library adapter to `target` and compare; with a picture where the device is free.

        as_lora: the rank of plain LoRA to turn it into; None keeps its method.
        """
        from pipelines.formats import read_adapter
        from pipelines.tools import half
        from studio.exporting import cover_file, halves, with_cover, write

        entry = self.library.get(adapter)
        loaded = with_cover(read_adapter(entry.path), cover_file(self.workspace, entry))
        if which := halves(format, entry):
            loaded = half(loaded, which)
        with FileLock(self.workspace.device_lock) as device:
            with_base = device.acquire(note="export")
            if with_base:
                self._load(base)
                self._mixer.restore()
            report = write(loaded, Path(target), format, self._base if with_base else None, as_lora)
        return {"text": report.as_text(), "report": report.as_dict()}

    def generate(self, job: str) -> dict[str, Any]:
        """Draw the pictures of a job and end it; the pictures' ids are its result."""
        found = self.jobs.get(job)
        try:
            with FileLock(self.workspace.device_lock) as device:
                while not device.acquire(note=f"job {job}"):
                    if self.jobs.beat(job, message="Waiting for the device"):
                        raise Stopped
                    time.sleep(POLL)
                result = self._draw(found)
        except Stopped:
            self.jobs.finish(job, "cancelled", error="stopped by you")
            return {}
        except StudioError as error:
            self.jobs.finish(job, "failed", error=str(error))
            return {}
        except Exception as error:
            traceback.print_exc()
            line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            self.jobs.finish(job, "failed", error=f"{line} (details in cache/maker.log)")
            return {}
        self.jobs.finish(job, "done", result=result)
        return result

    def _load(self, base: str) -> None:
        if self._base is not None and self._base_ref == base:
            return
        from pipelines.mixer import Mixer

        self._base, self._mixer = None, None
        self._base = self.options.load(base)
        self._mixer = Mixer(self._base)
        self._base_ref = base

    def _draw(self, job: Job) -> dict[str, Any]:
        """The pictures with the adapters, after the same seeds without them where that was asked for."""
        from studio.mixing import request_of

        self.jobs.beat(job.id, message="Loading the base" if self._base is None else "Drawing")
        self._load(job.config.get("base", "pocket"))
        request = request_of(job)
        uses, weights = [], {}
        self._make_room({part.id for part in request.mix})
        for part in request.mix:
            entry = self._attach(part.id)
            uses.append(part.use(entry.name, entry.sha256))
            weights[part.id] = uses[-1].weights()
        plain = request.generation
        turns: list[tuple[str, dict[str, Any], Any]] = []
        if request.compare and weights:
            turns.append(("plain", {}, plain))
        turns.append(("images", weights, plain.model_copy(update={"adapters": tuple(uses)})))
        result: dict[str, Any] = {}
        for turn, (name, mix, config) in enumerate(turns):
            self._mixer.set(mix)
            result[name] = self._pictures(job, config, turn, len(turns))
        return result

    def _make_room(self, wanted: set[str]) -> None:
        """Drop adapters that this mix doesn't use, where more than `KEPT_ADAPTERS` would be loaded."""
        if len(wanted.union(self._mixer.names)) > KEPT_ADAPTERS:
            for name in set(self._mixer.names) - wanted:
                self._mixer.remove(name)

    def _attach(self, adapter_id: str) -> Any:
        """The library's entry, after its file is in the mixer."""
        from pipelines.formats import read_adapter

        entry = self.library.get(adapter_id)
        if adapter_id not in self._mixer.names:
            self._mixer.add(adapter_id, read_adapter(entry.path))
        return entry

    def _pictures(self, job: Job, config: Any, turn: int, turns: int) -> list[str]:
        """Draw one configuration's pictures into `images/` and the index; returns their ids."""
        from pipelines.generate import generate

        looked = 0.0

        def on_step(step: Step) -> bool:
            nonlocal looked
            now = time.monotonic()
            if now - looked > POLL:
                looked = now
                done, total = turn * step.total + step.done, turns * step.total
                if self.jobs.beat(job.id, step=done, total=total, message="Drawing"):
                    raise Stopped
            return True

        ids = []
        for picture in generate(self._base, config, on_step=on_step):
            image_id = new_id()
            path = self.workspace.folder("images", f"{image_id}.png")
            picture.save(path)
            with self.workspace.write() as db:
                db.execute(
                    "INSERT INTO images (id, file, job, seed, settings, created) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        image_id,
                        f"images/{path.name}",
                        job.id,
                        picture.seed,
                        json.dumps(picture.settings),
                        time.time(),
                    ),
                )
            ids.append(image_id)
        return ids


VERBS = ("warm", "check", "export", "generate")


def serve(maker: Maker, requests: Any, answers: Any) -> None:
    """Answer requests until the input ends."""
    for line in requests:
        request = json.loads(line)
        verb = request.pop("verb")
        assert verb in VERBS, verb
        try:
            answer = {"ok": True, **getattr(maker, verb)(**request)}
        except StudioError as error:
            answer = {"ok": False, "error": str(error), "kind": type(error).__name__}
        except Exception as error:
            traceback.print_exc()
            answer = {
                "ok": False,
                "error": f"{type(error).__name__}: {error}".splitlines()[0][:200],
                "kind": "",
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main(argv: list[str] | None = None) -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(prog="studio.maker")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--base-options", default="{}")
    args = parser.parse_args(argv)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    opened, options = Workspace.open(args.workspace, own=False), BaseOptions.from_text(args.base_options)
    serve(Maker(opened, options), sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
