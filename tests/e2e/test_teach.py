"""Teaching in a real browser: pictures good and bad, a whole training, windows that come and go."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pipelines.formats import inspect_adapter
from studio.forms import field_id
from tests.e2e.steps import LONG, act, choose_example, expect_value, few_steps, saved, wait_for_state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200), pytest.mark.usefixtures("whole")]

Open = Callable[..., Any]


def picture(path: Path, colour: str = "teal") -> Path:
    """A picture of a disc."""
    image = Image.new("RGB", (120, 90), colour)
    ImageDraw.Draw(image).ellipse((30, 10, 90, 70), fill="white")
    image.save(path)
    return path


def test_a_first_visit_shows_the_way(open_page: Open) -> None:
    page = open_page()
    assert page.locator("#hint").inner_text().count("\n") >= 2, "three steps"
    assert page.locator('[data-act="example"]').count() == 4
    page.locator('#hint [data-act="dismiss"]').click()
    page.locator("#hint .pg-piece").wait_for(state="hidden")


def test_good_and_bad_pictures(open_page: Open, reload: Callable[[Any], None], tmp_path: Path) -> None:
    page = open_page()
    page.locator("#start").click()
    page.locator(".toast-body").first.wait_for()

    torn = tmp_path / "torn <b>.png"
    torn.write_bytes(picture(tmp_path / "good.png").read_bytes()[:70])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for number, colour in enumerate(("red", "gold")):
            archive.write(picture(tmp_path / f"{number}.png", colour), f"../../{number}.png")
        archive.writestr("notes.exe", b"MZ")
    files = page.locator("#pictures input[type=file]")
    files.set_input_files([tmp_path / "good.png", torn, tmp_path / "more.zip"])
    page.locator("#pictures .pgt-refused", has_text="torn <b>.png").wait_for()
    assert "notes.exe" in page.locator("#pictures .pgt-refused").inner_text()
    page.wait_for_function("document.querySelectorAll('#pictures .pgt-tile[data-sha] img').length === 3")

    page.locator('#pictures [data-view="captions"]').click()
    caption = page.locator("#pictures textarea").first
    caption.fill("a photo of a disc on teal")
    caption.blur()
    page.wait_for_timeout(1500)
    reload(page)
    page.locator("#pictures textarea").first.wait_for(state="attached")
    assert "a photo of a disc on teal" in [
        one.input_value() for one in page.locator("#pictures textarea").all()
    ]
    page.locator("#pictures .pgt-x").first.click()
    page.wait_for_function("document.querySelectorAll('#pictures .pgt-tile[data-sha]').length === 2")
    page.locator("#start").click()
    page.locator(".toast-body", has_text="trigger").wait_for()


FIRST_UPLOAD_FAILS = """() => {
    const real = window.fetch;
    window.uploads = [];
    window.fetch = (address, options) => {
        if (!String(address).includes('gradio_api/upload')) return real(address, options);
        window.uploads.push(options.body.getAll('files').length);
        if (window.uploads.length === 1) return Promise.reject(new TypeError('cut off'));
        return real(address, options);
    };
}"""


def test_many_pictures_travel_together_and_alone_where_that_fails(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    page.evaluate(FIRST_UPLOAD_FAILS)
    folder = tmp_path / "many"
    folder.mkdir()
    colours = [f"#{40 * red:02x}{60 * green:02x}80" for red in range(6) for green in range(4)]
    files = [picture(folder / f"many-{number}.png", colour) for number, colour in enumerate(colours)]
    page.locator("#pictures input[type=file]").set_input_files(files)
    arrived = "#pictures .pgt-tile[data-sha] img[alt^=many-]"  # beside those that a test before has left
    page.wait_for_function(f"document.querySelectorAll('{arrived}').length === 24")
    assert not page.locator("#pictures .pgt-refused").is_visible()
    first, *others = page.evaluate("window.uploads")
    assert first > 1, "several in one upload"
    assert others.count(1) == first, "each of those that didn't arrive is sent again by itself"
    assert sum(others) == 24


def test_the_sketch_preset_to_its_end_whatever_becomes_of_the_window(
    open_page: Open, reload: Callable[[Any], None], tmp_path: Path
) -> None:
    page = open_page()
    choose_example(page)
    expect_value(page, "#trigger", "zib")
    page.locator("#start").click()
    wait_for_state(page, "running")
    page.locator("#run", has_text="step ").filter(has_text="left").wait_for(timeout=LONG)

    reload(page)  # in the middle
    page.locator("#run", has_text="step ").wait_for(timeout=10_000)
    other = open_page()  # a second window sees the same
    other.locator("#run", has_text="step ").wait_for(timeout=10_000)
    page.context.close()
    wait_for_state(other, "done")
    other.context.close()

    page = open_page()  # come back after it ended
    wait_for_state(page, "done")
    assert page.locator("#run .pg-strip img").count() >= 4
    for shown in page.locator("#run .pg-strip img").all():
        shown.scroll_into_view_if_needed()
        page.wait_for_function(
            "picture => picture.complete && picture.naturalWidth > 0", arg=shown.element_handle()
        )
    assert page.locator("#run .pg-chart polyline.mean").count() == 1
    assert page.locator("#run pg-compare").count() >= 1, "a pair of before and after"
    end = page.locator('#run [data-piece="end"]')
    assert "is recommended" in end.inner_text() and "the error on its pictures" in end.inner_text()
    assert page.locator("#run .pg-strip figure.chosen").count() >= 1, "the recommended step in the strip"
    well = page.locator("#run .pgt-well").count()
    assert well + page.locator("#run .pgt-finding").count() >= 1, "a verdict, be it that all is well"
    bundle = saved(page, page.get_by_role("link", name="Bundle"), tmp_path)
    with zipfile.ZipFile(bundle) as archive:
        assert any(name.endswith("bundle.toml") for name in archive.namelist())
    report = page.get_by_role("link", name="Report").get_attribute("href")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    shown = page.context.new_page()
    shown.goto(page.url.rstrip("/") + "/" + report)
    shown.locator("h1", has_text="zib").wait_for()
    shown.wait_for_load_state("load")
    assert all(url.startswith("data:") for url in asked if "report" not in url and url != page.url), asked
    assert shown.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    shown.close()
    file = saved(page, page.locator("#run a[download]").first, tmp_path)
    assert inspect_adapter(file)["triggers"] == ["zib"]


def test_a_run_with_a_fault_says_so_and_its_cure_fills_the_form(open_page: Open) -> None:
    page = open_page()
    choose_example(page)
    expect_value(page, "#trigger", "zib")
    few_steps(page, 12, preview_every=0)
    page.locator("#start").click()
    wait_for_state(page, "running")
    wait_for_state(page, "done")
    fault = page.locator("#run .pgt-finding").first
    fault.wait_for()
    assert "Apply and run again" in fault.inner_text()
    steps = page.locator(f"#{field_id('run.steps')}-input")
    assert steps.input_value() == "12"
    fault.locator('[data-act="again"]').click()
    page.locator("#again").wait_for()
    page.wait_for_function(
        "id => Number(document.getElementById(id).value) > 12", arg=steps.get_attribute("id")
    )
    expect_value(page, "#trigger", "zib")
    assert page.locator("#pictures .pgt-tile[data-sha]").count() == 5


def test_pause_resume_and_cancel_from_two_windows(open_page: Open) -> None:
    page = open_page()
    choose_example(page, 1)
    expect_value(page, "#trigger", "tolu")
    few_steps(page, 2000, preview_every=0)
    page.locator("#start").click()
    page.locator("#run", has_text="Tolu").wait_for()
    page.locator("#run", has_text="step ").wait_for(timeout=LONG)

    other = open_page()
    other.locator("#run", has_text="Tolu").wait_for()
    act(other, "pause")
    wait_for_state(other, "paused")
    wait_for_state(page, "paused")
    act(page, "resume")
    wait_for_state(page, "running")
    page.locator("#run", has_text="step ").wait_for(timeout=LONG)
    act(page, "stop")
    wait_for_state(page, "cancelled")
    wait_for_state(other, "cancelled")
