"""Windows closed and reloaded in the middle of what they do: no job is lost, and a fresh one knows them."""

from __future__ import annotations

import json
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.faults.load_client import Client, status_of
from tests.faults.load_clients import Training
from tests.faults.load_server import studio_of
from tests.faults.suites import Check, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

BACK = 2.0  # seconds until a fresh window shows the running training
IN_BROWSER = 10  # every so manieth window is a real browser's, where there is one
LATE = 20.0  # seconds after which Gradio has noticed that the last window went: it looks at each beat of 15
DRAWN = 240.0  # seconds for what was drawn, once the training has ended
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip


@dataclass
class Windows:
    """Windows on one studio that don't stay.

    Attributes:
        drawn: jobs that windows began which didn't stay to see their end.
        back: seconds until fresh windows showed the training.
    """

    client: Client
    chance: random.Random
    training: Training
    drawn: list[str] = field(default_factory=list)
    back: list[float] = field(default_factory=list)

    def leave(self, path: str, body: Any = None, *, bytes_read: int = 0) -> None:
        """Ask for something, read a little of the answer, wait a little, go."""
        with closing(self.client.connect(30)) as connection:
            text = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"} if text else {}
            connection.request("GET" if text is None else "POST", path, text, headers)
            if bytes_read:
                with suppress(TimeoutError):
                    connection.getresponse().read(bytes_read)
            time.sleep(self.chance.uniform(0, 0.5))


def _page(windows: Windows) -> None:
    windows.leave("/", bytes_read=windows.chance.randrange(1, 20_000))


def _config(windows: Windows) -> None:
    windows.leave("/config", bytes_read=windows.chance.randrange(1, 20_000))


def _parts(windows: Windows) -> None:
    seen = windows.client.json("/parts?wait=0", [{"part": "jobs"}])[0]["seen"]
    windows.leave("/parts?wait=20", [{"part": "jobs", "seen": seen}])


def _heartbeat(windows: Windows) -> None:
    windows.leave(f"/gradio_api/heartbeat/{secrets.token_hex(6)}", bytes_read=5)


def _upload(windows: Windows) -> None:
    windows.client.break_off()


def _event(windows: Windows) -> None:
    """A button of the page, and gone before its stream has said anything: one that begins no job."""
    hash = secrets.token_hex(6)
    listeners = windows.client.config["dependencies"]
    fn = next(one["id"] for one in listeners if one["api_name"] == "status")
    windows.client.json("/gradio_api/queue/join", {"data": [""], "fn_index": fn, "session_hash": hash})
    windows.leave(f"/gradio_api/queue/data?session_hash={hash}", bytes_read=5)


def _draws(windows: Windows) -> None:
    """Pictures are asked for, and the window that waits for them goes."""
    asked = {"prompt": "a disc", "seed": len(windows.drawn), "settings": {"num_inference_steps": 1}}
    before = {one.id for one in windows.training.jobs.find(kind="generate", limit=1000)}
    begun = windows.client.json("/gradio_api/call/v2/generate", asked)
    windows.leave(f"/gradio_api/call/generate/{begun['event_id']}")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = windows.training.jobs.find(kind="generate", limit=1000)
        if new := [one.id for one in found if one.id not in before]:
            windows.drawn += new
            return
        time.sleep(0.05)
    raise RuntimeError("the pictures that a window asked for before it went were never queued")


def _live(windows: Windows) -> None:
    settings = {"prompt": "a disc", "seed": 1}
    wish = {"client": secrets.token_hex(6), "request": {"generation": settings, "mix": []}}
    windows.leave("/live", wish)


WAYS: dict[str, Callable[[Windows], None]] = {
    "the page": _page, "its config": _config, "a wait for news": _parts, "a heartbeat": _heartbeat,
    "an upload": _upload, "an event": _event, "a wait for pictures": _draws, "a preview": _live,
}  # fmt: skip
"""What a window is in the middle of when it goes."""


def fresh(windows: Windows) -> str | None:
    """Open a window anew; None, or what it doesn't know of the training that runs."""
    job = windows.training.job.id
    begun = time.monotonic()
    windows.client.look("run", "jobs")
    [run] = windows.client.json("/parts?wait=0", [{"part": "run"}])
    said = json.dumps(run["pieces"])
    windows.back.append(time.monotonic() - begun)
    if 'data-state=\\"running\\"' not in said:
        return f"a fresh window doesn't show the training: {said[:200]}"
    state = status_of(windows.client, job)["state"]
    return None if state == "running" else f"the training is {state}"


def whole(windows: Windows, pid: int | None) -> str | None:
    """None, or which job isn't as it was left."""
    jobs = windows.training.jobs
    now = jobs.get(windows.training.job.id)
    if now.state != "running" or now.pid != pid:
        return f"the training is {now.state} in process {now.pid}, before it was {pid}: {now.error}"
    for one in windows.drawn:
        if (state := jobs.get(one).state) not in ("queued", "running", "done"):
            return f"pictures that were asked for are {state}"
    return None


@contextmanager
def browser() -> Iterator[Any]:
    """A real browser, with a page that is closed and opened; None where there is none here."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        yield None
        return
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


def reloaded(windows: Windows, chromium: Any, times: list[float]) -> str | None:
    """Open the page in a real browser, reload it in the middle, close it; None, or what it doesn't show."""
    page = chromium.new_page()
    try:
        page.goto(windows.client.address)
        page.wait_for_timeout(windows.chance.uniform(0, 3000))
        begun = time.monotonic()
        page.reload(wait_until="commit")
        page.locator('#run [data-state="running"]').first.wait_for(timeout=60_000)
        times.append(time.monotonic() - begun)
    except Exception as error:  # of playwright, which isn't always here
        return f"a browser doesn't show the training: {str(error)[:200]}"
    finally:
        page.close()
    return None


def run(task: Task, tally: Tally) -> None:
    """Let `task.count` windows go in the middle of something beside a training."""
    from studio.bench.status import training

    root = task.folder / "workspace"
    jobs, job = training(root)
    in_browser: list[float] = []
    with studio_of(task, root) as studio, browser() as chromium:
        taught = Training(jobs, job)
        taught.begun()
        windows = Windows(Client(studio.address), random.Random(task.seed), taught)
        windows.client.look("run", "jobs")  # whatever is made at the first visit
        pid, names = jobs.get(job.id).pid, list(WAYS)
        for number in range(task.count):
            if chromium is not None and number % IN_BROWSER == IN_BROWSER - 1:
                name, problem = "a browser's window", reloaded(windows, chromium, in_browser)
            else:
                name = names[number % len(names)]
                problem = _went(windows, name)
            tally.happened(f"{number}: {name} was left", problem or fresh(windows) or whole(windows, pid))
        time.sleep(LATE)
        if problem := whole(windows, pid):
            tally.failures.append(f"{LATE:.0f} s after the last window: {problem}")
        jobs.stop(job.id)
        for problem in _all_drawn(windows):
            tally.failures.append(problem)
        if windows.client.failed or "Traceback" in studio.words():
            tally.failures.append(f"{windows.client.failed[:3]}, the server says {studio.words()[-300:]!r}")
    for name, times in (("seconds_back", windows.back), ("seconds_back_in_browser", in_browser)):
        if times:
            tally.measured(name, max(times), most=BACK, held=task.whole)


def _went(windows: Windows, name: str) -> str | None:
    try:
        WAYS[name](windows)
    except (OSError, RuntimeError) as error:
        return str(error)
    return None


def _all_drawn(windows: Windows) -> Iterator[str]:
    """Wait for the pictures that were asked for; yields what became of those that aren't there."""
    end = time.monotonic() + DRAWN
    for one in windows.drawn:
        while (found := windows.training.jobs.get(one)).active and time.monotonic() < end:
            time.sleep(0.2)
        if found.state != "done":
            yield f"pictures that a window asked for before it went are {found.state}: {found.error}"


# ── Safeguards


def _go_with_their_window(patch: MonkeyPatch) -> None:
    """A window that closes takes the jobs with it, as the work of Gradio's generators ends then."""
    from studio import api
    from studio.narrowing import Narrowed

    add, answer, contexts = api.add, Narrowed.__call__, []

    def adding(context: Any) -> None:
        add(context)
        contexts.append(context)

    async def answered(self: Narrowed, scope: Any, receive: Any, send: Any) -> None:
        try:
            await answer(self, scope, receive, send)
        finally:
            if "/heartbeat/" in scope.get("path", ""):
                for job in contexts[0].jobs.find(states=("queued", "running")):
                    contexts[0].jobs.stop(job.id)

    patch.setattr(api, "add", adding)
    patch.setattr(Narrowed, "__call__", answered)


def _with_the_answer(patch: MonkeyPatch) -> None:
    """A job that nobody waits for any more is stopped."""
    from studio.api import Api

    said = Api._waited

    async def waited(self: Api, job: Any, seconds: float) -> Any:
        try:
            return await said(self, job, min(seconds, 1.0))
        finally:
            self.context.jobs.stop(job.id)

    patch.setattr(Api, "_waited", waited)


WINDOWS_CHECK = Check(
    title="windows closed in the middle", run=run, unit="windows", full=100, short=0, planted=8,
    plants={
        "jobs outlive their window": _go_with_their_window,
        "jobs outlive the wait for them": _with_the_answer,
    },
)  # fmt: skip
