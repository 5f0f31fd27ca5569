"""`pigment bench methods`, a step of each kind of result, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainers.bench import methods
from trainers.bench.method_table import as_markdown, as_picture, pictures_grid
from trainers.bench.teaching import FIGURES, Task, lay_out, work


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """One step on the embedded base, and one picture per scene."""
    folder = tmp_path_factory.mktemp("methods")
    example = lay_out("mascot", folder / "pictures")
    return Task(
        method="lora", example=example, runs=folder / "runs", base="pocket", steps=1, rank=2, batch_size=1,
        samples=1, seed=0, device="cpu",
    )  # fmt: skip


def test_a_method_is_taught_judged_and_turned_into_lora(task: Task) -> None:
    found, shown = work(task)
    assert tuple(found) == FIGURES
    assert found["trainable_parameters"] > 1000 and found["seconds"] > 0 and found["file_bytes"] > 1000
    assert found["lora_export_error"] < 1e-3 and found["held_out_loss"] != found["base_held_out_loss"]
    assert [picture.size for picture in shown] == [(64, 64)]
    table = as_markdown(
        {"lora": found}, {"image_similarity": 0.5, "prompt_similarity": 0.5}, {"lora": "LoRA"}
    )
    assert table.count("\n") == 4 and f"{found['trainable_parameters']:,}" in table
    picture = as_picture({"lora": found}, {}, {"lora": "LoRA", "base": "base"})
    assert picture.width > 300
    assert pictures_grid({"lora": shown}, {"lora": "LoRA"}).width > 64


def test_a_method_that_fails_says_so_and_costs_no_other(task: Task) -> None:
    from dataclasses import replace

    found, shown = work(replace(task, base="nowhere/at/all", device="cpu"))
    assert "nowhere" in found["failed"] and shown == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "loraa"], "did you mean 'lora'"),
        (["--steps", "0"], "--steps is 0"),
        (["--table", "x.csv"], "ending in .md or .png"),
        (["--grid", "x.md"], "ending in .png"),
        (["--subject", "mascott"], "mascot"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert methods.main([*arguments, "--out", str(tmp_path / "out.json")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_the_record_has_every_method_and_figure() -> None:
    from pipelines.methods import TUNINGS

    record = json.loads(methods.RECORD.read_text(encoding="utf-8"))
    assert list(record["methods"]) == list(TUNINGS)
    for method, found in record["methods"].items():
        assert set(FIGURES) <= set(found), method
        assert found["held_out_loss"] < found["base_held_out_loss"], method
