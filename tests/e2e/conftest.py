"""The real server on the embedded base, and a browser to look at it with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SECOND = 1000  # milliseconds, which playwright counts in


@pytest.fixture(scope="session")
def whole() -> None:
    """For tests of the page, which take minutes: only `make test-page` runs them."""
    if not os.environ.get("PIGMENT_PAGE"):
        pytest.skip("takes minutes; `make test-page` runs the page's tests whole")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium or Chrome; without one these tests are skipped."""
    pytest.importorskip("playwright", reason="playwright isn't installed")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium found: install Debian's package chromium to run the browser tests")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    """The address of a studio with an empty workspace, on the embedded base."""
    if not (ROOT / "assets" / "pocket" / "model_index.json").is_file():
        pytest.skip("the embedded base isn't in assets/pocket")
    workspace = tmp_path_factory.mktemp("studio")
    command = [sys.executable, "app.py", "--port", "0", "--workspace", str(workspace)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("Pigment is at "), line
        yield line.split()[3]
        server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def troubles() -> list[str]:
    """What the browser complained about."""
    return []


@pytest.fixture
def open_page(browser: Any, studio: str, troubles: list[str]) -> Iterator[Callable[..., Any]]:
    """Open the studio in a window of a given width; console errors and requests elsewhere fail the test."""
    contexts = []

    def elsewhere(request: Any) -> None:
        if not request.url.startswith((studio, "data:", "blob:")):
            troubles.append(f"request to {request.url}")

    def open_window(width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60 * SECOND)
        page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(f"uncaught: {error}"))
        page.on("request", elsewhere)
        page.goto(studio)
        page.locator("#start").wait_for()
        page.locator('#run [data-piece="status"] > *').first.wait_for()  # shown by scripts that run by now
        page.wait_for_timeout(1500)  # on a busy machine Gradio listens a little after it shows its buttons
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def reload(troubles: list[str]) -> Callable[[Any], None]:
    """Reload a page; what Gradio says about the requests that this cuts off is no trouble."""

    def again(page: Any) -> None:
        page.reload()
        page.locator("#start").wait_for()
        troubles[:] = [one for one in troubles if "AbortError" not in one and "errored out" not in one]

    return again


@pytest.fixture
def shoot() -> Callable[[Any, str], None]:
    """Keep a screenshot in $PIGMENT_SCREENSHOTS, where that is set."""
    folder = os.environ.get("PIGMENT_SCREENSHOTS")

    def keep(page: Any, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    return keep
