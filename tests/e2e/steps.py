"""What a person does on the page, for the browser tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from studio.forms import field_id

LONG = 420_000  # milliseconds: on a busy machine a training of few steps takes minutes
TABS = ("teach", "mix", "library", "gallery", "jobs")


def go_to(page: Any, tab: str) -> None:
    """Open a tab of the page."""
    # Gradio keeps a second, hidden row of tabs to measure their width.
    page.locator(f"#tab-{tab}-button:visible").first.click()
    page.locator(f"#tab-{tab}").wait_for()


def expect_value(page: Any, place: str, value: str) -> None:
    """Wait until the field at `place` holds `value`."""
    from playwright.sync_api import expect

    field = page.locator(place).locator("input, textarea").first
    expect(field).to_have_value(value, timeout=60_000)


def fill(page: Any, path: str, value: object) -> None:
    """Put a value into the field of the config at `path`."""
    field = page.locator(f"#{field_id(path)}").locator("input, textarea").first
    field.fill(str(value))
    field.blur()


def open_advanced(page: Any, *sections: str) -> None:
    """Open "Advanced" and folds within it."""
    page.locator("#advanced > button").click()
    for section in sections:
        page.locator(f"#advanced-{section} > button").click()


def few_steps(page: Any, steps: int, preview_every: int) -> None:
    """Make the training short."""
    open_advanced(page, "data", "run")
    fill(page, "run.steps", steps)
    fill(page, "data.num_class_images", 2)
    fill(page, "run.preview_every", preview_every)
    fill(page, "run.preview_prompts", "a zib creature")
    fill(page, "run.checkpoint_every", 2)


def choose_example(page: Any, number: int = 0) -> None:
    """Press an example set and wait for its pictures."""
    page.locator('[data-act="example"]').nth(number).click()
    page.locator("#pictures img").nth(4).wait_for()


def wait_for_state(page: Any, *states: str) -> None:
    """Wait until the run that is shown is in one of the states."""
    page.locator(", ".join(f'#run [data-state="{state}"]' for state in states)).first.wait_for(timeout=LONG)


def act(page: Any, verb: str, within: str = "#run") -> None:
    """Press a button of a part."""
    page.locator(f'{within} [data-act="{verb}"]').first.click()


def saved(page: Any, press: Any, folder: Path) -> Path:
    """Press what downloads a file; returns where it was saved."""
    with page.expect_download(timeout=LONG) as download:
        press.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def live_picture(page: Any) -> Image.Image:
    """The live preview's picture as it is shown now."""
    address = page.locator("#live img").first.evaluate(
        """async (picture) => {
            const blob = await (await fetch(picture.currentSrc || picture.src)).blob();
            const bytes = new Uint8Array(await blob.arrayBuffer());
            return Array.from(bytes);
        }"""
    )
    return Image.open(io.BytesIO(bytes(address))).convert("RGB")
