"""The page in a browser: how soon it can be used, what it costs at rest, and the way to a first adapter."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from studio.bench.served import served

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
LONG = 1_800_000  # milliseconds


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium.

    Raises:
        ConfigError: playwright or Chromium is missing.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        raise ConfigError("no browser to measure the page with; install playwright (.[test]) and chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


def opening(rounds: int) -> dict[str, Any]:
    """Start the studio and open its page, the browser running already.

    Returns: seconds from the start of the process until “Start teaching” can be pressed and the tab's parts
    are shown (median and spread), and until the server listens.
    """
    interactive, listening = [], []
    with browser() as chromium:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as studio:
                listening.append(time.perf_counter() - studio.started)
                page = chromium.new_page()
                page.goto(studio.address)
                page.locator("#start").wait_for()
                page.locator('[data-act="example"]').first.wait_for()
                page.locator("#run .pg-piece").first.wait_for()
                interactive.append(time.perf_counter() - studio.started)
                page.close()
    return {
        "seconds_to_interactive": statistics.median(interactive),
        "seconds_to_interactive_spread": [min(interactive), max(interactive)],
        "seconds_to_listening": statistics.median(listening),
    }


def at_rest(seconds: float) -> dict[str, float]:
    """The share of one core that the server and the drawing process take while a page is open and rests."""
    with browser() as chromium, tempfile.TemporaryDirectory() as folder, served(Path(folder)) as studio:
        page = chromium.new_page()
        page.goto(studio.address)
        page.locator("#start").wait_for()
        time.sleep(20)  # the base is loaded by then
        before = studio.cpu_seconds()
        time.sleep(seconds)
        return {"idle_cpu_share": (studio.cpu_seconds() - before) / seconds}


def first_adapter() -> dict[str, float]:
    """The way of a newcomer: open the page, press an example, start, wait, download the file; in minutes."""
    with browser() as chromium, tempfile.TemporaryDirectory() as folder, served(Path(folder)) as studio:
        page = chromium.new_page()
        page.set_default_timeout(LONG)
        page.goto(studio.address)
        page.locator("#start").wait_for()
        begun = time.perf_counter()
        page.locator('[data-act="example"]').first.click()
        page.locator("#pictures img").nth(4).wait_for()
        page.locator("#start").click()
        page.locator('#run [data-state="done"]').wait_for()
        trained = time.perf_counter()
        with page.expect_download() as download:
            page.locator("#run a[download]").first.click()
        download.value.save_as(Path(folder) / "adapter.safetensors")
        return {
            "minutes_first_adapter": (time.perf_counter() - begun) / 60,
            "minutes_training": (trained - begun) / 60,
        }
