"""The library in a real browser: an export that other tools load, and the file taken in again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.steps import LONG, go_to, saved

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200), pytest.mark.usefixtures("whole")]

ROOT = Path(__file__).resolve().parents[2]


def test_an_export_is_loaded_by_diffusers_and_taken_in_again(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    page = open_page()
    go_to(page, "library")
    page.locator("#adapters .pg-adapter", has_text="Tolu").first.click()
    page.locator("#export").click()
    page.locator("#library-dialog-go").click()
    page.locator("#export-report a[download]").first.wait_for(timeout=LONG)
    page.locator("#export-report summary").first.click()
    assert "keys" in page.locator("#export-report .pg-report").inner_text()
    file = saved(page, page.locator("#export-report a[download]").first, tmp_path)

    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "assets" / "pocket", safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    draw = {
        "prompt": "a tolu teapot",
        "num_inference_steps": 4,
        "height": 64,
        "width": 64,
        "output_type": "np",
    }
    plain = pipe(**draw, generator=torch.Generator().manual_seed(1)).images
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    changed = pipe(**draw, generator=torch.Generator().manual_seed(1)).images
    assert abs(plain - changed).max() > 0.05

    page.locator("#import input[type=file]").set_input_files(file)
    page.locator("#adapters", has_text="5 adapters").wait_for(timeout=LONG)
    page.locator("#library-search input").fill("no such thing")
    page.locator("#adapters .pg-adapter").first.wait_for(state="detached")


def test_rename_trash_and_back(open_page: Callable[..., Any]) -> None:
    page = open_page()
    go_to(page, "library")
    page.locator("#adapters .pg-adapter", has_text="Pixel").first.click()
    page.locator('#adapter-detail [data-act="edit"]').click()
    page.locator("#library-dialog-edit-name").fill("<b>Zab</b> {{x}}")
    page.locator("#library-dialog-go").click()
    page.locator("#adapters .pg-adapter", has_text="<b>Zab</b> {{x}}").wait_for()
    page.locator('#adapter-detail [data-act="trash"]').click()
    page.locator("#adapters .pg-adapter", has_text="Zab").wait_for(state="detached")
    page.locator('[data-act="restore"]:visible').first.click()
    page.locator("#adapters .pg-adapter", has_text="<b>Zab</b> {{x}}").wait_for()
