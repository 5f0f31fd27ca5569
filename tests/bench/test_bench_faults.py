"""`pigment bench faults`: what is counted, and that each run is made for a rule."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import ConfigError
from trainers.bench import evidence_runs, fault_runs, faults
from trainers.bench.concepts import CONCEPTS, concept
from trainers.bench.evidence_runs import POOLS
from trainers.bench.evidence_truth import TRUTH_NAME
from trainers.bench.fault_runs import FAULT_RUNS, MAKINGS, SHARED, WORSE, config, pool
from trainers.evidence.record import Loss, Measured, Onset, Record, Seen, write_record
from trainers.evidence.rules import RULES
from trainers.evidence.uniform import alike

BROKEN = Record(onset=Onset(step=3, where="loss", phase="forward", words="Broke."))
UNIFORM = Record(alike=0.99)
WELL = Record(alike=0.1)


@pytest.mark.parametrize("name", POOLS)
def test_every_rule_has_two_runs_in_each_pool_on_concepts_of_that_pool(name: str) -> None:
    runs = pool(name)
    counts = Counter(run.fault for run in runs)
    for fault, ids in SHARED.items():
        counts[fault] += sum(evidence_runs.RUNS[id].pool == name for id in ids)
    too_much = sum(run.meant == "too much" for run in evidence_runs.pool(name))
    counts.update(dict.fromkeys(WORSE, too_much))
    assert set(counts) == set(RULES) and min(counts.values()) >= 2
    assert all(CONCEPTS[run.concept].pool == name for run in runs)
    assert {run.making for run in runs} == set(MAKINGS)


@pytest.mark.parametrize("id", FAULT_RUNS)
def test_every_run_has_a_valid_config(id: str, tmp_path: Path) -> None:
    run = FAULT_RUNS[id]
    found = config(run, tmp_path)
    assert found.run.steps == run.steps and found.run.threads == 1
    assert config(run.shortened(3), tmp_path).run.steps == 3


def test_unknown_names_are_refused_with_the_nearest() -> None:
    assert [run.fault for run in pool("test", ["memorised"])] == ["memorised", "memorised"]
    with pytest.raises(ConfigError, match="memorised"):
        pool("test", ["memorized"])
    with pytest.raises(ConfigError, match="test"):
        pool("tests")


def test_pictures_are_made_as_the_table_says() -> None:
    chance = [np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8) for seed in range(3)]
    texts = ["a glimo toy", "a glimo toy at night", "a glimo toy on grass"]
    pictures = [
        (Image.fromarray(one).resize((64, 64)), text) for one, text in zip(chance, texts, strict=True)
    ]
    row = concept("glimo")
    captions = {name: [text for _, text in make(pictures, row)] for name, make in MAKINGS.items()}
    assert captions["nameless"] == ["a toy", "a toy at night", "a toy on grass"]
    assert captions["mostly-nameless"] == ["a glimo toy", "a toy at night", "a toy on grass"]
    same = alike([picture for picture, _ in MAKINGS["one-layout"](pictures, row)])
    assert same is not None and same > RULES["dataset_too_uniform"].threshold


def test_hits_misses_and_false_alarms_are_counted_by_rule() -> None:
    runs = {
        "one": ("not_finite", BROKEN),
        "two": ("not_finite", WELL),
        "three": ("dataset_too_uniform", UNIFORM),
    }
    rows = faults.table(runs, {"a": WELL, "b": UNIFORM, "c": Record()})
    assert rows["not_finite"] == {
        "hits": 1, "misses": 1, "false_alarms": 0, "notes": 0, "good": 0,
    }  # fmt: skip
    assert rows["dataset_too_uniform"] == {
        "hits": 1, "misses": 0, "false_alarms": 1, "notes": 0, "good": 2,
    }  # fmt: skip
    assert set(rows) == set(RULES)
    assert "| Pictures too alike | 1 | 1 | 1 of 2 |" in faults.as_markdown(rows)
    assert len(faults.as_text(rows).splitlines()) == len(RULES) + 1
    each = faults.found_in(runs, {"b": UNIFORM})
    assert each["one"]["found"] == ["not_finite"]
    assert each["good b"] == {"fault": "", "found": ["dataset_too_uniform"],
                              "figures": {"dataset_too_uniform": 0.99}}  # fmt: skip


def test_what_is_but_a_note_in_a_good_run_is_counted_as_such() -> None:
    seen: dict[str, Any] = {"drawn": Seen(step=1, drift=0.5), "base": Seen(step=0, diversity=0.4)}
    runs = {
        kind: Record(**seen, run={"kind": kind}, config={"data": {"prior_weight": 0.0}})
        for kind in ("style", "subject")
    }
    rows = faults.table({}, runs)
    row = rows["style_leaks"]
    assert (row["false_alarms"], row["notes"], row["good"]) == (2, 1, 2)
    assert "| 2 of 2 (1 a note) |" in faults.as_markdown(rows)


def test_runs_that_are_too_much_count_by_their_score_on_pictures_they_never_knew(tmp_path: Path) -> None:
    place = evidence_runs.Place(tmp_path)
    falling, rising = (0.3, 0.25, 0.2), (0.3, 0.25, 0.26)
    runs = {
        "rafsu-long": (0.4, 0.3, 0.35, rising), "minqua-long": (0.4, 0.3, 0.301, falling),
        "dobrix-hot": (0.4, 0.3, 0.4, rising), "neon-hot": (0.4, 0.3, 0.3, rising),
        "stencil-few": (0.4, 0.3, 0.4, falling), "dobrix-brief": (0.4, 0.35, 0.3, falling),
        "glimo-usual": (0.4, 0.3, 0.3, falling), "neon-usual": (0.4, 0.3, 0.35, falling),
    }  # fmt: skip
    for id, (*losses, own) in runs.items():
        folder = place.run(evidence_runs.RUNS[id])
        folder.mkdir(parents=True)
        measured = tuple(
            Measured(step=50 * index, losses={"teaching": Loss(mean=loss)}) for index, loss in enumerate(own)
        )
        write_record(folder, WELL.model_copy(update={"measured": measured}))
        truth = {"scores": {str(50 * index): loss for index, loss in enumerate(losses)}}
        (folder / TRUTH_NAME).write_text(json.dumps(truth))
    found = {id: fault for id, (fault, _) in faults.shared(tmp_path, "test").items()}
    assert found == {
        "rafsu-long": "rate_too_high", "dobrix-hot": "rate_too_high", "stencil-few": "over_trained",
        "dobrix-brief": "under_trained",
    }  # fmt: skip
    assert set(faults.ordinary(tmp_path, "test")) == {"glimo-usual"}
    assert set(faults.shared(tmp_path, "test", ["over_trained"])) == {"stencil-few"}
    assert faults.shared(tmp_path, "dev") == {}


def test_figures_are_kept_beside_those_of_other_measurements(tmp_path: Path) -> None:
    path = tmp_path / "results" / "evidence.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"runs": 30, "rules": {"old": 1}}))
    report = {"rules": {"memorised": {}}, "faults": {}, "date": "", "machine": {}, "versions": {}}
    faults.merge({**report, "command": "c"}, path)
    kept = json.loads(path.read_text())
    assert kept["runs"] == 30 and kept["rules"] == {"memorised": {}} and kept["faults_of"]["command"] == "c"


def test_what_lies_there_is_judged_without_running_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fault_runs, "work", lambda *_: pytest.fail("ran again"))
    for run in pool("proof", ["not_finite"]):
        folder = tmp_path / "faults" / "proof" / run.id
        folder.mkdir(parents=True)
        write_record(folder, BROKEN)
    good = next(run for run in evidence_runs.pool("proof") if run.meant == "well")
    folder = evidence_runs.Place(tmp_path / "good").run(good)
    folder.mkdir(parents=True)
    write_record(folder, UNIFORM)
    where = ["--runs", str(tmp_path / "faults"), "--ordinary", str(tmp_path / "good")]
    code = faults.main([*where, "--only", "not_finite", "--out", str(tmp_path / "out.json"), "--json"])
    found = json.loads((tmp_path / "out.json").read_text())["rules"]
    assert code == 0, capsys.readouterr()
    assert found["not_finite"]["hits"] == 2 and found["dataset_too_uniform"]["false_alarms"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--record", "--short"], "all runs of pool proof"),
        (["--record", "--ordinary", "nowhere"], "pigment bench evidence"),
        (["--jobs", "0"], "at least 1"),
        (["--table", "x.txt"], ".md"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
