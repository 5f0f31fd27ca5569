"""The page in a real browser, against the real server, base and files: what a person does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.formats import inspect_adapter, read_adapter
from pipelines.generate import read_settings
from studio.forms import field_id

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Open = Callable[..., Any]
Shoot = Callable[[Any, str], None]
LONG = 300_000  # milliseconds: on a busy machine a training of few steps takes minutes
TABS = ("teach", "mix", "library")


def go_to(page: Any, tab: str) -> None:
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


def few_steps(page: Any, steps: int, preview_every: int) -> None:
    """Open "Advanced" and make the training short."""
    page.locator("#advanced > button").click()
    for section in ("data", "run"):
        page.locator(f"#advanced-{section} > button").click()
    fill(page, "run.steps", steps)
    fill(page, "data.num_class_images", 2)
    fill(page, "run.preview_every", preview_every)
    fill(page, "run.preview_prompts", "a zib creature")
    fill(page, "run.checkpoint_every", 2)


def wait_for_state(page: Any, *states: str) -> None:
    page.locator(", ".join(f'#run-status [data-state="{state}"]' for state in states)).wait_for(timeout=LONG)


def test_from_example_pictures_to_a_downloaded_file(
    open_page: Open, reload: Callable[[Any], None], shoot: Shoot, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = open_page()
    shoot(page, "teach-first-1280")

    # ── Teach: one click fills everything, another starts
    page.locator('[data-act="example"]').first.click()
    expect_value(page, "#trigger", "zib")
    few_steps(page, 6, preview_every=6)
    page.locator("#start").click()
    page.locator("#run-status [data-state]").wait_for()

    # ── A reload loses nothing
    reload(page)
    wait_for_state(page, "queued", "running", "done")
    wait_for_state(page, "done")
    assert page.locator("#run-strip img").count() == 2, "a preview before and one after"
    for picture in page.locator("#run-strip img").all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function(
            "picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle()
        )
    assert page.locator("#run-chart polyline.mean").count() == 1
    shoot(page, "teach-done-1280")

    # ── The file
    with page.expect_download() as download:
        page.get_by_text("Download .safetensors").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "Zib.safetensors"
    assert inspect_adapter(file)["triggers"] == ["zib"]
    read_adapter(file)

    # ── Mix: the slider stands at 1, its pictures beside the base's
    page.get_by_text("Try it in Mix").first.click()
    slider = page.locator("#rack").get_by_label("number input for Zib", exact=True)
    expect_value(page, "#prompt", "a photo of a zib creature")
    expect(slider).to_have_value("1", timeout=60_000)
    slider.fill("0.55")
    slider.blur()
    page.locator("#compare input").check()
    count = page.locator("#count input[type=number]")
    count.fill("1")
    count.blur()
    page.locator("#generate").click()
    page.locator("#mix-pictures [data-job]").wait_for(timeout=LONG)
    sides = page.locator("#mix-pictures .pg-side img")
    assert sides.count() == 2
    shoot(page, "mix-1280")
    with page.expect_download() as download:
        page.locator("#mix-pictures").get_by_text("Save").first.click()
    picture = tmp_path / "picture.png"
    download.value.save_as(picture)
    with Image.open(picture) as opened:
        assert "zib" in opened.info["parameters"]
    [use] = read_settings(picture)["generation"]["adapters"]
    assert (use["name"], use["weight"]) == ("Zib", 0.55)

    # ── After a reload the same mix and pictures are there
    reload(page)
    go_to(page, "mix")
    page.locator("#mix-pictures [data-job]").wait_for()
    expect_value(page, "#prompt", "a photo of a zib creature")
    expect(slider).to_have_value("0.55", timeout=60_000)

    # ── Library: export with its report, rename, trash and back
    go_to(page, "library")
    page.locator(".pg-adapter", has_text="Zib").first.click()
    page.locator("#export").wait_for()
    page.locator("#export").click()
    page.locator("#export-report .pg-report").wait_for(timeout=LONG)
    assert "keys:" in page.locator("#export-report").inner_text()
    shoot(page, "library-1280")
    with page.expect_download() as download:
        page.locator("#export-report a").click()
    assert download.value.suggested_filename == "Zib-kohya.safetensors"
    page.locator("#rename-to textarea, #rename-to input").first.fill("<b>Zab</b> {{x}}")
    page.locator("#rename").click()
    page.locator(".pg-adapter", has_text="<b>Zab</b> {{x}}").wait_for()
    page.locator("#to-trash").click()
    page.locator("#trash", has_text="Zab").wait_for()
    page.locator('#trash [data-act="restore"]').click()
    page.locator(".pg-adapter", has_text="<b>Zab</b> {{x}}").wait_for()

    # ── On a phone nothing is wider than the screen
    phone = open_page(390)
    for tab in TABS:
        go_to(phone, tab)
        phone.wait_for_timeout(500)
        wide = phone.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{tab} is {wide} pixels wide"
        shoot(phone, f"{tab}-390")
    dark = open_page(1280, color_scheme="dark")
    for tab in TABS:
        go_to(dark, tab)
        dark.wait_for_timeout(500)
        shoot(dark, f"{tab}-dark-1280")


def test_bad_pictures_and_missing_words_are_said_in_one_line(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    toast = page.locator(".toast-body")
    page.locator("#start").click()
    toast.filter(has_text="there are no pictures").wait_for()

    good, torn = tmp_path / "good.png", tmp_path / "torn.png"
    Image.new("RGB", (80, 60), "teal").save(good)
    torn.write_bytes(good.read_bytes()[:70])
    page.locator("#pictures input[type=file]").set_input_files([good, torn])
    page.get_by_text("torn.png").first.wait_for()
    page.wait_for_function("document.querySelectorAll('#pictures img').length === 1")
    page.locator("#start").click()
    toast.filter(has_text="the trigger is empty").wait_for()
    assert page.locator("#run-status [data-state]").count() in (0, 1)  # 1: what the test before taught


def test_stop_and_resume_from_two_windows(open_page: Open) -> None:
    page = open_page()
    page.locator('[data-act="example"]').nth(1).click()
    expect_value(page, "#trigger", "tolu")
    few_steps(page, 2000, preview_every=0)
    page.locator("#start").click()
    page.locator("#run-status", has_text="Tolu").wait_for()
    page.locator("#run-status", has_text="it").filter(has_text="step").wait_for(timeout=LONG)

    other = open_page()
    other.locator("#run-status", has_text="Tolu").wait_for()
    other.locator('#run-actions [data-act="stop"]').click()
    wait_for_state(other, "cancelled")
    wait_for_state(page, "cancelled")
    page.locator('#run-actions [data-act="resume"]').click()
    wait_for_state(page, "running")
    page.locator("#run-status", has_text="step").wait_for(timeout=LONG)
    page.locator('#run-actions [data-act="stop"]').click()
    wait_for_state(page, "cancelled")
