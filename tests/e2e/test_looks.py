"""Every tab at two widths, light and dark, by keyboard, and by the accessibility rules of axe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.steps import TABS, choose_example, few_steps, go_to, settled, wait_for_state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200), pytest.mark.usefixtures("whole")]

Open = Callable[..., Any]
Shoot = Callable[[Any, str], None]


@pytest.fixture(scope="module")
def taught(studio: str, browser: Any) -> None:
    """A short training, so that the tabs have something to show."""
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(studio)
    page.locator("#start").wait_for()
    choose_example(page)
    few_steps(page, 6, preview_every=2)
    page.locator("#start").click()
    wait_for_state(page, "done")
    go_to(page, "mix")
    settled(page)
    page.locator("#generate").click()
    page.locator("#drawn [data-job] img").first.wait_for(timeout=120_000)
    page.close()


def ready(page: Any, tab: str) -> None:
    """Open a tab and wait until it stands still."""
    go_to(page, tab)
    if tab == "mix":
        settled(page)
    page.wait_for_timeout(1200)


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_tab_is_wider_than_its_screen(open_page: Open, shoot: Shoot, width: int, scheme: str) -> None:
    page = open_page(width, color_scheme=scheme)
    for tab in TABS:
        ready(page, tab)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{tab} is {wide} pixels wide"
        shoot(page, f"{tab}-{width}-{scheme}")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in dark.strip("rgb()").split(",")[:3]) < 200) == (scheme == "dark")


@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_finding_of_axe(open_page: Open, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe isn't installed").Axe()
    page = open_page(color_scheme=scheme)
    found = []
    for tab in TABS:
        ready(page, tab)
        for violation in axe.run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                where = "; ".join(str(node["target"]) for node in violation["nodes"][:6])
                found.append(f"{tab}: {violation['id']} ({violation['help']}): {where}")
    assert not found, "\n".join(found)


@pytest.mark.usefixtures("taught")
def test_the_main_path_by_keyboard_alone(open_page: Open) -> None:
    page = open_page()

    def tab_to(wanted: str, limit: int = 120) -> None:
        for _ in range(limit):
            page.keyboard.press("Tab")
            if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
                outline = page.evaluate(
                    """() => {
                        const style = getComputedStyle(document.activeElement);
                        return [style.outlineStyle, style.boxShadow];
                    }"""
                )
                assert outline[0] != "none" or outline[1] != "none", (
                    f"{wanted} doesn't show that it has the focus"
                )
                return
        raise AssertionError(f"Tab never reached {wanted}")

    tab_to("#pictures .pgt-tools > button:last-child")  # “Start afresh”
    page.keyboard.press("Enter")
    page.locator('[data-act="example"]').first.wait_for()
    tab_to('[data-act="example"]')
    page.keyboard.press("Enter")
    page.locator("#pictures img").nth(4).wait_for()
    tab_to("#start, #start button")
    before = page.locator("#run [data-job]").first.get_attribute("data-job")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "old => document.querySelector('#run [data-job]')?.dataset.job !== old", arg=before
    )
    tab_to('#run [data-act="stop"]')
    page.keyboard.press("Enter")
    wait_for_state(page, "cancelled")
    tab_to("#tab-mix-button", limit=300)
    page.keyboard.press("Enter")
    page.locator("#tab-mix").wait_for()
    settled(page)
    tab_to("#rack input.pg-slide")
    value = page.evaluate("document.activeElement.value")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.value") != value
    settled(page)
    tab_to("#generate")
    page.keyboard.press("Enter")
    page.locator("#drawn [data-job] img").first.wait_for()
