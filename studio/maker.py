"""The warm child process that draws, previews and compares: `python -m studio.maker`.

It keeps the base and the mixer loaded, so that a picture after a slider move costs only the picture. JSON
requests `{"id", "verb", …}` come in on stdin, a line each; answers `{"id", "ok", …}` go out on stdout as they
get ready. What is loaded is told in between, as `{"loaded": {…}}`. The process ends when stdin does.

Wishes of the live preview go past what else is asked, to a thread of their own; the others are done one after
the other.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipelines.errors import ConfigError, StudioError, nearest
from pipelines.exhausted import device_lost, lost_line, out_of_memory
from studio.bases import BaseOptions
from studio.jobs import Jobs
from studio.making import advice
from studio.making.drawing import Drawing, Stopped
from studio.making.held import Held
from studio.making.meetings import Meetings
from studio.making.previews import Previews, Wish
from studio.making.sources import Sources
from studio.mixing import MixPart, read_request
from studio.workspace import Workspace

Answer = Callable[[dict[str, Any] | Exception], object]


class Maker:
    """The verbs of the child process; each takes JSON values and returns a dict of JSON values."""

    def __init__(
        self,
        workspace: Workspace,
        options: BaseOptions | None = None,
        on_load: Callable[[Any], object] | None = None,
        lost: threading.Event | None = None,
    ) -> None:
        """options: how bases are loaded. on_load: as `Held` has it. lost: set once the device has failed."""
        self.workspace = workspace
        self.jobs = Jobs(workspace)
        self.held = Held(workspace, options, on_load)
        self.sources = Sources(workspace)
        self.meetings = Meetings(self.held, self._idle)
        self.lost = lost or threading.Event()
        self._previews: Previews | None = None

    def warm(self, base: str = "pocket") -> dict[str, Any]:
        """Load the base, so that the first picture doesn't wait for it."""
        with self.held.lent(base) as (mixer, _):
            return {"device": str(mixer.base.device)}

    def about(self, base: str = "pocket") -> dict[str, Any]:
        """What a base is, without loading it: "ref", "family", "sha256", "prediction_type"."""
        source = self.held.options_of(base).open(base)
        return {
            "ref": source.ref,
            "family": source.family.id,
            "sha256": source.sha256,
            "prediction_type": source.prediction_type,
        }

    def generate(self, job: str) -> dict[str, Any]:
        """Draw the pictures of a job and end it; the pictures' ids are its result."""
        drawing = Drawing(self.held, self.sources, self.jobs, self.jobs.get(job))
        try:
            result = drawing.run()
        except Stopped:
            self.jobs.finish(job, "cancelled", error="stopped by you", result=drawing.result)
            return {}
        except Exception as error:
            self.jobs.finish(job, "failed", error=in_one_line(error), result=drawing.result)
            if device_lost(error):
                self.lost.set()
            return {}
        self.jobs.finish(job, "done", result=result)
        return result

    def balance(self, mix: Sequence[Any], base: str = "pocket", measure: str = "effect") -> dict[str, Any]:
        """Weights at which adapters change as much as each other; see `advice.balance`."""
        return advice.balance(self.held, base, [MixPart.model_validate(part) for part in mix], measure)

    def interference(self, mix: Sequence[Any], base: str = "pocket") -> dict[str, Any]:
        """What adapters do to each other: as `advice.interference`, after the sentences of `Meetings`."""
        parts = [MixPart.model_validate(part) for part in mix]
        said = [str(one["words"]) for one in self.meetings.sentences(base, parts)["sentences"]]
        found = advice.interference(self.held, base, parts)
        return {**found, "text": list(dict.fromkeys([*said, *found["text"]]))}

    def _idle(self) -> None:
        if self._previews is not None:
            self._previews.idle()

    def sentences(self, mix: Sequence[Any], base: str = "pocket") -> dict[str, Any]:
        """What matters about a mix, in sentences; see `Meetings`."""
        return self.meetings.sentences(base, [MixPart.model_validate(part) for part in mix])

    def blocks(self, adapters: Sequence[str]) -> dict[str, Any]:
        """The blocks that adapters reach; see `advice.blocks`."""
        return advice.blocks(self.held, adapters)

    def live(self, answer: Answer, client: str, request: Any, base: str = "pocket") -> None:
        """Take up a wish of a window; `answer` gets {"picture", "seconds", "number"} or {"overtaken"}."""
        if self._previews is None:
            self._previews = Previews(self.held, self.sources)
        self._previews.wish(Wish(client, base, read_request(request), answer))


LOST = 76  # exit code of a process whose device has failed
LAST_WORDS = 0.5  # seconds that it has for its answer then
VERBS = ("warm", "about", "generate", "balance", "interference", "sentences", "blocks")


def in_one_line(error: Exception) -> str:
    """An error for people; what they can't mend is printed whole into the log too."""
    if isinstance(error, StudioError):
        return str(error)
    traceback.print_exception(error)
    if device_lost(error):
        return lost_line(error)
    if out_of_memory(error):
        return "the memory doesn't suffice for this; draw smaller pictures, or fewer at once (Batch)"
    line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return f"{line} (details in cache/maker.log)"


class Answers:
    """Writes answers, of any thread, a line each."""

    def __init__(self, stream: Any, lost: threading.Event | None = None) -> None:
        """lost: set where an answer says that the device has failed."""
        self._stream, self._turn, self._lost = stream, threading.Lock(), lost

    def tell(self, **values: Any) -> None:
        """Write a line. Nobody may be there any more; then nothing happens."""
        with self._turn:
            try:
                self._stream.write(json.dumps(values) + "\n")
                self._stream.flush()
            except OSError:
                pass

    def to(self, number: int) -> Answer:
        """What answers request `number`."""

        def answer(found: dict[str, Any] | Exception) -> None:
            if isinstance(found, Exception):
                kind = type(found).__name__ if isinstance(found, StudioError) else ""
                self.tell(id=number, ok=False, error=in_one_line(found), kind=kind)
                if self._lost is not None and device_lost(found):
                    self._lost.set()
            else:
                self.tell(**{**found, "id": number, "ok": True})

        return answer


def serve(maker: Maker, requests: Iterable[str], answers: Answers) -> None:
    """Answer requests until the input ends; what is being done then isn't waited for."""
    waiting: queue.Queue[tuple[str, dict[str, Any], Answer]] = queue.Queue()

    def work() -> None:
        while True:
            verb, request, answer = waiting.get()
            try:
                answer(getattr(maker, verb)(**request))
            except Exception as error:
                answer(error)

    threading.Thread(target=work, name="work", daemon=True).start()
    for line in requests:
        request = json.loads(line)
        answer, verb = answers.to(request.pop("id")), request.pop("verb")
        try:
            if verb == "live":
                maker.live(answer, **request)
            elif verb in VERBS:
                waiting.put((verb, request, answer))
            else:
                raise ConfigError(f"unknown verb {verb!r}{nearest(verb, (*VERBS, 'live'))}")
        except Exception as error:
            answer(error)


def _leave(lost: threading.Event) -> None:
    """End the process once its device has failed, for nothing works on it any more here; the next request
    starts another."""
    lost.wait()
    time.sleep(LAST_WORDS)
    sys.stderr.flush()
    os._exit(LOST)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(prog="studio.maker")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--base-options", default="{}")
    args = parser.parse_args(argv)
    lost = threading.Event()
    answers = Answers(os.fdopen(os.dup(1), "w", encoding="utf-8"), lost)
    os.dup2(2, 1)  # what libraries print must not get between the answers
    opened, options = Workspace.open(args.workspace, own=False), BaseOptions.from_text(args.base_options)
    maker = Maker(opened, options, on_load=lambda loaded: answers.tell(loaded=loaded), lost=lost)
    threading.Thread(target=_leave, args=(lost,), name="leaving", daemon=True).start()
    serve(maker, sys.stdin, answers)
    sys.stderr.flush()
    os._exit(0)  # threads may be in the middle of a step, which nobody waits for any more


if __name__ == "__main__":
    sys.exit(main())
