"""The short way through the page in a real browser: a first adapter, the live mix, an exported file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.formats import inspect_adapter, read_adapter
from tests.e2e.steps import (
    act,
    card,
    choose_example,
    expect_value,
    few_steps,
    go_to,
    move,
    saved,
    settled,
    wait_for_state,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("whole")]


def test_from_example_pictures_to_a_downloaded_file(
    open_page: Callable[..., Any], reload: Callable[[Any], None], tmp_path: Path
) -> None:
    page = open_page()
    choose_example(page)
    expect_value(page, "#trigger", "zib")
    few_steps(page, 4, preview_every=4)
    page.locator("#start").click()
    page.locator("#run [data-state]").wait_for()
    reload(page)  # loses nothing
    wait_for_state(page, "queued", "running", "done")
    wait_for_state(page, "done")
    assert page.locator("#run .pg-strip img").count() == 2, "a preview before and one after"
    file = saved(page, page.locator("#run a[download]").first, tmp_path)
    assert file.name == "Zib.safetensors" and inspect_adapter(file)["triggers"] == ["zib"]
    read_adapter(file)

    act(page, "mix")
    card(page, "Zib").first.wait_for()
    expect_value(page, "#prompt", "a photo of a zib creature")
    taught = settled(page)
    move(page, "Zib", 0.0)
    assert settled(page).tobytes() != taught.tobytes()

    go_to(page, "library")
    page.locator("#adapters .pg-adapter", has_text="Zib").first.click()
    page.locator("#export").wait_for()
