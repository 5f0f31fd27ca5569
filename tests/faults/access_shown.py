"""HTML in names, captions, prompts and whatever else people write, looked at in a real browser: it is text.

Each text that is written calls `ran(number)` in another way; the browser notes the numbers that ran, that
became elements, and that can be read on the page.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.workspace import Workspace
from tests.faults.access_written import PLACES, TEXTS, numbered, write
from tests.faults.suites import ROOT, Tally, Task

if TYPE_CHECKING:
    from pytest import MonkeyPatch

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOOK = """() => {
    const told = {ran: [...(window.ranThem || [])], made: [], shown: []};
    const runs = (name, value) => name.startsWith('on') || name === 'srcdoc'
        || (['href', 'src', 'action'].includes(name) && /^\\s*javascript:/i.test(value));
    const find = (text, into) => {
        for (const one of String(text).matchAll(/ran\\((\\d+)\\)/g)) into.push(Number(one[1]));
    };
    const walk = (root) => {
        for (const element of root.querySelectorAll('*')) {
            if (element.shadowRoot) walk(element.shadowRoot);
            for (const {name, value} of element.attributes)
                find(value, runs(name, value) ? told.made : told.shown);
            if (element.localName === 'script') find(element.textContent, told.made);
            else for (const node of element.childNodes) if (node.nodeType === 3) find(node.data, told.shown);
            if (typeof element.value === 'string') find(element.value, told.shown);
        }
    };
    walk(document);
    return told;
}"""
BEGIN = "window.ranThem = []; window.ran = (n) => { window.top.ranThem.push(n); };"


class Looked:
    """What a browser has seen so far: numbers that ran, became elements, or could be read."""

    def __init__(self) -> None:
        self.ran: set[int] = set()
        self.made: set[int] = set()
        self.shown: set[int] = set()
        self.pages: list[str] = []

    def look(self, page: Any) -> None:
        """Look at a page and its frames now."""
        for frame in page.frames:
            with suppress(Exception):
                told = frame.evaluate(LOOK)
                self.ran |= set(told["ran"])
                self.made |= set(told["made"])
                self.shown |= set(told["shown"])


def _go(page: Any, tab: str) -> None:
    page.locator(f"#tab-{tab}-button:visible").first.click()
    page.locator(f"#tab-{tab}").wait_for()
    page.wait_for_timeout(2500)


def _press(page: Any, looked: Looked, places: str, most: int) -> None:
    """Press what is at `places`, one after the other, and look each time at what has opened."""
    for number in range(min(most, page.locator(places).count())):
        with suppress(Exception):
            page.locator(places).nth(number).click(timeout=4000)
            page.wait_for_timeout(700)
            looked.look(page)
            page.keyboard.press("Escape")


def visit(page: Any, address: str, looked: Looked, count: int) -> None:
    """Go through the page as a person who wants to see everything."""
    page.goto(address)
    page.locator("#start").wait_for()
    page.wait_for_timeout(3000)
    looked.look(page)
    _go(page, "jobs")
    looked.look(page)
    _press(page, looked, "#tab-jobs summary", 2 * count)
    _go(page, "gallery")
    _press(page, looked, '#tab-gallery [data-act="open"]', count)
    _go(page, "library")
    looked.look(page)
    _press(page, looked, "#adapters .lib-open", count)
    for act in ("edit", "export"):
        _press(page, looked, f'#tab-library [data-act="{act}"]:visible', 1)
    page.get_by_role("tab", name="Bases").click()
    page.wait_for_timeout(2500)
    looked.look(page)
    _go(page, "mix")
    page.locator("#recipes > summary").click()
    page.wait_for_timeout(1500)
    _press(page, looked, '#recipes [aria-label^="Load"]', count)
    page.locator("#rack-add").click()
    page.wait_for_timeout(1500)
    looked.look(page)
    _press(page, looked, "#picker-grid .pg-choice", 2)
    looked.look(page)


def _sets(page: Any, looked: Looked, root: Path) -> None:
    """Each set of pictures as the form recalls it."""
    workspace = Workspace(root=root, lock=None)
    with workspace.read() as db:
        sets = [row["id"] for row in db.execute("SELECT id FROM datasets")]
    for number, dataset in enumerate(sets):
        with workspace.write() as db:
            db.execute("UPDATE datasets SET changed = ? WHERE id = ?", (time.time() + 100 + number, dataset))
        page.reload()
        page.locator("#start").wait_for()
        page.wait_for_timeout(2500)
        looked.look(page)


def _pages(page: Any, address: str, looked: Looked, root: Path) -> None:
    """The reports of runs, and of several beside each other."""
    runs = sorted(path.name for path in (root / "runs").iterdir())
    for run in runs:
        page.goto(f"{address}/files/report/{run}")
        looked.look(page)
    page.goto(f"{address}/files/compare/{','.join(runs[:4])}")
    looked.look(page)


def shown_run(task: Task, tally: Tally) -> None:
    """Write each text everywhere, look at everything."""
    count = min(len(TEXTS), max(1, -(-task.count // len(PLACES))))
    root = task.folder / "workspace"
    for text in range(count):
        write(root, text)
    command = [sys.executable, "-m", "studio.cli", "studio", "--port", "0", "--workspace", str(root)]
    looked = Looked()
    environment = task.environment(PYTHONUNBUFFERED="1", PYTHONPATH=str(ROOT))
    log = task.folder / "server.log"
    with (
        log.open("wb") as said,
        subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=environment) as server,
    ):
        try:
            _browse(_address(log), looked, count, root)
        finally:
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(60)
            server.kill()
    for place, name in enumerate(PLACES):
        for text in range(count):
            number = place * 100 + text
            found = "ran" if number in looked.ran else "became an element" if number in looked.made else None
            if found is None and number not in looked.shown:
                tally.didnt_happen()  # it wasn't on any page that was looked at
                continue
            tally.happened(f"{name}: {numbered(place, text)}", found)


def _browse(address: str, looked: Looked, count: int, root: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=list(FLAGS))
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.add_init_script(BEGIN)
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: dialog.dismiss())
        visit(page, address, looked, count)
        _sets(page, looked, root)
        _pages(page, address, looked, root)
        browser.close()


def _address(log: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        lines = log.read_text(errors="replace").splitlines()
        if found := next((line.split()[3] for line in lines if line.startswith("Pigment is at ")), ""):
            return found
        time.sleep(0.2)
    raise AssertionError(f"the studio didn't start: {log.read_text(errors='replace')[-500:]}")


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def needs() -> str | None:
    """Why there is no browser to look with; None where there is one."""
    if find_spec("playwright") is None:
        return "playwright isn't installed"
    return None if _chromium() else "no chromium is installed"


# ── Safeguards taken away


def _as_html(value: object) -> str:
    return str(value)


def unescaped(patch: MonkeyPatch) -> None:
    """Texts go into the page as they are."""
    from studio import markup

    patch.setattr(markup, "text", _as_html)


PLANTS = {"unescaped": unescaped}
