"""The server's side of the warm child process that draws (see `studio.maker`)."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]

from pipelines import errors
from pipelines.errors import Busy, StudioError
from studio import processes
from studio.bases import BaseOptions
from studio.jobs import Jobs
from studio.turns import Turns
from studio.work import KINDS, keeping
from studio.workspace import Workspace

IDLE = "maker_idle_minutes"
"""The setting of the workspace: minutes without a request after which a card's memory is given back; 0 keeps
it. Without a card the process stays, for it takes little and loads slowly; but not where accounts have one
each."""
IDLE_MINUTES = 10.0
ON_DEVICE = frozenset({"live", "balance", "interference", "sentences"})
"""Verbs that aren't worth waiting for: they are refused while something else has the device."""
_OF_A_BASE = frozenset({"warm", "about", *ON_DEVICE})
_BACK_AGAIN = frozenset({"warm", "generate"})  # after these nobody rests any more
_CUT_SHORT = frozenset({"warm", *ON_DEVICE})  # what `rest` doesn't wait for
SOON = 60.0  # seconds; a thread of the server waits as long
_HANDOVER = 10.0  # seconds from `rest` until the job that it makes room for must be there
_KEPT = 60.0  # seconds since the last request that a process stays where another account wants the device

Answered = Future[dict[str, Any]]


@dataclass(frozen=True)
class Loaded:
    """What the process holds. bytes: of the base's weights. resident: of the process' memory now."""

    base: str
    device: str
    bytes: int
    resident: int


@dataclass(eq=False)
class _Child:
    """A running process and what it was asked and hasn't answered yet, by number: the verb and the answer."""

    process: Any
    asked: dict[int, tuple[str, Answered]] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)
    ending: str = ""  # why we end it


class MakerProcess:
    """The warm child process of `studio.maker`, started when it is first needed and again after it died.

    Any thread may ask; several requests may be under way.
    """

    def __init__(
        self, workspace: Workspace, options: BaseOptions, base: str = "pocket", turns: Turns | None = None
    ) -> None:
        """base: what is drawn with where a request doesn't say it. turns: with whom the device is shared."""
        self.workspace = workspace
        self._turns = turns or Turns()
        self._asked = time.monotonic()  # when the last request came
        self.options = options
        self.base = base
        self._child: _Child | None = None
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._closed = False
        self._resting = -_HANDOVER  # since when, by the monotonic clock
        self._idle: threading.Timer | None = None

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        child = self._child
        return child is not None and child.process.poll() is None

    @property
    def loaded(self) -> Loaded | None:
        """What the process holds; None while it holds no base."""
        child = self._child
        if child is None or not child.loaded or not self.alive:
            return None
        try:
            resident = int(child.process.memory_info().rss)
        except psutil.Error:
            return None
        return Loaded(**child.loaded, resident=resident)

    def start(self) -> Any:
        """The running process.

        Raises:
            StudioError: the studio is closing.
        """
        self._turns.make_room(self)
        with self._lock:
            self._asked = time.monotonic()
            return self._running().process

    def _running(self) -> _Child:
        if self._closed:
            raise StudioError("the studio is closing; start it again to go on")
        if self._child is None or not self.alive:
            process = processes.spawn(
                "studio.maker",
                "--workspace",
                str(self.workspace.root),
                "--base-options",
                self.options.as_text(),
                output=self.workspace.folder("cache", keeping.MAKER_LOG),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert process is not None
            processes.behind(process)  # the page opens first, the base loads behind it
            self._child = _Child(process)
            threading.Thread(target=self._listen, args=(self._child,), name="answers", daemon=True).start()
        return self._child

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the answer.

        Raises:
            StudioError: what the child reported, of its class; or that it died. Busy: see `ON_DEVICE`.
        """
        return self.submit(verb, **request).result()

    def ask_soon(self, verb: str, **request: Any) -> dict[str, Any]:
        """As `ask`, for those whom somebody waits for at a page: not longer than `SOON`.

        Raises:
            Busy: pictures are being drawn, or a base is loaded, for longer.
        """
        try:
            return self.submit(verb, **request).result(SOON)
        except TimeoutError:
            raise Busy("other pictures are being drawn; try again after them") from None

    def submit(self, verb: str, **request: Any) -> Answered:
        """Send a request; its answer comes later.

        Raises:
            StudioError: the studio is closing. Busy: see `ON_DEVICE`.
        """
        if verb in _OF_A_BASE:
            request.setdefault("base", self.base)
        if verb in ON_DEVICE and (reason := self.occupied()):
            raise Busy(reason)
        if not self.alive:
            self._turns.make_room(self)
        with self._lock:
            self._asked = time.monotonic()
            if verb in _BACK_AGAIN:
                self._resting = -_HANDOVER
            if self._idle is not None:
                self._idle.cancel()
            child, number, answered = self._running(), next(self._numbers), Answered()
            child.asked[number] = (verb, answered)
        line = json.dumps({"id": number, "verb": verb, **request}).encode() + b"\n"
        with self._writing, suppress(OSError):  # where it died, `_listen` answers
            child.process.stdin.write(line)
            child.process.stdin.flush()
        return answered

    def occupied(self) -> str:
        """What else has the device for long, as one line; empty when nothing has."""
        if taken := self._turns.elsewhere(self.workspace):
            return f"{taken}; try again after it"
        running = Jobs(self.workspace).find(states=("running",), limit=20)
        for job in running:
            kind = KINDS.get(job.kind)
            if kind is not None and kind.device and kind.run:
                return f"“{job.title}” {kind.doing}; try again after it"
        if time.monotonic() - self._resting < _HANDOVER:
            return "something else is about to begin on the device; try again after it"
        return ""

    def _listen(self, child: _Child) -> None:
        """Hand out the answers of a process until it ends; then what it hasn't answered fails."""
        for line in child.process.stdout:
            with suppress(ValueError):
                self._take(child, json.loads(line))
        code = child.process.wait()
        with self._lock:
            left, child.asked = child.asked, {}
            if self._child is child:
                self._child = None
        why = f"signal {-code}; often for lack of memory" if code and code < 0 else f"exit code {code}"
        said = f"the drawing process ended ({why}); try again, with fewer or smaller pictures"
        for verb, answered in left.values():
            kind = Busy if child.ending and verb in ON_DEVICE else StudioError
            if answered.set_running_or_notify_cancel():
                answered.set_exception(kind(child.ending or said))

    def _take(self, child: _Child, found: dict[str, Any]) -> None:
        """Pass one line of a process on."""
        if "loaded" in found:
            child.loaded = found["loaded"]
            return
        with self._lock:
            _, answered = child.asked.pop(found.pop("id"), ("", None))
            if not child.asked:
                self._give_back_later(child)
        if answered is None or not answered.set_running_or_notify_cancel():
            return
        if found.pop("ok"):
            answered.set_result(found)
        else:
            answered.set_exception(_error(found["kind"], found["error"]))

    def _give_back_later(self, child: _Child) -> None:
        """End an idle process on a card after a while, so that its memory is free for others."""
        on_card = str(child.loaded.get("device", "cpu")) != "cpu"
        if self._closed or not (on_card or self._turns.shared):
            return
        minutes = float(self.workspace.setting(IDLE, IDLE_MINUTES))
        if minutes > 0:
            self._idle = threading.Timer(minutes * 60, self._give_back, (child,))
            self._idle.daemon = True
            self._idle.start()

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            if self._child is not child or child.asked:
                return
            self._child = None
        processes.end_tree(child.process, grace=2)

    def give_way(self) -> None:
        """End the process where nobody has asked it for a while: another account's needs the memory."""
        with self._lock:
            child = self._child
            if child is None or time.monotonic() - self._asked < _KEPT:
                return
        self._give_back(child)

    def rest(self) -> None:
        """End the process, and so give its memory to a job; the next request but those of `ON_DEVICE`
        starts it again.

        A drawing that runs is finished before; loading, previews and comparing are cut short.
        """
        with self._lock:
            self._resting = time.monotonic()
            child = self._child
        if child is None:
            return
        while self.alive and any(verb not in _CUT_SHORT for verb, _ in list(child.asked.values())):
            time.sleep(0.05)
        with self._lock:
            child.ending = "the device is needed for something else; try again after it"
            if self._child is child:
                self._child = None
        processes.end_tree(child.process, grace=2)

    def close(self) -> None:
        """End the process and start none again."""
        with self._lock:
            self._closed = True
            child = self._child
            if self._idle is not None:
                self._idle.cancel()
        if child is not None and self.alive:
            child.ending = "the studio is closing; start it again to go on"
            processes.end_tree(child.process, grace=2)


def _error(kind: str, line: str) -> StudioError:
    """The error that a child reported, of its own class."""
    found = getattr(errors, kind, None) if kind else None
    if isinstance(found, type) and issubclass(found, StudioError):
        return found(line)
    return StudioError(line)
