"""`pigment demo` on the embedded base, with trainings of two steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipelines import elsewhere
from pipelines.errors import ConfigError, PictureError, StudioError
from studio import demo, demo_pictures, trials
from studio.examples import EXAMPLES
from trainers import config as train_config

SHORT = {"steps": 2, "num_class_images": 2, "checkpoint_every": 1, "preview_every": 0, "evaluate_every": 0}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sketch preset cut to two steps, and a grid of two rows."""
    for kind in ("subject", "style"):
        monkeypatch.setitem(train_config.PRESETS, ("sketch", kind), SHORT)
    # Every form is walked by the tests of export; here two that plain diffusers loads.
    forms = {form: elsewhere.LIBRARIES[form] for form in ("kohya", "diffusers")}
    monkeypatch.setattr(elsewhere, "LIBRARIES", forms)
    monkeypatch.setattr(demo_pictures, "ROWS", (demo_pictures.ROWS[0], demo_pictures.ROWS[-1]))


def _demo(out: Path, *more: str) -> int:
    return demo.main(["--out", str(out), "--samples", "1", *more])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_way(short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _demo(tmp_path) == 0
    report = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert set(demo.SHOWN) <= set(report)
    assert set(report) >= {"date", "machine", "versions", "command", "seed", "cpu_seconds", "resumed"}
    assert report["resumed"] is False and report["seconds"] > 0
    assert report["command"] == "pigment demo --samples 1"
    assert str(tmp_path) not in json.dumps(report)
    names = ("mascot", "blueprint")
    files = {f"{name}.{form}.safetensors" for name in names for form in ("kohya", "diffusers")}
    assert files <= set(report["export"]) and files <= {path.name for path in tmp_path.iterdir()}
    assert float(report["export_psnr_db"]) >= 35
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 8 * 64 and grid.height > 2 * 64
    for name in names:
        with Image.open(tmp_path / f"{name}-before-after.png") as grid:
            assert grid.width > 5 * 64 and grid.height > 3 * 64
    assert all(len(row["sha256"]) == 64 for row in report["adapters"].values())
    assert f"look at {tmp_path / 'grid.png'}" in capsys.readouterr().out


def test_an_ended_demo_is_begun_anew_and_an_interrupted_one_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert demo._begin(out) is False
    (out / "runs" / "mascot").mkdir(parents=True)
    assert demo._begin(out) is True
    assert (out / "runs" / "mascot").is_dir()
    (out / "demo.json").write_text("{}")
    assert demo._begin(out) is False
    assert not list(out.iterdir())
    (out / "runs").mkdir()
    assert demo._begin(out, fresh=True) is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "sketchy"], "sketch"),
        (["--subject", "mascott"], "mascot"),
        (["--style", "mascot"], "blueprint"),
        (["--samples", "0"], "1 or more"),
        (["--seed", "-1"], "seed"),
        (["--base", "nowhere/at/all"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert demo.main(["--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert not out.exists()


def test_a_set_that_lacks_a_picture_is_named(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "examples" / "mascot" / "held_out" / "03.png").unlink()
    with pytest.raises(PictureError, match="mascot"):
        trials.choose("subject", "mascot", tmp_path / "examples")


def test_columns_show_nothing_that_was_taught() -> None:
    subject, style = trials.choose("subject", "mascot"), trials.choose("style", "blueprint")
    assert len(trials.columns(subject, style)) == len(subject.scenes) + len(style.unseen) >= 6
    taught = [*subject.example.captions.values(), *style.example.captions.values()]
    assert not any(scene in caption for scene in subject.scenes for caption in taught)
    assert not any(thing in caption for thing in style.unseen for caption in taught)


def test_a_prompt_names_an_adapter_exactly_where_it_takes_part() -> None:
    subject, style = trials.choose("subject", "mascot"), trials.choose("style", "blueprint")
    for _, subject_weight, style_weight in demo_pictures.ROWS:
        asked = trials.prompts(subject, style, (subject_weight, style_weight))
        first, last = asked[0], asked[-1]
        assert (subject.example.trigger in first) == (subject_weight != 0)
        assert subject.example.trigger not in last
        assert all((style.example.trigger in prompt) == (style_weight != 0) for prompt in asked)
    called = trials.prompts(subject, style, (1.0, 0.0))[0]
    assert called == f"{subject.example.instance_prompt} {subject.scenes[0]}"


def test_a_training_ends_with_the_demo_that_asked_for_it(short: None, tmp_path: Path) -> None:
    options = demo.parser().parse_args(["--out", str(tmp_path)])
    config = demo.training(trials.choose("subject", "mascot"), options)
    with pytest.raises(StudioError, match="ended"):
        demo.teach(config, starter=-1)
    assert not (config.run.output / "adapter.safetensors").exists()


def test_only_an_uninterrupted_demo_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "RECORD", tmp_path / "bench" / "results" / "demo.json")
    with pytest.raises(ConfigError, match="clone"):
        demo._record({"resumed": False}, "{}\n")
    (tmp_path / "bench").mkdir()
    with pytest.raises(ConfigError, match="again"):
        demo._record({"resumed": True}, "{}\n")
    assert not demo.RECORD.exists()
    demo._record({"resumed": False}, "{}\n")
    assert demo.RECORD.read_text() == "{}\n"


def test_the_command_names_choices_and_no_folders(tmp_path: Path) -> None:
    folder = str(tmp_path)
    options = demo.parser().parse_args(["--out", folder, "--base", folder, "--seed", "3", "--record"])
    assert demo.command_line(options) == "pigment demo --seed 3 --record"
