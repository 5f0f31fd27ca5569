"""What a person does on the page, for the browser tests."""

from __future__ import annotations

import io
import time
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
    field = page.locator(f"#{field_id(path)}-input")
    field.fill(str(value))
    field.blur()


def open_advanced(page: Any, *sections: str) -> None:
    """Open "Advanced" and folds within it."""
    page.locator("#advanced .pgt-fold").first.click()
    for section in sections:
        page.locator(f"#advanced-{section} > .pgt-fold").click()


def few_steps(page: Any, steps: int, preview_every: int) -> None:
    """Make the training short."""
    open_advanced(page, "data", "run")
    fill(page, "run.steps", steps)
    fill(page, "data.num_class_images", 2)
    fill(page, "run.preview_every", preview_every)
    fill(page, "run.preview_prompts", "a zib creature")
    fill(page, "run.checkpoint_every", 2)


def choose_example(page: Any, number: int = 0) -> None:
    """Press an example set and wait for its pictures; what was chosen before is put aside."""
    page.locator("#pictures .pgt-drop").first.wait_for()
    page.wait_for_timeout(500)
    example = page.locator('[data-act="example"]').nth(number)
    if not example.is_visible():
        page.get_by_text("Start afresh").click()
    example.click()
    page.locator("#pictures .pgt-tile[data-sha] img").nth(4).wait_for()


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
    address = page.locator("#live .pg-easel-frame > img").evaluate(
        """async (picture) => {
            const blob = await (await fetch(picture.src)).blob();
            const bytes = new Uint8Array(await blob.arrayBuffer());
            return Array.from(bytes);
        }"""
    )
    content = bytes(address)
    return Image.open(io.BytesIO(content)).convert("RGB")


def live_note(page: Any) -> str:
    """What stands beside the live preview, such as why there is none."""
    return str(page.locator("#live .pg-easel-note").inner_text())


def card(page: Any, name: str) -> Any:
    """An adapter's card in the rack."""
    return page.locator("#rack .pg-rack-card", has_text=name)


def add_adapter(page: Any, name: str) -> None:
    """Take an adapter of the library into the mix."""
    page.locator("#rack-add").click()
    page.locator("#picker-search").fill(name)
    page.locator("#picker-grid .pg-choice", has_text=name).first.click()
    if page.locator("dialog.pg-picker[open]").count():
        page.keyboard.press("Escape")
    card(page, name).wait_for()


def move(page: Any, name: str, value: float) -> None:
    """Drag an adapter's slider: many inputs, then a change."""
    card(page, name).locator("input.pg-slide").first.evaluate(
        """async (slider, value) => {
            const from = Number(slider.value);
            for (let step = 1; step <= 8; step += 1) {
                slider.value = String(from + (value - from) * step / 8);
                slider.dispatchEvent(new Event('input', {bubbles: true}));
                await new Promise((done) => setTimeout(done, 30));
            }
            slider.dispatchEvent(new Event('change', {bubbles: true}));
        }""",
        value,
    )


def settled(page: Any) -> Image.Image:
    """The live picture once it is there and no wish has been under way for a while."""
    idle = """() => {
        const frame = document.querySelector('#live .pg-easel-frame');
        const picture = frame?.querySelector(':scope > img');
        return frame?.getAttribute('aria-busy') === 'false' && Boolean(picture?.src);
    }"""
    end = time.monotonic() + LONG / 1000
    rested = 0
    while rested < 4:
        assert time.monotonic() < end, f"no picture: {live_note(page)}"
        page.wait_for_timeout(250)
        rested = rested + 1 if page.evaluate(idle) else 0
    return live_picture(page)
