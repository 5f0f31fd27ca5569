"""Mixing in a real browser: the live picture, drawing over, the gallery, settings out of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from pipelines.generate import read_settings
from tests.e2e.steps import LONG, add_adapter, go_to, move, saved, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200), pytest.mark.usefixtures("whole")]

Open = Callable[..., Any]
SUBJECT, STYLE = "Zib, a one-eyed creature", "Blueprint: white lines on blue paper"


def open_mix(open_page: Open, **options: Any) -> Any:
    """The Mix tab with subject and style in the rack."""
    page = open_page(**options)
    go_to(page, "mix")
    page.locator("#rack-add").wait_for()
    settled(page)
    empty(page)
    for name in (SUBJECT, STYLE):
        add_adapter(page, name)
    return page


def empty(page: Any) -> None:
    """Take everything out of the mix."""
    while page.locator("#rack .pg-rack-card").count():
        page.locator("#rack .pg-rack-card").first.get_by_label("Take", exact=False).click()


def prompt(page: Any, words: str) -> None:
    """Write the prompt."""
    field = page.locator("#prompt textarea")
    field.fill(words)
    field.blur()


def generated(page: Any) -> str:
    """Press "Generate" and wait; the id of the job."""
    before = page.locator("#drawn [data-job]").first
    old = before.get_attribute("data-job") if before.count() else ""
    page.locator("#generate").click()
    page.wait_for_function(
        "old => (document.querySelector('#drawn [data-job]')?.dataset.job ?? old) !== old",
        arg=old, timeout=LONG,
    )  # fmt: skip
    return str(page.locator("#drawn [data-job]").first.get_attribute("data-job"))


def test_the_picture_follows_the_sliders_and_is_the_base_at_zero(open_page: Open) -> None:
    page = open_mix(open_page)
    prompt(page, "a photo of a zib creature")
    seen: dict[tuple[float, float], list[bytes]] = {}
    for at in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.8), (0.0, 0.0)):
        move(page, SUBJECT, at[0])
        move(page, STYLE, at[1])
        seen.setdefault(at, []).append(settled(page).tobytes())
    assert seen[0.0, 0.0][0] == seen[0.0, 0.0][1], "back at zero it is the very same picture"
    assert len({pictures[0] for pictures in seen.values()}) == 3
    empty(page)
    assert settled(page).tobytes() == seen[0.0, 0.0][0], "and the base's own"


def test_generate_draw_over_and_restore(open_page: Open, tmp_path: Path) -> None:
    page = open_mix(open_page)
    prompt(page, "a photo of a zib creature")
    move(page, SUBJECT, 0.55)
    move(page, STYLE, 0.25)
    generated(page)
    file = saved(page, page.locator("#drawn a[download]").first, tmp_path)
    settings = read_settings(file)["generation"]
    assert [use["weight"] for use in settings["adapters"]] == [0.55, 0.25]

    # ── Draw over a part of it
    page.locator("#over-fold > summary").click()
    page.locator("#over-file").set_input_files(file)
    canvas = page.locator("#brush")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)  # it scrolls smoothly
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.15 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    for step in range(12):
        page.mouse.move(box["x"] + (0.15 + 0.02 * step) * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.up()
    page.wait_for_function("window.pigment.mix.state.mask.startsWith('picture/')")
    prompt(page, "a photo of a fox on a red background")
    generated(page)
    other = saved(page, page.locator("#drawn a[download]").first, tmp_path)
    with Image.open(file) as before, Image.open(other) as after:
        away = ImageChops.difference(before.convert("RGB"), after.convert("RGB"))
        painted = np.asarray(away.crop((0, 0, 40, 30))).max()
        elsewhere = np.asarray(away.crop((0, 48, 64, 64))).max()
    assert painted > 40, "where it was painted another picture is"
    assert elsewhere < 25, "elsewhere it stayed"

    # ── The first picture's settings, out of its file
    go_to(page, "gallery")
    page.locator("#gallery-file").set_input_files(file)
    page.locator('#gallery [data-act="mix-file"], dialog [data-act="mix-file"]').first.click()
    page.locator("#rack-add").wait_for()
    page.wait_for_function(
        "() => document.querySelector('#prompt textarea')?.value === 'a photo of a zib creature'"
    )
    assert [one.input_value() for one in page.locator("#rack .pg-rack-card .pg-number").all()[:1]] == ["0.55"]


def test_before_and_after_and_the_heat_map(open_page: Open) -> None:
    page = open_mix(open_page)
    move(page, SUBJECT, 1.0)
    move(page, STYLE, 0.6)
    settled(page)
    page.locator('#live [data-toggle="beside"]').click()
    page.locator("#live pg-compare").wait_for()
    page.locator("#interference").click()
    page.locator("#rack .pg-heat img").wait_for(timeout=LONG)
    page.locator("#balance").click()
    page.locator("#rack .pg-rack-result", has_text="about as much").wait_for(timeout=LONG)
