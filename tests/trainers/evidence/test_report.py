"""Reports: one file that asks nothing of any network, whatever of a record is missing."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import StudioError
from tests.made_runs import HOSTILE, losses, made_record, made_run, seen
from trainers.evidence import report as reports
from trainers.evidence.record import Choice, Finding, Record, read_record
from trainers.evidence.report_charts import Chart, Line, percent, running_mean, span_of, thinned, ticks
from trainers.evidence.report_parts import few
from trainers.evidence.report_pictures import Pictures, Size, below
from trainers.evidence.rules import WELL

ADDRESSES = ("src", "href", "srcset", "poster", "action", "data", "background", "xlink:href")


class Page(HTMLParser):
    """What of a page could make a browser ask for something, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag and its addresses."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        """Keep what is said."""
        self.said += data


def test_a_report_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    path = reports.write_report(made_run(tmp_path, HOSTILE, verdict=(
        Finding(rule="memorised", title=HOSTILE, words=HOSTILE, advice=HOSTILE),
    )))  # fmt: skip
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and not page.handlers and "@import" not in text and "url(" not in text
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert set(page.tags) & {"iframe", "object", "embed", "form", "base", "video", "audio"} == set()
    assert 'http-equiv="Content-Security-Policy"' in text and "default-src &#x27;none&#x27;" in text
    assert HOSTILE in page.said
    for said in (
        "As it learned",
        "Against the base",
        "Copies",
        "Curves",
        "What it changed",
        "Step 50",
        "cd" * 32,
    ):
        assert said in page.said
    assert "A copy is nearer than structure 80%, calibrated on pairs of the pictures." in page.said
    assert page.tags.count("img") >= 3 + 1 + 2 + 2  # strip, hero, base and taught, pair
    assert str(tmp_path) not in text


def test_the_record_is_inside_to_be_saved(tmp_path: Path) -> None:
    text = reports.write_report(made_run(tmp_path)).read_text(encoding="utf-8")
    (data,) = re.findall(r"data:application/json;base64,([A-Za-z0-9+/=]+)", text)
    assert Record.model_validate(json.loads(base64.b64decode(data))) == read_record(tmp_path)


@pytest.mark.parametrize("kept", [
    set(), {"anatomy"}, {"measured"}, {"previews"}, {"drawn"}, {"memorisation"}, {"curve"}, {"config"},
    {"choice"},
])  # fmt: skip
def test_any_part_may_be_missing(tmp_path: Path, kept: set[str]) -> None:
    whole = made_record(tmp_path)
    page = Page(reports.report(Record(**{name: getattr(whole, name) for name in kept}), tmp_path))
    assert page.said.count("Adapter") >= 1 and "None" not in page.said and "nan" not in page.said
    assert (WELL in page.said) == bool(kept & {"measured", "drawn", "memorisation"})


def test_pictures_that_are_gone_leave_no_hole(tmp_path: Path) -> None:
    record = made_record(tmp_path)
    (tmp_path / "evidence" / "drawn-00.png").write_bytes(b"torn")
    (tmp_path / "evidence" / "01.png").unlink()
    page = Page(reports.report(record, tmp_path))
    assert page.tags.count("img") == 3 + 1  # the strip; its picture of step 50 is the largest now
    assert "01.png" in page.said


def test_pictures_of_elsewhere_are_left_out(tmp_path: Path) -> None:
    made_run(tmp_path / "run")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    (tmp_path / "run" / "link.png").symlink_to(secret)
    for name in ("../secret.png", str(secret), "link.png", "a\0b", "x" * 5000):
        assert below(tmp_path / "run", name) is None
    assert Pictures(tmp_path / "run").drawn("../secret.png", "") == ""


def test_taught_pictures_are_found_where_the_run_had_them(tmp_path: Path) -> None:
    run, taught = made_run(tmp_path / "run"), tmp_path / "taught"
    taught.mkdir()
    Image.new("RGB", (8, 8), "red").save(taught / "02.png")
    assert Pictures(run).learned("02.png", "") == ""
    (run / "config.json").write_text(json.dumps({"data": {"instance_images": str(taught)}}))
    assert "data:image/webp" in Pictures(run).learned("02.png", "")


def test_a_report_is_made_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = made_record(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "evidence" / "drawn-00.png")
    monkeypatch.setattr(reports, "SIZES", (Size(96, 96, 90), Size(16, 16, 10)))
    whole = len(reports.report(record, tmp_path))
    smallest = len(reports._page(record, Pictures(tmp_path, Size(16, 16, 10))))
    monkeypatch.setattr(reports, "LIMIT", (whole + smallest) // 2)
    assert smallest <= len(reports.report(record, tmp_path)) <= reports.LIMIT < whole


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"has no evidence\.json; measure it: pigment judge"):
        reports.write_report(tmp_path)


def test_settings_that_differ_stand_before_the_fold(tmp_path: Path) -> None:
    text = reports.report(made_record(tmp_path), tmp_path)
    before, _, folded = text.partition("How it was made")[2].partition("All settings")
    assert 'title="run.steps"' in before and "100 <small>usually" in before
    assert 'title="run.steps"' not in folded and 'title="optimizer.optimizer"' in folded


def test_another_step_than_the_recommended_one_is_said(tmp_path: Path) -> None:
    asked = "The adapter is of step 100, as it was asked for."
    assert asked not in reports.report(made_record(tmp_path), tmp_path)
    assert asked in reports.report(made_record(tmp_path, drawn=seen(100, "evidence/drawn-00.png")), tmp_path)


def test_a_strip_keeps_first_last_and_recommended() -> None:
    many = [seen(step, "a") for step in range(0, 401, 10)]
    steps = [one.step for one in few(many, 270)]
    assert len(steps) <= 12 and steps == sorted(steps)
    assert {0, 270, 400} <= set(steps)
    assert [one.step for one in few(many[:5], None)] == [0, 10, 20, 30, 40]


def test_curves_are_changes_from_the_base(tmp_path: Path) -> None:
    text = reports.report(made_record(tmp_path), tmp_path)
    assert "unseen pictures, step 100: −50%" in text and "its class and other things, step 100: +50%" in text
    without = made_record(tmp_path, measured=(losses(50), losses(100)))
    assert "unseen pictures, step 100: 0.1000" in reports.report(without, tmp_path)


def test_a_chart_lies_within_its_square() -> None:
    line = Line("a", {0: 1.0, 50: float("nan"), 100: 3.0, 200: -2.0})
    text = Chart("t", [line], mark=200).html()
    numbers = [float(n) for points in re.findall(r'points="([^"]+)"', text) for n in re.split("[ ,]", points)]
    assert numbers and all(0 <= number <= 1000 for number in numbers) and "nan" not in text
    assert 'class="dot c0 taken"' in text and "recommended" in text
    assert Chart("t", [Line("a", {5: 1.0})]).html() == "" and Chart("t", []).html() == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-40, 12), (0.123, 0.124), (0, 3e-9), (-5e6, 9e6)])
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_next_to_nothing_doesnt_look_like_much() -> None:
    span = span_of([Line("a", {0: 0.300, 10: 0.301})], least=0.1)
    assert span is not None and span.high - span.low > 0.1


def test_figures_as_words() -> None:
    assert [percent(value) for value in (0, -12.4, 3.456, 9.99)] == ["0%", "−12%", "+3.5%", "+10%"]
    assert running_mean({1: 2.0, 2: 2.0, 3: float("inf"), 4: 2.0}) == {1: 2.0, 2: 2.0, 4: pytest.approx(2.0)}
    many = thinned(dict.fromkeys(range(1000), 1.0))
    assert len(many) == 160 and all(value == 1.0 for _, value in many)


def test_the_choice_stands_on_its_line(tmp_path: Path) -> None:
    chosen = Choice(step=0, last=0, rule="last", reason=HOSTILE)
    assert HOSTILE in Page(reports.report(Record(choice=chosen), tmp_path)).said
