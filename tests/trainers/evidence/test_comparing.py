"""Runs beside each other: the best marked where it means something, settings that differ, the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ConfigError, StudioError
from tests.made_runs import HOSTILE, made_record, made_run, seen
from tests.trainers.evidence.test_report import Page
from trainers.evidence.comparing import Comparison, as_text, compare
from trainers.evidence.record import Record
from trainers.evidence.report_charts import COLOURS
from trainers.evidence.report_comparison import comparison_page


def best(found: Comparison) -> dict[str, tuple[bool, ...]]:
    return {row.measure.title: row.best for row in found.rows}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Record, Record]:
    """Two runs of the same pictures: the second is more alike, and keeps less to the prompt."""
    one = made_record(tmp_path)
    config = {**one.config, "adapter": {**one.config["adapter"], "rank": 32}}
    drawn = seen(50, "evidence/drawn-00.png", image_similarity=0.9, prompt_similarity=0.1)
    return one, one.model_copy(update={"config": config, "drawn": drawn})


def test_the_best_is_marked_by_what_is_better(pair: tuple[Record, Record]) -> None:
    found = compare(pair)
    assert best(found)["Likeness"] == (False, True) and best(found)["Keeps to the prompt"] == (True, False)
    assert best(found)["Error on unseen pictures"] == (False, False)  # the same
    assert "Structure" not in best(found)  # not measured
    assert [run.name for run in found.runs] == ["Zib", "Zib 2"]
    assert found.differing == {("adapter", "rank"): ("4", "32")} and ("run", "steps") in found.alike
    told = as_text(found)
    assert "0.90 *" in told and "32" in told and found.note == ""


def test_runs_of_other_pictures_arent_ranked_by_them(pair: tuple[Record, Record]) -> None:
    other = pair[1].model_copy(update={"run": {**pair[1].run, "data_sha256": "00" * 32}})
    found = compare([pair[0], other])
    assert not any(best(found)["Likeness"]) and best(found)["Keeps to the prompt"] == (True, False)
    assert "other pictures" in found.note and found.note in as_text(found)


def test_errors_are_taken_at_the_adapters_step(pair: tuple[Record, Record]) -> None:
    last = pair[1].model_copy(update={"drawn": seen(100, "a")})
    row = next(
        row for row in compare([pair[0], last]).rows if row.measure.title == "Error on unseen pictures"
    )
    assert row.words() == ["−25%", "−50%"] and row.best == (False, True)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_two_to_six_fit(pair: tuple[Record, Record], count: int) -> None:
    with pytest.raises(ConfigError, match=f"got {count} run.*expected 2 to {COLOURS}"):
        compare([pair[0]] * count)


def test_a_folder_without_evidence_is_named(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(StudioError, match=r"'old' has no evidence\.json"):
        compare([made_run(tmp_path / "run"), tmp_path / "old"])


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / str(number), HOSTILE) for number in range(3)]
    path = tmp_path / "compare.html"
    path.write_text(comparison_page(compare([*runs, Record()])), encoding="utf-8")
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags and not page.handlers
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert HOSTILE in page.said and f"{HOSTILE} 3" in page.said and "As they learned" in page.said
    assert page.tags.count("img") == 3 * (1 + 3)  # of each the largest one and a strip
    assert page.said.count("Each run, in one scale") == 1
