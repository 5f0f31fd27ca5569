"""The charts of a run: every point inside, what was measured told apart, the recommended step marked."""

from __future__ import annotations

import re

from studio import charts

MEASURED = {
    0: {"teaching": 0.2, "held_out": 0.5, "class": 0.1},
    50: {"teaching": 0.1, "held_out": 0.4, "class": 0.11},
    100: {"teaching": 0.05, "held_out": float("nan"), "class": 0.13},
}


def points(chart: str, style: str) -> list[tuple[float, float]]:
    [line] = re.findall(rf'<polyline class="{style}" points="([^"]*)"', chart)
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]


def test_sets_are_shown_by_what_they_changed_since_before() -> None:
    chart = charts.measured_chart(MEASURED, 50, 100)
    assert "nan" not in chart
    halved, lowered, worse = (points(chart, f"set {name}") for name in ("teaching", "held_out", "class"))
    assert halved[0] == lowered[0] == worse[0], "all begin at the same place"
    assert halved[1][1] > lowered[1][1] > lowered[0][1] > worse[1][1]
    assert len(lowered) == 2
    assert 0 <= min(y for _, y in worse) and max(y for _, y in halved) <= 230
    assert "its pictures: -75% at step 100" in chart and "other things: +30%" in chart
    assert chart.count('class="pgt-key"') == 3


def test_the_recommended_step_is_marked() -> None:
    x = points(charts.measured_chart(MEASURED, 50, 100), "set teaching")[1][0]
    marked = charts.measured_chart(MEASURED, 50, 100)
    assert f'<line class="pgt-mark" x1="{x}"' in marked and ">step 50<" in marked
    assert "pgt-mark" not in charts.measured_chart(MEASURED, 0, 100)


def test_what_was_measured_once_is_no_chart() -> None:
    assert charts.measured_chart({}, 0, 100) == ""
    assert charts.measured_chart({0: MEASURED[0]}, 0, 100) == ""
    assert charts.measured_chart({0: {"class": 0.0}, 50: {"class": 0.1}}, 0, 100) == "", "no share of nothing"


def test_the_loss_chart_holds_every_point_inside_and_nothing_of_nan() -> None:
    losses = {step: 1 / step for step in range(1, 400)} | {400: float("nan"), 401: float("inf")}
    chart = charts.loss_chart(losses, {100: 0.2, 200: 0.1}, 500)
    assert "nan" not in chart and "inf" not in chart
    found = [point for style in ("raw", "mean", "held") for point in points(chart, style)]
    assert len(found) > 160
    assert all(0 <= x <= 600 and 0 <= y <= 190 for x, y in found)
    assert charts.loss_chart({}, {}, 0) == ""
