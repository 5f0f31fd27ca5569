"""`pigment bench evidence`: runs that are meant, figures by hand, and nothing run twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainers.bench import evidence, evidence_runs
from trainers.bench.concepts import CONCEPTS, TAUGHT
from trainers.bench.evidence_runs import MEANT, POOLS, RUNS, Place, Run, config, pool, run_all
from trainers.bench.evidence_table import as_markdown, as_text, outcome, said, summary
from trainers.bench.evidence_truth import TRUTH_NAME
from trainers.evidence.record import Loss, Measured, Record, write_record

RUN = RUNS["bramu-usual"]


def leave(place: Place, run: Run, held_out: dict[int, float], truth: dict[int, float]) -> None:
    """What a run that was scored has left, as far as it is read."""
    measured = tuple(
        Measured(step=step, losses={"held_out": Loss(mean=loss)}) for step, loss in held_out.items()
    )
    folder = place.run(run)
    folder.mkdir(parents=True)
    write_record(folder, Record(measured=measured))
    (folder / TRUTH_NAME).write_text(json.dumps({"scores": truth}), encoding="utf-8")


def test_the_table_has_enough_runs_of_every_kind_over_a_wide_range() -> None:
    for name, least in zip(POOLS, (12, 24, 24), strict=True):
        runs = pool(name)
        assert len(runs) >= least and {run.meant for run in runs} == set(MEANT)
        assert all(CONCEPTS[run.concept].pool == name and run.pictures <= TAUGHT for run in runs)
        rates = [run.fields["learning_rate"] for run in runs]
        assert max(rates) / min(rates) >= 10
        assert {run.fields.get("held_out", 0) > 0 for run in runs} == {True, False}
        assert {run.fields.get("prior_weight", 1) > 0 for run in runs} == {True, False}
        assert {CONCEPTS[run.concept].kind for run in runs} == {"subject", "style"}


def test_every_run_is_a_config_that_keeps_ten_candidates_or_more(tmp_path: Path) -> None:
    for run in RUNS.values():
        made = config(run, Place(tmp_path))
        every = made.run.evaluate_every
        assert made.run.steps == run.steps and 10 <= -(-run.steps // every) <= 16, run.id
        assert made.evidence.candidates > 16


def test_outcomes_are_what_a_hand_finds(tmp_path: Path) -> None:
    place = Place(tmp_path)
    leave(place, RUN, {0: 0.5, 10: 0.3, 20: 0.2, 30: 0.4}, {0: 0.5, 10: 0.25, 20: 0.252, 30: 0.3})
    row = outcome(RUN, place.run(RUN))
    assert row is not None
    assert (row["chosen"], row["best"], row["last"], row["rule"]) == (20, 10, 30, "held_out")
    assert row["regret"]["chosen"] == pytest.approx(0.008) and row["regret"]["last"] == pytest.approx(0.2)
    assert row["share_of_gain"]["last"] == pytest.approx(0.2)
    assert row["within_2_percent"] and not row["last_within_2_percent"]
    other = {**row, "regret": {"chosen": 0.032, "last": 0.0}, "within_2_percent": False,
             "last_within_2_percent": True, "share_of_gain": None}  # fmt: skip
    figures = summary({"a": row, "b": other})
    assert (figures["runs"], figures["within_2_percent"], figures["last_within_2_percent"]) == (2, 1, 1)
    assert figures["mean_regret"] == pytest.approx(0.02) and figures["worst_regret"] == pytest.approx(0.032)
    assert figures["last_checkpoint_regret"] == pytest.approx(0.1)
    assert figures["last_share_of_gain_lost"] == pytest.approx(0.2)
    assert said(figures).startswith("1 of 2 recommended")
    assert as_markdown({"a": row, "b": other}).count("\n") == 4 and "NO" in as_text({"b": other})


def test_a_run_without_a_score_has_no_outcome(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert outcome(RUN, place.run(RUN)) is None
    leave(place, RUN, {0: 0.5}, {0: 0.5})
    assert outcome(RUN, place.run(RUN)) is None  # nothing was measured after the first step


def test_what_was_scored_is_judged_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path / "runs")
    leave(place, RUN, {0: 0.5, 10: 0.2, 20: 0.3}, {0: 0.5, 10: 0.25, 20: 0.4})
    monkeypatch.setattr(evidence_runs, "work", None)  # what isn't there can't be called
    assert [(run.id, why) for run, why in run_all([RUN], place.folder)] == [(RUN.id, "")]
    out, table = tmp_path / "out.json", tmp_path / "table.md"
    arguments = ["--pool", "dev", "--only", RUN.id, "--runs", str(place.folder), "--out", str(out)]
    assert evidence.main([*arguments, "--table", str(table)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert (report["runs"], report["within_2_percent"]) == (1, 1)
    assert report["mean_regret"] == 0.0 and report["last_checkpoint_regret"] == pytest.approx(0.6)
    assert report["table"][RUN.id]["chosen"] == 10 and "machine" in report
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    assert RUN.id in table.read_text(encoding="utf-8") and "1 of 1" in capsys.readouterr().out


def test_a_record_keeps_what_other_measurements_have_left(tmp_path: Path) -> None:
    path = tmp_path / "results" / "evidence.json"
    path.parent.mkdir()
    path.write_text('{"rules": {"memorised": {"hits": 2}}, "runs": 1}', encoding="utf-8")
    evidence.merge({"runs": 26, "mean_regret": 0.01}, path)
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert kept == {"rules": {"memorised": {"hits": 2}}, "runs": 26, "mean_regret": 0.01}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "orpik-usua"], "did you mean 'orpik-usual'"),
        (["--only", "bramu-usual"], "has no run"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--table", "x.csv"], "ending in .md"),
        (["--record", "--short"], "all runs of pool proof"),
        (["--record", "--pool", "dev"], "all runs of pool proof"),
        (["--record", "--pool", "test"], "all runs of pool proof"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert evidence.main([*arguments, "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_record_is_of_every_run_of_its_pool_and_adds_up() -> None:
    record = json.loads(evidence.RECORD.read_text(encoding="utf-8"))
    rows = record["table"]
    assert list(rows) == [run.id for run in pool("proof")]
    assert record["runs"] == len(rows) >= 20
    assert record["command"] == "pigment bench evidence --record"
    near = [id for id, row in rows.items() if row["score"]["chosen"] <= 1.0201 * row["score"]["best"]]
    assert near == [id for id, row in rows.items() if row["within_2_percent"]]
    assert record["within_2_percent"] == len(near)
    regrets = [row["score"]["last"] / row["score"]["best"] - 1 for row in rows.values()]
    assert record["last_checkpoint_regret"] == pytest.approx(sum(regrets) / len(regrets), abs=2e-3)
    assert record["mean_regret"] < record["last_checkpoint_regret"]
